"""The Schema Arena: what each engine made of the schemas, tier by tier, and what that cost.

Bars: a row per engine and tier, as long as it has schemas. Green, plain: every text was judged as the validator judges
it; dotted, only once properties stood in the schema's order. Red, hatched: the engine took the schema and did not keep
it, / where invalid texts passed, \\ where valid ones did not, x where both. Grey: refused aloud. Black: crashed, gave
up, or was too slow. The numbers stand in the bars, so nothing is said by colour alone.

Points: the median time until the first mask across, the worst percentile of mask and commit per token upwards, both on
a logarithmic scale; a point per engine and tier, a symbol and a colour per engine.

Lines, where masks were laid side by side: the place of a text, the text so far with what it goes on with, and below it
what only one engine allows there, how many tokens and some of them, and why the other does not.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Compiled, Event, Matrix, Token
from visuals.canvas import SMALL, axis, drawing, hidden_axis, label, legend, milliseconds, text_font
from visuals.palette import LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.spelling import plain, safe, visible

MOST_ROWS = 48
ROW_HIGH = 24
POINTS_HIGH = 240
TIME = "seconds per token, p99"
DIFFERENCES = "mask differences "
MOST_PLACES = 8
"""Of a text, where masks differ; first those that show something new."""
MOST_LINES = 3
"""For one of them."""
LINE_HIGH = 17
LINE_LONG = 56
"""Characters of a line."""

Look = tuple[str, str, str, str]
"""Role, or none for black; pattern; sign; name."""

CLASSES: dict[str, Look] = {
    "right": ("accepted", "", "✓", "right"),
    "order only": ("accepted", ".", "✓", "right but for order"),
    "over": ("rejected", "\\", "−", "too strict"),
    "under": ("rejected", "/", "+", "too lax"),
    "both": ("rejected", "x", "±", "both"),
    "refused": ("untested", "", "·", "refused aloud"),
    "failed": ("", "", "✕", "failed"),
    "too slow": ("", "|", "✕", "too slow"),
}
_MARKS = (
    (LIGHT["accent"], "circle"),
    (ROLES["copied"].ink, "diamond"),
    (ROLES["forced"].ink, "square"),
    (ROLES["accepted"].ink, "triangle-up"),
    (LIGHT["ink"], "cross"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """One engine in one tier."""

    engine: str
    tier: str
    verdicts: tuple[tuple[Compiled, str], ...]
    """Its schemas, each with its class."""

    def count(self) -> Counter[str]:
        return Counter(kind for _, kind in self.verdicts)

    def point(self) -> tuple[float, float] | None:
        """Median seconds until the first mask, and the largest p99 of mask and commit; of the schemas it took."""
        taken = [(event.seconds, event.sizes[TIME]) for event, _ in self.verdicts if TIME in event.sizes]
        taken = [pair for pair in taken if all(math.isfinite(value) and value > 0 for value in pair)]
        if not taken:
            return None
        return statistics.median(first for first, _ in taken), max(each for _, each in taken)


@dataclass(frozen=True, slots=True)
class Apart:
    """What one engine alone allows at one place of a text, for one reason."""

    schema: str
    place: int
    before: str
    goes_on: str
    engine: str
    count: int
    tokens: tuple[str, ...]
    """Some of them."""
    cause: str
    why: str


def apart(events: Sequence[Event]) -> list[Apart]:
    """All that was found where masks were laid side by side, in the order of the text; the commonest cause last."""
    found: list[Apart] = []
    for event in events:
        if not isinstance(event, Matrix) or not event.name.startswith(DIFFERENCES):
            continue
        schema, _, place = event.name.removeprefix(DIFFERENCES).rpartition(" ")
        if not schema or not (place.isascii() and place.isdigit()) or len(place) > 6:
            continue
        for column in reversed(range(len(event.columns))):
            cause, _, why = event.columns[column].partition(": ")
            for row, engine in enumerate(event.rows):
                count = event.values[row][column] if row < len(event.values) and column < len(event.values[row]) else 0
                if count and math.isfinite(count):
                    tokens = tuple(mark.name for mark in event.marks if (mark.row, mark.column) == (row, column))
                    found.append(
                        Apart(
                            schema,
                            int(place),
                            event.row_name,
                            event.column_name,
                            engine,
                            int(count),
                            tokens,
                            cause,
                            why,
                        )
                    )
    return found


def telling(found: Sequence[Apart]) -> list[tuple[int, list[Apart]]]:
    """The places of the last schema that are drawn: those that show something new before the others."""
    places: dict[int, list[Apart]] = {}
    for one in found:
        if one.schema == found[-1].schema:
            places.setdefault(one.place, []).append(one)
    seen: set[tuple[str, str]] = set()
    fresh: dict[int, bool] = {}
    for place, ones in places.items():
        kinds = {(one.engine, one.cause) for one in ones}
        fresh[place] = not kinds <= seen
        seen |= kinds
    chosen = sorted(places, key=lambda place: (not fresh[place], place))[:MOST_PLACES]
    return [(place, places[place]) for place in sorted(chosen)]


def relevant(events: Sequence[Event]) -> bool:
    """Whether a schema was put to the test."""
    return any(_class(event) for event in events if isinstance(event, Compiled))


def groups(events: Sequence[Event]) -> list[Group]:
    """Engine and tier, in the order in which they came; of a schema that came twice, the last verdict."""
    found: dict[tuple[str, str], dict[str, tuple[Compiled, str]]] = {}
    for event in events:
        if isinstance(event, Compiled) and (kind := _class(event)):
            tier, _, schema = event.subject.partition("/")
            found.setdefault((tier, event.engine), {})[schema] = event, kind
    return [Group(engine, tier, tuple(verdicts.values())) for (tier, engine), verdicts in found.items()]


def _class(event: Compiled) -> str:
    """What the arena called it; empty for what was compiled elsewhere."""
    kind = next(iter(event.sizes), "")
    return kind if kind in CLASSES and "/" in event.subject else ""


def table(events: Sequence[Event]) -> list[Row]:
    """One row per schema and engine; then one per engine, cause and place where masks differ."""
    return [
        {
            "tier": group.tier,
            "schema": event.subject.partition("/")[2],
            "engine": group.engine,
            "verdict": kind,
            "invalid_accepted": _size(event, "invalid accepted"),
            "valid_refused": _size(event, "valid refused"),
            "refused_for_order": _size(event, "refused for its order"),
            "mask_and_commit_differ": _size(event, "mask and commit differ"),
            "seconds_to_first_mask": event.seconds if math.isfinite(event.seconds) else None,
            "seconds_per_token_p50": _size(event, "seconds per token, p50"),
            "seconds_per_token_p99": _size(event, TIME),
            "message": event.message,
            "place": None,
            "text_so_far": None,
            "goes_on": None,
            "tokens_only_here": None,
            "some_of_them": None,
        }
        for group in groups(events)
        for event, kind in group.verdicts
    ] + [
        {
            "tier": one.schema.partition("/")[0],
            "schema": one.schema.partition("/")[2],
            "engine": one.engine.removeprefix("only "),
            "verdict": one.cause,
            "invalid_accepted": None,
            "valid_refused": None,
            "refused_for_order": None,
            "mask_and_commit_differ": None,
            "seconds_to_first_mask": None,
            "seconds_per_token_p50": None,
            "seconds_per_token_p99": None,
            "message": one.why,
            "place": one.place,
            "text_so_far": one.before,
            "goes_on": one.goes_on,
            "tokens_only_here": one.count,
            "some_of_them": " ".join(plain(Token(0, token)) for token in one.tokens),
        }
        for one in apart(events)
    ]


def _size(event: Compiled, name: str) -> float | None:
    value = event.sizes.get(name)
    return value if value is not None and math.isfinite(value) else None


def narrate(events: Sequence[Event]) -> str:
    """Engine by engine: how many right, silently wrong, refused aloud, failed."""
    by: dict[str, Counter[str]] = {}
    for group in groups(events):
        by.setdefault(group.engine, Counter()).update(group.count())
    if not by:
        return "No engine has been put to the test yet."
    sentences = []
    for engine, count in list(by.items())[:4]:
        wrong = count["under"] + count["over"] + count["both"]
        sentences.append(
            f"{_words(engine)}: of {count.total()} schemas {count['right'] + count['order only']} right"
            f" ({count['order only']} of them but for the order of properties), {wrong} taken and not kept,"
            f" {count['refused']} refused aloud, {count['failed'] + count['too slow']} failed or too slow."
        )
    worst = max(by, key=lambda engine: by[engine]["under"] + by[engine]["both"])
    if lax := by[worst]["under"] + by[worst]["both"]:
        sentences.append(f"{_words(worst)} let invalid texts pass for {lax} {'schema' if lax == 1 else 'schemas'}.")
    if found := apart(events):
        own = [one for one in found if one.schema == found[-1].schema]
        causes = Counter(f"{one.cause} ({one.engine})" for one in own)
        named = ", ".join(_words(cause) for cause, _ in causes.most_common(3))
        sentences.append(
            f"Along a text of {_words(found[-1].schema)} the masks differ at {len({one.place for one in own})} places: "
            f"{named}."
        )
    return " ".join(sentences)


def _words(text: str) -> str:
    return " ".join(text.split())[:40] or "An engine"


@picture(
    "arena",
    title="Schema arena",
    explains="Who keeps a schema (green), who takes it and does not (red), who refuses (grey) and who fails (black).",
    empty="Which engine enforces which schema, and which only says so? Run the Schema Arena to see.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("labs",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The bars; under them the points."""
    found = groups(events)[:MOST_ROWS]
    if not found:
        return None
    engines = list(dict.fromkeys(group.engine for group in found))
    points = [(group, point) for group in found if (point := group.point())]
    bars_high = ROW_HIGH * max(3, len(found))
    gap, below = 78, POINTS_HIGH if points else 0
    differing = telling(apart(events)) if apart(events) else []
    lines = [line for place, ones in differing for line in _lines(place, ones)]
    words = LINE_HIGH * len(lines)
    floor = gap + words if lines else 0
    inner = bars_high + (gap + below if points else 0) + floor
    bars_from = 1 - bars_high / inner
    longest = max(len(group.verdicts) for group in found)
    across = [span for group, point in points for span in point[:1]]
    up = [point[1] for _, point in points]
    layout: dict[str, Any] = {
        "barmode": "stack",
        "bargap": 0.25,
        "showlegend": True,
        "legend": legend(1.0, font={"size": SMALL, "color": LIGHT["soft"]}),
        "xaxis": axis("", range=[0, longest * 1.02], dtick=max(1, math.ceil(longest / 6)), anchor="y", fixedrange=True),
        "yaxis": axis(
            range=[max(3, len(found)) - 0.5, -0.5],
            domain=[bars_from, 1],
            tickvals=list(range(len(found))),
            ticktext=[f"{safe(group.engine[:18])} · {safe(group.tier[:12])} " for group in found],
            showgrid=False,
            fixedrange=True,
        ),
    }
    annotations = []
    if points:
        layout["xaxis2"] = axis("until the first mask", anchor="y2", **_decades(across))
        layout["yaxis2"] = axis("", domain=[floor / inner, (floor + below) / inner], anchor="x2", **_decades(up))
        annotations.append(label("<b>mask and commit, p99</b>", 0, (floor + below) / inner, xshift=-50, yshift=8))
    if lines:
        layout["xaxis3"] = hidden_axis(range=[0, 1], anchor="y3", fixedrange=True)
        layout["yaxis3"] = hidden_axis(
            domain=[0, words / inner], range=[len(lines) - 0.5, -0.5], anchor="x3", fixedrange=True
        )
        name = safe(apart(events)[-1].schema[:28])
        annotations.append(label(f"<b>masks side by side</b> · {name}", 0, words / inner, xshift=-50, yshift=4))
    return drawing(
        [*_bars(found), *_points(points, engines), *_written(lines)],
        height=inner + 130,
        min_width=520 if lines else 340,
        margin={"t": 84, "l": 8, "r": 14, "b": 46},
        annotations=annotations,
        **layout,
    )


