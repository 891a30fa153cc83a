"""A lane: one contestant with its streams, one per round; and what several pictures ask of it.

Each lane has a letter, a colour, a dash and a symbol, the same in every picture, so that no lane is told by its colour
alone. The first lane is the baseline, in the colour of plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.events import Commit, Event, Finished, Forward, Started, Totals
from visuals.palette import LIGHT
from visuals.spelling import safe

LETTERS = "ABCD"
COLOURS = (LIGHT["soft"], LIGHT["accent"], LIGHT["accepted-ink"], LIGHT["copied-ink"])
DASHES = ("solid", "8px,3px", "2px,3px", "9px,3px,2px,3px")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")

AXES = {
    "target": "target passes",
    "passes": "all passes",
    "processed": "tokens processed",
    "seconds": "seconds",
}
"""What progress can be measured against, with its name."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One contestant. `streams` are its runs, whole or not, in the order of the rounds."""

    title: str
    streams: tuple[Sequence[Event], ...]
    place: int
    """0 for the baseline."""

    @property
    def letter(self) -> str:
        """What it is called for short."""
        return LETTERS[self.place]

    @property
    def label(self) -> str:
        """Letter and title for a drawing, harmless."""
        return f"{self.letter}  {safe(self.title[:40])}"

    @property
    def look(self) -> tuple[str, str, str]:
        """Colour, dash and symbol."""
        return COLOURS[self.place], DASHES[self.place], SYMBOLS[self.place]

    @property
    def totals(self) -> list[Totals | None]:
        """The numbers of every round; None for a run that did not come to its end."""
        return [last.totals if events and isinstance(last := events[-1], Finished) else None for events in self.streams]

    def stream(self, round: int) -> Sequence[Event]:
        """The events of a round, none when there was no such round."""
        return self.streams[round] if 0 <= round < len(self.streams) else ()


def lanes(contestants: Sequence[tuple[str, Sequence[Sequence[Event]]]]) -> list[Lane]:
    """Lanes from titles and streams, the baseline first."""
    return [Lane(title, tuple(streams), place) for place, (title, streams) in enumerate(contestants)]


@dataclass(frozen=True, slots=True)
class Point:
    """How far a run had come at one decision: tokens written, and what that had taken until then."""

    tokens: int
    target: int
    passes: int
    processed: int
    seconds: float


def course(events: Sequence[Event]) -> list[Point]:
    """One point per commit of generated tokens, after a first one at zero. Reading the prompt counts as work."""
    points = [Point(0, 0, 0, 0, 0.0)] if events else []
    tokens = target = passes = processed = 0
    for event in events:
        match event:
            case Forward(lane=lane, batch=batch, query=query):
                target += lane == "target"
                passes += 1
                processed += batch * query
            case Commit(tokens=placed):
                new = sum(one.origin != "given" for one in placed)
                tokens += new
                if new:
                    points.append(Point(tokens, target, passes, processed, event.time))
    return points


def wanted(events: Sequence[Event]) -> int | None:
    """How many tokens a run may write at most."""
    first = events[0] if events else None
    return first.max_new_tokens if isinstance(first, Started) else None


def median_round(all_lanes: Sequence[Lane]) -> int:
    """The round to show where only one can be: of those that everyone finished, the one of median total time."""
    rounds = min((len(lane.streams) for lane in all_lanes), default=0)
    timed: list[tuple[float, int]] = []
    for round in range(rounds):
        done = [lane.totals[round] for lane in all_lanes]
        whole = [totals for totals in done if totals is not None]
        if len(whole) == len(done):
            timed.append((sum(totals.seconds for totals in whole), round))
    return sorted(timed)[(len(timed) - 1) // 2][1] if timed else 0
