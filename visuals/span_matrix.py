"""The spans of a passage as a map: darker is more probable, the greatest cell is ringed.

A row per token that a span may begin with, a column per length, which leaves a triangle; the value is the span's
log-probability. Over it goes the path of greedy decoding, a cell for each of its
tokens. It steps to another row where its text goes on elsewhere in the passage, and leaves the map in red, dashed and
with a cross, where no span goes on as it does. Tables of any other kind are none of this picture's business.

Values that are nowhere above 0 are taken for log-probabilities: the shades are then nats below the best. All others
are shaded in six equal steps from the least to the greatest.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Event, Mark, Matrix, Token
from visuals.canvas import NORMAL, SMALL, Points, axis, drawing, label, text_font
from visuals.palette import LIGHT, ROLES, SURE
from visuals.picture import Drawing, Row, picture
from visuals.spelling import plain, safe, visible

MOST_ROWS, MOST_COLUMNS = 60, 24
"""Drawn at most, around the greatest value."""
LISTED = 6
ROW_HIGH, LINE_HIGH, HEAD = 18, 18, 92
LONGEST = 44
"""Characters of a listed text."""
SPANS = "spans"
"""The name of a matrix whose cell (i, k) stands for the rows i to i + k, joined."""
BEST, DUPLICATE = "best", "duplicate"
PATH, ENDS, LEAVES, OUTSIDE = "greedy", "greedy ends", "greedy leaves", "greedy outside"
NATS = (16.0, 8.0, 4.0, 2.0, 0.5)
"""Nats below the best at which the shade changes."""
OUT = ROLES["rejected"]
WALK = ROLES["copied"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of the table."""

    row: int
    column: int
    value: float


@dataclass(frozen=True, slots=True)
class Known:
    """A table and its numbers, row by row; `best` is the first of the greatest."""

    matrix: Matrix
    cells: list[Cell]
    best: Cell


def latest(events: Sequence[Event]) -> Known | None:
    """The last map of spans that holds a number."""
    for event in reversed(events):
        if isinstance(event, Matrix) and event.name == SPANS and (numbers := cells(event)):
            return Known(event, numbers, max(numbers, key=lambda cell: cell.value))
    return None


def cells(matrix: Matrix) -> list[Cell]:
    """All numbers, row by row."""
    return [
        Cell(row, column, value)
        for row, values in enumerate(matrix.values[: len(matrix.rows)])
        for column, value in enumerate(values[: len(matrix.columns)])
        if value is not None and math.isfinite(value)
    ]


def relevant(events: Sequence[Event]) -> bool:
    """Whether spans were weighed."""
    return latest(events) is not None


def top(known: Known, count: int = LISTED) -> list[Cell]:
    """The greatest cells, best first; a text that stands at several places is taken once."""
    matrix = known.matrix
    found: dict[str, Cell] = {}
    for cell in heapq.nsmallest(16 * count, known.cells, key=lambda cell: (-cell.value, cell.row, cell.column)):
        found.setdefault(_joined(matrix, cell), cell)
    return list(found.values())[:count]


def table(events: Sequence[Event]) -> list[Row]:
    """One row per number."""
    known = latest(events)
    if known is None:
        return []
    matrix = known.matrix
    marks: dict[tuple[int, int], list[str]] = {}
    for mark in matrix.marks:
        marks.setdefault((mark.row, mark.column), []).append(mark.name)
    return [
        {
            "row": cell.row,
            "row_name": matrix.rows[cell.row],
            "column": matrix.columns[cell.column],
            "value": cell.value,
            "marks": ", ".join(marks.get((cell.row, cell.column), [])),
        }
        for cell in known.cells
    ]


def narrate(events: Sequence[Event]) -> str:
    """The greatest value, the next ones, and how greedy decoding fares."""
    known = latest(events)
    if known is None:
        return "No spans have been weighed yet."
    matrix = known.matrix
    first, *others = top(known, 3)
    said = [
        f"{len(known.cells):,} spans have been weighed.",
        f"The greatest {_plain(matrix.value_name) or 'value'} is {first.value:.3f}: {_name(matrix, first)}.",
    ]
    if others:
        said.append("Then " + " and ".join(f"{_name(matrix, cell)} with {cell.value:.3f}" for cell in others) + ".")
    said += _path_told(known)
    return " ".join(said)


def _path_told(known: Known) -> list[str]:
    matrix = known.matrix
    names = {mark.name for mark in matrix.marks}
    path = _path(matrix)
    if OUTSIDE in names:
        return ["Greedy decoding begins with a token that no span begins with: it never is in the map."]
    if not path:
        return []
    last = _name(matrix, Cell(*path[-1], 0.0))
    if LEAVES in names:
        return [f"Greedy decoding follows the text as far as {last}, and then leaves it."]
    if ENDS not in names:
        return []
    same = _joined(matrix, known.best) == _joined(matrix, Cell(*path[-1], 0.0))
    return [f"Greedy decoding ends at {last}{', the same' if same else ', which is not the best'}."]


