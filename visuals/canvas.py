"""What all Plotly drawings share: type, axes, margins, hover labels, and boxes with text.

Everything here returns plain dicts and lists, because building `plotly.graph_objects` is a hundred times slower and a
live picture is drawn ten times a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from visuals.palette import LIGHT, ROLES, Role
from visuals.picture import Drawing

SANS = 'Inter, "Segoe UI", system-ui, sans-serif'
MONO = 'ui-monospace, Menlo, "DejaVu Sans Mono", monospace'
SMALL, NORMAL = 11, 12

Points = list[float | None]


def drawing(
    data: Sequence[dict[str, Any]],
    *,
    height: int,
    min_width: int = 0,
    margin: dict[str, int] | None = None,
    **layout: Any,
) -> Drawing:
    """A drawing with the house's layout; `layout` adds to it."""
    return {
        "kind": "plotly",
        "data": list(data),
        "layout": {
            "height": height,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8, "pad": 0} | (margin or {}),
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": SANS, "size": NORMAL, "color": LIGHT["soft"]},
            "hoverlabel": {
                "bgcolor": LIGHT["panel"],
                "bordercolor": LIGHT["soft"],
                "font": {"family": MONO, "size": NORMAL, "color": LIGHT["ink"]},
                "align": "left",
            },
            "hovermode": "closest",
            "showlegend": False,
            "uirevision": "keep",
        }
        | layout,
        "min_width": min_width,
    }


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """A quiet axis with a title."""
    return {
        "title": {"text": title, "font": {"size": NORMAL, "color": LIGHT["soft"]}, "standoff": 8},
        "tickfont": {"size": SMALL, "color": LIGHT["soft"]},
        "gridcolor": LIGHT["line"],
        "linecolor": LIGHT["line"],
        "zerolinecolor": LIGHT["line"],
        "zeroline": False,
        "automargin": True,
    } | more


def hidden_axis(**more: Any) -> dict[str, Any]:
    """An axis that only carries coordinates."""
    return {"visible": False, "showgrid": False, "zeroline": False} | more


def label(text: str, x: float, y: float, **more: Any) -> dict[str, Any]:
    """A word on the paper: coordinates from 0 to 1, no arrow."""
    return {
        "text": text,
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "align": "left",
        "font": {"size": NORMAL, "color": LIGHT["soft"]},
    } | more


def legend(y: float = 1.0, **more: Any) -> dict[str, Any]:
    """A legend in one row above the plot."""
    return {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": y,
        "yanchor": "bottom",
        "font": {"size": NORMAL, "color": LIGHT["soft"]},
        "bgcolor": "rgba(0,0,0,0)",
        "traceorder": "normal",
    } | more


def text_font(color: str | list[str] | None = None, **more: Any) -> dict[str, Any]:
    """Mono type for tokens and numbers."""
    return {"family": MONO, "size": NORMAL, "color": color or LIGHT["ink"]} | more


