"""What is read from outside, fed with noise: an answer or the error that was promised, in bounded time, never another.

And pictures: an imported run may hold any valid events in any order, so no picture may rely on more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.events import Commit, Event, Placed, Started, Token, from_json, to_json
from tests.fuzzing import any_event
from visuals.picture import pictures

SLOW = 1.0
"""Seconds for one small input: a bound against work that grows without limit, not a speed."""
QUIET = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SPLICES = [
    b"",
    b"null",
    b"-1",
    b"1e400",
    b"[]",
    b"{}",
    b'"',
    b"\\ud800",
    b"\xff",
    b"\x00",
    b"9" * 400,
    b"NaN",
    b"[" * 99,
]


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """A valid input with a few of its bytes cut out, doubled or replaced."""
    line = draw(valid)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(line)))
        stop = min(len(line), start + draw(st.integers(0, 12)))
        splice = draw(st.one_of(st.sampled_from(SPLICES), st.binary(max_size=4), st.just(line[start:stop] * 2)))
        line = line[:start] + splice + line[stop:]
    return line


def timed(function: Callable[[], object]) -> None:
    began = time.process_time()
    function()
    assert time.process_time() - began < SLOW


def decode(line: bytes) -> None:
    try:
        event = from_json(line)
    except msgspec.MsgspecError:
        return
    assert isinstance(event, Event)


@given(st.one_of(st.binary(max_size=200), mutated(any_event().map(to_json))))
@QUIET
def test_a_line_is_an_event_or_refused(line: bytes) -> None:
    timed(lambda: decode(line))


@pytest.mark.parametrize(
    "line", [b"[" * 10**6, b'{"kind":' * 10**5, b'{"kind":"note","text":"' + b"x" * 10**7, b"9" * 10**6]
)
def test_large_nonsense_is_refused_at_once(line: bytes) -> None:
    timed(lambda: decode(line))


@pytest.mark.parametrize("hex", ["f", "zz", "f0 9f", "F09F", "f09f\n", "-1"])
def test_bytes_that_are_none_are_refused(hex: str) -> None:
    line = to_json(Commit(position=0, step=0, tokens=(Placed(Token(1, "", "f09f"), "sampled"),)))
    from_json(line)
    with pytest.raises(msgspec.ValidationError, match="hex"):
        from_json(line.replace(b"f09f", msgspec.json.encode(hex)[1:-1]))


@given(any_event())
@QUIET
def test_an_event_is_read_back_as_it_was(event: Event) -> None:
    assert from_json(to_json(event)) == event


@pytest.mark.parametrize("name", pictures())
@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_picture_takes_any_events_in_any_order(name: str, data: st.DataObject) -> None:
    picture = pictures()[name]
    events = data.draw(st.lists(any_event(), max_size=12))
    if data.draw(st.booleans()):
        events = [data.draw(any_event(Started)), *events]

    def show() -> None:
        picture.relevant(events)
        drawing = picture.draw(events)
        if drawing is not None:
            msgspec.json.encode(drawing)
        picture.table(events)
        assert isinstance(picture.narrate(events), str)

    timed(show)
