"""Who found the words that matter? The probability of the explained token while the words are taken away.

Every method says which words made the model say a token. Each is put to the test: the words go one after the other, the
most important first by its own order. Where the order is right the probability falls at once. One line per method,
random order dashed: what is not below it knows nothing. The legend lists the area under each curve, which is the mean
probability on the way, least first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from engines.events import Attribution, Curve, Event, Token
from visuals.canvas import MONO, SMALL, axis, drawing, label, number
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.spelling import plain, quoted, safe, visible

BEGINS = "deletion, "
"""Begins the name of a curve; the method's id ends it."""
CHANCE = "random"
MOST_METHODS, MOST_POINTS = 8, 64
"""Lines beside that of chance; points of a line."""
PLOT_HIGH, HEAD, FOOT, ENTRY_HIGH = 210, 40, 44, 19


@dataclass(frozen=True, slots=True)
class Style:
    """A line's colour, and the mark that says the same."""

    colour: str
    symbol: str


STYLES = {
    "relp": Style(LIGHT["accent"], "circle"),
    "relp-ah": Style(LIGHT["plus-2"], "circle-open"),
    "integrated-gradients": Style(ROLES["forced"].ink, "square"),
    "gradient-x-input": Style(LIGHT["minus-2"], "diamond"),
    "leave-one-out": Style(ROLES["accepted"].ink, "triangle-up"),
    "reagent": Style(ROLES["rejected"].ink, "star"),
    "attention": Style(LIGHT["ink"], "cross"),
}
OTHERS = (
    Style(ROLES["copied"].ink, "triangle-down"),
    Style(ROLES["bonus"].ink, "pentagon"),
    Style(ROLES["given"].ink, "hexagon"),
)
"""For methods of others, in turn."""
BY_CHANCE = Style(LIGHT["soft"], "x-thin-open")


@dataclass(frozen=True, slots=True)
class Line:
    """One method's curve: (words deleted, probability), fewest words first."""

    how: str
    points: tuple[tuple[float, float], ...]

    @property
    def area(self) -> float | None:
        """The area under the curve over the share of words deleted, from 0 to 1; None with fewer than two points."""
        wide = self.points[-1][0] - self.points[0][0]
        if not wide:
            return None
        return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(self.points)) / wide


def lines(events: Sequence[Event]) -> list[Line]:
    """The latest curve of every method, the smallest area first, those without one last."""
    latest: dict[str, Line] = {}
    for event in events:
        if isinstance(event, Curve) and event.name.startswith(BEGINS) and (points := _points(event)):
            how = event.name.removeprefix(BEGINS)
            latest.pop(how, None)
            latest[how] = Line(how, points)
    methods = [line for how, line in latest.items() if how != CHANCE][-MOST_METHODS:]
    found = methods + ([latest[CHANCE]] if CHANCE in latest else [])
    return sorted(found, key=lambda line: math.inf if line.area is None else line.area)


def _points(curve: Curve) -> tuple[tuple[float, float], ...]:
    """At most `MOST_POINTS`, evenly, the first and last among them."""
    known = {
        x: y for x, y in zip(curve.x, curve.y, strict=False) if 0 <= x < math.inf and math.isfinite(y) and 0 <= y <= 1
    }
    all_ = sorted(known.items())
    if len(all_) > MOST_POINTS:
        all_ = [all_[round(at * (len(all_) - 1) / (MOST_POINTS - 1))] for at in range(MOST_POINTS)]
    return tuple(all_)


def relevant(events: Sequence[Event]) -> bool:
    """Whether words were deleted in the order of an attribution."""
    return bool(lines(events))


def table(events: Sequence[Event]) -> list[Row]:
    """One row per point."""
    return [
        {"how": line.how, "words_deleted": x, "probability": y, "area": line.area}
        for line in lines(events)
        for x, y in line.points
    ]


