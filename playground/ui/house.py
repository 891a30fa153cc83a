"""What all pages share: the store, the runs, the model, whose turn it is, and who is looking at what."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import engines
from engines.errors import DecodingError, ModelUnavailable
from engines.method import Method
from playground import zerogpu
from playground.admission import Admission
from playground.keeping import make_room
from playground.limits import Limits
from playground.places import Places
from playground.recording import Recording
from playground.setup import Setup
from playground.store import Store, is_owner
from playground.texts import Text, text
from playground.turnstile import Turnstile, turnstile_for
from playground.ui.drawing import STREAM
from playground.ui.live import plot_value
from playground.ui.rail import Prompt, load_prompts
from playground.ui.resident import Resident
from playground.ui.shelf import Shelf, steps
from playground.visitors import Visitors, cache_bytes
from visuals.picture import Picture, pictures

KEPT = "Every run is kept on this server, and listed for you alone."
TREMBLE = 2.0
"""Seconds within which the same wish of the same page is one click too many."""
MOST_PAGES = 1000
"""Open pages whose visible pictures are remembered."""


class House:
    """One per server."""

    def __init__(self, store: Store | None = None, limits: Limits | None = None) -> None:
        self.store = store or Store.open()
        self.limits = limits or Limits.from_environment()
        self.shelf = Shelf(self.store, megabytes=self.limits.shelf_megabytes)
        self.resident = Resident()
        self.visitors = Visitors(self.limits)
        self.places = Places(self.limits.people_at_once, self.limits.line)
        self._made_room: OrderedDict[str, int] = OrderedDict()
        self._askers: dict[str, str] = {}
        self._wishes: OrderedDict[str, tuple[object, float]] = OrderedDict()
        self._seen: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._stops: dict[str, threading.Event] = {}

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Every decoding method by id."""
        return engines.methods()

    @cached_property
    def pictures(self) -> dict[str, Picture]:
        """Every picture by id."""
        return pictures()

    @cached_property
    def panels(self) -> list[str]:
        """Ids of the pictures that have a panel of their own: all but the text."""
        return [id for id in self.pictures if id != STREAM]

    @cached_property
    def prompts(self) -> Mapping[str, Prompt]:
        """The example prompts by id."""
        return load_prompts()

    @property
    def turnstile(self) -> Turnstile:
        """Whose turn it is on the device of the model in use."""
        return turnstile_for(str(self.resident.model.device) if self.resident.model else "cpu")

    def record(
        self,
        setup: Setup,
        *,
        owner: str,
        parent: tuple[str, int] | None = None,
        name: str | None = None,
        stop: threading.Event | None = None,
    ) -> Recording:
        """A run of `setup` on the model in use: it takes its turns and is recorded as it is read. Close it to stop it.

        The model must be there. Raises `DecodingError` when the request cannot be met, or is more than this server
        gives to one person. Its first event may be long in coming when many decode: see `places`. `stop` ends the run
        and the waiting, by raising `Stopped`.
        """
        model = self.resident.model
        if model is None:
            raise ModelUnavailable(self.resident.problem or "No model is loaded. Choose one on the Models page.")
        owner, setup = owner_or_nobody(owner), self.limits.fitted(setup)
        self.limits.check_draft(setup)
        # Where GPUs are lent, every run has one of its own.
        lent = zerogpu.lends()
        events = zerogpu.events(setup, model) if lent else setup.begin(model, owner)
        visit = self.visitors.begin(owner, cache_bytes(model, setup), self.limits.cache_bytes(str(model.device)))
        try:
            self._make_room(owner)
            place = self.places.take(owner)
        except DecodingError:
            visit.end()
            raise
        if not lent:
            events = self.turnstile.take_turns(events, owner, stop)
        return self.store.recording(Admission(events, place, visit, stop), owner=owner, parent=parent, name=name)

    def made_room(self, owner: str) -> int:
        """Runs of `owner` that were deleted to make room for newer ones since this was asked last."""
        return self._made_room.pop(owner, 0)

    def _make_room(self, owner: str) -> None:
        gone = make_room(self.store, self.limits, owner)
        for id in gone:
            self.shelf.forget(id)
        if gone:
            self._made_room[owner] = self._made_room.get(owner, 0) + len(gone)
            while len(self._made_room) > MOST_PAGES:
                self._made_room.popitem(last=False)

    # What the browser asks for beside Gradio's events. Each takes one dict.

    def status(self, what: dict[str, Any]) -> dict[str, Any]:
        """What is loaded, who is running, and where this page stands, for the top of the page."""
        model = self.resident.model
        return {
            "model": self.resident.chip(),
            "fraction": self.resident.fraction,
            "problem": self.resident.problem,
            "running": self.turnstile.running,
            "people": self._people(str(what.get("page", ""))),
            "loaded": f"{model.name} {model.precision}" if model else "",
            "kept": self.store.problem or KEPT,
        }

    def _people(self, page: str) -> Text:
        cores, running = os.cpu_count() or 1, self.turnstile.running
        said = text("limits.core" if cores == 1 else "limits.cores", n=cores)
        owner = self._askers.get(page)
        if owner is not None and (ahead := self.places.ahead(owner)) is not None:
            return text("limits.chip-line", place=ahead + 1, n=running)
        if not running:
            return text("limits.chip-nobody", cores=said)
        chip = text("limits.chip-one" if running == 1 else "limits.chip-many", cores=said, n=running)
        if owner is None or running == 1:
            return chip
        return text("limits.chip-share", runs=chip, share=share_text(self.turnstile.share(owner)))

    def see(self, what: dict[str, Any]) -> None:
        """Remembers which pictures a page shows at the moment."""
        page = str(what.get("page", ""))[:64]
        self._seen[page] = frozenset(id for id in what.get("pictures", []) if id in self.pictures)
        self._seen.move_to_end(page)
        while len(self._seen) > MOST_PAGES:
            self._seen.popitem(last=False)

    def seen(self, page: str) -> frozenset[str]:
        """The pictures that a page shows; all of them when it has not said so yet."""
        return self._seen.get(page, frozenset(self.pictures))

    def table(self, what: dict[str, Any]) -> list[list[Any]]:
        """The numbers behind a picture: a header row, then the rows."""
        picture, events = self._asked(what)
        rows = picture.table(events, **_picked(picture, what))
        return [list(rows[0]), *(list(row.values()) for row in rows)] if rows else [["no data"]]

    def narrate(self, what: dict[str, Any]) -> str:
        """A picture in words."""
        try:
            picture, events = self._asked(what)
        except DecodingError as error:
            return str(error)
        return picture.narrate(events, **_picked(picture, what))

    def pick(self, what: dict[str, Any]) -> str:
        """The picture of one guess: the value of its `LivePlot`, or nothing when there is no such run or picture."""
        try:
            picture, events = self._asked(what)
        except (DecodingError, KeyError):
            return ""
        one = _picked(picture, what)
        return plot_value(
            picture,
            picture.draw(events, **one),
            run=str(what.get("run")),
            step=what["step"] if isinstance(what.get("step"), int) else -1,
            order=what["order"] if isinstance(what.get("order"), int) else 0,
            narration=picture.narrate(events, **one),
        )

    def _asked(self, what: dict[str, Any]) -> tuple[Picture, Any]:
        events = self.shelf.events(str(what.get("run", "")))
        step = what.get("step")
        ends = steps(events)
        if isinstance(step, int) and 0 <= step < len(ends):
            events = events[: ends[step]]
        return self.pictures[str(what.get("picture"))], events

    # Stop: a flag that the run looks at between two steps.

    def stopper(self, page: str, owner: str | None = None) -> threading.Event:
        """The flag that ends the run of a page. A new run gets a new one, and ends the page's run before it.

        With the run's `owner` the page can be told its place in line and its share.
        """
        self.stop(page)
        self._askers.pop(page, None)
        if owner is not None:
            self._askers[page] = owner
        self._stops[page] = flag = threading.Event()
        return flag

    def repeated(self, page: str, wish: object) -> bool:
        """Whether the page has this very wish in progress, or had it a moment ago: one of many clicks."""
        said, when = self._wishes.pop(page, (None, 0.0))
        self._wishes[page] = (wish, time.monotonic())
        while len(self._wishes) > MOST_PAGES:
            self._wishes.popitem(last=False)
        return said == wish and (page in self._stops or time.monotonic() - when < TREMBLE)

    def stop(self, page: str) -> None:
        """Ends the run of a page after its current step."""
        if flag := self._stops.get(page):
            flag.set()

    def forget(self, page: str, flag: threading.Event) -> None:
        """The run of a page that `flag` would have ended is over."""
        if self._stops.get(page) is flag:
            del self._stops[page]
            self._askers.pop(page, None)

    def busy(self, page: str) -> bool:
        """Whether a page has a run in progress."""
        return page in self._stops


def owner_or_nobody(token: str) -> str:
    """The owner. A browser that forged one, or has none yet, is a new one: its run is listed by nobody."""
    return token if is_owner(token) else secrets.token_urlsafe(24)


def share_text(share: float) -> Text:
    """A part of the machine in words."""
    named = {2: "limits.half", 3: "limits.third", 4: "limits.quarter"}.get(round(1 / share))
    return text(named) if named else text("limits.percent", n=max(1, round(100 * share)))


def _picked(picture: Picture, what: dict[str, Any]) -> dict[str, int]:
    """The guess that a picture of one guess was asked for, if any."""
    node = what.get("node")
    return {"node": node} if picture.picks and isinstance(node, int) else {}