@picture(
    "span-matrix",
    title="Span map",
    explains="Every span of the text by first token and length, darker where more probable, and where greedy goes.",
    empty="A short answer is one of few spans of its text. Choose exact extraction, and see all of them weighed.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The map in a window around the greatest value, the path over it, the best ones listed below."""
    known = latest(events)
    if known is None:
        return None
    matrix, best = known.matrix, known.best
    rows = _window(len(matrix.rows), best.row, MOST_ROWS)
    columns = _window(len(matrix.columns), best.column, MOST_COLUMNS)
    listed = top(known)
    high = ROW_HIGH * max(3, len(rows))
    low = LINE_HIGH * (len(listed) + 1) + 14
    height = HEAD + high + low
    path, names = _path(matrix), {mark.name for mark in matrix.marks}

    def inside(row: int, column: int) -> bool:
        return row in rows and column in columns

    traces = [_map(known, rows, columns)]
    ring = [
        (mark.row, mark.column) for mark in matrix.marks if mark.name == DUPLICATE and inside(mark.row, mark.column)
    ]
    if ring:
        traces.append(_rings(ring, LIGHT["ink"], 1.5, "2px,2px"))
    traces.append(_rings([(best.row, best.column)], LIGHT["ink"], 3))
    traces += _walk([at for at in path if inside(*at)], ENDS in names)
    if out := _exit(matrix, path, rows, columns):
        traces.append(out)
    below = [
        label("<b>the most probable spans</b>", 0, 0, yshift=-14, yanchor="top"),
        *(
            label(
                f"{place}. {cell.value:.3f} {_escaped(matrix, cell)}",
                0,
                0,
                yshift=-14 - LINE_HIGH * place,
                yanchor="top",
                font=text_font(size=SMALL),
            )
            for place, cell in enumerate(listed, 1)
        ),
    ]
    return drawing(
        traces,
        height=height,
        min_width=max(340, 130 + 20 * len(columns)),
        margin={"l": 10, "r": 26, "t": HEAD, "b": low},
        xaxis=axis(
            safe(matrix.column_name[:40]),
            side="top",
            tickvals=list(columns),
            ticktext=[visible(Token(-1, matrix.columns[at]), 8) for at in columns],
            range=[columns.start - 1.0, columns.stop],
            showgrid=False,
            fixedrange=True,
        ),
        yaxis=axis(
            "",
            tickvals=list(rows),
            ticktext=[visible(Token(-1, matrix.rows[at]), 12) for at in rows],
            range=[rows.stop - 0.5, rows.start - 0.5],
            showgrid=False,
            fixedrange=True,
        )
        | {"tickfont": text_font(size=SMALL)},
        annotations=[*_head(matrix, best, rows, columns), *below],
    )


def _head(matrix: Matrix, best: Cell, rows: range, columns: range) -> list[dict[str, Any]]:
    """What the map shows, and what of it."""
    names = {mark.name for mark in matrix.marks}
    part = []
    if len(rows) < len(matrix.rows):
        part.append(f"rows {rows.start + 1} to {rows.stop} of {len(matrix.rows):,}")
    if len(columns) < len(matrix.columns):
        part.append(f"columns {columns.start + 1} to {columns.stop} of {len(matrix.columns):,}")
    legend = ["▣ best"]
    if DUPLICATE in names:
        legend.append("⬚ same text")
    if names & {PATH, ENDS}:
        legend.append("●─● greedy")
    if names & {LEAVES, OUTSIDE}:
        legend.append(f"<b>{OUT.mark}</b> it leaves")
    value = safe(matrix.value_name[:40]) or "value"
    lines = [f"<b>{best.value:.3f}</b> is the greatest {value}", " · ".join(legend)]
    lines += [", ".join(part)] if part else []
    return [
        label(
            line,
            0,
            1,
            yshift=HEAD - 22 - 17 * place,
            font={"size": NORMAL if place == 0 else SMALL, "color": LIGHT["ink"] if place == 0 else LIGHT["soft"]},
        )
        for place, line in enumerate(lines)
    ]


def _map(known: Known, rows: range, columns: range) -> dict[str, Any]:
    """The shades of the window."""
    matrix, high = known.matrix, known.best.value
    low = min(cell.value for cell in known.cells)
    values = {(cell.row, cell.column): cell.value for cell in known.cells if cell.row in rows}
    levels: list[list[int | None]] = []
    told: list[list[str]] = []
    for row in rows:
        levels.append([])
        told.append([])
        for column in columns:
            value = values.get((row, column))
            levels[-1].append(None if value is None else _level(value, low, high))
            told[-1].append("" if value is None else f"{_escaped(matrix, Cell(row, column, value))}<br>{value:.3f}")
    steps = len(SURE)
    scale = [[(level + end) / steps, colour] for level, colour in enumerate(SURE) for end in (0, 1)]
    return {
        "type": "heatmap",
        "x": list(columns),
        "y": list(rows),
        "z": levels,
        "zmin": -0.5,
        "zmax": steps - 0.5,
        "colorscale": scale,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "customdata": told,
        "hoverongaps": False,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _level(value: float, low: float, high: float) -> int:
    """The shade of a number, an index into `SURE`. The palest one there is that of the panel: it means no number."""
    if high <= 0:
        return 1 + sum(high - value <= nats for nats in NATS)
    steps = len(SURE) - 1
    return 1 + min(steps - 1, int((value - low) / (high - low) * steps)) if high > low else steps


def _rings(places: Sequence[tuple[int, int]], colour: str, width: float, dash: str = "solid") -> dict[str, Any]:
    xs: Points = []
    ys: Points = []
    for row, column in places:
        xs += [column - 0.48, column + 0.48, column + 0.48, column - 0.48, column - 0.48, None]
        ys += [row - 0.48, row - 0.48, row + 0.48, row + 0.48, row - 0.48, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "line": {"color": colour, "width": width, "dash": dash},
        "hoverinfo": "skip",
    }


def _walk(path: Sequence[tuple[int, int]], ended: bool) -> list[dict[str, Any]]:
    """The path of greedy decoding: a step to the right for every token, down or up to the row where its text is."""
    if not path:
        return []
    last = len(path) - 1
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [column for _, column in path],
            "y": [row for row, _ in path],
            "line": {"color": WALK.ink, "width": 2, "shape": "vh"},
            "marker": {
                "size": [9 if place == last and ended else 6 for place in range(len(path))],
                "symbol": ["square" if place == last and ended else "circle" for place in range(len(path))],
                "color": WALK.bg,
                "line": {"color": WALK.ink, "width": 1.5},
            },
            "hoverinfo": "skip",
        }
    ]


