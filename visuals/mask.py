"""The mask of a grammar, closing over the vocabulary step by step.

Above, one column per step: how much the model wanted of what was blocked (red bars), and how many tokens were left
(violet, a logarithmic scale). Below, the latest step: the tokens that the model wanted most and could not have beside
those it could, and the whole vocabulary in the order of its tokens' bytes, where neighbours begin alike.

Blocked mass is what a local mask takes from the model without asking what comes of it later: the distortion that
samplers like ASAp and AWRS correct. The picture reads `Mask` events alone.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from engines.events import Event, Mask
from visuals.canvas import NORMAL, SMALL, axis, drawing, hidden_axis, label, milliseconds, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import has
from visuals.spelling import quoted, safe, visible

MOST_STEPS = 1000
FEWEST_COLUMNS = 24
SHOWN = 6
"""Tokens on either side of the comparison."""
COLUMNS = 64
MOST_CELLS = 1024
LINE, HEADINGS, LINES = 46, 4, 7
"""Characters of a line of the reader's state, its headings at most, their lines in all."""

MASS_HIGH, COUNT_HIGH, ROW_HIGH, CELL_HIGH = 74, 64, 19, 9
BLOCKED, GRAMMAR = ROLES["rejected"], ROLES["forced"]
LETTERS = 9
"""Characters of a token's name; a blocked one has two less, for its mark."""
NAME, BAR = 22.0, 16.0
"""Widths of a token's name and of the longest bar, where the panel is 100 wide."""
HALF = 51.0
SHARES = ("none allowed", *(f"about {eighth}/8 allowed" for eighth in range(1, 9)), "all allowed")
_SCALE = [
    [(digit + end) / 10, LIGHT["untested-bg"] if digit == 0 else GRAMMAR.edge if digit < 6 else GRAMMAR.ink]
    for digit in range(10)
    for end in (0, 1)
]


def relevant(events: Sequence[Event]) -> bool:
    """Whether a constraint has masked anything."""
    return has(events, Mask)


def masks(events: Sequence[Event]) -> list[Mask]:
    """The latest mask of every position, in order of position; the last `MOST_STEPS` of them."""
    latest = {event.position: event for event in events if isinstance(event, Mask)}
    return [latest[position] for position in sorted(latest)][-MOST_STEPS:]


def last(events: Sequence[Event]) -> Mask | None:
    """The mask that was computed last."""
    return next((event for event in reversed(events) if isinstance(event, Mask)), None)


def table(events: Sequence[Event]) -> list[Row]:
    """One row per step."""
    return [
        {
            "position": mask.position,
            "engine": mask.engine,
            "allowed": mask.allowed,
            "vocabulary": mask.vocabulary,
            "blocked_mass": _share(mask.blocked_mass),
            "end_allowed": mask.end_allowed,
            "wanted": mask.wanted[0].token.text if mask.wanted else None,
            "wanted_p": _share(mask.wanted[0].p) if mask.wanted else None,
            "permitted": mask.permitted[0].token.text if mask.permitted else None,
            "permitted_p": _share(mask.permitted[0].p) if mask.permitted else None,
            "seconds": mask.seconds if math.isfinite(mask.seconds) else None,
        }
        for mask in masks(events)
    ]


def narrate(events: Sequence[Event]) -> str:
    """What the latest mask blocked, where the reader of the grammar stands, and the step that cost most."""
    mask, all_ = last(events), masks(events)
    if mask is None:
        return "Nothing has been masked: every token has been possible so far."
    sentences = [
        f"At position {mask.position}, {mask.allowed:,} of {mask.vocabulary:,} tokens are allowed.",
        f"The model had given {_percent(mask.blocked_mass)} of its probability to what is blocked"
        + (f", most of it to {quoted(mask.wanted[0].token)} ({_percent(mask.wanted[0].p)})." if mask.wanted else "."),
    ]
    if mask.permitted:
        best = mask.permitted[0]
        sentences.append(f"Of what is allowed it wanted {quoted(best.token)} most ({_percent(best.p)}).")
    for heading, text in list(mask.state.items())[:1]:
        sentences.append(f"The reader of the grammar says, {heading[:40]}: {text[:160].rstrip('.')}.")
    if len(all_) > 1:
        mean = sum(_share(one.blocked_mass) for one in all_) / len(all_)
        most = max(all_, key=lambda one: _share(one.blocked_mass))
        sentences.append(
            f"Over {len(all_)} steps {_percent(mean)} was blocked on average, most at position {most.position}: "
            f"{_percent(most.blocked_mass)}."
        )
    return " ".join(sentences)


