"""SynCode's look-up: what of the text is undecided, the terminals it may become, and the tokens that each one adds.

From left to right: the remainder of the text, whose terminal is not settled, and its kind; the accept sequences, one
box each, with the number of tokens in that entry of the store; and their union, the mask. The text stands above, its
remainder underlined. Entries overlap, so the numbers add up to more than the mask. In exact mode the parser may refuse
some of its tokens still.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Event, Mask, Token
from visuals.canvas import Boxes, drawing, hidden_axis, label, text_font
from visuals.palette import LIGHT
from visuals.picture import Drawing, Row, picture
from visuals.spelling import plain, safe, visible

MOST = 12
"""Accept sequences drawn."""
WIDE, HIGH, GAP, ROW = 250, 26, 70, 36
TOP = 64
"""Room for the text, above the boxes."""
LETTER = 7.25
SHOWN_TEXT, SHOWN_REST, SHOWN_SEQUENCE = 44, 32, 24

KINDS = {
    "COMPLETE": "complete: a new terminal begins",
    "MAYBE": "maybe: it is a terminal, and may grow",
    "INCOMPLETE": "incomplete: it is no terminal yet",
    "DEAD": "dead: it has left the grammar",
    "ENDED": "ended",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the text stood at the latest mask: what of it is settled, the remainder, and the accept sequences with
    the tokens that each one adds, most first."""

    mask: Mask
    text: str
    rest: str
    kind: str
    terminal: str
    sequences: list[tuple[str, int]]


def relevant(events: Sequence[Event]) -> bool:
    """Whether a mask was looked up by accept sequences."""
    return any(isinstance(event, Mask) and "accept sequences" in event.state for event in events)


def latest(events: Sequence[Event]) -> Place | None:
    """The latest mask that says what it was made of."""
    mask = next(
        (event for event in reversed(events) if isinstance(event, Mask) and "accept sequences" in event.state), None
    )
    if mask is None:
        return None
    state = mask.state
    sequences = []
    for line in state["accept sequences"].split("\n")[:64]:
        name, _, count = line.rpartition(": ")
        if name and count.isascii() and count.isdigit() and len(count) <= 9:
            sequences.append((name, int(count)))
    sequences.sort(key=lambda pair: -pair[1])
    text, rest, terminal = state.get("text", ""), state.get("remainder", ""), state.get("terminal", "")
    return Place(mask, text, rest, state.get("kind", ""), terminal, sequences)


def table(events: Sequence[Event]) -> list[Row]:
    """One row per accept sequence."""
    found = latest(events)
    if found is None:
        return []
    return [
        {
            "position": found.mask.position,
            "remainder": found.rest,
            "kind": found.kind,
            "sequence": name,
            "tokens": count,
            "allowed": found.mask.allowed,
            "vocabulary": found.mask.vocabulary,
        }
        for name, count in found.sequences
    ]


def narrate(events: Sequence[Event]) -> str:
    """The remainder, its kind, the sequences that add most, and the size of the mask."""
    found = latest(events)
    if found is None:
        return "No mask has been looked up yet."
    mask = found.mask
    words = KINDS.get(found.kind, "in a state of its own")
    said = [
        f"At position {mask.position} “{_plain(found.rest, SHOWN_REST)}” is undecided."
        if found.rest
        else f"At position {mask.position} nothing of the text is undecided.",
        f"The place is {words}.",
    ]
    if found.sequences:
        most = ", ".join(
            f"{_plain(name, 40).replace('␣', ' ')} ({count:,} tokens)" for name, count in found.sequences[:3]
        )
        said.append(f"{_count(len(found.sequences), 'accept sequence')}; most is added by {most}.")
    said.append(f"Together they allow {mask.allowed:,} of {mask.vocabulary:,} tokens.")
    return " ".join(said)


