"""What lessons say about masks, checked on streams whose numbers can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from engines.events import Choice, Commit, Event, Mask, Placed, Token
from playground.answers import ANSWERS, NoAnswer
from playground.moments import moment, named
from tests.playground.guessed_runs import A, B, started

C = Token(2, "C")


def masked(blocked: float, allowed: int = 2, position: int = 0, wanted: tuple[Choice, ...] = ()) -> list[Event]:
    """One step: a mask over nine tokens, and the token that was written."""
    mask = Mask(
        position=position,
        engine="e",
        allowed=allowed,
        vocabulary=9,
        blocked_mass=blocked,
        wanted=wanted or (Choice(C, blocked),),
        permitted=(Choice(A, 0.2), Choice(B, 0.1)),
        cells="09",
        end_allowed=False,
        seconds=0.002,
    )
    return [mask, Commit(position=position, step=position, tokens=(Placed(A, "sampled", raw=0.2),))]


def value(name: str, events: list[Event]) -> str:
    return ANSWERS[name](moment(events, "last")).value


def test_a_mask_is_told_in_numbers() -> None:
    run = [started(), *masked(0.7)]
    names = ("allowed", "vocabulary", "blocked", "wish", "wish-share", "consolation", "consolation-share", "mask-time")
    assert [value(name, run) for name in names] == ["2", "9", "70 %", "C", "70 %", "A", "20 %", "2.00"]
    assert value("choices-left", run) == "`A`, `B`"
    assert ANSWERS["wish"](moment(run, "last")).options == ("A", "B", "C")


@pytest.mark.parametrize(
    ("allowed", "said"), [(1, "one"), (2, "2 to 10"), (11, "11 to 1,000"), (1001, "more than 1,000")]
)
def test_how_many_are_left_is_said_roughly(allowed: int, said: str) -> None:
    asked = ANSWERS["allowed-roughly"](moment([started(), *masked(0.7, allowed)], "last"))
    assert asked.value == said
    assert said in asked.options


def test_the_cost_adds_up_over_the_run() -> None:
    run = [started(), *masked(0.5), *masked(0.75, position=1), *masked(0.0, position=2)]
    assert value("given-up", run) == f"{math.log(8):.1f}"
    assert value("longer-odds", run) == "8"
    assert (value("masks", run), value("heavy-masks", run)) == ("3", "1")
    assert value("longer-odds", [started(), *masked(1 - 1e-9)]) == "10^9"


def test_what_was_not_masked_has_no_answer() -> None:
    with pytest.raises(NoAnswer, match="Nothing was masked"):
        value("given-up", [started(), masked(0.5)[1]])


def test_moments_of_masks_are_found_by_name() -> None:
    run = [started(), *masked(0.5, 3), *masked(0.95, 1, 1), *masked(0.01, 8, 2)]
    names = ("first heavy mask", "first light mask", "first lone mask", "first open mask", "second narrow mask")
    assert [named(run, name) for name in names] == [2, 3, 2, 3, 3]
