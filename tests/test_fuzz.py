"""What is read from outside, fed with noise: an answer or the error that was promised, in bounded time, never another.

And pictures: an imported run may hold any valid events in any order, so no picture may rely on more.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.errors import DecodingError
from engines.events import Commit, Event, Placed, Started, Token, from_json, to_json
from playground.exchange import BadFile, import_runs, read_runs
from playground.links import BadLink, decoded, encoded
from playground.run_card import BadCard, card_of
from playground.run_card import read as read_card
from playground.run_card import to_json as card_json
from playground.setup import Setup
from playground.store import Store
from tests.fuzzing import WORDS, any_event
from tests.playground.stored_runs import whole_run
from visuals.picture import pictures

SLOW = 1.0
"""Seconds for one small input: a bound against work that grows without limit, not a speed."""
QUIET = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

CARD = card_json(card_of(whole_run())).encode()
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


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


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


SETUPS = st.builds(
    Setup,
    method=st.sampled_from(["greedy", "sampling", "x"]),
    prompt=WORDS,
    params=st.dictionaries(st.sampled_from(["temperature", "top_k"]), st.floats(0, 2), max_size=2),
    seed=st.integers(0, 2**63 - 1),
)


def follow(link: str) -> None:
    try:
        setup = decoded(link)
    except BadLink:
        return
    assert isinstance(setup, Setup)


@given(st.one_of(st.text(max_size=200), mutated(SETUPS.map(lambda setup: encoded(setup).encode())).map(_text)))
@QUIET
def test_a_link_is_a_setup_or_refused(link: str) -> None:
    timed(lambda: follow(link))


@given(st.binary(max_size=300), st.booleans())
@QUIET
def test_a_link_of_packed_noise_is_refused(noise: bytes, packed: bool) -> None:
    body = base64.urlsafe_b64encode(zlib.compress(noise) if packed else noise).decode().rstrip("=")
    for prefix in ("", "1", encoded(Setup(method="greedy", prompt="x"))[:2]):
        timed(lambda start=prefix: follow(start + body))


def read(file: Path) -> None:
    try:
        runs = list(read_runs(file))
    except BadFile:
        return
    assert all(isinstance(event, Event) for run in runs for event in run)


@given(
    st.lists(mutated(any_event().map(to_json)), max_size=6).map(b"\n".join),
    st.sampled_from([bytes, gzip.compress, lambda data: gzip.compress(data)[:-5], lambda data: b"\x1f\x8b" + data]),
)
@QUIET
def test_a_file_holds_runs_or_is_refused(lines: bytes, pack: Callable[[bytes], bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runs.jsonl"
        file.write_bytes(pack(lines))
        timed(lambda: read(file))


@given(st.lists(any_event(), min_size=1, max_size=6), st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_run_of_noise_is_kept_whole_or_not_at_all(events: list[Event], data: st.DataObject) -> None:
    started = msgspec.structs.replace(data.draw(any_event(Started)), seq=0)
    lines = b"\n".join(to_json(event) for event in [started, *events])
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "runs.sqlite") as store:
        file = Path(folder) / "runs.jsonl"
        file.write_bytes(lines)
        try:
            ids = import_runs(store, "o" * 32, file)
        except DecodingError:
            ids = []
        assert [run.id for run in store.runs()] == ids[::-1]
        for id in ids:
            assert store.events(id)[0] == started


@given(st.one_of(st.binary(max_size=200), mutated(st.just(CARD))))
@QUIET
def test_a_file_is_a_run_card_or_refused(content: bytes) -> None:
    with contextlib.suppress(BadCard):
        timed(lambda: read_card(content))
