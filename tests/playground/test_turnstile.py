"""Whose turn it is, with real threads and hand-made runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from engines.events import Event, Note
from playground.turnstile import Turnstile, turnstile_for


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def steps(name: str, count: int, *, during: Callable[[int], None] = lambda number: None) -> Iterator[Event]:
    """A run of so many steps; `during` happens inside each of them."""
    for number in range(count):
        during(number)
        yield Note(text=name, seq=number)


class Crowd:
    """Runs with a thread each, and the order in which they got their steps.

    A step lasts until every other run stands in the queue, so the order depends on the turnstile and not on how
    busy the machine is.
    """

    def __init__(self, names: str, count: int) -> None:
        self.turnstile = Turnstile()
        self.order: list[str] = []
        self.got: dict[str, list[Event]] = {}
        self._size = len(names)
        self._busy = 0
        self._threads = [threading.Thread(target=self._read, args=(name, count)) for name in names]

    def _read(self, name: str, count: int) -> None:
        def during(number: int) -> None:
            self._busy += 1
            assert self._busy == 1, "two runs on the device at once"
            if number == 0:
                eventually(lambda: self.turnstile.running >= self._size)
            eventually(lambda: self.turnstile.waiting >= self.turnstile.running - 1)
            self.order.append(name)
            self.in_step(name, number)
            self._busy -= 1

        self.got[name] = list(self.turnstile.take_turns(steps(name, count, during=during)))

    def in_step(self, name: str, number: int) -> None:
        """For tests that do something in the middle of a step."""

    def go(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(timeout=30)
            assert not thread.is_alive(), "a run waits for ever"


@pytest.mark.parametrize("number", [2, 5])
def test_runs_advance_together(number: int) -> None:
    names = "abcde"[:number]
    crowd = Crowd(names, 20)
    crowd.go()
    for position in range(len(crowd.order) + 1):
        so_far = [crowd.order[:position].count(name) for name in names]
        assert max(so_far) - min(so_far) <= 1, f"{so_far} after {position} steps"
    assert all([event.seq for event in crowd.got[name]] == list(range(20)) for name in names)


def test_a_newcomer_waits_for_those_before_it_only(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd("ab", 20)
    newcomer = threading.Thread(
        target=lambda: next(crowd.turnstile.take_turns(steps("c", 1, during=lambda _: crowd.order.append("c"))))
    )

    def let_newcomer_in(name: str, number: int) -> None:
        if (name, number) == ("a", 10):
            newcomer.start()
            eventually(lambda: crowd.turnstile.waiting == 2)

    monkeypatch.setattr(crowd, "in_step", let_newcomer_in)
    crowd.go()
    newcomer.join()
    came = [position for position, name in enumerate(crowd.order) if name == "a"][10]
    assert crowd.order[came : came + 3] == ["a", "b", "c"]


def test_events_pass_unchanged() -> None:
    events = [Note(text=str(number), seq=number) for number in range(5)]
    assert list(Turnstile().take_turns(iter(events))) == events


def test_nobody_waits_for_a_run_that_is_not_read() -> None:
    turnstile = Turnstile()
    idle = turnstile.take_turns(steps("a", 5))
    next(idle)
    assert len(list(turnstile.take_turns(steps("b", 50)))) == 50


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
    assert len(list(turnstile.take_turns(steps("b", 3)))) == 3


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
    assert len(list(turnstile.take_turns(steps("b", 3)))) == 3


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
    others = [threading.Thread(target=read, args=(steps(str(n), 2),)) for n in range(3)]
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
