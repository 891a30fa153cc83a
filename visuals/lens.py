"""The logit lens: what the model would say if it ended after this layer.

A row per layer, upwards, a column per position: the word that the layer's stream already spells, the
stronger its colour the surer. Low rows guess what usually follows a word; the answer comes up in some layer and
stays. Beside it, at the last position: how far the answer is ahead of its foil, layer by layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Contrast, Event, Lens, Token
from visuals.canvas import NORMAL, SMALL, axis, drawing, label, number, text_font
from visuals.inside import FRAME, known, layer_axis, place_name, prompt, question, signed
from visuals.palette import LIGHT, ROLES, SURE, sure_ink, sure_level
from visuals.picture import Drawing, Row, picture
from visuals.spelling import quoted, visible

MOST_LAYERS, MOST_POSITIONS = 100, 6
"""Of the positions the last ones, where the answer comes up: so many that no one has to look for it."""
CELL_WIDE, CELL_HIGH = 36, 17
LETTERS = 5
LINE_WIDE = 84
HEAD, FOOT = 50, 78
LEFT, RIGHT = 32, 8
SIDE = ROLES["bonus"].ink


@dataclass(frozen=True, slots=True)
class Known:
    """The latest word on every layer."""

    layers: dict[int, Lens]
    positions: int
    asked: Contrast | None
    tokens: tuple[Token, ...]

    @property
    def height(self) -> int:
        return 1 + max(self.layers)

    @property
    def answer(self) -> Token | None:
        return self.asked.pairs[0].answer if self.asked else None

    def differences(self) -> list[tuple[int, float]]:
        """Layer, and by how much the answer is ahead of the foil at the last position."""
        last = [(layer, known(one.differences[-1])) for layer, one in sorted(self.layers.items()) if one.differences]
        return [(layer, value) for layer, value in last if value is not None]

    def found_at(self) -> int | None:
        """The first layer from which on the answer is the most probable word at the last position."""
        first = None
        for layer, one in sorted(self.layers.items(), reverse=True):
            if self.answer is None or len(one.tokens) < self.positions or one.tokens[-1].token.id != self.answer.id:
                break
            first = layer
        return first


def relevant(events: Sequence[Event]) -> bool:
    """Whether a layer was read."""
    return any(isinstance(event, Lens) and event.tokens for event in events)


def latest(events: Sequence[Event]) -> Known | None:
    """All layers read so far."""
    layers = {
        event.layer: event
        for event in events
        if isinstance(event, Lens) and event.tokens and 0 <= event.layer < MOST_LAYERS
    }
    if not layers:
        return None
    return Known(layers, max(len(one.tokens) for one in layers.values()), question(events), prompt(events))


def table(events: Sequence[Event]) -> list[Row]:
    """One row per layer and position."""
    found = latest(events)
    if found is None:
        return []
    return [
        {
            "layer": layer,
            "position": position,
            "id": choice.token.id,
            "text": choice.token.text,
            "hex": choice.token.hex,
            "p": _share(choice.p),
            "difference": known(one.differences[position]) if position < len(one.differences) else None,
        }
        for layer, one in sorted(found.layers.items())
        for position, choice in enumerate(one.tokens)
    ]


def narrate(events: Sequence[Event]) -> str:
    """What the first and last layers say, where the answer comes up, and where it pulls ahead."""
    found = latest(events)
    if found is None:
        return "No layer has been read yet."
    low, high = min(found.layers), max(found.layers)
    first, last = found.layers[low].tokens[-1], found.layers[high].tokens[-1]
    said = [
        f"{len(found.layers)} layers have been read at {found.positions} positions.",
        f"At the last position, layer {low} spells {quoted(first.token)} ({number(first.p)}), layer {high}"
        f" {quoted(last.token)} ({number(last.p)}).",
    ]
    start = found.found_at()
    if start is not None and found.answer is not None:
        said.append(f"From layer {start} on it is the answer, {quoted(found.answer)}.")
    differences = found.differences()
    if len(differences) > 1:
        jump, layer = max((after - before, layer) for (_, before), (layer, after) in itertools.pairwise(differences))
        said.append(
            f"The answer is ahead of its foil by {signed(differences[-1][1])} in the end; layer {layer} adds most,"
            f" {signed(jump)}."
        )
    return " ".join(said)


@picture(
    "logit-lens",
    title="Logit lens",
    explains="What the model would say if it ended after each layer: the stronger the colour, the surer it is.",
    empty="A model changes its mind from layer to layer. Try the logit lens, and see where the answer comes up.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("attribution",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The map of words, and the line of differences beside it."""
    found = latest(events)
    if found is None:
        return None
    shown = range(max(0, found.positions - MOST_POSITIONS), found.positions)
    differences = found.differences()
    wide = CELL_WIDE * max(3, len(shown))
    all_ = LEFT + RIGHT + wide + (LINE_WIDE if differences else 0)
    share = wide / (wide + LINE_WIDE) if differences else 1.0
    high = max(100, CELL_HIGH * found.height)
    notes = _headline(found, shown)
    layout: dict[str, Any] = {
        "xaxis": axis(
            "",
            domain=[0, share - 0.03 if differences else 1],
            range=[shown.start - 0.5, shown.start + max(3, len(shown)) - 0.5],
            tickvals=list(shown),
            ticktext=[place_name(found.tokens, position, LETTERS) for position in shown],
            tickangle=-40,
            showgrid=False,
        )
        | FRAME,
        "yaxis": layer_axis(found.height, title={"text": "layer", "font": {"size": SMALL}, "standoff": 2}),
    }
    traces = [_map(found, shown), *_words(found, shown)]
    if ring := _answers(found, shown):
        traces.append(ring)
    if differences:
        traces += _line(differences)
        values = [value for _, value in differences]
        reach = max(0.5, *(abs(value) for value in values))
        layout["xaxis2"] = (
            axis(
                "logit difference",
                domain=[share + 0.01, 1],
                anchor="y2",
                range=[min(-0.25 * reach, 1.15 * min(values)), max(0.25 * reach, 1.15 * max(values))],
                nticks=4,
                showgrid=False,
                zeroline=True,
            )
            | FRAME
            | {"zerolinecolor": LIGHT["soft"]}
        )
        layout["yaxis2"] = layer_axis(found.height, anchor="x2", showticklabels=False)
        notes.append(label("answer − foil", share + 0.01, 1, yshift=4))
    return drawing(
        traces,
        height=HEAD + high + FOOT,
        min_width=min(2000, max(340, all_)),
        margin={"t": HEAD, "l": LEFT, "r": RIGHT, "b": FOOT},
        annotations=notes,
        **layout,
    )


