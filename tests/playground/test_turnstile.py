"""Whose turn it is, with real threads and hand-made runs."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from engines.events import Commit, Event, Note
from playground.turnstile import Stopped, Turnstile, turnstile_for


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


BEGUN = Commit(position=0, step=0, tokens=())
"""A first event after which a run gives the turn away, so that all can have begun before any goes on."""


class Meter:
    """A clock that moves only while somebody computes, as far as that is told to take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Crowd:
    """Runs with a thread each, how long each of their steps takes, and the order in which they got their steps.

    A step lasts until every other run stands in line, so the order depends on the turnstile and not on how busy the
    machine is.
    """

    def __init__(self, seconds: dict[str, float], counts: int | dict[str, int], owners: dict[str, str] | None = None):
        self.meter = Meter()
        self.turnstile = Turnstile(self.meter)
        self.order: list[str] = []
        self.got: dict[str, list[Event]] = {}
        self.seconds = seconds
        self._busy = 0
        self._together = threading.Barrier(len(seconds))
        self._threads = [
            threading.Thread(
                target=self._read,
                args=(name, counts if isinstance(counts, int) else counts[name], (owners or {}).get(name, name)),
            )
            for name in seconds
        ]

    def _read(self, name: str, count: int, owner: str) -> None:
        def during(number: int) -> None:
            self._busy += 1
            assert self._busy == 1, "two runs on the device at once"
            eventually(lambda: self.turnstile.waiting >= self.turnstile.running - 1)
            self.order.append(name)
            self.in_step(name, number)
            self.meter.seconds += self.seconds[name]
            self._busy -= 1

        turns = self.turnstile.take_turns(itertools.chain([BEGUN], steps(name, count, during=during)), owner)
        self.got[name] = [next(turns)]
        self._together.wait(10)
        self.got[name] += turns

    def in_step(self, name: str, number: int) -> None:
        """For tests that do something in the middle of a step."""

    def go(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(timeout=30)
            assert not thread.is_alive(), "a run waits for ever"

    def used(self, until: float) -> dict[str, float]:
        """Device seconds that each run had got when `until` seconds had been used by all together."""
        got = dict.fromkeys(self.seconds, 0.0)
        for name in self.order:
            if sum(got.values()) >= until:
                break
            got[name] += self.seconds[name]
        return got


@pytest.mark.parametrize("number", [2, 5, 20])
def test_runs_with_equal_steps_advance_together(number: int) -> None:
    names = "abcdefghijklmnopqrst"[:number]
    crowd = Crowd(dict.fromkeys(names, 1.0), 10)
    crowd.go()
    for position in range(len(crowd.order) + 1):
        so_far = [crowd.order[:position].count(name) for name in names]
        assert max(so_far) - min(so_far) <= 1, f"{so_far} after {position} steps"
    assert all([event.seq for event in crowd.got[name][1:]] == list(range(10)) for name in names)


def test_long_steps_get_no_more_seconds_than_short_ones() -> None:
    """A prompt read in steps of 0.8 s, beams of 0.1 s, single tokens of 0.02 s."""
    crowd = Crowd({"prompt": 0.8, "beams": 0.1, "token": 0.02}, {"prompt": 5, "beams": 40, "token": 200})
    crowd.go()
    for until in (3.0, 6.0, 9.0):
        used = crowd.used(until)
        assert max(used.values()) - min(used.values()) <= 0.8 + 0.1, f"{used} after {until} s"


def test_an_owner_with_many_runs_gets_one_share() -> None:
    names = [*"abcd", "other"]
    crowd = Crowd(
        dict.fromkeys(names, 0.2),
        {**dict.fromkeys("abcd", 20), "other": 80},
        owners={name: "one" if name in "abcd" else "two" for name in names},
    )
    crowd.go()
    used = crowd.used(until=20.0)
    assert abs(used["other"] - 10) <= 0.4
    assert all(abs(used[name] - 2.5) <= 0.4 for name in "abcd")


@pytest.mark.parametrize("owners", [dict(zip("abc", "abc", strict=True)), dict.fromkeys("abc", "one")])
def test_a_newcomer_is_next_and_owes_nothing_for_what_was_before(
    monkeypatch: pytest.MonkeyPatch, owners: dict[str, str]
) -> None:
    crowd = Crowd(dict.fromkeys("ab", 1.0), 20, owners)

    def during(number: int) -> None:
        crowd.order.append("c")
        crowd.meter.seconds += 1.0

    newcomer = threading.Thread(
        target=lambda: list(crowd.turnstile.take_turns(steps("c", 8, during=during), owners["c"]))
    )

    def let_newcomer_in(name: str, number: int) -> None:
        if (name, number) == ("a", 10):
            newcomer.start()
            eventually(lambda: crowd.turnstile.waiting == 2)

    monkeypatch.setattr(crowd, "in_step", let_newcomer_in)
    crowd.go()
    newcomer.join()
    came = [position for position, name in enumerate(crowd.order) if name == "a"][10] + 1
    assert "c" in crowd.order[came : came + 2]
    assert 2 <= crowd.order[came : came + 12].count("c") <= 5, crowd.order


def test_being_away_saves_up_one_second_at_most() -> None:
    meter = Meter()
    turnstile = Turnstile(meter)
    order: list[str] = []

    def counted(name: str) -> Iterator[Event]:
        while True:
            order.append(name)
            meter.seconds += 0.2
            yield Note(text=name)

    away = turnstile.take_turns(counted("away"), "away")
    next(away)
    there = turnstile.take_turns(counted("there"), "there")
    for _ in range(100):
        next(there)
    order.clear()
    readers = [threading.Thread(target=lambda run=run: [next(run) for _ in range(20)]) for run in (away, there)]
    hold = threading.Thread(target=lambda: list(turnstile.take_turns(holding(turnstile, 2), "hold")))
    hold.start()
    eventually(lambda: turnstile.running == 3)
    for reader in readers:
        reader.start()
    for thread in (hold, *readers):
        thread.join(10)
    assert order[:12].count("away") - order[:12].count("there") <= 1.0 / 0.2 + 2, order


def holding(turnstile: Turnstile, others: int) -> Iterator[Event]:
    """A run whose only step lasts until so many others stand in line."""
    eventually(lambda: turnstile.waiting >= others)
    yield Note(text="")


def test_what_costs_nothing_takes_no_turn_of_its_own() -> None:
    """A forward pass, then what follows from it: one turn per decision, however many events there are."""
    meter = Meter()
    turnstile = Turnstile(meter)
    order: list[str] = []

    def method(name: str) -> Iterator[Event]:
        for position in range(6):
            eventually(lambda: turnstile.waiting >= turnstile.running - 1)
            meter.seconds += 1 / 64
            for _ in range(5):
                order.append(name)
                yield Note(text=name)
            order.append(name)
            yield Commit(position=position, step=position, tokens=())

    together = threading.Barrier(2)

    def read(name: str) -> None:
        turns = turnstile.take_turns(itertools.chain([BEGUN], method(name)), name)
        next(turns)
        together.wait(10)
        seen = [type(event).__name__ for event in turns]
        assert seen == [*["Note"] * 5, "Commit"] * 6

    threads = [threading.Thread(target=read, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert "".join(order) in (("a" * 6 + "b" * 6) * 6, ("b" * 6 + "a" * 6) * 6)


def test_before_a_long_step_the_other_may_come_back() -> None:
    """Real time: a prompt in steps of 0.25 s beside tokens of 5 ms, whose reader is always away for a moment."""
    turnstile, used = Turnstile(), {"prompt": 0.0, "token": 0.0}
    together, over = threading.Barrier(2), time.monotonic() + 3

    def read(name: str, seconds: float) -> None:
        def during(number: int) -> None:
            began = time.monotonic()
            time.sleep(seconds)
            used[name] += time.monotonic() - began

        turns = turnstile.take_turns(steps(name, 10_000, during=during), name)
        together.wait(10)
        for _ in turns:
            time.sleep(0.001)
            if time.monotonic() > over:
                break
        turns.close()  # type: ignore[attr-defined]

    threads = [threading.Thread(target=read, args=pair) for pair in (("prompt", 0.25), ("token", 0.005))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert used["token"] > 0.36 * sum(used.values()), used


def test_stop_ends_the_waiting() -> None:
    turnstile, stop, free = Turnstile(), threading.Event(), threading.Event()
    ended: list[str] = []

    def busy() -> Iterator[Event]:
        free.wait(10)
        yield Note(text="")

    def read() -> None:
        try:
            list(turnstile.take_turns(steps("b", 3), "b", stop))
        except Stopped:
            ended.append("stopped")

    first = threading.Thread(target=lambda: list(turnstile.take_turns(busy(), "a")))
    first.start()
    eventually(lambda: turnstile.running == 1)
    second = threading.Thread(target=read)
    second.start()
    eventually(lambda: turnstile.waiting == 1)
    stop.set()
    second.join(2)
    assert ended == ["stopped"], "stopped while another run held the device"
    assert (turnstile.running, turnstile.waiting) == (1, 0)
    free.set()
    first.join(5)
    assert len(list(turnstile.take_turns(steps("c", 3), "c"))) == 3


def test_stop_ends_a_run_before_its_next_step() -> None:
    stop = threading.Event()
    made: list[int] = []
    turns = Turnstile().take_turns(steps("a", 5, during=made.append), "a", stop)
    next(turns)
    stop.set()
    with pytest.raises(Stopped):
        next(turns)
    assert made == [0]


def test_nobody_starves_and_nobody_hangs() -> None:
    """Real time, steps of all lengths, readers that dawdle, some of whom leave early."""
    turnstile = Turnstile()
    finished: list[int] = []

    def read(number: int) -> None:
        turns = turnstile.take_turns(
            steps("", 30, during=lambda _: time.sleep(0.0005 * (number % 7))), f"owner {number % 9}"
        )
        for place, _ in enumerate(turns):
            time.sleep(0.001 * (number % 3))
            if number % 5 == 0 and place == 10:
                turns.close()  # type: ignore[attr-defined]
                break
        finished.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(finished) == list(range(24))
    assert (turnstile.running, turnstile.waiting, turnstile.owners) == (0, 0, 0)


def test_the_share_is_the_owners_divided_by_the_owners_runs() -> None:
    turnstile = Turnstile()
    assert turnstile.share("a") == 1
    runs = [turnstile.take_turns(steps("", 2), owner) for owner in ("a", "a", "b", "c")]
    for run in runs:
        next(run)
    assert (turnstile.share("a"), turnstile.share("b"), turnstile.share("new")) == (1 / 6, 1 / 3, 1 / 4)


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
