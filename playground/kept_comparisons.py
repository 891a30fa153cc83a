"""Comparisons in the database, by an id that cannot be guessed: what was compared, and which runs came of it.

The events are with the runs. A comparison whose runs were deleted in part is shown without them.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from engines.errors import DecodingError, shown
from engines.events import Curve
from playground.comparison import Comparison
from playground.store import Store, is_owner


class UnknownComparison(DecodingError):
    """No comparison has this id."""


LISTED = 12
SHOWN_PROMPT = 160
"""Characters of the prompt in a list."""


class Brief(msgspec.Struct, frozen=True):
    """A comparison in a list."""

    id: str
    created: str
    titles: list[str]
    prompt: str


class KeptComparison(msgspec.Struct, frozen=True):
    """A row of `comparisons`."""

    comparison: Comparison
    runs: list[list[str]]
    """Ids, by contestant and round."""
    created: str
    """ISO 8601, UTC."""
    curve: Curve | None = None
    """What a pass cost on the machine that the runs were made on."""


def keep(store: Store, owner: str, comparison: Comparison, runs: list[list[str]], curve: Curve | None) -> bool:
    """Remembers a comparison; whether it could."""
    row = {
        "id": comparison.id,
        "owner": owner if is_owner(owner) else "",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "setups": msgspec.json.encode(comparison).decode(),
        "runs": msgspec.json.encode(runs).decode(),
        "curve": msgspec.json.encode(curve).decode() if curve else None,
    }
    return store.write(lambda db: db.table("comparisons").insert(row), patient=True)


def kept(store: Store, id: str) -> KeptComparison:
    """The comparison with this id, whoever owns it. Raises `UnknownComparison`, or as `Store.read` does."""
    rows = store.read("SELECT created, setups, runs, curve FROM comparisons WHERE id = ?", [id])
    if not rows:
        raise UnknownComparison(f"There is no comparison called {shown(id)} here.")
    row = rows[0]
    try:
        return KeptComparison(
            comparison=msgspec.json.decode(row["setups"], type=Comparison),
            runs=msgspec.json.decode(row["runs"], type=list[list[str]]),
            created=row["created"],
            curve=msgspec.json.decode(row["curve"], type=Curve) if row["curve"] else None,
        )
    except msgspec.MsgspecError as error:
        raise UnknownComparison(f"Comparison {shown(id)} cannot be read: {error}.") from None


def latest(store: Store, owner: str) -> list[Brief]:
    """The owner's newest comparisons; none when the database cannot be read."""
    if not is_owner(owner):
        return []
    sql = "SELECT id, created, setups FROM comparisons WHERE owner = ? ORDER BY created DESC, rowid DESC LIMIT ?"
    try:
        rows = store.read(sql, [owner, LISTED])
        found = [(row, msgspec.json.decode(row["setups"], type=Comparison)) for row in rows]
    except (DecodingError, msgspec.MsgspecError):
        return []
    return [
        Brief(
            id=row["id"],
            created=row["created"],
            titles=[one.title for one in comparison.contestants],
            prompt=" ".join(comparison.contestants[0].setup.prompt[:SHOWN_PROMPT].split()),
        )
        for row, comparison in found
    ]
