"""Which words of the context made the model say this token? One row of coloured words per method.

The stronger the colour, the more a word mattered, each row by its own greatest. Where a method knows words that work
against the token they are orange and carry a dashed line. A method that replaces words to see what happens shows what
it replaced last: struck through, the substitute above. Methods give their answer again while it improves: the latest is
shown, with the probability before and after the replacement, and how many of its probes have settled. The table below
says how far each answer can be trusted: *Soft-NS* and *Soft-NC* measure what is lost and kept when the words are
blurred by their importance, and chance is the row to beat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.events import Attribution, Event, Score, Token
from visuals.canvas import NORMAL, SMALL, Points, drawing, hidden_axis, number, text_font
from visuals.inside import known, signed
from visuals.palette import EFFECT, LIGHT, SURE, effect_ink, effect_level, sure_ink, sure_level
from visuals.picture import Drawing, Row, picture
from visuals.spelling import plain, quoted, safe, visible

METRICS = ("Soft-NS", "Soft-NC")
CHANCE = "random"
MOST_METHODS, MOST_TOKENS, MOST_SCORED = 8, 600, 12
"""Rows beside that of chance; words in all of them together; rows of the table."""
WIDE, NARROWEST = 400, 340
"""Units of a line, and the fewest pixels for it. Letters keep their size, so boxes have some room for them."""
LETTER, GAP, PAD = 7.3, 4, 5
BOX_HIGH, LINE_HIGH, SWAP_HIGH, TITLE_HIGH, TOLD_HIGH, BETWEEN = 20, 25, 16, 24, 16, 10
TOKEN_WIDTH, TITLE_WIDTH, TOLD_WIDTH = 13, 12, 50
"""Characters of a word, of one in a title, and of a line of what is told."""
TABLE_ROW = 18


@dataclass(frozen=True, slots=True)
class Known:
    """The latest answer of every method on one token, and the methods' scores."""

    rows: list[Attribution]
    scores: dict[str, dict[str, float]]
    """Method → name of the score → value; chance comes last."""

    @property
    def target(self) -> Token:
        """The token that is explained."""
        return self.rows[-1].target


def relevant(events: Sequence[Event]) -> bool:
    """Whether a token was explained."""
    return any(isinstance(event, Attribution) and event.context for event in events)


def latest(events: Sequence[Event]) -> Known | None:
    """All that is said of the token explained last; chance comes last, and methods in the order in which they came."""
    told = [event for event in events if isinstance(event, Attribution) and event.context]
    if not told:
        return None
    last = told[-1]
    rows = {event.how: event for event in told if (event.position, event.target) == (last.position, last.target)}
    scores: dict[str, dict[str, float]] = {}
    for event in events:
        if isinstance(event, Score) and event.name in METRICS and (value := known(event.value)) is not None:
            scores.setdefault(event.text, {})[event.name] = value
    # The latest answers of each; a dictionary keeps the order in which the methods came first.
    newest = {how: place for place, how in enumerate(event.how for event in told)}
    shown = sorted((how for how in rows if how != CHANCE), key=lambda how: newest[how])[-MOST_METHODS:]
    return Known(
        [row for how, row in rows.items() if how in shown] + [row for how, row in rows.items() if how == CHANCE],
        dict(sorted(scores.items(), key=lambda item: item[0] == CHANCE)),
    )


def weights(row: Attribution) -> list[float]:
    """A score for every token of the context, 0 where it is no number."""
    scores = [known(score) or 0.0 for score in row.scores[: len(row.context)]]
    return scores + [0.0] * (len(row.context) - len(scores))


def table(events: Sequence[Event]) -> list[Row]:
    """One row per method and token."""
    found = latest(events)
    if found is None:
        return []
    rows: list[Row] = []
    for row in found.rows:
        swaps = {swap.index: swap.token for swap in row.swaps}
        rows += [
            {
                "how": row.how,
                "step": row.step,
                "index": index,
                "id": token.id,
                "text": token.text,
                "hex": token.hex,
                "score": score,
                "swapped_for": swaps[index].text if index in swaps else None,
            }
            for index, (token, score) in enumerate(zip(row.context, weights(row), strict=True))
        ]
    return rows


def narrate(events: Sequence[Event]) -> str:
    """The most important words by the latest answer, what the swaps did, and who scores best."""
    found = latest(events)
    if found is None:
        return "No token has been explained yet."
    row = next((event for event in reversed(found.rows) if event.how != CHANCE), found.rows[-1])
    ranked = sorted(zip(weights(row), row.context, strict=True), key=lambda pair: -abs(pair[0]))[:3]
    against = f" rather than {quoted(row.foil)}" if row.foil else ""
    said = [
        f"The question is why the model says {quoted(row.target)}{against}.",
        f"By {_name(row.how)} it was "
        + ", ".join(f"{quoted(token)} ({signed(score)})" for score, token in ranked)
        + " that mattered most.",
    ]
    if row.swaps and _share(row.before) is not None and _share(row.after) is not None:
        said.append(
            f"With {len(row.swaps)} {'word' if len(row.swaps) == 1 else 'words'} replaced the probability goes from"
            f" {number(row.before)} to {number(row.after)}."
        )
    if row.probes > 0:
        said.append(f"{min(row.settled, row.probes)} of {row.probes} probes have settled.")
    for metric in METRICS:
        best = max((how for how in found.scores if metric in found.scores[how]), default=None, key=_by(found, metric))
        if best is not None:
            said.append(f"{_name(best)} has the best {metric}, {found.scores[best][metric]:.2f}.")
    return " ".join(said)


