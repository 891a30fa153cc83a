"""The hypotheses of a search, position by position: which live on, which were pruned, which one became the text.

Columns are positions; in each, the best hypothesis stands on top. Groups (diverse beam search) have a band each.
Independent samples (best-of-n) are lines that never branch, so each keeps its row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engines.events import Beam, Beams, Event
from visuals.canvas import SMALL, Boxes, drawing, hidden_axis, label
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import has
from visuals.spelling import quoted, visible

BOX, PITCH = 116, 142
HIGH, SLOT = 22, 28
MOST_BOXES = 240
"""More boxes than this make a figure slow; the earlier positions are left out, and replay shows them."""
COLUMNS = 5
"""Positions in view at first."""


@dataclass(slots=True)
class Search:
    """All hypotheses so far, by id, with the position where each first appeared and its latest outcome."""

    beams: dict[int, Beam] = field(default_factory=dict)
    position: dict[int, int] = field(default_factory=dict)
    columns: dict[int, list[int]] = field(default_factory=dict)

    def ancestors(self, id: int) -> list[int]:
        """From `id` back to the first token."""
        path: list[int] = []
        seen: set[int] = set()
        while id in self.beams and id not in seen:
            seen.add(id)
            path.append(id)
            id = self.beams[id].parent
        return path


def search(events: Sequence[Event]) -> Search:
    """Reads the search off the stream."""
    out = Search()
    for event in events:
        if isinstance(event, Beams):
            for beam in event.beams:
                if beam.id not in out.beams:
                    out.position[beam.id] = event.position
                    out.columns.setdefault(event.position, []).append(beam.id)
                out.beams[beam.id] = beam
    return out


def fates(found: Search) -> dict[int, str]:
    """`chosen`, `finished`, `live` or `pruned` for every hypothesis, in the light of what came later."""
    fate = dict.fromkeys(found.beams, "pruned")
    last = max(found.columns, default=0)
    for wanted in ("live", "finished", "chosen"):
        for id, beam in found.beams.items():
            # A hypothesis that was live once but was not extended is dead now.
            if beam.outcome == wanted and (wanted != "live" or found.position[id] == last):
                line = found.ancestors(id)
                fate.update((ancestor, "live") for ancestor in line if fate[ancestor] == "pruned")
                if wanted == "chosen":
                    fate.update((ancestor, "chosen") for ancestor in line)
                elif wanted == "finished":
                    fate[id] = "finished"
    return fate


_ROLE = {"chosen": "accepted", "finished": "bonus", "live": "target", "pruned": "rejected"}
_MARK = {"chosen": "✓", "finished": "■", "live": "", "pruned": "✕"}


def relevant(events: Sequence[Event]) -> bool:
    """Whether hypotheses were reported."""
    return has(events, Beams)


def table(events: Sequence[Event]) -> list[Row]:
    """One row per hypothesis."""
    found = search(events)
    fate = fates(found)
    return [
        {
            "hypothesis": id,
            "parent": beam.parent,
            "position": found.position[id],
            "group": beam.group,
            "id": beam.token.id,
            "text": beam.token.text,
            "hex": beam.token.hex,
            "log_probability": beam.log_probability,
            "score": beam.score,
            "outcome": fate[id],
        }
        for id, beam in found.beams.items()
    ]


def narrate(events: Sequence[Event]) -> str:
    """How many hypotheses were weighed, how many live, and the leader."""
    found = search(events)
    if not found.beams:
        return "No hypotheses have been weighed yet."
    counts = Counter(fates(found).values())
    last = max(found.columns)
    sentences = [
        f"{len(found.beams)} hypotheses were weighed at {len(found.columns)} positions;"
        f" {counts['pruned']} of them were dropped.",
    ]
    chosen = [beam for beam in found.beams.values() if beam.outcome == "chosen"]
    if chosen:
        best = max(chosen, key=lambda beam: beam.score)
        sentences.append(
            f"The chosen one has {len(found.ancestors(best.id))} tokens, ends in {quoted(best.token)},"
            f" and scores {best.score:.2f}."
        )
    else:
        alive = [found.beams[id] for id in found.columns[last] if found.beams[id].outcome != "pruned"]
        if alive:
            best = max(alive, key=lambda beam: beam.score)
            sentences.append(
                f"{len(alive)} live on; the best ends in {quoted(best.token)} and scores {best.score:.2f}."
            )
    groups = len({beam.group for beam in found.beams.values()})
    if groups > 1:
        sentences.append(f"They are kept apart in {groups} groups.")
    return " ".join(sentences)


@picture(
    "beam-tree",
    title="Beam tree",
    explains="Each row is a sentence in the making, the best on top; the ones that fall behind are dropped.",
    empty="Greedy decoding follows a single line. Beam search keeps several and drops the worst: try it.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The latest positions of the search as boxes in columns."""
    found = search(events)
    if not found.beams:
        return None
    fate = fates(found)
    columns = _latest_columns(found)
    rows = _rows(found, columns)
    boxes = Boxes(BOX, HIGH)
    left = columns[0]
    for position in columns:
        for id in found.columns[position]:
            beam = found.beams[id]
            role = _ROLE[fate[id]]
            x, y = (position - left) * PITCH, rows[id] * SLOT
            mark = _MARK[fate[id]]
            shown = f"{beam.score:.1f}" if abs(beam.score) < 1000 else "–"
            boxes.add(role, x, y, visible(beam.token, 7), f"{mark} {shown}".strip(), _hover(beam, fate[id]))
            if beam.parent in rows and found.position[beam.parent] == position - 1:
                boxes.join(role, x - PITCH + BOX, rows[beam.parent] * SLOT, x, y, 0.7 if fate[id] != "pruned" else None)
    bottom = max(max(rows.values()) + 0.7, 5) * SLOT
    last = columns[-1] - left + 1
    view = max(last, COLUMNS) * PITCH - (PITCH - BOX) + 8
    return drawing(
        boxes.traces(),
        height=round(bottom) + SLOT + 30,
        min_width=COLUMNS * PITCH,
        margin={"t": 30, "b": 4, "l": 16},
        dragmode="pan",
        hoverdistance=50,
        xaxis=hidden_axis(range=[max(view - COLUMNS * PITCH, -6), view]),
        yaxis=hidden_axis(range=[bottom, -0.7 * SLOT], fixedrange=True),
        annotations=[label(_caption(found, columns), 0, 1, yshift=6), *_group_names(found, columns, rows)],
    )


