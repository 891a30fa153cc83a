"""Diverse beam search: groups that avoid each other."""

from __future__ import annotations

import math

import pytest

from engines.baselines.diverse_beam_search import Params, diverse_beam_search
from engines.events import Beams, Commit, Event, Forward, Score
from engines.models.causal import CausalModel
from engines.runner import run
from tests.engines.laws import finished, only
from tests.engines.toy import ToyModel, toy_run

# Three first words, all leading to the end.
THREE_WAYS = ToyModel(
    "^abc.",
    [[0, 0.5, 0.3, 0.2, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]],
)


def search(model: ToyModel = THREE_WAYS, **params: object) -> list[Event]:
    return list(diverse_beam_search(toy_run(model, "^", max_new_tokens=10), Params(**params)))  # type: ignore[arg-type]


def first_words(events: list[Event]) -> list[str]:
    return [beam.token.text for beam in only(events, Beams)[0].beams if beam.outcome == "live"]


def test_without_a_penalty_all_groups_are_one_beam_search() -> None:
    assert first_words(search(num_beam_groups=3, diversity_penalty=0.0)) == ["a", "a", "a"]


def test_a_token_costs_the_penalty_once_for_every_earlier_group() -> None:
    # ln .5 = -.69, ln .3 = -1.20, ln .2 = -1.61: the second group leaves a for b, the third finds c cheapest.
    assert first_words(search(num_beam_groups=3, diversity_penalty=1.0)) == ["a", "b", "c"]
    # At .3 nats the second group stays with a (-.99 > -1.20) and the third, at -1.29, does not.
    assert first_words(search(num_beam_groups=3, diversity_penalty=0.3)) == ["a", "a", "b"]


def test_scores_carry_the_penalty_and_log_probabilities_do_not() -> None:
    second = only(search(num_beam_groups=2, diversity_penalty=0.3), Beams)[0].beams[2]
    assert (second.group, second.token.text) == (1, "a")
    assert second.log_probability == pytest.approx(math.log(0.5))
    assert second.score == pytest.approx(math.log(0.5) - 0.3)


def test_ending_the_text_counts_as_a_choice() -> None:
    # The first group ends the text, and goes on with a; both cost the second group two nats, b does not.
    model = ToyModel("^ab.", [[0, 0.3, 0.1, 0.6], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]])
    beams = only(search(model, num_beam_groups=2, diversity_penalty=2.0), Beams)[0].beams
    assert [(beam.group, beam.token.text, beam.outcome) for beam in beams] == [
        (0, ".", "finished"),
        (0, "a", "live"),
        (1, "b", "live"),
        (1, ".", "pruned"),
    ]


def test_the_most_probable_of_the_groups_texts_wins() -> None:
    events = search(num_beam_groups=3, diversity_penalty=1.0)
    scores = only(events, Score)
    assert [(score.text, score.chosen) for score in scores] == [("a.", True), ("b.", False), ("c.", False)]
    assert scores[1].value == pytest.approx(math.log(0.3) / 2)
    assert "".join(placed.token.text for commit in only(events, Commit) for placed in commit.tokens) == "a."


def test_a_later_group_can_win() -> None:
    # Greedy group 1 walks into a; group 2, kept off a, finds the better b.
    model = ToyModel(
        "^abcd.",
        [
            [0, 0.55, 0.45, 0, 0, 0],
            [0, 0, 0, 0.5, 0.5, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 0, 1],
            [0, 0, 0, 0, 0, 1],
            [0, 0, 0, 0, 0, 1],
        ],
    )
    assert [score.text for score in only(search(model, num_beam_groups=2), Score) if score.chosen] == ["bc."]


@pytest.mark.parametrize("beams", [1, 3])
def test_one_group_is_beam_search(tiny_llama: CausalModel, beams: int) -> None:
    diverse = {"num_beam_groups": 1, "beams_per_group": beams, "diversity_penalty": 5.0}
    ours = finished(list(run(tiny_llama, "diverse-beam-search", "Hello", params=diverse, max_new_tokens=20)))
    plain = finished(list(run(tiny_llama, "beam-search", "Hello", params={"num_beams": beams}, max_new_tokens=20)))
    assert ours.token_ids == plain.token_ids


def test_groups_that_are_done_leave_the_batch(tiny_llama: CausalModel) -> None:
    params = {"num_beam_groups": 3, "beams_per_group": 2, "diversity_penalty": 2.0}
    events = list(run(tiny_llama, "diverse-beam-search", "Hello", params=params, max_new_tokens=40))
    batches = [forward.batch for forward in only(events, Forward) if forward.lane == "target"]
    assert batches[:2] == [1, 6]
    assert batches[1:] == sorted(batches[1:], reverse=True)


def test_a_high_penalty_separates_the_groups_at_every_position(tiny_llama: CausalModel) -> None:
    params = {"num_beam_groups": 4, "diversity_penalty": 20.0}
    events = list(run(tiny_llama, "diverse-beam-search", "Hello", params=params, max_new_tokens=8))
    for step in only(events, Beams)[:-1]:
        chosen = [beam.token.id for beam in step.beams if beam.outcome in ("live", "finished")]
        assert len(set(chosen)) == len(chosen)
