"""The acceptance atlas: which guesses come true, by how far ahead they were, method, and kind of prompt.

A run is counted once, when it ends, into one short column (`runs.acceptance`), so that the atlas of ten thousand
runs reads no events. Runs that were kept before that, or whose process died, are counted when the atlas is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
from sqlite_utils import Database

from engines.events import from_json
from playground.acceptance import Acceptance
from playground.store import Store

CATCH_UP_SECONDS = 1.0
"""How long one look at the atlas counts older runs; the next look goes on."""


class Row(msgspec.Struct, frozen=True):
    """One method on one kind of prompt."""

    method: str
    category: str
    """Empty: prompts of one's own."""
    runs: int
    rates: tuple[tuple[int, int], ...]
    """(accepted, tested) at 1, 2, 3 … tokens ahead."""

    @property
    def total(self) -> tuple[int, int]:
        """(accepted, tested) over all distances."""
        return sum(accepted for accepted, _ in self.rates), sum(tested for _, tested in self.rates)


def atlas(store: Store, owner: str, categories: Mapping[str, str]) -> list[Row]:
    """The rows of one owner's atlas by method and category; `categories` names the category of the known prompts.

    Imported runs do not count: nobody here measured them.
    """
    found = store.read(
        """
        SELECT runs.method, coalesce(known.category, '') AS category, ahead.key AS ahead,
            sum(ahead.value ->> 0) AS accepted, sum(ahead.value ->> 1) AS tested, count(*) AS runs
        FROM runs JOIN json_each(runs.acceptance) AS ahead LEFT JOIN (
            SELECT key AS prompt, value AS category FROM json_each(:categories)
        ) AS known ON known.prompt = runs.prompt
        WHERE runs.owner = :owner AND runs.acceptance <> '[]' AND runs.imported IS NULL
        GROUP BY 1, 2, 3 ORDER BY 1, known.category IS NULL, 2, 3
        """,
        {"owner": owner, "categories": msgspec.json.encode(categories).decode()},
    )
    rows: dict[tuple[str, str], list[dict[str, int]]] = {}
    for cell in found:
        rows.setdefault((cell["method"], cell["category"]), []).append(cell)
    return [
        Row(method, category, cells[0]["runs"], tuple((cell["accepted"], cell["tested"]) for cell in cells))
        for (method, category), cells in rows.items()
    ]


def catch_up(store: Store, owner: str, *, seconds: float = CATCH_UP_SECONDS) -> int:
    """Counts runs of an owner that have not been counted; returns how many are left."""
    left = store.read(
        "SELECT id FROM runs WHERE owner = ? AND acceptance IS NULL AND status <> 'running' ORDER BY created DESC",
        [owner],
    )
    ids = [row["id"] for row in left]
    counted: dict[str, str] = {}
    end = time.monotonic() + seconds
    for id in ids:
        if time.monotonic() >= end:
            break
        guesses = store.read(
            "SELECT body FROM events WHERE run = ? AND kind IN ('draft', 'verdict') ORDER BY seq", [id]
        )
        try:
            counted[id] = Acceptance().count(from_json(row["body"]) for row in guesses).column
        except msgspec.MsgspecError:
            counted[id] = "[]"

    def keep(db: Database) -> None:
        db.conn.executemany("UPDATE runs SET acceptance = ? WHERE id = ?", [(said, id) for id, said in counted.items()])

    kept = store.write(keep) if counted else True
    return len(ids) - (len(counted) if kept else 0)
