"""Whose turn it is: runs share a device by the seconds they use of it, and everybody gets the same share.

A run is a generator, and one `next()` is one step. The turnstile lets one step through at a time and adds its seconds
to the account of the run and of its owner. Whose owner has used the least goes next, among one owner's runs the one
that has used the least, among equals whoever came first. So an owner with many runs gets one owner's share, and long
prompts and wide beams pay for what they take. A newcomer starts with as much on its account as the one whose turn it
is: it goes next, but what others used before it came is not held against them.

    1. ask:   wait in line, unless the device is free and nobody in line has used less
    2. step:  make events while this run has used the least of all who wait; a little more, up to the next decision,
              because what follows a forward pass costs next to nothing and a reader waits for it
    3. leave: the one in line that has used the least is next; but before a long step, a run that has still used less
              than those in line is given a moment to come back, as its reader needs one to read

The turn is held while a step is computed, never while somebody reads. There are no threads of its own: whoever asks
for the next event does the work, and closing a generator ends its work.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

from engines.events import Beams, Commit

T = TypeVar("T")

HELD = 0.1
"""Seconds that a run may keep the device while others wait; then its reader gets to see what happened."""
LEAD = 0.05
"""Seconds that a run may get ahead of those who wait in order to come to a decision; what takes longer is long."""
MOMENT = 0.05
"""Seconds that a run whose turn it still is has to come back for its next step."""
CREDIT = 1.0
"""Seconds of its share that a run which was not there can catch up with at most."""
LOOK = 0.1
"""Seconds between two looks at the stop flag while waiting."""


class Stopped(BaseException):
    """The run was told to stop while it waited for its turn. Like an interrupt it is no failure of the run."""


class _Account:
    """Device seconds used, comparable among those of one kind: the owners, or one owner's runs."""

    def __init__(self, within: _Account | None = None) -> None:
        self.now = 0.0
        """How far those within it have come: what the one that was served last had used by then."""
        self.used: float = within.now if within else 0.0
        self.runs = 0
        self.step = 0.0
        """Seconds of the last step."""
        self.within = within

    def ask(self) -> None:
        if self.within:
            self.within.ask()
            self.used = max(self.used, self.within.now - CREDIT)

    def serve(self) -> None:
        if self.within:
            self.within.serve()
            self.within.now = max(self.within.now, self.used)

    def charge(self, seconds: float) -> None:
        self.used += seconds
        self.step = seconds
        if self.within:
            self.within.charge(seconds)

    def begin(self, runs: int = 1) -> None:
        self.runs += runs
        if self.within:
            self.within.begin(runs)


class _Ticket:
    """One run's place in line."""

    __slots__ = ("go", "number", "run", "until")

    def __init__(self, run: _Account, number: int) -> None:
        self.run, self.number = run, number
        self.go = threading.Event()
        self.until: float | None = None
        """Next in line, but somebody else may come back until then."""

    @property
    def key(self) -> tuple[float, float, int]:
        assert self.run.within is not None
        return self.run.within.used, self.run.used, self.number


