"""Deletion curves: lines and areas with known numbers, random apart, odd streams, harmless text, every prefix."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from attribution_streams import deleted
from stream_parts import HOSTILE, token

from engines.attribution import token_attribution
from engines.events import Attribution, Curve, Event
from engines.method import methods
from visuals import deletion
from visuals.palette import dark_of

NOUGHT_TO_FOUR = (0.0, 1.0, 2.0, 3.0, 4.0)
FALLS = (0.8, 0.0, 0.0, 0.0, 0.0)
STAYS = (0.8, 0.8, 0.8, 0.8, 0.0)
LINEAR = (0.8, 0.6, 0.4, 0.2, 0.0)


def curve(how: str, ys: tuple[float, ...], xs: tuple[float, ...] = NOUGHT_TO_FOUR) -> Curve:
    return Curve(name=f"deletion, {how}", x_name="tokens deleted", y_name="probability of the target", x=xs, y=ys)


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = deletion.draw(events)
    assert drawing is not None
    return drawing


def by_name(drawing: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Method → its line, without the area in front of the name."""
    return {trace["name"].split("  ", 1)[1]: trace for trace in drawing["data"]}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def test_every_method_has_its_line_and_its_area_and_the_steepest_comes_first() -> None:
    drawing = drawn([curve("attention", STAYS), curve("random", LINEAR), curve("relp", FALLS)])
    names = [trace["name"] for trace in drawing["data"]]
    assert names == ["0.100  relp", "0.400  random, by chance", "0.700  attention"]
    assert [trace["legendrank"] for trace in drawing["data"]] == [1000, 1001, 1002]
    relp = by_name(drawing)["relp"]
    assert (relp["x"], relp["y"]) == (list(NOUGHT_TO_FOUR), list(FALLS))


def test_the_area_is_the_mean_height_however_the_points_lie() -> None:
    (line,) = deletion.lines([curve("relp", (0.8, 0.4, 0.0), (0.0, 1.0, 11.0))])
    assert line.area == pytest.approx((0.6 * 1 + 0.2 * 10) / 11)
    (line,) = deletion.lines([curve("relp", (0.0, 0.8, 0.4), (11.0, 0.0, 1.0))])
    assert line.area == pytest.approx((0.6 * 1 + 0.2 * 10) / 11), "in any order"


def test_chance_is_the_dashed_line() -> None:
    lines = by_name(drawn([curve("relp", FALLS), curve("attention", STAYS), curve("random", LINEAR)]))
    dashes = {name: trace["line"]["dash"] for name, trace in lines.items()}
    assert dashes["random, by chance"] != "solid"
    assert dashes["relp"] == dashes["attention"] == "solid"


def test_every_method_has_a_colour_and_a_mark_of_its_own_that_others_do_not_change() -> None:
    alone = by_name(drawn([curve("attention", STAYS)]))["attention"]
    events: list[Event] = [curve(how, LINEAR) for how in (*deletion.STYLES, "random", "somebody-elses")]
    lines = by_name(drawn(events))
    assert lines["attention"]["marker"] == alone["marker"]
    assert len(lines) == 9
    assert len({trace["line"]["color"] for trace in lines.values()}) == 9
    assert len({trace["marker"]["symbol"] for trace in lines.values()}) == 9


def test_all_methods_of_token_attribution_are_known() -> None:
    switches = {name for name in token_attribution.Params.__struct_fields__ if name not in ("target", "foil")}
    switches -= {"steps", "samples"}
    names = {"gradient": "gradient-x-input", "integrated": "integrated-gradients"}
    assert {names.get(name, name.replace("_", "-")) for name in switches} == set(deletion.STYLES)
    assert (deletion.CHANCE, len(deletion.STYLES) <= deletion.MOST_METHODS) == (token_attribution.CHANCE, True)


def test_the_latest_curve_of_a_method_counts_and_the_latest_methods_are_shown() -> None:
    (line,) = deletion.lines([curve("relp", STAYS), curve("relp", FALLS)])
    assert line.points[1] == (1.0, 0.0)
    many: list[Event] = [curve("random", LINEAR), *(curve(f"m{at}", LINEAR) for at in range(12)), curve("m0", FALLS)]
    assert {line.how for line in deletion.lines(many)} == {"random", "m0", *(f"m{at}" for at in range(5, 12))}