Line = tuple[str, str, str]
"""Role, or none; the words; what hovering says. Harmless."""


def _lines(place: int, ones: Sequence[Apart]) -> list[Line]:
    """A place: the text so far and how it goes on; under it the first few of what only one engine allows."""
    first = ones[0]
    goes_on = visible(Token(0, first.goes_on), 12) if first.goes_on else "the end"
    before = "…" + first.before[-20:] if len(first.before) > 21 else first.before
    shown = f"{place:>3}  {safe(before)} ▸ {goes_on}" if before else f"{place:>3}  ▸ {goes_on}"
    found: list[Line] = [("", shown, f"place {place}<br>{safe(first.before[-60:])}")]
    for one in ones[:MOST_LINES]:
        head = f"     {one.engine[:20]} {one.count:,} {one.cause[:18]}: "
        tokens = [visible(Token(0, token), 10) for token in one.tokens]
        room, kept = LINE_LONG - len(head), []
        for token in tokens:
            room -= len(token) + 1
            if room < 0:
                break
            kept.append(token)
        kept += ["…"] * (one.count > len(kept))
        hover = [f"{safe(one.engine[:40])}: {one.count:,} tokens", safe(f"{one.cause}: {one.why}"[:120]), *tokens[:8]]
        found.append(("copied", safe(head) + " ".join(kept), "<br>".join(hover)))
    if len(ones) > MOST_LINES:
        more = "<br>".join(safe(f"{one.engine[:30]} {one.count:,}: {one.cause[:30]}") for one in ones[MOST_LINES:][:8])
        found.append(("", f"     and for {len(ones) - MOST_LINES} more reasons", more))
    return found


