"""What penalties, temperature and filters did to the model's distribution at one position.

Columns are stages, in the order of application; rows are tokens. A removed token keeps its last bar, hatched and marked
✕, so that one sees what was lost and where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.events import Candidates, Choice, Event, Stage, Token
from visuals.canvas import SMALL, drawing, hidden_axis, number, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import candidates, written
from visuals.spelling import quoted, safe, visible

MOST_TOKENS = 12
COLUMN, GAP = 100, 46
"""Widths of a stage's longest bar and of the room for its number."""


def relevant(events: Sequence[Event]) -> bool:
    """Whether any filter was at work."""
    return any(isinstance(event, Candidates) and event.stages for event in events)


def chosen_position(events: Sequence[Event], position: int | None = None) -> Candidates | None:
    """The candidates at `position`, or at the latest one with filters."""
    filtered = {place: item for place, item in candidates(events).items() if item.stages}
    return filtered.get(max(filtered) if position is None else position) if filtered else None


def table(events: Sequence[Event], position: int | None = None) -> list[Row]:
    """One row per stage and token at the position that is drawn."""
    wanted = chosen_position(events, position)
    if wanted is None:
        return []

    def row(stage: str, kept: int | None, mass: float, token: Token, p: float, removed: bool) -> Row:
        return {
            "position": wanted.position,
            "stage": stage,
            "kept": kept,
            "removed_mass": mass,
            "id": token.id,
            "text": token.text,
            "hex": token.hex,
            "p": p,
            "removed": removed,
        }

    rows = [row("raw", None, 0.0, choice.token, choice.p, False) for choice in wanted.raw]
    for stage in wanted.stages:
        rows += [row(stage.name, stage.kept, stage.removed_mass, c.token, c.p, False) for c in _left(stage)]
        rows += [row(stage.name, stage.kept, stage.removed_mass, c.token, c.p, True) for c in stage.removed]
    return rows


def narrate(events: Sequence[Event], position: int | None = None) -> str:
    """What each stage left, and the probability of the token that was taken, before and after."""
    wanted = chosen_position(events, position)
    if wanted is None:
        return "No filter has changed the model's probabilities."
    sentences = [f"At position {wanted.position} the probabilities passed {len(wanted.stages)} stages."]
    effects = [
        f"{stage.name} removed {stage.removed_mass:.1%} of the probability and left {stage.kept:,} tokens"
        for stage in wanted.stages
        if stage.removed_mass > 0 or stage.removed
    ]
    sentences.append(("; ".join(effects[:4]) if effects else "None of them removed a token") + ".")
    placed = written(events).get(wanted.position)
    if placed is not None:
        before = next((c.p for c in wanted.raw if c.token.id == placed.token.id), placed.raw)
        after = next((c.p for c in wanted.stages[-1].top if c.token.id == placed.token.id), placed.final)
        sentences.append(
            f"{quoted(placed.token)} was taken; its probability was {number(before)} raw"
            f" and {number(after)} after filters."
        )
    return " ".join(sentences)


