"""The mask picture: numbers by hand, one engine's run, hostile text, every prefix, and speed."""

from __future__ import annotations

import html
import json
import re
import time
from typing import Any

import pytest
from picture_streams import HOSTILE, STREAMS, token

from engines.events import Choice, Commit, Event, Mask, Placed
from visuals.palette import DARK, LIGHT, ROLES, contrast, dark_of
from visuals.picture import pictures

PICTURE = pictures()["mask"]


def masked(position: int, **changes: Any) -> Mask:
    """A step at which 3 of 4,096 tokens are left, and 70 % of what the model wanted is gone."""
    told: dict[str, Any] = {
        "position": position,
        "engine": "llguidance",
        "allowed": 3,
        "vocabulary": 4096,
        "blocked_mass": 0.7,
        "wanted": (Choice(token(" Sure"), 0.5), Choice(token(" Here"), 0.2)),
        "permitted": (Choice(token("{"), 0.25), Choice(token(" {"), 0.05)),
        "cells": "0" * 500 + "159" + "0" * 521,
        "end_allowed": False,
        "state": {"what may follow": "a space or “{”"},
        "seconds": 0.0001,
    }
    return Mask(**(told | changes))


def trace(drawing: Any, kind: str, place: int = 0) -> Any:
    return [one for one in drawing["data"] if one["type"] == kind][place]


def words(drawing: Any) -> str:
    return " | ".join(one["text"] for one in drawing["layout"]["annotations"])


def test_the_headline_is_the_blocked_mass_of_the_latest_step() -> None:
    drawing = PICTURE.draw([masked(0, blocked_mass=0.1), masked(1)])
    assert drawing is not None
    assert "<b>70%</b> of what the model wanted is blocked | at position 1, framed" in words(drawing)
    assert "<b>3</b> of 4,096 tokens are left" in words(drawing)


def test_the_strip_has_a_bar_and_a_count_for_every_step() -> None:
    drawing = PICTURE.draw([masked(0, blocked_mass=0.1, allowed=4000), masked(3)])
    assert drawing is not None
    bars, counts = trace(drawing, "bar"), trace(drawing, "scatter")
    assert (bars["x"], bars["y"]) == ([0, 3], [0.1, 0.7])
    assert (counts["x"], counts["y"], counts["customdata"]) == ([0, 3], [4000, 3], [4000, 3])
    assert drawing["layout"]["yaxis2"]["type"] == "log"


def test_a_position_that_was_masked_twice_shows_the_later_mask() -> None:
    drawing = PICTURE.draw([masked(0, allowed=9), masked(1, allowed=8), masked(0, allowed=7)])
    assert trace(drawing, "scatter")["customdata"] == [7, 8]
    assert "at position 0" in words(drawing), "the latest mask is the last that was computed"


def test_both_lists_share_one_scale_and_say_which_is_blocked() -> None:
    drawing = PICTURE.draw([masked(0)])
    bars = trace(drawing, "bar", 1)
    assert bars["x"] == pytest.approx([16.0, 6.4, 8.0, 1.6], abs=0.01)
    assert [base > 50 for base in bars["base"]] == [False, False, True, True]
    assert bars["marker"]["pattern"]["shape"] == ["/", "/", "", ""]
    other = PICTURE.draw([masked(0, wanted=(Choice(token("a"), 0.2),), permitted=(Choice(token("b"), 0.8),))])
    assert trace(other, "bar", 1)["x"] == pytest.approx([4.0, 16.0], abs=0.01)
    names = trace(drawing, "scatter", 2)["text"]
    assert names == ["✕ ␣Sure", "✕ ␣Here", "{", "␣{"]


def test_the_map_has_every_cell_at_its_place() -> None:
    cells = trace(PICTURE.draw([masked(0)]), "heatmap")
    assert (len(cells["z"]), {len(row) for row in cells["z"]}) == (16, {64})
    assert cells["z"][7][52:55] == [1, 5, 9], "piece 500 is in row 500 // 64, at place 500 % 64"
    assert sum(map(sum, cells["z"])) == 15
    assert cells["text"][7][52:55] == ["about 1/8 allowed", "about 5/8 allowed", "all allowed"]
    assert cells["customdata"][7][0] == "1,792–2,048"


def test_a_small_vocabulary_leaves_the_rest_of_its_row_empty() -> None:
    cells = trace(PICTURE.draw([masked(0, cells="90" * 35, vocabulary=70)]), "heatmap")
    assert [len(row) for row in cells["z"]] == [64, 64]
    assert cells["z"][1][:8] == [9, 0, 9, 0, 9, 0, None, None]


def test_cells_from_elsewhere_cannot_be_too_many_or_no_digits() -> None:
    cells = trace(PICTURE.draw([masked(0, cells="x٣²9" * 4000)]), "heatmap")
    assert len(cells["z"]) == 16
    assert cells["z"][0][:4] == [0, 0, 0, 9]


def test_a_dead_end_is_marked_and_stays_on_the_logarithmic_scale() -> None:
    drawing = PICTURE.draw([masked(0), masked(1, allowed=0, permitted=(), cells="0" * 1024)])
    counts = trace(drawing, "scatter")
    assert counts["y"] == [3, 1]
    assert counts["marker"]["symbol"] == ["circle", "x"]
    assert "nothing: a dead end" in trace(drawing, "scatter", 1)["text"]


def test_the_end_of_the_text_is_named_when_it_is_allowed() -> None:
    assert "tokens, the end of text too" in words(PICTURE.draw([masked(0, end_allowed=True)]))
    assert "tokens: the end of the text" in words(PICTURE.draw([masked(0, allowed=1, end_allowed=True)]))


