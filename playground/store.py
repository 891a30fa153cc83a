"""Every run is kept: SQLite, written while the run happens.

The store stands beside the stream, never in its way: `store.recording(events)` passes every event on unchanged
and writes what has passed in batches, at most a quarter of a second behind the event that passed last. A run
that ends is marked finished, stopped or failed at once; one whose process died is marked interrupted by the next
process that opens the database, with the events it had. When the database cannot be written (read-only, full,
damaged, locked, newer than this code), decoding goes on, `store.problem` says why in one sentence, and the next
batch tries again.

One connection writes, behind a lock. On a local disk (write-ahead log) a second connection reads, so that a slow
query delays nobody's run. `DECODING_PLAYGROUND_DATA` names the folder; on a mounted bucket, where write-ahead logs
do not work, `DECODING_PLAYGROUND_JOURNAL=delete` asks for a rollback journal, exclusive locking and one connection.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from platformdirs import user_data_path
from sqlite_utils import Database

from engines.errors import DecodingError, shown
from engines.events import Event, Totals, committed, from_json
from playground import schema
from playground.recording import Recording, is_alive, spelled

Status = Literal["running", "finished", "stopped", "failed", "interrupted"]

FILE_NAME = "runs.sqlite"
BUSY_MS = 20
"""How long one write waits for another program's lock: decoding stands still meanwhile."""
PATIENT_SECONDS = 2.0
"""How long opening the database and the last write of a run keep trying."""


class UnknownRun(DecodingError):
    """No run has this id."""


class UnreadableRun(DecodingError):
    """The run is there but cannot be read."""


class Unwritable(DecodingError):
    """A change could not be made; nothing was changed."""


class NewerDatabase(sqlite3.DatabaseError):
    """The database has taken steps that this code does not know."""


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `runs`: all about a run but its events."""

    id: str
    created: str
    """ISO 8601, UTC."""
    status: Status
    owner: str
    model: str
    weights: str
    precision: str
    method: str
    family: str
    lossless: bool
    params: dict[str, bool | int | float | str | None]
    prompt: str
    raw: bool
    seed: int
    max_new_tokens: int
    text: str | None
    """The output; of an interrupted or stopped run, what there was of it. None while running."""
    reason: str | None
    totals: Totals | None
    """The run in numbers; None unless finished."""
    error: str | None
    parent_run: str | None
    parent_position: int | None
    name: str | None
    starred: bool
    imported: str | None = None
    """When the run came in from a file (ISO 8601, UTC): then all that it says is somebody's claim."""


OWNER = re.compile(r"[A-Za-z0-9_-]{32}")
LONGEST_NAME = 120
_JSON_COLUMNS = ("params", "totals")


def is_owner(token: object) -> bool:
    """Whether `token` can be a browser's: 32 random characters, nothing that anybody else goes by."""
    return isinstance(token, str) and OWNER.fullmatch(token) is not None


def data_folder() -> Path:
    """Where this program keeps what must last: `DECODING_PLAYGROUND_DATA`, or the user's data folder."""
    chosen = os.environ.get("DECODING_PLAYGROUND_DATA")
    return Path(chosen).expanduser() if chosen else user_data_path("decoding-playground", appauthor=False)


