"""The guess and the truth: what patching a place of the model does, estimated and measured, side by side.

A row of maps for each site, layer upwards, position to the right. The left maps are estimates: one backward pass gives
all of their cells at once. The right one is exact patching: it runs the model again for every row, and fills row by
row. A badge over each estimate says how well the rows measured so far agree with it, by Pearson's correlation over all
positions, and over those from the first one on at which the prompts differ: before it every effect is exactly 0, which
flatters an estimate. The verdict beside it goes by the second number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Direction, Event, Patch, Token
from visuals.canvas import SMALL, axis, drawing, label
from visuals.inside import (
    EXACT,
    FRAME,
    Grid,
    effect_map,
    known,
    layer_axis,
    minus_signs,
    pearson,
    place_name,
    place_told,
    prompt,
    question,
    scale_bar,
    signed,
    ticks,
)
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.spelling import plain, safe

SITES = {
    "resid_pre": "residual stream",
    "attn_out": "attention",
    "mlp_out": "MLP",
}
"""The sites in the order of their rows, in words."""
MOST_LAYERS, MOST_POSITIONS, MOST_ESTIMATES = 100, 96, 2
MOST_EFFECTS = 256
DIRECT = "direct"
"""The `how` of what a part of the model adds to the logits itself: no guess of what patching would do."""
CONFIRMED, PARTLY = 0.9, 0.7
"""Correlations from which on a guess is confirmed, or partly."""
BADGES = {
    "confirmed": ("✓", ROLES["accepted"]),
    "partly confirmed": ("≈", ROLES["copied"]),
    "refuted": ("✕", ROLES["rejected"]),
}
"""A verdict, its mark, and the role whose colours it has."""
HEAD, LINE_HIGH, ROW_HEAD, GAP, FOOT = 42, 18, 60, 14, 84
"""Pixels above the maps, above each row, below each row, and for the words below."""
LEFT, RIGHT = 34, 10


@dataclass(frozen=True, slots=True)
class Maps:
    """Everything patched at one site, by who says so."""

    site: str
    layers: int
    grids: dict[str, dict[int, tuple[float | None, ...]]]
    """Estimator, or `exact` → layer → an effect for every position."""

    def measured(self, how: str) -> int:
        """Rows known so far."""
        return len(self.grids.get(how, {}))

    def pairs(self, how: str, first: int = 0) -> list[tuple[float, float]]:
        """Guess and truth of all cells from position `first` on that have both."""
        guessed, found = self.grids.get(how, {}), self.grids.get(EXACT, {})
        return [
            (guess, truth)
            for layer, truths in found.items()
            for guess, truth in zip(guessed.get(layer, ())[first:], truths[first:], strict=False)
            if guess is not None and truth is not None
        ]


@dataclass(frozen=True, slots=True)
class Known:
    """All maps of one direction."""

    sites: list[Maps]
    estimates: list[str]
    """The latest ones, in the order in which they came."""
    exact: bool
    positions: int
    layers: int
    first: int
    direction: Direction
    tokens: tuple[Token, ...]
    prompts: int

    def agreement(self, maps: Maps, how: str) -> tuple[float | None, float | None]:
        """Pearson's correlation of guess and truth: over all positions, and from the first difference on."""
        return pearson(maps.pairs(how)), pearson(maps.pairs(how, self.first))


def is_row(event: Event) -> bool:
    """Whether the event is a row of these maps."""
    return isinstance(event, Patch) and event.along == "position" and event.site in SITES


def relevant(events: Sequence[Event]) -> bool:
    """Whether a place was patched, or its effect guessed."""
    return any(is_row(event) for event in events)