def _exit(matrix: Matrix, path: Sequence[tuple[int, int]], rows: range, columns: range) -> dict[str, Any] | None:
    """The way out of the map: from the last cell to its right edge, or at once to the left of it."""
    names = {mark.name: mark for mark in matrix.marks}
    if LEAVES in names and path and path[-1][0] in rows and path[-1][1] in columns:
        row, column = path[-1]
        xs, told = [float(column), columns.stop - 0.3], "here greedy decoding leaves the text"
    elif OUTSIDE in names:
        row = min(max(names[OUTSIDE].row, rows.start), rows.stop - 1)
        xs, told = [columns.start - 0.5, columns.start - 0.85], "greedy decoding never is in the text"
    else:
        return None
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "x": xs,
        "y": [row, row],
        "line": {"color": OUT.ink, "width": 2.5, "dash": "5px,3px"},
        "marker": {"size": [0, 11], "symbol": "x", "color": OUT.ink, "opacity": 1},
        "customdata": [told, told],
        "hovertemplate": "%{customdata}<extra></extra>",
        "cliponaxis": False,
    }


def _path(matrix: Matrix) -> list[tuple[int, int]]:
    """The cells of the greedy path, in order."""
    return [(mark.row, mark.column) for mark in matrix.marks if mark.name == PATH and _is_there(matrix, mark)]


def _is_there(matrix: Matrix, mark: Mark) -> bool:
    return 0 <= mark.row < len(matrix.rows) and 0 <= mark.column < len(matrix.columns)


def _window(count: int, middle: int, most: int) -> range:
    """At most `most` of `count` places, around one of them."""
    start = max(0, min(middle - most // 2, count - most))
    return range(start, min(count, start + most))


def _joined(matrix: Matrix, cell: Cell) -> str:
    """The text of a span."""
    return "".join(matrix.rows[cell.row : cell.row + cell.column + 1])


def _text(matrix: Matrix, cell: Cell) -> Token:
    return Token(-1, _joined(matrix, cell)[: 4 * LONGEST] or " ")


def _escaped(matrix: Matrix, cell: Cell) -> str:
    return visible(_text(matrix, cell), LONGEST)


def _name(matrix: Matrix, cell: Cell) -> str:
    """The cell for a sentence."""
    return f"“{plain(_text(matrix, cell), LONGEST)}”"


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "·" for char in text[:40])
