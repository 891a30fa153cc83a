"""Every attention head of the model in one map: what patching it does to the answer, estimated or measured.

A cell per head, layers upwards, on the same colours as the maps of positions. Most heads do nothing for a question; the
few that do something are named below, strongest first, and framed. Where some were patched for real as well, a second
map shows those beside the estimate.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Direction, Event, Patch
from visuals.canvas import SMALL, axis, drawing, label, text_font
from visuals.inside import EXACT, FRAME, Grid, effect_map, known, layer_axis, minus_signs, scale_bar, signed
from visuals.palette import LIGHT
from visuals.picture import Drawing, Row, picture
from visuals.spelling import safe

MOST_LAYERS, MOST_HEADS = 100, 64
LISTED, TOLD = 9, 3
HEAD, FOOT_LINE = 84, 18
LEFT, RIGHT = 34, 10


@dataclass(frozen=True, slots=True)
class Head:
    """A head with its effect."""

    layer: int
    unit: int
    effect: float

    @property
    def id(self) -> str:
        """As in a circuit."""
        return f"a{self.layer}.{self.unit}"


@dataclass(frozen=True, slots=True)
class Known:
    """The maps of heads by who says so, the estimate first; of the direction patched last."""

    maps: dict[str, dict[int, tuple[float | None, ...]]]
    layers: int
    heads: int
    direction: Direction

    def ranked(self, how: str, count: int) -> list[Head]:
        """The strongest heads, whichever their sign."""
        all_ = [
            Head(layer, unit, effect)
            for layer, effects in self.maps[how].items()
            for unit, effect in enumerate(effects)
            if effect is not None
        ]
        return heapq.nsmallest(count, all_, key=lambda head: (-abs(head.effect), head.layer, head.unit))


def is_row(event: Event) -> bool:
    """Whether the event is a row of this map."""
    return isinstance(event, Patch) and event.along == "head" and event.layer < MOST_LAYERS and bool(event.effects)


def relevant(events: Sequence[Event]) -> bool:
    """Whether a head was patched, or its effect guessed."""
    return any(is_row(event) for event in events)


def latest(events: Sequence[Event]) -> Known | None:
    """The latest estimate, and what was measured."""
    rows = [event for event in events if isinstance(event, Patch) and is_row(event)]
    if not rows:
        return None
    direction = rows[-1].direction
    found: dict[str, dict[int, tuple[float | None, ...]]] = {}
    guess = ""
    for row in rows:
        if row.direction != direction:
            continue
        found.setdefault(row.how, {})[row.layer] = tuple([known(value) for value in row.effects[:MOST_HEADS]])
        guess = guess if row.how == EXACT else row.how
    maps = {how: found[how] for how in (guess, EXACT) if how in found}
    return Known(
        maps,
        1 + max(layer for grid in maps.values() for layer in grid),
        max(len(effects) for grid in maps.values() for effects in grid.values()),
        direction,
    )


def table(events: Sequence[Event]) -> list[Row]:
    """One row per head and source."""
    found = latest(events)
    if found is None:
        return []
    return [
        {
            "node": f"a{layer}.{unit}",
            "layer": layer,
            "head": unit,
            "how": how,
            "direction": found.direction,
            "effect": effect,
        }
        for how, grid in found.maps.items()
        for layer, effects in sorted(grid.items())
        for unit, effect in enumerate(effects)
    ]


def narrate(events: Sequence[Event]) -> str:
    """How many heads matter, which most, and whether the truth agrees."""
    found = latest(events)
    if found is None:
        return "No attention head has been patched yet, and no effect guessed."
    how, *others = found.maps
    all_ = found.ranked(how, MOST_LAYERS * MOST_HEADS)
    if not all_:
        return "The map of heads holds no number yet."
    strong = sum(abs(head.effect) >= 0.1 for head in all_)
    first = "measured" if how == EXACT else "guessed"
    said = [
        f"The effects of {len(all_):,} heads are {first}; {strong} of them {'is' if strong == 1 else 'are'} at least"
        " a tenth of the difference.",
        "The strongest are " + ", ".join(f"{head.id} ({signed(head.effect)})" for head in all_[:TOLD]) + ".",
    ]
    against = min(all_, key=lambda head: head.effect)
    if against.effect < 0:
        what = (
            "works against the answer most" if found.direction == "denoise" else "is missed most when it is taken out"
        )
        said.append(f"{against.id} {what} ({signed(against.effect)}).")
    for other in others:
        done = sum(value is not None for row in found.maps[other].values() for value in row)
        said.append(f"{done:,} {'head was' if done == 1 else 'heads were'} patched for real.")
    return " ".join(said)


@picture(
    "head-map",
    title="Head map",
    explains="Each cell is an attention head: its colour says what patching that head does to the answer.",
    empty="A model has hundreds of attention heads, and few matter for a question. Try relevance patching.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("attribution",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """A map, or two beside each other, with the strongest heads named below."""
    found = latest(events)
    if found is None:
        return None
    high = max(110, min(460, 11 * found.layers))
    columns = list(found.maps)
    between = 0.06 if len(columns) > 1 else 0.0
    across = (1 - between * (len(columns) - 1)) / len(columns)
    ranked = found.ranked(columns[0], LISTED)
    lines = _listed(ranked)
    foot = 44 + FOOT_LINE * (len(lines) + 1)
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    notes = [
        label(line, 0, 0, yshift=-44 - FOOT_LINE * place, yanchor="top", font=font)
        for place, (line, font) in enumerate(
            [("<b>the strongest heads</b> (framed)", {"size": SMALL, "color": LIGHT["soft"]})]
            + [(line, text_font(size=SMALL)) for line in lines]
        )
    ]
    step = next((step for step in (1, 2, 4, 8) if found.heads <= 16 * step), 16)
    for column, how in enumerate(columns):
        axes = str(column + 1) if column else ""
        left = column * (across + between)
        grid = _grid(found, how)
        traces.append(
            effect_map(grid, 0, axes, hoverinfo="skip")
            | ({} if column else scale_bar(found.direction, y=1 + 34 / high))
        )
        traces += [minus_signs(grid, 0, axes), _frames(ranked, axes), _spots(found, how, axes)]
        done = sum(value is not None for row in grid for value in row)
        name = "exact patching" if how == EXACT else safe(how[:22].replace("-", " "))
        notes.append(label(f"<b>{name}</b>, {done:,} heads", left, 1, yshift=3))
        layout[f"xaxis{axes}"] = (
            axis(
                "head",
                domain=[left, left + across],
                anchor=f"y{axes}",
                range=[-0.5, found.heads - 0.5],
                tickvals=list(range(0, found.heads, step)),
                showgrid=False,
            )
            | FRAME
        )
        layout[f"yaxis{axes}"] = layer_axis(found.layers, anchor=f"x{axes}", showticklabels=column == 0)
    layout["yaxis"]["title"] = {"text": "layer", "font": {"size": SMALL, "color": LIGHT["soft"]}, "standoff": 2}
    return drawing(
        [trace for trace in traces if trace["type"] == "heatmap" or trace["x"]],
        height=HEAD + high + foot,
        min_width=min(2000, max(340, LEFT + RIGHT + 22 * found.heads * len(columns))),
        margin={"t": HEAD, "l": LEFT + 14, "r": RIGHT, "b": foot},
        hoverdistance=30,
        annotations=notes,
        **layout,
    )


def _grid(found: Known, how: str) -> Grid:
    rows = found.maps[how]
    empty: list[float | None] = [None] * found.heads
    return [
        ([None if value is None else round(value, 4) for value in rows.get(layer, ())] + empty)[: found.heads]
        for layer in range(found.layers)
    ]


def _listed(ranked: Sequence[Head]) -> list[str]:
    """The strongest heads, three in a line."""
    words = [f"{head.id:<6} <b>{signed(head.effect)}</b>" for head in ranked]
    return ["  ".join(words[start : start + 3]).replace(" ", "\u00a0") for start in range(0, len(words), 3)]


def _frames(ranked: Sequence[Head], axes: str) -> dict[str, Any]:
    """The strongest heads of the estimate, in every map: whether they are in the truth, too, is the question."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for head in ranked:
        x, y = head.unit, head.layer
        xs += [x - 0.5, x + 0.5, x + 0.5, x - 0.5, x - 0.5, None]
        ys += [y - 0.5, y - 0.5, y + 0.5, y + 0.5, y - 0.5, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "xaxis": f"x{axes}",
        "yaxis": f"y{axes}",
        "x": xs,
        "y": ys,
        "line": {"color": LIGHT["ink"], "width": 1.5},
        "cliponaxis": False,
        "hoverinfo": "skip",
    }


def _spots(found: Known, how: str, axes: str) -> dict[str, Any]:
    """Invisible points that know their head: for the label, and for a click."""
    measured = "measured" if how == EXACT else "guessed"
    xs, ys, ids, told = [], [], [], []
    for layer, effects in found.maps[how].items():
        for unit, effect in enumerate(effects):
            if effect is None:
                continue
            xs.append(unit)
            ys.append(layer)
            ids.append(f"a{layer}.{unit}")
            beyond = ", beyond the colours" if abs(effect) > 1 else ""
            told.append(f"head {unit} of layer {layer}<br>{measured} {signed(effect, 3)}{beyond}")
    return {
        "type": "scatter",
        "mode": "markers",
        "xaxis": f"x{axes}",
        "yaxis": f"y{axes}",
        "x": xs,
        "y": ys,
        "ids": ids,
        "marker": {"size": 12, "opacity": 0},
        "customdata": told,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
