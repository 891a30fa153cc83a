"""The tables, and the steps that lead to them.

`PRAGMA user_version` counts the steps a database has taken. A step, once released, is never edited: the next
change is a new function below it. Two tables so far:

* `runs`: one row per run, with what is needed to list, search and reproduce it. `header` is the `Started` event
  without the prompt's tokens, `text` the output so far, `totals` the numbers of a finished run. `process` and
  `process_started` say who writes the run, so that a run whose writer died can be told from a live one.
* `events`: one row per event, in order; `body` is the event's line of JSON, complete.
"""

from __future__ import annotations

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
