"""What the pictures of a model's inside share: whose words stand at the positions, and maps of effects on one scale.

An effect is a share of the difference that the question is about. With clean activations put into the corrupted run 0
leaves it as it is, 1 makes it the clean one, below 0 pushes away from the answer; the other way round, what carries the
answer is below 0, for the answer is lost without it. All maps have the same colours from -1 to 1; what lies beyond has
the last colour, and its label says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from typing import Any

from engines.events import Contrast, Direction, Event, Started, Token
from visuals.canvas import SMALL, axis
from visuals.palette import EFFECT_SCALE, LIGHT
from visuals.spelling import plain, visible

EXACT = "exact"
"""The `how` of a patch that was not estimated."""
AGAINST = -0.1
"""Effects below this carry a minus sign: colour does not speak alone."""

SIDES: dict[Direction, tuple[str, str]] = {"denoise": ("against", "for"), "noise": ("lost", "gained")}
"""What an effect below 0, and one above, says of the answer."""

Grid = list[list[float | None]]
"""Effects, layer by layer; None where nothing was measured."""


def question(events: Sequence[Event]) -> Contrast | None:
    """The latest question that has prompts."""
    return next((event for event in reversed(events) if isinstance(event, Contrast) and event.pairs), None)


def prompt(events: Sequence[Event]) -> tuple[Token, ...]:
    """The words at the positions: of the first clean prompt, or else of the run's own."""
    asked = question(events)
    if asked is not None:
        return asked.pairs[0].clean
    started = next((event for event in events if isinstance(event, Started)), None)
    return started.prompt_tokens if started else ()


def place_name(tokens: Sequence[Token], position: int, width: int = 10) -> str:
    """A position for a drawing: its token and its number."""
    return f"{visible(tokens[position], width)} {position}" if 0 <= position < len(tokens) else str(position)


def place_told(tokens: Sequence[Token], position: int) -> str:
    """A position for a sentence."""
    known = 0 <= position < len(tokens)
    return f"“{plain(tokens[position], 14)}” (position {position})" if known else f"position {position}"


def ticks(tokens: Sequence[Token], positions: range, most: int) -> dict[str, Any]:
    """Names for at most about `most` of the positions: every k-th, counted from the last, which matters most."""
    every = max(1, math.ceil(len(positions) / max(1, most)))
    shown = [position for position in positions if (positions.stop - 1 - position) % every == 0]
    return {"tickvals": shown, "ticktext": [place_name(tokens, position) for position in shown]}


def layer_axis(layers: int, **more: Any) -> dict[str, Any]:
    """A vertical axis with layer 0 at the bottom."""
    step = next((step for step in (1, 2, 5, 10, 20) if layers <= 6 * step), 50)
    return axis("", range=[-0.5, layers - 0.5], tickvals=list(range(0, layers, step)), showgrid=False) | FRAME | more


FRAME: dict[str, Any] = {
    "showline": True,
    "mirror": True,
    "linewidth": 1,
    "linecolor": LIGHT["line"],
    "ticks": "",
    "fixedrange": True,
    "automargin": False,
}
"""A line around a map: what is not measured yet is an empty place in it."""


def effect_map(values: Grid, first_column: int, axes: str, **more: Any) -> dict[str, Any]:
    """The colours of a map on the axes `x{axes}` and `y{axes}`."""
    return {
        "type": "heatmap",
        "xaxis": f"x{axes}",
        "yaxis": f"y{axes}",
        "x": list(range(first_column, first_column + max((len(row) for row in values), default=0))),
        "y": list(range(len(values))),
        "z": values,
        "zmin": -1,
        "zmax": 1,
        "colorscale": EFFECT_SCALE,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
    } | more


def minus_signs(values: Grid, first_column: int, axes: str) -> dict[str, Any]:
    """A small minus sign on every cell that pushes away from the answer."""
    spots = [
        (first_column + column, row, value)
        for row, effects in enumerate(values)
        for column, value in enumerate(effects)
        if value is not None and value <= AGAINST
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "xaxis": f"x{axes}",
        "yaxis": f"y{axes}",
        "x": [column for column, _, _ in spots],
        "y": [row for _, row, _ in spots],
        "marker": {
            "symbol": "line-ew",
            "size": 5,
            "opacity": 1,
            "line": {"width": 1.2, "color": [LIGHT["accent-ink" if value < -0.7 else "ink"] for _, _, value in spots]},
        },
        "hoverinfo": "skip",
    }


def scale_bar(direction: Direction, **more: Any) -> dict[str, Any]:
    """The legend of the colours, for one of the maps."""
    less, gain = SIDES[direction]
    return {
        "showscale": True,
        "colorbar": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "xpad": 0,
            "ypad": 0,
            "y": 1,
            "yanchor": "bottom",
            "thickness": 9,
            "lenmode": "pixels",
            "len": 210,
            "outlinewidth": 0,
            "ticks": "",
            "tickvals": [-0.82, 0, 0.88],
            "ticktext": [f"−1 {less}", "0", f"{gain} 1"],
            "tickfont": {"size": SMALL, "color": LIGHT["soft"]},
        }
        | more,
    }


def pearson(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The correlation of two lists of numbers; None when there are too few, or one of them never changes."""
    count = len(pairs)
    if count < 3:
        return None
    xs, ys = (list(numbers) for numbers in zip(*pairs, strict=True))
    mean_x, mean_y = sum(xs) / count, sum(ys) / count
    xs, ys = [x - mean_x for x in xs], [y - mean_y for y in ys]
    xx, yy = sum(map(mul, xs, xs)), sum(map(mul, ys, ys))
    return sum(map(mul, xs, ys)) / math.sqrt(xx) / math.sqrt(yy) if xx > 1e-20 and yy > 1e-20 else None


def known(value: float | None) -> float | None:
    """The value if it is a number of a size that can be drawn."""
    return value if value is not None and -1e6 < value < 1e6 else None


def signed(value: float | None, digits: int = 2) -> str:
    """An effect in few characters, with its sign."""
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]
