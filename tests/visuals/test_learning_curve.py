"""The learning curve: two panels with known numbers, card and run apart, odd streams, harmless text, every prefix."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from stream_parts import HOSTILE, finished, stamped, started

from engines.events import Curve, Event
from engines.labs import extraction_curve
from visuals import learning_curve
from visuals.palette import dark_of
from visuals.picture import pictures

NUMBERS = (0.0, 16.0, 64.0, 256.0, 1024.0)
NOW = {
    "exact": (0.30, 0.40, 0.60),
    "greedy": (0.10, 0.35, 0.62),
    "constrained greedy": (0.25, 0.38, 0.60),
    "greedy is a span": (0.2, 0.7, 0.9),
    "greedy is the best span": (0.1, 0.6, 0.85),
}


def curve(name: str, ys: tuple[float, ...], xs: tuple[float, ...] = NUMBERS, **changes: Any) -> Curve:
    unit = "share" if "span" in name else "F1"
    told = {"x_name": "training questions", "y_name": unit, "x": xs[: len(ys)], "y": ys}
    return Curve(name=name, **(told | changes))


def learning(card: bool = True, run: bool = True) -> list[Event]:
    """A stream of the lab: the card's curves, then the run's, a point more each time."""
    events: list[Event] = [started("extraction-curve", "labs")]
    if card:
        events += [curve(f"{name}, card", (*ys, 0.9, 0.95)) for name, ys in NOW.items()]
    if run:
        events += [curve(name, ys[:count]) for count in (1, 2, 3) for name, ys in NOW.items()]
    return stamped([*events, finished()])


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = learning_curve.draw(events)
    assert drawing is not None
    return drawing


def traces(drawing: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [trace for trace in drawing["data"] if trace.get("name") == name]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def test_the_points_stand_at_equal_steps_thick_for_the_run_and_thin_for_the_card() -> None:
    drawing = drawn(learning())
    for name, ys in NOW.items():
        card, now = traces(drawing, name)
        assert (now["x"], now["y"]) == ([0, 1, 2], list(ys))
        assert (card["x"], card["y"]) == ([0, 1, 2, 3, 4], [*ys, 0.9, 0.95])
        assert now["line"]["width"] > card["line"]["width"]
        assert (now["showlegend"], card["showlegend"]) == (True, False)
        assert now["xaxis"] == ("x2" if "span" in name else "x")
    assert drawing["layout"]["xaxis"]["ticktext"] == ["0", "16", "64", "256", "1,024"]


def test_the_gap_is_shaded_from_greedy_to_exact() -> None:
    (gap,) = [trace for trace in drawn(learning())["data"] if trace.get("fill") == "toself"]
    assert gap["x"] == [0, 1, 2, 2, 1, 0]
    assert gap["y"] == [0.30, 0.40, 0.60, 0.62, 0.35, 0.10]


def test_the_card_alone_is_drawn_and_named() -> None:
    drawing = drawn(learning(run=False))
    (exact,) = traces(drawing, "exact")
    assert exact["showlegend"]
    assert exact["opacity"] == 1
    assert "thin lines" not in json.dumps(drawing)
    assert "thin lines" in json.dumps(drawn(learning()))


def test_every_measure_has_a_second_channel() -> None:
    styles = list(learning_curve.STYLES.values())
    for upper in (True, False):
        panel = [style for style in styles if style.upper == upper]
        assert len({style.colour for style in panel}) == len({(s.dash, s.symbol) for s in panel}) == len(panel)


def test_a_single_point_is_a_mark() -> None:
    drawing = drawn([curve("exact", (0.5,), (64.0,)), curve("exact, card", (0.4,), (64.0,))])
    assert all("markers" in trace["mode"] for trace in drawing["data"])
    assert drawing["layout"]["xaxis"]["ticktext"] == ["64"]


def test_the_words_tell_the_gap_at_both_ends() -> None:
    said = learning_curve.narrate(learning())
    assert said.startswith("Measured in this run.")
    assert (
        "Taught 0 questions, the best span has an F1 of 0.30 and greedy decoding one of 0.10: 20.0 points less." in said
    )
    assert "Taught 64 questions" in said
    assert "2.0 points more." in said
    assert "With 0 questions 20% of the greedy answers are spans, with 64 90%." in said
    assert learning_curve.narrate(learning(run=False)).startswith("Measured when the models were trained.")


def test_the_table_holds_every_point() -> None:
    rows = learning_curve.table(learning())
    assert len(rows) == 5 * 5 + 5 * 3
    row = {"measure": "greedy", "measured": "now", "training_questions": 16.0, "value": 0.35}
    assert row in rows


def test_other_curves_are_none_of_its_business() -> None:
    other = Curve(name="exact", x_name="new tokens", y_name="seconds", x=(1.0, 2.0), y=(0.1, 0.2))
    assert not learning_curve.relevant([other])
    assert learning_curve.draw([other]) is None
    assert not learning_curve.relevant([curve("something else", (0.1,))])


def test_numbers_that_are_none_are_left_out() -> None:
    odd = curve("exact", (math.nan, 0.4, math.inf, -1.0, 2.0))
    drawing = drawn([odd])
    (exact,) = traces(drawing, "exact")
    assert (exact["x"], exact["y"]) == ([0], [0.4])
    assert learning_curve.draw([curve("exact", (math.nan,))]) is None
    assert learning_curve.draw([curve("exact", (), ())]) is None
    assert traces(drawn([curve("exact", (0.1, 0.2, 0.3), (1.0,), x=(5.0,))]), "exact")[0]["y"] == [0.1]
    json.dumps(drawing, allow_nan=False)


def test_text_from_outside_never_gets_in() -> None:
    for token in HOSTILE:
        text = token.text or token.hex
        events: list[Event] = [
            curve(text, (0.1,)),
            curve("exact", (0.1, 0.5), y_name=text),
            curve("greedy", (0.3,), x_name=text),
        ]
        said = [*strings(learning_curve.draw(events)), learning_curve.narrate(events)]
        assert not any("alert" in one or "\u202e" in one or (len(text) > 6 and text in one) for one in said)


def test_any_prefix_is_drawn_in_house_colours_and_plain_json() -> None:
    events = learning()
    for stop in range(len(events) + 1):
        drawing = learning_curve.draw(events[:stop])
        assert (drawing is not None) == learning_curve.relevant(events[:stop])
        assert learning_curve.narrate(events[:stop]).endswith(".")
        if drawing is None:
            continue
        assert json.loads(json.dumps(drawing, allow_nan=False)) == drawing
        assert drawing["layout"]["height"] >= 150
        for text in strings(drawing):
            if re.fullmatch(r"#[0-9a-fA-F]{3,8}", text):
                assert text in dark_of
            for tag in re.findall(r"<[^>]*>?", text):
                assert tag in {"<b>", "</b>", "<br>", "<extra>", "</extra>"}


def test_many_points_are_drawn_at_once() -> None:
    xs = tuple(float(number) for number in range(5000))
    events = [curve(name, tuple(0.5 for _ in xs), xs) for name in NOW]
    assert len(traces(drawn(events), "exact")[0]["x"]) == learning_curve.MOST_POINTS
    begin = time.perf_counter()
    learning_curve.draw(events)
    assert time.perf_counter() - begin < 0.15


def test_the_lab_and_the_picture_mean_the_same_names() -> None:
    assert {name for name, _ in extraction_curve.SERIES.values()} == set(learning_curve.STYLES)
    assert (extraction_curve.X_NAME, extraction_curve.CARD) == (learning_curve.X_NAME, learning_curve.CARD)


@pytest.mark.parametrize("length", ["title", "explains", "empty"])
def test_its_words_are_short(length: str) -> None:
    picture = pictures()["learning-curve"]
    text = getattr(picture, length)
    assert len(text) <= {"title": 20, "explains": 120, "empty": 130}[length]
    assert length == "title" or (text.endswith(".") and len(text) >= 40)
