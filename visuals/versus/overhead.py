"""Tokens per target pass against speed-up: what guessing gains in passes, and what it pays for that in time.

A target pass of a guessing method brings more tokens than one of the baseline, and takes longer: it reads the guesses
too, and making them takes time. With x tokens per pass, x₀ those of the baseline, and a pass that takes 1 + o times as
long as the baseline's,

    speed-up = (x / x₀) / (1 + o)

so points of equal overhead o lie on a line through the origin. Spec-Bench (arXiv 2401.07851) reports both numbers. From
machine to machine the same x comes with very different speed-ups: a point keeps its place from left to right, and moves
to another line.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Finished
from visuals.canvas import NORMAL, SMALL, axis, drawing, legend
from visuals.palette import LIGHT
from visuals.picture import Drawing, Picture, Row
from visuals.versus.lanes import Lane, course
from visuals.versus.speed import ratios

OVERHEADS = (0, 25, 50, 100, 200)
"""Per cent; a line for each."""
WIDE, HIGH = 300, 240
"""Pixels of the plot on a phone: there the points lie closest together."""
SIDES = {"top left": (-14, 14), "top right": (14, 14), "bottom right": (14, -14), "bottom left": (-14, -14)}
"""Where a letter may stand, and how far from its point, in pixels; sooner on the sides named first."""
NONE_YET = "No contestant has come to its end beside the baseline yet, so there is no speed-up to show."


@dataclass(frozen=True, slots=True)
class Place:
    """One contestant's point."""

    lane: Lane
    tokens: float
    """Tokens per target pass, over all rounds that came to their end."""
    speed_up: float
    """Over the baseline, the median of the rounds that both finished."""
    overhead: float
    """How much longer a target pass takes than one of the baseline, all else included: 0.25 is 25 % longer."""


def places(lanes: Sequence[Lane]) -> list[Place]:
    """One point per contestant that finished a round with the baseline; the baseline's own speed-up is 1."""
    plain = _tokens(lanes[0]) if lanes else 0.0
    found = []
    for lane in lanes:
        tokens, ratio = _tokens(lane), ratios(lane, lanes[0])
        if plain and tokens and ratio:
            speed_up = statistics.median(ratio)
            found.append(Place(lane, tokens, speed_up, tokens / plain / speed_up - 1))
    return found


def _tokens(lane: Lane) -> float:
    ends = [course(events)[-1] for events in lane.streams if events and isinstance(events[-1], Finished)]
    passes = sum(end.target for end in ends)
    return sum(end.tokens for end in ends) / passes if passes else 0.0


def table(lanes: Sequence[Lane]) -> list[Row]:
    """One row per contestant."""
    return [
        {
            "contestant": f"{one.lane.letter} {one.lane.title}",
            "tokens_per_target_pass": one.tokens,
            "speed_up": one.speed_up,
            "overhead_per_pass": one.overhead,
        }
        for one in places(lanes)
    ]


def narrate(lanes: Sequence[Lane]) -> str:
    """What each contestant gains per pass, and what a pass costs it."""
    found = places(lanes)
    if not found:
        return NONE_YET
    said = []
    for one in found:
        tokens = f"{one.lane.letter}, {one.lane.title}: {one.tokens:.2f} tokens per target pass"
        if one.lane.place == 0:
            said.append(f"{tokens}; it is the baseline.")
            continue
        slower = ", so slower" if one.speed_up < 1 else ""
        said.append(
            f"{tokens}, and a pass takes {_longer(one.overhead)} {lanes[0].letter}: "
            f"{one.speed_up:.2f} times the speed of {lanes[0].letter}{slower}."
        )
    return " ".join(said)


def _longer(overhead: float) -> str:
    percent = round(100 * overhead)
    if percent == 0:
        return "as long as one of"
    return f"{abs(percent)} % {'longer' if percent > 0 else 'less'} than one of"


def draw(lanes: Sequence[Lane]) -> Drawing | None:
    """Points over a fan of lines of equal overhead. None until somebody has finished a round beside the baseline."""
    found = places(lanes)
    if not found:
        return None
    plain = _tokens(lanes[0])
    right = 1.18 * max(1.5 * plain, *(one.tokens for one in found))
    top = 1.18 * max(1.25, *(one.speed_up for one in found))
    return drawing(
        [_line(percent, plain, right, top) for percent in OVERHEADS]
        + [_point(one, side, lanes[0]) for one, side in zip(found, _sides(found, right, top), strict=True)],
        height=340,
        min_width=330,
        margin={"t": 46, "l": 44, "r": 58, "b": 40},
        showlegend=True,
        legend=legend(1.06),
        xaxis=axis("tokens per target pass", range=[0, round(right, 4)], nticks=6),
        yaxis=axis(f"speed-up over {lanes[0].letter}", range=[0, round(top, 4)], nticks=6),
    )


def _line(percent: int, plain: float, right: float, top: float) -> dict[str, Any]:
    """From the origin to the edge that it meets first, where its name stands."""
    slope = 1 / (plain * (1 + percent / 100))
    x = min(right, top / slope)
    colour = LIGHT["soft"]
    return {
        "type": "scatter",
        "mode": "lines+text",
        "x": [0, round(x, 4)],
        "y": [0, round(x * slope, 4)],
        "line": {"color": colour, "width": 1.5 if percent == 0 else 1, "dash": "solid" if percent == 0 else "dot"},
        "text": ["", f"+{percent} %"],
        "textposition": "middle right" if x == right else "top center",
        "textfont": {"size": SMALL, "color": colour},
        "cliponaxis": False,
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _sides(found: Sequence[Place], right: float, top: float) -> list[str]:
    """Where each letter stands beside its point: where it is farthest from the other points and letters."""
    spots = [(one.tokens / right * WIDE, one.speed_up / top * HIGH) for one in found]
    letters: list[tuple[float, float]] = []
    sides = []
    for index, (x, y) in enumerate(spots):
        taken = [spot for place, spot in enumerate(spots) if place != index] + letters
        free = {
            side: min((math.hypot(x + dx - u, y + dy - v) for u, v in taken), default=0.0)
            for side, (dx, dy) in SIDES.items()
        }
        # Rounded, so that equally good sides keep their order.
        side = max(free, key=lambda side: round(free[side]))
        letters.append((x + SIDES[side][0], y + SIDES[side][1]))
        sides.append(side)
    return sides


def _point(one: Place, side: str, baseline: Lane) -> dict[str, Any]:
    colour, _, symbol = one.lane.look
    cost = "the baseline" if one.lane.place == 0 else f"a pass takes {_longer(one.overhead)} {baseline.letter}"
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": one.lane.label,
        "x": [round(one.tokens, 4)],
        "y": [round(one.speed_up, 4)],
        "marker": {"symbol": symbol, "size": 12, "color": colour, "line": {"color": LIGHT["panel"], "width": 1.5}},
        "text": [one.lane.letter],
        "textposition": side,
        "textfont": {"size": NORMAL, "color": LIGHT["ink"]},
        "cliponaxis": False,
        "hovertemplate": f"{one.lane.letter}: %{{x:.2f}} tokens per pass, ×%{{y:.2f}}, {cost}<extra></extra>",
    }


PICTURE = Picture(
    id="versus-overhead",
    title="Gain and overhead",
    explains="Further right: more tokens per pass. Higher: faster. Each line joins equal prices of a pass: "
    "on +50 % one takes half as long again as the baseline's.",
    empty="Run a comparison: what each contestant gains per pass, and what a pass costs it, is drawn here.",
    draw=draw,
    table=table,
    narrate=narrate,
    relevant=bool,
)