class Store:
    """The runs in one SQLite file. Safe to use from several threads, and by several processes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        """Why runs are not kept, fit to be shown to users; None when they are."""
        self._writer: Database | None = None
        self._reader: Database | None = None
        self._writing = threading.RLock()
        self._reading = threading.RLock()
        self._ready = False
        self._owed: list[Callable[[Database], None]] = []
        self._columns: str | None = None

    @classmethod
    def open(cls, path: Path | str | None = None) -> Store:
        """The store at `path` (default: in `data_folder()`), made if need be. Never raises: see `problem`."""
        store = cls(Path(path) if path is not None else data_folder() / FILE_NAME)
        try:
            store._connect()
            failure: Exception | None = store._write(lambda db: None, patient=True)
        except (OSError, sqlite3.Error) as error:
            store.problem, failure = _sentence(error), error
        if failure is not None and not _may_pass(failure):
            store._connect_read_only()
        return store

    def close(self) -> None:
        """Closes the file. Recordings still under way go on without being kept."""
        self._disconnect()
        self.problem = self.problem or "Sessions are not kept: the database is closed."

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def recording(
        self,
        events: Iterator[Event],
        *,
        owner: str = "",
        parent: tuple[str, int] | None = None,
        name: str | None = None,
    ) -> Recording:
        """The same events, each kept as it passes. `parent` is the run and position that this run branches from.

        Close it, or leave its `with` block, to stop the run: it is then marked stopped and `events` is closed.
        """
        return Recording(self, events, owner=owner, parent=parent, name=name)

    def run(self, id: str) -> StoredRun:
        """The run with this id, whoever owns it. Raises `UnknownRun`, or `UnreadableRun` when the file is damaged."""
        rows = self.read(f"SELECT {self.columns} FROM runs WHERE id = ?", [id])
        if not rows:
            raise UnknownRun(f"There is no run called {shown(id)} here.")
        return stored_run(rows[0])

    def events(self, id: str) -> list[Event]:
        """The events of a run, in order; of a run under way, those written so far. Raises as `run` does."""
        rows = self.read("SELECT kind, body FROM events WHERE run = ? ORDER BY seq", [id])
        if not rows:
            self.run(id)
        try:
            return [from_json(row["body"]) for row in rows]
        except msgspec.MsgspecError as error:
            raise UnreadableRun(f"The events of run {shown(id)} cannot be read: {error}.") from None

    def runs(self, owner: str | None = None, *, limit: int = 50, offset: int = 0) -> list[StoredRun]:
        """The newest runs, of one owner or of all. Empty when the database cannot be read: see `problem`."""
        where, values = ("WHERE owner = ?", [owner]) if owner is not None else ("", [])
        try:
            rows = self.read(
                f"SELECT {self.columns} FROM runs {where} ORDER BY created DESC LIMIT ? OFFSET ?",
                [*values, limit, offset],
            )
        except UnreadableRun:
            return []
        return [stored_run(row) for row in rows]

    @property
    def columns(self) -> str:
        """What to select for `stored_run`, as far as this database has it: one that is only read may be older."""
        if self._columns is None:
            there = {row["name"] for row in self.read("SELECT name FROM pragma_table_info('runs')")}
            names = ", ".join(f"runs.{name}" for name in StoredRun.__struct_fields__ if name in there)
            if self.problem is not None:
                return names or "runs.id"
            self._columns = names
        return self._columns

    # What its owner does with a run. Runs of others are left alone without a word: nobody learns whether they exist.

    def rename(self, owner: str, id: str, name: str) -> bool:
        """Gives a run a name, or takes it away with an empty one; whether there was such a run."""
        said = " ".join(name.encode(errors="replace").decode().split())[:LONGEST_NAME].strip() or None
        return self._change("UPDATE runs SET name = ?", [said], owner, [id]) == 1

    def star(self, owner: str, ids: Sequence[str], starred: bool) -> int:
        """Stars runs, or takes their stars away; returns how many."""
        return self._change("UPDATE runs SET starred = ?", [int(starred)], owner, ids)

    def delete(self, owner: str, ids: Sequence[str]) -> list[str]:
        """Deletes runs with their events, for good; returns the ids of those that were there and had ended.

        A run that was continued from a deleted one is whole without it and stays.
        """
        deleted: list[str] = []

        def change(db: Database) -> None:
            deleted.clear()
            for id in ids:
                own = db.execute("DELETE FROM runs WHERE id = ? AND owner = ? AND status <> 'running'", [id, owner])
                if own.rowcount == 1:
                    db.execute("DELETE FROM events WHERE run = ?", [id])
                    deleted.append(id)

        return deleted if self._change_with(change) else []

    def _change(self, sql: str, values: list[Any], owner: str, ids: Sequence[str]) -> int:
        changed = 0

        def change(db: Database) -> None:
            nonlocal changed
            changed = sum(db.execute(f"{sql} WHERE id = ? AND owner = ?", [*values, id, owner]).rowcount for id in ids)

        return changed if self._change_with(change) else 0

    def _change_with(self, change: Callable[[Database], None]) -> bool:
        if self.write(change, patient=True):
            return True
        raise Unwritable(self.problem or "The database cannot be written.")

    def write(self, change: Callable[[Database], None], *, patient: bool = False) -> bool:
        """Makes `change` in one transaction. On failure nothing is changed and `problem` says why.

        `patient` keeps trying for two seconds when another program has locked the database.
        """
        return self._write(change, patient=patient) is None

    def owe(self, change: Callable[[Database], None]) -> None:
        """Makes a small `change` with the next write that succeeds, e.g. how a run ended while the disk was full."""
        with self._writing:
            if self._writer is not None:
                self._owed = [*self._owed[-999:], change]

    def _write(self, change: Callable[[Database], None], *, patient: bool) -> Exception | None:
        deadline = time.monotonic() + (PATIENT_SECONDS if patient else 0)
        with self._writing:
            while self._writer is not None:
                try:
                    self._prepare(self._writer)
                    with self._writer.atomic():
                        for owed in self._owed:
                            owed(self._writer)
                        change(self._writer)
                # Whatever it is, it must not end the run that is being kept.
                except Exception as error:
                    if _is_locked(error) and time.monotonic() < deadline:
                        continue
                    self.problem = _sentence(error)
                    return error
                self._owed.clear()
                self.problem = None
                return None
            return sqlite3.ProgrammingError(self.problem)

    def _connect(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        uri = self.path.absolute().as_uri()
        self._writer = _database(uri)
        if os.environ.get("DECODING_PLAYGROUND_JOURNAL", "").lower() == "delete":
            self._writer.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._reader, self._reading = self._writer, self._writing
        else:
            self._reader = _database(uri)
            self._reader.execute("PRAGMA query_only = ON")

    def _prepare(self, db: Database) -> None:
        """What must happen before the first write; put off to the next one when the database is locked."""
        if self._ready:
            return
        if schema.version(db) > schema.latest():
            raise NewerDatabase
        exclusive = self._reader is self._writer
        db.execute(f"PRAGMA journal_mode = {'DELETE' if exclusive else 'WAL'}").fetchone()
        # NORMAL: a power cut may cost the last batches, never the database; FULL would wait for the disk each time.
        db.execute(f"PRAGMA synchronous = {'FULL' if exclusive else 'NORMAL'}")
        schema.migrate(db)
        with db.atomic():
            _mark_interrupted(db)
        self._ready = True

    def _connect_read_only(self) -> None:
        """Earlier runs can often still be read when nothing can be written."""
        self._disconnect()
        # `immutable` reads a write-ahead database in a folder where its side files cannot be made.
        for flags in ("mode=ro", "mode=ro&immutable=1"):
            try:
                reader = _database(f"{self.path.absolute().as_uri()}?{flags}")
                reader.execute("SELECT id FROM runs LIMIT 1").fetchone()
            except sqlite3.Error:
                continue
            self._reader = reader
            return

    def _disconnect(self) -> None:
        with self._writing, self._reading:
            for db in {id(db): db for db in (self._reader, self._writer) if db is not None}.values():
                db.close()
            self._writer = self._reader = None

    def read(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query of ours. Raises `UnreadableRun` when the database cannot be read."""
        with self._reading:
            if self._reader is None:
                raise UnreadableRun(self.problem or "The database is closed.")
            try:
                return list(self._reader.query(sql, values))
            except UnicodeEncodeError:
                raise UnknownRun("What was asked for holds half a character, which nothing here does.") from None
            except sqlite3.Error as error:
                raise UnreadableRun(f"The database cannot be read: {_cause(error)}.") from None


