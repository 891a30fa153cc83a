"""The trie of a method that draws many texts and remembers what it met.

Each column is one token further. A line is as thick as the model finds the token probable; a node is the darker, the
more the method still believes in it (c~, also written beside it); nodes that the last text changed carry an arrow and a
blue ring. Below: the branching of the last text where belief matters most, with two bars per branch, its share by the
mask alone and its share as corrected.
"""

from __future__ import annotations

import heapq
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from engines.events import Event, Growth, Place
from visuals.canvas import Points, drawing, hidden_axis, label, number, short, text_font
from visuals.draft_tree import layout
from visuals.palette import LIGHT, ROLES, SURE
from visuals.picture import Drawing, Row, picture
from visuals.spelling import quoted, safe, visible

PITCH, SIDE = 138, 20
"""Pixels from a column to the next, and before the first."""
LETTER = 7.3
"""Pixels that a letter takes."""
SLOT = 24
CIRCLE = 15
MOST_NODES, MOST_ROWS, DEEPEST = 60, 30, 12
MOST_BRANCHES = 6
BARS_END = 1.7
"""Where the bars' axis ends: whole bars keep room for the words behind them."""
WORTH = (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.5)
"""Lower bounds of the classes of c~: values fall by powers of ten."""
WIDTHS = ((0.5, 4.0), (0.1, 2.6), (0.01, 1.5), (0.0, 0.8))
"""How thick a line is from which probability on."""
BEND = [(step / 8, (step / 8) ** 2 * (3 - step / 4)) for step in range(9)]
CHANGED = "↓"
MARKS = {"finished": ROLES["accepted"].mark, "cut off": ROLES["rejected"].mark, "dead end": ROLES["rejected"].mark}
UNSEEN = "not drawn yet"


@dataclass(frozen=True, slots=True)
class Branch:
    """One way on from a place. `place` is None for all that was not drawn yet."""

    place: Place | None
    masked: float
    """Its share of what the mask allows."""
    corrected: float
    """Its share after the correction."""


@dataclass(frozen=True, slots=True)
class Grown:
    """The tree as it is now: the places shown, parents first."""

    root: Place
    shown: list[Place]
    path: list[Place]
    """The places that the last text changed, root first."""
    known: dict[int, Place]
    size: int
    texts: int

    @property
    def changed(self) -> set[int]:
        return {place.id for place in self.path}

    @property
    def hidden(self) -> int:
        return max(0, self.size - 1 - len(self.shown))


def relevant(events: Sequence[Event]) -> bool:
    """Whether a tree of texts has grown."""
    return latest(events) is not None


def latest(events: Sequence[Event]) -> Grown | None:
    """The tree of the last `Growth`, with the newest word on every place."""
    last = next((event for event in reversed(events) if isinstance(event, Growth)), None)
    if last is None:
        return None
    known: dict[int, Place] = {}
    texts = set()
    for event in events:
        if isinstance(event, Growth) and event.tree == last.tree:
            known.update((place.id, place) for place in event.places)
            texts.add(event.sample)
    root = next((place for place in known.values() if place.parent == -1), None)
    if root is None:
        return None
    path = [place for place in last.places if place.id in known]
    return Grown(root, _shown(root, path, known), path, known, max(last.size, len(known)), len(texts))


def _shown(root: Place, path: Sequence[Place], known: dict[int, Place]) -> list[Place]:
    """The last text first, then what was visited most, as far as there is room; parents before children."""
    on_path = {place.id for place in path}
    # A parent has at least its children's visits, and was made before them.
    order = heapq.nsmallest(
        8 * MOST_NODES, known.values(), key=lambda place: (place.id not in on_path, -place.visits, place.id)
    )
    depth, leaves = {root.id: 0}, {root.id}
    shown: list[Place] = []
    for place in order:
        if place.id in depth or place.parent not in depth or len(shown) == MOST_NODES:
            continue
        deeper, new_row = depth[place.parent] + 1, place.parent not in leaves
        if deeper > DEEPEST or len(leaves) + new_row > MOST_ROWS:
            continue
        depth[place.id] = deeper
        leaves -= {place.parent}
        leaves.add(place.id)
        shown.append(place)
    return shown


