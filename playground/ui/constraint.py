"""What the page asks the server about constraints: the gallery, the first mistake in what is typed, the verdict.

The editor itself is part of a `rail.Controls`, since its two settings are settings like others: they travel in links,
run cards and comparisons. `assets/scripts/constraint.js` draws it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from engines.errors import DecodingError
from engines.grammars.guidance import MOST_CHARACTERS, Kind
from playground.grammars import KINDS, load
from playground.grammars import read as read_grammar
from playground.texts import text
from playground.ui.live import Live, Server, encode
from playground.validity import Outcome, Validity, validity

if TYPE_CHECKING:
    from playground.ui.house import House

MARKS: dict[Outcome, tuple[str, str]] = {
    "valid": ("✓", "good"),
    "unfinished": ("…", "tie"),
    "invalid": ("✕", "bad"),
    "unknown": ("?", ""),
}
"""Mark and tone of the line about an outcome."""


def gallery(what: dict[str, Any]) -> list[dict[str, Any]]:
    """The grammars that one can begin with."""
    return [msgspec.to_builtins(one) for one in load().values()]


def read(what: dict[str, Any]) -> dict[str, Any]:
    """The first mistake in a grammar, or that there is none. Nothing is said of what is no request."""
    kind, grammar = what.get("kind"), what.get("grammar")
    if kind not in KINDS or not isinstance(grammar, str):
        return {}
    told: dict[str, Any] = msgspec.to_builtins(
        read_grammar(cast(Kind, kind), grammar[: MOST_CHARACTERS + 1], tabled=what.get("tabled") is True)
    )
    return told


class ValidityLine(Live):
    """One line about the output of a constrained run; its server function tells the verdict."""

    def __init__(self, house: House, value: str = "", **props: Any) -> None:
        super().__init__("validity", value, server=(verdict_for(house),), **props)


def verdict_for(house: House) -> Server:
    """The server function of a `ValidityLine`."""

    def verdict(what: dict[str, Any]) -> str:
        run = str(what.get("run", ""))[:200]
        try:
            found = validity(house.shelf.events(run))
        except DecodingError:
            return ""
        return encode({"run": run} | said(found)) if found else ""

    return verdict


def said(found: Validity) -> dict[str, Any]:
    """A verdict as the line shows it."""
    mark, tone = MARKS[found.outcome]
    what = text(f"constraint.kind-{found.kind.replace(' ', '-')}")
    by = text(f"constraint.by-{found.by}") if found.by in ("list", "again") else found.by
    says = text(f"constraint.{found.outcome}", what=what, by=by)
    return {"mark": mark, "tone": tone, "says": says, "why": found.why, "pretty": found.pretty}
