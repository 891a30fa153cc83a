"""How sure the model was: one row per position, its first choices from left to right, darker where it was surer.

The strip on the right is the entropy of the whole distribution: short where one token dominates, long where many would
do. A dot marks the token that was taken. The axis shows the latest rows; drag to scroll, zoom out to see all. Words are
written only for the latest rows, and vanish when rows become too low for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.events import Candidates, Event, Placed
from visuals.canvas import SMALL, axis, drawing, short, text_font
from visuals.palette import LIGHT, ROLE_OF_ORIGIN, ROLES, SURE, SURE_BOUNDS, sure_ink
from visuals.picture import Drawing, Row, picture
from visuals.reading import candidates, has, written
from visuals.spelling import quoted, visible

ROWS = 24
"""Positions in view at first."""

WORDED_ROWS = 60
"""The latest rows have words: text is what makes a large figure slow in a browser."""

MOST_ROWS = 1000
WIDE, NARROW = 4, 6
LABEL, CELL, SLIVER = 112, 112, 14
"""Widths of the columns: the token that was taken, choices with words, further choices without."""

_SCALE = [
    [bound, SURE[level]]
    for level, low in enumerate(SURE_BOUNDS)
    for bound in (low, SURE_BOUNDS[level + 1] if level + 1 < len(SURE_BOUNDS) else 1.0)
]
_EDGES = [LABEL + CELL * i for i in range(WIDE)] + [LABEL + CELL * WIDE + SLIVER * i for i in range(NARROW + 1)]
_ORDINALS = ("1st", "2nd", "3rd", "4th")


def relevant(events: Sequence[Event]) -> bool:
    """Whether any candidates were reported."""
    return has(events, Candidates)


def table(events: Sequence[Event]) -> list[Row]:
    """One row per position and candidate."""
    output = written(events)
    return [
        {
            "position": position,
            "rank": rank,
            "id": choice.token.id,
            "text": choice.token.text,
            "hex": choice.token.hex,
            "raw": choice.p,
            "taken": position in output and output[position].token.id == choice.token.id,
            "entropy": wanted.entropy,
        }
        for position, wanted in sorted(candidates(events).items())
        for rank, choice in enumerate(wanted.raw)
    ]


def narrate(events: Sequence[Event]) -> str:
    """How sure the model was on average, and where least."""
    wanted = candidates(events)
    if not wanted:
        return "Nothing is known yet of what the model wanted."
    tops = {position: item.raw[0] for position, item in wanted.items() if item.raw}
    sure = sum(top.p >= 0.75 for top in tops.values())
    sentences = [f"At {sure} of {len(wanted)} positions the model gave its first choice a probability of 0.75 or more."]
    unsure = max(wanted.values(), key=lambda item: item.entropy)
    options = " or ".join(f"{quoted(choice.token)} ({choice.p:.2f})" for choice in unsure.raw[:3])
    sentences.append(f"It was least sure at position {unsure.position}: {options}; entropy {unsure.entropy:.2f} nats.")
    output = written(events)
    other = [p for p, top in tops.items() if p in output and output[p].token.id != top.token.id]
    if other:
        noun = "position" if len(other) == 1 else "positions"
        sentences.append(f"At {len(other)} {noun} another token than its first choice was taken.")
    return " ".join(sentences)


@picture(
    "confidence",
    title="Confidence",
    explains="What the model wanted at each place: darker is surer, and the dot marks the token that was taken.",
    empty="Before each token the model gives every word a probability. Here are its first choices, row by row.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The heatmap, the words in it, the dots, and the entropy strip."""
    wanted = candidates(events)
    if not wanted:
        return None
    output = written(events)
    last = max(wanted)
    first = max(min(wanted), last - MOST_ROWS + 1)
    rows = range(first, last + 1)
    bottom = max(last, first + ROWS - 1)
    return drawing(
        [
            _cells(wanted, rows),
            _words(wanted, output, rows[-WORDED_ROWS:]),
            _marks(wanted, output, rows),
            _strip(wanted, rows),
        ],
        height=ROWS * 20 + 40,
        min_width=660,
        margin={"l": 40, "t": 28, "r": 12},
        dragmode="pan",
        barmode="overlay",
        uniformtext={"minsize": SMALL, "mode": "hide"},
        xaxis=axis(
            domain=[0, 0.89],
            range=[0, _EDGES[-1]],
            side="top",
            tickvals=[LABEL / 2, *(LABEL + CELL * (i + 0.5) for i in range(WIDE)), (_EDGES[WIDE] + _EDGES[-1]) / 2],
            ticktext=["taken", *_ORDINALS, "5th–10th"],
            showgrid=False,
            fixedrange=True,
        ),
        xaxis2=axis(
            domain=[0.91, 1],
            rangemode="tozero",
            side="top",
            tickvals=[0],
            ticktext=["entropy"],
            ticklabelshift=22,
            showgrid=False,
            fixedrange=True,
        ),
        yaxis=axis(
            range=[bottom + 0.5, bottom - ROWS + 0.5],
            tickformat="d",
            showgrid=False,
            nticks=ROWS // 2,
            minallowed=first - 1,
            maxallowed=bottom + 1,
        ),
    )


