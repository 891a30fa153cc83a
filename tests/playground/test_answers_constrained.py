"""What lessons say about masks, checked on streams whose numbers can be worked out by hand."""

from __future__ import annotations

import math

import msgspec
import pytest

from engines.events import (
    Choice,
    Commit,
    Event,
    Mask,
    Particle,
    Particles,
    Placed,
    Score,
    Suggestion,
    Suggestions,
    Token,
    Trials,
    Tried,
)
from playground.answers import ANSWERS, Answer, NoAnswer
from playground.moments import moment, named
from tests.playground.guessed_runs import A, B, commit, started

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


def asked(state: str, trigger: str, *names: str) -> Suggestions:
    offered = tuple(Suggestion(name, 0.1 * place) for place, name in enumerate(names))
    return Suggestions(
        position=0, state=state, monitor="members", trigger=trigger, suggestions=offered, count=len(names)
    )  # type: ignore[arg-type]


def test_what_an_analyser_offered_and_what_was_written() -> None:
    run = [started(), asked("asked", "box.", "lid", "size"), *masked(0.7), asked("finished", "box.size", "size")]
    assert (value("offered", run), value("offered-count", run)) == ("`lid`, `size`", "2")
    assert ANSWERS["offered-best"](moment(run, "last")) == Answer("size", ("lid", "size"))
    assert value("written-name", run) == "size"
    assert named([*run, *masked(0.1, position=1)], "first suggestion") == 1


def drawn(text: str, output: float, before: float, after: float) -> Score:
    parts = {"output": output, "distance before": before, "distance after": after, "P(L)": 0.25}
    return Score(name="root value c~", value=0.5, parts=parts, sequence=0, text=text)


def test_texts_drawn_again_are_counted_without_those_that_came_to_nothing() -> None:
    run = [
        started(),
        drawn("a", 1, 0.5, 0.4),
        drawn("b", 1, 0.4, 0.2),
        drawn("b", 1, 0.2, 0.1),
        drawn("c", 0, 0.1, 0.1),
    ]
    run += [msgspec.structs.replace(run[-2], chosen=True), commit(1)]
    names = ("draws", "most-drawn", "most-drawn-share", "valid-share", "distance-first", "distance-last")
    assert [value(name, run) for name in names] == ["4", "b", "67 %", "4", "50 %", "10 %"]


def test_weighted_texts_are_told_in_numbers() -> None:
    tried = (Tried(A, 0.5, True),)
    trial = Trials(position=0, particle=0, tried=tried, tests=3, weight=0.5, estimator="e", refused_mass=0.5)
    population = Particles(step=0, particles=(Particle(0, 0, "A", 0.0, "alive"),) * 2, effective=2.0, resampled=False)
    scores = [Score(name="posterior", value=0.75, text="A"), Score(name="posterior", value=0.25, text="B")]
    evidence = Score(name="log evidence", value=-math.log(8))
    run = [started(), trial, msgspec.structs.replace(trial, tests=5), population, evidence, *scores, commit(1)]
    names = ("particles", "tests-made", "tests-per-choice", "evidence", "heaviest", "heaviest-share")
    assert [value(name, run) for name in names] == ["2", "8", "4.0", "8", "A", "75 %"]


def test_moments_of_masks_are_found_by_name() -> None:
    run = [started(), *masked(0.5, 3), *masked(0.95, 1, 1), *masked(0.01, 8, 2)]
    names = ("first heavy mask", "first light mask", "first lone mask", "first open mask", "second narrow mask")
    assert [named(run, name) for name in names] == [2, 3, 2, 3, 3]