def latest(events: Sequence[Event]) -> Known | None:
    """The newest word on every place, in the direction patched last."""
    rows = [event for event in events if isinstance(event, Patch) and is_row(event) and event.layer < MOST_LAYERS]
    if not rows:
        return None
    direction = rows[-1].direction
    found: dict[str, dict[str, dict[int, tuple[float | None, ...]]]] = {}
    last_seen: dict[str, int] = {}
    for place, row in enumerate(rows):
        if row.direction == direction:
            effects = tuple([known(value) for value in row.effects[:MOST_EFFECTS]])
            found.setdefault(row.site, {}).setdefault(row.how, {})[row.layer] = effects
            last_seen[row.how] = place
    guesses = sorted((how for how in last_seen if how != EXACT), key=lambda how: last_seen[how])[-MOST_ESTIMATES:]
    layers = 1 + max(layer for grids in found.values() for grid in grids.values() for layer in grid)
    asked = question(events)
    return Known(
        sites=[Maps(site, layers, found[site]) for site in SITES if site in found],
        estimates=sorted(guesses, key=list(last_seen).index),
        exact=EXACT in last_seen,
        positions=max(len(row) for grids in found.values() for grid in grids.values() for row in grid.values()),
        layers=layers,
        first=max(0, asked.first) if asked else 0,
        direction=direction,
        tokens=prompt(events),
        prompts=len(asked.pairs) if asked else 0,
    )


def verdict(correlation: float) -> str:
    """What the truth so far says of a guess."""
    return "confirmed" if correlation >= CONFIRMED else "partly confirmed" if correlation >= PARTLY else "refuted"


def table(events: Sequence[Event]) -> list[Row]:
    """One row per cell and source."""
    found = latest(events)
    if found is None:
        return []
    return [
        {
            "site": maps.site,
            "how": how,
            "direction": found.direction,
            "layer": layer,
            "position": position,
            "token": plain(found.tokens[position]) if position < len(found.tokens) else "",
            "effect": effect,
        }
        for maps in found.sites
        for how, grid in maps.grids.items()
        for layer, effects in sorted(grid.items())
        for position, effect in enumerate(effects)
    ]


def narrate(events: Sequence[Event]) -> str:
    """The strongest place, how much was measured, and what that says of the guesses."""
    found = latest(events)
    if found is None:
        return "No place of the model has been patched yet, and no effect guessed."
    how = EXACT if found.exact and not found.estimates else found.estimates[-1] if found.estimates else EXACT
    cells = [
        (effect, maps.site, layer, position)
        for maps in found.sites
        for layer, effects in maps.grids.get(how, {}).items()
        for position, effect in enumerate(effects)
        if effect is not None and maps.site != "resid_pre"
    ]
    said = []
    if cells:
        effect, site, layer, position = max(cells, key=lambda cell: abs(cell[0]))
        said.append(
            f"By {_name(how)}, the strongest place outside the residual stream is {SITES[site]} of layer {layer} at"
            f" {place_told(found.tokens, position)}: {signed(effect)} of the difference."
        )
    if not found.exact:
        said.append(
            "These are direct effects on the logits."
            if found.estimates == [DIRECT]
            else "These are guesses: nothing has been measured by exact patching yet."
        )
    else:
        done, rows = sum(maps.measured(EXACT) for maps in found.sites), found.layers * len(found.sites)
        said.append(f"Exact patching has measured {done} of {rows} rows.")
    for guess in found.estimates:
        parts = []
        for maps in found.sites:
            everywhere, after = found.agreement(maps, guess)
            if everywhere is not None:
                judged = verdict(after if after is not None else everywhere)
                parts.append(f"{SITES[maps.site]} {everywhere:.2f} ({judged})")
        if parts:
            said.append(f"The truth correlates with the guess of {_name(guess)} so far: {', '.join(parts)}.")
    return " ".join(said) or "The rows hold no number yet."


