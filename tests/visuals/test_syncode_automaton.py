"""The look-up picture: the worked example from a real mask, hostile names, every prefix, and speed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from picture_streams import HOSTILE, STREAMS

from engines.events import Event, Mask
from visuals.palette import LIGHT, dark_of
from visuals.picture import pictures

PICTURE = pictures()["syncode-automaton"]


def looked_up(position: int = 2, allowed: int = 9, **state: str) -> Mask:
    """Behind `(1`, where a comma, a bracket or more digits may follow."""
    told = {
        "text": "(",
        "remainder": "1",
        "kind": "MAYBE",
        "terminal": "NUM",
        "accept sequences": "NUM → “,”: 6\nNUM → “)”: 5",
        "stack": "“(”",
    }
    return Mask(
        position=position,
        engine="syncode",
        allowed=allowed,
        vocabulary=12,
        blocked_mass=0.2,
        wanted=(),
        permitted=(),
        cells="09",
        end_allowed=False,
        state=told | {name.replace("_", " "): text for name, text in state.items()},
    )


def texts(drawing: Any) -> list[str]:
    return [text for trace in drawing["data"] if trace.get("mode") == "text" for text in trace["text"]]


def underline(drawing: Any) -> Any:
    (line,) = [trace for trace in drawing["data"] if trace.get("line", {}).get("color") == LIGHT["accent"]]
    return line


def test_every_branch_stands_with_its_number_and_the_mask_with_theirs_together() -> None:
    drawing = PICTURE.draw([looked_up()])
    assert drawing is not None
    assert set(texts(drawing)) >= {"NUM → “,”", "6", "NUM → “)”", "5", "together", "9 of 12", "1", "maybe", "("}
    assert drawing["layout"]["annotations"][0]["text"] == "position 2 · 2 accept sequences · NUM"


def test_the_table_has_a_row_for_every_branch() -> None:
    rows = PICTURE.table([looked_up()])
    assert [(row["sequence"], row["tokens"]) for row in rows] == [("NUM → “,”", 6), ("NUM → “)”", 5)]
    assert {(row["remainder"], row["kind"], row["allowed"]) for row in rows} == {("1", "MAYBE", 9)}


def test_the_words_say_what_is_undecided_and_how_many_tokens_are_allowed() -> None:
    words = PICTURE.narrate([looked_up()])
    assert "“1” is undecided" in words
    assert "2 accept sequences; most is added by NUM → “,” (6 tokens)" in words
    assert "9 of 12 tokens" in words
    assert "nothing of the text is undecided" in PICTURE.narrate([looked_up(remainder="", kind="COMPLETE")])
    assert "has left the grammar" in PICTURE.narrate([looked_up(kind="DEAD", accept_sequences="")])


@pytest.mark.parametrize(("text", "rest"), [("(", "1"), ("", "true"), ('{"a": ', "-2.5"), ("x" * 200, "y" * 90)])
def test_the_line_stands_under_the_remainder(text: str, rest: str) -> None:
    drawing = PICTURE.draw([looked_up(text=text, remainder=rest)])
    assert drawing is not None
    start, end = underline(drawing)["x"]
    assert start == pytest.approx(7.25 * min(len(text), 44))
    assert end - start == pytest.approx(7.25 * min(len(rest), 32))


def test_the_latest_look_up_is_shown_and_masks_of_other_engines_are_not() -> None:
    other = looked_up()
    bare = Mask(**{**{name: getattr(other, name) for name in other.__struct_fields__}, "state": {"kind": "x"}})
    assert not PICTURE.relevant([bare])
    assert PICTURE.draw([bare]) is None
    assert PICTURE.table([looked_up(1), looked_up(5, allowed=3), bare])[0]["position"] == 5


def test_of_many_branches_the_largest_are_drawn_and_the_rest_counted() -> None:
    many = "\n".join(f"T{i} → U: {i}" for i in range(40))
    drawing = PICTURE.draw([looked_up(accept_sequences=many)])
    assert drawing is not None
    shown = texts(drawing)
    assert "T39 → U" in shown
    assert "T2 → U" not in shown
    assert "and 28 more" in shown
    assert len(PICTURE.table([looked_up(accept_sequences=many)])) == 40


def test_hostile_names_and_texts_stay_harmless_and_strange_numbers_are_passed_over() -> None:
    for token in HOSTILE:
        bad = token.text
        mask = looked_up(
            text=bad,
            remainder=bad * 3,
            kind=bad,
            terminal=bad,
            accept_sequences=f"{bad}: 7\n{bad}: -1\nx: {'9' * 5000}",
        )
        drawing, words = PICTURE.draw([mask]), PICTURE.narrate([mask])
        said = json.dumps(drawing, allow_nan=False, ensure_ascii=False)
        for harm in ("<script", "<a ", "<i>", "\u202e", "\x00"):
            assert harm not in said, (harm, token)
        assert words.endswith(".")
        assert len(PICTURE.table([mask])) <= 1
    strange = looked_up(accept_sequences="no number\n: 5\nx: ٣\nok: 3")
    assert [row["sequence"] for row in PICTURE.table([strange])] == ["ok"]


def test_every_state_of_the_text_can_be_drawn_in_house_colours() -> None:
    for kind in ("COMPLETE", "MAYBE", "INCOMPLETE", "DEAD", "ENDED", ""):
        for rest in ("", "1", "日本", "\\xe6"):
            for sequences in ("", "A: 0", "A: 1\nB: 1"):
                drawing = PICTURE.draw([looked_up(kind=kind, remainder=rest, accept_sequences=sequences, text="")])
                assert drawing is not None
                assert drawing["layout"]["height"] >= 150
                for trace in drawing["data"]:
                    assert trace["mode"] != "text" or any(trace["text"])
                    for colour in (trace.get("fillcolor"), trace.get("line", {}).get("color")):
                        assert colour is None or colour in dark_of


def test_a_long_run_is_drawn_at_once() -> None:
    events: list[Event] = [*STREAMS["greedy"](), *(looked_up(place) for place in range(500))]
    start = time.perf_counter()
    PICTURE.draw(events)
    PICTURE.narrate(events)
    assert time.perf_counter() - start < 0.15