@picture(
    "mask",
    title="Mask",
    explains="How much of the vocabulary a grammar leaves at each step, and how much the model wanted of the rest.",
    empty="A grammar rules out tokens before each choice. Choose the grammar mask, and see how few remain possible.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The strip over the steps; under it the latest step: two lists of tokens, and the map of the vocabulary."""
    mask, steps = last(events), masks(events)
    if mask is None:
        return None
    state = _state(mask)
    rows = max(1, math.ceil(len(mask.cells[:MOST_CELLS]) / COLUMNS))
    stack = _Stack(top=44)
    mass_band = stack.take(MASS_HIGH, 30)
    count_band = stack.take(COUNT_HIGH, 46 + 16 * max(1, len(state)) + 14)
    list_band = stack.take(SHOWN * ROW_HIGH, 46)
    map_band = stack.take(rows * CELL_HIGH, 0)
    first = steps[0].position
    ends = [min(first, mask.position) - 0.5, max(steps[-1].position, mask.position, first + FEWEST_COLUMNS - 1) + 0.5]
    across: dict[str, Any] = {
        "range": ends,
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        "tickfont": {"size": SMALL},
    }
    share = f"<b>{_percent(mask.blocked_mass)}</b> of what the model wanted is blocked"
    left = f"<b>{mask.allowed:,}</b> of {mask.vocabulary:,} tokens"
    if mask.end_allowed:
        left += ": the end of the text" if mask.allowed == 1 else ", the end of text too"
    else:
        left += " is left" if mask.allowed == 1 else " are left"
    lists = list_band.top
    # With nothing said of the reader, the time stands in its place.
    told = state or [f"{safe(mask.engine[:40])} took {milliseconds(max(0.0, mask.seconds))} for this mask"]
    words = [
        stack.label(share, 24, size=NORMAL + 1, color=LIGHT["ink"]),
        stack.label(f"at position {mask.position}, framed", 40, size=SMALL),
        stack.label(left, count_band.top - 2),
        *(stack.label(line, lists - 28 - 16 * (len(told) - 1 - place)) for place, line in enumerate(told)),
        stack.label("<b>wanted, but blocked</b>", lists - 5),
        stack.label("<b>wanted and allowed</b>", lists - 5, x=HALF / 100),
        stack.label("<b>vocabulary in byte order</b>", map_band.top - 19),
        stack.label("strong: most allowed · pale: some", map_band.top - 4, size=SMALL),
    ]
    return drawing(
        [*_strip(steps), *_lists(mask), _map(mask, rows)],
        height=stack.height + 8,
        min_width=340,
        margin={"l": 42, "r": 10, "t": 0, "b": 8},
        bargap=0.15,
        barmode="overlay",
        xaxis=axis(anchor="y2", showticklabels=True, tickformat="d", **across),
        yaxis=axis(
            domain=stack.domain(mass_band),
            range=[0, 1],
            tickvals=[0, 0.5, 1],
            tickformat=".0%",
            fixedrange=True,
        ),
        yaxis2=axis(
            domain=stack.domain(count_band),
            type="log",
            range=[-0.15, math.log10(max(10, *(one.vocabulary for one in steps))) + 0.1],
            tickvals=[1, 100, 10_000],
            ticktext=["1", "100", "10k"],
            fixedrange=True,
            zeroline=False,
        ),
        xaxis2=hidden_axis(range=[0, 100], anchor="y3", fixedrange=True),
        yaxis3=hidden_axis(domain=stack.domain(list_band), range=[SHOWN - 0.5, -0.5], fixedrange=True),
        xaxis3=hidden_axis(range=[-0.5, COLUMNS - 0.5], anchor="y4", fixedrange=True),
        yaxis4=hidden_axis(domain=stack.domain(map_band), range=[rows - 0.5, -0.5], fixedrange=True),
        shapes=[_frame(mask.position, stack.domain(band)) for band in (mass_band, count_band)],
        annotations=words,
    )


def _frame(position: int, across: list[float]) -> dict[str, Any]:
    """Says which column is the step shown below."""
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": position - 0.5,
        "x1": position + 0.5,
        "y0": across[0],
        "y1": across[1],
        "line": {"width": 1, "color": LIGHT["soft"], "dash": "dot"},
        "fillcolor": "rgba(0,0,0,0)",
    }


