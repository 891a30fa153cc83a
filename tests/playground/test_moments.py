"""A moment of a run is found by what happened in it."""

from __future__ import annotations

from itertools import chain

import pytest

from engines.events import Event, Note
from playground.moments import HAPPENINGS, PLACES, NoSuchMoment, moment, named
from tests.playground.guessed_runs import coin, commit, started, turn

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
        # Chances of 2/3: a coin of 0.65 is too near to be read off, and a chance of 0.1 is no close call.
        ([coin(0.65), coin(0.1), coin(0.9)], "first close call", 2),
        ([coin(0.65), coin(0.1), coin(0.9)], "last close call", 3),
        ([coin(0.5, p=0.05, q=0.5), coin(0.9)], "first close call", 2),
        ([coin(0.5, p=0.9, q=0.6), coin(0.9)], "first close call", 2),
        ([coin(0.9, p=0.02, q=0.04), coin(0.9)], "first close call", 2),
    ],
)
def test_a_close_call_is_decided_by_the_coin_alone(turns: list[list[Event]], name: str, step: int) -> None:
    assert named([started(), *chain(*turns)], name) == step


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
