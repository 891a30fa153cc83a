"""The table that guesses are read from, as it fills: a row per key, its successors best first, darker where surer.

The rows at the top belong to the latest step: blue (▸) where its draft was read from them, amber (✎) where they were
written. Some methods write after the pass, what the model said in it; others write first, and draft from what they
wrote: the legend says which, from the order of the events. The key says in which role its token passed through the
model; most keys of token recycling are guesses that were refused, and later guesses are read from their rows all the
same. A row that no event has shown, but that guesses came from, stands here with those guesses alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.events import Choice, Commit, Draft, Event, Started, Store, StoredRow, Token, Verdict
from visuals.canvas import NORMAL, SMALL, drawing, hidden_axis, label, number, short, text_font
from visuals.palette import LIGHT, ROLES, SURE, sure_ink, sure_level
from visuals.picture import Drawing, Row, picture
from visuals.reading import has
from visuals.spelling import quoted, safe, visible

ROWS, COLUMNS = 12, 8
GUTTER, KEY, CELL, PITCH = 44, 132, 84, 30
HIGH = 24
LETTERS = 11
"""Of a key in its box, however many tokens it has."""

UNSEEN = "not shown"
"""The source of a row that is known by its guesses alone."""
ROLE_OF_SOURCE = {
    "root": "target",
    "accepted": "accepted",
    "rejected": "rejected",
    "prompt": "given",
    UNSEEN: "undecided",
}
READ, WRITTEN = ROLES["bonus"], ROLES["copied"]
NOTHING = "rgba(0,0,0,0)"
ORDERS = {"": "✎ written", "before": "✎ written before it", "after": "✎ written after it"}
"""How the writing of a step lies to its draft, in the legend; both, or not known yet: no word about it."""
LEGEND = "<b>bold</b>: new in its row · dashed: guessed · ✓ rightly"

Key = tuple[int, ...]


@dataclass(slots=True)
class Warming:
    """A table as the events tell of it. Rows that no event shows are not known here."""

    name: str = ""
    rows: dict[Key, StoredRow] = field(default_factory=dict)
    """Those read or written last stand last."""
    size: int = 0
    order: str = ""
    """Whether rows are written `before` or `after` the draft of a step; empty when both happen, or none yet."""
    written: dict[Key, None] = field(default_factory=dict)
    """Keys written in the latest step, those that matter most first."""
    changed: int = 0
    """Rows written in the latest step, also those that no event shows."""
    read: dict[Key, dict[int, bool]] = field(default_factory=dict)
    """Keys read by the draft of the latest step, with the tokens guessed from there and whether they were accepted."""
    accepted: int = 0
    """Accepted guesses that were read from a row known here, over the whole run."""
    recycled: int = 0
    """Those of them whose row a rejected guess had left."""

    @property
    def shown(self) -> list[StoredRow]:
        """The rows that events have shown."""
        return [row for row in self.rows.values() if row.source != UNSEEN]

    @property
    def rejected(self) -> int:
        """Rows that came from a rejected guess."""
        return sum(row.source == "rejected" for row in self.rows.values())


def relevant(events: Sequence[Event]) -> bool:
    """Whether a table has learnt anything."""
    return has(events, Store)


def warming(events: Sequence[Event]) -> Warming:
    """Follows the table that was written last through the run."""
    name = next((event.table for event in reversed(events) if isinstance(event, Store)), "")
    known = Warming(name)
    text: list[Token] = []
    draft: Draft | None = None
    ended = False
    before = after = False
    for event in events:
        if ended and (isinstance(event, Draft) or (isinstance(event, Store) and event.table == name)):
            known.written, known.read, known.changed, draft, ended = {}, {}, 0, None, False
            before = after = False
        if isinstance(event, Started):
            text = list(event.prompt_tokens)
        elif isinstance(event, Commit):
            text += [placed.token for placed in event.tokens]
            ended = True
        elif isinstance(event, Draft):
            draft = event
            before = bool(known.written)
            known.read = {}
            for key, token in _guesses(known, draft, text):
                known.read.setdefault(key, {})[token.id] = False
                known.rows[key] = known.rows.pop(key)
        elif isinstance(event, Verdict) and draft is not None:
            for key, token in _guesses(known, draft, text, event.path):
                known.read.setdefault(key, {})[token.id] = True
                if known.rows[key].source != UNSEEN:
                    known.accepted += 1
                    known.recycled += known.rows[key].source == "rejected"
        elif isinstance(event, Store) and event.table == name:
            keys = [tuple(token.id for token in row.key) for row in event.rows]
            for key, row in zip(reversed(keys), reversed(event.rows), strict=True):
                known.rows.pop(key, None)
                known.rows[key] = row
            known.written |= dict.fromkeys(keys)
            known.changed += event.changed
            known.size = event.size
            after = draft is not None
        if before or after:
            known.order = "" if before and after else "before" if before else "after"
    return known


def _guesses(
    known: Warming, draft: Draft, text: Sequence[Token], only: Iterable[int] | None = None
) -> Iterator[tuple[Key, Token]]:
    """The rows behind all guesses of a draft or some: (key, guessed token).

    Where all keys are equally long, a row that no event has shown is put into the table with the guesses read from it.
    """
    nodes = {node.id: node for node in draft.nodes}
    lengths = sorted({len(key) for key in known.rows} - {0}, reverse=True)
    longest = max(lengths, default=0)
    for id in nodes if only is None else only:
        above: list[Token] = []
        parent = nodes.get(nodes[id].parent) if id in nodes else None
        if parent is None:
            continue
        while parent is not None and len(above) < longest:
            above.append(parent.token)
            parent = nodes.get(parent.parent)
        above = [*above, *text[-2 : -2 - longest : -1]][:longest]  # before the root, which is the text's last token
        tokens = above[::-1]
        keys = [tuple(token.id for token in tokens[-length:]) for length in lengths if length <= len(tokens)]
        key = next((key for key in keys if key in known.rows), None)
        if key is None and len(lengths) == 1 and keys:
            key = keys[0]
            known.rows[key] = StoredRow(tuple(tokens), (), (), UNSEEN)
        if key is None:
            continue
        row = known.rows[key]
        guess = nodes[id].token
        if row.source == UNSEEN and guess.id not in {choice.token.id for choice in row.after}:
            known.rows[key] = StoredRow(row.key, (), (*row.after, Choice(guess, math.nan)), UNSEEN)
        yield key, guess


def table(events: Sequence[Event]) -> list[Row]:
    """One row per key and successor, keys written or read last first."""
    known = warming(events)
    return [
        {
            "table": known.name,
            "key": "".join(token.text for token in row.key),
            "key_ids": " ".join(str(token.id) for token in row.key),
            "came_from": row.source,
            "rank": rank,
            "id": choice.token.id,
            "text": choice.token.text,
            "hex": choice.token.hex,
            "weight": choice.p if math.isfinite(choice.p) else None,
        }
        for row in reversed(known.shown)
        for rank, choice in enumerate(row.after, 1)
    ]


def narrate(events: Sequence[Event]) -> str:
    """How large the table is, what the latest pass did to it, and what became of rejected guesses."""
    known = warming(events)
    if not known.rows:
        return "The table is empty: the model has not read anything yet that could teach it."
    sentences = [f"The table holds {_rows(known.size)}."]
    sentences.append(_done(known))
    if _recycles(known):
        sentences.append(f"{known.rejected} of {_rows(len(known.shown))} came from a rejected guess.")
        if known.accepted:
            sentences.append(f"Accepted guesses that were read from such rows: {known.recycled} of {known.accepted}.")
    shown = next((row for key in _order(known) if (row := known.rows[key]).source != UNSEEN), None)
    if shown and shown.after:
        best = shown.after[0]
        key = " ".join(quoted(token) for token in shown.key)
        sentences.append(f"After {key} its first guess is {quoted(best.token)}, with {number(best.p)}.")
    return " ".join(sentences)


@picture(
    "successors",
    title="Successor table",
    explains="What the method would guess after each token or two: drafts are read from rows, and rows are rewritten.",
    empty="Even a wrong guess shows what the model would say next. Token recycling keeps that in a table, shown here.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The rows of the latest step, then older ones."""
    known = warming(events)
    if not known.rows:
        return None
    order = _order(known)
    columns = min(max(len(known.rows[key].after) for key in order), COLUMNS)
    wide = GUTTER + KEY + max(columns, 4) * CELL + 30
    cells = Cells()
    for line, key in enumerate(order):
        cells.add(known, key, (line + 0.5) * PITCH)
    said = _captions(known)
    unseen = " · ?: only its guesses are known" if any(known.rows[key].source == UNSEEN for key in order) else ""
    high, above = ROWS * PITCH, 88 + 18 * len(said)
    return drawing(
        [*_bands(order, known, GUTTER + KEY + columns * CELL), *cells.traces()],
        height=high + above + 8,
        min_width=wide,
        margin={"t": above, "b": 8},
        dragmode="pan",
        hoverdistance=40,
        xaxis=hidden_axis(range=[-2, wide], fixedrange=True),
        yaxis=hidden_axis(range=[high, 0], fixedrange=True),
        annotations=[
            label(_headline(known), 0, 1, yshift=60 + 18 * len(said), font={"size": NORMAL + 2, "color": LIGHT["ink"]}),
            *(label(text, 0, 1, yshift=58 + 18 * line) for line, text in enumerate(reversed(said))),
            label(f"▸ read by the draft · {ORDERS[known.order]}{unseen}", 0, 1, yshift=40),
            label(LEGEND, 0, 1, yshift=22),
            *(
                label(f"{rank + 1}", GUTTER + KEY + (rank + 0.5) * CELL - 2, 1, xref="x", xanchor="center", yshift=2)
                for rank in range(columns)
            ),
        ],
    )


