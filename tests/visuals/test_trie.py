"""The trie: one worked tree with its numbers, then odd streams and a real run."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from picture_streams import HOSTILE, started, token

from engines.events import Event, Growth, Place
from engines.models.twin import twin
from engines.runner import run
from visuals import trie
from visuals.palette import LIGHT, SURE, dark_of
from visuals.picture import pictures

ZERO, ONE, END = token("0"), token("1"), token("<end>")
ROOT = 0


def place(id: int, parent: int, spelled: Any, p: float, value: float, visits: int = 1, state: str = "open") -> Place:
    return Place(id, parent, spelled, p, value, visits, state)


def root(value: float, visits: int = 1) -> Place:
    return Place(ROOT, -1, None, None, value, visits, "open")


def stream() -> list[Event]:
    """Two texts over {0, 1, end}, a third each: 0 and end, then 1 and end. 00 and all that begins with 11 is not drawn.

    c~(0) = 1/3 + 1/3 · 1 for an end and a 0 that is not drawn yet; c~(1) = 1/6, so the root has 5/18.
    """
    first = Growth(
        tree="trie",
        sample=0,
        places=(root(0.5), place(1, 0, ZERO, 1 / 3, 2 / 3), place(2, 1, END, 1 / 3, 1.0, state="finished")),
        size=3,
    )
    second = Growth(
        tree="trie",
        sample=1,
        places=(root(5 / 18, 2), place(3, 0, ONE, 1 / 3, 1 / 6), place(4, 3, END, 1 / 6, 1.0, state="finished")),
        size=9,
    )
    return [started("asap", "constrained"), first, second]


def drawn(events: list[Event]) -> dict[str, Any]:
    drawing = trie.draw(events)
    assert drawing is not None
    return drawing


def traces(drawing: dict[str, Any], mode: str) -> list[dict[str, Any]]:
    return [trace for trace in drawing["data"] if trace.get("mode") == mode]


def bars(drawing: dict[str, Any]) -> list[list[float]]:
    return [trace["x"] for trace in drawing["data"] if trace["type"] == "bar"]


def test_places_stand_by_depth_and_carry_token_mark_and_value() -> None:
    marks, words = traces(drawn(stream()), "markers")[0], traces(drawn(stream()), "text")[0]
    start, one, end, zero, end_of_zero = marks["x"]
    assert start < one == zero < end == end_of_zero
    assert words["text"] == ["start ↓.28", "1 ↓.17", "&lt;end&gt;✓ ↓1.0", "0 .67", "&lt;end&gt;✓ 1.0"]


def test_what_the_last_text_changed_is_ringed_and_the_rest_is_not() -> None:
    line = traces(drawn(stream()), "markers")[0]["marker"]["line"]
    assert line["color"] == [LIGHT["accent"]] * 3 + [LIGHT["soft"]] * 2
    assert line["width"][0] > line["width"][3]


def test_the_darker_the_more_is_believed() -> None:
    levels = [trie.level(value) for value in (None, 0.0, 1e-7, 5e-5, 5e-4, 5e-3, 0.05, 0.2, 0.5, 1.0)]
    assert levels == sorted(levels)
    assert levels[-1] == len(SURE) - 1
    colours = traces(drawn(stream()), "markers")[0]["marker"]["color"]
    assert colours[2] == SURE[-1]
    assert colours[1] == colours[0] == SURE[5]


def test_lines_are_as_thick_as_the_token_is_probable() -> None:
    events: list[Event] = [
        Growth(tree="t", sample=0, places=(root(1.0), place(1, 0, ZERO, 0.9, 1.0), place(2, 1, ONE, 1e-3, 1.0)), size=3)
    ]
    thin, thick = sorted(traces(drawn(events), "lines"), key=lambda trace: trace["line"]["width"])
    assert thin["x"][0] > thick["x"][0], "the improbable step is the second one"
    assert thick["line"]["width"] > 3 * thin["line"]["width"]


def test_two_bars_a_branch_show_the_share_by_the_mask_and_as_corrected() -> None:
    found = trie.latest(stream())
    assert found is not None
    ways = trie.branches(found, found.root)
    assert [(way.place.token.text if way.place and way.place.token else "") for way in ways] == ["0", "1"]
    assert [way.masked for way in ways] == pytest.approx([0.5, 0.5])
    assert [way.corrected for way in ways] == pytest.approx([0.8, 0.2])
    masked, corrected = bars(drawn(stream()))
    assert (masked, corrected) == ([0.5, 0.5], [0.8, 0.2])


def test_what_was_not_drawn_yet_is_a_branch_of_its_own() -> None:
    found = trie.latest(stream()[:2])
    assert found is not None
    at_zero = trie.branches(found, found.known[1])
    assert at_zero[-1].place is None
    assert [way.masked for way in at_zero] == pytest.approx([0.5, 0.5])
    # At the root 0.5 = 1/3 · 2/3 + the rest, which is 5/18.
    mass = 1 / 3 + 5 / 18
    at_root = trie.branches(found, found.root)
    assert [way.masked for way in at_root] == pytest.approx([1 / 3 / mass, 5 / 18 / mass])
    assert [way.corrected for way in at_root] == pytest.approx([4 / 9, 5 / 9])


def test_the_branching_shown_is_where_the_correction_moves_most() -> None:
    found = trie.latest(stream())
    assert found is not None
    split = trie.branching(found)
    assert split is not None
    assert split[0].id == ROOT
    assert trie.moved(split[1]) == pytest.approx(0.3)
    earlier = trie.latest(stream()[:2])
    assert earlier is not None
    assert trie.moved(trie.branches(earlier, earlier.known[1])) == pytest.approx(0)
    before = trie.branching(earlier)
    assert before is not None
    assert before[0].id == ROOT


def test_narration() -> None:
    assert trie.narrate(stream()) == (
        "2 texts grew a tree of 9 places; the last one changed 3 of them. At the beginning c~ is .28: the model's own "
        "probability of a valid text is no more than that. 4 places are not shown. The correction matters most at the "
        "beginning: there “0” goes from 0.50 by the mask alone to 0.80."
    )


def test_the_table_has_every_place_shown() -> None:
    rows = trie.table(stream())
    assert [row["node"] for row in rows] == [0, 3, 4, 1, 2]
    assert [row["changed"] for row in rows] == [True, True, True, False, False]
    assert rows[1]["p"] == pytest.approx(1 / 3)
    assert rows[0]["parent"] == -1


def test_a_large_tree_is_cut_to_what_was_visited_most_and_says_so() -> None:
    wide = [place(index, 0, token(f"w{index}"), 0.001, 0.5, visits=index) for index in range(1, 400)]
    events: list[Event] = [Growth(tree="t", sample=0, places=(root(0.5, 400), *wide), size=400)]
    later = Growth(tree="t", sample=1, places=(root(0.5, 401), place(1, 0, token("w1"), 0.001, 0.5, 2)), size=400)
    found = trie.latest([*events, later])
    assert found is not None
    assert len(found.shown) <= 60
    assert found.shown[0].id == 1, "the last text is always there"
    assert found.shown[1].id == 399
    assert found.hidden == 399 - len(found.shown)
    assert "not shown" in drawn([*events, later])["layout"]["annotations"][0]["text"]
    deep = [place(index, index - 1, ONE, 0.5, 0.5) for index in range(1, 300)]
    drawing = drawn([Growth(tree="t", sample=0, places=(root(0.5), *deep), size=300)])
    assert drawing["min_width"] <= 2000
    assert drawing["layout"]["height"] < 1000


def test_a_second_tree_begins_afresh() -> None:
    other = Growth(tree="other", sample=0, places=(root(0.9), place(7, 0, ONE, 0.5, 0.8)), size=2)
    found = trie.latest([*stream(), other])
    assert found is not None
    assert set(found.known) == {0, 7}
    assert found.texts == 1


def test_odd_numbers_and_hostile_tokens_do_no_harm() -> None:
    nan, huge = float("nan"), float("inf")
    odd = [place(1 + index, index, bad, (nan, huge, -1.0, 2.0)[index % 4], nan) for index, bad in enumerate(HOSTILE)]
    odd += [place(50, 50, HOSTILE[0], 0.5, 0.5), place(51, 99, HOSTILE[1], 0.5, huge, state="<b>x</b>")]
    odd += [place(60 + index, 0, bad, 0.03, 0.5, -3, "<i>state</i>") for index, bad in enumerate(HOSTILE)]
    events: list[Event] = [Growth(tree="<u>t</u>", sample=0, places=(root(nan), *odd), size=-5)]
    for stop in range(1, 2 + len(odd)):
        part = Growth(tree="t", sample=0, places=(root(0.5), *odd[:stop]), size=3)
        json.dumps(trie.draw([part]), allow_nan=False)
        assert trie.narrate([part]).endswith(".")
    text = json.dumps(drawn(events), allow_nan=False, ensure_ascii=False)
    assert not any(bad in text for bad in ("<script", "<a ", "\u202e", "<i>", "<u>", "<b>x"))
    assert trie.draw([Growth(tree="t", sample=0, places=(place(3, 2, ONE, 0.5, 0.5),), size=1)]) is None


def test_every_colour_has_a_dark_counterpart() -> None:
    drawing = drawn(stream())
    marker = traces(drawing, "markers")[0]["marker"]
    assert {*marker["color"], *marker["line"]["color"]} <= dark_of.keys()


@pytest.mark.parametrize("value", ["0", ".50", "4e-3", "2e-12", "–"])
def test_a_value_takes_few_characters(value: str) -> None:
    numbers = {"0": 0.0, ".50": 0.5, "4e-3": 0.004, "2e-12": 2e-12, "–": float("nan")}
    assert trie.worth(numbers[value]) == value


def test_a_real_run_is_drawn_at_every_moment_and_at_once() -> None:
    params = {"grammar": "[ab]{3}|c", "samples": 12}
    events = list(run(twin(), "asap", "abc", params=params, raw=True, max_new_tokens=6))
    for stop in range(0, len(events), 3):
        assert (trie.draw(events[:stop]) is not None) == trie.relevant(events[:stop])
        assert trie.narrate(events[:stop]).endswith(".")
    found = trie.latest(events)
    assert found is not None
    for at in found.known.values():
        ways = trie.branches(found, at)
        assert not ways or sum(way.masked for way in ways) == pytest.approx(1)
        assert not ways or sum(way.corrected for way in ways) == pytest.approx(1)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        trie.draw(events * 100)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.15


def test_the_picture_is_registered() -> None:
    assert pictures()["trie"].draw is trie.draw
