"""From a request to a run on the page: wait for the model and a place, take turns, record, draw, stop when told.

A run happens in the request's own generator: it takes one step at a time through the turnstile, is recorded while
it passes, and is drawn when an update is due. Stop sets a flag that is looked at between two steps. Gradio closes the
generator of a page that was closed, once it has yielded again; so whatever waits here says now and then how long. A
page that is open but has stopped reading is waited for no longer than `behind.PATIENCE`. In each of these cases the
work ends, and what there is of the run is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engines.errors import BadParameter, DecodingError
from engines.events import Event, Started, committed
from playground.places import Place
from playground.setup import Setup
from playground.texts import Text, text
from playground.turnstile import Stopped
from playground.ui.behind import Reader
from playground.ui.drawing import Canvas
from playground.ui.house import House, owner_or_nobody, share_text
from playground.ui.rail import message


@dataclass(frozen=True, slots=True)
class Request:
    """What Run was pressed with, or an alternative clicked with."""

    method: str
    prompt: str
    settings: dict[str, Any]
    owner: str
    page: str
    prefix: tuple[int, ...] = ()
    parent: tuple[str, int] | None = None


def decode(house: House, request: Request, reader: Reader) -> Iterator[list[Any]]:
    """One run from request to last event, as updates of the page's outputs."""
    if house.repeated(request.page, request):
        # A generator that ends without a word would empty the page.
        yield [gr.skip()] * (4 + len(house.panels))
        return
    owner = owner_or_nobody(request.owner)
    flag = house.stopper(request.page, owner)
    events: list[Event] = []
    canvas: Canvas | None = None
    told = message()
    try:
        with house.places.take(owner) as place:
            for told in waiting(house, place, flag):
                yield [told, *[gr.skip()] * (3 + len(house.panels))]
            yield say(house, "")
            if flag.is_set():
                return
            setup = Setup(
                method=request.method, prompt=request.prompt, prefix=request.prefix, **arguments(request.settings)
            )
            recording = house.record(setup, owner=owner, parent=request.parent, stop=flag)
            with closing(recording), suppress(Stopped):
                for event in recording:
                    events.append(event)
                    if canvas is None:
                        run = house.shelf.put(events, recording.run_id or "")
                        canvas = Canvas(house.pictures, house.methods, run)
                    if flag.is_set():
                        break
                    if canvas.due and reader.ready:
                        told = message(others(house, owner))
                        yield [told, *canvas.live(events, house.seen(request.page)).outputs(house.panels)]
                    elif reader.gone:
                        flag.set()
                        told = message(text("limits.behind"))
        if canvas is None:
            return
        gone = house.made_room(owner)
        if gone:
            told = message(text("limits.made-room-one" if gone == 1 else "limits.made-room", n=gone))
        elif not reader.gone:
            told = message()
        kept = house.store.problem is None
        yield [told, *canvas.at(events, keep=kept).outputs(house.panels)]
    except DecodingError as error:
        yield say(house, str(error), tone="problem")
    finally:
        house.forget(request.page, flag)


def waiting(house: House, place: Place, stop: threading.Event) -> Iterator[str]:
    """What the page says while the model is on its way, and then while others are before it."""
    for fraction, doing in house.resident.wait():
        if stop.is_set():
            return
        yield message(text("play.waiting-model", doing=doing), fraction=fraction)
    for ahead in place.wait(stop):
        many = {0: "limits.next", 1: "limits.line-one"}.get(ahead, "limits.line")
        yield message(text(many, n=ahead))


def others(house: House, owner: str) -> str | Text:
    """How many others decode, and what is left for this one; empty when nobody does."""
    many = house.turnstile.owners - 1
    if many < 1:
        return ""
    share = share_text(house.turnstile.share(owner))
    return text("limits.other" if many == 1 else "limits.others", n=many, share=share)


def arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A method's controls as fields of a `Setup`. Raises `BadParameter` when one is not a number."""
    values = dict(settings)
    stop = tuple(text for text in str(values.pop("stop", "")).replace("\\n", "\n").split("|") if text)
    limit = values.pop("time_limit", None)
    own = {"seed", "max_new_tokens", "raw"}
    return {
        "params": {name: None if value == "" else value for name, value in values.items() if name not in own},
        "seed": _whole("seed", values.get("seed", 0)),
        "max_new_tokens": _whole("max_new_tokens", values.get("max_new_tokens", 96)),
        "raw": bool(values.get("raw")),
        "stop": stop,
        "time_limit": None if limit in (None, "") else _number("time_limit", limit),
    }


def branched(
    house: House, told: dict[str, Any], method: str, settings: dict[str, Any], owner: str, page: str
) -> Request:
    """The request that continues another run from one of its tokens' alternatives."""
    run, position, token = str(told["run"]), int(told["position"]), int(told["token"])
    events = house.shelf.events(run)
    header = next(event for event in events if isinstance(event, Started))
    prefix = tuple(placed.token.id for placed in committed(events)[:position])
    settings = settings | {"raw": header.raw_prompt}
    return Request(method, header.prompt, settings, owner, page, (*prefix, token), (run, position))


def say(house: House, text: str | Text, *, tone: str = "calm", fraction: float | None = None) -> list[Any]:
    """An update that changes nothing but the message."""
    return [message(text, tone=tone, fraction=fraction), *[gr.skip()] * (3 + len(house.panels))]


def _whole(name: str, value: Any) -> int:
    try:
        return int(str(value).strip())
    except ValueError:
        label = name.replace("_", " ").capitalize()
        raise BadParameter(f"{label} must be a whole number, not {str(value)[:40]!r}.") from None


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        label = name.replace("_", " ").capitalize()
        raise BadParameter(f"{label} must be a number of seconds, not {str(value)[:40]!r}.") from None