class Turnstile:
    """Lets one step through at a time. `running`, `waiting` and `share` are for the page to show.

    `clock` tells the seconds that a step took; tests bring their own.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._all = _Account()
        self._owners: dict[Hashable, _Account] = {}
        self._line: list[_Ticket] = []
        self._holder: _Ticket | None = None
        self._numbers = itertools.count()

    @property
    def running(self) -> int:
        """Runs that have begun and not ended."""
        return self._all.runs

    @property
    def waiting(self) -> int:
        """Runs that stand in line for their next step at this moment."""
        return len(self._line)

    @property
    def owners(self) -> int:
        """Owners with a run that has begun and not ended: n of them get about one n-th of the device each."""
        return sum(account.runs > 0 for account in list(self._owners.values()))

    def share(self, owner: str) -> float:
        """The part of the device that each run of `owner` gets; of one that has none, what a run of it would get."""
        account = self._owners.get(owner)
        runs = account.runs if account else 0
        return 1 / (self.owners + (runs == 0)) / max(1, runs)

    def take_turns(
        self, events: Iterator[T], owner: str | None = None, stop: threading.Event | None = None
    ) -> Iterator[T]:
        """The same events, made while this run holds the device. Without an owner a run has a share of its own.

        Closing, an error, or the last event gives the place to the next run; `events` is closed too. `stop` ends the
        run before its next step, by raising `Stopped`.
        """
        run = self._enter(owner if owner is not None else object())
        try:
            ended = False
            while not ended:
                made, error, ended = self._turn(run, events, stop)
                yield from made
                if error is not None:
                    raise error
        finally:
            self._leave(run)
            # Closing frees the run's cache and computes nothing, so it need not wait for a turn.
            close = getattr(events, "close", None)
            if close is not None:
                close()

    def _turn(
        self, run: _Account, events: Iterator[T], stop: threading.Event | None
    ) -> tuple[list[T], BaseException | None, bool]:
        """Events, what went wrong after them if anything, and whether they were the last."""
        ticket = self._ask(run, stop)
        made: list[T] = []
        began = self._clock()
        since = began
        goes_on, ended = True, True
        try:
            while goes_on:
                try:
                    event = next(events)
                except StopIteration:
                    return made, None, True
                except BaseException as error:
                    return made, error, True
                finally:
                    now = self._clock()
                    with self._lock:
                        run.charge(now - since)
                    since = now
                made.append(event)
                goes_on = not (stop and stop.is_set()) and self._goes_on(
                    ticket, held=now - began, decided=isinstance(event, Commit | Beams)
                )
            ended = False
            return made, None, False
        finally:
            self._pass_on(ticket, ended=ended)

    def _goes_on(self, ticket: _Ticket, *, held: float, decided: bool) -> bool:
        """Whether the holder of the turn makes another event before anybody sees those it has made."""
        with self._lock:
            if not self._line or held >= HELD:
                return False
            first = min(other.key for other in self._line)
            if ticket.key[:2] < first[:2]:
                return True
            owner, run, _ = ticket.key
            ahead = owner - first[0] if owner != first[0] else run - first[1]
            return not decided and ahead <= LEAD

    def _enter(self, owner: Hashable) -> _Account:
        with self._lock:
            if not self._all.runs:
                # Nobody was there, so nobody was kept waiting by what anyone used.
                self._all.now = max((account.used for account in self._owners.values()), default=self._all.now)
                self._owners.clear()
            for known in [key for key, one in self._owners.items() if not one.runs and one.used <= self._all.now]:
                del self._owners[known]
            account = self._owners.setdefault(owner, _Account(self._all))
            account.used = max(account.used, self._all.now) if not account.runs else account.used
            run = _Account(account)
            run.begin()
            return run

    def _leave(self, run: _Account) -> None:
        with self._lock:
            run.begin(-1)

    def _ask(self, run: _Account, stop: threading.Event | None) -> _Ticket:
        """Waits for the turn. Raises `Stopped`."""
        if stop and stop.is_set():
            raise Stopped
        with self._lock:
            run.ask()
            ticket = _Ticket(run, next(self._numbers))
            if self._holder is None and all(ticket.key < other.key for other in self._line):
                self._give(ticket)
                return ticket
            self._line.append(ticket)
            if self._holder is None and all(other.until is None for other in self._line):
                self._next()
        try:
            while self._holder is not ticket:
                until = ticket.until
                ticket.go.wait(LOOK if until is None else max(0.0, until - time.monotonic()))
                with self._lock:
                    ticket.go.clear()
                    if ticket.until is not None and time.monotonic() >= ticket.until:
                        ticket.until = None
                        if self._holder is None:
                            self._next()
                if stop and stop.is_set():
                    raise Stopped
        except BaseException:
            self._pass_on(ticket, ended=True)
            raise
        return ticket

    def _pass_on(self, ticket: _Ticket, *, ended: bool) -> None:
        """Leaves the line, or hands the turn over."""
        with self._lock:
            if ticket in self._line:
                self._line.remove(ticket)
                # It may have been the one that was to wake up when nobody comes back.
                if self._holder is None and self._line and all(other.until is None for other in self._line):
                    self._next()
                return
            self._holder = None
            if not self._line:
                return
            best = min(self._line, key=lambda other: other.key)
            if not ended and best.run.step > LEAD and ticket.key[:2] < best.key[:2]:
                best.until = time.monotonic() + MOMENT
                best.go.set()
            else:
                self._give(best)

    def _next(self) -> None:
        self._give(min(self._line, key=lambda other: other.key))

    def _give(self, ticket: _Ticket) -> None:
        if ticket in self._line:
            self._line.remove(ticket)
        ticket.until = None
        ticket.run.serve()
        self._holder = ticket
        ticket.go.set()


_turnstiles: dict[str, Turnstile] = {}


def turnstile_for(device: str) -> Turnstile:
    """The one turnstile of this process for `device` ("cpu", "cuda:0", …)."""
    return _turnstiles.setdefault(device, Turnstile())