def _by(found: Known, metric: str) -> Any:
    return lambda how: found.scores[how][metric]


@dataclass(slots=True)
class _Page:
    """Boxes and words in pixels, y downwards, gathered by colour."""

    y: float = 0.0
    boxes: dict[str, tuple[Points, Points]] = field(default_factory=dict)
    words: dict[tuple[str, int, str], list[tuple[float, float, str]]] = field(default_factory=dict)
    under: tuple[Points, Points] = field(default_factory=lambda: ([], []))
    struck: tuple[Points, Points] = field(default_factory=lambda: ([], []))
    spots: list[tuple[float, float, str]] = field(default_factory=list)

    def box(self, x: float, y: float, wide: float, colour: str) -> None:
        xs, ys = self.boxes.setdefault(colour, ([], []))
        high = BOX_HIGH / 2
        xs += [x, x + wide, x + wide, x, x, None]
        ys += [y - high, y - high, y + high, y + high, y - high, None]

    def write(
        self, x: float, y: float, text: str, colour: str, size: int = NORMAL, place: str = "middle right"
    ) -> None:
        self.words.setdefault((colour, size, place), []).append((x, y, text))

    def line(self, which: tuple[Points, Points], x0: float, x1: float, y: float) -> None:
        which[0].extend((x0, x1, None))
        which[1].extend((y, y, None))