def test_the_words_tell_who_is_best_and_who_is_no_better_than_random() -> None:
    why = Attribution(how="relp", position=0, target=token(" Paris"), foil=None, context=(token("is"),), scores=(0.5,))
    said = deletion.narrate([why, curve("attention", STAYS), curve("random", LINEAR), curve("relp", FALLS)])
    assert said == (
        "Shown is the probability of “␣Paris” as the words go, the most important first. By relp it falls fastest: the "
        "area under the curve is 0.100, by attention 0.700. In random order the area is 0.400. No better than random "
        "here: attention."
    )
    assert deletion.narrate([curve("random", LINEAR), curve("relp", FALLS)]).endswith("do better than that.")
    assert "probability of <b>␣Paris</b>" in [*strings(drawn([why, curve("relp", FALLS)]))]


def test_the_table_holds_every_point() -> None:
    rows = deletion.table([curve("relp", FALLS), curve("random", LINEAR)])
    assert len(rows) == 10
    assert rows[0] == {"how": "relp", "words_deleted": 0.0, "probability": 0.8, "area": pytest.approx(0.1)}


def test_other_curves_are_none_of_its_business() -> None:
    other = Curve(name="faithfulness", x_name="nodes kept", y_name="faithfulness", x=(1.0, 2.0), y=(0.1, 0.2))
    assert not deletion.relevant([other])
    assert deletion.draw([other]) is None


def test_numbers_that_are_none_are_left_out() -> None:
    (line,) = deletion.lines([curve("relp", (math.nan, 0.4, math.inf, -1.0, 2.0))])
    assert (line.points, line.area) == (((1.0, 0.4),), None)
    drawing = drawn([curve("relp", (0.4,), (1.0,)), curve("random", (0.4,), (1.0,))])
    assert all("markers" in trace["mode"] for trace in drawing["data"]), "a single point is a mark"
    assert deletion.narrate([curve("relp", (0.4,), (1.0,))]).startswith("Too few words")
    assert deletion.draw([curve("relp", (math.nan,))]) is None
    assert deletion.draw([curve("relp", (), ())]) is None
    assert by_name(drawn([curve("relp", (0.5, 0.1), (math.inf, 2.0))]))["relp"]["x"] == [2.0]
    flat = drawn([curve("relp", (0.0, 0.0), (0.0, 1.0))])
    assert flat["layout"]["yaxis"]["range"][1] > 0
    json.dumps(drawing, allow_nan=False)


def test_text_from_outside_never_gets_in() -> None:
    for bad in HOSTILE:
        text = bad.text or bad.hex
        why = Attribution(how=text, position=0, target=bad, foil=None, context=(bad,), scores=(0.5,))
        events: list[Event] = [why, curve(text, LINEAR), curve("relp", FALLS)]
        drawing = drawn(events)
        said = [*strings(drawing), deletion.narrate(events)]
        assert not any("\u202e" in one for one in said)
        for one in strings(drawing):
            for tag in re.findall(r"<[^>]*>?", one):
                assert tag in {"<b>", "</b>", "<br>", "<extra>", "</extra>"}
    long = drawn([curve("x" * 500, LINEAR)])
    assert all(len(trace["name"]) < 50 for trace in long["data"])


def test_any_prefix_is_drawn_in_house_colours_and_plain_json() -> None:
    events = deleted()
    assert deletion.relevant(events)
    for stop in range(len(events) + 1):
        drawing = deletion.draw(events[:stop])
        assert (drawing is not None) == deletion.relevant(events[:stop])
        assert deletion.narrate(events[:stop]).endswith(".")
        if drawing is None:
            continue
        assert json.loads(json.dumps(drawing, allow_nan=False)) == drawing
        for text in strings(drawing):
            if re.fullmatch(r"#[0-9a-fA-F]{3,8}", text):
                assert text in dark_of


def test_many_points_are_drawn_at_once_from_the_first_to_the_last() -> None:
    xs = tuple(float(number) for number in range(5000))
    events: list[Event] = [curve(how, tuple(0.5 for _ in xs), xs) for how in deletion.STYLES]
    points = by_name(drawn(events))["relp"]["x"]
    assert (len(points), points[0], points[-1]) == (deletion.MOST_POINTS, 0, 4999)
    begin = time.perf_counter()
    deletion.draw(events)
    assert time.perf_counter() - begin < 0.15


def test_the_legend_has_room_for_every_line() -> None:
    few, many = drawn([curve("relp", FALLS)]), drawn([curve(how, LINEAR) for how in (*deletion.STYLES, "random")])
    entries = len(many["data"]) - len(few["data"])
    assert many["layout"]["height"] - few["layout"]["height"] == entries * deletion.ENTRY_HIGH
    assert many["layout"]["margin"]["b"] - few["layout"]["margin"]["b"] == entries * deletion.ENTRY_HIGH


def test_token_attribution_shows_it() -> None:
    assert "deletion" in methods()["token-attribution"].pictures
