"""Whose turn it is: runs that share a device take one step each, in the order in which they came.

A run is a generator, and one `next()` is one step. The turnstile lets one step through at a time and serves
waiting runs first come, first served, so that of n busy runs each gets every n-th step. There are no threads
of its own: whoever asks for the next event does the work, and closing a generator ends its work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from engines.events import Event


class Turnstile:
    """Lets one step through at a time. `running` and `waiting` are for the page to show."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._runs = 0

    @property
    def running(self) -> int:
        """Runs that have begun and not ended: n of them get about one n-th of the device each."""
        return self._runs

    @property
    def waiting(self) -> int:
        """Runs that stand in the queue for their next step at this moment."""
        return max(0, len(self._queue) - 1)

    def take_turns(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events, each made while this run holds the device.

        Closing, an error, or the last event gives the place in the queue to the next run. `events` is closed too.
        """
        with self._changed:
            self._runs += 1
        try:
            while True:
                with self._turn():
                    try:
                        event = next(events)
                    except StopIteration:
                        return
                yield event
        finally:
            with self._changed:
                self._runs -= 1
            # Closing frees the run's cache and computes nothing, so it need not wait for a turn.
            close = getattr(events, "close", None)
            if close is not None:
                close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        ticket = object()
        try:
            with self._changed:
                self._queue.append(ticket)
                self._changed.wait_for(lambda: self._queue[0] is ticket)
            yield
        finally:
            with self._changed:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                self._changed.notify_all()


_turnstiles: dict[str, Turnstile] = {}


def turnstile_for(device: str) -> Turnstile:
    """The one turnstile of this process for `device` ("cpu", "cuda:0", …)."""
    return _turnstiles.setdefault(device, Turnstile())
