"""Tables that outlive a run, for methods that learn from one answer to the next.

What is in them comes from prompts and answers, and guesses made from them are shown. So they are kept apart by person.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from engines.runner import Run

MOST_TABLES = 64
"""Of all people and models together; the one that was unused for longest goes first."""

_tables: OrderedDict[tuple[str, str, str], dict[Any, Any]] = OrderedDict()
_lock = threading.Lock()


def remembered(run: Run, kind: str) -> dict[Any, Any]:
    """The table of this kind that earlier runs of the same person with the same weights have filled; empty at first."""
    key = (run.person, run.model.weights, kind)
    with _lock:
        table = _tables.setdefault(key, {})
        _tables.move_to_end(key)
        while len(_tables) > MOST_TABLES:
            _tables.popitem(last=False)
        return table


def forget() -> None:
    """Empties the memory, e.g. before a measurement."""
    with _lock:
        _tables.clear()
