"""What every picture owes: words, any prefix of any stream, harmless text, house colours, plain JSON, speed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from attribution_streams import circuits, deleted, importance, lens
from constrained_streams import constrained, drawn_again, particles, spans
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_streams import (
    STREAMS,
    beams,
    best_of_n,
    contrastive,
    greedy,
    lookup,
    recycling,
    sampling,
)

from engines.events import Event
from visuals.palette import dark_of
from visuals.picture import Picture, pictures

PICTURES = pictures()
IDS = {
    "learning-curve",
    "token-stream",
    "confidence",
    "filters",
    "beam-tree",
    "draft-tree",
    "acceptance",
    "budget",
    "scores",
    "matches",
    "cost-curve",
    "rejection-xray",
    "overlap",
    "search-tree",
    "successors",
    "timeline",
    "mask",
    "distortion",
    "trie",
    "convergence",
    "dartboard",
    "particles",
    "suggestions",
    "span-matrix",
    "syncode-automaton",
    "arena",
    "patch-maps",
    "head-map",
    "circuit-graph",
    "token-importance",
    "deletion",
    "logit-lens",
}

every_picture = pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
every_stream = pytest.mark.parametrize("name", STREAMS)


def strings(value: Any) -> Iterator[str]:
    """All strings in a nested value, keys aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def test_all_files_are_found() -> None:
    assert set(PICTURES) >= IDS


@every_picture
def test_words(picture: Picture) -> None:
    assert 1 <= len(picture.title.split()) <= 3
    assert picture.explains.endswith(".")
    assert len(picture.explains) <= 120
    assert picture.empty.endswith(".")
    assert 40 <= len(picture.empty) <= 130


@every_picture
def test_nothing_yet(picture: Picture) -> None:
    assert picture.draw([]) is None
    assert picture.table([]) == []
    assert picture.narrate([]).endswith(".")
    assert not picture.relevant([])


@every_picture
@every_stream
def test_any_prefix(picture: Picture, name: str) -> None:
    events = STREAMS[name]()
    for stop in range(len(events) + 1):
        check(picture, events[:stop])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_mixture(data: st.DataObject) -> None:
    """Pictures trust no order: events of several methods, shuffled, with gaps."""
    pool = [event for make in STREAMS.values() for event in make()]
    events = data.draw(st.lists(st.sampled_from(pool), max_size=30))
    for picture in PICTURES.values():
        check(picture, events)


def check(picture: Picture, events: list[Event]) -> None:
    drawing = picture.draw(events)
    assert drawing == picture.draw(events)
    if not picture.relevant(events):
        assert drawing is None
    rows = picture.table(events)
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert all(value is None or isinstance(value, str | int | float) for row in rows for value in row.values())
    sentences = picture.narrate(events)
    assert sentences.strip().endswith(".")
    if drawing is None:
        return
    text = json.dumps(drawing, allow_nan=False)
    if drawing["kind"] == "tokens":
        return
    assert json.loads(text) == drawing
    assert drawing["layout"]["height"] >= 150
    assert "width" not in drawing["layout"]
    assert drawing["layout"]["uirevision"] == "keep"
    assert drawing["min_width"] <= 2000
    for string in strings(drawing):
        for tag in re.findall(r"<[^>]*>?", string):
            assert tag in {"<b>", "</b>", "<s>", "</s>", "<br>", "<extra>", "</extra>"}, string
        if re.fullmatch(r"#[0-9a-fA-F]{3,8}", string):
            assert string in dark_of
        assert not string.startswith("rgb") or string == "rgba(0,0,0,0)"


@every_picture
def test_hostile_text_never_becomes_markup(picture: Picture) -> None:
    drawing = picture.draw(STREAMS["hostile"]())
    if drawing is None or drawing["kind"] == "tokens":
        return
    for string in strings(drawing):
        assert "<script" not in string
        assert "<a" not in string
        assert "<i>" not in string
        assert "<u>" not in string
        assert "\u202e" not in string
        assert "\x00" not in string
        assert "\n" not in string
    for trace in drawing["data"]:
        assert "alert" not in trace.get("hovertemplate", "")
        assert "customdata} %" not in trace.get("hovertemplate", "")


@every_picture
def test_fonts_are_never_tiny(picture: Picture) -> None:
    def sizes(value: Any, key: str = "") -> Iterator[float]:
        if isinstance(value, dict):
            for name, item in value.items():
                if name == "size" and key.endswith("font"):
                    yield item
                yield from sizes(item, name)
        elif isinstance(value, list):
            for item in value:
                yield from sizes(item, key)

    for make in STREAMS.values():
        drawing = picture.draw(make())
        assert drawing is None or all(size >= 11 for size in sizes(drawing))


LONG = {
    "greedy": lambda: greedy(500),
    "sampling": lambda: sampling(500),
    "recycling": lambda: recycling(150),
    "lookup": lambda: lookup(11),
    "contrastive": lambda: contrastive(500),
    "beams": lambda: beams(200, 4),
    "best-of-n": lambda: best_of_n(4, 500),
    "constrained": lambda: constrained(500),
    "drawn again": lambda: drawn_again(500),
    "particles": lambda: particles(100, 16),
    "spans": lambda: spans(60, 30),
    "circuits": lambda: circuits(30, 9, 20, 3000, 30, (("attribution-patching", 0.1), ("relp", 0.01))),
    "importance": lambda: importance(100, 256, ("gradient-x-input", "relp", "integrated-gradients")),
    "deleted": lambda: deleted(256, tuple(f"method-{at}" for at in range(12))),
    "lens": lambda: lens(30, 256),
}


@pytest.mark.parametrize("name", LONG)
def test_long_runs_are_drawn_at_once(name: str) -> None:
    """Each function takes about 10 ms on a quiet machine; the bound allows for a very busy one."""
    events = LONG[name]()
    for picture in PICTURES.values():
        for function in (picture.draw, picture.narrate):
            seconds = []
            for _ in range(3):
                begin = time.perf_counter()
                function(events)
                seconds.append(time.perf_counter() - begin)
            assert min(seconds) < 0.15, (picture.id, function)
