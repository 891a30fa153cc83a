"""From a request to a run on the page: wait for the model, take turns, record, draw what is due, stop when told.

A run happens in the request's own generator: it takes one step at a time through the turnstile, is recorded while
it passes, and is drawn when an update is due. Stop sets a flag that is looked at between two steps; a closed page
closes the generator. Either way the work ends, and what there is of the run is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engines.errors import BadParameter, DecodingError
from engines.events import Event, Started, committed
from playground.setup import Setup
from playground.texts import Text
from playground.ui.drawing import Canvas
from playground.ui.house import House
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


def decode(house: House, request: Request) -> Iterator[list[Any]]:
    """One run from request to last event, as updates of the page's outputs."""
    flag = house.stopper(request.page)
    try:
        for fraction, doing in house.resident.wait():
            yield say(house, f"Waiting for the model: {doing}", fraction=fraction)
            if flag.is_set():
                yield say(house, "")
                return
        yield say(house, "")
        setup = Setup(
            method=request.method, prompt=request.prompt, prefix=request.prefix, **arguments(request.settings)
        )
        recording = house.record(setup, owner=request.owner, parent=request.parent)
        with closing(recording):
            events: list[Event] = []
            canvas: Canvas | None = None
            for event in recording:
                events.append(event)
                if canvas is None:
                    run = house.shelf.put(events, recording.run_id or "")
                    canvas = Canvas(house.pictures, house.methods, run)
                if canvas.due:
                    yield [gr.skip(), *canvas.live(events, house.seen(request.page)).outputs(house.panels)]
                if flag.is_set():
                    break
        assert canvas is not None
        kept = house.store.problem is None
        yield [message(), *canvas.at(events, keep=kept).outputs(house.panels)]
    except DecodingError as error:
        yield say(house, str(error), tone="problem")
    finally:
        house.forget(request.page, flag)


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