class Cells:
    """Keys in the colour of their role; successors shaded by probability, outlined where they were guessed."""

    def __init__(self) -> None:
        self._boxes: dict[tuple[str, str, float], list[tuple[float, float]]] = {}
        self._guessed: dict[bool, list[tuple[float, float]]] = {}
        self._left: dict[tuple[str, int], list[tuple[float, float, str]]] = {}
        self._right: dict[str, list[tuple[float, float, str]]] = {}
        self._hover: list[tuple[float, float, str]] = []

    def add(self, known: Warming, key: Key, y: float) -> None:
        """One row: the key, and the first `COLUMNS` of its successors."""
        row = known.rows[key]
        role = ROLES[ROLE_OF_SOURCE.get(row.source, "target")]
        letters = max(LETTERS // max(len(row.key), 1), 3)
        self._boxes.setdefault((role.bg, role.edge, KEY - 8), []).append((GUTTER, y))
        name = " ".join(visible(token, letters) for token in row.key)
        self._left.setdefault((role.ink, NORMAL), []).append((GUTTER + 6, y, name))
        # An empty text makes Plotly lose another one when the traces are exchanged.
        if role.mark:
            self._right.setdefault(role.ink, []).append((GUTTER + KEY - 14, y, role.mark))
        self._hover.append((GUTTER + KEY / 2, y, _hover(row, key, known)))
        guessed = known.read.get(key, {})
        new = {choice.token.id for choice in row.after} if key in known.written and row.before else set()
        new -= {choice.token.id for choice in row.before}
        shares = _shares(row.after)
        for rank, (choice, share) in enumerate(zip(row.after[:COLUMNS], shares, strict=False)):
            x = GUTTER + KEY + rank * CELL
            right = guessed.get(choice.token.id)
            self._boxes.setdefault((SURE[sure_level(share)], LIGHT["line"], CELL - 4), []).append((x, y))
            if right is not None:
                self._guessed.setdefault(right, []).append((x, y))
            p = short(choice.p) if choice.p <= 1 else number(choice.p, 1)
            text = (
                f"{visible(choice.token, 5 if right else 6)} {p}" if row.source != UNSEEN else visible(choice.token, 8)
            )
            text = f"<b>{text}</b>" if choice.token.id in new else text
            ink = sure_ink(share)
            self._left.setdefault((ink, SMALL), []).append((x + 4, y, ("✓" if right else "") + text))
            fate = "" if right is None else "<br>guessed, accepted" if right else "<br>guessed"
            place = f"<br>rank {rank + 1} · {number(choice.p, 3)}" if row.source != UNSEEN else ""
            told = f"{visible(choice.token)}{place}{fate}"
            self._hover.append((x + CELL / 2, y, told))
        if len(row.after) > COLUMNS:
            more = f"+{len(row.after) - COLUMNS}"
            self._left.setdefault((LIGHT["soft"], SMALL), []).append((GUTTER + KEY + COLUMNS * CELL, y, more))

    def traces(self) -> list[dict[str, Any]]:
        """Shades, outlines, words and hover points, from back to front."""
        boxes = [_boxes(at, fill, edge, 1, width=wide) for (fill, edge, wide), at in sorted(self._boxes.items())]
        outlines = [
            _boxes(at, NOTHING, ROLES["accepted"].ink, 2.5) if right else _boxes(at, NOTHING, READ.ink, 2, "3px,3px")
            for right, at in sorted(self._guessed.items())
        ]
        words = [_words(texts, text_font(ink, size=size)) for (ink, size), texts in sorted(self._left.items())]
        words += [
            _words(texts, text_font(ink, size=SMALL), "middle left") for ink, texts in sorted(self._right.items())
        ]
        points = {
            "type": "scatter",
            "mode": "markers",
            "x": [x for x, _, _ in self._hover],
            "y": [y for _, y, _ in self._hover],
            "marker": {"size": HIGH, "opacity": 0},
            "customdata": [text for _, _, text in self._hover],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
        return [*boxes, *outlines, *words, points]


def _order(known: Warming) -> list[Key]:
    """The keys to show: read by the latest draft, written in its step, then the others, latest first."""
    order = dict.fromkeys([*known.read, *known.written, *reversed(known.rows)])
    return list(order)[:ROWS]


def _recycles(known: Warming) -> bool:
    """Whether the table learns from verdicts, so that it makes sense to ask for rejected guesses."""
    return any(row.source in ("root", "accepted", "rejected") for row in known.rows.values())


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _headline(known: Warming) -> str:
    if not _recycles(known):
        return f"<b>{_rows(known.size)}</b> in the table"
    return f"rows that came from a rejected guess: <b>{known.rejected} of {len(known.shown)}</b>"


def _captions(known: Warming) -> list[str]:
    """The table and its latest step; for a table that learns from verdicts, what became of rejected guesses."""
    lines = [f"{safe(known.name)}: {_rows(known.size)} · {_worked(known)}"]
    if _recycles(known):
        thanks = f"{known.recycled} of {known.accepted} accepted guesses were read from such rows"
        lines.append(thanks if known.accepted else "no guess has been accepted yet")
    return lines


def _worked(known: Warming) -> str:
    """What the latest step did, in its order."""
    read, written = f"{len(known.read)} read", f"{known.changed} written"
    return {"before": f"{written}, then {read}", "after": f"{read}, then {written}", "": f"{read}, {written}"}[
        known.order if known.read and known.changed else ""
    ]


def _done(known: Warming) -> str:
    """The same as a sentence."""
    read = f"the draft was read from {_rows(len(known.read))}" if known.read else "no row shown here was read"
    wrote = f"{_rows(known.changed)} {'was' if known.changed == 1 else 'were'} written" if known.changed else ""
    if not wrote:
        return f"In the latest step {read}, and none has been written yet."
    first, second = (wrote, read) if known.order == "before" else (read, wrote)
    joint = ", then" if known.read and known.order else " and"
    return f"In the latest step {first}{joint} {second}."


def _shares(row: Sequence[Choice]) -> list[float]:
    """Shades in [0, 1]: probabilities as they are, weights that add up to more as shares."""
    weights = [choice.p if math.isfinite(choice.p) and choice.p > 0 else 0.0 for choice in row]
    total = max(sum(weights), 1.0)
    return [weight / total for weight in weights]


def _hover(row: StoredRow, key: Key, known: Warming) -> str:
    name = " ".join(visible(token) for token in row.key)
    if row.source == UNSEEN:
        return f"{name}<br>read by a draft; the rest of the row is not shown"
    lines = [name, f"came from: {safe(row.source[:24]) or 'unknown'}"]
    if key in known.read:
        lines.append("read by the latest draft")
    if key in known.written:
        lines.append("written in the latest step")
        lines.append(f"before: {_listed(row.before) or 'nothing'}")
    return "<br>".join(lines)


def _listed(row: Sequence[Choice]) -> str:
    return " ".join(visible(choice.token, 8) for choice in row[:COLUMNS])


def _bands(order: Sequence[Key], known: Warming, right: float) -> list[dict[str, Any]]:
    """What the latest step did to each row: a tint behind it, and marks in the gutter."""
    tints: dict[str, list[float]] = {}
    marks: dict[str, list[tuple[float, float, str]]] = {}
    for line, key in enumerate(order):
        y = line * PITCH + PITCH / 2
        if key in known.read:
            tints.setdefault(READ.name, []).append(y)
            marks.setdefault(READ.ink, []).append((4, y, "▸"))
        if key in known.written:
            marks.setdefault(WRITTEN.ink, []).append((20, y, "✎"))
            if key not in known.read:
                tints.setdefault(WRITTEN.name, []).append(y)
    bands = [
        _boxes([(0, y) for y in at], ROLES[name].bg, ROLES[name].bg, 0, width=right + 4, height=PITCH - 2)
        for name, at in sorted(tints.items())
    ]
    return [*bands, *(_words(texts, text_font(color)) for color, texts in sorted(marks.items()))]


def _boxes(
    at: Sequence[tuple[float, float]],
    fill: str,
    edge: str,
    line: float,
    dash: str = "solid",
    width: float = CELL - 4,
    height: float = HIGH,
) -> dict[str, Any]:
    """Boxes by left edge and middle, as one trace."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for x, y in at:
        xs += [x, x + width, x + width, x, x, None]
        ys += [y - height / 2, y - height / 2, y + height / 2, y + height / 2, y - height / 2, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "line": {"color": edge, "width": line, "dash": dash},
        "fill": "toself",
        "fillcolor": fill,
        "hoverinfo": "skip",
    }


def _words(
    texts: Sequence[tuple[float, float, str]], font: dict[str, Any], position: str = "middle right"
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "text",
        "x": [x for x, _, _ in texts],
        "y": [y for _, y, _ in texts],
        "text": [text for _, _, text in texts],
        "textposition": position,
        "textfont": font,
        "hoverinfo": "skip",
    }
