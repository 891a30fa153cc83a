"""Distortion: three masks with their numbers, then odd streams and a real run."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from picture_streams import HOSTILE, started, token

from engines.events import Choice, Commit, Event, Mask, Placed, Token
from engines.models.twin import twin
from engines.runner import run
from visuals import distortion
from visuals.palette import dark_of
from visuals.picture import pictures

SURE_WORD, BRACE, QUOTE, NAME = (token(word) for word in ("Sure", "{", '"', "name"))


def mask(
    position: int, blocked: float, wanted: Token | None = None, p: float = 0.0, left: tuple[float, ...] = ()
) -> Mask:
    return Mask(
        position=position,
        engine="llguidance",
        allowed=1,
        vocabulary=100,
        blocked_mass=blocked,
        wanted=(Choice(token("other"), p / 2), Choice(wanted, p)) if wanted else (),
        permitted=tuple(Choice(BRACE, share) for share in left),
        cells="09",
        end_allowed=False,
    )


def stream() -> list[Event]:
    """Three steps that leave 1/4, all, and 1/2."""
    return [
        started("grammar-mask", "constrained"),
        mask(0, 0.75, SURE_WORD, 0.6, (0.25,)),
        Commit(position=0, step=0, tokens=(Placed(BRACE, "sampled"),)),
        mask(1, 0.0, left=(0.9,)),
        Commit(position=1, step=1, tokens=(Placed(QUOTE, "sampled"),)),
        mask(2, 0.5, NAME, 0.4, (0.5,)),
    ]


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = distortion.draw(events)
    assert drawing is not None
    return drawing


def test_bars_are_nats_and_the_line_adds_them_up() -> None:
    bars, line, _ = drawn(stream())["data"]
    assert bars["x"] == line["x"] == [0, 1, 2]
    assert bars["y"] == pytest.approx([math.log(4), 0, math.log(2)], abs=1e-4)
    assert line["y"] == pytest.approx([math.log(4), math.log(4), math.log(8)], abs=1e-4)


def test_the_costliest_steps_carry_what_the_model_wanted_most() -> None:
    names = drawn(stream())["data"][2]
    assert names["text"] == ["Sure .60", "name .40"]
    assert names["x"] == [0, 2]


def test_only_three_are_named() -> None:
    events: list[Event] = [mask(position, 0.1 * position, NAME, 0.05) for position in range(1, 9)]
    assert drawn(events)["data"][2]["x"] == [8, 7, 6]


def test_a_blocked_mass_that_rounds_to_one_still_has_a_size() -> None:
    assert distortion.given_up(mask(0, 1.0, left=(3e-9, 1e-9))) == pytest.approx(-math.log(4e-9))
    assert distortion.given_up(mask(0, 1.0)) == pytest.approx(-math.log(distortion.LEAST))
    assert distortion.given_up(mask(0, 0.0, left=(0.7, 0.4))) == 0


def test_narration() -> None:
    assert distortion.narrate(stream()) == (
        "Over 3 steps the constraint took away 2.08 nats of log-probability: along this text the model would have kept "
        "to it by itself with chance 1 in 8. 2 of the steps took 0.05 nats or more. Position 0 took 1.39: the model "
        "wanted “Sure” with 0.60; there stands “{”. Position 2 took 0.69: the model wanted “name” with 0.40."
    )
    assert distortion.narrate([mask(0, 0.0)]) == (
        "Over 1 step the constraint took away 0.00 nats of log-probability: along this text the model would have kept "
        "to it by itself with chance 1.00. It hardly wanted anything that was blocked."
    )
    assert "1 in 10^13" in distortion.narrate([mask(0, 1.0, left=(1e-13,))])


def test_the_last_mask_of_a_position_counts() -> None:
    assert drawn([mask(0, 0.9, NAME, 0.5), *stream()]) == drawn(stream())


def test_the_table_has_a_row_a_position() -> None:
    rows = distortion.table(stream())
    assert [row["position"] for row in rows] == [0, 1, 2]
    assert [row["wanted"] for row in rows] == ["Sure", "", "name"]
    assert [row["written"] for row in rows] == ["{", '"', ""]
    assert rows[2]["total_nats"] == pytest.approx(math.log(8))


def test_odd_numbers_and_hostile_tokens_do_no_harm() -> None:
    nan, huge = float("nan"), float("inf")
    events: list[Event] = [mask(index, 0.9, bad, 0.5) for index, bad in enumerate(HOSTILE)]
    events += [
        mask(100, nan),
        mask(-7, 2.0, NAME, 0.5),
        mask(101, -1.0),
        mask(102, huge),
        mask(103, 0.5, NAME, nan, (nan,)),
    ]
    for stop in range(len(events) + 1):
        drawing = distortion.draw(events[:stop])
        text = json.dumps(drawing, allow_nan=False, ensure_ascii=False)
        assert not any(bad in text for bad in ("<script", "<a ", "\u202e", "<i>"))
        assert distortion.narrate(events[:stop]).endswith(".")


def test_every_colour_has_a_dark_counterpart_and_a_phone_is_wide_enough() -> None:
    bars, line, _ = drawn(stream())["data"]
    assert {bars["marker"]["color"], bars["marker"]["line"]["color"], line["line"]["color"]} <= dark_of.keys()
    assert drawn(stream())["min_width"] <= 340


def test_the_sum_is_the_logarithm_of_what_the_masks_left_in_a_real_run() -> None:
    params = {"constraint": "regex", "grammar": "[ab]{2,4}", "temperature": 1.0}
    events = list(run(twin(), "grammar-mask", "abc", params=params, raw=True, max_new_tokens=6))
    masks = [event for event in events if isinstance(event, Mask)]
    left = math.prod(sum(choice.p for choice in event.permitted) for event in masks)
    assert distortion.steps(events)[-1].total == pytest.approx(-math.log(left), rel=1e-4)
    assert [row["written"] for row in distortion.table(events)][:2] == [
        placed.token.text for event in events if isinstance(event, Commit) for placed in event.tokens
    ][:2]


def test_the_picture_is_registered() -> None:
    assert pictures()["distortion"].draw is distortion.draw
