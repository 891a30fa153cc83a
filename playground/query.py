"""SQL about one's own runs: one SELECT over `runs` and `events`, read-only, bounded, in a process of its own.

    query(store, owner, "SELECT method, avg(acceptance_rate) FROM runs GROUP BY method")

What the query can see and do is decided in `playground.sql_reader`; here is who may ask, and for how long. A query
delays nobody's run: it has its own process and its own connection, and few of them run at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from engines.errors import DecodingError
from playground.sql_reader import EVENT_COLUMNS, RUN_COLUMNS, TOTALS
from playground.store import Store, is_owner

SECONDS = 2.0
MOST_ROWS = 1000
LONGEST_CELL = 2000
MOST_CHARACTERS = 2_000_000
LONGEST_SQL = 10_000
AT_ONCE = 2
"""Queries that run at the same time; more wait a moment and are then refused."""
PATIENCE = 5.0

COLUMNS = {"runs": (*RUN_COLUMNS, *TOTALS), "events": EVENT_COLUMNS}
"""What can be asked for, by table."""

_turns = threading.BoundedSemaphore(AT_ONCE)


class QueryError(DecodingError):
    """The query cannot be answered; the message holds SQLite's own words where it is SQLite that refused."""


class Answer(msgspec.Struct, frozen=True):
    """What a query gave. Values are text, as SQLite writes them; null is None."""

    columns: list[str]
    rows: list[list[str | None]]
    full: bool
    """Whether these are all rows."""


def query(store: Store, owner: str, sql: str, *, seconds: float = SECONDS) -> Answer:
    """The answer to one SELECT statement. Raises `QueryError`."""
    if not is_owner(owner):
        raise QueryError("There are no runs of yours here yet.")
    sql = sql.strip()
    if not sql:
        raise QueryError("Type a SELECT statement, or click one of the examples.")
    if len(sql) > LONGEST_SQL:
        raise QueryError(f"The query is {len(sql):,} characters long; at most {LONGEST_SQL:,} are read.")
    if "\x00" in sql:
        raise QueryError("The query holds a zero byte, which SQL has no use for.")
    if not store.path.is_file():
        raise QueryError(store.problem or "There is no database.")
    if not _turns.acquire(timeout=PATIENCE):
        raise QueryError("Other people's queries are running. Try again in a few seconds.")
    try:
        return _answer(store, owner, sql.encode(errors="replace").decode(), seconds)
    finally:
        _turns.release()


def _answer(store: Store, owner: str, sql: str, seconds: float) -> Answer:
    uri = store.path.absolute().as_uri()
    request = {
        "database": f"{uri}?mode=ro",
        "owner": owner,
        "sql": sql,
        "seconds": seconds,
        "rows": MOST_ROWS,
        "cell": LONGEST_CELL,
        "characters": MOST_CHARACTERS,
    }
    said = _ask(request, seconds)
    if store.problem and "unable to open" in said.get("error", ""):
        # A write-ahead database in a folder where its side files cannot be made.
        said = _ask(request | {"database": f"{uri}?mode=ro&immutable=1"}, seconds)
    if said.get("late"):
        raise QueryError(
            f"The query took more than {seconds:g} seconds, or too much room, and was stopped."
            " Ask for less: a WHERE, fewer joins."
        )
    if error := said.get("error"):
        refused = any(word in error for word in ("authoriz", "prohibited", "cannot modify", "constructor failed"))
        hint = " Only SELECT on runs and events is allowed." if refused else ""
        raise QueryError(f"SQLite says: {error.rstrip('.')}.{hint}")
    return msgspec.convert(said, Answer)


def _ask(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    reader = Path(__file__).with_name("sql_reader.py")
    try:
        # No environment and no site packages: the reader needs neither, and starts faster.
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(reader)],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=seconds + 1,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"late": True}
    if done.returncode < 0:  # ended by the operating system for its time or its temporary files
        return {"late": True}
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"error": "out of memory"} if b"MemoryError" in done.stderr else {"error": "the query broke the reader"}
    return said
