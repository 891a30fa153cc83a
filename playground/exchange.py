"""Runs in and out: JSON lines, one event a line, a run from its `Started` to the next one; gzipped or not.

What comes in is somebody's claim. Every line is read and checked before anything is kept, so a file comes in whole or
not at all. Its runs get new ids, belong to whoever brings them, and are marked as imported for good.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
from sqlite_utils import Database

from engines.errors import DecodingError
from engines.events import Event, Started, committed, from_json, to_json
from playground.acceptance import Acceptance
from playground.recording import header_row, new_run_id, spelled
from playground.soundness import Soundness, Unsound
from playground.store import Store, Unwritable

LARGEST_FILE = 32 * 2**20
"""Bytes of a file as it is."""
LARGEST_UNPACKED = 256 * 2**20
LONGEST_LINE = 8 * 2**20
MOST_EVENTS = 100_000
"""Of one run."""
MOST_RUNS = 1000
"""Of one file, in or out."""

_GZIP = b"\x1f\x8b"


class BadFile(DecodingError):
    """The file holds no runs that could be read. Nothing of it was kept."""

    def __init__(self, why: str, line: int = 0) -> None:
        place = f"Line {line:,} of the file: {why}" if line else f"The file {why}"
        super().__init__(f"{place}. Nothing was imported.")


class Exported(msgspec.Struct, frozen=True):
    """What went out: runs written, and runs for which there was no room."""

    runs: int
    left_out: int


def import_runs(store: Store, owner: str, file: Path) -> list[str]:
    """Keeps the runs of a file; returns their new ids, in the file's order. Raises `BadFile` or `Unwritable`."""
    for _ in read_runs(file):
        pass
    ids: list[str] = []
    for events in read_runs(file):
        ids.append(_keep(store, owner, events, imported=len(ids)))
    return ids


def read_runs(file: Path) -> Iterator[list[Event]]:
    """The runs of a file, one after the other. Raises `BadFile` with the line at fault."""
    found = 0
    for events in _split(file):
        found += 1
        if found > MOST_RUNS:
            raise BadFile(f"holds more than {MOST_RUNS:,} runs; split it")
        yield events
    if not found:
        raise BadFile("is empty")


def write_runs(store: Store, owner: str, file: IO[bytes] | gzip.GzipFile, ids: Sequence[str] | None = None) -> Exported:
    """Writes an owner's runs as JSON lines, newest first: those in `ids`, or all of them."""
    own = [
        row["id"]
        for row in store.read("SELECT id FROM runs WHERE owner = ? ORDER BY created DESC, id DESC", [owner])
        if ids is None or row["id"] in set(ids)
    ]
    written = room = 0
    for written, id in enumerate(own):
        lines = [row["body"].encode() + b"\n" for row in store.read(_BODIES, [id])]
        room += sum(map(len, lines))
        if written == MOST_RUNS or (written and room > LARGEST_UNPACKED):
            return Exported(written, len(own) - written)
        file.writelines(lines)
    return Exported(len(own), 0)


def write_file(store: Store, owner: str, path: Path, ids: Sequence[str] | None = None) -> Exported:
    """The same into a gzipped file."""
    # Speed 6 is twice as fast as the default and hardly larger.
    with gzip.open(path, "wb", compresslevel=6) as file:
        return write_runs(store, owner, file, ids)


_BODIES = "SELECT body FROM events WHERE run = ? ORDER BY seq"


def _keep(store: Store, owner: str, events: list[Event], *, imported: int) -> str:
    started = events[0]
    assert isinstance(started, Started)
    now, id = datetime.now(UTC).isoformat(timespec="microseconds"), new_run_id()
    finished = events[-1] if len(events) > 1 and type(events[-1]).__name__ == "Finished" else None
    row: dict[str, Any] = header_row(started, id=id, owner=owner, created=now) | {
        "status": "finished" if finished else "interrupted",
        "text": getattr(finished, "text", None) if finished else spelled(committed(events)),
        "reason": getattr(finished, "reason", None),
        "totals": msgspec.json.encode(finished.totals).decode() if finished else None,  # type: ignore[attr-defined]
        "acceptance": Acceptance().count(events).column,
        "imported": now,
    }

    def insert(db: Database) -> None:
        db.table("runs").insert(row)
        db.conn.executemany(
            "INSERT INTO events (run, seq, kind, time, body) VALUES (?, ?, ?, ?, ?)",
            [(id, e.seq, type(e).__name__.lower(), e.time, to_json(e).decode()) for e in events],
        )

    # One run a transaction, so that other people's runs wait for no more than that.
    if not store.write(insert, patient=True):
        already = f" {imported} of the file's runs were imported before that." if imported else ""
        raise Unwritable(f"{store.problem}{already}")
    return id


def _split(file: Path) -> Iterator[list[Event]]:
    events: list[Event] = []
    sound = Soundness()
    for number, line in _lines(file):
        try:
            event = from_json(line)
            if isinstance(event, Started) and events:
                yield events
                events, sound = [], Soundness()
            sound.take(event)
            to_json(event)
        except Unsound as error:
            raise BadFile(f"this event {error}", number) from None
        except msgspec.ValidationError as error:
            raise BadFile(f"this is not an event ({_short(str(error))})", number) from None
        except (ValueError, RecursionError, OverflowError):
            raise BadFile("this is not JSON, or not text", number) from None
        events.append(event)
        if len(events) > MOST_EVENTS:
            raise BadFile(f"the run has more than {MOST_EVENTS:,} events", number)
    if events:
        yield events


def _short(words: str, limit: int = 120) -> str:
    """The file's own words may be in the error; the place, at its end, is what helps."""
    visible = words.encode("unicode_escape").decode()
    return visible if len(visible) <= limit else f"{visible[: limit // 2]} … {visible[-limit // 2 :]}"


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    if file.stat().st_size > LARGEST_FILE:
        raise BadFile(f"is larger than {LARGEST_FILE // 2**20} MB; split it, or compress it with gzip")
    number = unpacked = 0
    try:
        with _unpacked(file) as content:
            while line := content.readline(LONGEST_LINE + 1):
                number, unpacked = number + 1, unpacked + len(line)
                if len(line) > LONGEST_LINE:
                    raise BadFile(f"it is longer than {LONGEST_LINE // 2**20} MB", number)
                if unpacked > LARGEST_UNPACKED:
                    raise BadFile(f"is larger than {LARGEST_UNPACKED // 2**20} MB when unpacked; split it")
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise BadFile("is damaged: gzip cannot unpack it") from None


@contextmanager
def _unpacked(file: Path) -> Iterator[IO[bytes]]:
    with file.open("rb") as content:
        packed = content.read(2) == _GZIP
        content.seek(0)
        yield gzip.GzipFile(fileobj=content) if packed else content  # type: ignore[misc]
