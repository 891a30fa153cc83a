"""Who worked when: a lane for the model, a lane for the draft, and a bar for every forward pass.

A draft pass is filled when the guess that came of it was accepted, and hatched when its work was for nothing. Where a
method lets the two take turns, each lane is empty while the other works. Where they work at the same time the bars
overlap, and a row above says what each round was; if one worker did both, a second pair of lanes places the same
passes on a virtual clock, on which each model has a machine of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.events import Commit, Draft, Event, Finished, Forward, Verdict
from visuals.canvas import SMALL, axis, drawing, legend, milliseconds
from visuals.palette import LIGHT, ROLES, SURE
from visuals.picture import Drawing, Row, picture
from visuals.reading import depths

WINDOW = 3.0
"""Seconds that are shown, the last ones: in a whole run the bars would be hair-thin."""
MOST_BARS = 120
ROOM = 0.1
"""The share of the picture that a round must have for its name to fit, on a phone too."""
TOUCHING = 1e-6
"""Seconds by which a pass may seem to begin before the last one ended."""
LATEST = 1e9
"""No run takes longer; a recording from elsewhere may claim so."""
MODES = {"pre-verify": "pre", "post-verify": "post"}
"""The templates of drafts that are written while the model works, and the short names of their rounds."""
_ROWS = {"prompt": 1, "target": 1, "backward": 1, "draft": 2}
"""The model's lane and the draft's; row 0 is for the rounds. Gradients flow back through the model."""
_HATCHED = {"shape": "/", "fgcolor": ROLES["rejected"].ink, "size": 5, "solidity": 0.35}
_WAITING = {"shape": "x", "fgcolor": LIGHT["line"], "size": 6, "solidity": 0.2}
_DOTTED = {"shape": ".", "fgcolor": ROLES["undecided"].edge, "size": 5, "solidity": 0.3}
FATES: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt": ("prompt", {"color": SURE[4], "line": {"color": LIGHT["accent"], "width": 1}}),
    "target": ("model", {"color": LIGHT["accent"], "line": {"color": LIGHT["panel"], "width": 1}}),
    "backward": (
        "backward passes",
        {
            "color": ROLES["forced"].bg,
            "line": {"color": ROLES["forced"].ink, "width": 1},
            "pattern": {"shape": "\\", "fgcolor": ROLES["forced"].edge, "size": 5, "solidity": 0.3},
        },
    ),
    "reading": (
        "draft reads",
        {"color": ROLES["given"].bg, "line": {"color": ROLES["given"].edge, "width": 1}},
    ),
    # An outline in its own colour: one in the panel's would hide a bar that is two pixels wide.
    "accepted": ("draft ✓", {"color": ROLES["accepted"].ink, "line": {"color": ROLES["accepted"].ink, "width": 1}}),
    "wasted": (
        "draft ✕",
        {
            "color": ROLES["rejected"].bg,
            "line": {"color": ROLES["rejected"].ink, "width": 1},
            "pattern": _HATCHED,
        },
    ),
    "open": (
        "draft ?",
        {
            "color": ROLES["undecided"].bg,
            "line": {"color": ROLES["undecided"].edge, "width": 1},
            "pattern": _DOTTED,
        },
    ),
}
"""What a pass was good for: its name in the legend, and how its bar is filled."""


@dataclass(slots=True)
class Bar:
    """A forward pass on the clock."""

    event: Forward
    begin: float
    fate: str
    place: int | None = None
    """Position of the guess that came of a draft pass."""
    mode: str = ""
    virtual: float | None = None
    """When it begins on the virtual clock."""

    @property
    def end(self) -> float:
        return self.begin + self.event.seconds


def _worker(bar: Bar) -> str:
    """Who did it: the draft, or the target, which gradients flow back through as well."""
    return "draft" if bar.event.lane == "draft" else "target"


@dataclass(slots=True)
class Round:
    """The passes until something was committed."""

    bars: list[Bar] = field(default_factory=list)
    mode: str = ""
    gained: int = 0

    def of(self, lane: str) -> list[Bar]:
        return [bar for bar in self.bars if _worker(bar) == lane]

    def spent(self, lane: str) -> float:
        return sum(bar.event.seconds for bar in self.of(lane))

    @property
    def begin(self) -> float:
        return min(bar.begin for bar in self.bars)

    @property
    def end(self) -> float:
        return max(bar.end for bar in self.bars)

    @property
    def together(self) -> bool:
        """Whether passes of both lanes overlap."""
        return any(
            max(one.begin, other.begin) < min(one.end, other.end) - TOUCHING
            for one in self.of("target")
            for other in self.of("draft")
        )


@dataclass(slots=True)
class Timeline:
    """All passes, and the rounds they belong to."""

    bars: list[Bar]
    rounds: list[Round]

    @property
    def parallel(self) -> list[Round]:
        """The rounds in which the draft writes while the model works, if only by the method's idea."""
        return [turn for turn in self.rounds if turn.mode]

    @property
    def virtual(self) -> bool:
        """Whether the lanes could have overlapped, but one worker did both."""
        return bool(self.parallel) and not any(turn.together for turn in self.parallel)


