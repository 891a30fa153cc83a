"""Tokens per second of every contestant: the median is a bar, each round a dot, their range a whisker."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from visuals.canvas import NORMAL, axis, drawing, text_font
from visuals.palette import LIGHT
from visuals.picture import Drawing, Picture, Row
from visuals.spelling import safe
from visuals.versus.lanes import Lane

SHORT = 16
"""Letters of a title beside its bar."""
NONE_YET = "No run has come to its end yet."


def ratios(lane: Lane, baseline: Lane) -> list[float]:
    """The lane's speed over the baseline's, round by round, for the rounds that both finished."""
    both = zip(lane.totals, baseline.totals, strict=False)
    return [
        mine.tokens_per_second / theirs.tokens_per_second
        for mine, theirs in both
        if mine is not None and theirs is not None and mine.tokens_per_second and theirs.tokens_per_second
    ]


def table(lanes: Sequence[Lane]) -> list[Row]:
    """One row per finished run."""
    rows: list[Row] = []
    for lane in lanes:
        for round, totals in enumerate(lane.totals):
            if totals is None:
                continue
            base = lanes[0].totals[round] if round < len(lanes[0].totals) else None
            fast = base.tokens_per_second if base is not None else 0.0
            rows.append(
                {
                    "contestant": f"{lane.letter} {lane.title}",
                    "round": round + 1,
                    "tokens": totals.tokens,
                    "seconds": totals.seconds,
                    "tokens_per_second": totals.tokens_per_second,
                    "speed_up": totals.tokens_per_second / fast if fast else None,
                }
            )
    return rows


def narrate(lanes: Sequence[Lane]) -> str:
    """Each contestant's speed with its spread, and the ratio to the baseline, in words."""
    said = []
    for lane, speeds in _measured(lanes):
        spread = f", from {min(speeds):.1f} to {max(speeds):.1f} over {len(speeds)} rounds" if len(speeds) > 1 else ""
        sentence = f"{lane.letter}, {lane.title}: {statistics.median(speeds):.1f} tokens per second{spread}"
        if lane.place and (found := ratios(lane, lanes[0])):
            ratio = statistics.median(found)
            sentence += f"; {ratio:.2f} times the speed of {lanes[0].letter}" + (", so slower" if ratio < 1 else "")
        said.append(sentence + ".")
    return " ".join(said) or NONE_YET


def draw(lanes: Sequence[Lane]) -> Drawing | None:
    """Horizontal bars, the baseline on top."""
    measured = _measured(lanes)
    if not measured:
        return None
    most = max(max(speeds) for _, speeds in measured)
    names = [_short(lane) for lane, _ in measured]
    medians = [statistics.median(speeds) for _, speeds in measured]
    bars: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "x": [round(value, 2) for value in medians],
        "y": names,
        "width": 0.5,
        "marker": {"color": [_tint(lane) for lane, _ in measured], "line": {"width": 0}},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [round(max(speeds) - mid, 2) for (_, speeds), mid in zip(measured, medians, strict=True)],
            "arrayminus": [round(mid - min(speeds), 2) for (_, speeds), mid in zip(measured, medians, strict=True)],
            "color": LIGHT["ink"],
            "thickness": 1.5,
            "width": 5,
        },
        "hovertemplate": "%{y}: %{x} tokens/s<extra></extra>",
    }
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [round(speed, 2) for _, speeds in measured for speed in speeds],
        "y": [_short(lane) for lane, speeds in measured for _ in speeds],
        "marker": {"size": 6, "color": LIGHT["panel"], "line": {"color": LIGHT["ink"], "width": 1}},
        "customdata": [round + 1 for _, speeds in measured for round in range(len(speeds))],
        "hovertemplate": "round %{customdata}: %{x} tokens/s<extra></extra>",
    }
    words = {
        "type": "scatter",
        "mode": "text",
        "x": [round(max(speeds) + most * 0.03, 2) for _, speeds in measured],
        "y": names,
        "text": [_said(lane, mid, lanes[0]) for (lane, _), mid in zip(measured, medians, strict=True)],
        "textposition": "middle right",
        "textfont": text_font(size=NORMAL),
        "hoverinfo": "skip",
    }
    return drawing(
        [bars, dots, words],
        height=120 + 44 * len(measured),
        min_width=340,
        margin={"t": 6, "l": 10, "r": 14, "b": 40},
        xaxis=axis("tokens per second", range=[0, most * 1.8], nticks=6),
        yaxis=axis("", autorange="reversed", showgrid=False, tickfont={"size": NORMAL, "color": LIGHT["ink"]}),
        bargap=0.4,
    )


def _measured(lanes: Sequence[Lane]) -> list[tuple[Lane, list[float]]]:
    return [
        (lane, speeds)
        for lane in lanes
        if (speeds := [one.tokens_per_second for one in lane.totals if one is not None])
    ]


def _short(lane: Lane) -> str:
    """Few enough letters to leave a phone some room for the bars."""
    title = lane.title if len(lane.title) <= SHORT else f"{lane.title[: SHORT - 1].rstrip()}…"
    return f"{lane.letter}  {safe(title)}"


def _tint(lane: Lane) -> str:
    return LIGHT["untested-bg"] if lane.place == 0 else LIGHT["sure-4"]


def _said(lane: Lane, median: float, baseline: Lane) -> str:
    if lane.place == 0:
        return f"{median:.1f}"
    found = ratios(lane, baseline)
    return f"{median:.1f}" + (f"  ×{statistics.median(found):.2f}" if found else "")


PICTURE = Picture(
    id="versus-speed",
    title="Speed",
    explains="Median tokens per second; the whisker reaches from the slowest to the fastest round, each dot is one.",
    empty="Run a comparison: the speed of every contestant is drawn here, with its spread over the rounds.",
    draw=draw,
    table=table,
    narrate=narrate,
    relevant=bool,
)
