"""Values given to candidates or to whole samples, and the terms they are made of.

Contrastive search weighs confidence against repetition for each candidate of the next token; best-of-n gives each
finished sample a reward. Either way the highest value wins, and the picture shows why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engines.events import Event, Score, Token
from visuals.canvas import axis, drawing, legend, number, text_font
from visuals.palette import LIGHT, ROLES, SURE
from visuals.picture import Drawing, Row, picture
from visuals.spelling import plain, safe, visible

MOST_ROWS = 24
SHORT = 13
"""Characters of a text that stands for itself; a longer one is called a sample."""
VERDICT = "written text is valid"
"""Yes or no, said of the texts of several engines: nothing that is weighed, and the arena shows it."""

_FILLS: tuple[dict[str, Any], ...] = (
    {"color": SURE[4], "line": {"color": LIGHT["accent"], "width": 1}},
    {
        "color": ROLES["rejected"].bg,
        "line": {"color": ROLES["rejected"].ink, "width": 1},
        "pattern": {"shape": "/", "fgcolor": ROLES["rejected"].edge, "size": 6, "solidity": 0.2},
    },
    {"color": ROLES["copied"].bg, "line": {"color": ROLES["copied"].ink, "width": 1}},
    {"color": ROLES["forced"].bg, "line": {"color": ROLES["forced"].ink, "width": 1}},
    {"color": ROLES["untested"].bg, "line": {"color": ROLES["untested"].ink, "width": 1}},
)


def relevant(events: Sequence[Event]) -> bool:
    """Whether anything was scored."""
    return bool(_scores(events))


def latest(events: Sequence[Event]) -> list[Score]:
    """The scores to show: those of the latest position, or those of all whole samples."""
    scores = _scores(events)
    if not scores:
        return []
    last = scores[-1]
    scores = [score for score in scores if score.name == last.name]
    if last.position is not None:
        # A sequence's scores at one position belong together; another sequence's are another picture.
        return [
            s for s in scores if s.position == last.position and s.sequence == last.sequence and math.isfinite(s.value)
        ]
    newest = {score.sequence: score for score in scores if score.position is None}
    return [score for score in newest.values() if math.isfinite(score.value)]


def _scores(events: Sequence[Event]) -> list[Score]:
    """The scores of candidates and of samples, which are weighed against each other.

    A search tree's places have a picture of their own; other scores judge something as a whole, such as a method.
    """
    return [
        event
        for event in events
        if isinstance(event, Score)
        and "parent" not in event.parts
        and (event.position is not None or event.sequence is not None)
        and event.name != VERDICT
    ]


def table(events: Sequence[Event]) -> list[Row]:
    """One row per score of the whole run."""
    return [
        {
            "name": event.name,
            "position": event.position,
            "sequence": event.sequence,
            "id": event.token.id if event.token else None,
            "text": event.token.text if event.token else event.text,
            "value": event.value,
            "parts": "; ".join(f"{name} {value:.6g}" for name, value in event.parts.items()),
            "chosen": event.chosen,
        }
        for event in events
        if isinstance(event, Score)
    ]


def narrate(events: Sequence[Event]) -> str:
    """The winner, its terms, and the runner-up."""
    scores = latest(events)
    if not scores:
        return "Nothing has been scored yet."
    ranked = sorted(scores, key=lambda score: -score.value)
    what = "candidates" if scores[0].position is not None else "samples"
    place = f" at position {scores[0].position}" if scores[0].position is not None else ""
    sentences = [f"{len(scores)} {what} were scored by {scores[0].name}{place}."]
    winner = next((score for score in scores if score.chosen), None)
    if winner is None:
        sentences.append(f"None is chosen yet; {_spoken(ranked[0])} leads with {ranked[0].value:.3f}.")
    else:
        sentences.append(f"Chosen: {_spoken(winner)} with {winner.value:.3f}.")
        if winner.parts:
            terms = ", ".join(f"{name} {value:.3f}" for name, value in winner.parts.items())
            sentences.append(f"It comes from {terms}.")
    return " ".join(sentences)


@picture(
    "scores",
    title="Scores",
    explains="What each candidate was worth and why; the one marked ✓ was taken.",
    empty="Some methods weigh candidates by more than probability. Contrastive search and best-of-n show theirs here.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """A row per candidate: its terms as bars, its value as a diamond."""
    scores = latest(events)[:MOST_ROWS]
    if not scores:
        return None
    names = list(dict.fromkeys(name for score in scores for name in score.parts)) if _adds_up(scores) else []
    rows = list(range(len(scores)))
    name = safe(scores[0].name[:40])
    what = name if scores[0].position is None else f"{name} at position {scores[0].position}"
    ends = [0.0, *(score.value for score in scores)]
    ends += [
        sum(part for part in score.parts.values() if part * sign > 0) for score in scores for sign in (1, -1) if names
    ]
    low, top = min(ends), max(ends)
    span = (top - low) or 1.0
    right = top + 0.36 * span
    return drawing(
        [*_parts(scores, names), *_values(scores, not names, right)],
        height=28 * max(len(scores), 5) + 92,
        min_width=340,
        margin={"t": 40, "l": 110, "r": 12, "b": 40},
        barmode="relative",
        bargap=0.35,
        showlegend=True,
        legend=legend(1.0),
        xaxis=axis(what, zeroline=True, range=[low - (0.04 * span if low < 0 else 0), right], fixedrange=True),
        yaxis=axis(
            range=[max(len(scores), 5) - 0.5, -0.5],
            tickvals=rows,
            ticktext=[_row_name(score, index) for index, score in enumerate(scores)],
            tickfont=text_font(),
            showgrid=False,
            fixedrange=True,
        ),
    )


def _adds_up(scores: Sequence[Score]) -> bool:
    """Whether the terms are parts of the value; else they are other numbers, which have no place on its axis."""
    sums = [(sum(score.parts.values()), score.value) for score in scores]
    return all(score.parts for score in scores) and all(abs(a - b) <= 1e-3 * max(1.0, abs(b)) for a, b in sums)


def _parts(scores: Sequence[Score], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "type": "bar",
            "orientation": "h",
            "name": safe(name),
            "x": [score.parts.get(name, 0.0) for score in scores],
            "y": list(range(len(scores))),
            "marker": _FILLS[min(index, len(_FILLS) - 1)],
            "customdata": [f"{safe(name)} {number(score.parts.get(name), 4)}" for score in scores],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
        for index, name in enumerate(names)
    ]


def _values(scores: Sequence[Score], solid: bool, right: float) -> list[dict[str, Any]]:
    """The values: bars when they have no terms, diamonds over the bars of the terms otherwise; numbers at the right."""
    common = {
        "name": "value",
        "x": [score.value for score in scores],
        "y": list(range(len(scores))),
        "customdata": [_hover(score) for score in scores],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    strong = [ROLES["accepted"].ink if score.chosen else LIGHT["ink"] for score in scores]
    if solid:
        fill = [ROLES["accepted"].bg if score.chosen else SURE[4] for score in scores]
        edge = [ROLES["accepted"].ink if score.chosen else LIGHT["accent"] for score in scores]
        marker = {"color": fill, "line": {"color": edge, "width": 1}}
        shape = {"type": "bar", "orientation": "h", "marker": marker, "showlegend": False}
    else:
        shape = {"type": "scatter", "mode": "markers", "marker": {"symbol": "diamond", "size": 9, "color": strong}}
    numbers = {
        "type": "scatter",
        "mode": "text",
        "x": [right] * len(scores),
        "y": list(range(len(scores))),
        "text": [f"{'✓ ' if score.chosen else ''}{score.value:.3f}" for score in scores],
        "textposition": "middle left",
        "textfont": text_font(strong),
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [common | shape, numbers]


def _hover(score: Score) -> str:
    lines = [f"value {number(score.value, 4)}"]
    lines += [f"{safe(name)} {number(part, 4)}" for name, part in score.parts.items()]
    lines += [safe(score.text[:80]) + ("…" if len(score.text) > 80 else "")] if score.text else []
    return "<br>".join(lines)


def _row_name(score: Score, index: int) -> str:
    if score.token is not None:
        name = visible(score.token, 13)
    else:
        text = Token(-1, score.text)
        name = f"sample {(score.sequence if score.sequence is not None else index) + 1}"
        if score.text and len(plain(text)) <= SHORT:
            name = visible(text)
    return f"<b>{name}</b> ✓" if score.chosen else f"{name}  "


def _spoken(score: Score) -> str:
    if score.token is not None:
        return f"“{plain(score.token)}”"
    return f"sample {score.sequence + 1}" if score.sequence is not None else "a sample"
