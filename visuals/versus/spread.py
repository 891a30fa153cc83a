"""A sweep's numbers as boxes: one per method, every run a dot, so that a lucky prompt cannot pass for a fast method."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from visuals.canvas import NORMAL, axis, drawing
from visuals.palette import LIGHT
from visuals.picture import Drawing, Picture, Row
from visuals.spelling import safe

NONE_YET = "No run has come to its end yet."
LONGEST_LABEL = 26


@dataclass(frozen=True, slots=True)
class Group:
    """One method's numbers, the baseline's first. `names` says of each which prompt and seed it is from."""

    title: str
    values: tuple[float, ...]
    names: tuple[str, ...]


def table(groups: Sequence[Group], measure: str) -> list[Row]:
    """One row per run."""
    return [
        {"method": group.title, "run": name, measure: value}
        for group in groups
        for name, value in zip(group.names, group.values, strict=True)
    ]


def narrate(groups: Sequence[Group], measure: str) -> str:
    """Median and range of every method."""
    said = [
        f"{group.title}: median {statistics.median(group.values):.2f}, from {min(group.values):.2f} to "
        f"{max(group.values):.2f} over {len(group.values)} {'run' if len(group.values) == 1 else 'runs'}."
        for group in groups
        if group.values
    ]
    return f"{measure.capitalize()}. {' '.join(said)}" if said else NONE_YET


def draw(groups: Sequence[Group], measure: str, line: float | None = None) -> Drawing | None:
    """Horizontal boxes, the baseline on top; `line` marks a value that means "no difference"."""
    measured = [(place, group) for place, group in enumerate(groups) if group.values]
    if not measured:
        return None
    boxes = [
        {
            "type": "box",
            "orientation": "h",
            "x": [round(value, 3) for value in group.values],
            "y": [_label(place, group)] * len(group.values),
            "boxpoints": "all",
            "jitter": 0.5,
            "pointpos": 0,
            "width": 0.55,
            "fillcolor": LIGHT["untested-bg"] if place == 0 else LIGHT["sure-2"],
            "line": {"color": LIGHT["soft"] if place == 0 else LIGHT["accent"], "width": 1.5},
            "marker": {"size": 4.5, "color": LIGHT["ink"], "opacity": 0.55},
            "text": [safe(name) for name in group.names],
            "hovertemplate": "%{text}: %{x}<extra></extra>",
            "hoveron": "points",
        }
        for place, group in measured
    ]
    most = max([*(max(group.values) for _, group in measured), line or 0.0])
    shapes = [
        {"type": "line", "x0": line, "x1": line, "y0": 0, "y1": 1, "yref": "paper",
         "line": {"color": LIGHT["soft"], "width": 1.5, "dash": "4px,3px"}}
    ] if line is not None else []  # fmt: skip
    return drawing(
        boxes,
        height=64 + 46 * len(measured),
        min_width=290,
        margin={"t": 6, "l": 10, "r": 14, "b": 40},
        xaxis=axis(measure, range=[0, most * 1.08], nticks=6),
        yaxis=axis("", autorange="reversed", showgrid=False, tickfont={"size": NORMAL, "color": LIGHT["ink"]}),
        shapes=shapes,
    )


def _label(place: int, group: Group) -> str:
    title = group.title if len(group.title) <= LONGEST_LABEL else f"{group.title[: LONGEST_LABEL - 1]}…"
    return f"{place + 1}  {safe(title)}"


def _picture(id: str, title: str, measure: str, explains: str, line: float | None = None) -> Picture:
    return Picture(
        id=id,
        title=title,
        explains=explains,
        empty="Start a sweep: every run becomes a dot here, and every method a box around its middle half.",
        draw=partial(draw, measure=measure, line=line),
        table=partial(table, measure=measure),
        narrate=partial(narrate, measure=measure),
        relevant=bool,
    )


BOXES = "The box holds the middle half of the runs, its line is the median, each dot is one run."
PICTURES = {
    "tokens_per_second": _picture("sweep-speed", "Speed", "tokens per second", BOXES),
    "speed_up": _picture(
        "sweep-speed-up", "Speed-up", "times the first method's speed",
        "Each run against the first method's run of the same prompt and seed; left of the dashed line is slower.", 1.0,
    ),
    "tokens_per_target_pass": _picture(
        "sweep-per-pass", "Tokens per pass", "tokens per target pass",
        "How many tokens each look of the model brings, whatever the machine: plain decoding is at 1.", 1.0,
    ),
}  # fmt: skip
"""By the measure that they show."""
