"""Important words: a row per method in colours of its own, swaps struck through, and the scores of the methods."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from attribution_streams import importance
from msgspec.structs import replace
from stream_parts import HOSTILE, token

from engines.events import Attribution, Event, Score, Swap
from visuals import token_importance
from visuals.palette import EFFECT, LIGHT, SURE

CONTEXT = tuple(token(word) for word in ("The", " capital", " of", " France", " is"))


def answer(how: str = "reagent", scores: tuple[float, ...] = (0.0, 0.2, 0.1, 0.4, 0.0), **more: Any) -> Attribution:
    given: dict[str, Any] = {"position": 0, "target": token(" Paris"), "foil": None, "context": CONTEXT} | more
    return Attribution(how=how, scores=scores, **given)


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = token_importance.draw(events)
    assert drawing is not None
    return drawing


def words(drawing: dict[str, Any]) -> dict[str, tuple[float, float, str]]:
    """Text → where it stands, and its colour."""
    return {
        text: (x, y, trace["textfont"]["color"])
        for trace in drawing["data"]
        if trace["mode"] == "text"
        for x, y, text in zip(trace["x"], trace["y"], trace["text"], strict=True)
    }


def box_of(drawing: dict[str, Any], text: str) -> str:
    """The colour of the box that a word stands in."""
    x, y, _ = words(drawing)[text]
    found = []
    for trace in drawing["data"]:
        if "fillcolor" in trace:
            corners = list(zip(trace["x"], trace["y"], strict=True))
            for start in range(0, len(corners), 6):
                xs, ys = zip(*corners[start : start + 5], strict=True)
                if min(xs) <= x <= max(xs) and min(ys) <= y <= max(ys):
                    found.append(trace["fillcolor"])
    (colour,) = found
    return colour


def lines(drawing: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Dash → the lines under words, or through them."""
    traces = [trace for trace in drawing["data"] if trace["mode"] == "lines" and "fill" not in trace]
    return {trace["line"]["dash"]: trace for trace in traces}


def test_the_stronger_the_colour_the_more_a_word_mattered() -> None:
    drawing = drawn([answer()])
    colours = [box_of(drawing, f"␣{word}") for word in ("France", "capital", "of")]
    assert colours[0] == SURE[-1]
    assert [SURE.index(colour) for colour in colours] == sorted(
        (SURE.index(colour) for colour in colours), reverse=True
    )
    assert box_of(drawing, "The") == SURE[1], "a word that did not matter is still seen"
    assert words(drawing)["␣France"][2] == LIGHT["accent-ink"]


def test_each_row_is_coloured_by_its_own_greatest() -> None:
    small = drawn([answer(scores=(0.0, 0.002, 0.001, 0.004, 0.0))])
    assert box_of(small, "␣France") == SURE[-1]


def test_words_against_the_token_are_on_the_other_side_and_dashed() -> None:
    drawing = drawn([answer(scores=(0.0, -0.4, 0.1, 0.4, 0.0))])
    assert (box_of(drawing, "␣France"), box_of(drawing, "␣capital")) == (EFFECT[6], EFFECT[0])
    assert box_of(drawing, "The") == EFFECT[3]
    dashed = lines(drawing)["3px,3px"]
    x, _, _ = words(drawing)["␣capital"]
    assert len(dashed["x"]) == 3
    assert dashed["x"][0] < x < dashed["x"][1]
    assert "orange and dashed: against the token" in words(drawing)
    assert not any("orange" in text for text in words(drawn([answer()])))


def test_swapped_words_are_struck_through_with_the_substitute_above() -> None:
    drawing = drawn([answer(swaps=(Swap(3, token(" Spain")),), before=0.75, after=0.125, settled=3, probes=4, step=7)])
    x, y, _ = words(drawing)["␣France"]
    other_x, other_y, _ = words(drawing)["␣Spain"]
    assert other_x == x
    assert other_y < y, "y grows downwards"
    struck = lines(drawing)["solid"]
    assert struck["y"][:2] == [y, y]
    assert struck["x"][0] < x < struck["x"][1]
    assert "p 0.75 → 0.12 with the struck words swapped" in words(drawing)
    assert "probes settled 3/4 · step 7" in words(drawing)


def test_the_latest_answer_of_each_method_on_the_token_asked_about_last_is_shown() -> None:
    found = token_importance.latest(
        [
            answer("gradient", position=5),
            answer("random"),
            answer("reagent", (1.0,) * 5, step=1),
            answer("relp"),
            answer("reagent", step=2),
        ]
    )
    assert found is not None
    assert [(row.how, row.step) for row in found.rows] == [("reagent", 2), ("relp", 0), ("random", 0)]


def test_chance_comes_last_and_is_never_in_the_way() -> None:
    methods = [f"m{i}" for i in range(10)]
    found = token_importance.latest([answer("random"), *(answer(how) for how in methods), answer("m0", step=1)])
    assert found is not None
    assert [row.how for row in found.rows] == ["m0", *(f"m{i}" for i in range(3, 10)), "random"]


