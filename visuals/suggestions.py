"""A static analyser beside the model: what exists behind each dot, and what the model would have written there.

Above: the code so far, with the dots at which the analyser was asked, and the members that were named there. Below: the
latest question. On the left the names on offer, each with the model's own probability of the tokens that begin it; on
the right what the model wanted instead, and how the names still possible shrink with every token.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.events import Event, Mask, Started, Suggestion, Suggestions
from visuals.canvas import NORMAL, SMALL, drawing, hidden_axis, label, milliseconds, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.reading import has, written
from visuals.spelling import quoted, safe, visible

MOST_TEXT = 40_000
COLUMNS, LINES = 72, 9
LETTER, LINE = 7.23, 19
"""Pixels of a letter of the mono type, and of a line."""
SHIFT = 3
"""Pixels by which Plotly sets a text off its point."""
SHOWN, STEPS = 8, 5
ROW = 19
LIST_NAMES, LIST_BAR = 20.0, 20.0
"""Widths of a name on offer and of the longest bar, where the panel is 100 wide."""
HALF = 50.0
OFFERED, INVENTED, UNKNOWN = ROLES["accepted"], ROLES["rejected"], ROLES["undecided"]


@dataclass(slots=True)
class Question:
    """A dot, what was offered there, and what was then written."""

    asked: Suggestions
    steps: list[Suggestions] = field(default_factory=list)
    finished: Suggestions | None = None

    @property
    def name(self) -> str:
        """What has been written of the name."""
        last = self.finished or (self.steps[-1] if self.steps else None)
        return _member(last.trigger) if last else ""

    @property
    def invented(self) -> bool:
        """Whether what was written is not on offer."""
        last = self.finished or (self.steps[-1] if self.steps else None)
        return self.known and last is not None and last.count == 0

    @property
    def known(self) -> bool:
        """Whether the analyser knew anything."""
        return self.asked.state != "nothing known"

    @property
    def outcome(self) -> str:
        """In a word or two."""
        if not self.known:
            return "nothing known"
        if self.invented:
            return "invented"
        return "offered" if self.finished else "being named"


def relevant(events: Sequence[Event]) -> bool:
    """Whether an analyser was asked."""
    return has(events, Suggestions)


def questions(events: Sequence[Event]) -> list[Question]:
    """Every dot at which the analyser was asked, in order."""
    out: list[Question] = []
    for event in events:
        if not isinstance(event, Suggestions):
            continue
        if event.state in ("asked", "nothing known") or not out:
            out.append(Question(event))
        elif event.state == "narrowed":
            out[-1].steps.append(event)
        elif out[-1].finished is None:
            out[-1].finished = event
    return out


def table(events: Sequence[Event]) -> list[Row]:
    """One row per dot."""
    rows: list[Row] = []
    for question in questions(events):
        best = question.asked.suggestions[0] if question.asked.suggestions else None
        mask = _mask(events, question.asked.position)
        rows.append(
            {
                "position": question.asked.position,
                "trigger": question.asked.trigger,
                "offered": question.asked.count,
                "likeliest": best.name if best else None,
                "likeliest_p": _share(best.p) if best and best.p is not None else None,
                "written": question.name or None,
                "outcome": question.outcome,
                "blocked_mass": _share(mask.blocked_mass) if mask else None,
                "seconds": question.asked.seconds if math.isfinite(question.asked.seconds) else None,
            }
        )
    return rows


def narrate(events: Sequence[Event]) -> str:
    """How often it was asked, what came of it, and the latest question."""
    asked = questions(events)
    if not asked:
        return "The analyser has not been asked yet: no dot has been written."
    known = [question for question in asked if question.known]
    invented = [question for question in known if question.invented]
    times = "once" if len(asked) == 1 else f"{len(asked)} times"
    knew = {len(asked): "It knew the members" + (" each time" if len(asked) > 1 else ""), 0: "It knew nothing"}
    sentences = [f"The analyser was asked {times}. {knew.get(len(known), f'It knew the members {len(known)} times')}."]
    if invented:
        names = ", ".join(f"“{_brief(question.name)}”" for question in invented[-3:])
        many = "A name that was" if len(invented) == 1 else f"{len(invented)} names that were"
        sentences.append(f"{many} not offered {'was' if len(invented) == 1 else 'were'} written all the same: {names}.")
    last = asked[-1]
    if last.known:
        names = ", ".join(f"“{_brief(one.name)}”{_in_brackets(one.p)}" for one in last.asked.suggestions[:4])
        more = f" and {last.asked.count - 4:,} more" if last.asked.count > 4 else ""
        sentences.append(f"Behind “{_brief(last.asked.trigger[-30:].strip())}” it offers {names or 'no names'}{more}.")
        mask = _mask(events, last.asked.position)
        if mask is not None and _share(mask.blocked_mass) >= 0.001:
            wanted = f", first of all {quoted(mask.wanted[0].token)}" if mask.wanted else ""
            sentences.append(f"{_percent(mask.blocked_mass)} of what the model wanted there is blocked{wanted}.")
    return " ".join(sentences)


@picture(
    "suggestions",
    title="Suggestions",
    explains="Which members exist behind each dot, how likely the model finds each, and which names it invented.",
    empty="A static analyser knows which members exist. Choose the monitor, and give it code that ends in a dot.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The code; under it the latest question: names on offer, what was wanted instead, and how the names shrank."""
    asked = questions(events)
    if not asked:
        return None
    last = asked[-1]
    mask = _mask(events, last.asked.position)
    code, lines = _code(events, asked)
    low = max(1, min(SHOWN, len(last.asked.suggestions)), 3 + min(STEPS, max(1, len(last.steps))))
    top, gap = 26, 58
    high = top + lines * LINE + gap + low * ROW + 26
    headline = _headline(last)
    code_domain = [round(1 - (top + lines * LINE) / high, 5), round(1 - top / high, 5)]
    list_domain = [round(26 / high, 5), round((26 + low * ROW) / high, 5)]
    return drawing(
        [*code, *_offers(last), *_side(last, mask)],
        height=max(150, high),
        min_width=560,
        margin={"l": 10, "r": 10, "t": 0, "b": 4},
        barmode="overlay",
        bargap=0.28,
        # One unit is one pixel on both axes, so that lines stand exactly under the letters.
        xaxis=hidden_axis(
            range=[-2, COLUMNS * LETTER],
            anchor="y",
            fixedrange=True,
            scaleanchor="y",
            scaleratio=1,
            constrain="domain",
            constraintoward="left",
        ),
        yaxis=hidden_axis(domain=code_domain, range=[lines * LINE, 0], fixedrange=True),
        xaxis2=hidden_axis(range=[0, 100], anchor="y2", fixedrange=True),
        yaxis2=hidden_axis(domain=list_domain, range=[low - 0.5, -0.5], fixedrange=True),
        annotations=[
            label("○ asked here · <b>—</b> offered · <b>╌</b> not offered", 0, 1 - (top - 5) / high),
            label(headline, 0, list_domain[1], yshift=24, font={"size": NORMAL + 1, "color": LIGHT["ink"]}),
            label("<b>on offer</b> · the model's probability", 0, list_domain[1], yshift=5),
            label("<b>what the model wanted there</b>", HALF / 100, list_domain[1], yshift=5),
        ],
    )


