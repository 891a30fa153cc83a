"""Finding runs: full text over name, prompt and output, and filters; one page at a time, however many runs there are.

    found = search(store, owner, Search(words="photosynthesis leaf", method="token-recycling"))

What is typed is words, never a query language: every word must occur, the last one may be unfinished. When no run
holds such words, runs that hold the characters anywhere are found, so that signs, and languages that do not separate
words, can be searched too.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from engines.errors import DecodingError
from playground.store import Store, StoredRun, stored_run

PAGE = 50
LONGEST_SEARCH = 300
MOST_WORDS = 12
MARKS = ("\x02", "\x03")
"""Around a found word in `Hit.excerpt`."""
FILTERS = ("method", "family", "model", "status")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?)?")


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for. Empty fields do not matter."""

    words: str = ""
    method: str = ""
    family: str = ""
    model: str = ""
    status: str = ""
    starred: bool = False
    since: str = ""
    """Created at or after this instant (ISO 8601, UTC)."""
    until: str = ""
    """Created before this instant."""
    order: Literal["newest", "best"] = "newest"


class Hit(msgspec.Struct, frozen=True):
    """A run that was found; `excerpt` shows the words in it, between `MARKS`, and is empty without words."""

    run: StoredRun
    excerpt: str = ""


class Found(msgspec.Struct, frozen=True):
    """One page of hits."""

    hits: list[Hit]
    total: int
    """Runs that match, on all pages."""
    more: str
    """What to give as `after` for the next page; empty on the last one."""


def asked(value: object) -> Search:
    """A search as a browser sends it. Raises `DecodingError` when it is none."""
    try:
        return msgspec.convert(value, Search)
    except msgspec.ValidationError as error:
        raise DecodingError(f"This cannot be searched for: {error}.") from None


def search(store: Store, owner: str, wanted: Search, *, limit: int = PAGE, after: str = "") -> Found:
    """One page of the owner's runs that match. Raises `UnreadableRun` when the database cannot be read."""
    words = wanted.words.replace("\x00", " ").encode(errors="replace").decode()[:LONGEST_SEARCH].strip()
    indexed = bool(words) and _is_indexed(store)
    query = _match(words) if indexed else ""
    if query:
        found = _page(store, owner, wanted, _INDEXED, limit, after, match=query)
        if found.total:
            return found
    if words:
        return _page(store, owner, wanted, _ANYWHERE, limit, after, like=words)
    return _page(store, owner, wanted, "", limit, after)


def facets(store: Store, owner: str) -> dict[str, dict[str, int]]:
    """What there is to filter by: for every filter, its values and how many of the owner's runs have each."""
    rows = store.read(
        f"SELECT {', '.join(FILTERS)}, count(*) AS runs FROM runs WHERE owner = ? GROUP BY 1, 2, 3, 4", [owner]
    )
    counted: dict[str, dict[str, int]] = {name: {} for name in FILTERS}
    for row in rows:
        for name, values in counted.items():
            values[row[name]] = values.get(row[name], 0) + row["runs"]
    return {name: dict(sorted(values.items())) for name, values in counted.items()}


_INDEXED = "number IN (SELECT rowid FROM words WHERE words MATCH :match)"
_ANYWHERE = (
    "instr(lower(coalesce(name, '') || char(10) || coalesce(prompt, '') || char(10) || coalesce(text, '')),"
    " lower(:like)) > 0"
)


def _page(store: Store, owner: str, wanted: Search, words: str, limit: int, after: str, **values: Any) -> Found:
    where, values = ["owner = :owner", *([words] if words else [])], {"owner": owner, **values}
    for name in FILTERS:
        if value := getattr(wanted, name):
            where.append(f"{name} = :{name}")
            values[name] = value
    if wanted.starred:
        where.append("starred = 1")
    for name, compared in (("since", ">="), ("until", "<")):
        if value := getattr(wanted, name):
            if not _INSTANT.fullmatch(value):
                raise DecodingError(f"A date looks like 2026-11-24, not {value[:40]!r}.")
            where.append(f"created {compared} :{name}")
            values[name] = value.replace("Z", "+00:00")
    total = store.read(f"SELECT count(*) AS n FROM runs WHERE {' AND '.join(where)}", values)[0]["n"]
    if best := wanted.order == "best" and "match" in values:
        skip = int(after) if re.fullmatch("[0-9]{1,9}", after) else 0
        # Names weigh most: somebody chose them. Matching goes first here, so that each run is ranked once.
        inner = (
            f"SELECT id FROM words CROSS JOIN runs ON number = words.rowid WHERE words MATCH :match"
            f" AND {' AND '.join(where)} ORDER BY bm25(words, 8, 2, 1), created DESC, id DESC LIMIT :limit OFFSET :skip"
        )
    else:
        skip = 0
        if after:
            where.append("(created, id) < (:created, :id)")
            values["created"], _, values["id"] = after.partition(" ")
        inner = f"SELECT id FROM runs WHERE {' AND '.join(where)} ORDER BY created DESC, id DESC LIMIT :limit"
    ids = [row["id"] for row in store.read(inner, values | {"limit": limit + 1, "skip": skip})]
    shown = _rows(store, ids[:limit], values.get("match", ""))
    hits = [Hit(stored_run(shown[id]), shown[id]["excerpt"] or "") for id in ids[:limit] if id in shown]
    if len(ids) <= limit or not hits:
        more = ""
    else:
        more = str(skip + limit) if best else f"{hits[-1].run.created} {hits[-1].run.id}"
    return Found(hits, total, more)


def _rows(store: Store, ids: list[str], match: str) -> dict[str, dict[str, Any]]:
    snippet = f"snippet(words, -1, '{MARKS[0]}', '{MARKS[1]}', '…', 16)"
    excerpt = f"(SELECT {snippet} FROM words WHERE words MATCH :match AND rowid = runs.number)" if match else "''"
    rows = store.read(
        f"SELECT {store.columns}, {excerpt} AS excerpt FROM runs WHERE id IN (SELECT value FROM json_each(:ids))",
        {"ids": msgspec.json.encode(ids).decode(), "match": match},
    )
    return {row["id"]: row for row in rows}


def _is_indexed(store: Store) -> bool:
    return bool(store.read("SELECT 1 FROM sqlite_master WHERE name = 'words'"))


def _match(words: str) -> str:
    """An FTS5 query that holds nothing but quoted words."""
    terms = re.findall(r"[^\W_]+", words)[:MOST_WORDS]
    unfinished = "*" if words[-1:].isalnum() else ""
    return " ".join(f'"{term}"' for term in terms) + unfinished if terms else ""