def test_scores_are_a_table_with_the_best_in_bold_and_chance_last() -> None:
    values = {"random": (0.25, 0.5), "reagent": (0.75, 0.25), "relp": (0.5, 0.125)}
    events: list[Event] = [answer()]
    for how, (sufficient, complete) in values.items():
        events += [Score(name="Soft-NS", value=sufficient, text=how), Score(name="Soft-NC", value=complete, text=how)]
    events.append(Score(name="reward", value=9.0, text="reagent"))
    drawing = drawn(events)
    placed = words(drawing)
    rows = [placed[name][1] for name in ("reagent", "relp", "random, by chance")]
    assert rows == sorted(rows)
    assert placed["<b>0.75</b>"][1] == rows[0]
    assert "0.75" not in placed
    said = token_importance.narrate(events)
    assert "reagent has the best Soft-NS, 0.75. random has the best Soft-NC, 0.50." in said
    found = token_importance.latest(events)
    assert found is not None
    assert found.scores["relp"] == {"Soft-NS": 0.5, "Soft-NC": 0.125}


def test_long_contexts_show_their_last_words_and_stay_bounded() -> None:
    drawing = drawn(importance(2, 256, tuple("abcdefg")))
    (spots,) = [trace for trace in drawing["data"] if trace["mode"] == "markers"]
    assert len(spots["x"]) <= token_importance.MOST_TOKENS
    assert any(told.startswith("␣the 255<br>") for told in spots["customdata"])
    assert any("the last 66 of 256 words" in text for text in words(drawing))
    (spots,) = [trace for trace in drawn(importance(1, 256, ()))["data"] if trace["mode"] == "markers"]
    assert len(spots["x"]) == 2 * 256, "two methods have room for all"


def test_lines_break_before_the_edge_and_boxes_never_overlap() -> None:
    drawing = drawn([answer(context=CONTEXT * 12, scores=tuple(range(60)))])
    boxes = []
    for trace in drawing["data"]:
        if "fillcolor" in trace:
            boxes += [(trace["x"][at], trace["x"][at + 1], trace["y"][at]) for at in range(0, len(trace["x"]), 6)]
    assert len(boxes) == 60
    assert max(right for _, right, _ in boxes) <= drawing["layout"]["xaxis"]["range"][1]
    assert drawing["min_width"] <= 340, "a telephone shows it without scrolling"
    boxes.sort(key=lambda box: (box[2], box[0]))
    for (_, right, y), (left, _, other_y) in itertools.pairwise(boxes):
        assert y != other_y or right < left
    assert len({y for _, _, y in boxes}) > 2


@pytest.mark.parametrize("bad", HOSTILE, ids=lambda token: str(token.id))
def test_strange_words_do_not_break_the_row(bad: Any) -> None:
    drawing = drawn([answer(context=(bad,) * 5, swaps=(Swap(1, bad), Swap(99, bad), Swap(-1, bad)))])
    (spots,) = [trace for trace in drawing["data"] if trace["mode"] == "markers"]
    assert len(spots["x"]) == 5
    assert len(lines(drawing)["solid"]["x"]) == 3


def test_words_and_table() -> None:
    event = answer(foil=token(" Lyon"), swaps=(Swap(3, token(" Spain")),), before=0.75, after=0.25, settled=4, probes=4)
    said = token_importance.narrate([event])
    assert said.startswith(
        "The question is why the model says “␣Paris” rather than “␣Lyon”. By reagent it was “␣France” (+0.40),"
        " “␣capital” (+0.20), “␣of” (+0.10) that mattered most."
    )
    assert "With 1 word replaced the probability goes from 0.75 to 0.25." in said
    assert "4 of 4 probes have settled." in said
    rows = token_importance.table([event, replace(event, how="relp")])
    assert len(rows) == 10
    assert rows[3]["score"] == 0.4
    assert [row["swapped_for"] for row in rows[:5]] == [None, None, None, " Spain", None]


def test_a_probability_is_told_once_for_all_methods() -> None:
    drawing = drawn([answer("relp", before=0.75), answer("gradient", before=0.75), answer("attention", before=0.5)])
    told = [text for trace in drawing["data"] if trace["mode"] == "text" for text in trace["text"]]
    assert [text for text in told if text.startswith("p ")] == ["p 0.75", "p 0.50"]


def test_words_fit_into_their_boxes_on_the_narrowest_panel() -> None:
    long = tuple(token(" " + "m" * count) for count in range(1, 20))
    drawing = drawn([answer(context=long, scores=tuple(range(19)))])
    share = (drawing["min_width"] - 8) / drawing["layout"]["xaxis"]["range"][1]
    wide = {}
    for trace in drawing["data"]:
        if "fillcolor" in trace:
            for at in range(0, len(trace["x"]), 6):
                middle = (trace["x"][at] + trace["x"][at + 1]) / 2, trace["y"][at + 2] / 2 + trace["y"][at] / 2
                wide[round(middle[0], 1), middle[1]] = (trace["x"][at + 1] - trace["x"][at]) * share
    found = 0
    for trace in drawing["data"]:
        if trace.get("textposition") == "middle center":
            for x, y, text in zip(trace["x"], trace["y"], trace["text"], strict=True):
                found += 1
                # A letter of the mono type is 0.602 of its size wide.
                assert len(text) * 0.602 * trace["textfont"]["size"] <= wide[x, y], text
    assert found == 19