@picture(
    "token-importance",
    title="Important words",
    explains="The words that made the model say this token, by each method: stronger colours mattered more.",
    empty="Which words of the prompt made the model say this? Try ReAGent: it swaps words, and watches the answer.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """A row per method, the table of scores below."""
    found = latest(events)
    if found is None:
        return None
    page = _Page()
    against = any(min(weights(row), default=0.0) < 0 for row in found.rows)
    captions = [
        "the stronger the colour, the more a word mattered",
        *["orange and dashed: against the token"] * against,
    ]
    for caption in captions:
        page.write(0, page.y + TOLD_HIGH / 2, caption, LIGHT["soft"], SMALL)
        page.y += TOLD_HIGH
    before = None
    for row in found.rows:
        _add(page, row, MOST_TOKENS // len(found.rows), before)
        before = row.before
    _add_scores(page, found)
    high = max(150, round(page.y) + 8)
    return drawing(
        _traces(page),
        height=high,
        min_width=NARROWEST,
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
        dragmode="pan",
        xaxis=hidden_axis(range=[0, WIDE], fixedrange=True),
        yaxis=hidden_axis(range=[high - 8, 0], fixedrange=True),
    )


def _add(page: _Page, row: Attribution, most_tokens: int, before: float | None) -> None:
    """A method's title and its words, the last ones if there are too many; `before` has been told by the row above."""
    scores = weights(row)
    most = max((abs(score) for score in scores), default=0.0) or 1.0
    diverging = min(scores, default=0.0) < 0
    swaps = {swap.index: swap.token for swap in row.swaps}
    page.write(0, page.y + TITLE_HIGH / 2, _title(row), LIGHT["ink"])
    page.y += TITLE_HIGH
    start = max(0, len(row.context) - most_tokens)
    for told in _told(row, start, before):
        page.write(0, page.y + TOLD_HIGH / 2 - 2, told, LIGHT["soft"], SMALL)
        page.y += TOLD_HIGH
    x = 0.0
    line: list[tuple[float, float, str, str, float, str]] = []
    for index, (token, score) in enumerate(zip(row.context[start:], scores[start:], strict=True), start):
        text = visible(token, TOKEN_WIDTH)
        other = visible(swaps[index], TOKEN_WIDTH) if index in swaps else ""
        letters = max(len(plain(token, TOKEN_WIDTH)), len(plain(swaps[index], TOKEN_WIDTH)) if index in swaps else 0)
        wide = round(letters * LETTER + 2 * PAD, 1)
        if x + wide > WIDE and line:
            _add_line(page, line, diverging)
            x, line = 0.0, []
        hover = f"{text} {index}<br>score {signed(score, 4)}" + (f"<br>swapped for {other}" if other else "")
        line.append((x, wide, text, other, score / most, hover))
        x += wide + GAP
    _add_line(page, line, diverging)
    page.y += BETWEEN


def _add_line(page: _Page, line: Sequence[tuple[float, float, str, str, float, str]], diverging: bool) -> None:
    if any(other for _, _, _, other, _, _ in line):
        page.y += SWAP_HIGH
    y = page.y + LINE_HIGH / 2
    for x, wide, text, other, share, hover in line:
        if diverging:
            level = effect_level(share)
            colour, ink = EFFECT[level], effect_ink(level)
        else:
            # The palest tone is that of the panel: a box should be seen.
            colour = SURE[max(1, sure_level(share))]
            ink = sure_ink(share)
        page.box(x, y, wide, colour)
        page.write(x + wide / 2, y, text, ink, SMALL, "middle center")
        page.spots.append((x + wide / 2, y, hover))
        if share < 0:
            page.line(page.under, x + 1, x + wide - 1, y + BOX_HIGH / 2)
        if other:
            page.line(page.struck, x + 2, x + wide - 2, y)
            above = y - BOX_HIGH / 2 - SWAP_HIGH / 2 + 1
            page.write(x + wide / 2, above, other, LIGHT["accent"], SMALL, "middle center")
    page.y += LINE_HIGH


def _title(row: Attribution) -> str:
    foil = f", not <b>{visible(row.foil, TITLE_WIDTH)}</b>" if row.foil else ""
    return f"<b>{safe(row.how[:30].replace('-', ' '))}</b>: why <b>{visible(row.target, TITLE_WIDTH)}</b>{foil}?"


def _told(row: Attribution, start: int, told_before: float | None) -> list[str]:
    """Probabilities and progress, and how much of the context is not shown, in lines that fit."""
    parts = [f"the last {len(row.context) - start} of {len(row.context)} words"] if start else []
    before, after = _share(row.before), _share(row.after)
    if before is not None and not (after is None and row.before == told_before):
        parts.append(f"p {before:.2f}" + ("" if after is None else f" → {after:.2f} with the struck words swapped"))
    if row.probes > 0:
        parts.append(f"probes settled {min(row.settled, row.probes)}/{row.probes}")
    if row.step > 0:
        parts.append(f"step {row.step}")
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= TOLD_WIDTH:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return lines


def _add_scores(page: _Page, found: Known) -> None:
    """The table of scores: names in the first column, the best number of each bold."""
    if not found.scores:
        return
    columns = (0, 235, 315)
    page.y += TABLE_ROW / 2
    for x, text in zip(columns, ("faithfulness of the colours", *METRICS), strict=True):
        page.write(x, page.y, f"<b>{text}</b>", LIGHT["soft"], SMALL)
    page.y += TOLD_HIGH
    page.write(0, page.y, "higher is better", LIGHT["soft"], SMALL)
    for how in [*found.scores][-MOST_SCORED:]:
        page.y += TABLE_ROW
        name = safe(how[:26].replace("-", " ")) or "–"
        page.write(0, page.y, f"{name}, by chance" if how == CHANCE else name, LIGHT["ink"])
        for x, metric in zip(columns[1:], METRICS, strict=True):
            value = found.scores[how].get(metric)
            best = max((scores[metric] for scores in found.scores.values() if metric in scores), default=None)
            text = number(value)
            page.write(x, page.y, f"<b>{text}</b>" if value is not None and value == best else text, LIGHT["ink"])
    page.y += TABLE_ROW


def _traces(page: _Page) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": xs,
            "y": ys,
            "fill": "toself",
            "fillcolor": colour,
            "line": {"color": LIGHT["line"], "width": 1},
            "hoverinfo": "skip",
        }
        for colour, (xs, ys) in page.boxes.items()
    ]
    for (xs, ys), colour, dash in ((page.under, EFFECT[0], "3px,3px"), (page.struck, LIGHT["ink"], "solid")):
        if xs:
            line = {"color": colour, "width": 1.6, "dash": dash}
            traces.append({"type": "scatter", "mode": "lines", "x": xs, "y": ys, "line": line, "hoverinfo": "skip"})
    traces += [
        {
            "type": "scatter",
            "mode": "text",
            "x": [round(x, 1) for x, _, _ in words],
            "y": [y for _, y, _ in words],
            "text": [text for _, _, text in words],
            "textposition": place,
            "textfont": text_font(colour, size=size),
            "hoverinfo": "skip",
        }
        for (colour, size, place), words in page.words.items()
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [round(x, 1) for x, _, _ in page.spots],
            "y": [y for _, y, _ in page.spots],
            "marker": {"size": BOX_HIGH, "opacity": 0},
            "customdata": [told for _, _, told in page.spots],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
    )
    return traces


def _share(p: float | None) -> float | None:
    return p if p is not None and math.isfinite(p) and 0 <= p <= 1.001 else None


def _name(how: str) -> str:
    return plain(Token(-1, how[:30].replace("-", " ") or "–"), 30).replace("␣", " ")
