"""What lessons say about guesses, checked on streams whose numbers can be worked out by hand."""

from __future__ import annotations

import pytest

from engines.events import Event, Note
from playground.answers import ANSWERS, NoAnswer
from playground.moments import moment
from tests.playground.guessed_runs import B, coin, commit, passed, started, turn


def value(name: str, events: list[Event], *others: list[Event]) -> str:
    return ANSWERS[name](moment(events, "last", *others)).value


# One drawn guess, in the lesson's language of two tokens: p = 0.6, 0.4 and q = 0.9, 0.1.


def test_a_drawn_guess_is_worked_out_by_hand() -> None:
    run = [started(), *coin(0.8)]
    said = {name: value(name, run) for name in ("guess", "q", "p", "chance", "coin", "fate", "overlap")}
    assert said == {
        "guess": "A", "q": "0.900", "p": "0.600", "chance": "67 %", "coin": "0.800", "fate": "refused",
        "overlap": "0.70",
    }  # fmt: skip


@pytest.mark.parametrize(("u", "fate"), [(0.66, "accepted"), (0.67, "refused")])
def test_the_coin_decides(u: float, fate: str) -> None:
    assert value("fate", [started(), *coin(u)]) == fate


def test_the_residual_holds_what_the_draft_says_too_seldom() -> None:
    asked = ANSWERS["favourite"](moment([started(), *coin(0.8)]))
    assert (asked.value, asked.options) == ("B", ("A", "B"))
    assert value("favourite-share", [started(), *coin(0.8)]) == "100 %"
    with pytest.raises(NoAnswer, match="not refused"):
        value("favourite", [started(), *coin(0.1)])


def test_the_answers_are_about_the_latest_guess_and_the_mean_about_the_run() -> None:
    run = [started(), *coin(0.8), *coin(0.1, p=0.5, q=0.5), commit(1)]
    assert value("overlap", run) == "1.00"
    assert value("mean-overlap", run) == "0.85"
    with pytest.raises(NoAnswer, match="No drawn guess"):
        value("overlap", [*run, *turn(3, accepted=1)])


# What guessing cost.


def test_time_is_shared_out_between_draft_and_target() -> None:
    passes = [passed("prompt", 9.0, 40), passed("draft", 0.01), passed("draft", 0.03), passed("target", 0.12, 3)]
    run = [started(), *passes, passed("target", 0.04), *turn(2, accepted=0)]
    said = {name: value(name, run) for name in ("draft-passes", "draft-pass-time", "pass-time", "drafting-share")}
    assert said == {"draft-passes": "2", "draft-pass-time": "20", "pass-time": "80", "drafting-share": "20 %"}
    assert value("plain-passes", run) == "1"
    assert value("times-as-long", run, [started(), passed("target", 0.02), commit(1)]) == "4.0"


def test_the_pace_leaves_the_prompt_out() -> None:
    run = [started(), commit(1, time=10.0), *turn(2, accepted=2, time=10.5), commit(2, time=11.0)]
    assert value("pace", run) == "5"
    with pytest.raises(NoAnswer, match="too short"):
        value("pace", run[:2])


def test_guesses_are_counted_by_their_fate() -> None:
    run = [started(), *turn(3, accepted=1), *turn(5, accepted=5)]
    said = [value(name, run) for name in ("all-drafted", "all-accepted", "all-refused", "all-untested", "most-guesses")]
    assert said == ["8", "6", "1", "1", "5"]


def test_the_number_of_guesses_that_pay_is_what_the_method_says() -> None:
    note = Note(text="On this machine 7 guesses per pass should pay best: see how the cost of a pass grows.")
    assert value("budget", [started(), note, *turn(3, accepted=1)]) == "7"
    with pytest.raises(NoAnswer, match="did not choose"):
        value("budget", [started(), *turn(3, accepted=1)])


# Several runs.


def run(method: str, tokens: int, seconds: float = 1.0, guesses: int = 3, **params: bool | int) -> list[Event]:
    """One pass that wrote `tokens`, the last of them at `seconds`."""
    guessed = turn(guesses, accepted=0) if guesses else [commit(1)]
    return [started(method, **params), *guessed, passed("target", 1.0), commit(tokens, time=seconds)]


def test_the_best_of_several_runs_is_named_by_its_method() -> None:
    plain, copied, drawn = run("greedy", 1, guesses=0), run("copyspec", 9, 3.0), run("speculative-sampling", 5)
    asked = ANSWERS["most-per-pass"](moment(plain, "last", copied, drawn))
    assert (asked.value, asked.options) == ("CopySpec", ("CopySpec", "Greedy", "Speculative sampling"))
    assert value("faster", plain, copied, drawn) == "Speculative sampling"


def test_of_equals_the_one_with_fewer_guesses_is_best() -> None:
    few, many = run("prompt-lookup", 5, guesses=2), run("copyspec", 5, guesses=9)
    assert value("most-per-pass", few, many) == value("most-per-pass", many, few) == "Prompt lookup"


def test_runs_of_one_method_are_told_apart_by_guesses_or_settings() -> None:
    asked = ANSWERS["faster"](moment(run("token-recycling", 1, guesses=80), "last", run("token-recycling", 2)))
    assert (asked.value, asked.options) == ("3 guesses", ("3 guesses", "80 guesses"))
    careful, bold = run("copyspec", 2, fallback=True, gamma=4), run("copyspec", 1, fallback=False, gamma=3)
    asked = ANSWERS["faster"](moment(careful, "last", bold))
    assert (asked.value, asked.options) == (
        "with fallback, gamma 4",
        ("with fallback, gamma 4", "without fallback, gamma 3"),
    )


def test_a_comparison_needs_something_to_compare() -> None:
    for name in ("faster", "most-per-pass", "same-text", "times-as-long"):
        with pytest.raises(NoAnswer, match="no run to compare"):
            value(name, run("greedy", 1))
    with pytest.raises(NoAnswer, match="Two runs"):
        value("same-text", run("greedy", 1), run("greedy", 2), run("greedy", 3))


def test_texts_are_compared_as_far_as_the_shorter_one_goes() -> None:
    ours: list[Event] = [started(), commit(3)]
    assert value("same-text", ours, [started(), commit(5)]) == "yes"
    assert value("same-text", ours, [started(), commit(2), commit(1, token=B)]) == "no"
