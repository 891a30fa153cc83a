"""What a forward pass costs on this machine, by the number of new tokens it reads.

Left: the time of a pass, t(q). Right: the same per token. Where the left curve is flat, checking more guesses is almost
free; where it rises like a straight line, nothing is gained by checking more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.events import Curve, Event
from visuals.canvas import SMALL, axis, drawing, finite, label, legend, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.spelling import safe

_LINES = (
    (LIGHT["accent"], "solid"),
    (ROLES["accepted"].ink, "6px,3px"),
    (ROLES["copied"].ink, "2px,3px"),
    (LIGHT["ink"], "9px,4px"),
)


def relevant(events: Sequence[Event]) -> bool:
    """Whether a curve was measured."""
    return any(isinstance(event, Curve) and _of_time(event) for event in events)


def _of_time(curve: Curve) -> bool:
    """Other curves, such as those of training or of agreement, are not about what a pass costs."""
    return "second" in curve.y_name.lower()


def curves(events: Sequence[Event]) -> list[Curve]:
    """The latest curve of every name, for the axes of the last one."""
    found = [
        event
        for event in events
        if isinstance(event, Curve) and _of_time(event) and event.x and len(event.x) == len(event.y)
    ]
    if not found:
        return []
    kind = (found[-1].x_name, found[-1].y_name)
    return list({curve.name: curve for curve in found if (curve.x_name, curve.y_name) == kind}.values())


def table(events: Sequence[Event]) -> list[Row]:
    """One row per point."""
    return [
        {
            "curve": curve.name,
            "x_name": curve.x_name,
            "y_name": curve.y_name,
            "x": x,
            "y": y,
            "y_per_x": y / x if x else None,
        }
        for curve in curves(events)
        for x, y in zip(curve.x, curve.y, strict=True)
    ]


def narrate(events: Sequence[Event]) -> str:
    """The two ends of each curve, in total and per token."""
    found = curves(events)
    if not found:
        return "The cost of a forward pass has not been measured yet."
    sentences = []
    for curve in found[:3]:
        scale, unit = _unit(curve.y_name)
        (x0, y0), (x1, y1) = _ends(curve)
        sentences.append(
            f"{curve.name}: {y0 * scale:.1f} {unit} for {x0:g} {curve.x_name}, {y1 * scale:.1f} {unit} for {x1:g}."
        )
        if x0 > 0 and x1 > x0 and y0 > 0:
            sentences.append(f"{x1 / x0:g} times the {curve.x_name} cost {y1 / y0:.1f} times as much.")
    return " ".join(sentences)


@picture(
    "cost-curve",
    title="Cost curve",
    explains="How long a pass takes when it reads more tokens at once: a flat line makes checking guesses cheap.",
    empty="A pass over eight tokens takes far less than eight passes over one. This machine was not measured yet.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """Cost against size, in total and per token."""
    found = curves(events)
    if not found:
        return None
    scale, unit = _unit(found[-1].y_name)
    sizes = sorted({x for curve in found for x in curve.x})
    wide = len(sizes) > 1 and sizes[0] > 0 and sizes[-1] / sizes[0] >= 8
    kind = {"type": "log", "tickvals": _few(sizes), "ticktext": [f"{x:g}" for x in _few(sizes)]} if wide else {}
    name = safe(found[-1].x_name)
    return drawing(
        [trace for index, curve in enumerate(found) for trace in _pair(curve, index, scale)],
        height=320,
        min_width=420,
        margin={"t": 50, "l": 44, "r": 12, "b": 40},
        showlegend=len(found) > 1,
        legend=legend(1.1),
        xaxis=axis(name, domain=[0, 0.45], showgrid=False, **kind),
        yaxis=axis("", rangemode="tozero", nticks=6),
        xaxis2=axis(name, domain=[0.56, 1], anchor="y2", showgrid=False, **kind),
        yaxis2=axis("", rangemode="tozero", anchor="x2", nticks=6),
        annotations=[
            label(f"{unit} per pass", 0, 1, xshift=-20, yshift=4),
            label(f"{unit} per token", 0.56, 1, xshift=-20, yshift=4),
        ],
    )


def _unit(y_name: str) -> tuple[float, str]:
    """Factor and unit for the axis: seconds read better as milliseconds."""
    return (1000.0, "ms") if "second" in y_name.lower() and "milli" not in y_name.lower() else (1.0, safe(y_name))


def _ends(curve: Curve) -> tuple[tuple[float, float], tuple[float, float]]:
    points = sorted(zip(curve.x, curve.y, strict=True))
    return points[0], points[-1]


def _few(sizes: Sequence[float]) -> list[float]:
    """At most eight of the measured sizes, for tick labels."""
    step = max(1, -(-len(sizes) // 8))
    return list(sizes)[::step]


def _pair(curve: Curve, index: int, scale: float) -> list[dict[str, Any]]:
    color, dash = _LINES[index % len(_LINES)]
    points = [(x, y * scale) for x, y in zip(curve.x, curve.y, strict=True) if len(finite((x, y))) == 2]
    common: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers+text" if len(points) <= 8 and index == 0 else "lines+markers",
        "name": safe(curve.name),
        "x": [x for x, _ in points],
        "line": {"color": color, "width": 2, "dash": dash},
        "marker": {"size": 7, "color": color},
        "textposition": "top center",
        "textfont": text_font(size=SMALL),
        "cliponaxis": False,
    }
    each = [round(y / x, 3) if x else None for x, y in points]
    return [
        common
        | {
            "y": [round(y, 3) for _, y in points],
            "text": [f"{y:.0f}" if y >= 10 else f"{y:.1f}" for _, y in points],
            "hovertemplate": "%{x}: %{y:.2f}<extra></extra>",
        },
        common
        | {
            "y": each,
            "textposition": "top right",
            "xaxis": "x2",
            "yaxis": "y2",
            "text": ["" if y is None else f"{y:.1f}" for y in each],
            "showlegend": False,
            "hovertemplate": "%{x}: %{y:.2f} each<extra></extra>",
        },
    ]
