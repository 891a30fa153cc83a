"""Beam search: a worked example, the life of a hypothesis, and its stopping rules."""

from __future__ import annotations

import math

import pytest

from engines.baselines.beam_search import Params, beam_search
from engines.events import Beams, Commit, Event, Forward
from engines.models.causal import CausalModel
from engines.runner import run
from tests.engines.laws import finished, only
from tests.engines.toy import ToyModel, toy_run

# After the start, a is likelier than b; but b goes on with certainty and a does not.
GARDEN_PATH = ToyModel(
    "^abcd.",
    [
        [0, 0.55, 0.45, 0, 0, 0],
        [0, 0, 0, 0.5, 0.4, 0.1],
        [0, 0, 0, 0.95, 0.05, 0],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1],
    ],
)


def search(
    model: ToyModel = GARDEN_PATH, length: int = 10, stop: tuple[str, ...] = (), **params: object
) -> list[Event]:
    return list(beam_search(toy_run(model, "^", max_new_tokens=length, stop=stop), Params(**params)))  # type: ignore[arg-type]


def text(events: list[Event]) -> str:
    return "".join(placed.token.text for commit in only(events, Commit) for placed in commit.tokens)


def test_two_beams_find_the_text_that_one_beam_misses() -> None:
    assert text(search(num_beams=1)) == "ac."
    assert text(search(num_beams=2)) == "bc."


def test_the_worked_example_shows_every_hypothesis() -> None:
    first, second, third, chosen = only(search(num_beams=2), Beams)

    def summary(beams: Beams) -> list[tuple[str, float, str]]:
        return [(beam.token.text, round(math.exp(beam.log_probability), 4), beam.outcome) for beam in beams.beams]

    assert summary(first)[:2] == [("a", 0.55, "live"), ("b", 0.45, "live")]
    assert summary(second) == [
        ("c", 0.4275, "live"),
        ("c", 0.275, "live"),
        ("d", 0.22, "pruned"),
        (".", 0.055, "pruned"),
    ]
    assert summary(third)[:2] == [(".", 0.4275, "finished"), (".", 0.275, "finished")]
    assert summary(chosen) == [(".", 0.4275, "chosen")]
    best, runner_up = third.beams[:2]
    assert chosen.beams[0].id == best.id
    assert best.score == pytest.approx(math.log(0.4275) / 3)
    assert [beam.parent for beam in first.beams] == [-1] * 4
    assert (best.parent, runner_up.parent) == (second.beams[0].id, second.beams[1].id)


def test_an_ending_below_the_best_b_does_not_count() -> None:
    # "a." is fourth at the second position: neither finished nor alive.
    endings = [beam.outcome for beam in only(search(num_beams=2), Beams)[1].beams if beam.token.text == "."]
    assert endings == ["pruned"]


@pytest.mark.parametrize(("length_penalty", "expected"), [(0.0, "a."), (1.0, "a."), (4.0, "bbb.")])
def test_length_penalty_trades_short_for_long(length_penalty: float, expected: str) -> None:
    # a. has 0.5; bbb. has 0.5 · 0.7² · 1: worse in sum, better per token only for a high penalty.
    model = ToyModel(
        "^ab.",
        [[0, 0.5, 0.5, 0], [0, 0, 0, 1], [0, 0, 0.6, 0.4], [0, 0, 0, 1]],
    )
    out = text(search(model, num_beams=2, length_penalty=length_penalty, early_stopping="never"))
    assert out == expected if length_penalty < 2 else len(out) > 2


def test_early_stopping_ends_the_search_when_b_have_finished() -> None:
    # a. finishes at the second position, bb. at the third; bbb… only gets better per token.
    model = ToyModel("^ab.", [[0, 0.6, 0.4, 0], [0, 0, 0.1, 0.9], [0, 0, 0.7, 0.3], [0, 0, 0, 1]])
    early = search(model, num_beams=2, early_stopping="true", length_penalty=2.0)
    late = search(model, num_beams=2, early_stopping="never", length_penalty=2.0)
    assert len(only(early, Beams)) == 3 + 1
    assert text(early) == "a."
    assert len(only(late, Beams)) == 10 + 1
    assert text(late) == "b" * 10


def test_the_token_limit_finishes_every_beam() -> None:
    events = search(num_beams=2, length=2)
    assert text(events) == "bc"
    assert [beam.outcome for beam in only(events, Beams)[1].beams][:2] == ["finished", "finished"]


def test_a_stop_string_finishes_a_beam() -> None:
    assert text(search(num_beams=2, stop=("c",))) == "bc"


def test_a_vocabulary_smaller_than_the_beams_is_searched_whole() -> None:
    assert text(search(num_beams=16)) == "bc."


def test_beams_are_read_in_one_pass_per_position(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "beam-search", "Hello", params={"num_beams": 3}, max_new_tokens=6))
    passes = [forward for forward in only(events, Forward) if forward.lane == "target"]
    assert [(forward.batch, forward.query) for forward in passes] == [(1, 1)] + [(3, 1)] * (len(passes) - 1)
    assert len(only(events, Beams)) == len(passes) + 1  # and once more for the winner


def test_ids_are_unique_and_parents_lived(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "beam-search", "Hello", params={"num_beams": 4}, max_new_tokens=12))
    *steps, chosen = only(events, Beams)
    live: set[int] = {-1}
    seen: set[int] = set()
    for position, step in enumerate(steps):
        assert step.position == position
        assert all(beam.parent in live for beam in step.beams)
        ids = {beam.id for beam in step.beams}
        assert len(ids) == len(step.beams)
        assert not ids & seen
        seen |= ids
        scores = [beam.score for beam in step.beams]
        assert scores == sorted(scores, reverse=True)
        live = {beam.id for beam in step.beams if beam.outcome == "live"}
        assert len(live) <= 4
    assert [beam.outcome for beam in chosen.beams] == ["chosen"]


def test_the_winners_log_probability_is_that_of_its_tokens(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "beam-search", "Hello", max_new_tokens=10))
    (winner,) = only(events, Beams)[-1].beams
    ids = list(finished(events).token_ids)
    prompt = tiny_llama.encode("Hello")
    log_p = tiny_llama.start().extend([*prompt, *ids]).log_softmax(-1)
    total = sum(float(log_p[len(prompt) - 1 + index, token]) for index, token in enumerate(ids))
    assert winner.log_probability == pytest.approx(total, abs=1e-3)