def _cells(wanted: dict[int, Candidates], rows: range) -> dict[str, Any]:
    p: list[list[float | None]] = []
    names: list[list[str]] = []
    blank_p, blank_names = [None] * (WIDE + NARROW), [""] * (WIDE + NARROW)
    for position in rows:
        row = wanted.get(position)
        if row is None:
            p.append(list(blank_p))
            names.append(blank_names)
            continue
        shown = row.raw[: WIDE + NARROW]
        p.append([round(choice.p, 4) for choice in shown] + blank_p[len(shown) :])
        names.append([visible(choice.token) for choice in shown] + blank_names[len(shown) :])
    return {
        "type": "heatmap",
        "x": _EDGES,
        "y": list(rows),
        "z": p,
        "text": names,
        "zmin": 0,
        "zmax": 1,
        "colorscale": _SCALE,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "hovertemplate": "position %{y}<br>%{text} · raw %{z:.3f}<extra></extra>",
    }


def _words(wanted: dict[int, Candidates], output: dict[int, Placed], rows: range) -> dict[str, Any]:
    """Words in the cells, carried by invisible bars: Plotly hides a bar's text when it does not fit."""
    base: list[float] = []
    size: list[float] = []
    y: list[int] = []
    text: list[str] = []
    color: list[str] = []
    for position in rows:
        placed = output.get(position)
        if placed is not None:
            role = ROLES[ROLE_OF_ORIGIN[placed.origin]]
            base.append(0)
            size.append(LABEL)
            y.append(position)
            text.append(f"{role.mark or ' '} {visible(placed.token, 10)}")
            color.append(role.ink)
        row = wanted.get(position)
        for rank, choice in enumerate(row.raw[:WIDE] if row else ()):
            base.append(_EDGES[rank] + 2)
            size.append(CELL - 4)
            y.append(position)
            dot = "●" if placed is not None and placed.token.id == choice.token.id else " "
            text.append(f"{dot}{visible(choice.token, 7, pad=True)} {short(choice.p)}")
            color.append(sure_ink(choice.p))
    return {
        "type": "bar",
        "orientation": "h",
        "base": base,
        "x": size,
        "y": y,
        "width": 0.98,
        "marker": {"color": "rgba(0,0,0,0)", "line": {"width": 0}},
        "text": text,
        "textposition": "inside",
        "insidetextanchor": "start",
        "textangle": 0,
        "insidetextfont": text_font(color, size=SMALL),
        "constraintext": "inside",
        "hoverinfo": "skip",
    }


def _marks(wanted: dict[int, Candidates], output: dict[int, Placed], rows: range) -> dict[str, Any]:
    """Points where another than the first choice was taken and no words say so: they must stand out in a long run."""
    worded = rows[-WORDED_ROWS:]
    x: list[float] = []
    y: list[int] = []
    for position in rows:
        placed, row = output.get(position), wanted.get(position)
        if placed is None or row is None:
            continue
        for rank, choice in enumerate(row.raw[: WIDE + NARROW]):
            if choice.token.id == placed.token.id and rank > 0 and (position not in worded or rank >= WIDE):
                x.append((_EDGES[rank] + min(_EDGES[rank + 1], _EDGES[rank] + SLIVER)) / 2)
                y.append(position)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "marker": {"size": 5, "color": LIGHT["ink"], "symbol": "circle"},
        "hoverinfo": "skip",
    }


def _strip(wanted: dict[int, Candidates], rows: range) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [round(wanted[position].entropy, 3) if position in wanted else None for position in rows],
        "y": list(rows),
        "xaxis": "x2",
        "line": {"shape": "vhv", "color": LIGHT["soft"], "width": 1},
        "fill": "tozerox",
        "fillcolor": LIGHT["line"],
        "hovertemplate": "position %{y}<br>entropy %{x:.2f} nats<extra></extra>",
    }