def _written(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Lines of text from the left, a trace per role."""
    traces = []
    for role in ("", "copied"):
        own = [(row, line) for row, line in enumerate(lines) if line[0] == role]
        if not own:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "text",
                "x": [0] * len(own),
                "y": [row for row, _ in own],
                "xaxis": "x3",
                "yaxis": "y3",
                "text": [words.replace(" ", "\u00a0") for _, (_, words, _) in own],
                "textposition": "middle right",
                "textfont": text_font(ROLES[role].ink if role else LIGHT["ink"], size=SMALL),
                "customdata": [hover for _, (_, _, hover) in own],
                "hovertemplate": "%{customdata}<extra></extra>",
                "showlegend": False,
                "cliponaxis": False,
            }
        )
    return traces


def _bars(found: Sequence[Group]) -> list[dict[str, Any]]:
    counts = [group.count() for group in found]
    traces = []
    for kind, (role, pattern, sign, name) in CLASSES.items():
        lengths = [count[kind] for count in counts]
        if not any(lengths):
            continue
        tint, ink, edge = (
            (ROLES[role].bg, ROLES[role].ink, ROLES[role].edge) if role else (LIGHT["ink"], LIGHT["ink"], LIGHT["soft"])
        )
        shape = {"shape": pattern, "bgcolor": tint, "fgcolor": edge, "size": 7, "solidity": 0.2}
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": f"{sign} {name}",
                "x": lengths,
                "y": list(range(len(found))),
                "marker": {
                    "color": tint,
                    "line": {"color": ink, "width": 1},
                    **({"pattern": shape} if pattern else {}),
                },
                "text": [f"{sign}{length}" if length else "" for length in lengths],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "textfont": text_font(ink if role else LIGHT["panel"], size=SMALL),
                "customdata": [_hover(group, kind) for group in found],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    return traces


def _hover(group: Group, kind: str) -> str:
    names = [event.subject.partition("/")[2] for event, own in group.verdicts if own == kind]
    shown = ", ".join(safe(name[:24]) for name in names[:8]) + (" …" if len(names) > 8 else "")
    said = next((event.message for event, own in group.verdicts if own == kind and event.message), "")
    lines = [f"{safe(group.engine[:40])}, {safe(group.tier[:24])}: {len(names)} {CLASSES[kind][3]}", shown]
    return "<br>".join(lines + ([safe(said[:100])] if said else []))


def _points(points: Sequence[tuple[Group, tuple[float, float]]], engines: Sequence[str]) -> list[dict[str, Any]]:
    traces = []
    for index, engine in enumerate(engines):
        own = [(group, point) for group, point in points if group.engine == engine]
        if not own:
            continue
        color, symbol = _MARKS[index % len(_MARKS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": safe(engine[:24]),
                "x": [first for _, (first, _) in own],
                "y": [each for _, (_, each) in own],
                "xaxis": "x2",
                "yaxis": "y2",
                "marker": {"size": 9, "symbol": symbol, "color": color, "line": {"color": LIGHT["panel"], "width": 1}},
                "cliponaxis": False,
                "customdata": [
                    f"{safe(engine[:40])}, {safe(group.tier[:24])}<br>first mask {milliseconds(first)}"
                    f"<br>per token {milliseconds(each)}"
                    for group, (first, each) in own
                ],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    return traces


def _decades(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis over the whole powers of ten around the values, a label at most six times."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    shown = range(low, high + 1, -(-(high - low) // 5))
    return {
        "type": "log",
        "range": [low, high],
        "tickvals": [float(f"1e{power}") for power in shown],
        "ticktext": [_power(power) for power in shown],
        # With its only two labels at its ends, both too wide for them, Plotly hides both and puts the title under
        # nothing at all, at -Infinity.
        "ticklabeloverflow": "allow",
    }


def _power(power: int) -> str:
    """A power of ten seconds for people."""
    if power < -6 or power > 3:
        return f"1e{power} s"
    unit, scale = ("s", 0) if power >= 0 else ("ms", 3) if power >= -3 else ("µs", 6)
    return f"{10 ** (power + scale)} {unit}"
