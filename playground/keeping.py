"""Room in the database: what one person's runs take, and which of them go when there is no room for another.

The oldest go first; a run with a star stays, and so does one in progress. `runs.bytes` remembers the size of a run's
events, so that each is counted once.
"""

from __future__ import annotations

from typing import Any

from sqlite_utils import Database

from playground.limits import LimitReached, Limits
from playground.store import Store, UnreadableRun, Unwritable


def make_room(store: Store, limits: Limits, owner: str) -> list[str]:
    """Deletes what must go before `owner` keeps another run; returns the ids.

    Raises `LimitReached` when runs with a star leave no room. A database that cannot be read or written makes no room
    and is no reason to refuse a run, which then is not kept either.
    """
    most_runs, most_bytes = limits.stored_runs, limits.stored_megabytes * 1e6
    if not (most_runs or most_bytes):
        return []
    try:
        if most_bytes:
            _count(store, owner)
        runs = store.read(
            "SELECT id, starred, bytes FROM runs WHERE owner = ? AND status <> 'running' ORDER BY created DESC", [owner]
        )
        fits = _fitting(runs, most_runs or len(runs) + 1, most_bytes or float("inf"))
        return store.delete(owner, [run["id"] for run in runs if run["id"] not in fits])
    except (UnreadableRun, Unwritable):
        return []


def _fitting(runs: list[dict[str, Any]], most_runs: int, most_bytes: float) -> set[str]:
    """Ids of the runs that stay: those with a star, and the newest of the others that fit beside one more run."""
    starred = [run for run in runs if run["starred"]]
    size = sum(run["bytes"] or 0 for run in starred)
    if len(starred) >= most_runs or size >= most_bytes:
        kept = f"{most_runs:,} runs" if len(starred) >= most_runs else f"{most_bytes / 1e6:,.0f} MB of runs"
        raise LimitReached(
            f"This server keeps {kept} for one person, and yours all have a star. "
            "Take the star off some in Sessions, or export and delete them."
        )
    fits = {run["id"] for run in starred}
    for run in runs:
        if run["starred"]:
            continue
        size += run["bytes"] or 0
        if len(fits) + 1 >= most_runs or size >= most_bytes:
            break
        fits.add(run["id"])
    return fits


def _count(store: Store, owner: str) -> None:
    uncounted = store.read("SELECT id FROM runs WHERE owner = ? AND bytes IS NULL AND status <> 'running'", [owner])
    if not uncounted:
        return

    def change(db: Database) -> None:
        for run in uncounted:
            db.execute(
                "UPDATE runs SET bytes = (SELECT COALESCE(SUM(LENGTH(body)), 0) FROM events WHERE run = :id) "
                "WHERE id = :id",
                run,
            )

    store.write(change)