def _headline(question: Question) -> str:
    where = safe(question.asked.trigger[-28:].strip())
    took = milliseconds(max(0.0, question.asked.seconds)) if math.isfinite(question.asked.seconds) else "–"
    if not question.known:
        return f"Behind <b>{where}</b> nothing is known ({took}): any name may follow"
    count = "1 name exists" if question.asked.count == 1 else f"{max(0, question.asked.count):,} names exist"
    return f"Behind <b>{where}</b> {count} ({took})"


def _code(events: Sequence[Event], asked: Sequence[Question]) -> tuple[list[dict[str, Any]], int]:
    """The last lines of the code, as texts, rings around dots, and lines under names; and how many lines these are."""
    prompt = next((event.prompt for event in events if isinstance(event, Started)), "")[-MOST_TEXT:]
    text, begins = prompt, dict[int, int]()
    for position, placed in sorted(written(events).items()):
        begins[position] = len(text)
        text += placed.token.text or ("\ufffd" if placed.token.hex else "")
    rows = _rows(text)
    first = rows[0][0]
    marks: list[tuple[int, int, Question]] = []
    for question in asked:
        dot = _dot(text, begins.get(question.asked.position, len(text)), question.asked.trigger)
        if dot is not None and dot >= first:
            end = dot + 1 + len(re.match(r"\w*", text[dot + 1 :]).group())  # type: ignore[union-attr]
            marks.append((dot, end, question))
    cuts = sorted({len(prompt), *(place for dot, end, _ in marks for place in (dot, dot + 1, end))})
    texts: list[tuple[float, float, str, str]] = []
    rings: list[tuple[float, float, str]] = []
    under: dict[str, tuple[list[float | None], list[float | None]]] = {}
    spans = [(dot + 1, end, question) for dot, end, question in marks]
    for row, (begin, line) in enumerate(rows):
        y = (row + 0.5) * LINE
        column, place = 0, begin
        edges = [cut for cut in cuts if begin < cut < begin + len(line)]
        for stop in [*edges, begin + len(line)]:
            piece = line[place - begin : stop - begin]
            shown = piece.strip(" \n")
            indent = len(piece) - len(piece.lstrip(" \n"))
            x, wide = (column + indent) * LETTER, _width(shown) * LETTER
            named = next((q for start, end, q in spans if start <= place < end), None)
            ring = next((q for dot, _, q in marks if dot == place and stop == dot + 1), None)
            ink = LIGHT["soft"] if place < len(prompt) else LIGHT["ink"]
            if named is not None and shown:
                role = _role(named)
                ink = ROLES[role].ink
                xs, ys = under.setdefault(role, ([], []))
                xs += [x + SHIFT, x + wide + SHIFT, None]
                ys += [y + 8, y + 8, None]
            if ring is not None:
                rings.append((x + LETTER / 2 + SHIFT, y + 3, f"{safe(ring.asked.trigger[-24:])} · {ring.outcome}"))
            if shown:
                texts.append((x, y, safe(shown), ink))
            column, place = column + _width(piece), stop
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [None if x is None else round(x, 1) for x in xs],
            "y": ys,
            "line": {
                "color": ROLES[role].ink,
                "width": 3 if role == INVENTED.name else 2,
                "dash": {INVENTED.name: "3px,3px", UNKNOWN.name: "1px,3px"}.get(role, "solid"),
            },
            "hoverinfo": "skip",
        }
        for role, (xs, ys) in under.items()
    ]
    return [*lines, _texts(texts, "x", "y"), *([_rings(rings)] if rings else [])], len(rows)