def narrate(events: Sequence[Event]) -> str:
    """The smallest area and the next ones, that of random order, and who is no better than that."""
    found = lines(events)
    if not found:
        return "No words have been deleted yet."
    said = []
    if target := _target(events):
        said.append(f"Shown is the probability of {quoted(target)} as the words go, the most important first.")
    areas = {line.how: line.area for line in found if line.area is not None}
    chance = areas.pop(CHANCE, None)
    if areas:
        (first, least), *others = areas.items()
        said.append(
            f"By {_name(first)} it falls fastest: the area under the curve is {least:.3f}"
            + "".join(f", by {_name(how)} {area:.3f}" for how, area in others)
            + "."
        )
    if chance is not None:
        said.append(f"In random order the area is {chance:.3f}.")
        if worse := [_name(how) for how, area in areas.items() if area >= chance]:
            said.append(f"No better than random here: {', '.join(worse)}.")
        elif areas:
            said.append("All that were asked do better than that.")
    return " ".join(said) or "Too few words have been deleted to compare the methods."


@picture(
    "deletion",
    title="Words deleted",
    explains="Take away the words a method calls important: the steeper the fall, the better it knew them.",
    empty="Who knows which words matter? Try token attribution: it deletes them, and watches the answer fade.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The curves; below them the legend, a line for each."""
    found = lines(events)
    if not found:
        return None
    last = max(line.points[-1][0] for line in found)
    most = max(y for line in found for _, y in line.points) or 1.0
    legend_high = ENTRY_HIGH * (len(found) + 1)
    low = FOOT + legend_high
    target = _target(events)
    what = f"probability of <b>{visible(target, 14)}</b>" if target else "probability of the token"
    soft = {"size": SMALL, "color": LIGHT["soft"]}
    others = [line.how for line in found if line.how not in STYLES and line.how != CHANCE]
    return drawing(
        [_trace(line, _style(line.how, others), place) for place, line in enumerate(found)],
        height=HEAD + PLOT_HIGH + low,
        min_width=320,
        margin={"l": 40, "r": 14, "t": HEAD, "b": low},
        showlegend=True,
        legend={
            "orientation": "v",
            "x": 0,
            "xanchor": "left",
            "y": round(-(FOOT + ENTRY_HIGH) / PLOT_HIGH, 4),
            "yanchor": "top",
            "font": {"family": MONO, "size": SMALL, "color": LIGHT["ink"]},
            "bgcolor": "rgba(0,0,0,0)",
            "traceorder": "normal",
            "itemwidth": 34,
            "tracegroupgap": 0,
        },
        xaxis=axis(
            "words deleted, the most important first",
            range=[-0.03 * (last or 1), 1.03 * (last or 1)],
            nticks=8,
            tickformat="d",
            showgrid=False,
            fixedrange=True,
        ),
        yaxis=axis("", range=[-0.04 * most, 1.08 * most], nticks=6, fixedrange=True),
        annotations=[
            label(what, 0, 1, yshift=20, font={"size": 13, "color": LIGHT["ink"]}),
            label("the steeper it falls, the better", 0, 1, yshift=4, font=soft),
            label("<b>area under the curve</b>, the best first", 0, 0, yshift=-FOOT, yanchor="top", font=soft),
        ],
    )


def _style(how: str, others: Sequence[str]) -> Style:
    if how == CHANCE:
        return BY_CHANCE
    return STYLES.get(how) or OTHERS[sorted(others).index(how) % len(OTHERS)]


def _trace(line: Line, style: Style, place: int) -> dict[str, Any]:
    chance = line.how == CHANCE
    name = safe(line.how[:30].replace("-", " ")) or "–"
    return {
        "type": "scatter",
        "mode": "lines" if chance and len(line.points) > 1 else "lines+markers",
        "name": f"{number(line.area, 3)}  {name}{', by chance' if chance else ''}",
        "legendrank": 1000 + place,
        "x": [x for x, _ in line.points],
        "y": [round(y, 5) for _, y in line.points],
        "line": {"color": style.colour, "width": 2, "dash": "6px,4px" if chance else "solid"},
        "marker": {"size": 7, "symbol": style.symbol, "color": style.colour},
        "hovertemplate": f"{name}<br>%{{x}} words deleted: %{{y:.3f}}<extra></extra>",
        "cliponaxis": False,
    }


def _target(events: Sequence[Event]) -> Token | None:
    """The token explained last."""
    return next((event.target for event in reversed(events) if isinstance(event, Attribution)), None)


def _name(how: str) -> str:
    return plain(Token(-1, how[:30].replace("-", " ") or "–"), 30).replace("␣", " ")