@picture(
    "patch-maps",
    title="Guess and truth",
    explains="Left, what one backward pass guesses of each place; right, the slow truth, which confirms or refutes it.",
    empty="Which place of the model decides? One backward pass guesses all at once. Try relevance patching.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("attribution",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """A row per site: the estimates, and exact patching beside them."""
    found = latest(events)
    if found is None:
        return None
    columns = [*found.estimates, *([EXACT] if found.exact else [])]
    shown = _window(found)
    high = max(90, min(190, 6 * found.layers))
    rows = len(found.sites)
    inner = rows * (ROW_HEAD + high + GAP)
    wide = max(148, min(520, 13 * len(shown)))
    between = 0.05 if len(columns) > 1 else 0.0
    across = (1 - between * (len(columns) - 1)) / len(columns)
    labels = [place_name(found.tokens, position) for position in shown]
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    head, notes = _headline(found)
    lines = []
    for row, maps in enumerate(found.sites):
        top = inner - row * (ROW_HEAD + high + GAP) - ROW_HEAD
        notes.append(label(f"<b>{SITES[maps.site]}</b> <b>·</b> {maps.site}", 0, (top + 38) / inner))
        for column, how in enumerate(columns):
            number = row * len(columns) + column
            axes = str(number + 1) if number else ""
            left = column * (across + between)
            grid = _grid(maps, how, shown)
            traces.append(
                effect_map(grid, shown.start, axes, customdata=_told(grid, labels), hovertemplate=_hover(maps, how))
                | (scale_bar(found.direction, y=1 + 8 / inner) if not number else {})
            )
            traces.append(minus_signs(grid, shown.start, axes))
            bottom = row == rows - 1
            layout[f"xaxis{axes}"] = (
                axis(
                    "",
                    domain=[left, left + across],
                    anchor=f"y{axes}",
                    range=[shown.start - 0.5, shown.stop - 0.5],
                    showgrid=False,
                    tickangle=-60,
                    showticklabels=bottom,
                    **ticks(found.tokens, shown, 24 if len(columns) < 3 else 16),
                )
                | FRAME
            )
            layout[f"yaxis{axes}"] = layer_axis(
                found.layers,
                domain=[(top - high) / inner, top / inner],
                anchor=f"x{axes}",
                showticklabels=column == 0,
            )
            notes += _badge(found, maps, how, left, (top + 3) / inner)
            if shown.start < found.first < shown.stop:
                lines.append(_first(found.first, axes))
    return drawing(
        [trace for trace in traces if trace["type"] == "heatmap" or trace["x"]],
        height=head + inner + FOOT,
        min_width=min(2000, max(340, LEFT + RIGHT + wide * len(columns))),
        margin={"t": head, "l": LEFT, "r": RIGHT, "b": FOOT},
        annotations=notes,
        shapes=lines,
        **layout,
    )


def _window(found: Known) -> range:
    """The positions that are drawn: from a little before the first difference on, and the last ones if too many."""
    start = 0
    if found.positions > MOST_POSITIONS:
        start = min(max(0, found.first - 4), found.positions - 1)
        start = max(start, found.positions - MOST_POSITIONS)
    return range(start, max(start + 1, found.positions))


def _grid(maps: Maps, how: str, shown: range) -> Grid:
    rows = maps.grids.get(how, {})
    empty: list[float | None] = [None] * len(shown)
    grid: Grid = []
    for layer in range(maps.layers):
        values = rows.get(layer, ())[shown.start : shown.stop]
        # Four digits are more than a colour tells, and half the data.
        cells = [None if value is None else round(value, 4) for value in values]
        grid.append((cells + empty)[: len(shown)])
    return grid


def _told(grid: Grid, labels: list[str]) -> list[list[str]]:
    """What a cell says beside its number; most rows share one list."""
    told = []
    for row in grid:
        if any(value is not None and abs(value) > 1 for value in row):
            told.append(
                [
                    f"{name}<br>beyond the colours" if value is not None and abs(value) > 1 else name
                    for name, value in zip(labels, row, strict=True)
                ]
            )
        else:
            told.append(labels)
    return told


def _hover(maps: Maps, how: str) -> str:
    measured = "measured" if how == EXACT else "guessed"
    return f"{SITES[maps.site]}, layer %{{y}}<br>%{{customdata}}<br>{measured} %{{z:+.3f}}<extra></extra>"


def _headline(found: Known) -> tuple[int, list[dict[str, Any]]]:
    """Above everything, with its height: what was guessed, how much of it is measured; below, whose words these are."""
    done, rows = sum(maps.measured(EXACT) for maps in found.sites), found.layers * len(found.sites)
    guesses = " and ".join(f"<b>{_name(how, drawn=True)}</b>" for how in found.estimates)
    strong = {"size": 13, "color": LIGHT["ink"]}
    lines = []
    if guesses:
        only = found.estimates == [DIRECT]
        lines.append((f"{guesses} effects on the logits" if only else f"{guesses} guessed all at once", strong))
    if found.exact:
        lines.append((f"exact patching has measured <b>{done}</b> of {rows} rows", strong))
    elif found.estimates != [DIRECT]:
        lines.append(("none of it is measured yet", strong))
    small = {"font": {"size": SMALL, "color": LIGHT["soft"]}, "xanchor": "right"}
    if found.exact and guesses:
        after = f" / from position {found.first} on" if found.first else ""
        lines.append((f"r: Pearson over all positions{after}", {"size": SMALL, "color": LIGHT["soft"]}))
    head = HEAD + LINE_HIGH * len(lines)
    notes = [
        label(line, 0, 1, yshift=head - LINE_HIGH * (1 + place), font=font) for place, (line, font) in enumerate(lines)
    ]
    if found.positions > MOST_POSITIONS:
        shown = _window(found)
        notes.append(
            label(f"positions {shown.start} to {shown.stop - 1} of {found.positions}", 1, 0, yshift=4 - FOOT, **small)
        )
    elif found.prompts > 1:
        notes.append(label(f"words of the first of {found.prompts} prompts", 1, 0, yshift=4 - FOOT, **small))
    return head, notes


def _badge(found: Known, maps: Maps, how: str, left: float, y: float) -> list[dict[str, Any]]:
    """The name of a map and, of an estimate, what the truth says of it."""
    soft = {"size": SMALL, "color": LIGHT["soft"]}
    if how == EXACT:
        done = f"{maps.measured(EXACT)} of {maps.layers} rows"
        return [label("exact patching", left, y, yshift=16), label(done, left, y, font=soft)]
    everywhere, after = found.agreement(maps, how)
    notes = [label(_name(how, drawn=True), left, y, yshift=16)]
    if everywhere is None:
        return notes
    judged = verdict(everywhere if after is None else after)
    mark, role = BADGES[judged]
    word = judged.split()[0] if maps.measured(EXACT) == maps.layers else "so far"
    numbers = f"{everywhere:.2f} / {after:.2f}" if after is not None and found.first else f"{everywhere:.2f}"
    badge = label(
        f"<b>{mark}</b> {word}, r <b>{numbers}</b>",
        left,
        y,
        xshift=1,
        bgcolor=role.bg,
        bordercolor=role.edge,
        borderpad=1,
        font={"size": SMALL, "color": role.ink},
    )
    return [*notes, badge]


def _first(first: int, axes: str) -> dict[str, Any]:
    """Where the prompts begin to differ."""
    return {
        "type": "line",
        "xref": f"x{axes}",
        "yref": f"y{axes} domain",
        "x0": first - 0.5,
        "x1": first - 0.5,
        "y0": 0,
        "y1": 1,
        "line": {"color": LIGHT["soft"], "width": 1, "dash": "2px,3px"},
    }


def _name(how: str, drawn: bool = False) -> str:
    """An estimator's id in words."""
    name = how[:22].replace("-", " ") or "no name"
    return safe(name) if drawn else plain(Token(-1, name), 30).replace("␣", " ")
