"""The dartboard: one worked choice with its numbers, every estimator's sum, odd streams, a real run."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from picture_streams import HOSTILE, STREAMS, token

from engines.events import Compiled, Event, Token, Trials, Tried
from engines.models.twin import twin
from engines.runner import run
from visuals import dartboard
from visuals.palette import dark_of
from visuals.picture import pictures

THE, SEA, SKY, SUN = (token(word) for word in (" the", " sea", " sky", " sun"))
READY = Compiled(engine="no letter e", subject="no letter e", status="ok", seconds=0.1, sizes={"vocabulary": 1000.0})


def trials(estimator: str = "awrs", **more: Any) -> Trials:
    """.5 and .2 are refused before .12 is accepted; then .03 is refused, and .12 accepted again: (1 - .7) / 4."""
    worked = Trials(
        position=3,
        particle=0,
        tried=(
            Tried(THE, 0.5, False, 0),
            Tried(SEA, 0.2 / 0.5, False, 0),
            Tried(SUN, 0.12 / 0.3, True, 0),
            Tried(SKY, 0.03 / 0.3, False, 1),
            Tried(SUN, 0.12 / 0.27, True, 1),
        ),
        tests=4,
        weight=0.3 / 4,
        estimator=estimator,
        refused_mass=0.7,
        exact_mass=0.15,
    )
    return msgspec.structs.replace(worked, **more)


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = dartboard.draw(events)
    assert drawing is not None
    return drawing


def lines(drawing: dict[str, Any]) -> list[str]:
    return [note["text"] for note in drawing["layout"]["annotations"]]


def test_slices_are_as_wide_as_the_model_made_them_and_lie_in_the_order_of_the_walk() -> None:
    accepted, rejected, untested = drawn([READY, trials()])["data"][:3]
    assert rejected["base"] == pytest.approx([0, 0.5, 0.82])
    assert rejected["x"] == pytest.approx([0.5, 0.2, 0.03])
    assert accepted["base"] == pytest.approx([0.7])
    assert accepted["x"] == pytest.approx([0.12])
    assert untested["base"] == pytest.approx([0.85])
    assert untested["x"] == pytest.approx([0.15])
    assert rejected["marker"]["pattern"]["shape"] == "/"


def test_every_proposal_is_a_row_and_refused_ones_are_struck_through() -> None:
    drawing = drawn([READY, trials()])
    assert drawing["layout"]["yaxis2"]["ticktext"] == [
        "1 <s>␣the</s>",
        "2 <s>␣sea</s>",
        "3 ␣sun",
        "4 <s>␣sky</s>",
        "5 ␣sun",
    ]
    accepted, rejected = drawing["data"][3:]
    assert rejected["text"] == ["✕ .50", "✕ .40", "✕ .10"]
    assert accepted["text"] == ["✓ .40", "✓ .44"]


def test_below_stand_the_counts_the_sum_the_truth_and_how_little_was_tested() -> None:
    other = trials(position=2, tests=6)
    assert lines(drawn([READY, other, trials()])) == [
        "position 3 · awrs · the whole board is probability 1",
        "n₀ = 2 · n₁ = 1 · ψ₀ = 0.700",
        "w = (1 - ψ₀) / (n₀ + n₁ + 1)",
        "= (1 - 0.700) / (2 + 1 + 1) = 0.075",
        "really allowed: 0.150",
        "tokens tested: 10 of 2,000 that masks decide",
    ]


@pytest.mark.parametrize(
    ("estimator", "weight", "ends"),
    [
        ("recursive", 0.3, ("the next one was accepted, or none was left:", "w = 1 - ψ₀ = 1 - 0.700 = 0.300")),
        ("recursive", 0.12, ("the next one was refused:", "w = p(x) = 0.120")),
        ("wrs", 0.25, ("w = L / (n + L), n all refusals", "= 1 / (3 + 1) = 0.250")),
        ("geometric", 0.125, ("w = L / (n + L), n all refusals, repetitions reckoned in", "= 1 / (7 + 1) = 0.125")),
        ("lcd", 1.0, ("the first accepted token", "its weight is not used")),
        ("awrs", 0.0, ("nothing was accepted", "w = 0")),
        ("<b>new</b>", 0.5, ("the weight:", "w = 0.500")),
    ],
)
def test_each_estimator_has_its_sum(estimator: str, weight: float, ends: tuple[str, str]) -> None:
    assert dartboard.equation(trials(estimator, weight=weight)) == ends


def test_with_replacement_a_token_may_be_hit_again_and_keeps_its_slice() -> None:
    tried = (Tried(THE, 0.5, False, 0), Tried(THE, 0.5, False, 0), Tried(SUN, 0.1, True, 0))
    masses = [dart.mass for dart in dartboard.darts(trials("wrs", tried=tried, tests=2))]
    assert masses == pytest.approx([0.5, 0.5, 0.1])
    _, rejected, _ = drawn([trials("wrs", tried=tried, tests=2)])["data"][:3]
    assert rejected["x"] == pytest.approx([0.5])


def test_beyond_the_first_accepted_token_the_recursive_rule_leaves_it_out_of_the_urn() -> None:
    tried = (Tried(THE, 0.5, True, 0), Tried(SUN, 0.4, False, 1))
    assert [dart.mass for dart in dartboard.darts(trials("recursive", tried=tried))] == pytest.approx([0.5, 0.2])


def test_more_tests_than_are_named_are_counted_and_not_guessed() -> None:
    many = tuple(Tried(Token(index, f"w{index}"), 0.01, False, 0) for index in range(64))
    drawing = drawn([READY, trials("awrs", tried=many, tests=400, weight=0.001, refused_mass=0.6)])
    assert len(drawing["layout"]["yaxis2"]["ticktext"]) == dartboard.MOST_ROWS
    assert lines(drawing)[1] == "n₀ = 64+ · n₁ = 0 · ψ₀ = 0.600 · 52+ more not drawn"
    # n₀ + n₁ follows from the weight: .4 / .001 - 1.
    assert lines(drawing)[3] == "= (1 - 0.600) / (399 + 1) = 0.001"


def test_the_narration_says_it_in_words() -> None:
    assert dartboard.narrate([READY, trials()]) == (
        "At position 3 4 tokens were tested. Refused were “␣the”, “␣sea”, “␣sky”; those met before the first "
        "acceptance hold 0.700 of the probability. The first that was accepted is “␣sun”. The weight is 0.075; really "
        "allowed is 0.150. So far 4 tokens were tested; masks would have decided 1,000."
    )


def test_the_table_has_a_row_per_proposal() -> None:
    rows = dartboard.table([READY, trials()])
    assert [row["text"] for row in rows] == [" the", " sea", " sun", " sky", " sun"]
    assert rows[1]["p"] == pytest.approx(0.2)
    assert rows[1]["proposed_with"] == pytest.approx(0.4)
    assert [row["accepted"] for row in rows] == [False, False, True, False, True]


def test_it_fits_a_telephone() -> None:
    drawing = drawn([READY, trials()])
    assert drawing["min_width"] <= 340
    assert all(len(line) <= 62 for line in lines(drawing))


@pytest.mark.parametrize("spelled", HOSTILE)
def test_hostile_text_is_harmless(spelled: Token) -> None:
    events: list[Event] = [trials("<script>x</script>", tried=(Tried(spelled, 0.5, False), Tried(SUN, 0.5, True)))]
    text = json.dumps(drawn(events), allow_nan=False, ensure_ascii=False)
    assert "<script" not in text
    assert "<a" not in text
    assert "\u202e" not in text


def test_odd_numbers_do_no_harm() -> None:
    odd = trials(tried=(Tried(THE, float("nan"), False), Tried(SUN, 7.0, True)), weight=float("nan"), refused_mass=-1.0)
    json.dumps(drawn([odd]), allow_nan=False)
    json.dumps(drawn([trials(tried=(), weight=float("inf"))]), allow_nan=False)
    assert dartboard.narrate([odd]).endswith(".")


def test_streams_of_other_methods_leave_it_empty() -> None:
    for make in STREAMS.values():
        events = make()
        if not any(isinstance(event, Trials) for event in events):
            assert dartboard.draw(events) is None


def test_a_real_run_is_drawn_at_every_moment_and_quickly() -> None:
    events = list(run(twin(), "awrs", "The sea", params={"estimator": "awrs"}, max_new_tokens=8, seed=1))
    made = [event for event in events if isinstance(event, Trials)]
    assert made
    for one in made:
        darts = dartboard.darts(one)
        assert sum(dart.mass for dart in darts if not dart.again) <= 1 + 1e-6
        before = [dart for dart in darts if dart.round == 0 and not dart.accepted]
        if one.tests == len({dart.token.id for dart in darts}):
            assert sum(dart.mass for dart in before) == pytest.approx(one.refused_mass, abs=1e-6)
    for stop in range(len(events) + 1):
        drawing = dartboard.draw(events[:stop])
        if drawing is not None:
            assert all(not value.startswith("#") or value in dark_of for value in _strings(drawing))
    begin = time.perf_counter()
    for _ in range(5):
        dartboard.draw(events)
    assert time.perf_counter() - begin < 0.5
    assert pictures()["dartboard"].families == ("constrained",)


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in _strings(part)]
