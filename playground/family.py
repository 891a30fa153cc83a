"""Runs that branch off each other: a tree whose root is the run that was there first, with shared beginnings.

Only one's own runs are in it, with one exception: the root may be a run that somebody else gave a link to, or one that
comes with the program. Nothing above such a root is looked up, since its id was never given to the reader.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engines.events import Placed, committed, from_json
from playground.recording import spelled
from playground.store import Store

MOST = 200
"""Runs of one family that are shown, oldest first."""
DEEPEST = 1000
SHOWN = 48
"""Tokens after the branch."""
_COLUMNS = "id, parent_run, parent_position, method, name, status"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the family. `depth` is 0 for the root; parents come before their children."""

    id: str
    parent: str
    position: int
    """Tokens that it shares with its parent; 0 for the root."""
    depth: int
    method: str
    name: str
    status: str
    tokens: int
    """Tokens of its output, the shared ones too."""
    text: str
    """What it wrote after the branch, the beginning of it."""
    foreign: bool = False
    """Whether the run is not one's own; then only its id is known here."""


def family(store: Store, owner: str, id: str) -> list[Member]:
    """The family of one of the owner's runs, root first; empty when it is not theirs."""
    own = _own(store, owner, id)
    if own is None:
        return []
    seen = {id}
    root, foreign = own, ""
    for _ in range(DEEPEST):
        parent = root["parent_run"]
        if not parent or parent in seen:
            break
        seen.add(parent)
        above = _own(store, owner, parent)
        if above is None:
            foreign = parent
            break
        root = above
    rows = _descendants(store, owner, foreign or root["id"], root if not foreign else None)
    members = [_member(row, depth, _output(store, row["id"])) for row, depth in rows]
    if foreign:
        unknown = Member(
            id=foreign, parent="", position=0, depth=0, method="", name="", status="", tokens=0, text="", foreign=True
        )
        return [unknown, *members]
    return members


def _own(store: Store, owner: str, id: str) -> dict[str, Any] | None:
    rows = store.read(f"SELECT {_COLUMNS} FROM runs WHERE id = ? AND owner = ?", [id, owner])
    return rows[0] if rows else None


def _descendants(store: Store, owner: str, id: str, root: dict[str, Any] | None) -> list[tuple[dict[str, Any], int]]:
    """Depth first, older siblings first."""
    found: list[tuple[dict[str, Any], int]] = []
    waiting = [(root, 0)] if root else [(row, 1) for row in reversed(_children(store, owner, id))]
    seen: set[str] = set()
    while waiting and len(found) < MOST:
        row, depth = waiting.pop()
        if row["id"] in seen:
            continue
        seen.add(row["id"])
        found.append((row, depth))
        waiting += [(child, depth + 1) for child in reversed(_children(store, owner, row["id"]))]
    return found


def _children(store: Store, owner: str, id: str) -> list[dict[str, Any]]:
    return store.read(
        f"SELECT {_COLUMNS} FROM runs WHERE parent_run = ? AND owner = ? ORDER BY parent_position, created LIMIT ?",
        [id, owner, MOST],
    )


def _output(store: Store, id: str) -> list[Placed]:
    rows = store.read("SELECT body FROM events WHERE run = ? AND kind = 'commit' ORDER BY seq", [id])
    return committed(from_json(row["body"]) for row in rows)


def _member(row: dict[str, Any], depth: int, output: list[Placed]) -> Member:
    position = (row["parent_position"] or 0) if depth else 0
    return Member(
        id=row["id"],
        parent=(row["parent_run"] or "") if depth else "",
        position=position,
        depth=depth,
        method=row["method"],
        name=row["name"] or "",
        status=row["status"],
        tokens=len(output),
        text=spelled(output[position : position + SHOWN]),
    )