def branches(found: Grown, at: Place) -> list[Branch]:
    """The ways on from a place, the most probable first, what was not drawn yet last; empty when nothing was.

    A place's value is what its drawn children keep, Σ p c~, and the whole probability of the others.
    """
    children = [place for place in found.known.values() if place.parent == at.id and place.id != at.id]
    weighed = [(place, *_weights(place)) for place in children]
    value = at.value if at.value is not None and math.isfinite(at.value) else 0.0
    unseen = value - sum(corrected for _, _, corrected in weighed)
    # Rounding leaves a trace where nothing is left.
    unseen = unseen if unseen > 1e-9 * value else 0.0
    mass = unseen + sum(p for _, p, _ in weighed)
    worth = unseen + sum(corrected for _, _, corrected in weighed)
    if not children or mass <= 0:
        return []
    ways = [Branch(place, p / mass, corrected / worth if worth > 0 else 0.0) for place, p, corrected in weighed]
    ways.sort(key=lambda way: -way.masked)
    return [*ways, Branch(None, unseen / mass, unseen / worth)] if unseen > 0 else ways


def _weights(place: Place) -> tuple[float, float]:
    """p and p · c~, what is not a probability as 0."""
    p, value = (_number(x) or 0.0 for x in (place.p, place.value))
    return (p, p * value) if 0 <= p <= 1 + 1e-9 and 0 <= value <= 1 + 1e-9 else (0.0, 0.0)


def branching(found: Grown) -> tuple[Place, list[Branch]] | None:
    """The place on the last text's path where mask and correction differ most; the earliest of equals."""
    ways = [(place, branches(found, place)) for place in found.path[: DEEPEST + 1]]
    open_ways = [(place, way) for place, way in ways if len(way) > 1]
    return max(open_ways, key=lambda pair: moved(pair[1]), default=None)


def moved(ways: Sequence[Branch]) -> float:
    """The probability that the correction moves from branches to others."""
    return 0.5 * sum(abs(way.masked - way.corrected) for way in ways)


def table(events: Sequence[Event]) -> list[Row]:
    """One row per place shown, the root first."""
    found = latest(events)
    if found is None:
        return []
    return [
        {
            "node": place.id,
            "parent": place.parent,
            "id": place.token.id if place.token else None,
            "text": place.token.text if place.token else "",
            "hex": place.token.hex if place.token else "",
            "p": _number(place.p),
            "value": _number(place.value),
            "visits": place.visits,
            "state": place.state,
            "changed": place.id in found.changed,
        }
        for place in (found.root, *found.shown)
    ]


def narrate(events: Sequence[Event]) -> str:
    """How large the tree is, what the root is worth, and what the correction does at one branching."""
    found = latest(events)
    if found is None:
        return "No tree of texts has grown yet."
    sentences = [
        f"{_counted(found.texts, 'text')} grew a tree of {_counted(found.size, 'place')}; the last one changed"
        f" {len(found.path)} of them. At the beginning c~ is {worth(found.root.value)}: the model's own"
        " probability of a valid text is no more than that."
    ]
    if found.hidden:
        sentences.append(f"{_counted(found.hidden, 'place')} {'is' if found.hidden == 1 else 'are'} not shown.")
    split = branching(found)
    if split:
        place, ways = split
        most = max(ways, key=lambda way: round(abs(way.corrected - way.masked), 9))
        name = quoted(most.place.token) if most.place and most.place.token else "what was not drawn yet"
        sentences.append(
            f"The correction matters most {_after(found, place)}: there {name} goes from {most.masked:.2f} by the mask"
            f" alone to {most.corrected:.2f}."
        )
    return " ".join(sentences)


