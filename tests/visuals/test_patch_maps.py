"""The guess and the truth: cells where they belong, what is not measured empty, and a badge that says who was right."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from attribution_streams import circuits, contrast
from stream_parts import started

from engines.events import Event, Patch
from visuals import patch_maps
from visuals.inside import pearson, signed, ticks
from visuals.palette import EFFECT_SCALE, ROLES


def row(layer: int, how: str, *effects: float | None, site: Any = "mlp_out", direction: Any = "denoise") -> Patch:
    return Patch(site=site, layer=layer, how=how, effects=effects, direction=direction)


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = patch_maps.draw(events)
    assert drawing is not None
    return drawing


def heat(drawing: dict[str, Any]) -> list[dict[str, Any]]:
    return [trace for trace in drawing["data"] if trace["type"] == "heatmap"]


def notes(drawing: dict[str, Any]) -> list[str]:
    return [note["text"] for note in drawing["layout"]["annotations"]]


def badges(drawing: dict[str, Any]) -> list[dict[str, Any]]:
    return [note for note in drawing["layout"]["annotations"] if "bgcolor" in note]


def test_a_map_has_a_row_per_layer_and_layer_0_is_at_the_bottom() -> None:
    drawing = drawn([row(1, "relp", 0.3, -0.4), row(0, "relp", 0.1, 0.2)])
    (grid,) = heat(drawing)
    assert grid["z"] == [[0.1, 0.2], [0.3, -0.4]]
    assert (grid["x"], grid["y"]) == ([0, 1], [0, 1])
    low, high = drawing["layout"]["yaxis"]["range"]
    assert low < high


def test_colours_are_fixed_from_minus_one_to_one() -> None:
    (grid,) = heat(drawn([row(0, "relp", 0.001, 0.002, 0.003)]))
    assert (grid["zmin"], grid["zmax"], grid["colorscale"]) == (-1, 1, EFFECT_SCALE)


def test_what_lies_beyond_the_colours_keeps_its_number_and_says_so() -> None:
    (grid,) = heat(drawn([row(0, "relp", 1.7, 0.5, -1.2), row(1, "relp", 1.0, -1.0, 0.0)]))
    assert grid["z"][0] == [1.7, 0.5, -1.2]
    assert ["beyond" in told for told in grid["customdata"][0]] == [True, False, True]
    assert not any("beyond" in told for told in grid["customdata"][1])
    assert "%{z:+.3f}" in grid["hovertemplate"]


def test_the_truth_stands_right_of_the_guess_and_fills_row_by_row() -> None:
    guesses: list[Event] = [row(layer, "relp", 0.1, 0.2, 0.3) for layer in range(3)]
    assert len(heat(drawn(guesses))) == 1
    guess, exact = heat(drawn([*guesses, row(1, "exact", 0.1, None, 0.3)]))
    assert exact["z"] == [[None] * 3, [0.1, None, 0.3], [None] * 3]
    assert not exact["hoverongaps"]
    layout = drawn([*guesses, row(1, "exact", 0.1, None, 0.3)])["layout"]
    assert layout["xaxis"]["domain"][1] < layout["xaxis2"]["domain"][0]
    assert layout["yaxis"]["range"] == layout["yaxis2"]["range"]
    assert guess["yaxis"] != exact["yaxis"]


def test_numbers_that_are_none_are_empty_cells() -> None:
    (grid,) = heat(drawn([row(0, "relp", float("nan"), float("inf"), 0.5)]))
    assert grid["z"] == [[None, None, 0.5]]


def test_the_badge_carries_pearsons_correlation_over_all_and_from_the_first_difference_on() -> None:
    asked = contrast(12)  # differs from position 10 on
    guess = [[0.0] * 10 + [0.9, 0.1], [0.0] * 10 + [0.2, 0.4], [0.0] * 10 + [0.3, 0.3]]
    truth = [[0.0] * 10 + [0.5, 0.3], [0.0] * 10 + [0.1, 0.6]]
    events: list[Event] = [asked]
    events += [row(layer, "relp", *effects) for layer, effects in enumerate(guess)]
    events += [row(layer, "exact", *effects) for layer, effects in enumerate(truth)]
    over_all = np.corrcoef(np.ravel(guess[:2]), np.ravel(truth))[0, 1]
    after = np.corrcoef([0.9, 0.1, 0.2, 0.4], [0.5, 0.3, 0.1, 0.6])[0, 1]
    (badge,) = badges(drawn(events))
    assert f"{over_all:.2f} / {after:.2f}" in badge["text"]
    assert over_all > after + 0.2, "zeros flatter the first number"
    assert "so far" in badge["text"]
    assert badge["bgcolor"] == ROLES["rejected"].bg, "the verdict goes by the second"
    assert badge["text"].startswith("<b>✕</b>")


@pytest.mark.parametrize(
    ("noise", "mark", "word"), [(0.0, "✓", "confirmed"), (0.45, "≈", "partly"), (3.0, "✕", "refuted")]
)
def test_a_full_truth_gives_the_verdict(noise: float, mark: str, word: str) -> None:
    truth = np.random.default_rng(0).normal(size=(5, 40)) * 0.2
    wrong = np.random.default_rng(1).normal(size=(5, 40)) * 0.2 * (noise and noise + 0.3)
    events: list[Event] = [row(layer, "relp", *effects) for layer, effects in enumerate((truth + wrong).tolist())]
    events += [row(layer, "exact", *effects) for layer, effects in enumerate(truth.tolist())]
    (badge,) = badges(drawn(events))
    assert f"{mark}</b> {word}" in badge["text"]


def test_there_is_no_badge_before_anything_is_measured_or_where_nothing_varies() -> None:
    assert not badges(drawn([row(0, "relp", 0.1, 0.5, 0.2)]))
    assert not badges(drawn([row(0, "relp", 0.1, 0.5, 0.2), row(0, "exact", 0.3, 0.3, 0.3)]))
    assert not badges(drawn([row(0, "relp", 0.1, 0.5, 0.2), row(1, "exact", 0.1, 0.5, 0.2)])), "other cells"


def test_pearson_is_numpys_and_says_when_it_knows_nothing() -> None:
    pairs = [(0.1, 0.4), (0.5, -0.2), (-0.3, 0.9), (0.0, 0.0)]
    assert pearson(pairs) == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1])
    assert pearson([(x, 3 * x + 1) for x in (0.1, 0.2, 0.9)]) == pytest.approx(1.0)
    assert pearson([(x, -x) for x in (0.1, 0.2, 0.9)]) == pytest.approx(-1.0)
    assert pearson(pairs[:2]) is None
    assert pearson([(1.0, 0.1), (1.0, 0.5), (1.0, 0.2)]) is None


def test_two_estimates_stand_beside_each_other_and_only_the_latest_two() -> None:
    hows = ("integrated-gradients", "attribution-patching", "relp")
    drawing = drawn([row(0, how, 0.1, 0.2, 0.3) for how in (*hows, "exact")])
    assert len(heat(drawing)) == 3
    assert "<b>attribution patching</b> and <b>relp</b> guessed" in notes(drawing)[0]
    again = drawn([row(0, how, 0.1, 0.2, 0.3) for how in (*hows, "integrated-gradients")])
    assert "<b>integrated gradients</b> and <b>relp</b>" in notes(again)[0]


def test_sites_have_rows_of_their_own_in_the_order_of_the_stream_through_a_block() -> None:
    drawing = drawn([row(0, "relp", 0.1, site=site) for site in ("mlp_out", "resid_pre", "attn_out")])
    assert len(heat(drawing)) == 3
    assert [note for note in notes(drawing) if "·" in note] == [
        "<b>residual stream</b> <b>·</b> resid_pre",
        "<b>attention</b> <b>·</b> attn_out",
        "<b>MLP</b> <b>·</b> mlp_out",
    ]
    domains = [drawing["layout"][f"yaxis{axes}"]["domain"] for axes in ("", "2", "3")]
    assert all(above[0] > below[1] for above, below in itertools.pairwise(domains))


def test_heads_are_no_rows_of_these_maps() -> None:
    assert not patch_maps.relevant([Patch(site="head", layer=0, how="relp", effects=(0.5,), along="head")])


def test_directions_are_never_mixed() -> None:
    events: list[Event] = [row(0, "relp", 0.1, 0.2), row(0, "exact", 0.9, 0.8, direction="noise")]
    (grid,) = heat(drawn(events))
    assert grid["z"] == [[0.9, 0.8]]


def test_positions_are_called_by_token_and_index() -> None:
    drawing = drawn([contrast(12), row(0, "relp", *[0.1] * 12)])
    assert drawing["layout"]["xaxis"]["ticktext"][-2:] == ["␣John 10", "␣gave 11"]
    drawing = drawn([started(prompt="a <b> c"), row(0, "relp", 0.1, 0.2, 0.3)])
    assert drawing["layout"]["xaxis"]["ticktext"] == ["␣a 0", "␣&lt;b&gt; 1", "␣c 2"]


def test_long_prompts_label_every_kth_token_and_show_the_last_positions() -> None:
    drawing = drawn([contrast(256), *(row(layer, "relp", *[0.01 * layer] * 256) for layer in range(30))])
    (grid,) = heat(drawing)
    assert {len(cells) for cells in grid["z"]} == {patch_maps.MOST_POSITIONS}
    assert grid["x"][-1] == 255
    shown = drawing["layout"]["xaxis"]["tickvals"]
    assert len(shown) <= 25
    assert shown[-1] == 255
    assert any("of 256" in note for note in notes(drawing))


def test_ticks_count_back_from_the_last_position() -> None:
    assert ticks((), range(10), 4)["tickvals"] == [0, 3, 6, 9]
    assert ticks((), range(4), 4)["tickvals"] == [0, 1, 2, 3]


def test_cells_that_work_against_the_answer_carry_a_minus() -> None:
    drawing = drawn([row(0, "relp", -0.5, 0.5, -0.05)])
    (signs,) = [trace for trace in drawing["data"] if trace["type"] == "scatter"]
    assert (signs["x"], signs["y"], signs["marker"]["symbol"]) == ([0], [0], "line-ew")


def test_the_place_where_the_prompts_part_is_marked_in_every_map() -> None:
    drawing = drawn(circuits(3, 2, 12, 10, 1))
    lines = drawing["layout"]["shapes"]
    assert len(lines) == len(heat(drawing)) == 6
    assert {line["x0"] for line in lines} == {9.5}


def test_effects_are_written_with_their_sign() -> None:
    assert [signed(value) for value in (0.5, -0.5, 0.0, -0.001, None)] == ["+0.50", "−0.50", "0.00", "0.00", "–"]


def test_words_and_table() -> None:
    events = circuits(3, 2, 12, 10, 2)
    said = patch_maps.narrate(events)
    assert "has measured 6 of 9 rows" in said
    assert "MLP of layer 0 at “␣John” (position 10)" in said
    assert "The truth correlates with the guess of relp" in said
    assert "nothing has been measured" in patch_maps.narrate([row(0, "relp", 0.5)])
    rows = patch_maps.table(events)
    assert len(rows) == (9 + 6) * 12
    assert rows[10] | {"effect": 0} == {
        "site": "resid_pre",
        "how": "relp",
        "direction": "denoise",
        "layer": 0,
        "position": 10,
        "token": "␣John",
        "effect": 0,
    }


def test_a_telephone_shows_the_maps_of_a_short_prompt_beside_each_other() -> None:
    events = [row(layer, how, *[0.1 * layer] * 9) for how in ("attribution-patching", "exact") for layer in range(4)]
    drawing = drawn([contrast(9), *events])
    assert drawing["min_width"] <= 340
    room = drawing["min_width"] - drawing["layout"]["margin"]["l"] - drawing["layout"]["margin"]["r"]
    for note in drawing["layout"]["annotations"]:
        letters = len(re.sub("<[^>]*>", "", note["text"]))
        free = (0.525 if "bgcolor" in note else 1 - note["x"]) * room
        assert note.get("xanchor") == "right" or letters * 0.5 * note["font"]["size"] <= free, note["text"]


def test_direct_effects_are_not_called_guesses() -> None:
    events: list[Event] = [row(0, "direct", 0.1, 0.4)]
    assert "<b>direct</b> effects on the logits" in notes(drawn(events))
    assert not any("measured" in note for note in notes(drawn(events)))
    assert "direct effects on the logits" in patch_maps.narrate(events)
    assert "guesses" not in patch_maps.narrate(events)
    assert "none of it is measured yet" in notes(drawn([row(0, "relp", 0.1, 0.4)]))
