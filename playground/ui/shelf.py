"""Runs by id, wherever they are: shipped with the program, in this server's memory, or in the store.

A run under way is put on the shelf with its first event, so that it can be stepped through and branched from while
the database still writes, and even when there is no database.
"""

from __future__ import annotations

import gzip
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from engines.events import (
    Attribution,
    Beams,
    Circuit,
    Commit,
    Compiled,
    Curve,
    Event,
    Forward,
    Lens,
    Patch,
    from_json,
)
from playground.store import Store
from playground.ui.live import ASSETS

EVENT_BYTES = 2000
"""About what an event takes in memory, measured; tokens are shared by all events that mention them."""
RECORDED = ASSETS / "recorded"
RECORDED_RUN = "recorded-"
"""What the ids of shipped runs begin with."""


class Shelf:
    """Events by run id."""

    def __init__(self, store: Store, recorded: Path = RECORDED, *, megabytes: int = 256) -> None:
        self.store = store
        self._recorded = recorded
        self._most_events = max(1, megabytes * 10**6 // EVENT_BYTES)
        """In memory at once; beyond it the run that was not asked for for the longest time goes first."""
        self._runs: OrderedDict[str, Sequence[Event]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, events: Sequence[Event], id: str = "") -> str:
        """Keeps `events`, which may still grow, under `id` or an unguessable new one; returns the id."""
        id = id or secrets.token_urlsafe(12)
        with self._lock:
            self._runs[id] = events
            self._runs.move_to_end(id)
            # Runs under way have grown since they were put here.
            while len(self._runs) > 1 and sum(map(len, self._runs.values())) > self._most_events:
                self._runs.popitem(last=False)
        return id

    def events(self, id: str) -> Sequence[Event]:
        """The events of a run. Raises `UnknownRun` when it is nowhere."""
        with self._lock:
            if id in self._runs:
                self._runs.move_to_end(id)
                return self._runs[id]
        name = id.removeprefix(RECORDED_RUN)
        if id != name and name in self.recordings():
            events = read_recording(self._recorded, name)
        else:
            events = self.store.events(id)
        self.put(events, id)
        return events

    def forget(self, id: str) -> None:
        """Takes a run off the shelf, because it was deleted."""
        with self._lock:
            self._runs.pop(id, None)

    def recordings(self) -> list[str]:
        """Names of the runs shipped with the program."""
        return sorted(file.name.split(".")[0] for file in self._recorded.glob("*.jsonl*"))


def read_recording(folder: Path, name: str) -> list[Event]:
    """A shipped run: JSON lines, as `python -m playground export` writes them, perhaps gzipped."""
    packed = folder / f"{name}.jsonl.gz"
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / f"{name}.jsonl").read_bytes()
    return [from_json(line) for line in data.splitlines() if line.strip()]


def _looked_inside(event: Event) -> bool:
    """Whether a question about the model's inside was answered, in part at least."""
    match event:
        case Circuit() | Attribution() | Lens():
            return True
        case Patch(how="exact") | Curve(name="completeness"):
            return True
    return False


def steps(events: Sequence[Event]) -> list[int]:
    """Where each step ends: `events[:steps(events)[k]]` is the run after k steps; k = 0 shows the header only.

    A step ends where something was decided: tokens committed, beams pruned; and where the target reads on without
    either, as in best-of-n, before its next pass. A lab that writes no text has a step for everything it compiled, and
    a look inside the model one for every answer: an estimate, a row that was measured, a better guess.
    """
    if not events:
        return [0]
    if answers := [index + 1 for index, event in enumerate(events) if _looked_inside(event)]:
        return [1, *answers[:-1], len(events)]
    ends = [1]
    passes = 0
    for index, event in enumerate(events):
        match event:
            case Commit() | Beams():
                ends.append(index + 1)
                passes = 0
            case Forward(lane="target"):
                if passes:
                    ends.append(index)
                passes += 1
    if len(ends) == 1:
        ends += [index + 1 for index, event in enumerate(events) if isinstance(event, Compiled)]
    ends[-1] = len(events) if len(ends) > 1 else ends[-1]
    return ends
