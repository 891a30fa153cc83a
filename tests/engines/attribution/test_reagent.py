"""ReAGent: a step by hand, a copied token that has to be found, and streams from which all can be recomputed."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines.attribution.reagent import Context, Params, Step, among_top, answer, best, search, updated
from engines.errors import BadParameter, DecodingError
from engines.events import Attribution, Candidates, Commit, Curve, Event, Forward, Note, Started
from engines.method import methods
from engines.models.causal import CausalModel
from engines.runner import Run, run
from tests.engines.attribution.planted import copying_model
from tests.engines.laws import check_stream, finished, only, untimed

PROMPT = "What is the sea? "
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@pytest.fixture(params=["lean", "stock"])
def tiny(request: pytest.FixtureRequest, tiny_llama: CausalModel, tiny_gpt2: CausalModel) -> CausalModel:
    return tiny_llama if request.param == "lean" else tiny_gpt2


def explain(model: CausalModel, prompt: str = PROMPT, *, seed: int = 0, **params: object) -> list[Event]:
    return list(run(model, "reagent", prompt, raw=True, params=params, seed=seed))


def attributions(events: list[Event]) -> list[Attribution]:
    return only(events, Attribution)


def notes(events: list[Event]) -> str:
    return " ".join(note.text for note in only(events, Note))


def probability(model: CausalModel, ids: list[int], target: int) -> float:
    """By the transformers network, without any cache."""
    with torch.inference_mode():
        return float(model.network(torch.tensor([ids])).logits[0, -1].softmax(-1)[target])


def swapped(event: Attribution) -> list[int]:
    """The context with its swaps."""
    ids = [token.id for token in event.context]
    for swap in event.swaps:
        ids[swap.index] = swap.token.id
    return ids


def probe(
    look: Callable[[Tensor], Tensor],
    substitutes: Callable[[Tensor], Tensor],
    *,
    tokens: int = 12,
    p0: float = 0.5,
    stay: tuple[int, ...] = (),
    **params: object,
) -> list[Step]:
    """The search itself, on tokens 10, 11, … of a vocabulary of 40 and with target 7."""
    context = torch.arange(10, 10 + tokens)
    fixed = torch.tensor([place in stay for place in range(tokens)])
    settings = Params(**{"max_steps": 8, **params})  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(1)
    return list(search(look, context, fixed, 7, p0, substitutes, rng, settings))


def anything(chance: Tensor) -> Tensor:
    return (chance * 10).long()


def never(texts: Tensor) -> Tensor:
    """Logits after which the target is the least probable of all."""
    return torch.zeros(len(texts), 40).index_fill(1, torch.tensor([7]), -1.0)


# The step by hand.


def test_one_update_by_hand() -> None:
    S = updated(torch.tensor([[0.2, 0.5, 0.8]]), torch.tensor([[False, True, False]]), torch.tensor([0.8 - 0.5]))
    torch.testing.assert_close(S, torch.tensor([[-0.41904, 1.11904, 0.18096]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(S.softmax(-1), torch.tensor([[0.1337, 0.6226, 0.2437]]), atol=5e-5, rtol=0)


def test_every_probe_is_credited_with_its_own_fall() -> None:
    S = updated(torch.zeros(2, 2), torch.tensor([[True, False], [True, False]]), torch.tensor([0.3, -0.3]))
    torch.testing.assert_close(S, 0.61904 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), atol=1e-5, rtol=0)


def test_a_fall_from_certain_to_impossible_stays_finite() -> None:
    S = updated(torch.zeros(1, 2), torch.tensor([[True, False]]), torch.tensor([1.0]))
    assert S.isfinite().all()
    assert 14 < float(S[0, 0]) < 16
    assert float(S[0, 1]) == -float(S[0, 0])


def test_no_fall_changes_nothing() -> None:
    S = torch.rand(3, 5)
    assert torch.equal(updated(S, torch.rand(3, 5) < 0.5, torch.zeros(3)), S)


def test_a_tiny_fall_is_not_lost_to_rounding() -> None:
    S = updated(torch.zeros(1, 1), torch.tensor([[True]]), torch.tensor([1e-9]))
    assert float(S) == pytest.approx(2e-9, rel=1e-5)


def test_the_most_important_tokens_are_kept() -> None:
    assert best(torch.tensor([[0.1, 3.0, 2.0, -torch.inf]]), 2).tolist() == [[False, True, True, False]]
    assert best(torch.tensor([[1.0, 1.0, 1.0]]), 2).tolist() == [[True, True, False]]


def test_the_target_is_among_the_top_only_when_nothing_else_is_as_probable() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0], [0.0, 1.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    assert among_top(logits, 1, 1).tolist() == [True, False, False]
    assert among_top(logits, 1, 2).tolist() == [True, False, False]
    assert among_top(logits, 1, 3).tolist() == [True, True, False]


def test_the_answer_is_the_mean_over_the_settled_probes_or_over_all() -> None:
    S = torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1]]).log()
    none = torch.zeros(3, dtype=torch.bool)

    def step(settled: Tensor) -> Step:
        return Step(1, True, S, S > 0, S.long(), none, S[:, 0], settled)

    torch.testing.assert_close(answer(step(torch.tensor([True, False, True]))), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(answer(step(none)), torch.tensor([17 / 30, 13 / 30]))


# The search.


def test_without_replacements_nothing_is_learnt() -> None:
    steps = probe(never, anything, rho=0)
    assert len(steps) == 1 + 2 * 8
    assert all(torch.equal(step.S, steps[0].S) for step in steps)
    assert all(torch.equal(step.after, torch.full((4,), 0.5)) for step in steps)


def test_substitutes_that_are_the_tokens_themselves_teach_nothing() -> None:
    steps = probe(never, lambda chance: torch.arange(10, 22).expand(chance.shape))
    assert any(step.replaced.any() for step in steps)
    assert all(torch.equal(step.S, steps[0].S) for step in steps)


def test_a_probe_that_has_settled_never_changes() -> None:
    odds = torch.Generator().manual_seed(0)

    def now_and_then(texts: Tensor) -> Tensor:
        wins = torch.rand(len(texts), generator=odds) < 0.3
        return (
            torch.zeros(len(texts), 40).index_fill(1, torch.tensor([7]), 1.0) * wins[:, None] - 0.01 * torch.eye(40)[7]
        )

    steps = probe(now_and_then, anything, max_steps=20, probes=6)
    settled_at = [next(i for i, step in enumerate(steps) if step.settled[row]) for row in range(6)]
    assert len(set(settled_at)) > 2
    for row, at in enumerate(settled_at):
        assert all(torch.equal(step.S[row], steps[at].S[row]) for step in steps[at:])
        assert all(bool(step.settled[row]) for step in steps[at:])
        assert all(not torch.equal(step.S[row], steps[i - 1].S[row]) for i, step in enumerate(steps[1:at], 1) if i % 2)
    assert bool(steps[-1].settled.all())


def test_probes_that_have_settled_are_not_read_again() -> None:
    rows: list[int] = []

    def first_row(texts: Tensor) -> Tensor:
        rows.append(len(texts))
        # In the stopping test of step 1 the first probe wins.
        won = len(rows) == 2
        return torch.zeros(len(texts), 40).index_put(
            (torch.tensor([0]), torch.tensor([7])), torch.tensor(1.0 * won)
        ) - (0.5 * torch.eye(40)[7])

    probe(first_row, anything, max_steps=3)
    assert rows == [4, 4, 3, 3, 3, 3]


def test_the_stopping_test_keeps_the_best_and_replaces_all_others() -> None:
    seen: list[Tensor] = []

    def record(texts: Tensor) -> Tensor:
        seen.append(texts)
        return never(texts)

    steps = probe(record, anything, keep=3, max_steps=4)
    tests = seen[1::2]
    assert len(tests) == 4
    for texts, step in zip(tests, [step for step in steps if step.tested][1:], strict=True):
        assert torch.equal(texts >= 10, best(step.S, 3))


def test_what_has_to_stay_stays_in_both_passes() -> None:
    seen: list[Tensor] = []

    def record(texts: Tensor) -> Tensor:
        seen.append(texts)
        return never(texts)

    steps = probe(record, anything, rho=0.9, keep=1, stay=(0, 5))
    assert len(seen) == 16
    assert all(bool((texts[:, [0, 5]] == torch.tensor([10, 15])).all()) for texts in seen)
    assert all(bool((step.importance[:, [0, 5]] == 0).all()) for step in steps)


def test_about_the_asked_share_is_replaced() -> None:
    steps = probe(never, anything, tokens=20, rho=0.1, max_steps=100)
    shares = torch.stack([step.replaced.float().mean() for step in steps if step.number and step.tested])
    assert 0.085 < float(shares.mean()) < 0.115


def test_the_source_of_a_copied_token_is_found() -> None:
    found = 0
    for seed in range(20):
        draw = random.Random(seed)
        length = draw.randrange(12, 32)
        source, text = draw.randrange(length), "".join(draw.choice(LETTERS) for _ in range(length))
        last = attributions(explain(copying_model(source, seed=seed), text, seed=seed))[-1]
        order = sorted(range(length), key=last.scores.__getitem__, reverse=True)
        assert last.target.text == text[source]
        assert last.before is not None
        assert last.before > 0.8
        assert source in order[:3]
        found += order[0] == source
    assert found >= 19


# The stream.


def test_the_stream_keeps_its_laws_and_writes_no_text(tiny: CausalModel) -> None:
    events = explain(tiny, max_steps=3, top_k=1)
    check_stream(tiny, events)
    assert not only(events, Commit)
    end = finished(events)
    assert (end.reason, end.text, end.totals.tokens) == ("method done", "", 0)
    assert isinstance(events[0], Started)


@pytest.mark.parametrize("sampler", ["own model", "unigram bucket", "uniform"])
def test_importances_sum_to_one(tiny: CausalModel, sampler: str) -> None:
    events = attributions(explain(tiny, max_steps=3, sampler=sampler))
    assert [event.step for event in events[:2]] == [0, 1]
    for event in events:
        assert sum(event.scores) == pytest.approx(1, abs=1e-5)
        assert len(event.scores) == len(event.context) == len(PROMPT)
        assert 0 <= event.settled <= event.probes == 4


@pytest.mark.parametrize("sampler", ["own model", "unigram bucket", "uniform"])
def test_probabilities_with_swaps_are_those_of_the_network(tiny: CausalModel, sampler: str) -> None:
    events = attributions(explain(tiny, "<|end|>" + PROMPT, max_steps=4, top_k=1, sampler=sampler))[1:-1]
    assert len(events) == 4
    for event in events:
        assert event.swaps
        assert event.before == pytest.approx(
            probability(tiny, [t.id for t in event.context], event.target.id), rel=1e-3
        )
        assert event.after == pytest.approx(probability(tiny, swapped(event), event.target.id), rel=1e-3)


def test_importance_can_be_recomputed_from_the_stream(tiny: CausalModel) -> None:
    events = attributions(explain(tiny, max_steps=6, probes=1, top_k=1))[:-1]
    assert len(events) == 7
    for before, event in itertools.pairwise(events):
        assert event.before is not None
        assert event.after is not None
        d = torch.tensor(event.before - event.after, dtype=torch.float64)
        places = [swap.index for swap in event.swaps]
        credit = torch.full((len(PROMPT),), -1.0, dtype=torch.float64)
        credit[places] = 1
        expected = (torch.tensor(before.scores, dtype=torch.float64).log() + torch.logit((credit * d + 1) / 2)).softmax(
            -1
        )
        torch.testing.assert_close(torch.tensor(event.scores, dtype=torch.float64), expected, rtol=1e-3, atol=1e-7)


def test_the_curve_is_the_largest_change_of_an_importance(tiny_llama: CausalModel) -> None:
    events = explain(tiny_llama, max_steps=5, top_k=1)
    scores = [torch.tensor(event.scores) for event in attributions(events)[:-1]]
    curve = [curve for curve in only(events, Curve) if curve.name == "change"]
    assert [point.x for point in curve] == [(float(step),) for step in range(1, 6)]
    for point, one, other in zip(curve, scores, scores[1:], strict=False):
        assert point.y[0] == pytest.approx(float((one - other).abs().max()), abs=1e-6)


def test_every_pass_is_counted(tiny_llama: CausalModel) -> None:
    events = explain(tiny_llama, max_steps=5, top_k=1)
    passes = [event for event in only(events, Forward) if event.lane == "target"]
    settled = [event.settled for event in attributions(events)]
    assert settled == [0] * 7
    assert [(one.batch, one.query) for one in passes] == [(1, len(PROMPT)), *[(4, len(PROMPT))] * 10]


def test_special_tokens_stay_and_have_no_importance(tiny: CausalModel) -> None:
    events = attributions(explain(tiny, "<|end|>What is<|end|>the sea?", max_steps=6, rho=0.9, sampler="uniform"))
    special = [place for place, token in enumerate(events[0].context) if token.id == 256]
    assert special == [0, 8]
    for event in events:
        assert [event.scores[place] for place in special] == [0, 0]
        assert not {swap.index for swap in event.swaps} & set(special)
        assert all(swap.token.id != 256 for swap in event.swaps)
        assert all(swap.token != event.context[swap.index] for swap in event.swaps)


def test_markers_of_a_chat_are_never_replaced(smollm: CausalModel) -> None:
    added = set(smollm.tokenizer.added_tokens_decoder)
    assert len(added) == 17
    # A special token that the tokenizer's own short list leaves out.
    prompt = f"Hi{smollm.token(4).text}"
    events = attributions(list(run(smollm, "reagent", prompt, params={"max_steps": 1, "rho": 1.0, "probes": 1})))
    markers = {place for place, token in enumerate(events[0].context) if token.id in added}
    assert len(markers) == 6
    assert {swap.index for swap in events[1].swaps} == set(range(len(events[0].context))) - markers
    assert all(events[-1].scores[place] == 0 for place in markers)
    assert not {swap.token.id for swap in events[1].swaps} & added
    assert events[1].after == pytest.approx(
        probability(smollm, swapped(events[1]), events[1].target.id), rel=1e-2, abs=1e-7
    )


def test_only_the_end_of_a_long_context_is_explained(tiny: CausalModel) -> None:
    prompt = "".join(random.Random(0).choices(LETTERS, k=300))
    events = explain(tiny, prompt, max_steps=2, top_k=1, probes=1)
    assert "44 before them stay" in notes(events)
    for event in attributions(events)[1:-1]:
        assert [token.id for token in event.context] == tiny.encode(prompt, raw=True)[44:]
        before = tiny.encode(prompt, raw=True)[:44]
        assert event.after == pytest.approx(probability(tiny, before + swapped(event), event.target.id), rel=1e-3)


def test_every_place_knows_what_the_model_expected_there(tiny: CausalModel) -> None:
    for length in (20, 300):
        ids = tiny.encode("".join(random.Random(1).choices(LETTERS, k=length)), raw=True)
        job = Run(tiny, ids)
        list(job.read_prompt())
        logits = Context(job).logits
        with torch.inference_mode():
            expected = tiny.network(torch.tensor([ids])).logits[0]
        assert len(logits) == min(length, 256) + 1
        if length > 256:
            torch.testing.assert_close(logits, expected[-257:], rtol=1e-3, atol=1e-3)
        else:
            assert not logits[0].any()
            torch.testing.assert_close(logits[1:], expected, rtol=1e-3, atol=1e-3)


# What is explained.


def test_without_a_target_the_models_own_next_token_is_explained(tiny: CausalModel) -> None:
    events = explain(tiny, max_steps=1)
    last, wanted = attributions(events)[-1], only(events, Candidates)[0].raw[0]
    assert last.target == wanted.token
    assert last.before == pytest.approx(wanted.p)
    assert (last.how, last.position, last.foil) == ("reagent", 0, None)


def test_a_target_is_given_as_text(tiny_llama: CausalModel) -> None:
    last = attributions(explain(tiny_llama, max_steps=1, target="q"))[-1]
    assert last.target.text == "q"
    assert last.before == pytest.approx(
        probability(tiny_llama, tiny_llama.encode(PROMPT, raw=True), tiny_llama.vocabulary.tokenise("q")[0]), rel=1e-3
    )


def test_of_a_longer_target_the_first_token_is_explained(tiny_llama: CausalModel) -> None:
    events = explain(tiny_llama, max_steps=1, target="sea\n")
    assert attributions(events)[-1].target.text == "s"
    assert "“sea⏎” is 4 tokens. The first, “s”, is explained." in notes(events)


def test_a_target_whose_space_is_missing_is_remarked_upon(smollm: CausalModel) -> None:
    events = explain(smollm, "The capital of France is", max_steps=1, probes=1, target="Paris")
    assert attributions(events)[-1].target.text == "Paris"
    assert "“ Paris”, with a space before it, would be more probable here" in notes(events)


def test_an_improbable_target_is_explained_with_a_warning(tiny_llama: CausalModel) -> None:
    wanted = only(explain(tiny_llama, max_steps=1), Candidates)[0].raw
    assert "is only the model's number 4 here" in notes(explain(tiny_llama, max_steps=1, target=wanted[3].token.text))
    assert "is only" not in notes(explain(tiny_llama, max_steps=1, target=wanted[2].token.text))


def test_given_tokens_belong_to_the_context(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "reagent", PROMPT, raw=True, prefix=[65, 66], params={"max_steps": 1}))
    last = attributions(events)[-1]
    assert last.position == 2
    assert "".join(token.text for token in last.context) == PROMPT + "".join(map(tiny_llama.decode, [[65], [66]]))
    assert finished(events).token_ids == (65, 66)


def test_a_prompt_of_special_tokens_is_refused(tiny: CausalModel) -> None:
    with pytest.raises(DecodingError, match="no token that could be replaced"):
        explain(tiny, "<|end|><|end|>")


def test_a_prompt_of_one_token_can_be_explained(tiny: CausalModel) -> None:
    events = explain(tiny, "x", max_steps=2)
    assert attributions(events)[-1].scores == (1.0,)
    assert "Only 1 token can be replaced" in notes(events)


@pytest.mark.parametrize(("name", "value"), [("rho", 1.5), ("keep", 0), ("probes", 99), ("sampler", "guess")])
def test_settings_out_of_range_are_refused(tiny_llama: CausalModel, name: str, value: object) -> None:
    with pytest.raises(BadParameter, match=name):
        explain(tiny_llama, **{name: value})  # type: ignore[arg-type]


# How it ends.


def test_a_search_that_does_not_settle_says_so(tiny_llama: CausalModel) -> None:
    events = explain(tiny_llama, max_steps=2, top_k=1)
    *_, before, last = attributions(events)
    assert last.settled == 0
    assert "No probe settled within 2 steps" in notes(events)
    assert last.scores == pytest.approx(before.scores)


def test_a_search_in_which_all_tokens_are_kept_settles_at_once(tiny_llama: CausalModel) -> None:
    events = explain(tiny_llama, keep=30)
    last = attributions(events)[-1]
    assert (last.step, last.settled) == (1, 4)
    assert "All 4 probes settled within 1 step." in notes(events)
    assert "17 are kept" not in notes(events)
    assert "Only 17 tokens can be replaced, and 30 are kept" in notes(events)


def test_a_time_limit_ends_the_search_with_what_there_is(tiny_llama: CausalModel) -> None:
    with torch.inference_mode():
        logits = tiny_llama.network(torch.tensor([tiny_llama.encode(PROMPT, raw=True)])).logits[0, -1]
    letter = min(LETTERS, key=lambda letter: float(logits[tiny_llama.vocabulary.tokenise(letter)[0]]))
    params = {"top_k": 1, "max_steps": 3000, "target": letter}
    events = list(run(tiny_llama, "reagent", PROMPT, raw=True, params=params, time_limit=0.15))
    check_stream(tiny_llama, events)
    last = attributions(events)[-1]
    assert finished(events).reason == "time limit"
    assert last.step < 1000
    assert "No probe settled" in notes(events)
    assert sum(last.scores) == pytest.approx(1, abs=1e-5)


def test_a_step_can_be_stopped_between_its_two_passes(tiny_llama: CausalModel) -> None:
    job = Run(tiny_llama, tiny_llama.encode(PROMPT, raw=True))
    list(job.read_prompt())
    waiting: list[int] = []
    for event in methods()["reagent"].generate(job, Params(max_steps=3, top_k=1)):
        if isinstance(event, Forward):
            waiting.append(len(job.ledger))
    assert len(waiting) >= 1 + 2 * 3
    assert waiting[1:] == [0] * (len(waiting) - 1)


def test_closing_the_generator_stops_the_work(tiny_llama: CausalModel) -> None:
    events = run(tiny_llama, "reagent", PROMPT, raw=True, params={"top_k": 1, "max_steps": 3000})
    for event in events:
        if isinstance(event, Attribution) and event.step == 2:
            break
    events.close()  # type: ignore[attr-defined]
    assert next(events, None) is None


# Chance.


@pytest.mark.parametrize("sampler", ["own model", "unigram bucket", "uniform"])
def test_the_same_seed_gives_the_same_events(tiny: CausalModel, sampler: str) -> None:
    torch.manual_seed(1)
    one = untimed(explain(tiny, seed=7, max_steps=4, sampler=sampler))
    torch.manual_seed(2)
    assert untimed(explain(tiny, seed=7, max_steps=4, sampler=sampler)) == one


def test_another_seed_gives_another_search(tiny_llama: CausalModel) -> None:
    assert len({attributions(explain(tiny_llama, seed=seed, max_steps=2))[-1].scores for seed in range(4)}) == 4


def test_the_global_generator_is_left_alone(tiny_llama: CausalModel) -> None:
    before = torch.get_rng_state()
    explain(tiny_llama, max_steps=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_is_left_as_it_was(tiny: CausalModel) -> None:
    job = Run(tiny, tiny.encode(PROMPT, raw=True))
    list(job.read_prompt())
    expected = Run(tiny, tiny.encode(PROMPT, raw=True)).next_logits()
    list(methods()["reagent"].generate(job, Params(max_steps=2)))
    assert job.output == []
    torch.testing.assert_close(job.next_logits(), expected, rtol=1e-3, atol=1e-4)


def test_a_card_is_complete() -> None:
    card = methods()["reagent"]
    prompts = {prompt["id"] for prompt in json.loads(Path("assets/prompts.json").read_text("utf-8"))}
    assert prompts >= {*card.shines, *card.loses}
    assert card.family == "attribution"
    assert card.idea.endswith(".")
    assert card.look_at.endswith(".")
    assert not card.lossless
    for setting in card.settings():
        assert setting.help != setting.name.replace("_", " ")