def relevant(events: Sequence[Event]) -> bool:
    """Whether a draft model worked beside the target."""
    lanes = {event.lane for event in events if isinstance(event, Forward)}
    return {"target", "draft"} <= lanes


def timeline(events: Sequence[Event]) -> Timeline:
    """Every pass with its place on the clock and what became of it.

    A chain takes a pass per guess, a tree a pass per level: the last passes before a draft made its last levels, and
    those before them read text. Drafts written ahead are judged by the verdict on the next draft, so guesses are
    known by their position.
    """
    bars: list[Bar] = []
    rounds: list[Round] = []
    turn = Round()
    unclaimed: list[Bar] = []
    waiting: dict[int, list[Bar]] = {}
    draft: Draft | None = None
    deep: dict[int, int] = {}
    for event in events:
        if isinstance(event, Forward):
            # Recordings made before passes said when they began say when they were reported.
            begin = event.began or event.time - event.seconds
            bar = Bar(event, min(max(0.0, begin), LATEST), "open" if event.lane == "draft" else event.lane)
            bars.append(bar)
            if event.lane != "prompt":
                turn.bars.append(bar)
            if event.lane == "draft":
                unclaimed.append(bar)
        elif isinstance(event, Draft):
            draft, deep = event, depths(event)
            turn.mode = MODES.get(event.template, "")
            first = max(deep.values(), default=0) - len(unclaimed) + 1
            for depth, bar in enumerate(unclaimed, first):
                if depth < 1:
                    bar.fate = "reading"
                else:
                    bar.place = event.position + depth - 1
                    waiting.setdefault(bar.place, []).append(bar)
            unclaimed = []
        elif isinstance(event, Verdict) and draft is not None:
            right: dict[int, bool] = {}
            for node in event.nodes:
                place = draft.position + deep.get(node.id, 0) - 1
                right[place] = right.get(place, False) or node.outcome == "accepted"
            for place, hit in right.items():
                for bar in waiting.pop(place, []):
                    bar.fate = "accepted" if hit else "wasted"
        elif isinstance(event, Commit) and turn.bars:
            turn.gained = len(event.tokens)
            for bar in turn.bars:
                bar.mode = turn.mode
            rounds.append(turn)
            turn = Round()
        elif isinstance(event, Finished):
            for bar in bars:
                bar.fate = "wasted" if bar.fate == "open" else bar.fate
    found = Timeline(bars, rounds)
    if found.virtual:
        _place(found)
    return found


def _place(found: Timeline) -> None:
    """Puts the rounds on the virtual clock: both lanes begin together, the longer one ends the round."""
    now = 0.0
    for turn in found.rounds:
        for lane in ("target", "draft"):
            begin = now
            for bar in turn.of(lane):
                bar.virtual = begin
                begin += bar.event.seconds
        now += max(turn.spent("target"), turn.spent("draft"))


