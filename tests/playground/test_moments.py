"""A moment of a run is found by what happened in it."""

from __future__ import annotations

from itertools import chain

import pytest
from msgspec.structs import replace

from engines.events import Choice, Event, Note, Token, Verdict, Weighed
from playground.moments import HAPPENINGS, PLACES, NoSuchMoment, moment, named
from tests.playground.guessed_runs import B, coin, commit, started, turn

C = Token(2, "C")
PAUSE = Note(text="Guessing does not pay here: 1.0 tokens per pass at 2.0 times the price of a plain pass.")
RUN: list[Event] = [
    started(),
    commit(1),
    *turn(3, accepted=0),
    *turn(3, accepted=2),
    PAUSE,
    commit(1),
    *turn(3, accepted=1),
    *turn(2, accepted=2),
    *turn(3, accepted=3),
]
"""Steps 1 to 7: plain, none right, two right, plain after a pause began, one right, all of two, all of three."""


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("first refused guess", 2),
        ("second refused guess", 3),
        ("last refused guess", 5),
        ("first accepted guess", 3),
        ("third accepted guess", 6),
        ("first pass that accepted several", 3),
        ("first pass that accepted all", 6),
        ("last pass that accepted all", 7),
        ("last pass without a right guess", 2),
        ("first pause", 4),
    ],
)
def test_what_happened_first_is_found(name: str, step: int) -> None:
    assert named(RUN, name) == step
    assert moment(RUN, name) == moment(RUN, step)


def test_the_moment_ends_with_its_step() -> None:
    found = moment(RUN, "first refused guess")
    assert found.events == RUN[:5]
    assert found.step == RUN[2:5]
    assert moment(RUN, "last").events == RUN


@pytest.mark.parametrize(
    ("turns", "name", "step"),
    [
        # A chance of 2/3 and a coin of 0.65: too near to be told apart.
        ([coin(0.65), coin(0.1), coin(0.9)], "first close call", 2),
        ([coin(0.65), coin(0.1), coin(0.9)], "last close call", 3),
        # Chances of 0.06 and 1, a guess that can hardly be seen, and one that is no word.
        ([coin(0.5, p=0.03, q=0.5), coin(0.9)], "first close call", 2),
        ([coin(0.5, p=0.9, q=0.6), coin(0.9)], "first close call", 2),
        ([coin(0.9, p=0.02, q=0.04), coin(0.9)], "first close call", 2),
        ([coin(0.9, guess=Token(0, ".")), coin(0.9)], "first close call", 2),
    ],
)
def test_a_close_call_is_decided_by_the_coin_alone(turns: list[list[Event]], name: str, step: int) -> None:
    assert named([started(), *chain(*turns)], name) == step


def test_a_replacement_is_clear_when_one_token_is_wanted_most() -> None:
    """Excesses of p over q: 0.3 against 0.3 cannot be told apart, 0.4 against 0.2 can."""
    even, clear = (refused(Weighed(B, more, 0), Weighed(C, 0.6 - more, 0)) for more in (0.3, 0.4))
    assert named([started(), *even, *clear, *coin(0.1)], "first clear replacement") == 2
    with pytest.raises(NoSuchMoment):
        named([started(), *even, *coin(0.1)], "first clear replacement")


def refused(*missed: Weighed) -> list[Event]:
    """A guess, A, that the draft was sure of and the target did not want; what the target wanted instead."""
    run = coin(0.9, p=0.0, q=0.9)
    verdict = run[1]
    assert isinstance(verdict, Verdict)
    (judged,) = verdict.nodes
    weighed = (*judged.weighed[:1], *missed, Weighed(Token(3, "D"), 0.4, 0.1))
    judged = replace(judged, weighed=weighed, residual=(Choice(B, 0.5),))
    return [run[0], replace(verdict, nodes=(judged,)), run[2]]


@pytest.mark.parametrize("name", ["first pause", "third pass without a right guess", "third close call"])
def test_what_did_not_happen_is_said_to_be_missing(name: str) -> None:
    run = [started(), *turn(3, accepted=0), *coin(0.1), *coin(0.9)]
    with pytest.raises(NoSuchMoment, match=rf"no {name}"):
        moment(run, name)


@pytest.mark.parametrize("name", ["soon", "first", "first wrong turn", "fifth refused guess", "", "first  pause"])
def test_an_unknown_name_is_answered_with_those_that_exist(name: str) -> None:
    with pytest.raises(NoSuchMoment, match=r"first, second, third, last with one of .*refused guess"):
        moment(RUN, name)


@pytest.mark.parametrize("step", [-1, 8])
def test_a_step_beyond_the_run_is_refused(step: int) -> None:
    with pytest.raises(NoSuchMoment, match="7 steps"):
        moment(RUN, step)


def test_no_run_is_too_short_to_be_searched() -> None:
    for run in ([], [started()], RUN[:3]):
        for place in PLACES:
            for happening in HAPPENINGS:
                with pytest.raises(NoSuchMoment):
                    moment(run, f"{place} {happening}")