class _Band:
    """A horizontal strip of the drawing, in pixels from the top."""

    def __init__(self, top: int, bottom: int) -> None:
        self.top, self.bottom = top, bottom


class _Stack:
    """Bands from the top down; Plotly wants them as parts of the whole from the bottom up."""

    def __init__(self, top: int) -> None:
        self.height = top

    def take(self, high: int, gap: int) -> _Band:
        """The next band, and free room below it."""
        band = _Band(self.height, self.height + high)
        self.height += high + gap
        return band

    def domain(self, band: _Band) -> list[float]:
        """The band as Plotly's [bottom, top], once all are taken."""
        return [round(1 - band.bottom / self.height, 5), round(1 - band.top / self.height, 5)]

    def label(
        self, text: str, bottom: float, *, x: float = 0.0, size: int = NORMAL, color: str = LIGHT["soft"]
    ) -> dict[str, Any]:
        """A line of text that stands on this height."""
        return label(text, x, round(1 - bottom / self.height, 5), font={"size": size, "color": color})


def _strip(steps: Sequence[Mask]) -> list[dict[str, Any]]:
    positions = [mask.position for mask in steps]
    masses = [round(_share(mask.blocked_mass), 4) for mask in steps]
    counts = [mask.allowed for mask in steps]
    bars = {
        "type": "bar",
        "x": positions,
        "y": masses,
        "marker": {"color": BLOCKED.edge, "line": {"width": 0}},
        "hovertemplate": "position %{x} · %{y:.1%} of what the model wanted is blocked<extra></extra>",
    }
    # A logarithm has no nought: a dead end stands at the bottom as a cross.
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": positions,
        "y": [max(1, count) for count in counts],
        "yaxis": "y2",
        "line": {"color": GRAMMAR.ink, "width": 1.5, "shape": "hvh"},
        "marker": {
            "size": [9 if count <= 0 else 4 if len(steps) <= 120 else 2 for count in counts],
            "symbol": ["x" if count <= 0 else "circle" for count in counts],
            "color": [BLOCKED.ink if count <= 0 else GRAMMAR.ink for count in counts],
        },
        "customdata": counts,
        "hovertemplate": "position %{x} · %{customdata:,} tokens allowed<extra></extra>",
    }
    return [bars, line]


