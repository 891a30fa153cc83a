"""What the Compare page shows of a race: its lanes while it runs, its results, and its pictures."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from engines.errors import DecodingError
from engines.events import Commit, Curve, Event
from engines.method import Method
from playground.comparison import Comparison, Entry, Runs, lighter
from playground.kept_comparisons import KeptComparison
from playground.standings import standings
from playground.ui.live import encode, plot_value
from playground.ui.shelf import Shelf
from visuals.palette import ROLE_OF_ORIGIN, ROLES
from visuals.picture import Picture
from visuals.versus import VERSUS
from visuals.versus.lanes import AXES, LETTERS, Lane, lanes, median_round

IN_MEMORY = 16
"""Comparisons whose events are at hand for their pictures; the oldest goes first."""
FASTER = (1, 2, 4, 10, 100)
"""How many times cheaper a draft can be thought."""

Options = tuple[str, float]
"""What progress is measured against, and how many times cheaper a draft is thought."""
USUAL: Options = ("target", 1.0)


@dataclass
class Contest:
    """A comparison with its runs, under way or over."""

    runs: Runs
    curve: Curve | None = None
    kept: bool = False
    missing: int = 0
    """Runs that were deleted since."""
    lanes: list[Lane] = field(default_factory=list)

    @property
    def comparison(self) -> Comparison:
        """What is compared."""
        return self.runs.comparison

    def settle(self) -> Contest:
        """Takes the runs as they are for the pictures."""
        self.lanes = lanes(self.runs.streams)
        return self


class Contests:
    """Comparisons by id: those of this server's memory, and those in the store by way of `put`."""

    def __init__(self) -> None:
        self._contests: OrderedDict[str, Contest] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, contest: Contest) -> None:
        """Keeps a contest at hand."""
        with self._lock:
            self._contests[contest.comparison.id] = contest
            self._contests.move_to_end(contest.comparison.id)
            while len(self._contests) > IN_MEMORY:
                self._contests.popitem(last=False)

    def get(self, id: str) -> Contest | None:
        """The contest called `id`, if it is at hand."""
        with self._lock:
            return self._contests.get(id)


def reread(kept: KeptComparison, shelf: Shelf) -> Contest:
    """A comparison with the events of its runs, as far as they are still there."""
    runs = Runs(kept.comparison)
    missing = 0
    for place, ids in enumerate(kept.runs[: len(kept.comparison.contestants)]):
        for round, id in enumerate(ids):
            try:
                events = list(shelf.store.events(id))
            except DecodingError:
                events, missing = [], missing + 1
            runs.entries[place].append(Entry(place, round, events if not round else lighter(events), id))
    return Contest(runs, kept.curve, kept=True, missing=missing).settle()


class Lanes:
    """The texts of all lanes as JSON per token, brought up to date as the runs grow."""

    def __init__(self, count: int) -> None:
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._read = [0] * count

    def live(self, contest: Contest, entry: Entry, methods: Mapping[str, Method]) -> dict[str, Any]:
        """The value of a `Race` under way."""
        if entry.round == 0:  # the later rounds write the same
            place = entry.contestant
            self._texts[place] += _tokens(entry.events[self._read[place] :])
            self._read[place] = len(entry.events)
        comparison = contest.comparison
        head = {
            "id": comparison.id,
            "live": True,
            "round": entry.round,
            "rounds": comparison.rounds,
            "running": entry.contestant,
            "written": sum(len(event.tokens) for event in entry.events if isinstance(event, Commit)),
            "lanes": _headers(comparison, methods),
        }
        return _value(head, self._texts)


def result(contest: Contest, methods: Mapping[str, Method]) -> dict[str, Any]:
    """The value of a `Race` that is over."""
    comparison, runs = contest.comparison, contest.runs
    shown = median_round(contest.lanes)
    found = standings([streams for _, streams in runs.streams])
    heads = _headers(comparison, methods)
    for place, (head, standing) in enumerate(zip(heads, found, strict=True)):
        ids = runs.ids[place]
        head["standing"] = msgspec.to_builtins(standing)
        head["run"] = ids[min(shown, len(ids) - 1)] if ids else ""
    setup = comparison.contestants[0].setup
    head = {
        "id": comparison.id,
        "live": False,
        "kept": contest.kept,
        "missing": contest.missing,
        "prompt": setup.prompt[:400],
        "seed": setup.seed,
        "rounds": comparison.rounds,
        "whole": runs.whole_rounds,
        "round": shown,
        "lanes": heads,
        "legend": _legend(contest.lanes, shown),
    }
    return _value(head, [_tokens(lane.stream(shown)) for lane in contest.lanes])


def nothing() -> dict[str, Any]:
    """The value of a `Race` before the first."""
    return _value({}, [])


def pictures(contest: Contest | None, chosen: Options = USUAL) -> list[str]:
    """The values of the `LivePlot`s, in the order of `VERSUS`, as the switch and the slider stand."""
    return [_plot(one, contest, *chosen) for one in VERSUS.values()]


def options(clock: str, cheaper: str) -> Options:
    """The options as a browser says them; the usual ones for anything unknown."""
    return (
        clock if clock in AXES else USUAL[0],
        next((float(one) for one in FASTER if str(one) == cheaper), USUAL[1]),
    )


def _plot(picture: Picture, contest: Contest | None, clock: str, cheaper: float) -> str:
    run = contest.comparison.id if contest else ""
    chosen: dict[str, Any] = {"versus-progress": {"clock": clock}}.get(picture.id, {})
    if picture.id == "versus-theory" and contest:
        chosen = {"cheaper": cheaper, "curve": contest.curve}
    figure = picture.draw(contest.lanes, **chosen) if contest else None
    # Another clock is another picture: a zoom into seconds means nothing in passes.
    return plot_value(picture, figure, run=f"{run} {clock}" if "clock" in chosen else run, step=-1, order=0)


def _headers(comparison: Comparison, methods: Mapping[str, Method]) -> list[dict[str, Any]]:
    return [
        {
            "letter": LETTERS[place],
            "title": one.title,
            "lossless": (method := methods.get(one.setup.method)) is not None and method.lossless,
            "wanted": one.setup.max_new_tokens,
        }
        for place, one in enumerate(comparison.contestants)
    ]


def _tokens(events: Sequence[Event]) -> list[str]:
    return [
        encode(
            {
                "id": placed.token.id,
                "text": placed.token.text,
                "hex": placed.token.hex,
                "role": ROLE_OF_ORIGIN[placed.origin],
                "at": round(event.time, 4),
            }
        )
        for event in events
        if isinstance(event, Commit)
        for placed in event.tokens
    ]


def _legend(all_lanes: Sequence[Lane], shown: int) -> list[dict[str, str]]:
    there = {
        ROLE_OF_ORIGIN[placed.origin]
        for lane in all_lanes
        for event in lane.stream(shown)
        if isinstance(event, Commit)
        for placed in event.tokens
    }
    return [
        {"role": role.name, "label": role.label, "mark": role.mark} for role in ROLES.values() if role.name in there
    ]


def _value(head: dict[str, Any], texts: Sequence[list[str]]) -> dict[str, Any]:
    return {"head": encode(head), **{f"lane{place}": list(tokens) for place, tokens in enumerate(texts)}}
