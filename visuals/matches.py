"""Copying as guessing: the end of the text also occurs earlier, and what followed there is offered here.

Above: the whole text as a line, prompt to the left of 0, with an arc from each earlier place to where it was used;
green arcs led to accepted tokens. Below: the latest match, word for word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Event, Match, Started, Token, Verdict
from visuals.canvas import Boxes, axis, drawing, hidden_axis, label
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import has, words
from visuals.spelling import plain, visible

MOST_ARCS = 120
CONTEXT, OFFERED = 3, 5
"""Tokens of the latest match that are spelled out: matched ones, and offered ones."""
BOX, PITCH, ROW = 88, 93, 34
MARGIN = 4
"""Tokens that are shown before the earliest place that was copied from."""
NAMES = 64
"""Room for the names of the two rows."""


@dataclass(frozen=True, slots=True)
class Use:
    """A match and how many of its offered tokens were accepted; None while that is unknown."""

    match: Match
    accepted: int | None


def relevant(events: Sequence[Event]) -> bool:
    """Whether an earlier occurrence was found."""
    return has(events, Match)


def uses(events: Sequence[Event]) -> list[Use]:
    """Every match with its outcome."""
    out: list[Use] = []
    for event in events:
        if isinstance(event, Match):
            out.append(Use(event, None))
        elif isinstance(event, Verdict) and out and out[-1].accepted is None:
            out[-1] = Use(out[-1].match, len(event.path))
    return out


def table(events: Sequence[Event]) -> list[Row]:
    """One row per match."""
    known = words(events)
    return [
        {
            "source_start": use.match.source[0],
            "source_stop": use.match.source[1],
            "target_start": use.match.target[0],
            "target_stop": use.match.target[1],
            "copied_start": use.match.copied[0],
            "copied_stop": use.match.copied[1],
            "copied_text": "".join(token.text for token in _span(known, use.match.copied)),
            "accepted": use.accepted,
        }
        for use in uses(events)
    ]


def narrate(events: Sequence[Event]) -> str:
    """How often text was copied, and the latest case."""
    found = uses(events)
    if not found:
        return "The end of the text has not been found earlier yet."
    offered = sum(use.match.copied[1] - use.match.copied[0] for use in found)
    accepted = sum(use.accepted or 0 for use in found)
    times = "once" if len(found) == 1 else f"{len(found)} times"
    tokens = "1 token was" if offered == 1 else f"{offered} tokens were"
    sentences = [f"The end of the text was found earlier {times}; {tokens} offered as guesses, {accepted} accepted."]
    match = found[-1].match
    known = words(events)
    if copied := _span(known, match.copied)[:8]:
        where = "the prompt" if match.copied[0] < 0 else "the output"
        sentences.append(f"The latest offer comes from {where}: {' '.join(f'“{plain(token)}”' for token in copied)}.")
    return " ".join(sentences)


@picture(
    "matches",
    title="Matches",
    explains="Where the text repeats itself: an arc leads from the earlier place to where its sequel was guessed.",
    empty="Text often repeats names and phrases. Prompt lookup guesses what followed last time; arcs show from where.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """Arcs over the text, and the latest match in words."""
    found = uses(events)
    if not found:
        return None
    known = words(events)
    # From the earliest place that was copied from: before it, there is text without an arc.
    first = min(0, *(min(use.match.source[0], use.match.copied[0]) - MARGIN for use in found))
    last = max([1, *known, *(use.match.target[1] for use in found)])
    boxes, columns = _spelled(found[-1], known)
    for trace in boxes:
        trace |= {"xaxis": "x2", "yaxis": "y2"}
    prompt = any(isinstance(event, Started) and event.prompt_tokens for event in events)
    rows = 2 * ROW + 10
    height = 200 + rows + 90
    split = (rows + 10) / (height - 70)
    wide = NAMES + max(columns, CONTEXT + OFFERED) * PITCH
    return drawing(
        [*_arcs(found), *_ends(found), *boxes],
        height=height,
        min_width=640,
        margin={"t": 34, "l": 12, "r": 12, "b": 6},
        dragmode="zoom",
        xaxis=axis("", range=[first - 1, last + 1], showgrid=False, anchor="y", tickformat="d"),
        yaxis=hidden_axis(domain=[split + 0.2, 1], range=[-0.06, 1.05], fixedrange=True),
        xaxis2=hidden_axis(range=[-6, wide], anchor="y2", fixedrange=True),
        yaxis2=hidden_axis(domain=[0, split], range=[rows, 0], anchor="x2", fixedrange=True),
        shapes=[
            {
                "type": "line",
                "x0": -0.5,
                "x1": -0.5,
                "y0": 0,
                "y1": 1,
                "yref": "y domain",
                "line": {"color": LIGHT["line"], "width": 1},
            }
        ]
        if prompt
        else [],
        annotations=[
            label("◂ prompt" if prompt else "", -0.5, 1, xref="x", yref="paper", xanchor="right", xshift=-4, yshift=4),
            label("output ▸", -0.5, 1, xref="x", yref="paper", xshift=4, yshift=4),
            label(_caption(found[-1]), 0, split, yshift=4),
            label("earlier", 0, ROW / 2, xref="x2", yref="y2", yanchor="middle"),
            label("now", 0, ROW * 1.5, xref="x2", yref="y2", yanchor="middle"),
        ],
    )


def _span(known: dict[int, Token], span: tuple[int, int]) -> list[Token]:
    return [known[position] for position in range(span[0], min(span[1], span[0] + 4096)) if position in known]


def _role(use: Use) -> str:
    return "undecided" if use.accepted is None else "accepted" if use.accepted else "rejected"


_ARC = [
    (round(0.5 - 0.5 * math.cos(math.pi * step / 30), 3), round(math.sin(math.pi * step / 30), 3)) for step in range(31)
]


def _arcs(found: Sequence[Use]) -> list[dict[str, Any]]:
    recent = found[-MOST_ARCS:]
    farthest = max(max(use.match.target[0] - use.match.source[0], 1) for use in recent)
    lines: dict[str, tuple[list[float | None], list[float | None]]] = {}
    for index, use in enumerate(recent):
        left, right = sum(use.match.source) / 2, sum(use.match.target) / 2
        high = 0.15 + 0.85 * math.sqrt(min(max(right - left, 0) / farthest, 1))
        name = _role(use) + (" latest" if index == len(recent) - 1 else "")
        xs, ys = lines.setdefault(name, ([], []))
        xs += [left + (right - left) * along for along, _ in _ARC]
        ys += [high * up for _, up in _ARC]
        xs.append(None)
        ys.append(None)
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": xs,
            "y": ys,
            "line": {
                "color": ROLES[name.split()[0]].ink if "latest" in name else ROLES[name.split()[0]].edge,
                "width": 3 if "latest" in name else 1.2,
                "dash": "solid" if name.startswith("accepted") else "3px,4px",
            },
            "hoverinfo": "skip",
        }
        for name, (xs, ys) in lines.items()
    ]


def _ends(found: Sequence[Use]) -> list[dict[str, Any]]:
    """Points to hover at the top of each arc, and a thick line under the latest pair of spans."""
    recent = found[-MOST_ARCS:]
    farthest = max(max(use.match.target[0] - use.match.source[0], 1) for use in recent)
    middles = [(sum(use.match.source) + sum(use.match.target)) / 4 for use in recent]
    highs = [0.15 + 0.85 * math.sqrt(min(max(u.match.target[0] - u.match.source[0], 0) / farthest, 1)) for u in recent]
    match = found[-1].match
    under: list[float | None] = []
    for start, stop in (match.source, match.copied, match.target):
        under += [start - 0.4, stop - 0.6, None]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": under,
            "y": [None if x is None else -0.03 for x in under],
            "line": {"color": ROLES["copied"].ink, "width": 5},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": middles,
            "y": highs,
            "marker": {"size": 5, "color": [ROLES[_role(use)].ink for use in recent]},
            "customdata": [_caption(use) for use in recent],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    ]


def _caption(use: Use) -> str:
    match = use.match
    offered = match.copied[1] - match.copied[0]
    outcome = "not tested" if use.accepted is None else f"{use.accepted} of {offered} accepted"
    tokens = "1 token" if offered == 1 else f"{offered} tokens"
    return f"from {match.source[0]} to {match.target[0]} · {tokens} offered, {outcome}".replace("-", "−")


def _spelled(use: Use, known: dict[int, Token]) -> tuple[list[dict[str, Any]], int]:
    """Two rows of boxes: the earlier place with what followed, and the present one with the guess."""
    match = use.match
    boxes = Boxes(BOX, 22)
    shared = min(match.source[1] - match.source[0], CONTEXT)
    offered = min(match.copied[1] - match.copied[0], OFFERED)
    for column in range(shared + offered):
        x = NAMES + column * PITCH
        inside = column < shared
        earlier = match.source[1] - shared + column if inside else match.copied[0] + column - shared
        now = match.target[1] - shared + column if inside else None
        token = known.get(earlier)
        if token is None:
            continue
        boxes.add(
            "target" if inside else "copied", x, ROW / 2, visible(token, 6), "", f"position {earlier}: {visible(token)}"
        )
        if inside:
            boxes.add("target", x, ROW * 1.5, visible(token, 6), "", f"position {now}: {visible(token)}")
        else:
            index = column - shared
            role = "undecided"
            if use.accepted is not None:
                role = "accepted" if index < use.accepted else "rejected" if index == use.accepted else "untested"
            boxes.add(role, x, ROW * 1.5, visible(token, 6), ROLES[role].mark, f"guess {index + 1}: {role}")
    return boxes.traces(), shared + offered
