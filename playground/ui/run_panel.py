"""What the Sessions page shows of chosen runs: two side by side, a run repeated, the family of a run's branches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import gradio as gr
import msgspec

from engines.errors import DecodingError
from engines.events import Event, Started, Token
from playground.difference import Difference, First, Side, difference
from playground.family import family
from playground.rerun import compare
from playground.setup import Setup
from playground.store import is_owner
from playground.texts import Text, text
from playground.turnstile import Stopped
from playground.ui.asked import ids_of, ticket_of, told_by
from playground.ui.constraint import said
from playground.ui.decoding import waiting
from playground.ui.house import House
from playground.ui.live import Live, encode
from playground.ui.play import PRIVATE, Play, reopened
from playground.validity import validity

SECONDS = 0.25
"""Between two messages of how far a repeated run is."""


class RunPanel(Live):
    """Shows one thing at a time. Triggers `open` with a run, `stop` for the run that is repeated."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("run-panel", value, events=("open", "stop"), **props)


def connect(house: House, panel: RunPanel, sessions: Live, play: Play, page: Any) -> None:
    """Lets the session list fill the panel."""

    def show(owner: str, page: str, event: gr.EventData) -> Iterator[str]:
        told = told_by(event)
        ids, ticket = ids_of(told, 2), ticket_of(told)
        try:
            match told.get("what"):
                case "diff" if len(ids) == 2:
                    yield encode(beside(house, *ids) | {"ticket": ticket})
                case "family" if len(ids) == 1:
                    yield encode(branches(house, owner, ids[0]) | {"ticket": ticket})
                case "rerun" if len(ids) == 1:
                    for value in again(house, owner, page, ids[0]):
                        yield encode(value | {"ticket": ticket})
        except DecodingError as error:
            yield encode({"kind": "problem", "text": str(error), "ticket": ticket})

    def reopen(event: gr.EventData) -> list[Any]:
        return reopened(house, str(event._data["run"]))

    sessions.show(
        show,
        [play.owner, page],
        panel,
        trigger_mode="multiple",
        concurrency_limit=None,
        concurrency_id="decode",
        **PRIVATE,
    )
    panel.open(reopen, None, [*play.rail, *play.outputs], **PRIVATE)
    panel.stop(lambda page: house.stop(_place(page)), page, None, queue=False, **PRIVATE)


def beside(house: House, left: str, right: str) -> dict[str, Any]:
    """Two runs side by side. Raises `DecodingError` when one is not there."""
    both = [house.shelf.events(id) for id in (left, right)]
    return {
        "kind": "diff",
        "runs": [_called(house, id, events) for id, events in zip((left, right), both, strict=True)],
        "verdicts": [_judged(events) for events in both],
        **_told(difference(_whole(both[0], left), _whole(both[1], right))),
    }


def branches(house: House, owner: str, id: str) -> dict[str, Any]:
    """The family of a run, for its tree."""
    members = family(house.store, owner, id) if is_owner(owner) else []
    shown = []
    for member in members:
        named = msgspec.to_builtins(member)
        if member.foreign:
            try:
                events = house.shelf.events(member.id)
                named |= _called(house, member.id, events)
                named["tokens"] = max((one.position for one in members), default=0)
            except DecodingError:
                named["method"] = ""
        else:
            known = house.methods.get(member.method)
            named["method"] = known.title if known else member.method
        shown.append(named)
    return {"kind": "family", "chosen": id, "members": shown}


def again(house: House, owner: str, page: str, id: str) -> Iterator[dict[str, Any]]:
    """Repeats a run on the model in use, then says whether it is the same. Raises `DecodingError`."""
    kept = _whole(house.shelf.events(id), id)
    if not is_owner(owner):
        raise DecodingError(str(text("sessions.gone")))
    of = _called(house, id, kept)
    flag = house.stopper(_place(page), owner)
    events: list[Event] = []

    def busy(said: str | Text, fraction: float | None = None) -> dict[str, Any]:
        return {"kind": "busy", "text": said, "fraction": fraction, "of": of}

    try:
        with house.places.take(owner) as place:
            for told in waiting(house, place, flag):
                said = msgspec.json.decode(told)
                yield busy(said["text"], said.get("fraction"))
            if flag.is_set():
                return
            yield busy(text("sessions.repeating"), 0.0)
            due = 0.0
            with closing(house.record(Setup.of(kept), owner=owner, stop=flag)) as recording, suppress(Stopped):
                for event in recording:
                    events.append(event)
                    if time.monotonic() >= due:
                        due = time.monotonic() + SECONDS
                        yield busy(text("sessions.repeating"), min(1.0, len(events) / len(kept)))
                    if flag.is_set():
                        break
        if not events:
            return
        new = recording.run_id or ""
        house.shelf.put(events, new)
        result = compare(kept, events)
        yield {
            "kind": "rerun",
            "runs": [of, _called(house, new, events)],
            "verdicts": [_judged(kept), _judged(events)],
            "identical": result.identical,
            "cut": result.cut,
            **_told(result.difference),
        }
    finally:
        house.forget(_place(page), flag)


def _place(page: str) -> str:
    """Repeating a run does not end the run on the Play page: the two have stops of their own."""
    return f"{page} again"


def _whole(events: Sequence[Event], id: str) -> Sequence[Event]:
    if not events or not isinstance(events[0], Started):
        raise DecodingError(f"Run {id} has no beginning, so there is nothing to compare.")
    return events


def _called(house: House, id: str, events: Sequence[Event]) -> dict[str, Any]:
    header = events[0] if events and isinstance(events[0], Started) else None
    method = header.method if header else ""
    known = house.methods.get(method)
    prompt = " ".join(header.prompt[:200].split()) if header else ""
    return {
        "id": id,
        "method": known.title if known else method,
        "prompt": prompt,
        "model": header.model if header else "",
    }


def _judged(events: Sequence[Event]) -> dict[str, Any] | None:
    """Whether the text of a constrained run is valid, in a line; None without a constraint."""
    found = validity(events)
    return said(found) | {"pretty": ""} if found else None


def _told(both: Difference) -> dict[str, Any]:
    return {
        "settings": both.settings,
        "circumstances": both.circumstances,
        "shared": both.shared,
        "lengths": both.lengths,
        "complete": both.complete,
        "first": _first(both.first),
        "blocks": [
            {"same": block.same, "left": _spelled(block.left), "right": [] if block.same else _spelled(block.right)}
            for block in both.blocks
        ],
    }


def _first(first: First | None) -> dict[str, Any] | None:
    if first is None:
        return None
    return {"position": first.position, "left": _side(first.left), "right": _side(first.right)}


def _side(side: Side) -> dict[str, Any]:
    token = side.token
    return {"token": {"text": token.text, "hex": token.hex} if token else None, "p": side.p, "other": side.p_other}


def _spelled(tokens: Sequence[Token]) -> list[dict[str, str]]:
    return [{"text": token.text, "hex": token.hex} for token in tokens]