def clocks(rounds: Sequence[Round]) -> tuple[float, float, float]:
    """Seconds of these rounds: as run, with all passes one after the other, and on the virtual clock."""
    return (
        sum(turn.end - turn.begin for turn in rounds),
        sum(turn.spent("target") + turn.spent("draft") for turn in rounds),
        sum(max(turn.spent("target"), turn.spent("draft")) for turn in rounds),
    )


def table(events: Sequence[Event]) -> list[Row]:
    """One row per pass."""
    if not relevant(events):
        return []
    return [
        {
            "pass": index,
            "lane": bar.event.lane,
            "began": bar.begin,
            "seconds": bar.event.seconds,
            "query": bar.event.query,
            "cached": bar.event.cached,
            "outcome": bar.fate,
            "position": bar.place,
            "round": bar.mode,
            "began_on_virtual_clock": bar.virtual,
        }
        for index, bar in enumerate(timeline(events).bars, 1)
    ]


def narrate(events: Sequence[Event]) -> str:
    """How busy each lane was, how much drafting was for nothing, and the clocks where there are several."""
    if not relevant(events):
        return "No draft model has worked beside the model yet."
    found = timeline(events)
    work = [bar for bar in found.bars if bar.event.lane != "prompt"]
    begin, end = min(bar.begin for bar in work), max(bar.end for bar in work)
    span = end - begin
    sentences = []
    if span > 0:
        busy = {"target": 0.0, "draft": 0.0}
        for bar in work:
            busy[_worker(bar)] += bar.event.seconds
        sentences.append(
            f"In {milliseconds(span)} of decoding the model was at work for {min(1, busy['target'] / span):.0%} of the"
            f" time, the draft for {min(1, busy['draft'] / span):.0%}."
        )
    back = [bar.event.seconds for bar in work if bar.event.lane == "backward"]
    if back:
        noun = "backward pass" if len(back) == 1 else "backward passes"
        sentences.append(f"The model's work includes {milliseconds(sum(back))} in {len(back)} {noun}.")
    fates = [bar.fate for bar in work]
    right, vain = fates.count("accepted"), fates.count("wasted")
    drafted = right + vain + fates.count("open")
    sentences.append(f"Of {drafted} draft passes {right} led to an accepted guess, {vain} were for nothing.")
    if rounds := found.parallel:
        modes = [turn.mode for turn in rounds]
        sentences.append(
            f"{modes.count('pre')} rounds were pre-verify and {modes.count('post')} post-verify; the longest stretch"
            f" without a break gave {_longest(rounds)} tokens."
        )
        measured, serial, virtual = (milliseconds(seconds) for seconds in clocks(rounds))
        timed = "" if found.virtual else ", timed while they shared the machine,"
        sentences.append(
            f"The rounds took {measured} as they were run; their passes{timed} add up to {serial}, and to {virtual} on"
            " the virtual clock, where each model has a machine of its own."
        )
    elif not any(turn.together for turn in found.rounds):
        sentences.append("They took turns: while one works, the other waits.")
    return " ".join(sentences)


def _longest(rounds: Sequence[Round]) -> int:
    """Tokens of the longest stretch from a pre-verify round to the next: the draft length that came about."""
    best = now = 0
    for turn in rounds:
        now = turn.gained + (now if turn.mode == "post" else 0)
        best = max(best, now)
    return best