def _headline(found: Known, shown: range) -> list[dict[str, Any]]:
    start = found.found_at()
    last = found.layers[max(found.layers)].tokens[-1].token
    line = f"<b>{visible(last)}</b> is what layer {max(found.layers)} says"
    if start is not None:
        line = f"the answer <b>{visible(last)}</b> is on top from layer <b>{start}</b> on"
    part = "framed: the answer" if found.answer is not None else "stronger colour: surer"
    if len(shown) < found.positions:
        part += f" · last {len(shown)} of {found.positions} words"
    return [
        label(line, 0, 1, yshift=22, font={"size": NORMAL + 1, "color": LIGHT["ink"]}),
        label(part, 0, 1, yshift=4, font={"size": SMALL, "color": LIGHT["soft"]}),
    ]


def _map(found: Known, shown: range) -> dict[str, Any]:
    steps = len(SURE)
    levels: list[list[int | None]] = []
    told: list[list[str]] = []
    for layer in range(found.height):
        one = found.layers.get(layer)
        choices = one.tokens[shown.start : shown.stop] if one else ()
        differences = one.differences if one else ()
        row: list[int | None] = [max(1, sure_level(_share(choice.p) or 0.0)) for choice in choices]
        words = [
            f"layer {layer} at {place_name(found.tokens, position)}<br>{visible(choice.token)} {number(choice.p, 3)}"
            + (f"<br>answer − foil {signed(known(differences[position]))}" if position < len(differences) else "")
            for position, choice in zip(shown, choices, strict=False)
        ]
        levels.append(row + [None] * (len(shown) - len(row)))
        told.append(words + [""] * (len(shown) - len(words)))
    return {
        "type": "heatmap",
        "x": list(shown),
        "y": list(range(found.height)),
        "z": levels,
        "zmin": -0.5,
        "zmax": steps - 0.5,
        "colorscale": [[(level + end) / steps, colour] for level, colour in enumerate(SURE) for end in (0, 1)],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "customdata": told,
        "hoverongaps": False,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _words(found: Known, shown: range) -> list[dict[str, Any]]:
    """The words by the colour that can be read on their cell."""
    groups: dict[str, tuple[list[int], list[int], list[str]]] = {}
    for layer, one in found.layers.items():
        for position, choice in zip(shown, one.tokens[shown.start : shown.stop], strict=False):
            xs, ys, texts = groups.setdefault(sure_ink(_share(choice.p) or 0.0), ([], [], []))
            xs.append(position)
            ys.append(layer)
            texts.append(visible(choice.token, LETTERS))
    return [
        {
            "type": "scatter",
            "mode": "text",
            "x": xs,
            "y": ys,
            "text": texts,
            "textfont": text_font(ink, size=SMALL),
            "hoverinfo": "skip",
        }
        for ink, (xs, ys, texts) in groups.items()
    ]


def _answers(found: Known, shown: range) -> dict[str, Any] | None:
    """Frames around the cells that say the answer."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for layer, one in found.layers.items():
        for x, choice in zip(shown, one.tokens[shown.start : shown.stop], strict=False):
            if found.answer is not None and choice.token.id == found.answer.id:
                xs += [x - 0.48, x + 0.48, x + 0.48, x - 0.48, x - 0.48, None]
                ys += [layer - 0.45, layer - 0.45, layer + 0.45, layer + 0.45, layer - 0.45, None]
    if not xs:
        return None
    line = {"color": LIGHT["ink"], "width": 1.8}
    return {"type": "scatter", "mode": "lines", "x": xs, "y": ys, "line": line, "hoverinfo": "skip"}


def _line(differences: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "xaxis": "x2",
            "yaxis": "y2",
            "x": [round(value, 4) for _, value in differences],
            "y": [layer for layer, _ in differences],
            "line": {"color": SIDE, "width": 2},
            "marker": {"size": 5, "color": SIDE, "opacity": 1},
            "hovertemplate": "layer %{y}<br>answer − foil %{x:+.3f}<extra></extra>",
        }
    ]


def _share(p: float) -> float | None:
    return p if math.isfinite(p) and 0 <= p <= 1.001 else None
