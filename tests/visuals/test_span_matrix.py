"""The map of spans: the toy with its numbers, the path in and out, hostile text, every prefix, and speed."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import msgspec
import pytest
from picture_streams import HOSTILE, STREAMS

from engines.events import Event, Mark, Matrix
from visuals.palette import LIGHT, ROLES, SURE, dark_of
from visuals.picture import pictures

PICTURE = pictures()["span-matrix"]
ROWS = (" the", " red", " fox", " saw", " the", " dog")
P = {
    (0, 2): 0.0810,
    (0, 0): 0.0,
    (1, 1): 0.0270,
    (2, 0): 0.0600,
    (3, 0): 0.0020,
    (4, 1): 0.0480,
    (5, 0): 0.1040,
}


def spans(*marks: tuple[int, int, str], **changes: Any) -> Matrix:
    """The fox and the dog: the log-probability of every span that has one."""
    values = tuple(
        tuple(math.log(P[row, column]) if P.get((row, column)) else None for column in range(6)) for row in range(6)
    )
    told: dict[str, Any] = {
        "name": "spans",
        "rows": ROWS,
        "columns": tuple("123456"),
        "values": values,
        "row_name": "first token",
        "column_name": "tokens",
        "value_name": "log-probability",
        "marks": tuple(Mark(*mark) for mark in marks) or (Mark(5, 0, "best"), Mark(5, 0, "greedy outside")),
    }
    return Matrix(**(told | changes))


def drawn(matrix: Matrix) -> Any:
    drawing = PICTURE.draw([matrix])
    assert drawing is not None
    return drawing


def lines(drawing: Any) -> list[Any]:
    return [trace for trace in drawing["data"] if trace["type"] == "scatter"]


def red(drawing: Any) -> list[Any]:
    return [trace for trace in lines(drawing) if trace["line"]["color"] == ROLES["rejected"].ink]


def words(drawing: Any) -> list[str]:
    return [one["text"] for one in drawing["layout"]["annotations"]]


def test_every_cell_is_at_its_place_and_the_better_the_darker() -> None:
    (map_,) = [trace for trace in drawn(spans())["data"] if trace["type"] == "heatmap"]
    shown = {(row, column): map_["z"][row][column] for row in range(6) for column in range(6)}
    assert {at for at, level in shown.items() if level is not None} == {at for at, p in P.items() if p}
    known = sorted((P[at], level) for at, level in shown.items() if level is not None)
    assert [level for _, level in known] == sorted(level for _, level in known)
    assert shown[5, 0] == len(SURE) - 1
    assert shown[0, 2] == len(SURE) - 1, "0.25 nats below the best"
    assert shown[2, 0] == len(SURE) - 2, "0.55 nats below"
    assert shown[3, 0] == len(SURE) - 3, "3.95 nats below"
    assert "␣the␣red␣fox<br>-2.513" in map_["customdata"][0][2]


def test_the_best_is_ringed_and_its_double_ringed_with_dashes() -> None:
    drawing = drawn(spans((5, 0, "best"), (2, 0, "duplicate")))
    solid = [one for one in lines(drawing) if one["line"]["dash"] == "solid"]
    dashed = [one for one in lines(drawing) if one["line"]["dash"] == "2px,2px"]
    assert [(min(one["x"][:5]), min(one["y"][:5])) for one in solid] == [(-0.48, 4.52)]
    assert [(min(one["x"][:5]), min(one["y"][:5])) for one in dashed] == [(-0.48, 1.52)]
    assert "same text" in " ".join(words(drawing))


def test_greedy_that_never_is_in_the_text_leaves_to_the_left_in_red() -> None:
    drawing = drawn(spans())
    (out,) = red(drawing)
    assert out["y"] == [5, 5]
    assert max(out["x"]) < 0
    assert out["line"]["dash"] != "solid", "not by colour alone"
    assert out["marker"]["symbol"] == "x"
    assert "never is in the text" in out["customdata"][0]


def test_the_path_steps_to_the_row_where_its_text_goes_on_and_leaves_on_the_right() -> None:
    drawing = drawn(spans((5, 0, "best"), (0, 0, "greedy"), (4, 1, "greedy"), (4, 1, "greedy leaves")))
    (walk,) = [one for one in lines(drawing) if one["line"].get("shape") == "vh"]
    assert (walk["x"], walk["y"]) == ([0, 1], [0, 4])
    (out,) = red(drawing)
    assert (out["x"][0], out["y"]) == (1.0, [4, 4])
    assert out["x"][1] > 5.5, "beyond the last column"
    assert "leaves the text" in out["customdata"][0]


def test_a_path_that_ends_in_the_text_is_not_red() -> None:
    drawing = drawn(spans((5, 0, "best"), (0, 0, "greedy"), (0, 1, "greedy"), (0, 2, "greedy"), (0, 2, "greedy ends")))
    assert not red(drawing)
    (walk,) = [one for one in lines(drawing) if one["line"].get("shape") == "vh"]
    assert walk["marker"]["symbol"] == ["circle", "circle", "square"]


def test_the_best_spans_are_listed_in_order_each_text_once() -> None:
    twice = spans(rows=(" fox", " fox"), columns=("1",), values=((-1.0,), (-1.0,)), marks=())
    assert [line for line in words(drawn(twice)) if re.match(r"\d\.", line)] == ["1. -1.000 ␣fox"]
    listed = [line for line in words(drawn(spans())) if re.match(r"\d\.", line)]
    assert listed[:3] == ["1. -2.263 ␣dog", "2. -2.513 ␣the␣red␣fox", "3. -2.813 ␣fox"]
    assert len(listed) == 6


def test_the_rows_are_labelled_with_the_tokens() -> None:
    layout = drawn(spans())["layout"]
    assert layout["yaxis"]["ticktext"] == ["␣the", "␣red", "␣fox", "␣saw", "␣the", "␣dog"]
    assert layout["yaxis"]["range"] == [5.5, -0.5], "the first row is on top"


def test_the_narration_says_best_next_and_where_greedy_went() -> None:
    said = PICTURE.narrate([spans()])
    assert "6 spans have been weighed." in said
    assert "greatest log-probability is -2.263: “␣dog”" in said
    assert "“␣the␣red␣fox” with -2.513" in said
    assert "begins with a token that no span begins with" in said
    left = PICTURE.narrate([spans((5, 0, "best"), (0, 0, "greedy"), (4, 1, "greedy"), (4, 1, "greedy leaves"))])
    assert "follows the text as far as “␣the␣dog”, and then leaves it" in left
    ended = PICTURE.narrate([spans((5, 0, "best"), (2, 0, "greedy"), (2, 0, "greedy ends"))])
    assert "ends at “␣fox”, which is not the best" in ended
    same = PICTURE.narrate([spans((5, 0, "best"), (5, 0, "greedy"), (5, 0, "greedy ends"))])
    assert "ends at “␣dog”, the same" in same


def test_the_table_has_all_numbers_and_their_marks() -> None:
    rows = PICTURE.table([spans()])
    assert len(rows) == 6
    assert rows[-1] == {
        "row": 5,
        "row_name": " dog",
        "column": "1",
        "value": pytest.approx(math.log(0.104)),
        "marks": "best, greedy outside",
    }


def test_a_large_table_is_drawn_in_a_window_around_the_winner() -> None:
    count = 700
    values = tuple(tuple(-5.0 - 0.001 * row if row != 400 else -1.0 for _ in range(40)) for row in range(count))
    names = {"rows": ("x",) * count, "columns": tuple(map(str, range(1, 41)))}
    big = spans(values=values, marks=(Mark(400, 0, "best"),), **names)
    drawing = drawn(big)
    (map_,) = [trace for trace in drawing["data"] if trace["type"] == "heatmap"]
    assert len(map_["y"]) == 60
    assert len(map_["x"]) == 24
    assert 400 in map_["y"]
    assert 0 in map_["x"]
    assert "rows 371 to 430 of 700, columns 1 to 24 of 40" in words(drawing)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        PICTURE.draw([big])
        PICTURE.narrate([big])
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.25
    assert len(json.dumps(drawing)) < 200_000


def test_a_table_of_something_else_is_not_taken_for_spans() -> None:
    other = Matrix(name="coverage", rows=("a", "b"), columns=("x", "y"), values=((0.0, 1.0), (0.5, 0.25)))
    assert not PICTURE.relevant([other])
    assert PICTURE.draw([other]) is None
    assert PICTURE.draw([spans(), other]) == PICTURE.draw([spans()])


def test_values_above_nought_are_shaded_evenly() -> None:
    shares = spans(rows=("a", "b"), columns=("1", "2"), values=((0.0, 1.0), (0.5, float("nan"))), marks=())
    (map_,) = [trace for trace in drawn(shares)["data"] if trace["type"] == "heatmap"]
    assert map_["z"] == [[1, 6], [4, None]]
    equal = spans(rows=("a",), columns=("1",), values=((3.0,),), marks=())
    assert drawn(equal)["data"][0]["z"] == [[6]]


def test_hostile_text_and_impossible_marks_stay_harmless() -> None:
    bad = tuple(one.text or "?" for one in HOSTILE)
    names = ("best", "duplicate", "greedy", "greedy leaves", "greedy outside", "<b>x</b>")
    far = (-1, 0, 3, 10**6)
    marks = tuple(Mark(row, column, name) for row in far for column in far for name in names)
    strange = (-1.0, None, float("inf"), float("nan"), -1e308)
    values = tuple(tuple(strange[(row + at) % 5] for at in range(row % 7)) for row in range(len(bad) + 3))
    matrix = spans(rows=bad, columns=bad, values=values, marks=marks, value_name=bad[0] * 9, column_name=bad[2] * 9)
    inside = tuple(mark for mark in marks if mark.name != "greedy outside")
    for marked in (marks, inside):
        one = msgspec.structs.replace(matrix, marks=marked)
        text = json.dumps(drawn(one), ensure_ascii=False, allow_nan=False)
        for piece in ("<i>", "<script", "<a ", "\u202e", "\\u0000", "\\n"):
            assert piece not in text
        for colour in re.findall(r"#[0-9a-f]{6}\b", text):
            assert colour in dark_of
        assert PICTURE.narrate([one]).endswith(".")
        assert PICTURE.table([one])


def test_a_table_without_numbers_is_not_drawn() -> None:
    for values in ((), ((None,),), ((float("nan"),),)):
        empty = spans(rows=("a",), columns=("1",), values=values, marks=())
        assert PICTURE.draw([empty]) is None
        assert not PICTURE.relevant([empty])
    assert PICTURE.draw([spans(), spans(values=())]) is not None, "the last table with numbers stays"


def test_other_events_do_not_make_it_relevant() -> None:
    for name, make in STREAMS.items():
        events = make()
        assert PICTURE.relevant(events) == any(
            isinstance(event, Matrix) and event.name == "spans" for event in events
        ), name


def test_a_phone_can_show_it() -> None:
    assert drawn(spans())["min_width"] <= 360
    assert LIGHT["ink"] in json.dumps(drawn(spans()))


def test_a_real_run_is_drawn_at_every_prefix(tiny_llama: Any) -> None:
    import engines

    prompt = "Text: The red fox saw the dog.\nQuestion: Who was seen?\nAnswer:"
    params = {"cap": 5}
    events: list[Event] = list(engines.run(tiny_llama, "exact-extract", prompt, params=params, raw=True))
    for stop in range(len(events) + 1):
        drawing = PICTURE.draw(events[:stop])
        assert (drawing is not None) == any(isinstance(event, Matrix) for event in events[:stop])
        if drawing is not None:
            json.dumps(drawing, allow_nan=False)
