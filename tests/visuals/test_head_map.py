"""The map of heads: every head in its cell, the strongest framed and named, each point knows its id."""

from __future__ import annotations

from typing import Any

from attribution_streams import circuits

from engines.events import Event, Patch
from visuals import head_map


def heads(layer: int, how: str, *effects: float | None, direction: Any = "denoise") -> Patch:
    return Patch(site="head", layer=layer, how=how, effects=effects, along="head", direction=direction)


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = head_map.draw(events)
    assert drawing is not None
    return drawing


def maps(drawing: dict[str, Any]) -> list[dict[str, Any]]:
    return [trace for trace in drawing["data"] if trace["type"] == "heatmap"]


def spots(drawing: dict[str, Any]) -> list[dict[str, Any]]:
    return [trace for trace in drawing["data"] if "ids" in trace]


GUESS = [heads(0, "relp", 0.1, -0.6, 0.0), heads(2, "relp", 1.5, None, float("nan"))]


def test_every_head_has_its_cell_on_the_fixed_scale() -> None:
    (grid,) = maps(drawn([*GUESS]))
    assert grid["z"] == [[0.1, -0.6, 0.0], [None] * 3, [1.5, None, None]]
    assert (grid["zmin"], grid["zmax"]) == (-1, 1)


def test_every_known_head_is_a_point_that_knows_its_id_and_number() -> None:
    (points,) = spots(drawn([*GUESS]))
    assert points["ids"] == ["a0.0", "a0.1", "a0.2", "a2.0"]
    assert list(zip(points["x"], points["y"], strict=True)) == [(0, 0), (1, 0), (2, 0), (0, 2)]
    assert points["customdata"][1] == "head 1 of layer 0<br>guessed −0.600"
    assert points["customdata"][3].endswith("+1.500, beyond the colours")


def test_the_strongest_are_named_whichever_their_sign() -> None:
    found = head_map.latest([*GUESS])
    assert found is not None
    assert [head.id for head in found.ranked("relp", 3)] == ["a2.0", "a0.1", "a0.0"]
    texts = " ".join(note["text"] for note in drawn([*GUESS])["layout"]["annotations"])
    assert texts.index("a2.0") < texts.index("a0.1") < texts.index("a0.0")


def test_the_frames_of_the_guess_stand_in_the_truth_as_well() -> None:
    drawing = drawn([*GUESS, heads(0, "exact", None, -0.5, None)])
    _, exact = maps(drawing)
    assert exact["z"][0] == [None, -0.5, None]
    frames = [trace for trace in drawing["data"] if trace.get("mode") == "lines"]
    assert [frame["xaxis"] for frame in frames] == ["x", "x2"]
    assert frames[0]["x"] == frames[1]["x"]
    assert spots(drawing)[1]["customdata"] == ["head 1 of layer 0<br>measured −0.500"]


def test_the_latest_estimate_in_the_latest_direction_is_shown() -> None:
    events: list[Event] = [*GUESS, heads(0, "attribution-patching", 0.3), heads(0, "lrp", 0.4, direction="noise")]
    found = head_map.latest(events)
    assert found is not None
    assert list(found.maps) == ["lrp"]
    found = head_map.latest(events[:-1])
    assert found is not None
    assert list(found.maps) == ["attribution-patching"]
    found = head_map.latest([*GUESS, heads(0, "exact", -0.9, direction="noise")])
    assert found is not None
    assert list(found.maps) == ["exact"], "a guess the other way round is no guess of this"


def test_maps_of_positions_are_none_of_heads() -> None:
    assert not head_map.relevant([Patch(site="attn_out", layer=0, how="relp", effects=(0.5,))])


def test_words_and_table() -> None:
    said = head_map.narrate([*GUESS, heads(0, "exact", None, -0.5, None)])
    assert "effects of 4 heads are guessed; 3 of them are at least a tenth" in said
    assert "The strongest are a2.0 (+1.50), a0.1 (−0.60), a0.0 (+0.10)." in said
    assert "a0.1 works against the answer most (−0.60)." in said
    assert "1 heads were patched for real" not in said
    assert "1 head was patched for real." in said
    rows = head_map.table(circuits(3, 2))
    assert len(rows) == 6
    assert rows[3] | {"effect": 0} == {
        "node": "a1.1",
        "layer": 1,
        "head": 1,
        "how": "relp",
        "direction": "denoise",
        "effect": 0,
    }


def test_the_list_of_heads_fits_on_a_telephone() -> None:
    drawing = drawn(circuits(30, 9))
    lines = [note["text"] for note in drawing["layout"]["annotations"] if "\u00a0" in note["text"]]
    room = drawing["min_width"] - drawing["layout"]["margin"]["l"] - drawing["layout"]["margin"]["r"]
    assert len(lines) == 3
    for line in lines:
        assert len(line.replace("<b>", "").replace("</b>", "")) * 0.602 * 11 <= min(room, 340)
