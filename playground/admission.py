"""A run that was let in: its events, made once its owner has a place, and everything given back when it ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from engines.events import Event
from playground.places import Place
from playground.turnstile import Stopped
from playground.visitors import Visit


class Admission(Iterator[Event]):
    """The same events. However the run ends, by its last event, an error, `close` or being dropped, it leaves.

    `stop` ends the wait for a place by raising `Stopped`.
    """

    def __init__(self, events: Iterator[Event], place: Place, visit: Visit, stop: threading.Event | None) -> None:
        self._events, self._place, self._visit, self._stop = events, place, visit, stop

    def __next__(self) -> Event:
        for _ in self._place.wait(self._stop):
            pass
        try:
            if not self._place.granted:
                raise Stopped
            return next(self._events)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the run; a second time does nothing."""
        try:
            close = getattr(self._events, "close", None)
            if close is not None:
                close()
        finally:
            self._place.leave()
            self._visit.end()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