@picture(
    "filters",
    title="Filters",
    explains="From the model's own probabilities to those that were drawn from: what each filter cut.",
    empty="Greedy decoding takes the top token, so nothing is filtered. Try sampling with top-k, top-p or min-p.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event], position: int | None = None) -> Drawing | None:
    """Bars per stage at `position`, or at the latest position with filters."""
    wanted = chosen_position(events, position)
    if wanted is None:
        return None
    tokens = _rows(wanted)
    placed = written(events).get(wanted.position)
    columns: list[dict[int, float]] = [{choice.token.id: choice.p for choice in wanted.raw}]
    columns += [{choice.token.id: choice.p for choice in _left(stage)} for stage in wanted.stages]
    complete = [False, *(stage.kept <= len(_left(stage)) for stage in wanted.stages)]
    cuts = [{}, *(_cut(stage, before) for stage, before in zip(wanted.stages, columns, strict=False))]
    longest = max((p for column in (*columns, *cuts) for p in column.values()), default=1.0) or 1.0
    bars = _Bars(longest)
    gone: set[int] = set()
    for column, (after, cut) in enumerate(zip(columns, cuts, strict=True)):
        for row, token in enumerate(tokens):
            if token.id in cut:
                bars.add(column, row, cut[token.id], token, removed=True)
                gone.add(token.id)
            elif token.id in gone:
                bars.absent(column, row)
            elif token.id in after:
                bars.add(column, row, after[token.id], token)
            elif complete[column]:
                bars.absent(column, row)
                gone.add(token.id)
    heads = [("raw", "the model's own")]
    heads += [(stage.name, f"{stage.kept:,} left<br>{_lost(stage.removed_mass)}") for stage in wanted.stages]
    pitch = COLUMN + GAP
    return drawing(
        bars.traces(),
        height=64 + 24 * max(len(tokens), 8),
        min_width=130 + 118 * len(columns),
        margin={"l": 120, "t": 58},
        barmode="overlay",
        bargap=0.3,
        xaxis=hidden_axis(range=[-4, pitch * len(columns)], fixedrange=True),
        yaxis={
            "range": [max(len(tokens), 8) - 0.5, -0.5],
            "tickvals": list(range(len(tokens))),
            "ticktext": [
                _row_name(token, token.id in gone, placed is not None and placed.token.id == token.id)
                for token in tokens
            ],
            "tickfont": text_font(),
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
        annotations=[
            {
                "text": f"<b>{safe(name)}</b><br>{below}",
                "x": column * pitch,
                "y": 1,
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "align": "left",
                "showarrow": False,
                "font": {"size": SMALL, "color": LIGHT["soft"]},
            }
            for column, (name, below) in enumerate(heads)
        ],
    )


def _rows(wanted: Candidates) -> list[Token]:
    """The tokens to show: the model's first choices, and those that ended up on top."""
    tokens = {choice.token.id: choice.token for choice in wanted.raw[:10]}
    for choice in _left(wanted.stages[-1])[:4]:
        tokens.setdefault(choice.token.id, choice.token)
    return list(tokens.values())[:MOST_TOKENS]


def _left(stage: Stage) -> list[Choice]:
    """The named tokens that are possible after a stage: its `top` may be filled up with impossible ones."""
    return [choice for choice in stage.top if choice.p > 0]


def _cut(stage: Stage, before: dict[int, float]) -> dict[int, float]:
    """Tokens that the stage removed, with their probability before it.

    The event names only the most probable ones; where all that is left is known, the others of `before` are gone too.
    """
    removed = {choice.token.id: choice.p for choice in stage.removed}
    if stage.kept > len(_left(stage)):
        return removed
    left = {choice.token.id for choice in _left(stage)}
    return {id: p for id, p in before.items() if id not in left} | removed


def _lost(mass: float) -> str:
    return "nothing cut" if mass <= 0 else f"−{mass:.1%} cut" if mass >= 0.001 else "&lt;0.1% cut"


def _row_name(token: Token, gone: bool, taken: bool) -> str:
    name = visible(token, 13)
    return f"<s>{name}</s> ✕" if gone else f"<b>{name}</b> ●" if taken else f"{name}  "


class _Bars:
    """Collects the bars of all stages into one trace, and the numbers beside them into another."""

    def __init__(self, longest: float) -> None:
        self.scale = COLUMN / longest
        self.bars: list[tuple[float, float, int, bool]] = []
        self.words: list[tuple[float, int, str, str]] = []
        self.hover: list[str] = []

    def add(self, column: int, row: int, p: float, token: Token, removed: bool = False) -> None:
        base = column * (COLUMN + GAP)
        self.bars.append((base, p * self.scale, row, removed))
        mark = "✕ " if removed else ""
        ink = ROLES["rejected"].ink if removed else LIGHT["ink"]
        self.words.append(
            (
                base + p * self.scale + 2,
                row,
                mark + (f"{p:.2f}" if p >= 0.01 else f"{p:.3f}" if p >= 0.001 else "&lt;.001"),
                ink,
            )
        )
        self.hover.append(f"{visible(token)} · {p:.4f}{' before it was removed' if removed else ''}")

    def absent(self, column: int, row: int) -> None:
        self.words.append((column * (COLUMN + GAP), row, "✕", ROLES["rejected"].edge))

    def traces(self) -> list[dict[str, Any]]:
        role = ROLES["rejected"]
        return [
            {
                "type": "bar",
                "orientation": "h",
                "base": [base for base, _, _, _ in self.bars],
                "x": [round(size, 2) for _, size, _, _ in self.bars],
                "y": [row for _, _, row, _ in self.bars],
                "customdata": self.hover,
                "hovertemplate": "%{customdata}<extra></extra>",
                "marker": {
                    "color": [role.bg if removed else LIGHT["accent"] for _, _, _, removed in self.bars],
                    "line": {
                        "color": [role.edge if removed else LIGHT["accent"] for *_, removed in self.bars],
                        "width": 1,
                    },
                    "pattern": {
                        "shape": ["/" if removed else "" for *_, removed in self.bars],
                        "fgcolor": role.edge,
                        "size": 6,
                        "solidity": 0.25,
                    },
                },
            },
            {
                "type": "scatter",
                "mode": "text",
                "x": [x for x, *_ in self.words],
                "y": [y for _, y, _, _ in self.words],
                "text": [text for _, _, text, _ in self.words],
                "textposition": "middle right",
                "textfont": text_font([ink for *_, ink in self.words], size=SMALL),
                "cliponaxis": False,
                "hoverinfo": "skip",
            },
        ]