@picture(
    "trie",
    title="Trie",
    explains="Thick lines are probable tokens, dark nodes are worth more; arrows mark what the last text changed.",
    empty="Some methods draw many texts and learn from each what they should have known. Try ASAp, and see its trie.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("constrained",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The tree left to right, and two bars per branch below it."""
    found = latest(events)
    if found is None:
        return None
    tree = nx.DiGraph()
    tree.add_node(found.root.id)
    tree.add_edges_from((place.parent, place.id) for place in found.shown)
    spots, rows = layout(tree, found.root.id, first=-1)
    columns = nx.single_source_shortest_path_length(tree, found.root.id)
    spots = {id: (columns[id] * PITCH + SIDE, y * SLOT / 30) for id, (_, y) in spots.items()}
    split = branching(found)
    bars = split[1] if split else []
    bars_high = 34 + 30 * min(len(bars), MOST_BRANCHES + 1) + 30 if bars else 0
    # In steps, so that the page does not jump with every text.
    tree_high = max(-(-(rows * SLOT + 8) // 72) * 72, 144)
    wide = (1 + max(columns.values())) * PITCH
    inner = tree_high + bars_high
    floor = bars_high / inner
    data = [*_lines(found, spots), _circles(found, spots), _texts(found, spots)]
    notes = [label(_caption(found), 0, 1, yshift=6)]
    axes: dict[str, Any] = {}
    if split:
        data += _bars(bars)
        notes.append(label(f"{_after(found, split[0], drawn=True)}: mask alone, and corrected", 0, floor, yshift=-24))
        axes = {
            "xaxis2": hidden_axis(domain=[0, min(1.0, 440 / max(wide, 440))], anchor="y2", range=[0, BARS_END]),
            "yaxis2": hidden_axis(domain=[0, max(0.05, floor - 30 / inner)], anchor="x2", autorange="reversed"),
        }
    return drawing(
        data,
        height=inner + 34,
        min_width=max(340, min(wide, 2000)),
        margin={"t": 30, "b": 4},
        dragmode="pan",
        hoverdistance=40,
        barmode="group",
        bargap=0.25,
        xaxis=hidden_axis(range=[0, wide], fixedrange=True),
        yaxis=hidden_axis(range=[tree_high, 0], domain=[floor, 1], fixedrange=True),
        annotations=notes,
        **axes,
    )


def _lines(found: Grown, spots: dict[int, tuple[float, float]]) -> list[dict[str, Any]]:
    groups: dict[float, tuple[Points, Points]] = {}
    changed = found.changed
    for place in found.shown:
        p = _number(place.p) or 0.0
        width = next((width for bound, width in WIDTHS if p >= bound), WIDTHS[-1][1])
        (x0, y0), (x1, y1) = spots[place.parent], spots[place.id]
        # Lines begin where the words beside their parent end.
        parent = found.known[place.parent]
        x0 += CIRCLE / 2 + 8 + LETTER * len(html.unescape(_written(parent, parent.id in changed)))
        xs, ys = groups.setdefault(width, ([], []))
        xs += [*(round(x0 + (x1 - x0) * share, 1) for share, _ in BEND), None]
        ys += [*(round(y0 + (y1 - y0) * share, 1) for _, share in BEND), None]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": xs,
            "y": ys,
            "line": {"color": LIGHT["soft"], "width": width},
            "hoverinfo": "skip",
        }
        for width, (xs, ys) in sorted(groups.items())
    ]


def _circles(found: Grown, spots: dict[int, tuple[float, float]]) -> dict[str, Any]:
    places = [found.root, *found.shown]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [spots[place.id][0] for place in places],
        "y": [spots[place.id][1] for place in places],
        "marker": {
            "size": CIRCLE,
            "opacity": 1,
            "color": [SURE[level(place.value)] for place in places],
            "line": {
                "color": [LIGHT["accent"] if place.id in found.changed else LIGHT["soft"] for place in places],
                "width": [2.6 if place.id in found.changed else 1.0 for place in places],
            },
        },
        "customdata": [_hover(place, place.id in found.changed) for place in places],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _texts(found: Grown, spots: dict[int, tuple[float, float]]) -> dict[str, Any]:
    places = [found.root, *found.shown]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [spots[place.id][0] + CIRCLE / 2 + 4 for place in places],
        "y": [spots[place.id][1] for place in places],
        "text": [_written(place, place.id in found.changed) for place in places],
        "textposition": "middle right",
        "textfont": text_font(LIGHT["ink"]),
        "hoverinfo": "skip",
    }