def test_the_narration_says_what_was_wanted_and_what_cost_most() -> None:
    said = PICTURE.narrate([masked(0, blocked_mass=0.9), masked(1, blocked_mass=0.1)])
    assert "3 of 4,096 tokens are allowed" in said
    assert "“␣Sure” (50%)" in said
    assert "“{” most (25%)" in said
    assert "what may follow: a space or “{”" in said
    assert "Over 2 steps 50% was blocked on average, most at position 0: 90%." in said


def test_the_table_has_one_row_per_step() -> None:
    rows = PICTURE.table([masked(2), masked(0)])
    assert [row["position"] for row in rows] == [0, 2]
    assert rows[0]["blocked_mass"] == 0.7
    assert rows[0]["wanted"] == " Sure"


def test_events_of_other_kinds_alone_do_not_make_it_relevant() -> None:
    for name, make in STREAMS.items():
        others = [event for event in make() if not isinstance(event, Mask)]
        assert not PICTURE.relevant(others), name
        assert PICTURE.draw(others) is None


def test_hostile_text_stays_text() -> None:
    events: list[Event] = []
    for position, bad in enumerate(HOSTILE):
        choices = (*(Choice(one, 0.1) for one in HOSTILE[:8]), Choice(bad, 0.2))
        state = {f"<b>{position}</b>": bad.text * 200, "<i>x</i>": "<script>\n\x00\u202e" * 50, "$a$": "%{x}"}
        events.append(
            masked(position, wanted=choices[::-1], permitted=choices[::-1], state=state, engine="<a href=x>e</a>" * 9)
        )
    for stop in range(1, len(events) + 1):
        drawing = PICTURE.draw(events[:stop])
        assert drawing is not None
        text = json.dumps(drawing, ensure_ascii=False, allow_nan=False)
        for bad in ("<i>", "<script", "<a ", "\u202e", "\\u0000", "\\n"):
            assert bad not in text
        for colour in re.findall(r"#[0-9a-f]{6}\b", text):
            assert colour in dark_of
        assert drawing["layout"]["height"] < 900
        assert all(len(html.unescape(one["text"])) < 100 for one in drawing["layout"]["annotations"])


@pytest.mark.parametrize("p", [float("nan"), float("inf"), -1.0, 7.0])
def test_numbers_that_are_no_probabilities_break_nothing(p: float) -> None:
    strange = masked(-3, blocked_mass=p, wanted=(Choice(token("a"), p),), allowed=-5, vocabulary=0, cells="")
    json.dumps(PICTURE.draw([strange, masked(10**9)]), allow_nan=False)
    json.dumps(PICTURE.draw([masked(10**9), strange]), allow_nan=False)
    assert PICTURE.narrate([strange]).endswith(".")


def test_the_three_shades_of_the_map_can_be_told_apart_in_both_themes() -> None:
    for theme in (LIGHT, DARK):
        none, some, most = theme["untested-bg"], theme["forced-edge"], theme["forced-ink"]
        assert contrast(none, most) > 4.5
        assert contrast(none, some) > 1.8
        assert contrast(some, most) > 1.5
    assert {stop[1] for stop in trace(PICTURE.draw([masked(0)]), "heatmap")["colorscale"]} == {
        LIGHT["untested-bg"],
        ROLES["forced"].edge,
        ROLES["forced"].ink,
    }


def test_five_hundred_steps_are_drawn_ten_times_a_second() -> None:
    events: list[Event] = []
    for position in range(500):
        events.append(masked(position))
        events.append(Commit(position=position, step=position, tokens=(Placed(token("{"), "sampled"),)))
    seconds, size = [], 0
    for _ in range(5):
        begin = time.perf_counter()
        size = len(json.dumps(PICTURE.draw(events)))
        PICTURE.narrate(events)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.06
    assert size < 120_000


def test_a_real_run_is_drawn_at_every_prefix(smollm: Any) -> None:
    import engines

    params = {"constraint": "regex", "grammar": "(yes|no|unsure)"}
    events = list(engines.run(smollm, "grammar-mask", "Is the sky blue?", params=params, max_new_tokens=8))
    for stop in range(len(events) + 1):
        drawing = PICTURE.draw(events[:stop])
        assert (drawing is not None) == any(isinstance(event, Mask) for event in events[:stop])
    first = next(event for event in events if isinstance(event, Mask))
    assert 3 <= first.allowed <= 12, "tokens that begin yes, no or unsure"
    assert sum(digit != "0" for digit in first.cells) <= 12


def test_a_narrow_panel_shows_all_of_it() -> None:
    state = {"what may follow": "a " + "word or " * 60}
    drawing = PICTURE.draw([masked(41_234, allowed=12_345, vocabulary=250_000, end_allowed=True, state=state)])
    assert drawing is not None
    assert drawing["min_width"] <= 340
    room = drawing["min_width"] - drawing["layout"]["margin"]["l"] - drawing["layout"]["margin"]["r"]
    for one in drawing["layout"]["annotations"]:
        letters = len(html.unescape(re.sub("<[^>]*>", "", one["text"])))
        assert letters * 0.53 * one["font"]["size"] <= room * (1 - one["x"]), one["text"]
    names = trace(PICTURE.draw([masked(0, wanted=(Choice(token(" extraordinarily"), 0.5),))]), "scatter", 2)
    for x, text in zip(names["x"], names["text"], strict=True):
        bar = x + 22
        assert x / 100 * room + len(text) * 0.602 * names["textfont"]["size"] <= bar / 100 * room
