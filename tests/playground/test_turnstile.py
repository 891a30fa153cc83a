"""Whose turn it is, with real threads and hand-made runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from engines.events import Event, Note
from playground.turnstile import Turnstile, turnstile_for

STEP = 0.004


def steps(name: str, count: int, log: list[str], busy: list[str], seconds: float = STEP) -> Iterator[Event]:
    """A run whose every step takes a moment, and notices company on the device."""
    for number in range(count):
        busy.append(name)
        assert busy == [name], "two runs on the device at once"
        time.sleep(seconds)
        busy.remove(name)
        log.append(name)
        yield Note(text=f"{name}{number}", seq=number)


class People:
    """Threads that read runs through one turnstile, all starting at once."""

    def __init__(self, turnstile: Turnstile) -> None:
        self.turnstile = turnstile
        self.log: list[str] = []
        self.busy: list[str] = []
        self.got: dict[str, list[Event]] = {}
        self._threads: list[threading.Thread] = []
        self._start = threading.Event()

    def add(self, name: str, count: int, seconds: float = STEP) -> None:
        def read() -> None:
            self._start.wait()
            self.got[name] = list(self.turnstile.take_turns(steps(name, count, self.log, self.busy, seconds)))

        self._threads.append(threading.Thread(target=read))

    def go(self) -> None:
        for thread in self._threads:
            thread.start()
        self._start.set()
        for thread in self._threads:
            thread.join(timeout=30)
            assert not thread.is_alive(), "a run waits for ever"


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("number", [2, 5])
def test_runs_advance_together(number: int) -> None:
    people = People(Turnstile())
    names = "abcde"[:number]
    for name in names:
        people.add(name, 20)
    people.go()
    for position in range(number, len(people.log) + 1):
        so_far = [people.log[:position].count(name) for name in names]
        assert max(so_far) - min(so_far) <= 1, f"{so_far} after {position} steps"
    assert all([event.seq for event in people.got[name]] == list(range(20)) for name in names)


def test_a_newcomer_waits_one_round_only() -> None:
    turnstile = Turnstile()
    people = People(turnstile)
    people.add("a", 40)
    people.add("b", 40)
    late: list[int] = []

    def arrive() -> None:
        eventually(lambda: len(people.log) >= 10)
        before = len(people.log)
        next(newcomer)
        late.append(people.log.index("c") - before)

    newcomer = turnstile.take_turns(steps("c", 1, people.log, people.busy))
    thread = threading.Thread(target=arrive)
    thread.start()
    people.go()
    thread.join()
    assert late[0] <= 3


def test_events_pass_unchanged() -> None:
    events = [Note(text=str(number), seq=number) for number in range(5)]
    assert list(Turnstile().take_turns(iter(events))) == events


def test_nobody_waits_for_a_run_that_is_not_read() -> None:
    turnstile = Turnstile()
    idle = turnstile.take_turns(steps("a", 5, [], []))
    next(idle)
    assert len(list(turnstile.take_turns(steps("b", 50, [], [], 0)))) == 50


def test_closing_gives_the_place_to_the_others_and_closes_the_run() -> None:
    turnstile = Turnstile()
    closed: list[bool] = []

    def run() -> Iterator[Event]:
        try:
            while True:
                yield Note(text="")
        finally:
            closed.append(True)

    inner = run()  # held on to, so that it is closed and not just collected
    turns = turnstile.take_turns(inner)
    next(turns)
    assert turnstile.running == 1
    turns.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert (turnstile.running, turnstile.waiting) == (0, 0)
    assert len(list(turnstile.take_turns(steps("b", 3, [], [])))) == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_gives_the_place_to_the_others(error: type[BaseException]) -> None:
    turnstile = Turnstile()

    def run() -> Iterator[Event]:
        yield Note(text="")
        raise error

    turns = turnstile.take_turns(run())
    next(turns)
    with pytest.raises(error):
        next(turns)
    assert (turnstile.running, turnstile.waiting) == (0, 0)
    assert len(list(turnstile.take_turns(steps("b", 3, [], [])))) == 3


def test_the_page_can_show_who_runs_and_who_waits() -> None:
    turnstile = Turnstile()
    hold = threading.Event()

    def holding() -> Iterator[Event]:
        hold.wait(10)
        yield Note(text="")

    def read(events: Iterator[Event]) -> None:
        for _ in turnstile.take_turns(events):
            pass

    assert (turnstile.running, turnstile.waiting) == (0, 0)
    first = threading.Thread(target=read, args=(holding(),))
    first.start()
    eventually(lambda: turnstile.running == 1)
    others = [threading.Thread(target=read, args=(steps(str(n), 2, [], [], 0),)) for n in range(3)]
    for thread in others:
        thread.start()
    eventually(lambda: (turnstile.running, turnstile.waiting) == (4, 3))
    hold.set()
    for thread in (first, *others):
        thread.join()
    assert (turnstile.running, turnstile.waiting) == (0, 0)


def test_one_turnstile_per_device() -> None:
    assert turnstile_for("cpu") is turnstile_for("cpu")
    assert turnstile_for("cpu") is not turnstile_for("cuda:0")
