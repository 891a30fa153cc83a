"""How a model learns to answer with pieces of a text: what training does to three ways of decoding.

Above: F1 of the best span (exact), of greedy decoding, and of greedy decoding that is held to spans, over the number of
questions that the model was taught. The shaded gap between exact and greedy is what greedy decoding leaves on the
table. Below: how many greedy answers are spans at all, and how many are the best one. Steps of the axis are equal, not
to scale. Thick lines with marks were measured in this run, thin ones when the models were trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Curve, Event
from visuals.canvas import SMALL, axis, drawing, label, legend, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture

X_NAME = "training questions"
CARD = ", card"
"""Ends the name of a curve that was measured when the models were trained."""
EXACT, GREEDY, CONSTRAINED = "exact", "greedy", "constrained greedy"
SPANS, BEST = "greedy is a span", "greedy is the best span"
MOST_POINTS = 24


@dataclass(frozen=True, slots=True)
class Style:
    """The line of one measure, in the upper or lower panel."""

    colour: str
    dash: str
    symbol: str
    upper: bool


STYLES = {
    EXACT: Style(LIGHT["accent"], "solid", "circle", True),
    CONSTRAINED: Style(ROLES["copied"].ink, "2px,3px", "diamond", True),
    GREEDY: Style(LIGHT["ink"], "6px,3px", "square", True),
    SPANS: Style(ROLES["accepted"].ink, "solid", "circle", False),
    BEST: Style(ROLES["forced"].ink, "6px,3px", "square", False),
}
GAP = LIGHT["sure-2"]


@dataclass(frozen=True, slots=True)
class Line:
    """One measure over the number of training questions, at most `MOST_POINTS` of them; shares of 1."""

    measure: str
    card: bool
    points: dict[float, float]


def lines(events: Sequence[Event]) -> list[Line]:
    """The latest curve of every measure, those of the card first."""
    latest: dict[str, Curve] = {}
    for event in events:
        if isinstance(event, Curve) and event.x_name == X_NAME:
            latest[event.name] = event
    found = []
    for card in (True, False):
        for measure in STYLES:
            curve = latest.get(measure + CARD if card else measure)
            points = sorted(_shares(curve))[:MOST_POINTS] if curve else []
            if points:
                found.append(Line(measure, card, dict(points)))
    return found


def _shares(curve: Curve) -> list[tuple[float, float]]:
    pairs = zip(curve.x, curve.y, strict=False)
    return [(x, y) for x, y in pairs if math.isfinite(x) and x >= 0 and math.isfinite(y) and 0 <= y <= 1]


def relevant(events: Sequence[Event]) -> bool:
    """Whether anything was measured over the number of training questions."""
    return bool(lines(events))


def table(events: Sequence[Event]) -> list[Row]:
    """One row per point."""
    return [
        {"measure": line.measure, "measured": "card" if line.card else "now", "training_questions": x, "value": y}
        for line in lines(events)
        for x, y in line.points.items()
    ]


def narrate(events: Sequence[Event]) -> str:
    """The gap at both ends, and how many greedy answers are spans; of this run, or of the card."""
    found = lines(events)
    if not found:
        return "No learning curve has been measured yet."
    now = {line.measure: line.points for line in found if not line.card}
    shown = now or {line.measure: line.points for line in found}
    sentences = ["Measured in this run." if now else "Measured when the models were trained."]
    exact, greedy, spans = (shown.get(measure, {}) for measure in (EXACT, GREEDY, SPANS))
    both = [x for x in exact if x in greedy]
    for x in dict.fromkeys((both[0], both[-1])) if both else ():
        gap = 100 * (exact[x] - greedy[x])
        sentences.append(
            f"Taught {x:,.0f} questions, the best span has an F1 of {exact[x]:.2f} and greedy decoding one of "
            f"{greedy[x]:.2f}: {abs(gap):.1f} points {'more' if gap < 0 else 'less'}."
        )
    if spans:
        (first, *_), (*_, last) = spans.items(), spans.items()
        sentences.append(
            f"With {first[0]:,.0f} questions {first[1]:.0%} of the greedy answers are spans"
            + (f", with {last[0]:,.0f} {last[1]:.0%}." if last != first else ".")
        )
    return " ".join(sentences)


@picture(
    "learning-curve",
    title="Learning curve",
    explains="How good the best span and greedy answers are, by how many questions the model was taught.",
    empty="A model may answer anything, until it has seen that answers are spans. Try the lab, and see it learn that.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("labs",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """F1 above, shares below, over equal steps of the number of training questions."""
    found = lines(events)
    if not found:
        return None
    numbers = sorted({x for line in found for x in line.points})[:MOST_POINTS]
    place = {x: index for index, x in enumerate(numbers)}
    now = {line.measure for line in found if not line.card}
    ticks = {
        "tickvals": list(place.values()),
        "ticktext": [f"{x:,.0f}" for x in numbers],
        "range": [-0.3, len(numbers) - 0.7],
        "showgrid": False,
        "fixedrange": True,
    }
    shares = {"range": [-0.14, 1.1], "tickvals": [0, 0.25, 0.5, 0.75, 1], "fixedrange": True}
    thin = " · thin lines: when trained" if now and any(line.card for line in found) else ""
    return drawing(
        [*_gap(found, place), *(_trace(line, place, named=not line.card or line.measure not in now) for line in found)],
        height=480,
        min_width=340,
        margin={"t": 74, "l": 40, "r": 14, "b": 40},
        showlegend=True,
        legend=legend(1.07, font={"size": SMALL, "color": LIGHT["soft"]}),
        xaxis=axis("", anchor="y", **ticks),
        yaxis=axis("", domain=[0.52, 1], anchor="x", **shares),
        xaxis2=axis("questions that the model was taught", anchor="y2", **ticks),
        yaxis2=axis("", domain=[0, 0.37], anchor="x2", **shares),
        annotations=[
            label(f"<b>F1</b>{thin or ' of three ways to decode'}", 0, 1, yshift=4),
            label("<b>share</b> of the greedy answers", 0, 0.37, yshift=4),
        ],
    )


def _gap(found: Sequence[Line], place: dict[float, int]) -> list[dict[str, Any]]:
    """The area between exact and greedy, of this run if it has measured any, otherwise of the card."""
    for card in (False, True):
        known = {line.measure: line.points for line in found if line.card == card}
        both = [x for x in known.get(EXACT, {}) if x in known.get(GREEDY, {}) and x in place]
        if both:
            xs = [place[x] for x in both]
            upper, lower = [known[EXACT][x] for x in both], [known[GREEDY][x] for x in both]
            return [
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [*xs, *reversed(xs)],
                    "y": [*upper, *reversed(lower)],
                    "fill": "toself",
                    "fillcolor": GAP,
                    "line": {"color": GAP, "width": 0},
                    "hoverinfo": "skip",
                    "showlegend": False,
                }
            ]
    return []


def _trace(line: Line, place: dict[float, int], named: bool) -> dict[str, Any]:
    style = STYLES[line.measure]
    points = [(x, y) for x, y in line.points.items() if x in place]
    numbered = not line.card and line.measure in (EXACT, GREEDY, SPANS)
    below = line.measure == GREEDY
    return {
        "type": "scatter",
        "mode": "lines" if line.card and len(points) > 1 else "lines+markers" + ("+text" if numbered else ""),
        "name": line.measure,
        "x": [place[x] for x, _ in points],
        "y": [round(y, 4) for _, y in points],
        "text": [f"{y:.2f}" for _, y in points] if numbered else None,
        "textposition": "bottom center" if below else "top center",
        "textfont": text_font(style.colour, size=SMALL),
        "line": {"color": style.colour, "width": 1 if line.card else 2.5, "dash": style.dash},
        "marker": {"size": 7, "symbol": style.symbol, "color": style.colour},
        "opacity": 0.6 if line.card and not named else 1,
        "customdata": [f"{x:,.0f} questions" for x, _ in points],
        "hovertemplate": f"{line.measure}{' (when trained)' if line.card else ''}<br>%{{customdata}}: %{{y:.3f}}"
        "<extra></extra>",
        "xaxis": "x" if style.upper else "x2",
        "yaxis": "y" if style.upper else "y2",
        "showlegend": named,
        "cliponaxis": False,
    }