@picture(
    "timeline",
    title="Timeline",
    explains="Who worked when. Filled draft passes led to accepted guesses, hatched ones were for nothing.",
    empty="A draft model and the model it guesses for can take turns, or work at the same time. Try PEARL.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("speculative",),
)
def draw(events: Sequence[Event]) -> Drawing | None:
    """The last seconds: the lanes as they were run and, where it differs, on the virtual clock."""
    if not relevant(events):
        return None
    found = timeline(events)
    end = max(bar.end for bar in found.bars)
    start = max(0.0, end - WINDOW, found.bars[-MOST_BARS].begin if len(found.bars) > MOST_BARS else 0.0)
    seen = [bar for bar in found.bars if bar.end > start]
    rounds = [turn for turn in found.parallel if turn.end > start]
    wide = max(end - start, 1e-6)
    traces = [_bars(fate, seen) for fate in FATES]
    rows = {1: "model", 2: "draft"}
    if rounds:
        rows[0] = "round"
        traces += [_rounds(mode, rounds, start, end) for mode in ("pre", "post")]
    span = "decode time" if start <= 0 else "decode time, the last ones"
    layout: dict[str, Any] = {
        "xaxis": axis(f"seconds of {span}", range=[start, end], showgrid=False, anchor="y", nticks=6),
        "yaxis": _lanes(rows, anchor="x"),
    }
    height = 184 + (30 if rounds else 0)
    placed = [bar for bar in seen if bar.virtual is not None]
    if found.virtual and placed:
        first = min(bar.virtual or 0.0 for bar in placed)
        traces += [_bars(fate, placed, virtual=True) for fate in FATES]
        layout["xaxis2"] = axis(
            "virtual seconds: a machine for each model",
            range=[first, first + wide],
            showgrid=False,
            anchor="y2",
            nticks=6,
        )
        layout["yaxis2"] = _lanes({1: "model", 2: "draft"}, anchor="x2", domain=[0, 0.3])
        layout["yaxis"]["domain"] = [0.56, 1]
        height += 150
    return drawing(
        [trace for trace in traces if trace["x"]],
        height=height,
        min_width=340,
        margin={"t": 58, "l": 44, "r": 12, "b": 40},
        dragmode="pan",
        barmode="overlay",
        showlegend=True,
        legend=legend(1.04),
        **layout,
    )


def _lanes(rows: dict[int, str], **more: Any) -> dict[str, Any]:
    """A vertical axis that names the lanes, top to bottom; the line through each is bare where nobody worked."""
    return axis(
        "",
        tickvals=sorted(rows),
        ticktext=[rows[row] for row in sorted(rows)],
        range=[2.55, min(rows) - 0.55],
        fixedrange=True,
        **more,
    )


def _bars(fate: str, bars: Sequence[Bar], virtual: bool = False) -> dict[str, Any]:
    mine = [bar for bar in bars if bar.fate == fate]
    name, fill = FATES[fate]
    panel = "2" if virtual else ""
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "legendgroup": fate,
        "showlegend": not virtual,
        "xaxis": f"x{panel}",
        "yaxis": f"y{panel}",
        "base": [round((bar.virtual or 0.0) if virtual else bar.begin, 6) for bar in mine],
        "x": [round(bar.event.seconds, 6) for bar in mine],
        "y": [_ROWS[bar.event.lane] for bar in mine],
        "width": 0.72,
        "marker": fill,
        "customdata": [_hover(bar, name) for bar in mine],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _hover(bar: Bar, name: str) -> str:
    event = bar.event
    tokens = f"{event.query} token{'' if event.query == 1 else 's'}"
    guess = "" if bar.place is None else f"<br>its guess is for position {bar.place}"
    return f"{name}<br>{milliseconds(event.seconds)} from {bar.begin:.3f} s, {tokens} behind {event.cached}{guess}"


def _rounds(mode: str, rounds: Sequence[Round], start: float, end: float) -> dict[str, Any]:
    """The rounds from `start` to `end`, named where there is room."""
    mine = [turn for turn in rounds if turn.mode == mode]
    seconds = [turn.end - max(turn.begin, start) for turn in mine]
    role = ROLES["bonus" if mode == "post" else "undecided"]
    return {
        "type": "bar",
        "orientation": "h",
        "name": f"{mode}-verify round",
        "xaxis": "x",
        "yaxis": "y",
        "base": [max(turn.begin, start) for turn in mine],
        "x": seconds,
        "y": [0] * len(mine),
        "width": 0.6,
        "text": [mode if shown >= ROOM * (end - start) else "" for shown in seconds],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "insidetextfont": {"size": SMALL, "color": role.ink},
        "marker": {
            "color": role.bg,
            "line": {"color": role.edge, "width": 1},
            "pattern": _WAITING if mode == "pre" else {},
        },
        "customdata": [f"{mode}-verify, {milliseconds(turn.end - turn.begin)}, {turn.gained} tokens" for turn in mine],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