def _latest_columns(found: Search) -> list[int]:
    columns: list[int] = []
    room = MOST_BOXES
    chosen = [found.position[id] for id, beam in found.beams.items() if beam.outcome == "chosen"]
    last = max(chosen or found.columns)
    for position in sorted((position for position in found.columns if position <= last), reverse=True):
        room -= len(found.columns[position])
        if room < 0 and columns:
            break
        columns.append(position)
    return columns[::-1]


def _rows(found: Search, columns: list[int]) -> dict[int, float]:
    """The row of every hypothesis in view."""
    rows: dict[int, float] = {}
    if _lines_only(found):
        groups = sorted({beam.group for beam in found.beams.values()})
        if len(groups) > 1:
            line = {group: row for row, group in enumerate(groups)}
            return {id: line[found.beams[id].group] for position in columns for id in found.columns[position]}
        free = 0
        for position in columns:
            for id in found.columns[position]:
                parent = found.beams[id].parent
                if parent in rows:
                    rows[id] = rows[parent]
                else:
                    rows[id], free = free, free + 1
        return rows
    shown = [found.beams[id] for position in columns for id in found.columns[position]]
    depth: dict[int, int] = {}
    for position in columns:
        for group, count in Counter(found.beams[id].group for id in found.columns[position]).items():
            depth[group] = max(depth.get(group, 0), count)
    top: dict[int, float] = {}
    start = 0.0
    for group in sorted({beam.group for beam in shown}):
        top[group] = start
        start += depth[group] + 0.5
    for position in columns:
        rank: Counter[int] = Counter()
        for id in found.columns[position]:
            group = found.beams[id].group
            rows[id] = top[group] + rank[group]
            rank[group] += 1
    return rows


def _lines_only(found: Search) -> bool:
    """Whether no hypothesis ever branched and no two of a column share a group, or there is but one group."""
    children = Counter(beam.parent for beam in found.beams.values() if beam.parent >= 0)
    if len(found.columns) < 2 or any(count > 1 for count in children.values()):
        return False
    groups = {beam.group for beam in found.beams.values()}
    return len(groups) == 1 or all(
        len({found.beams[id].group for id in column}) == len(column) for column in found.columns.values()
    )


def _caption(found: Search, columns: list[int]) -> str:
    text = f"position {columns[-1]} · {len(found.beams):,} hypotheses weighed"
    return text + (f" · positions before {columns[0]} are left out" if len(columns) < len(found.columns) else "")


def _group_names(found: Search, columns: list[int], rows: dict[int, float]) -> list[dict[str, object]]:
    groups: dict[int, float] = {}
    for id in (id for position in columns for id in found.columns[position]):
        group = found.beams[id].group
        groups[group] = min(groups.get(group, rows[id]), rows[id])
    if len(groups) < 2:
        return []
    lines = _lines_only(found)
    return [
        label(
            f"{group + 1}" if lines else f"group {group + 1}",
            0,
            (row if lines else row - 0.5) * SLOT,
            yref="y",
            xshift=-14,
            textangle=0 if lines else -90,
            yanchor="middle" if lines else "top",
            font={"size": SMALL, "color": LIGHT["soft"]},
        )
        for group, row in groups.items()
    ]


def _hover(beam: Beam, fate: str) -> str:
    return (
        f"{visible(beam.token)}<br>{fate}{' ' + ROLES[_ROLE[fate]].mark if fate != 'live' else ''}"
        f"<br>score {beam.score:.3f}<br>log-probability {beam.log_probability:.3f}<br>group {beam.group + 1}"
    )
