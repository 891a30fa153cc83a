"""AWRS-SMC: resampling by itself, a toy with a dead end whose posterior is known, then streams of small models."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from statistics import fmean, stdev
from typing import Any

import msgspec
import pytest
import torch

from engines.chi_square import fit
from engines.constrained.awrs_smc import Params, ancestors, effective_size, sequential_monte_carlo
from engines.constrained.predicates import Checked, Judge
from engines.events import Candidates, Compiled, Event, Forward, Note, Particle, Particles, Score, Trials, committed
from engines.grammars.constraint import DeadEnd
from engines.models.causal import CausalModel
from engines.runner import Run, run
from tests.engines.constrained.letters import (
    LANGUAGE,
    MASKED,
    MASS,
    TARGET,
    Anything,
    LetterModel,
    Words,
    dead_end_model,
)
from tests.engines.laws import check_stream, finished, only, untimed
from tests.engines.toy import toy_run

RESAMPLING = ("multinomial", "systematic", "stratified", "residual")


def on_a_toy(model: LetterModel, judge: Judge, *, seed: int = 0, tokens: int = 8, **params: Any) -> list[Event]:
    job = toy_run(model, model.letters[0], seed=seed, max_new_tokens=tokens)
    events = list(sequential_monte_carlo(job, Params(**params), Checked(judge, model.vocabulary)))
    assert job.text() == next(score.text for score in only(events, Score) if score.chosen)
    return events


def with_a_dead_end(seed: int, **params: Any) -> list[Event]:
    return on_a_toy(dead_end_model(), Words(*LANGUAGE), seed=seed, **params)


def evidence(events: list[Event]) -> float:
    return math.exp(next(score.value for score in only(events, Score) if score.name == "log evidence"))


def posterior(events: list[Event]) -> dict[str, float]:
    return {score.text: score.value for score in only(events, Score) if score.name == "posterior"}


def distance(law: dict[str, float]) -> float:
    """Total variation distance from the model given the language."""
    return sum(abs(law.get(text, 0.0) - share) for text, share in TARGET.items()) / 2


def decode(model: CausalModel, prompt: str = "What is the sea? ", **request: Any) -> list[Event]:
    params = {"predicate": "no letter e", **request.pop("params", {})}
    return list(run(model, "awrs-smc", prompt, params=params, **{"max_new_tokens": 12, **request}))


def still(events: list[Event]) -> list[Event]:
    """Without anything that depends on the clock."""
    events = untimed(events)
    return [msgspec.structs.replace(event, seconds=0.0) if isinstance(event, Compiled) else event for event in events]


def log_weight(particle: Particle) -> float:
    return -math.inf if particle.log_weight is None else particle.log_weight


@pytest.mark.parametrize(
    ("weights", "size"),
    [([1, 1, 1, 1], 4), ([1, 0, 0], 1), ([3, 1], 1.6), ([0, 0], 0)],
)
def test_the_effective_number_by_hand(weights: list[float], size: float) -> None:
    logs = [math.log(weight) - 2000 if weight else -math.inf for weight in weights]
    assert effective_size(logs) == pytest.approx(size)


@pytest.mark.parametrize("resampling", RESAMPLING)
def test_everyone_is_expected_to_have_heirs_by_weight_and_the_dead_have_none(resampling: Any) -> None:
    weights = torch.tensor([0.45, 0.0, 0.3, 0.05, 0.2], dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    drawn = [Counter(ancestors(resampling, weights, rng)) for _ in range(3000)]
    for index, weight in enumerate(weights.tolist()):
        counts = [counter[index] for counter in drawn]
        assert fmean(counts) == pytest.approx(5 * weight, abs=4 * stdev(counts) / math.sqrt(3000) + 1e-12)
        if resampling in ("systematic", "residual"):
            assert min(counts) >= math.floor(5 * weight)
        if resampling == "systematic":
            assert max(counts) <= math.ceil(5 * weight)
        if resampling == "stratified":
            assert max(counts) - 5 * weight < 2
    assert all(counter.total() == 5 for counter in drawn)


@pytest.mark.parametrize("resampling", RESAMPLING)
def test_whole_shares_are_not_left_to_chance_except_by_multinomial_draws(resampling: Any) -> None:
    weights = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64)
    rng = torch.Generator().manual_seed(1)
    drawn = {tuple(sorted(ancestors(resampling, weights, rng))) for _ in range(100)}
    assert (drawn == {(0, 0, 1, 2)}) == (resampling != "multinomial")


def test_one_particle_is_masked_sampling() -> None:
    texts = Counter(next(iter(posterior(with_a_dead_end(seed, n_particles=1)))) for seed in range(400))
    assert fit(texts, MASKED).consistent


@pytest.mark.parametrize(("particles", "runs", "away"), [(1, 600, 0.820), (5, 300, 0.521), (20, 100, 0.111)])
def test_with_more_particles_the_posterior_comes_to_the_model_given_the_language(
    particles: int, runs: int, away: float
) -> None:
    """The mean weight is .109 for every number of particles; the distance falls from .82."""
    seen = [with_a_dead_end(seed, n_particles=particles, estimator="recursive") for seed in range(runs)]
    masses = [evidence(events) for events in seen]
    assert fmean(masses) == pytest.approx(MASS, abs=4 * stdev(masses) / math.sqrt(runs))
    laws = [posterior(events) for events in seen]
    average = {text: fmean(law.get(text, 0.0) for law in laws) for text in LANGUAGE}
    assert distance(average) == pytest.approx(away, abs=0.06)
    if particles == 20:
        tests = sum(trials.tests for events in seen for trials in only(events, Trials))
        assert tests / runs / particles == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize("resampling", RESAMPLING)
def test_the_mean_weight_is_unbiased_whatever_the_resampling(resampling: str) -> None:
    masses = [
        evidence(with_a_dead_end(seed, n_particles=4, estimator="awrs", resampling=resampling, ess_threshold=1.0))
        for seed in range(400)
    ]
    assert fmean(masses) == pytest.approx(MASS, abs=4 * stdev(masses) / 20)


def test_without_weights_more_particles_do_not_help() -> None:
    laws = [posterior(with_a_dead_end(seed, n_particles=20, estimator="lcd")) for seed in range(40)]
    assert fmean(law.get("ax", 0.0) for law in laws) == pytest.approx(0.9, abs=0.05)


def test_the_posterior_merges_equal_texts_and_the_text_is_drawn_from_it() -> None:
    heaviest, taken = [], []
    for seed in range(150):
        events = with_a_dead_end(seed, n_particles=20, ess_threshold=0.0)
        law = posterior(events)
        scores = [score for score in only(events, Score) if score.name == "posterior"]
        assert len(law) == len(scores)
        assert sum(law.values()) == pytest.approx(1)
        assert sum(score.chosen for score in scores) == 1
        assert sum(score.parts["particles"] for score in scores) == 20
        best = max(scores, key=lambda score: score.value)
        if best.value < 0.95:
            heaviest.append(best.value)
            taken.append(best.chosen)
    error = math.sqrt(sum(share * (1 - share) for share in heaviest)) / len(heaviest)
    assert fmean(taken) == pytest.approx(fmean(heaviest), abs=4 * error)
    assert len(taken) > 50


def test_weights_are_the_parents_times_the_step_and_the_mean_after_resampling() -> None:
    renewed = 0
    for seed in range(30):
        events = with_a_dead_end(seed, n_particles=6, estimator="awrs")
        populations = only(events, Particles)
        steps = {(trials.position, trials.particle): trials.weight for trials in only(events, Trials)}
        for before, after in itertools.pairwise(populations):
            logs = [log_weight(particle) for particle in before.particles]
            mean = math.log(sum(map(math.exp, logs)) / len(logs))
            renewed += before.resampled
            assert before.resampled == (before.effective < 3)
            for particle in after.particles:
                was = mean if before.resampled else logs[particle.parent]
                step = steps.get((after.step, particle.id), 1.0)
                assert log_weight(particle) == pytest.approx(was + (math.log(step) if step else -math.inf))
                assert before.resampled or particle.parent == particle.id
                assert not before.resampled or before.particles[particle.parent].state != "dead"
        for population in populations:
            assert population.effective == pytest.approx(
                effective_size([log_weight(particle) for particle in population.particles])
            )
    assert renewed > 10


def test_parents_lead_back_to_the_texts_of_the_posterior() -> None:
    for seed in range(30):
        events = with_a_dead_end(seed, n_particles=6, ess_threshold=1.0)
        texts = [""] * 6
        for population in only(events, Particles):
            texts = [texts[particle.parent] + particle.text for particle in population.particles]
        alive = {
            text for text, one in zip(texts, only(events, Particles)[-1].particles, strict=True) if one.state != "dead"
        }
        assert alive == set(posterior(events))


def test_the_dead_have_no_heirs() -> None:
    """After a nothing allowed is possible; every heir is one of b."""
    rows = {"s": {"a": 0.5, "b": 0.5}, "a": {"z": 1.0}, "b": {"x": 1.0}, "x": {"x": 1.0}, "z": {".": 1.0}}
    model = LetterModel({**rows, ".": {".": 1.0}})
    died = 0
    for seed in range(20):
        params: dict[str, Any] = {"n_particles": 6, "ess_threshold": 1.0, "limit": "may be cut"}
        populations = only(on_a_toy(model, Words("ax", "bxxxx"), seed=seed + 100, tokens=4, **params), Particles)
        for before, after in itertools.pairwise(populations):
            states = [particle.state for particle in before.particles]
            died += states.count("dead")
            assert before.resampled == ("dead" in states)
            assert all(states[particle.parent] == "alive" for particle in after.particles)
    assert died > 20


def test_finished_texts_take_part_in_resampling() -> None:
    """a ends with .5, b goes on to x with .2: P(L) = .5 · .5 + .5 · .2 · .5 = .3, and a is finished before bx is."""
    rows = {"s": {"a": 0.5, "b": 0.5}, "a": {".": 0.5, "x": 0.5}, "b": {".": 0.8, "x": 0.2}}
    model = LetterModel({**rows, "x": {".": 0.5, "x": 0.5}, ".": {".": 1.0}})
    seen = [
        on_a_toy(model, Words("a", "bx"), seed=seed, n_particles=4, ess_threshold=1.0, estimator="recursive")
        for seed in range(300)
    ]
    masses = [evidence(events) for events in seen]
    assert fmean(masses) == pytest.approx(0.25 + 0.05, abs=4 * stdev(masses) / math.sqrt(300))
    assert fmean(posterior(events).get("a", 0.0) for events in seen) > 0.7


def test_at_the_limit_the_text_ends_with_the_models_probability_of_ending() -> None:
    """a with .6, the end with .4, three tokens at most: the model ends in time with .4 + .24 + .36 · .4 = .784."""
    model = LetterModel({"a": {"a": 0.6, ".": 0.4}, ".": {".": 1.0}})
    masses = []
    for seed in range(300):
        events = on_a_toy(model, Anything(), seed=seed, tokens=3, n_particles=3)
        masses.append(evidence(events))
        assert committed(events)[-1].token.text == "."
        assert len(committed(events)) <= 3
    assert fmean(masses) == pytest.approx(0.784, abs=4 * stdev(masses) / math.sqrt(300))
    assert min(masses) == pytest.approx(0.4)


def test_texts_may_also_be_cut_off_at_the_limit() -> None:
    model = LetterModel({"a": {"a": 0.6, ".": 0.4}, ".": {".": 1.0}})
    texts = [on_a_toy(model, Anything(), seed=seed, tokens=3, limit="may be cut") for seed in range(30)]
    assert all(evidence(events) == pytest.approx(1) for events in texts)
    assert any(committed(events)[-1].token.text == "a" for events in texts)


@pytest.mark.parametrize("why", ["limit", "dead end"])
def test_when_no_text_is_left_the_run_is_a_dead_end_and_says_why(why: str) -> None:
    model = LetterModel({"a": {"a": 0.6, ".": 0.4}, ".": {".": 1.0}})
    job = toy_run(model, "a", max_new_tokens=3)
    judge: Judge = Anything(ends=False) if why == "limit" else Words("aab")
    params = Params(limit="must end" if why == "limit" else "may be cut")
    events: list[Event] = []
    with pytest.raises(DeadEnd):
        events.extend(sequential_monte_carlo(job, params, Checked(judge, model.vocabulary)))
    assert all(particle.state == "dead" for particle in only(events, Particles)[-1].particles)
    assert only(events, Particles)[-1].effective == 0
    word = "token limit" if why == "limit" else "dead end"
    assert any(word in note.text for note in only(events, Note))
    assert not job.output


def test_a_threshold_of_0_never_resamples_and_of_1_does_whenever_weights_differ() -> None:
    for seed in range(20):
        never = only(with_a_dead_end(seed, ess_threshold=0.0), Particles)
        assert not any(population.resampled for population in never)
        always = only(with_a_dead_end(seed, ess_threshold=1.0), Particles)
        for population in always[:-1]:
            unequal = len({round(log_weight(particle), 9) for particle in population.particles}) > 1
            assert population.resampled or not unequal


def test_equal_texts_share_a_row_of_the_batch(tiny_llama: CausalModel) -> None:
    events = decode(tiny_llama, params={"n_particles": 8, "temperature": 0.2}, max_new_tokens=10)
    passes = [forward.batch for forward in only(events, Forward) if forward.lane == "target"]
    assert passes[0] == 1
    texts = [""] * 8
    for population, batch in zip(only(events, Particles), passes[1:], strict=False):
        written = [texts[particle.parent] + particle.text for particle in population.particles]
        texts = [f"{text}|" for text in written]
        assert batch <= len({text for text, p in zip(texts, population.particles, strict=True) if p.state == "alive"})
    assert min(passes[1:]) < 8


@pytest.mark.parametrize("seed", range(4))
def test_the_cache_follows_the_particles(tiny_llama: CausalModel, seed: int) -> None:
    """What the model is said to have thought of the text is what it thinks of it, read afresh."""
    events = decode(tiny_llama, params={"n_particles": 6, "ess_threshold": 1.0}, seed=seed)
    assert any(population.resampled for population in only(events, Particles))
    placed = committed(events)
    prompt = tiny_llama.encode("What is the sea? ")
    logits = tiny_llama.start().extend([*prompt, *(one.token.id for one in placed)])[len(prompt) - 1 : -1]
    for row, one in zip(logits.log_softmax(-1), placed, strict=True):
        assert math.log(one.raw or 1e-300) == pytest.approx(float(row[one.token.id]), abs=1e-3)
    shown = {event.position: event for event in only(events, Candidates)}
    for position, one in enumerate(placed):
        if one.rank is not None and one.rank < 10:
            assert shown[position].raw[one.rank].p == pytest.approx(one.raw, rel=1e-3)


@pytest.mark.parametrize("limit", ["must end", "may be cut"])
def test_streams_keep_the_laws_and_the_condition(tiny_llama: CausalModel, limit: str) -> None:
    for tokens in (1, 2, 12):
        events = decode(tiny_llama, params={"limit": limit}, max_new_tokens=tokens)
        check_stream(tiny_llama, events)
        end = finished(events)
        assert "e" not in end.text.casefold()
        if end.reason != "dead end":
            assert 1 <= len(end.token_ids) <= tokens
            assert end.reason == "end of text" or limit == "may be cut"


def test_the_same_seed_gives_the_same_events(tiny_llama: CausalModel) -> None:
    assert still(decode(tiny_llama, seed=3)) == still(decode(tiny_llama, seed=3))
    assert finished(decode(tiny_llama, seed=3)).text != finished(decode(tiny_llama, seed=4)).text


def test_it_branches_off_given_tokens(tiny_llama: CausalModel) -> None:
    given = tiny_llama.encode("Sun", raw=True)
    events = decode(tiny_llama, prefix=given, max_new_tokens=6)
    check_stream(tiny_llama, events)
    assert list(finished(events).token_ids[:3]) == given
    assert only(events, Trials)[0].position == 3


def test_a_stop_string_ends_a_particle(tiny_llama: CausalModel) -> None:
    params = {"n_particles": 1, "limit": "may be cut"}
    text = finished(decode(tiny_llama, params=params, seed=5)).text
    stop = next(letter for letter in text[2:] if letter.isascii())
    events = decode(tiny_llama, params=params, seed=5, stop=[stop])
    check_stream(tiny_llama, events)
    assert finished(events).reason == "stop string"
    assert finished(events).text == text[: text.index(stop) + 1]


def test_a_time_limit_ends_the_search_with_what_there_is(tiny_llama: CausalModel) -> None:
    events = decode(tiny_llama, max_new_tokens=400, time_limit=1e-6)
    check_stream(tiny_llama, events)
    assert finished(events).reason == "time limit"
    assert len(finished(events).token_ids) <= 1


def test_time_may_run_out_in_the_middle_of_a_walk(tiny_llama: CausalModel) -> None:
    """Where nothing is allowed and every test is slow, the clock is looked at between tests."""

    class Slow(Anything):
        def begins(self, text: str) -> bool:
            time.sleep(0.01)
            return False

    job = Run(tiny_llama, tiny_llama.encode("The sea"), max_new_tokens=5, time_limit=0.1)
    job.clock.start()
    began = time.perf_counter()
    list(sequential_monte_carlo(job, Params(), Checked(Slow(), tiny_llama.vocabulary)))
    assert time.perf_counter() - began < 1.5
    assert job.finished
    assert job.reason == "time limit"


def test_the_real_model_writes_several_texts_without_e(smollm: CausalModel) -> None:
    events = decode(smollm, "Write a short story about a robot.", params={"n_particles": 3}, max_new_tokens=10)
    check_stream(smollm, events)
    assert finished(events).reason == "end of text"
    assert all("e" not in text.casefold() for text in posterior(events))
    assert max(trials.tests for trials in only(events, Trials)) < 0.01 * smollm.vocabulary_size