@picture(
    "syncode-automaton",
    title="SynCode look-up",
    explains="What of the text is still undecided, which terminals it may become, and how many tokens each one adds.",
    empty="A parser names the terminals that may come next, a table the tokens that fit them. Run SynCode to see it.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("constrained",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The text with its remainder underlined; remainder, accept sequences and mask as a fan of boxes."""
    found = latest(events)
    if found is None:
        return None
    shown, hidden = found.sequences[:MOST], found.sequences[MOST:]
    rows = max(1, len(shown) + bool(hidden))
    middle = TOP + ROW * rows / 2
    columns = [0.0, float(WIDE + GAP), 2.0 * (WIDE + GAP)]
    boxes = Boxes(WIDE, HIGH)
    rest, kind = _visible(found.rest, 18) if found.rest else "nothing", safe(found.kind[:12]).lower()
    boxes.add("undecided", columns[0], middle, rest, kind, _hover(found))
    mask = found.mask
    said = f"{mask.allowed:,} of {mask.vocabulary:,}"
    end = "<br>and the end of the text" if mask.end_allowed else ""
    boxes.add("forced", columns[2], middle, "together", said, f"the mask: {said} tokens{end}")
    most = max((count for _, count in shown), default=0)
    for index, (name, count) in enumerate(shown):
        y = TOP + ROW * (index + 0.5)
        hover = f"{_visible(name, 120)}<br>{count:,} tokens fit"
        boxes.add("target", columns[1], y, _visible(name, SHOWN_SEQUENCE), f"{count:,}", hover)
        strength = count / most if most else 0.0
        boxes.join("undecided", columns[0] + WIDE, middle, columns[1], y, strength)
        boxes.join("forced", columns[1] + WIDE, y, columns[2], middle, strength)
    if hidden:
        boxes.add("untested", columns[1], TOP + ROW * (rows - 0.5), f"and {len(hidden)} more", "", "not drawn")
    before, after = _plain(found.text[-SHOWN_TEXT:], SHOWN_TEXT), _plain(found.rest[-SHOWN_REST:], SHOWN_REST)
    start, width = LETTER * _cells(before), LETTER * max(_cells(after), 1)
    words = [
        _words(0, 20, visible(Token(0, found.text[-SHOWN_TEXT:]), SHOWN_TEXT) if found.text else "", LIGHT["soft"]),
        _words(start, 20, visible(Token(0, found.rest[-SHOWN_REST:]), SHOWN_REST) if found.rest else "", LIGHT["ink"]),
        {
            "type": "scatter",
            "mode": "lines",
            "x": [start, start + width],
            "y": [32, 32],
            "line": {"color": LIGHT["accent"], "width": 3},
            "customdata": [_visible(found.rest, 60)] * 2,
            "hovertemplate": "undecided: %{customdata}<extra></extra>",
        },
    ]
    wide, high = columns[2] + WIDE + 8, TOP + ROW * rows + 4
    caption = f"position {mask.position} · {_count(len(found.sequences), 'accept sequence')}"
    if found.terminal:
        caption += f" · {_visible(found.terminal, 40)}"
    return drawing(
        # An empty text makes Plotly lose another one when the traces are exchanged.
        [trace for trace in [*words, *boxes.traces()] if trace["mode"] != "text" or any(trace["text"])],
        height=max(150, round(high) + 34),
        min_width=round(wide),
        margin={"t": 30, "b": 4},
        dragmode="pan",
        hoverdistance=50,
        xaxis=hidden_axis(range=[-6, wide], scaleanchor="y", constrain="domain", constraintoward="left"),
        yaxis=hidden_axis(range=[high, 0], constrain="domain", constraintoward="top"),
        annotations=[label(caption, 0, 1, yshift=6)],
    )


def _words(x: float, y: float, text: str, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "text",
        "x": [x],
        "y": [y],
        "text": [text],
        "textposition": "middle right",
        "textfont": text_font(colour),
        "hoverinfo": "skip",
    }


def _hover(found: Place) -> str:
    lines = [f"undecided: {_visible(found.rest, 60)}", KINDS.get(found.kind, _visible(found.kind, 20))]
    if found.terminal:
        lines.append(_visible(found.terminal, 60))
    return "<br>".join(lines)


def _plain(text: str, width: int) -> str:
    return plain(Token(0, text), width) if text else ""


def _visible(text: str, width: int) -> str:
    """Text of a grammar or a model for a drawing; blanks stay blanks in names."""
    return visible(Token(0, text), width).replace("␣", " ") if text else "nothing"


def _cells(shown: str) -> int:
    """How many letters wide a text is in mono type."""
    return sum(
        0
        if unicodedata.category(char) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(char) in "WF"
        else 1
        for char in shown
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
