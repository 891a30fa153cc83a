"""The picture contract: what a picture is, and how it is found.

A picture is one file in this folder. It registers its `draw` function:

    @picture("my-picture", title="My picture", explains="…", empty="…", relevant=relevant, table=table, narrate=narrate)
    def draw(events: Sequence[Event]) -> Drawing | None: ...

All four functions take any prefix of any stream, the empty one too, and are fast enough to be called ten times a
second: at most about 15 ms for 500 tokens. A third party's package adds a picture by naming its module in the
entry-point group `decoding_playground.pictures`.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from engines.events import Event

ENTRY_POINT_GROUP = "decoding_playground.pictures"

Drawing = dict[str, Any]
"""Plain data for JSON, one of

* `{"kind": "plotly", "data": […], "layout": {…}, "min_width": 560}`: a Plotly figure in light colours. Below
  `min_width` pixels its box should scroll sideways rather than squeeze it. A picture of one guess at a time adds
  `"picks": {"node": 3, "nodes": [1, 2, 3]}`: the guess it shows, and those it can show.
* `{"kind": "tokens", …}`: the token stream, see `visuals.token_stream`.
"""

Row = dict[str, str | int | float | bool | None]
"""One line of a table; all rows of a picture have the same keys."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One way to look at a run."""

    id: str
    title: str
    """Two or three words."""
    explains: str
    """One sentence that a newcomer understands."""
    empty: str
    """What is shown, and learned, when there is nothing to draw."""
    draw: Callable[..., Drawing | None]
    """The drawing, or None when `empty` should be shown."""
    table: Callable[..., list[Row]]
    """The numbers behind the drawing, for a CSV file."""
    narrate: Callable[..., str]
    """Two to five plain sentences that say what the drawing shows. Not escaped."""
    relevant: Callable[[Sequence[Event]], bool]
    """Whether these events hold anything that the picture could show, now."""
    families: tuple[str, ...] = ()
    """Families of methods for which it is made; empty: any."""
    picks: bool = False
    """Whether `draw`, `table` and `narrate` also take `node=`, the id of a guess in the latest draft, and show that."""


_registry: dict[str, Picture] = {}


def picture(
    id: str,
    *,
    title: str,
    explains: str,
    empty: str,
    table: Callable[[Sequence[Event]], list[Row]],
    narrate: Callable[[Sequence[Event]], str],
    relevant: Callable[[Sequence[Event]], bool],
    families: tuple[str, ...] = (),
    picks: bool = False,
) -> Callable[[Callable[..., Drawing | None]], Callable[..., Drawing | None]]:
    """Registers a `draw` function as the picture `id`. Raises `ValueError` when the id is taken."""

    def register(draw: Callable[..., Drawing | None]) -> Callable[..., Drawing | None]:
        if id in _registry and _registry[id].draw.__module__ != draw.__module__:
            raise ValueError(f"two pictures are called {id!r}: {_registry[id].draw.__module__}, {draw.__module__}")
        _registry[id] = Picture(id, title, explains, empty, draw, table, narrate, relevant, families, picks)
        return draw

    return register


@cache
def _discover() -> None:
    """Imports every file of this folder, then third parties' entry points."""
    import visuals

    for module in pkgutil.iter_modules(visuals.__path__, "visuals."):
        importlib.import_module(module.name)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except Exception as error:  # somebody else's code: their picture is missing, ours must not be
            warnings.warn(f"the picture {entry.name!r} of {entry.value} cannot be loaded: {error}", stacklevel=2)


def pictures() -> dict[str, Picture]:
    """Every known picture by id, ours first, whichever was imported first."""
    _discover()
    ours = __name__.partition(".")[0] + "."
    return dict(sorted(_registry.items(), key=lambda item: (not item[1].draw.__module__.startswith(ours), item[0])))