def _database(uri: str) -> Database:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_MS / 1000, check_same_thread=False)
    return Database(connection, recursive_triggers=False, execute_plugins=False)


def _mark_interrupted(db: Database) -> None:
    """Runs whose process died keep the events they had, and the text that these spell."""
    for run in list(db.query("SELECT id, process, process_started FROM runs WHERE status = 'running'")):
        if is_alive(run["process"], run["process_started"]):
            continue
        commits = db.execute("SELECT body FROM events WHERE run = ? AND kind = 'commit' ORDER BY seq", [run["id"]])
        text = spelled(committed(from_json(body) for (body,) in commits.fetchall()))
        db.table("runs").update(run["id"], {"status": "interrupted", "text": text})


def stored_run(row: dict[str, Any]) -> StoredRun:
    """A row of `Store.columns` as a run."""
    decoded = {name: msgspec.json.decode(row[name]) if row[name] else None for name in _JSON_COLUMNS}
    return msgspec.convert({**row, **decoded}, StoredRun, strict=False)


_CAUSES = {
    "SQLITE_READONLY": "the database is read-only",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_CORRUPT": "the database is damaged",
    "SQLITE_NOTADB": "the database is damaged",
    "SQLITE_BUSY": "another program has locked the database",
    "SQLITE_LOCKED": "another program has locked the database",
    "SQLITE_CANTOPEN": "the database cannot be opened",
}


def _code(error: Exception) -> str:
    """SQLite's name for what went wrong, without the detail: SQLITE_BUSY for SQLITE_BUSY_SNAPSHOT."""
    return "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])


def _cause(error: Exception) -> str:
    if isinstance(error, NewerDatabase):
        return "the database was written by a newer version of this program"
    if isinstance(error, OSError):
        return f"its folder cannot be used ({error.strerror})"
    return _CAUSES.get(_code(error)) or f"the database does not work ({error})"


def _sentence(error: Exception) -> str:
    return f"Sessions are not kept: {_cause(error)}."


def _is_locked(error: Exception) -> bool:
    return _code(error) in ("SQLITE_BUSY", "SQLITE_LOCKED")


def _may_pass(error: Exception) -> bool:
    """Whether trying again later may help."""
    return _is_locked(error) or _code(error) == "SQLITE_FULL"
