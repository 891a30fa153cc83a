"""What the right side of the page shows of a run: all of it for a step, and what is due while it runs.

Drawing is a guest of decoding: at most ten updates a second, only pictures that someone can see, one after the
other, and never more than about a tenth of the time.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from engines.events import Commit, Event, Finished, Started
from engines.method import Method
from engines.tally import Tally
from playground.ui.live import encode, plot_value, stream_value
from playground.ui.numbers import headline
from playground.ui.shelf import steps
from visuals.picture import Picture
from visuals.token_stream import draw as draw_tokens

STREAM = "token-stream"
INTERVAL = 0.1
"""Seconds between updates at least."""
SHARE = 8
"""Between updates, at least this many times as long as the last one took to draw."""
SLICE = 0.04
"""Seconds of drawing in one update; pictures that do not fit take their turn in the next."""


@dataclass
class View:
    """One update: the numbers, the text, the scrubber, and the pictures, those that did not change as they were."""

    numbers: str
    stream: dict[str, Any]
    scrubber: str
    plots: dict[str, str] = field(default_factory=dict)

    def outputs(self, order: Sequence[str]) -> list[Any]:
        """As a list for Gradio: numbers, text, scrubber, then the pictures in `order`."""
        return [self.numbers, self.stream, self.scrubber, *(self.plots.get(id, gr.skip()) for id in order)]


class Canvas:
    """Draws one run, as it grows or step by step."""

    def __init__(self, pictures: Mapping[str, Picture], methods: Mapping[str, Method], run: str) -> None:
        self.run = run
        self._pictures = {id: one for id, one in pictures.items() if id != STREAM}
        self._methods = methods
        self._tally = Tally()
        self._counted = 0
        self._tokens: list[str] = []
        self._turn = list(self._pictures)
        self._relevant: dict[str, bool] = {}
        self._plots: dict[str, str] = {}
        self._due = 0.0

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last update."""
        return time.perf_counter() >= self._due

    def live(self, events: Sequence[Event], seen: Collection[str]) -> View:
        """The update that is due: the text, and of the pictures in `seen` as many as fit."""
        began = time.perf_counter()
        numbers = self._numbers(events)
        step = self._tally.passes["target"]
        scrubber = {"run": self.run, "step": step, "steps": step, "live": True, "status": "live"}
        view = View(numbers, self._text(events, live=True), encode(scrubber))
        for id in list(self._turn):
            relevant = self._is_relevant(id, events)
            if relevant == self._relevant.get(id) and not (relevant and id in seen):
                continue
            self._relevant[id] = relevant
            self._turn.remove(id)
            self._turn.append(id)
            self._plots[id] = self._plot(id, events, relevant=relevant)
            if time.perf_counter() - began > SLICE and len(self._relevant) == len(self._pictures):
                break
        view.plots = dict(self._plots)
        ended = time.perf_counter()
        self._due = max(began + INTERVAL, ended + SHARE * (ended - began))
        return view

    def at(self, events: Sequence[Event], step: int | None = None, *, keep: bool = True, status: str = "") -> View:
        """The run after `step` steps (default: all), every picture drawn, with its narration."""
        ends = steps(events)
        step = len(ends) - 1 if step is None else max(0, min(step, len(ends) - 1))
        shown = events[: ends[step]]
        self._tokens, self._tally, self._counted = [], Tally(), 0
        scrubber = {
            "run": self.run,
            "step": step,
            "steps": len(ends) - 1,
            "live": False,
            "keep": keep,
            "status": status or ending(events),
            "commits": commit_steps(events, ends),
        }
        view = View(self._numbers(shown), self._text(shown, live=False), encode(scrubber))
        for id in self._pictures:
            # What the whole run has something for keeps its place while one steps through it.
            relevant = self._is_relevant(id, events)
            view.plots[id] = self._plot(id, shown, relevant=relevant, narrate=True, step=step)
        return view

    def _numbers(self, events: Sequence[Event]) -> str:
        self._tally.count(events[self._counted :])
        self._counted = len(events)
        started = _started(events)
        return headline(self._tally, started.max_new_tokens if started else 0)

    def _text(self, events: Sequence[Event], *, live: bool) -> dict[str, Any]:
        drawn = draw_tokens(events, start=len(self._tokens)) or {}
        self._tokens += [encode(token) for token in drawn.get("tokens", [])]
        started = _started(events)
        method = self._methods.get(started.method) if started else None
        return stream_value(
            self._tokens,
            run=self.run,
            title=method.title if method else started.method if started else "",
            prompt=started.prompt if started else "",
            live=live,
            legend=drawn.get("legend", []),
            pending=drawn.get("pending", []),
        )

    def _is_relevant(self, id: str, events: Sequence[Event]) -> bool:
        return id in self._own(events) or self._pictures[id].relevant(events)

    def _own(self, events: Sequence[Event]) -> tuple[str, ...]:
        started = _started(events)
        return self._methods[started.method].pictures if started and started.method in self._methods else ()

    def _plot(self, id: str, events: Sequence[Event], *, relevant: bool, narrate: bool = False, step: int = -1) -> str:
        picture, own = self._pictures[id], self._own(events)
        return plot_value(
            picture,
            picture.draw(events) if relevant else None,
            run=self.run,
            step=step,
            # The method's own pictures first, most telling first.
            order=own.index(id) if id in own else 50 + list(self._pictures).index(id),
            relevant=relevant,
            # A picture of one guess says in words what became of it.
            narration=picture.narrate(events) if (narrate or picture.picks) and relevant else "",
        )


def commit_steps(events: Sequence[Event], ends: Sequence[int]) -> list[int]:
    """For every commit, the number of the step in which it happened."""
    found: list[int] = []
    step = 0
    for place, event in enumerate(events):
        while step < len(ends) - 1 and ends[step] <= place:
            step += 1
        if isinstance(event, Commit):
            found.append(step)
    return found


def ending(events: Sequence[Event]) -> str:
    """Why a run ended, in a word or two."""
    last = events[-1] if events else None
    return last.reason if isinstance(last, Finished) else "stopped"


def _started(events: Sequence[Event]) -> Started | None:
    return events[0] if events and isinstance(events[0], Started) else None
