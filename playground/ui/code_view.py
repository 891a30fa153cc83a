"""Code beside picture: the method's file, with the line that came to the step which the scrubber shows."""

from __future__ import annotations

from typing import Any

import msgspec

from engines.errors import DecodingError
from playground.source_view import source, step_of
from playground.ui.house import House
from playground.ui.live import Live


class CodeView(Live):
    """A panel, closed at first. It follows the scrubber of its page, and asks for code only while it is open."""

    def __init__(self, house: House, **props: Any) -> None:
        def place(what: dict[str, Any]) -> dict[str, Any]:
            return place_in_code(house, what)

        def code(what: dict[str, Any]) -> dict[str, Any]:
            return code_of(house, what)

        super().__init__("code", server=(place, code), **props)


def place_in_code(house: House, what: dict[str, Any]) -> dict[str, Any]:
    """The files of a run's method, and where the events of one of its steps came from."""
    step = what.get("step")
    try:
        events = list(house.shelf.events(str(what.get("run", ""))))
    except DecodingError as error:
        return {"problem": str(error)}
    found: dict[str, Any] = msgspec.to_builtins(step_of(events, step if isinstance(step, int) else None, house.methods))
    return found


def code_of(house: House, what: dict[str, Any]) -> dict[str, Any]:
    """A module's lines in coloured spans; only the methods' own modules and those of the engine are read."""
    try:
        allowed = frozenset(method.generate.__module__ for method in house.methods.values())
        return {"lines": source(str(what.get("module", ""))[:200], allowed)}
    except (DecodingError, OSError) as error:
        return {"problem": str(error) if isinstance(error, DecodingError) else "This file cannot be read."}
