"""A run on its way into the store: the stream of events, each kept as it passes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import psutil
from sqlite_utils import Database

from engines.events import Commit, Draft, Event, Finished, Placed, Started, Verdict, to_json
from playground.acceptance import Acceptance

if TYPE_CHECKING:
    from playground.store import Store

BATCH_SECONDS = 0.25
BATCH_EVENTS = 256
RETRY_SECONDS = 1.0
"""Pause after a batch that could not be written."""
MOST_WAITING = 20_000
"""Events held for a database that cannot be written; beyond it they are dropped."""


class Recording(Iterator[Event]):
    """An iterator over the same events; `run_id` is set once the first event has passed.

    An interrupt counts as a stop, any other exception as a failure, and both pass on. Whatever goes wrong with the
    database does not: it is `store.problem`.
    """

    def __init__(
        self, store: Store, events: Iterator[Event], *, owner: str, parent: tuple[str, int] | None, name: str | None
    ) -> None:
        self.run_id: str | None = None
        self._store = store
        self._events = events
        self._owner, self._parent, self._name = owner, parent, name
        self._started: Started | None = None
        self._created = ""
        self._header_written = False
        self._waiting: list[Event] = []
        self._written = 0
        self._lost = 0
        self._placed: list[Placed] = []
        self._acceptance = Acceptance()
        self._next_batch = 0.0
        self._ended = False

    @property
    def kept(self) -> bool:
        """Whether the run is in the database, be it in part."""
        return self._header_written

    @property
    def problem(self) -> str | None:
        """Why not all that has happened is in the database; None when all is well."""
        return self._store.problem if self._waiting or not self.kept else None

    def __next__(self) -> Event:
        try:
            event = next(self._events)
        except StopIteration:
            self._end("failed", error="The run ended without a result.")
            raise
        except Exception as error:
            self._end("failed", error=str(error) or type(error).__name__)
            raise
        except BaseException:
            self._end("stopped")
            raise
        self._keep(event)
        return event

    def close(self) -> None:
        """Stops the run, unless it has ended: closes the events, and marks what was kept as stopped."""
        close = getattr(self._events, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._end("stopped")

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A page that was left drops its generator without a word; that is a stop too.
        if not self._ended and self.run_id is not None:
            self.close()

    def _keep(self, event: Event) -> None:
        if self._ended:
            return
        if isinstance(event, Started):
            self.run_id, self._created = new_run_id(), datetime.now(UTC).isoformat(timespec="microseconds")
            self._started = event
        elif isinstance(event, Commit):
            self._placed.extend(event.tokens)
        elif isinstance(event, Draft | Verdict):
            self._acceptance.count([event])
        if self._started is None:
            return
        self._waiting.append(event)
        if isinstance(event, Finished):
            self._end("finished", finished=event)
        elif time.monotonic() >= self._next_batch or len(self._waiting) >= (
            MOST_WAITING if self._store.problem else BATCH_EVENTS
        ):
            self._write_batch()

    def _write_batch(self) -> None:
        written = self._store.write(self._insert)
        if written:
            self._note_written()
        elif len(self._waiting) >= MOST_WAITING:
            self._lost += len(self._waiting)
            self._waiting.clear()
        self._next_batch = time.monotonic() + (BATCH_SECONDS if written else RETRY_SECONDS)

    def _end(
        self, status: Literal["finished", "stopped", "failed"], *, finished: Finished | None = None, error: str = ""
    ) -> None:
        if self._ended or self._started is None:
            self._ended = True
            return
        self._ended = True
        row: dict[str, Any] = {
            "status": status,
            "text": finished.text if finished else spelled(self._placed),
            "reason": finished.reason if finished else None,
            "totals": msgspec.json.encode(finished.totals).decode() if finished else None,
            "error": error.encode(errors="replace").decode() or None,
            "acceptance": self._acceptance.column,
        }
        lost = {"status": "interrupted", "error": f"{self._lost:,} events could not be kept."}

        def end(db: Database, row: dict[str, Any]) -> None:
            sets = ", ".join(f"{column} = :{column}" for column in row)
            db.execute(f"UPDATE runs SET {sets} WHERE id = :id", {**row, "id": self.run_id})

        def insert_and_end(db: Database) -> None:
            self._insert(db)
            end(db, row | lost if self._lost else row)

        if self._store.write(insert_and_end, patient=True):
            self._note_written()
        elif self._header_written:
            lost["error"] = f"{self._lost + len(self._waiting):,} events could not be kept."
            self._store.owe(lambda db: end(db, row | lost))

    def _insert(self, db: Database) -> None:
        if not self._header_written and self._started is not None:
            parent_run, parent_position = self._parent or (None, None)
            mine = {"parent_run": parent_run, "parent_position": parent_position, "name": self._name}
            header = header_row(self._started, id=self.run_id or "", owner=self._owner, created=self._created)
            db.table("runs").insert(header | mine, ignore=True)
        # Batches are the hot path, so no sqlite-utils here. OR IGNORE: an interrupt may hit between the commit and
        # the note that it happened.
        first = self._written + self._lost
        db.conn.executemany(
            "INSERT OR IGNORE INTO events (run, seq, kind, time, body) VALUES (?, ?, ?, ?, ?)",
            [
                (self.run_id, seq, type(event).__name__.lower(), event.time, to_json(event).decode())
                for seq, event in enumerate(self._waiting, start=first)
            ],
        )

    def _note_written(self) -> None:
        self._header_written = True
        self._written += len(self._waiting)
        self._waiting.clear()


def header_row(started: Started, *, id: str, owner: str, created: str) -> dict[str, Any]:
    """The row of `runs` for a run that begins now, written by this process."""
    pid, since = this_process()
    return {
        "id": id,
        "created": created,
        "status": "running",
        "owner": owner,
        "model": started.model,
        "weights": started.weights,
        "precision": started.precision,
        "method": started.method,
        "family": started.family,
        "lossless": started.lossless,
        "params": msgspec.json.encode(started.params).decode(),
        "prompt": started.prompt,
        "raw": started.raw_prompt,
        "seed": started.seed,
        "max_new_tokens": started.max_new_tokens,
        "header": to_json(msgspec.structs.replace(started, prompt_tokens=())).decode(),
        "process": pid,
        "process_started": since,
    }


def new_run_id() -> str:
    """96 random bits, safe in a link; never begins with a dash, so that it is safe on a command line too."""
    while (id := secrets.token_urlsafe(12)).startswith(("-", "_")):
        pass
    return id


def spelled(placed: Iterable[Placed]) -> str:
    """The text that these tokens spell; bytes that are not UTF-8 become U+FFFD."""
    parts = (bytes.fromhex(p.token.hex) if p.token.hex else p.token.text.encode(errors="replace") for p in placed)
    return b"".join(parts).decode(errors="replace")


def this_process() -> tuple[int, float]:
    """Process id and start time: together they name a process once and for all on one machine."""
    process = psutil.Process()
    return process.pid, process.create_time()


def is_alive(pid: int, since: float) -> bool:
    """Whether the process that `this_process` named is still there."""
    try:
        process = psutil.Process(pid)
        # Two seconds: start times are computed from a clock that may have been set since.
        return bool(abs(process.create_time() - since) < 2 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
