"""The tables, and the steps that lead to them.

`PRAGMA user_version` counts the steps a database has taken. A step, once released, is never edited: the next
change is a new function below it. The tables:

* `runs`: one row per run, with what is needed to list, search and reproduce it. `header` is the `Started` event
  without the prompt's tokens, `text` the output so far, `totals` the numbers of a finished run. `process` and
  `process_started` say who writes the run, so that a run whose writer died can be told from a live one. `acceptance`
  is [accepted, tested] of its guesses by how far ahead they were, null while nobody has counted them; `imported` is
  when the run came in from a file, null for a run of this database's own; `bytes` is the size of its events,
  null while nobody has counted them.
* `events`: one row per event, in order; `body` is the event's line of JSON, complete.
* `words`: the full-text index over a run's name, prompt and text; `rowid` is `runs.number`. Triggers keep it up, so
  that nobody who writes a run has to think of it.
* `proofs`: one row per thing that was checked, shared by all runs it is true of. `key` is a hash of the columns after
  `created`; `kind` is `tokens` (a run's output against plain decoding; `prompt` and `output` are hashes of token ids)
  or `distribution` (a method on the tiny twin); `result` is a `playground.proof.Proof`.
* `comparisons`: one row per comparison, opened by its `id`. `setups` is a `playground.comparison.Comparison`, `runs`
  the ids of its runs by contestant and round, `curve` the cost of a pass on the machine at that time.
* `sweeps`: one row per sweep. `plan` is a `playground.sweep.Plan`; `weights` is what its first run said of the model;
  `process` and `process_started` say who works on it, null when nobody does.
* `sweep_runs`: one row per run of a sweep, in the order of the work. `run` is the finished run, null before; `output` a
  hash of its token ids; `error` why there is none.
* `circuits`: what a person did to the circuit of a run: `marks` is a `playground.circuits.Marks`. It goes with the run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from sqlite_utils import Database

Step = Callable[[Database], None]
_steps: list[Step] = []


def migration(step: Step) -> Step:
    """Adds `step` to the end of the path; it runs once per database, inside a transaction."""
    _steps.append(step)
    return step


def version(db: Database) -> int:
    """How many steps this database has taken."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def latest() -> int:
    """How many steps this code knows."""
    return len(_steps)


def migrate(db: Database) -> None:
    """Takes the missing steps in one transaction; of two processes at once, the second finds nothing to do."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in _steps[version(db) :]:
            step(db)
        db.execute(f"PRAGMA user_version = {max(version(db), latest())}")
    except BaseException:
        db.rollback()
        raise
    db.commit()


@migration
def runs_and_events(db: Database) -> None:
    runs = db.create_table(
        "runs",
        {
            "id": str,
            "created": str,
            "status": str,
            "owner": str,
            "model": str,
            "weights": str,
            "precision": str,
            "method": str,
            "family": str,
            "lossless": int,
            "params": str,
            "prompt": str,
            "raw": int,
            "seed": int,
            "max_new_tokens": int,
            "header": str,
            "text": str,
            "reason": str,
            "totals": str,
            "error": str,
            "parent_run": str,
            "parent_position": int,
            "name": str,
            "starred": int,
            "process": int,
            "process_started": float,
        },
        pk="id",
        not_null={"id", "created", "status", "owner", "starred"},
        defaults={"starred": 0},
    )
    runs.create_index(["owner", "created"])
    runs.create_index(["status"])
    runs.create_index(["parent_run"])
    db.create_table(
        "events",
        {"run": str, "seq": int, "kind": str, "time": float, "body": str},
        pk=("run", "seq"),
        not_null={"run", "seq", "kind", "time", "body"},
        foreign_keys=[("run", "runs", "id")],
    )


@migration
def words_and_acceptance(db: Database) -> None:
    # A number of its own, because SQLite may renumber rows when somebody vacuums the file.
    db.execute("ALTER TABLE runs ADD COLUMN number INTEGER")
    db.execute("UPDATE runs SET number = rowid")
    db.execute("CREATE UNIQUE INDEX runs_by_number ON runs (number)")
    db.execute("ALTER TABLE runs ADD COLUMN acceptance TEXT")
    db.execute("ALTER TABLE runs ADD COLUMN imported TEXT")
    db.execute("CREATE INDEX runs_by_kind ON runs (owner, method, family, model, status, starred)")
    number = "UPDATE runs SET number = (SELECT coalesce(max(number), 0) + 1 FROM runs) WHERE id = new.id;"
    try:
        db.execute(
            "CREATE VIRTUAL TABLE words USING fts5(name, prompt, text,"
            " tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')"
        )
    except sqlite3.OperationalError:  # an SQLite without FTS5: searching reads the runs one by one
        db.execute(f"CREATE TRIGGER runs_numbered AFTER INSERT ON runs BEGIN {number} END")
        return
    columns = "rowid, name, prompt, text"
    db.execute(f"INSERT INTO words ({columns}) SELECT number, name, prompt, text FROM runs")
    db.execute(
        f"CREATE TRIGGER runs_numbered AFTER INSERT ON runs BEGIN {number}"
        f" INSERT INTO words ({columns}) SELECT number, name, prompt, text FROM runs WHERE id = new.id; END"
    )
    db.execute(
        "CREATE TRIGGER runs_said AFTER UPDATE OF name, prompt, text ON runs BEGIN"
        " UPDATE words SET name = new.name, prompt = new.prompt, text = new.text WHERE rowid = new.number; END"
    )
    db.execute("CREATE TRIGGER runs_deleted AFTER DELETE ON runs BEGIN DELETE FROM words WHERE rowid = old.number; END")


@migration
def proofs(db: Database) -> None:
    db.create_table(
        "proofs",
        {
            "key": str,
            "created": str,
            "kind": str,
            "weights": str,
            "precision": str,
            "prompt": str,
            "method": str,
            "params": str,
            "seed": int,
            "max_new_tokens": int,
            "raw": int,
            "stop": str,
            "code": str,
            "output": str,
            "result": str,
        },
        pk="key",
        not_null={"key", "created", "kind", "method", "params", "code", "result"},
    )


@migration
def comparisons(db: Database) -> None:
    columns = {"id": str, "owner": str, "created": str, "setups": str, "runs": str, "curve": str}
    not_null = {"id", "owner", "created", "setups", "runs"}
    db.create_table("comparisons", columns, pk="id", not_null=not_null).create_index(["owner", "created"])


@migration
def sweeps(db: Database) -> None:
    text = dict.fromkeys(("id", "owner", "created", "plan", "model", "precision", "weights"), str)
    columns = text | {"process": int, "process_started": float}
    db.create_table("sweeps", columns, pk="id", not_null=set(text)).create_index(["owner", "created"])
    cells = {"sweep": str, "place": int, "seed": int, "prompt": int, "contender": int}
    db.create_table(
        "sweep_runs",
        cells | {"run": str, "output": str, "error": str},
        pk=("sweep", "place"),
        not_null=set(cells),
        foreign_keys=[("sweep", "sweeps", "id")],
    )


@migration
def sizes(db: Database) -> None:
    db.execute("ALTER TABLE runs ADD COLUMN bytes INTEGER")


@migration
def circuits(db: Database) -> None:
    db.create_table("circuits", {"run": str, "marks": str}, pk="run", not_null={"run", "marks"})
    db.execute("CREATE TRIGGER runs_unmarked AFTER DELETE ON runs BEGIN DELETE FROM circuits WHERE run = old.id; END")
