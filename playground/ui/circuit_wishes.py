"""What is asked of a circuit that is on the page: what these are worth, where that looks, what patching it does; files.

Each wish is a generator of values for the page: what is known at once, then what was measured, in turn with everybody
who decodes. The page's next wish of the same kind ends the one before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, TypeVar, cast

import gradio as gr
import msgspec

from engines.errors import DecodingError
from playground import circuits, zerogpu
from playground.circuit_files import as_graphml, as_json
from playground.circuits import Benches, Marks, NotMeasurable
from playground.store import UnknownRun
from playground.texts import text
from playground.turnstile import Stopped
from playground.ui import attention
from playground.ui.asked import ticket_of
from playground.ui.circuits_view import Board, Patterns, detail, tools
from playground.ui.house import House, owner_or_nobody
from playground.ui.live import encode, plot_value

T = TypeVar("T")

VIEWS = 200
"""Pages whose sliders, pins and groups are remembered while their runs are in progress."""


class Views:
    """What each page has marked in the run that it shows, so that a run in progress is drawn that way."""

    def __init__(self) -> None:
        self._marks: OrderedDict[tuple[str, str], Marks] = OrderedDict()

    def put(self, page: str, run: str, marks: Marks) -> None:
        self._marks[page, run] = marks
        self._marks.move_to_end((page, run))
        while len(self._marks) > VIEWS:
            self._marks.popitem(last=False)

    def get(self, page: str, run: str) -> Marks | None:
        return self._marks.get((page, run))


def adjusted(
    house: House, benches: Benches, views: Views, what: Mapping[str, Any], owner: str, page: str
) -> Iterator[list[Any]]:
    """What the sliders, pins and groups ask for: first the graph, then what it is worth, measured."""
    id, ticket = str(what.get("run", ""))[:64], ticket_of(dict(what))
    try:
        events = house.shelf.events(id)
        circuit = circuits.circuit_in(events)
        if circuit is None:
            yield [gr.skip(), gr.skip()]
            return
        before = views.get(page, id) or circuits.kept(house.store, id)
        marks = circuits.marks_from(what, circuit, before.measured)
    except DecodingError as error:
        yield [gr.skip(), encode({"run": id, "ticket": ticket, "refused": str(error)})]
        return
    views.put(page, id, marks)
    saved = circuits.keep(house.store, owner, id, marks) if what.get("save") else None
    board = Board(house.pictures, id)
    reading = not benches.holds(house.resident.model, events)

    def told(**more: Any) -> str:
        return tools(events, id, marks, ticket=ticket, saved=saved, **more)

    yield [board.graph(events, marks), told(state="reading" if reading else "weighing")]
    nodes, _ = circuits.on_screen(circuit, marks)
    inner = {node.id for node in nodes if circuits.is_component(node)}
    model = house.resident.model
    try:
        for step in in_turn(house, benches.weigh(model, events, inner), owner, f"weigh:{page}"):
            if isinstance(step, circuits.Weight):
                yield [gr.skip(), told(weight=step, state="done")]
    except DecodingError as error:
        yield [gr.skip(), told(state="problem", said=str(error))]
    except Stopped:
        # The page asks for something newer; an empty answer would be shown.
        yield [gr.skip(), gr.skip()]


def looked(
    house: House, benches: Benches, views: Views, patterns: Patterns, what: Mapping[str, Any], owner: str, page: str
) -> Iterator[list[Any]]:
    """One component: what the run says of it at once, then, of a head, where it looks."""
    id, node, ticket = str(what.get("run", ""))[:64], str(what.get("node", ""))[:12], ticket_of(dict(what))
    try:
        events = house.shelf.events(id)
    except DecodingError as error:
        yield [encode({"run": id, "id": "", "said": str(error), "ticket": ticket}), gr.skip()]
        return
    marks = views.get(page, id) or circuits.kept(house.store, id)
    head = node.startswith("a")
    state = ("reading" if not benches.holds(house.resident.model, events) else "weighing") if head else ""
    yield [detail(events, id, node, marks, ticket=ticket, state=state), no_pattern()]
    if not head:
        return
    try:
        for step in in_turn(house, benches.attend(house.resident.model, events, node), owner, f"look:{page}"):
            if isinstance(step, circuits.Pattern):
                patterns.put(id, node, step, events)
                told = detail(events, id, node, marks, ticket=ticket, sharing=step.sharing)
                yield [told, patterns.value(id, node)]
    except DecodingError as error:
        yield [detail(events, id, node, marks, ticket=ticket, said=str(error)), gr.skip()]
    except Stopped:
        yield [gr.skip(), gr.skip()]


def patched(
    house: House, benches: Benches, views: Views, what: Mapping[str, Any], owner: str, page: str
) -> Iterator[list[Any]]:
    """One component patched for real: its exact effect beside the estimate, kept with the run."""
    id, node, ticket = str(what.get("run", ""))[:64], str(what.get("node", ""))[:12], ticket_of(dict(what))
    given = what.get("sharing")
    sharing = [unit for unit in given[:64] if isinstance(unit, int)] if isinstance(given, list) else []
    try:
        events = house.shelf.events(id)
        marks = views.get(page, id) or circuits.kept(house.store, id)
        yield [detail(events, id, node, marks, ticket=ticket, sharing=sharing, state="patching"), gr.skip()]
        for step in in_turn(house, benches.patch(house.resident.model, events, node), owner, f"patch:{page}"):
            if isinstance(step, float):
                now = views.get(page, id) or marks
                marks = msgspec.structs.replace(now, measured=now.measured | {node: step})
                views.put(page, id, marks)
                circuits.keep(house.store, owner, id, marks)
                told = detail(events, id, node, marks, ticket=ticket, sharing=sharing)
                yield [told, Board(house.pictures, id).graph(events, marks)]
    except DecodingError as error:
        yield [encode({"run": id, "id": node, "problem": str(error), "ticket": ticket}), gr.skip()]
    except Stopped:
        yield [gr.skip(), gr.skip()]


def in_turn(house: House, steps: Iterator[T], owner: str, key: str) -> Iterator[T]:
    """Steps that take their turns on the device. The next ones under the same key end these by raising `Stopped`."""
    if zerogpu.lends():
        raise NotMeasurable(str(text("circuits.lent")))
    flag = house.stopper(f"circuits:{key}")
    try:
        in_line = house.turnstile.take_turns(steps, owner_or_nobody(owner), flag)
        with closing(cast("Generator[T]", in_line)) as turns:
            yield from turns
    finally:
        house.forget(f"circuits:{key}", flag)


def export(house: House, what: dict[str, Any]) -> dict[str, Any]:
    """A circuit as a file; whoever has the run's id may have it, marked as it is on the page that asks."""
    id = str(what.get("run", ""))[:64]
    try:
        events = house.shelf.events(id)
        circuit = circuits.circuit_in(events)
        if circuit is None:
            raise UnknownRun(str(text("circuits.no-circuit")))
        marks = circuits.marks_from(what, circuit, circuits.kept(house.store, id).measured)
        if what.get("format") == "graphml":
            return {"name": f"circuit-{id}.graphml", "type": "application/xml", "content": as_graphml(events, marks)}
        return {"name": f"circuit-{id}.json", "type": "application/json", "content": as_json(id, events, marks)}
    except DecodingError as error:
        return {"problem": str(error)}


def no_pattern() -> str:
    """The value of the attention pattern while no head is chosen."""
    return plot_value(attention.PICTURE, None, run="", step=-1, order=0, relevant=False)
