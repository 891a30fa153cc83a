"""How a method that draws many texts comes nearer to the model's own law.

Above: after each text, what the root of its trie is worth, an upper bound of the model's probability of a valid text,
P(L); the axis goes by powers of ten. Below, where the language is small enough to know the law itself: how far the law
of the next text is from it, as total variation, 0 for the same and 1 for nothing in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Event, Growth, Score
from visuals.canvas import axis, drawing, label
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture

BEFORE, AFTER, EXACT, OUTPUT = "distance before", "distance after", "P(L)", "output"


@dataclass(slots=True)
class Point:
    """What is known after a text."""

    sample: int
    root: float | None = None
    distance: float | None = None
    before: float | None = None
    output: bool | None = None
    """Whether the text may be the output; None when nobody says."""


def relevant(events: Sequence[Event]) -> bool:
    """Whether the root of a growing tree was valued."""
    return bool(read(events)[0])


def read(events: Sequence[Event]) -> tuple[list[Point], float | None]:
    """A point per text, in order, and P(L) where it is known."""
    points: dict[int, Point] = {}
    exact = None
    for event in events:
        if isinstance(event, Growth):
            root = next((place for place in event.places if place.parent == -1), None)
            if root is not None and (value := _share(root.value)) is not None:
                points.setdefault(event.sample, Point(event.sample)).root = value
        elif isinstance(event, Score) and event.sequence in points:
            point = points[event.sequence]
            point.distance, point.before = (_share(event.parts.get(name)) for name in (AFTER, BEFORE))
            point.output = bool(event.parts[OUTPUT]) if OUTPUT in event.parts else None
            exact = _share(event.parts.get(EXACT)) if EXACT in event.parts else exact
    return sorted(points.values(), key=lambda point: point.sample), exact


def distances(points: Sequence[Point]) -> list[tuple[int, float]]:
    """(texts drawn, distance to the law), from none drawn on."""
    known = [(point.sample + 1, point.distance) for point in points if point.distance is not None]
    first = next((point for point in points if point.distance is not None), None)
    start = [(first.sample, first.before)] if first and first.before is not None else []
    return [*start, *known]


def table(events: Sequence[Event]) -> list[Row]:
    """One row per text."""
    points, exact = read(events)
    return [
        {
            "text": point.sample,
            "root_value": point.root,
            "distance_before": point.before,
            "distance_after": point.distance,
            "output": point.output,
            "valid_probability": exact,
        }
        for point in points
    ]


def narrate(events: Sequence[Event]) -> str:
    """Where both curves began, where they are, and how far the distance went astray."""
    points, exact = read(events)
    if not points:
        return "No text has been drawn into a tree yet."
    first, last = points[0], points[-1]
    texts = f"{len(points):,} {'text' if len(points) == 1 else 'texts'}"
    sentences = [
        f"After {texts} the root is worth {_small(last.root)}"
        + (f"; after the first it was {_small(first.root)}." if len(points) > 1 else ".")
    ]
    if exact is not None:
        sentences.append(f"The model's own probability of a valid text is {_small(exact)}.")
    way = distances(points)
    if way:
        once, now = way[0][1], way[-1][1]
        sentences.append(f"The law of the next text is {now:.3f} from the model's own, at first {once:.3f}.")
        at, worst = max(way, key=lambda step: step[1])
        if worst > max(once, now) + 0.01:
            sentences.append(f"It was farthest after {at} {'text' if at == 1 else 'texts'}, {worst:.3f}.")
    else:
        sentences.append("There are too many valid texts to know how far their law is from the model's own.")
    if lost := sum(point.output is False for point in points):
        sentences.append(f"{lost:,} of the texts came to nothing.")
    return " ".join(sentences)


@picture(
    "convergence",
    title="Convergence",
    explains="Each text lowers the bound on how probable a valid text is, and moves the method's law; 0 is exact.",
    empty="A mask changes what the model would have written. Try ASAp, and see many texts repair it, with detours.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("constrained",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """Root value above, distance below."""
    points, exact = read(events)
    if not points:
        return None
    way = distances(points)
    last = points[-1].sample + 1
    data = _roots(points, exact, last)
    floor = 0.56 if way else 0.0
    notes = [label("value of the root, at least P(L)", 0, 1, yshift=6)]
    axes: dict[str, Any] = {}
    if way:
        data.append(_distance(way))
        notes.append(label("distance to the model's own law", 0, 0.42, yshift=6))
        axes = {
            "xaxis2": axis("texts drawn", anchor="y2", range=[-0.04 * last, 1.04 * last], nticks=6, showgrid=False),
            "yaxis2": axis("", domain=[0, 0.42], anchor="x2", range=[0, 1.04], nticks=4),
        }
    return drawing(
        data,
        height=400 if way else 240,
        min_width=320,
        margin={"t": 30, "l": 44, "r": 12, "b": 40},
        xaxis=axis("" if way else "texts drawn", range=[-0.04 * last, 1.04 * last], nticks=6, showgrid=False),
        yaxis=axis("", domain=[floor, 1], type="log", anchor="x", **_ticks(points, exact)),
        annotations=notes,
        **axes,
    )


def _roots(points: Sequence[Point], exact: float | None, last: int) -> list[dict[str, Any]]:
    """The curve of the bound, and P(L) as a dashed line where it is known."""
    line: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [point.sample + 1 for point in points],
        # No power of ten is 0.
        "y": [point.root or None for point in points],
        "line": {"color": LIGHT["accent"], "width": 2},
        "marker": {
            "size": 7 if len(points) <= 100 else 4,
            "color": LIGHT["accent"],
            "symbol": ["x-thin-open" if point.output is False else "circle" for point in points],
        },
        "customdata": [" · came to nothing" if point.output is False else "" for point in points],
        "hovertemplate": "text %{x}: %{y:.3g}%{customdata}<extra></extra>",
    }
    if not exact:
        return [line]
    known = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, last],
        "y": [exact, exact],
        "line": {"color": ROLES["accepted"].ink, "width": 1.6, "dash": "6px,4px"},
        "hovertemplate": "P(L) = %{y:.3g}<extra></extra>",
    }
    return [known, line]


def _ticks(points: Sequence[Point], exact: float | None) -> dict[str, Any]:
    """Powers of ten, at most six; with 2 and 5 between them where the values lie close together."""
    values = [value for value in (exact, *(point.root for point in points)) if value]
    if not values:
        return {"tickvals": [1.0], "ticktext": ["1"], "range": [-1.0, 0.1]}
    low, high = math.log10(min(values)), math.log10(max(values))
    first, last = math.floor(low), math.ceil(high)
    step = max(1, -(-(last - first) // 5))
    between = (1, 2, 5) if high - low < 1.5 else (1,)
    ticks = [digit * 10.0**power for power in range(first, last + 1, step) for digit in between]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks], "range": [low - 0.15, high + 0.15]}


def _distance(way: Sequence[tuple[int, float]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [texts for texts, _ in way],
        "y": [round(value, 6) for _, value in way],
        "xaxis": "x2",
        "yaxis": "y2",
        "line": {"color": ROLES["copied"].ink, "width": 2, "shape": "hv"},
        "marker": {"size": 6 if len(way) <= 100 else 4, "color": ROLES["copied"].ink, "symbol": "square"},
        "hovertemplate": "after %{x}: %{y:.3f}<extra></extra>",
    }


def _share(value: float | None) -> float | None:
    """A number from 0 to 1, rounding allowed for; anything else is unknown."""
    return min(max(value, 0.0), 1.0) if value is not None and -1e-9 <= value <= 1 + 1e-9 else None


def _small(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "unknown"
    return f"{value:.3g}"