def _bars(ways: Sequence[Branch]) -> list[dict[str, Any]]:
    rows = [*ways[:MOST_BRANCHES]]
    if rest := ways[MOST_BRANCHES:]:
        rows.append(Branch(None, sum(way.masked for way in rest), sum(way.corrected for way in rest)))
    names = [
        visible(way.place.token, 10) if way.place and way.place.token else ("all others" if rest else UNSEEN)
        for way in rows
    ]
    common = {
        "type": "bar",
        "orientation": "h",
        "xaxis": "x2",
        "yaxis": "y2",
        # Two branches may be spelled alike: a row is a number, and its name a tick.
        "y": list(range(len(rows))),
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": text_font(LIGHT["ink"], size=11),
        "customdata": names,
    }
    # Names stand in the text, for an axis with ticks would need room that a phone does not have.
    return [
        common
        | {
            "x": [round(way.masked, 5) for way in rows],
            "text": [f"{name} {short(way.masked)} mask" for name, way in zip(names, rows, strict=True)],
            "marker": {"color": ROLES["untested"].bg, "line": {"color": ROLES["untested"].ink, "width": 1}},
            "hovertemplate": "%{customdata}: %{x:.3f} by the mask alone<extra></extra>",
        },
        common
        | {
            "x": [round(way.corrected, 5) for way in rows],
            "text": [f"{name} {short(way.corrected)} corrected" for name, way in zip(names, rows, strict=True)],
            "marker": {
                "color": SURE[4],
                "line": {"color": LIGHT["accent"], "width": 1},
                "pattern": {"shape": "/", "fgcolor": LIGHT["accent"], "size": 6, "solidity": 0.2},
            },
            "hovertemplate": "%{customdata}: %{x:.3f} corrected<extra></extra>",
        },
    ]


def level(value: float | None) -> int:
    """The class of a c~: an index into `SURE`."""
    return sum(value >= bound for bound in WORTH) if value is not None and math.isfinite(value) else 0


def worth(value: float | None) -> str:
    """A c~ in few characters: `.50`, `4e-3`, `0`."""
    if value is None or not math.isfinite(value) or not 0 <= value <= 1 + 1e-9:
        return "–"
    if value == 0 or value >= 0.01:
        return short(value) if value else "0"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _written(place: Place, changed: bool) -> str:
    name = visible(place.token, 6) if place.token else "start"
    return "".join((name, MARKS.get(place.state, ""), " ", CHANGED if changed else "", worth(place.value)))


def _after(found: Grown, place: Place, drawn: bool = False) -> str:
    """Where a place is: the last tokens before it."""
    way: list[str] = []
    while place.token is not None and len(way) <= len(found.known):
        way.append(visible(place.token, 10) if drawn else quoted(place.token)[1:-1])
        if place.parent not in found.known:
            break
        place = found.known[place.parent]
    if not way:
        return "at the beginning"
    return f"after “{'…' if len(way) > 6 else ''}{''.join(reversed(way[:6]))}”"


def _caption(found: Grown) -> str:
    hidden = f" · {found.hidden:,} not shown" if found.hidden else ""
    return f"{_counted(found.texts, 'text')} · {_counted(found.size, 'place')}{hidden} · root {worth(found.root.value)}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _hover(place: Place, changed: bool) -> str:
    lines = [
        visible(place.token) if place.token else "the beginning",
        f"P {number(place.p, 4)}",
        f"c~ {number(place.value, 6)}",
        _counted(place.visits, "visit"),
    ]
    if place.state:
        lines.append(safe(place.state[:40]))
    if changed:
        lines.append("changed by the last text")
    return "<br>".join(lines)