def _lists(mask: Mask) -> list[dict[str, Any]]:
    """What was wanted: blocked on the left, allowed on the right, on one scale."""
    blocked, allowed = mask.wanted[:SHOWN], mask.permitted[:SHOWN]
    longest = max([_share(choice.p) for choice in (*blocked, *allowed)] + [0.05])
    bars: list[tuple[float, float, int, bool, str]] = []
    words: list[tuple[float, int, str, str]] = []
    names: list[tuple[float, int, str, str]] = []
    for side, choices, base in ((True, blocked, 0.0), (False, allowed, HALF)):
        ink = BLOCKED.ink if side else LIGHT["ink"]
        for row, choice in enumerate(choices):
            p = _share(choice.p)
            name = visible(choice.token, LETTERS - 2 if side else LETTERS)
            names.append((base, row, f"{BLOCKED.mark} {name}" if side else name, ink))
            told = f"{visible(choice.token)} · {p:.4f} {'blocked' if side else 'allowed'}"
            bars.append((base + NAME, BAR * p / longest, row, side, told))
            words.append((base + NAME + BAR * p / longest + 0.8, row, _brief(p), ink))
        if not choices:
            nothing = "nothing worth naming" if side else "nothing: a dead end" if not mask.allowed else "the rest"
            words.append((base, 0, nothing, LIGHT["soft"]))
    return [
        {
            "type": "bar",
            "orientation": "h",
            "xaxis": "x2",
            "yaxis": "y3",
            "base": [base for base, *_ in bars],
            "x": [round(size, 2) for _, size, *_ in bars],
            "y": [row for _, _, row, *_ in bars],
            "customdata": [told for *_, told in bars],
            "hovertemplate": "%{customdata}<extra></extra>",
            "marker": {
                "color": [BLOCKED.bg if side else LIGHT["accent"] for *_, side, _ in bars],
                "line": {"color": [BLOCKED.edge if side else LIGHT["accent"] for *_, side, _ in bars], "width": 1},
                "pattern": {
                    "shape": ["/" if side else "" for *_, side, _ in bars],
                    "fgcolor": BLOCKED.edge,
                    "size": 6,
                    "solidity": 0.25,
                },
            },
        },
        _texts(words),
        _texts(names),
    ]


def _texts(words: Iterable[tuple[float, int, str, str]]) -> dict[str, Any]:
    words = list(words)
    return {
        "type": "scatter",
        "mode": "text",
        "xaxis": "x2",
        "yaxis": "y3",
        "x": [round(x, 2) for x, *_ in words],
        "y": [y for _, y, *_ in words],
        "text": [text for _, _, text, _ in words],
        "textposition": "middle right",
        "textfont": text_font([ink for *_, ink in words], size=SMALL),
        "cliponaxis": False,
        "hoverinfo": "skip",
    }


def _map(mask: Mask, rows: int) -> dict[str, Any]:
    """The vocabulary: a cell is a piece of it, in byte order from left to right and downwards."""
    digits = [ord(digit) - 48 if digit in "0123456789" else 0 for digit in mask.cells[:MOST_CELLS]]
    blank = rows * COLUMNS - len(digits)
    values: list[int | None] = [*digits, *[None] * blank]
    told = [*(SHARES[digit] for digit in digits), *[""] * blank]
    per_row = mask.vocabulary / max(1, len(digits)) * COLUMNS
    return {
        "type": "heatmap",
        "xaxis": "x3",
        "yaxis": "y4",
        "z": [values[row * COLUMNS : (row + 1) * COLUMNS] for row in range(rows)],
        "text": [told[row * COLUMNS : (row + 1) * COLUMNS] for row in range(rows)],
        "customdata": [[f"{per_row * row:,.0f}–{per_row * (row + 1):,.0f}"] * COLUMNS for row in range(rows)],
        "zmin": 0,
        "zmax": 9,
        "colorscale": _SCALE,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": "%{text}<br>piece %{x} of 64 of tokens %{customdata} in byte order<extra></extra>",
    }


def _state(mask: Mask) -> list[str]:
    """The reader's state in lines that fit."""
    lines: list[str] = []
    for heading, text in list(mask.state.items())[:HEADINGS]:
        said = "".join(char if char.isprintable() else "·" for char in f"{heading[:40]}: {text[:400]}")
        for line in textwrap.wrap(said, LINE, subsequent_indent="    ", break_long_words=True)[:3]:
            lines.append(safe(line))
    return lines[:LINES]


def _share(p: float) -> float:
    return min(1.0, max(0.0, p)) if math.isfinite(p) else 0.0


def _percent(p: float) -> str:
    p = _share(p)
    if p in (0, 1) or 0.1 <= p <= 0.995:
        return f"{p:.0%}"
    return "under 0.1%" if p < 0.001 else f"{p:.1%}" if p < 0.1 else "over 99%"


def _brief(p: float) -> str:
    return "&lt;.1%" if 0 < _share(p) < 0.001 else _percent(p)