class Boxes:
    """Boxes with a token on the left and a number on the right, joined by curves: the stuff of trees.

    Traces are grouped by role, so a tree of a hundred nodes is a dozen traces. Coordinates are pixels of a drawing
    of natural size; y grows downwards.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._outline = _rounded(width, height)
        self._boxes: dict[str, tuple[Points, Points]] = {}
        self._left: dict[str, list[tuple[float, float, str]]] = {}
        self._right: dict[str, list[tuple[float, float, str]]] = {}
        self._hover: list[tuple[float, float, str, str]] = []
        self._curves: dict[tuple[str, float], tuple[Points, Points]] = {}

    def add(self, role: str, x: float, y: float, left: str, right: str, hover: str, id: int | None = None) -> None:
        """A box whose left edge is at `x` and whose middle is at `y`; texts are already harmless.

        With an `id` a click on the box asks the pictures of one guess to show that one.
        """
        xs, ys = self._boxes.setdefault(role, ([], []))
        xs += [x + dx for dx, _ in self._outline]
        ys += [y + dy for _, dy in self._outline]
        xs.append(None)
        ys.append(None)
        # An empty text makes Plotly lose another one when the traces are exchanged.
        if left:
            self._left.setdefault(role, []).append((x + 8, y, left))
        if right:
            self._right.setdefault(role, []).append((x + self.width - 6, y, right))
        self._hover.append((x + self.width / 2, y, hover, "" if id is None else str(id)))

    def join(self, role: str, x0: float, y0: float, x1: float, y1: float, strength: float | None = None) -> None:
        """A curve from (x0, y0) to (x1, y1); a `strength` in [0, 1] makes it thicker."""
        # Few widths, because every width is a trace of its own.
        width = 1.2 if strength is None else 1.2 + round(max(0.0, min(strength, 1.0)) * 3) * 0.7
        xs, ys = self._curves.setdefault((role, width), ([], []))
        wide, high = x1 - x0, y1 - y0
        xs += [x0 + wide * share for share, _ in _CURVE]
        ys += [y0 + high * share for _, share in _CURVE]
        xs.append(None)
        ys.append(None)

    def traces(self) -> list[dict[str, Any]]:
        """Curves, boxes, texts and hover points, from back to front."""
        traces = [
            _lines(xs, ys, ROLES[role].edge, width, "3px,4px" if _dashed(ROLES[role]) else "solid")
            for (role, width), (xs, ys) in sorted(self._curves.items())
        ]
        for name, (xs, ys) in self._boxes.items():
            role = ROLES[name]
            dash = "2px,3px" if role.border == "dashed" else "solid"
            traces.append(_lines(xs, ys, role.edge, 1, dash) | {"fill": "toself", "fillcolor": role.bg})
        for name, texts in self._left.items():
            struck = {"lineposition": "through"} if ROLES[name].struck else {}
            traces.append(_texts(texts, "middle right", text_font(ROLES[name].ink, **struck)))
        for name, texts in self._right.items():
            traces.append(_texts(texts, "middle left", text_font(ROLES[name].ink, size=SMALL)))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [x for x, _, _, _ in self._hover],
                "y": [y for _, y, _, _ in self._hover],
                "ids": [id for _, _, _, id in self._hover],
                "meta": [self.width, self.height],
                "marker": {"size": self.height, "opacity": 0},
                "customdata": [text for _, _, text, _ in self._hover],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
        return traces


def _dashed(role: Role) -> bool:
    return role.border == "dashed" or role.struck


def _lines(xs: Points, ys: Points, color: str, width: float, dash: str = "solid") -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "line": {"color": color, "width": width, "dash": dash},
        "hoverinfo": "skip",
    }


def _texts(texts: Sequence[tuple[float, float, str]], position: str, font: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "text",
        "x": [x for x, _, _ in texts],
        "y": [y for _, y, _ in texts],
        "text": [text for _, _, text in texts],
        "textposition": position,
        "textfont": font,
        "hoverinfo": "skip",
    }


def _rounded(width: float, height: float, radius: float = 6) -> list[tuple[float, float]]:
    """The closed outline of a box with round corners, relative to the middle of its left edge."""
    turns = [(radius - radius * math.sin(a), radius - radius * math.cos(a)) for a in (0, 0.52, 1.05, math.pi / 2)]
    top, right, bottom, left = -height / 2, width, height / 2, 0.0
    outline = [(right - dx, top + dy) for dx, dy in turns]
    outline += [(right - dx, bottom - dy) for dx, dy in reversed(turns)]
    outline += [(left + dx, bottom - dy) for dx, dy in turns]
    outline += [(left + dx, top + dy) for dx, dy in reversed(turns)]
    return [(round(x, 2), round(y, 2)) for x, y in [*outline, outline[0]]]


def _bezier(t: float) -> tuple[float, float]:
    """A point of the curve from (0, 0) to (1, 1) that leaves and arrives level."""
    s = 1 - t
    return round(1.5 * s * s * t + 1.5 * s * t * t + t**3, 4), round(3 * s * t * t + t**3, 4)


_CURVE = [_bezier(step / 10) for step in range(11)]


def number(value: float | None, digits: int = 2) -> str:
    """A probability or score for a small space; a dash when unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def short(p: float | None) -> str:
    """A probability in three characters, for boxes and cells: `.97`, or `1.0`."""
    return "–" if p is None or not 0 <= p <= 1 else f"{p:.2f}"[1:] if p < 0.995 else "1.0"


def milliseconds(seconds: float) -> str:
    """A duration in the unit that reads best."""
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{seconds * 1000:.0f} ms"
        if seconds >= 0.01
        else f"{seconds * 1000:.2f} ms"
    )


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]
