"""The attention pattern of one head as a picture: who looks at whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.events import Token
from playground.circuits import Pattern
from visuals.canvas import axis, drawing
from visuals.inside import place_name, place_told
from visuals.palette import LIGHT, SURE
from visuals.picture import Drawing, Picture, Row
from visuals.spelling import plain

CELL, MOST_LABELS = 19, 48
"""Pixels of a cell, and tokens that are named on an axis."""
TOLD = 3


def draw(pattern: Pattern | None, tokens: Sequence[Token] = ()) -> Drawing | None:
    """A cell per pair of tokens: the row looks, the column is looked at; darker is more."""
    if pattern is None:
        return None
    count = len(pattern.rows)
    values = [[*map(_rounded, row), *[None] * (count - len(row))] for row in pattern.rows]
    every = -(-count // MOST_LABELS)
    shown = [place for place in range(count) if (count - 1 - place) % every == 0]
    names = {"tickvals": shown, "ticktext": [place_name(tokens, place, 9) for place in shown]}
    frame: dict[str, Any] = {"ticks": "", "showgrid": False, "fixedrange": True, "automargin": False}
    told = [
        [f"{place_told(tokens, at)} looks at {place_told(tokens, of)}" if of <= at else "" for of in range(count)]
        for at in range(count)
    ]
    cells = {
        "type": "heatmap",
        "x": list(range(count)),
        "y": list(range(count)),
        "z": values,
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[place / (len(SURE) - 1), colour] for place, colour in enumerate(SURE)],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "customdata": [[_safe(text) for text in row] for row in told],
        "hovertemplate": "%{customdata}<br>%{z:.3f}<extra></extra>",
    }
    side = max(170, min(640, CELL * count))
    return drawing(
        [cells],
        height=side + 84,
        min_width=side + 96,
        margin={"l": 88, "r": 8, "t": 6, "b": 78},
        xaxis=axis("", range=[-0.5, count - 0.5], tickangle=-60, **names) | frame,
        yaxis=axis("", range=[count - 0.5, -0.5], **names) | frame,
        plot_bgcolor=LIGHT["bg"],
    )


def table(pattern: Pattern | None, tokens: Sequence[Token] = ()) -> list[Row]:
    """One row per cell."""

    def name(place: int) -> str:
        return plain(tokens[place]) if place < len(tokens) else ""

    return [
        {"from": place, "token": name(place), "to": other, "looked at": name(other), "share": share}
        for place, row in enumerate(pattern.rows if pattern else ())
        for other, share in enumerate(row)
    ]


def narrate(pattern: Pattern | None, tokens: Sequence[Token] = ()) -> str:
    """Where the last token looks most."""
    if pattern is None or not pattern.rows:
        return "No head has been chosen yet."
    row = pattern.rows[-1]
    best = sorted(range(len(row)), key=lambda place: -row[place])[:TOLD]
    looks = ", ".join(f"{place_told(tokens, place)} with {row[place]:.2f}" for place in best)
    said = f"Head {pattern.head} of layer {pattern.layer}: the last token looks most at {looks}."
    if len(pattern.sharing) > 1:
        others = ", ".join(str(unit) for unit in pattern.sharing)
        said += f" Heads {others} share their keys and values."
    return said


def _rounded(share: float) -> float:
    return round(share, 4)


def _safe(text: str) -> str:
    return text.translate(_ESCAPES)


_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"})

PICTURE = Picture(
    id="attention-pattern",
    title="Attention pattern",
    explains="Each row is a token, and where in the text before it this head looks; darker is more. Looking is not "
    "yet using: patch the head to see what it does.",
    empty="Click a head in the circuit or in the map of heads.",
    draw=draw,
    table=table,
    narrate=narrate,
    relevant=lambda events: bool(events),
)