def _rows(text: str) -> list[tuple[int, str]]:
    """The last lines with where they begin, long ones in pieces."""
    rows: list[tuple[int, str]] = []
    place = 0
    for line in text.split("\n"):
        for start in range(0, max(1, len(line)), COLUMNS):
            rows.append((place + start, line[start : start + COLUMNS]))
        place += len(line) + 1
    while len(rows) > 1 and not rows[-1][1].strip():
        rows.pop()
    return rows[-LINES:]


def _dot(text: str, stop: int, trigger: str) -> int | None:
    """Where the dot of a question stands in the text; it stands before `stop`, and ends `trigger`."""
    tail = trigger[-24:]
    found = text.rfind(tail, 0, stop) if tail.endswith(".") else -1
    place = found + len(tail) - 1 if found >= 0 else text.rfind(".", 0, stop)
    return place if place >= 0 else None


def _role(question: Question) -> str:
    return UNKNOWN.name if not question.known else INVENTED.name if question.invented else OFFERED.name


def _rings(rings: Sequence[tuple[float, float, str]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [round(x, 1) for x, _, _ in rings],
        "y": [y for _, y, _ in rings],
        "marker": {"size": 11, "symbol": "circle-open", "color": LIGHT["accent"], "line": {"width": 2}},
        "customdata": [told for *_, told in rings],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _offers(question: Question) -> list[dict[str, Any]]:
    """The names on offer, likeliest first, as bars; what was written of them in bold."""
    offers = question.asked.suggestions[:SHOWN]
    longest = max([_share(one.p) for one in offers] + [0.02])
    bars: list[tuple[float, float, int, str]] = []
    names: list[tuple[float, float, str, str]] = []
    numbers: list[tuple[float, float, str, str]] = []
    for row, one in enumerate(offers):
        chosen = bool(question.name) and one.name == question.name
        name = _cut(one.name, 20)
        names.append((0.0, row, f"<b>{name}</b>" if chosen else name, OFFERED.ink if chosen else LIGHT["ink"]))
        bars.append(
            (LIST_NAMES + 1.5, LIST_BAR * _share(one.p) / longest, row, f"{_cut(one.name, 40)} {_in_brackets(one.p)}")
        )
        if one.p is not None:
            x = LIST_NAMES + 2.3 + LIST_BAR * _share(one.p) / longest
            numbers.append((x, row, _percent(one.p).replace("under ", "&lt;"), LIGHT["soft"]))
    if question.asked.count > len(offers):
        names.append((0.0, len(offers) - 0.1, f"and {question.asked.count - len(offers):,} more", LIGHT["soft"]))
    if not offers:
        names.append((0.0, 0, "nothing", LIGHT["soft"]))
    return [_bars(bars, LIGHT["accent"], LIGHT["accent"], ""), _texts(names, "x2", "y2"), _texts(numbers, "x2", "y2")]


def _side(question: Question, mask: Mask | None) -> list[dict[str, Any]]:
    """Blocked mass, the likeliest blocked tokens, and the names left after every token."""
    texts: list[tuple[float, float, str, str]] = []
    bars = []
    if mask is None or _share(mask.blocked_mass) < 0.001:
        texts.append((HALF, 0, "nothing is masked", LIGHT["soft"]))
    else:
        share = _share(mask.blocked_mass)
        bars.append((HALF + 0.5, 22 * share, 0, f"{_percent(share)} of what the model wanted is blocked"))
        texts.append(
            (HALF + 1.5 + 22 * share, 0, f"{_percent(share)} blocked", INVENTED.ink if share else LIGHT["soft"])
        )
        wanted = " ".join(visible(choice.token, 10) for choice in mask.wanted[:3])
        if wanted:
            texts.append((HALF, 1, f"{INVENTED.mark} {wanted}", INVENTED.ink))
    steps = question.steps[-STEPS:]
    texts.append((HALF, 2, "<b>names left, token by token</b>", LIGHT["soft"]))
    if not steps:
        texts.append((HALF, 3, "nothing written yet" if question.known else "no names to narrow", LIGHT["soft"]))
    for row, step in enumerate(steps, 3):
        names = " ".join(f"{_cut(_member(step.trigger), 12)}·{_rest(one)}" for one in step.suggestions[:2])
        more = f" and {step.count - 2:,} more" if step.count > 2 else ""
        told = (
            f"{names}{more}" if step.count > 0 else f"{INVENTED.mark} {_cut(_member(step.trigger), 20)} is not offered"
        )
        ink = LIGHT["ink"] if step.count > 0 else INVENTED.ink
        texts.append((HALF, row, f"{max(0, step.count):,}: {told}", ink))
    return [_bars(bars, INVENTED.bg, INVENTED.edge, "/"), _texts(texts, "x2", "y2")]


def _rest(one: Suggestion) -> str:
    return _cut(one.rest, 12) if one.rest else "end"


def _bars(bars: Sequence[tuple[float, float, int, str]], fill: str, edge: str, pattern: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "xaxis": "x2",
        "yaxis": "y2",
        "base": [base for base, *_ in bars],
        "x": [round(size, 2) for _, size, *_ in bars],
        "y": [row for _, _, row, _ in bars],
        "customdata": [told for *_, told in bars],
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {
            "color": fill,
            "line": {"color": edge, "width": 1},
            "pattern": {"shape": pattern, "fgcolor": edge, "size": 6, "solidity": 0.25},
        },
    }


def _texts(texts: Iterable[tuple[float, float, str, str]], xaxis: str, yaxis: str) -> dict[str, Any]:
    texts = list(texts)
    return {
        "type": "scatter",
        "mode": "text",
        "xaxis": xaxis,
        "yaxis": yaxis,
        "x": [round(x, 1) for x, *_ in texts],
        "y": [y for _, y, *_ in texts],
        "text": [text for _, _, text, _ in texts],
        "textposition": "middle right",
        "textfont": text_font([ink for *_, ink in texts], size=NORMAL if xaxis == "x" else SMALL),
        "cliponaxis": False,
        "hoverinfo": "skip",
    }


def _mask(events: Sequence[Event], position: int) -> Mask | None:
    return next((event for event in reversed(events) if isinstance(event, Mask) and event.position == position), None)


def _member(trigger: str) -> str:
    return trigger.rpartition(".")[2]


def _width(text: str) -> int:
    """Columns of the mono type."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _cut(text: str, width: int) -> str:
    return safe(text if len(text) <= width else text[: width - 1] + "…")


def _brief(text: str) -> str:
    """A name in a sentence, which is not escaped: one line, at most 40 characters."""
    shown = "".join(char if char.isprintable() else "·" for char in text[:41])
    return shown if len(shown) <= 40 else shown[:39] + "…"


def _share(p: float | None) -> float:
    return min(1.0, max(0.0, p)) if p is not None and math.isfinite(p) else 0.0


def _percent(p: float | None) -> str:
    p = _share(p)
    if p in (0, 1) or 0.1 <= p <= 0.995:
        return f"{p:.0%}"
    return "under 0.1%" if p < 0.001 else f"{p:.1%}" if p < 0.1 else "over 99%"


def _in_brackets(p: float | None) -> str:
    return "" if p is None else f" ({_percent(p)})"
