"""Who makes the runs of a sweep: this process, one after the other; or workers on other machines, through Ray.

Both tell the same: every event of every cell as it passes and has been recorded, a cell that failed, or, as plain
text, what is being waited for. What would fail for every cell is raised. Closing the generator ends the work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from engines.errors import DecodingError, ModelUnavailable
from engines.events import Event
from playground.limits import LimitReached
from playground.recording import Recording
from playground.setup import Setup
from playground.store import Unwritable

LOOK = 0.2
"""Seconds between two looks while something is waited for."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run that is to be made. `place` is its number in the sweep; rows of equal seed and prompt belong together."""

    place: int
    seed: int
    prompt: int
    contender: int
    setup: Setup


class Passed(NamedTuple):
    """An event of a cell, recorded."""

    place: int
    run: str
    event: Event


class Failed(NamedTuple):
    """A cell that has no result, and why."""

    place: int
    sentence: str


Told = Passed | Failed | str


class Executor(Protocol):
    """Makes the runs of cells."""

    def work(self, cells: Sequence[Cell]) -> Generator[Told]: ...


class InProcess:
    """One run after the other, here. `record` begins one: on the page `House.record`."""

    def __init__(self, record: Callable[[Setup], Recording]) -> None:
        self._record = record

    def work(self, cells: Sequence[Cell]) -> Generator[Told]:
        """Does the cells in their order."""
        for cell in cells:
            while (wait := (yield from self._decode(cell))) is not None:
                # The server gives out runs by the minute: what is refused now will be given later.
                until = time.monotonic() + wait.seconds
                while (left := until - time.monotonic()) > 0:
                    yield f"{wait.sentence} ({math.ceil(left)} s)"
                    time.sleep(min(LOOK, left))

    def _decode(self, cell: Cell) -> Generator[Told, None, _Wait | None]:
        begun = False
        try:
            with closing(self._record(cell.setup)) as recording:
                for event in recording:
                    begun = True
                    yield Passed(cell.place, recording.run_id or "", event)
                if recording.problem:
                    raise Unwritable(recording.problem)
        except LimitReached as error:
            if error.wait is not None and not begun:
                return _Wait(str(error), min(max(error.wait, LOOK), 60.0))
            yield Failed(cell.place, str(error))
        except (ModelUnavailable, Unwritable):
            raise
        except DecodingError as error:
            yield Failed(cell.place, str(error))
        except Exception as error:
            yield Failed(cell.place, f"{type(error).__name__}: {str(error)[:200]}")
        return None


class _Wait(NamedTuple):
    sentence: str
    seconds: float
