"""How far a constraint bends the model: the probability that it takes away, step by step.

A mask leaves a share 1 - b of the model's probability, b the blocked mass, and what is left is scaled up. The bar of a
step is -log(1 - b) in nats, 0 where the model wanted nothing that is blocked; the line adds the steps up. The largest
steps are named by the token that the model wanted most and could not have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Event, Mask, Token, committed
from visuals.canvas import SMALL, axis, drawing, label, short, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.spelling import quoted, visible

LEAST = 1e-30
"""The share that is taken to be left where it is not known to be more: 69 nats."""
NAMED = 3
NOTICEABLE = 0.05
"""Nats below which a step is not worth naming."""


@dataclass(frozen=True, slots=True)
class Step:
    """One position under a mask."""

    position: int
    blocked: float
    nats: float
    """-log(1 - blocked)."""
    total: float
    """Up to and with this position."""
    wanted: Token | None
    """The most probable blocked token, and the model's probability of it."""
    p: float
    written: Token | None
    """What stands there in the text."""


def relevant(events: Sequence[Event]) -> bool:
    """Whether a mask was applied."""
    return bool(steps(events))


def given_up(mask: Mask) -> float:
    """-log of the probability that the mask left, in nats.

    Beside a blocked mass that rounds to 1, the probabilities of the allowed tokens still tell how little is left.
    """
    left = max(1 - mask.blocked_mass, sum(choice.p for choice in mask.permitted))
    return -math.log(min(max(left, LEAST), 1.0)) + 0.0


def steps(events: Sequence[Event]) -> list[Step]:
    """The last mask of every position, in order."""
    masks = {event.position: event for event in events if isinstance(event, Mask) and math.isfinite(event.blocked_mass)}
    written, total = committed(events), 0.0
    found = []
    for position in sorted(masks):
        mask = masks[position]
        nats = given_up(mask)
        total += nats
        best = max(mask.wanted, key=lambda choice: choice.p, default=None)
        found.append(
            Step(
                position,
                mask.blocked_mass,
                nats,
                total,
                best.token if best else None,
                best.p if best else 0.0,
                written[position].token if 0 <= position < len(written) else None,
            )
        )
    return found


def worst(found: Sequence[Step]) -> list[Step]:
    """The steps that took most, the largest first."""
    return sorted((step for step in found if step.nats >= NOTICEABLE), key=lambda step: -step.nats)[:NAMED]


def table(events: Sequence[Event]) -> list[Row]:
    """One row per position."""
    return [
        {
            "position": step.position,
            "blocked_mass": step.blocked,
            "nats": step.nats,
            "total_nats": step.total,
            "wanted_id": step.wanted.id if step.wanted else None,
            "wanted": step.wanted.text if step.wanted else "",
            "wanted_hex": step.wanted.hex if step.wanted else "",
            "wanted_p": step.p if step.wanted else None,
            "written_id": step.written.id if step.written else None,
            "written": step.written.text if step.written else "",
        }
        for step in steps(events)
    ]


def narrate(events: Sequence[Event]) -> str:
    """What was given up in all, how many steps cost something, and the costliest ones by name."""
    found = steps(events)
    if not found:
        return "Nothing has been masked yet."
    total = found[-1].total
    costly = sum(step.nats >= NOTICEABLE for step in found)
    sentences = [
        f"Over {len(found):,} {'step' if len(found) == 1 else 'steps'} the constraint took away {total:.2f} nats of"
        f" log-probability: along this text the model would have kept to it by itself with chance {_chance(total)}."
    ]
    if not costly:
        return sentences[0] + " It hardly wanted anything that was blocked."
    sentences.append(f"{costly:,} of the steps took {NOTICEABLE:g} nats or more.")
    for step in worst(found):
        instead = f"; there stands {quoted(step.written)}" if step.written else ""
        if step.wanted:
            sentences.append(
                f"Position {step.position} took {step.nats:.2f}: the model wanted {quoted(step.wanted)} with"
                f" {step.p:.2f}{instead}."
            )
    return " ".join(sentences[:5])


@picture(
    "distortion",
    title="Distortion",
    explains="What the mask takes away: a tall bar is a step at which the model wanted something that is not allowed.",
    empty="A mask forces a valid text, whatever the model wanted. Run one, and see how much was taken from it.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """Bars for the steps, and the line of their sum above."""
    found = steps(events)
    if not found:
        return None
    named = worst(found)
    top, sum_top = max(step.nats for step in found), found[-1].total
    first, last = found[0].position - 0.6, found[-1].position + 0.6
    hatched = {"shape": "/", "fgcolor": ROLES["rejected"].edge, "size": 6, "solidity": 0.2}
    bars: dict[str, Any] = {
        "type": "bar",
        "x": [step.position for step in found],
        "y": [round(step.nats, 4) for step in found],
        "marker": {
            "color": ROLES["rejected"].bg,
            "line": {"color": ROLES["rejected"].ink, "width": 1},
            "pattern": hatched,
        },
        "customdata": [_hover(step) for step in found],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    line: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "x": [step.position for step in found],
        "y": [round(step.total, 4) for step in found],
        "xaxis": "x2",
        "yaxis": "y2",
        "line": {"color": LIGHT["accent"], "width": 2, "shape": "hv"},
        "hovertemplate": "up to %{x}: %{y:.2f} nats<extra></extra>",
    }
    names: dict[str, Any] = {
        "type": "scatter",
        "mode": "text",
        "x": [step.position for step in named],
        "y": [step.nats for step in named],
        "text": [f"{visible(step.wanted, 8)} {short(step.p)}" if step.wanted else "" for step in named],
        "textposition": ["top right" if _left(step, found) else "top left" for step in named],
        "textfont": text_font(ROLES["rejected"].ink, size=SMALL),
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    return drawing(
        [bars, line, *([names] if any(names["text"]) else [])],
        height=330,
        min_width=320,
        margin={"t": 30, "l": 44, "r": 12, "b": 40},
        bargap=0.25,
        xaxis=axis("position", range=[first, last], nticks=8, showgrid=False, anchor="y"),
        yaxis=axis("", domain=[0, 0.5], range=[0, 1.2 * top or 1.0], nticks=4),
        xaxis2=axis("", range=[first, last], anchor="y2", showticklabels=False, showgrid=False, matches="x"),
        yaxis2=axis("", domain=[0.66, 1], range=[0, 1.12 * sum_top or 1.0], anchor="x2", nticks=3),
        annotations=[
            label(f"nats given up so far: {sum_top:.2f}", 0, 1, yshift=6),
            label("at each step, and what was wanted most", 0, 0.5, yshift=6),
        ],
    )


def _left(step: Step, found: Sequence[Step]) -> bool:
    """Whether the name has more room to the right of its bar."""
    return step.position - found[0].position <= found[-1].position - step.position


def _chance(nats: float) -> str:
    """e^-nats as one in so many."""
    if nats < 0.7:
        return f"{math.exp(-nats):.2f}"
    exponent = nats / math.log(10)
    return f"1 in {math.exp(nats):,.0f}" if exponent < 7 else f"1 in 10^{exponent:.0f}"


def _hover(step: Step) -> str:
    lines = [f"position {step.position}: {step.nats:.3f} nats", f"blocked {step.blocked:.4f} of the probability"]
    if step.wanted:
        lines.append(f"wanted {visible(step.wanted)} {short(step.p)}")
    if step.written:
        lines.append(f"written {visible(step.written)}")
    return "<br>".join(lines)
