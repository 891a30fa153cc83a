"""How many tokens each contestant had written, against passes, tokens processed or seconds: the same race, four clocks.

Against target passes a method shows what its guesses are worth; against seconds, what is left of that on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visuals.canvas import axis, drawing, legend
from visuals.picture import Drawing, Picture, Row
from visuals.versus.lanes import AXES, Lane, course, median_round

NONE_YET = "Nobody has written anything yet."


def table(lanes: Sequence[Lane]) -> list[Row]:
    """One row per decision of the round that is drawn, with all four clocks."""
    round = median_round(lanes)
    return [
        {
            "contestant": f"{lane.letter} {lane.title}",
            "round": round + 1,
            "tokens": point.tokens,
            "target_passes": point.target,
            "all_passes": point.passes,
            "tokens_processed": point.processed,
            "seconds": point.seconds,
        }
        for lane in lanes
        for point in course(lane.stream(round))
    ]


def narrate(lanes: Sequence[Lane]) -> str:
    """Where each contestant ended, on every clock."""
    round = median_round(lanes)
    ends = [(lane, points[-1]) for lane in lanes if len(points := course(lane.stream(round))) > 1]
    if not ends:
        return NONE_YET
    said = [
        f"{lane.letter}, {lane.title}: {end.tokens} tokens after {end.target} target passes, "
        f"{end.passes} passes in all, {end.processed} tokens processed and {end.seconds:.2f} seconds."
        for lane, end in ends
    ]
    return " ".join(said)


def draw(lanes: Sequence[Lane], clock: str = "target") -> Drawing | None:
    """Steps, one line per contestant. `clock` is a key of `AXES`. Raises `KeyError` for another."""
    name = AXES[clock]
    round = median_round(lanes)
    traces = [_line(lane, clock, points) for lane in lanes if len(points := course(lane.stream(round))) > 1]
    if not traces:
        return None
    return drawing(
        traces,
        height=280,
        min_width=320,
        margin={"t": 26, "l": 44, "r": 14, "b": 40},
        showlegend=True,
        legend=legend(1.02),
        xaxis=axis(name, rangemode="tozero", nticks=8),
        yaxis=axis("tokens written", rangemode="tozero", nticks=6),
    )


def _line(lane: Lane, clock: str, points: Sequence[Any]) -> dict[str, Any]:
    colour, dash, symbol = lane.look
    last = len(points) - 1
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": lane.label,
        "x": [round(getattr(point, clock), 4) for point in points],
        "y": [point.tokens for point in points],
        "line": {"color": colour, "width": 2, "dash": dash, "shape": "hv"},
        # Only the end is marked: one symbol per contestant, beside its colour and dash.
        "marker": {"symbol": symbol, "color": colour, "size": [9 if place == last else 0 for place in range(last + 1)]},
        "cliponaxis": False,
        "hovertemplate": f"{lane.letter}: %{{y}} tokens at %{{x}} {AXES[clock]}<extra></extra>",
    }


PICTURE = Picture(
    id="versus-progress",
    title="Progress",
    explains="Tokens written, against what they took. A steeper line is a better use of that resource.",
    empty="Run a comparison: every contestant draws its line here.",
    draw=draw,
    table=table,
    narrate=narrate,
    relevant=bool,
)
