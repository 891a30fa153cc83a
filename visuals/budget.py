"""Where the time and the forward passes went.

Above: decode time by what it was spent on; what no pass accounts for is `other`, that is, Python. Below: how many
tokens each pass read. A pass over sixteen tokens costs little more than a pass over one, which is why guessing pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.events import Event, Forward
from visuals.canvas import SMALL, axis, drawing, hidden_axis, label, legend, milliseconds
from visuals.palette import LIGHT, ROLES, SURE
from visuals.picture import Drawing, Row, picture
from visuals.reading import has

LANES = {
    "prompt": "reading the prompt",
    "target": "target passes",
    "draft": "draft passes",
    "backward": "backward passes",
}
OTHER = "other (Python)"

_FILL = {
    "prompt": {"color": SURE[4], "line": {"color": LIGHT["accent"], "width": 1}},
    "target": {"color": LIGHT["accent"], "line": {"color": LIGHT["accent"], "width": 1}},
    "draft": {"color": ROLES["accepted"].bg, "line": {"color": ROLES["accepted"].ink, "width": 1}},
    # Dots, because no pass of a decoder looks like that.
    "backward": {
        "color": ROLES["forced"].bg,
        "line": {"color": ROLES["forced"].ink, "width": 1},
        "pattern": {"shape": ".", "fgcolor": ROLES["forced"].edge, "size": 5, "solidity": 0.25},
    },
    "other": {
        "color": ROLES["undecided"].bg,
        "line": {"color": ROLES["undecided"].edge, "width": 1},
        "pattern": {"shape": "/", "fgcolor": ROLES["undecided"].edge, "size": 6, "solidity": 0.2},
    },
}
_INK = {
    "prompt": LIGHT["ink"],
    "target": LIGHT["accent-ink"],
    "draft": ROLES["accepted"].ink,
    "backward": ROLES["forced"].ink,
    "other": LIGHT["ink"],
}


def relevant(events: Sequence[Event]) -> bool:
    """Whether any forward pass was reported."""
    return has(events, Forward)


def passes(events: Sequence[Event]) -> list[Forward]:
    """The forward passes, in order."""
    return [event for event in events if isinstance(event, Forward)]


def spent(events: Sequence[Event]) -> dict[str, float]:
    """Seconds by lane, and `other`: decode time that no pass accounts for."""
    seconds = dict.fromkeys((*LANES, "other"), 0.0)
    for event in passes(events):
        seconds[event.lane] += event.seconds
    total = max((event.time for event in events[-8:]), default=0.0)
    seconds["other"] = max(0.0, total - sum(seconds.values()))
    return seconds


def table(events: Sequence[Event]) -> list[Row]:
    """One row per forward pass."""
    return [
        {
            "pass": index + 1,
            "lane": event.lane,
            "batch": event.batch,
            "query": event.query,
            "cached": event.cached,
            "seconds": event.seconds,
            "time": event.time,
        }
        for index, event in enumerate(passes(events))
    ]


def narrate(events: Sequence[Event]) -> str:
    """Passes and time by lane."""
    done = passes(events)
    if not done:
        return "The model has not been called yet."
    seconds = spent(events)
    total = sum(seconds.values())
    counts = {lane: sum(event.lane == lane for event in done) for lane in LANES}
    parts = [
        f"{name} took {milliseconds(seconds[lane])} in {counts[lane]} {'pass' if counts[lane] == 1 else 'passes'}"
        for lane, name in LANES.items()
        if counts[lane]
    ]
    sentences = [f"Decoding took {milliseconds(total)}: {', '.join(parts)}."]
    if total:
        share = seconds["other"] / total
        sentences.append(f"Everything else took {milliseconds(seconds['other'])}, {share:.0%} of the time.")
    decoding = [event.query for event in done if event.lane == "target"]
    if decoding:
        sentences.append(f"A target pass read {sum(decoding) / len(decoding):.1f} tokens on average.")
    return " ".join(sentences)


@picture(
    "budget",
    title="Budget",
    explains="Where the time went, and how many tokens each pass of the model read.",
    empty="Calling the model is what decoding spends its time on. Each call will be counted and timed here.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """One stacked bar of time, and a bar per pass."""
    done = passes(events)
    if not done:
        return None
    seconds = spent(events)
    total = sum(seconds.values())
    counts = {lane: sum(event.lane == lane for event in done) for lane in LANES}
    # A backward pass goes back over what was read already.
    read = sum(event.batch * event.query for event in done if event.lane != "backward")
    longest = max((event.batch * event.query for event in done if event.lane != "prompt"), default=0)
    prompt = max((event.batch * event.query for event in done if event.lane == "prompt"), default=0)
    # A long prompt would flatten everything else: its bars are cut at the top, and the caption says so.
    cut = bool(longest) and prompt > 2 * longest
    note = "; prompt cut off" if cut else ""
    shown = [lane for lane in (*LANES, "other") if seconds[lane] > 0 or counts.get(lane)]
    second_row = 34 if len(shown) > 3 else 0  # four entries of the legend do not fit into one
    return drawing(
        [_time(lane, seconds[lane], total, counts) for lane in shown]
        + [_reads(lane, done) for lane in LANES if counts[lane]],
        height=330 + second_row,
        min_width=340,
        margin={"t": 78 + second_row, "l": 40, "r": 12, "b": 38},
        dragmode="zoom",
        barmode="stack",
        bargap=0.15 if len(done) <= 60 else 0,
        showlegend=True,
        legend=legend(1.3 if second_row else 1.16),
        uniformtext={"minsize": SMALL, "mode": "hide"},
        xaxis=hidden_axis(range=[0, total or 1], fixedrange=True, anchor="y"),
        yaxis=hidden_axis(domain=[0.78, 1], fixedrange=True, anchor="x"),
        xaxis2=axis("pass", anchor="y2", tickformat="d", showgrid=False, range=[0.4, max(len(done), 8) + 0.6]),
        yaxis2=axis(
            "", domain=[0, 0.56], anchor="x2", range=[0, 1.25 * (longest if cut else max(longest, prompt))], nticks=5
        ),
        annotations=[
            label(
                f"<b>{milliseconds(total)}</b> of decode time",
                0,
                1.0,
                yshift=2,
                font={"size": 12, "color": LIGHT["ink"]},
            ),
            label(f"tokens read per pass, <b>{read:,}</b> in all{note}", 0, 0.6),
        ],
    )


def _time(lane: str, seconds: float, total: float, counts: dict[str, int]) -> dict[str, Any]:
    count = f", {counts[lane]} passes" if lane in counts else ""
    name = LANES.get(lane, OTHER)
    return {
        "type": "bar",
        "orientation": "h",
        "name": f"{name} {seconds / total:.0%}" if total else name,
        "x": [seconds],
        "y": [0],
        "width": 0.9,
        "text": [milliseconds(seconds) if total and seconds / total >= 0.16 else ""],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "insidetextfont": {"size": 12, "color": _INK[lane]},
        "marker": _FILL[lane],
        "hovertemplate": f"{name}: {milliseconds(seconds)}{count}<extra></extra>",
    }


def _reads(lane: str, done: Sequence[Forward]) -> dict[str, Any]:
    mine = [(index, event) for index, event in enumerate(done, 1) if event.lane == lane]
    return {
        "type": "bar",
        "xaxis": "x2",
        "yaxis": "y2",
        "x": [index for index, _ in mine],
        "y": [event.batch * event.query for _, event in mine],
        "customdata": [
            f"{'back through ' * (lane == 'backward')}{event.batch} × {event.query} tokens,"
            f" {milliseconds(event.seconds)}"
            for _, event in mine
        ],
        "marker": _FILL[lane],
        "showlegend": False,
        "hovertemplate": "pass %{x}: %{customdata}<extra></extra>",
    }
