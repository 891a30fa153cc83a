"""Two to four contestants on one prompt and seed, in alternating rounds, so that machine noise hits all alike.

    for progress in race(comparison, start):
        ...        # after every event: which contestant, which round, its events so far

Every run is an ordinary one, begun by `start` and closed here: breaking off after any step stops the run under way and
begins no other. What the runs say about each other is in `playground.standings`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import msgspec

from engines.errors import BadParameter
from engines.events import Commit, Curve, Draft, Event, Finished, Forward, Started, Verdict
from engines.method import find
from playground.rounds import alternating
from playground.setup import Setup

FEWEST, MOST = 2, 4
"""Contestants."""
MOST_ROUNDS = 9

Start = Callable[[Setup, str], Iterator[Event]]
"""Begins a run under a name. What it returns may have a `run_id` and a `close`."""

KEPT = (Started, Forward, Draft, Verdict, Commit, Curve, Finished)
"""What pictures of several runs need; the rest of all rounds but the first is left to the database."""


class Contestant(msgspec.Struct, frozen=True):
    """A way to decode, with the title that it goes by."""

    title: str
    setup: Setup

    @classmethod
    def of(cls, setup: Setup) -> Contestant:
        """Titled by its method and by what was chosen for it. Raises `UnknownMethod` or `BadParameter`."""
        method = find(setup.method)
        chosen = msgspec.to_builtins(method.validate(setup.params))
        usual = {setting.name: setting.default for setting in method.settings()}
        said = [
            f"{name.replace('_', ' ')} {'on' if value is True else 'off' if value is False else value}"
            for name, value in chosen.items()
            if value != usual[name]
        ]
        return cls(f"{method.title} ({', '.join(said)})" if said else method.title, setup)


class Comparison(msgspec.Struct, frozen=True):
    """What is compared. The first contestant is the baseline. Raises `BadParameter` when it would not be fair."""

    id: str
    contestants: tuple[Contestant, ...]
    rounds: int = 3

    def __post_init__(self) -> None:
        if not FEWEST <= len(self.contestants) <= MOST:
            raise BadParameter(f"Compare {FEWEST} to {MOST} contestants, not {len(self.contestants)}.")
        if isinstance(self.rounds, bool) or not 1 <= self.rounds <= MOST_ROUNDS:
            raise BadParameter(f"Compare in 1 to {MOST_ROUNDS} rounds, not {str(self.rounds)[:20]}.")
        first = self.contestants[0].setup
        for other in self.contestants[1:]:
            if (other.setup.prompt, other.setup.seed) != (first.prompt, first.seed):
                raise BadParameter("All contestants of a comparison decode the same prompt with the same seed.")


@dataclass(slots=True)
class Entry:
    """One contestant's run in one round."""

    contestant: int
    round: int
    events: list[Event] = field(default_factory=list)
    run_id: str | None = None

    @property
    def whole(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self.events) and isinstance(self.events[-1], Finished)


def race(comparison: Comparison, start: Start) -> Generator[Entry, None, None]:
    """Every run, one after the other; the same `Entry` after each of its events. Raises as `start` does."""
    for round in range(comparison.rounds):
        for place in alternating(range(len(comparison.contestants)), round):
            entry = Entry(place, round)
            run = start(comparison.contestants[place].setup, f"compare {comparison.id}, round {round + 1}")
            try:
                for event in run:
                    entry.events.append(event)
                    entry.run_id = getattr(run, "run_id", None)
                    yield entry
            finally:
                close = getattr(run, "close", None)
                if close is not None:
                    close()


class Runs:
    """The runs of a comparison so far, contestant by contestant and round by round."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.entries: list[list[Entry]] = [[] for _ in comparison.contestants]

    def take(self, entry: Entry) -> None:
        """Notes an entry of `race`, again after every event."""
        mine = self.entries[entry.contestant]
        if not mine or mine[-1] is not entry:
            mine.append(entry)
        if entry.whole and entry.round:
            entry.events = lighter(entry.events)

    @property
    def streams(self) -> list[tuple[str, list[list[Event]]]]:
        """Title and events per round of every contestant, as `visuals.versus.lanes` takes them."""
        return [
            (contestant.title, [entry.events for entry in entries])
            for contestant, entries in zip(self.comparison.contestants, self.entries, strict=True)
        ]

    @property
    def ids(self) -> list[list[str]]:
        """Ids of the runs, of every contestant and round."""
        return [[entry.run_id or "" for entry in entries] for entries in self.entries]

    @property
    def whole_rounds(self) -> int:
        """Rounds that everyone has finished."""
        return min(sum(entry.whole for entry in entries) for entries in self.entries)


def lighter(events: list[Event]) -> list[Event]:
    """The events that pictures of several runs need: 36 whole runs would take a hundred megabytes."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, Verdict):
            nodes = tuple(msgspec.structs.replace(node, best=None, residual=()) for node in event.nodes)
            event = msgspec.structs.replace(event, nodes=nodes, residual=())
        if isinstance(event, KEPT):
            out.append(event)
    return out
