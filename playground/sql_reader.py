"""Answers one SELECT about one person's runs, in a process of its own: `playground.query` starts it.

Standard library only, so that it starts in a few hundredths of a second. It reads the request, one JSON object, from
standard input and writes the answer as one JSON object.

Five walls stand around the query. The database is attached read-only under a random name that the query cannot know,
so `runs` and `events` can only mean the two temporary views, which show one owner's rows. An authorizer allows SELECT,
plain functions and reading through those views, nothing else. SQLite's own limits bound lengths and depths. A clock
interrupts the query, and so does the operating system, which also bounds memory and temporary files. And nothing
survives: the process ends.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import sys
import time
from typing import Any

RUN_COLUMNS = (
    *("id", "created", "status", "model", "weights", "precision", "method", "family", "lossless", "params", "prompt"),
    *("raw", "seed", "max_new_tokens", "text", "reason", "error", "parent_run", "parent_position", "name", "starred"),
    *("imported", "totals", "acceptance"),
)
TOTALS = ("tokens", "seconds", "tokens_per_second", "tokens_per_target_pass", "acceptance_rate")
"""Taken out of `totals`, so that they have columns of their own."""
EVENT_COLUMNS = ("run", "seq", "kind", "time", "body")

_PLAIN = """
-> ->> abs acos asin atan atan2 avg ceil ceiling changes char coalesce cos count cume_dist date datetime degrees
dense_rank exp first_value floor glob group_concat hex ifnull iif instr json json_array json_array_length
json_each json_extract json_group_array json_group_object json_object json_quote json_tree json_type json_valid
julianday lag last_value lead length like ln log log10 log2 lower ltrim max min mod nth_value ntile nullif
percent_rank pi pow power printf quote radians random rank replace round row_number rtrim sign sin sqlite_version
sqrt strftime string_agg substr substring sum tan time total trim trunc typeof unicode unixepoch upper
"""
FUNCTIONS = frozenset(_PLAIN.split())
MEMORY = 1024 * 2**20
"""Bytes of address space for the whole process."""
SCRATCH = 256 * 2**20
"""Bytes of one temporary file."""
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 8 * 2**20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 20,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Columns and rows, or `error` in SQLite's own words."""
    connection = sqlite3.connect(":memory:", uri=True, isolation_level=None)
    connection.text_factory = lambda text: text.decode(errors="replace")
    end = time.monotonic() + request["seconds"]
    try:
        show_only(connection, request)
        connection.set_progress_handler(lambda: int(time.monotonic() > end), 1000)
        cursor = connection.execute(request["sql"])
        if cursor.description is None:
            return {"error": "the statement gives no rows"}
        rows, full = fetch(cursor, request)
    except sqlite3.Error as error:
        late = getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT"
        return {"late": True} if late else {"error": str(error)}
    except sqlite3.Warning as error:  # how Python 3.11 calls a second statement
        return {"error": str(error)}
    except MemoryError:
        return {"error": "out of memory"}
    return {"columns": [name for name, *_ in cursor.description], "rows": rows, "full": full}


def show_only(connection: sqlite3.Connection, request: dict[str, Any]) -> None:
    """Lets `connection` see the owner's rows as `runs` and `events`, and nothing else."""
    schema = f"s{secrets.token_hex(16)}"
    connection.execute(f"ATTACH ? AS {schema}", [request["database"]])
    there = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info('runs', ?)", [schema])}
    columns = [name for name in RUN_COLUMNS if name in there]
    columns += [f"totals ->> '{name}' AS {name}" for name in TOTALS]
    # A view takes no parameters. The owner has been checked to be letters, digits, - and _ only.
    own = f"owner = '{request['owner']}'"
    connection.execute(f"CREATE TEMP VIEW runs AS SELECT {', '.join(columns)} FROM {schema}.runs WHERE {own}")
    connection.execute(
        f"CREATE TEMP VIEW events AS SELECT {', '.join(f'e.{name}' for name in EVENT_COLUMNS)}"
        f" FROM {schema}.runs AS r JOIN {schema}.events AS e ON e.run = r.id WHERE r.{own}"
    )
    for table in ("json_each", "json_tree"):  # made at their first use, which the authorizer would not allow
        connection.execute(f"SELECT 1 FROM {table}('[]')")
    for setting in ("query_only = ON", "trusted_schema = OFF", "cell_size_check = ON", "cache_size = -32000"):
        connection.execute(f"PRAGMA {setting}")
    for limit, value in LIMITS.items():
        connection.setlimit(limit, value)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)

    def allowed(action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
        match action:
            case sqlite3.SQLITE_SELECT:
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_FUNCTION if second is not None and second.lower() in FUNCTIONS:
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_READ if first in ("runs", "events") and database in ("temp", schema):
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_READ if first in ("json_each", "json_tree"):
                return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    connection.set_authorizer(allowed)


def fetch(cursor: sqlite3.Cursor, request: dict[str, Any]) -> tuple[list[list[Any]], bool]:
    """The rows that there is room for, and whether that is all of them."""
    rows: list[list[Any]] = []
    room = request["characters"]
    for row in cursor:
        cells = [cell(value, request["cell"]) for value in row]
        room -= sum(len(one) for one in cells if one is not None)
        if len(rows) == request["rows"] or room < 0:
            return rows, False
        rows.append(cells)
    return rows, True


def cell(value: Any, longest: int) -> str | None:
    """A value as text; whole numbers stay whole, bytes become hexadecimal."""
    if value is None:
        return None
    if isinstance(value, bytes):
        said = f"x'{value[: longest // 2].hex()}'"
    else:
        said = value[: longest + 1] if isinstance(value, str) else repr(value)
    return said if len(said) <= longest else said[:longest] + "…"


def bound(seconds: float) -> None:
    """Lets the operating system end a process that takes too much; on Windows there is no such limit."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (SCRATCH, SCRATCH))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    bound(asked["seconds"])
    json.dump(answer(asked), sys.stdout)
