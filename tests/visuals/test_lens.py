"""The logit lens: a word per layer and position, the answer framed, and how far it is ahead."""

from __future__ import annotations

from typing import Any

from attribution_streams import contrast, lens
from stream_parts import token

from engines.events import Choice, Event, Lens
from visuals import lens as picture
from visuals.palette import LIGHT, SURE

MARY, JOHN = token(" Mary"), token(" John")


def layer(number: int, *said: tuple[str, float], differences: tuple[float, ...] = ()) -> Lens:
    return Lens(layer=number, tokens=tuple(Choice(token(word), p) for word, p in said), differences=differences)


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = picture.draw(events)
    assert drawing is not None
    return drawing


def words(drawing: dict[str, Any]) -> dict[tuple[int, int], tuple[str, str]]:
    return {
        (x, y): (text, trace["textfont"]["color"])
        for trace in drawing["data"]
        if trace.get("mode") == "text"
        for x, y, text in zip(trace["x"], trace["y"], trace["text"], strict=True)
    }


READ = [
    layer(0, (" a", 0.01), (" the", 0.3), differences=(0.0, 0.5)),
    layer(1, (" b", 0.8), (" Mary", 0.3), differences=(0.0, -1.5)),
    layer(2, (" c", 0.6), (" John", 0.5), differences=(0.0, 1.0)),
    layer(3, (" Mary", 0.1), (" Mary", 0.7), differences=(0.0, 3.5)),
    layer(4, (" d", 0.1), (" Mary", 0.95), differences=(0.0, 4.0)),
]


def test_every_cell_says_its_word_in_a_colour_that_can_be_read_on_its_shade() -> None:
    drawing = drawn([*READ])
    said = words(drawing)
    assert said[1, 0] == ("␣the", LIGHT["ink"])
    assert said[1, 4] == ("␣Mary", LIGHT["accent-ink"])
    assert len(said) == 10
    (shades,) = [trace for trace in drawing["data"] if trace["type"] == "heatmap"]
    assert shades["z"][4] == [2, len(SURE) - 1]
    assert shades["z"][0][0] == 1, "unsure is not empty"
    assert shades["customdata"][3][1] == "layer 3 at 1<br>␣Mary 0.700<br>answer − foil +3.50"


def test_layer_0_is_at_the_bottom_and_layers_not_read_yet_are_empty() -> None:
    drawing = drawn([READ[3]])
    (shades,) = [trace for trace in drawing["data"] if trace["type"] == "heatmap"]
    assert shades["z"][:3] == [[None, None]] * 3
    low, high = drawing["layout"]["yaxis"]["range"]
    assert low < high


def test_cells_that_say_the_answer_are_framed() -> None:
    drawing = drawn([contrast(2), *READ])
    frames = [trace for trace in drawing["data"] if trace.get("mode") == "lines"]
    (frame,) = frames
    centres = {
        (round(sum(frame["x"][at : at + 4]) / 4), round(sum(frame["y"][at : at + 4]) / 4))
        for at in range(0, len(frame["x"]), 6)
    }
    assert centres == {(1, 1), (0, 3), (1, 3), (1, 4)}
    assert not [trace for trace in drawn([*READ])["data"] if trace.get("mode") == "lines"], "nobody asked"


def test_the_answer_is_found_where_it_comes_up_for_good() -> None:
    found = picture.latest([contrast(2), *READ])
    assert found is not None
    assert found.found_at() == 3, "layer 1 changes its mind again"
    found = picture.latest([contrast(2), *READ[:3]])
    assert found is not None
    assert found.found_at() is None


def test_the_line_beside_the_map_is_the_difference_at_the_last_position() -> None:
    drawing = drawn([contrast(2), *READ])
    (line,) = [trace for trace in drawing["data"] if trace.get("xaxis") == "x2"]
    assert (line["x"], line["y"]) == ([0.5, -1.5, 1.0, 3.5, 4.0], [0, 1, 2, 3, 4])
    layout = drawing["layout"]
    assert layout["yaxis2"]["range"] == layout["yaxis"]["range"]
    assert layout["xaxis"]["domain"][1] < layout["xaxis2"]["domain"][0]
    low, high = layout["xaxis2"]["range"]
    assert low < -1.5
    assert high > 4.0
    alone = drawn([layer(0, (" a", 0.5))])
    assert "xaxis2" not in alone["layout"]


def test_a_layer_read_again_replaces_itself() -> None:
    assert words(drawn([layer(0, (" a", 0.5)), layer(0, (" b", 0.5))]))[0, 0][0] == "␣b"


def test_long_prompts_show_their_last_positions() -> None:
    drawing = drawn(lens(30, 256))
    (shades,) = [trace for trace in drawing["data"] if trace["type"] == "heatmap"]
    assert shades["x"] == list(range(256 - picture.MOST_POSITIONS, 256))
    assert len(words(drawing)) == 31 * picture.MOST_POSITIONS
    assert any("of 256" in note["text"] for note in drawing["layout"]["annotations"])


def test_words_and_table() -> None:
    said = picture.narrate([contrast(2), *READ])
    assert "layer 0 spells “␣the” (0.30), layer 4 “␣Mary” (0.95)" in said
    assert "From layer 3 on it is the answer, “␣Mary”." in said
    assert "ahead of its foil by +4.00 in the end; layer 2 adds most, +2.50, layer" not in said
    assert "layer 3 adds most, +2.50." in said, "of two equal jumps the later one"
    rows = picture.table([*READ])
    assert len(rows) == 10
    assert rows[3] == {
        "layer": 1,
        "position": 1,
        "id": MARY.id,
        "text": " Mary",
        "hex": "",
        "p": 0.3,
        "difference": -1.5,
    }


def test_a_telephone_shows_map_and_line_without_scrolling() -> None:
    drawing = drawn(lens(30, 256))
    assert drawing["min_width"] == 340
    room = 340 - drawing["layout"]["margin"]["l"] - drawing["layout"]["margin"]["r"]
    left, right = drawing["layout"]["xaxis"]["domain"]
    (texts,) = {trace["textfont"]["size"] for trace in drawing["data"] if trace.get("mode") == "text"}
    longest = max(len(text) for trace in drawing["data"] if trace.get("mode") == "text" for text in trace["text"])
    assert longest * 0.602 * texts <= room * (right - left) / picture.MOST_POSITIONS
