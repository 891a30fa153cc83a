"""The Circuits page: which parts of the model make it say this and not that; estimated at once, measured beside it.

A run goes the way of every run: `House.record`, the turnstile, the store. What is asked of a circuit afterwards (how
faithful is exactly this, where does that head look, what does patching it do) needs passes too, and waits for its turn
like a run; the page's next wish of the same kind ends it. A circuit has the address `?view=circuits&run=<id>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

import gradio as gr

from engines.errors import DecodingError
from engines.events import Circuit, Event, committed
from engines.models.rules import Rules
from playground import circuits
from playground.circuits import Benches, Marks, NotMeasurable
from playground.links import BadSetup, plausible
from playground.setup import Setup
from playground.texts import Text, text
from playground.turnstile import Stopped
from playground.ui import attention, rail
from playground.ui.asked import told_by
from playground.ui.behind import Reader
from playground.ui.circuit_wishes import Views, adjusted, export, looked, no_pattern, patched
from playground.ui.circuits_view import (
    MOST_PAIRS,
    OWN,
    PICTURES,
    Board,
    Patterns,
    about,
    asked_of,
    form_value,
    tools,
)
from playground.ui.decoding import others, waiting
from playground.ui.house import House, owner_or_nobody
from playground.ui.live import Live, LivePlot, Server, encode, plot_value
from playground.ui.play import DRAWING, PRIVATE, Play, known
from playground.ui.rail import message
from playground.ui.shelf import RECORDED_RUN

EXAMPLE = "relp-ioi"
LONGEST_PROMPT = 8000
WEIGHINGS = 4
"""Questions that are asked of circuits at the same time; more wait."""


class CircuitForm(Live):
    """What to ask. Triggers `begin` with it, `halt`, and `why` with a token of a run; `align` compares two prompts."""

    def __init__(self, align: Server, value: str = "", **props: Any) -> None:
        super().__init__("circuit-form", value, events=("begin", "halt", "why"), server=(align,), **props)


class CircuitAbout(Live):
    """What was asked, and how far it is."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("circuit-about", value, **props)


class CircuitTools(Live):
    """Under the graph: sliders, what is on screen and how far to trust it, groups, files.

    Triggers `adjust` with what is marked, and `open` with a run; `export` gives a file.
    """

    def __init__(self, export: Server, value: str = "", **props: Any) -> None:
        super().__init__("circuit-tools", value, events=("adjust", "open"), server=(export,), **props)


class CircuitParts(Live):
    """The place for the list of components, groups and files, which belong to `CircuitTools`."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("circuit-parts", value, **props)


class CircuitNode(Live):
    """One component. Triggers `look` and `patch` with it."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("circuit-node", value, events=("look", "patch"), **props)


def build(house: House, play: Play, page: Any, header: Any) -> CircuitForm:
    """Lays out the page."""
    benches, views, patterns = Benches(), Views(), Patterns()
    with gr.Column(elem_classes=["page", "page-circuits"]):
        first = form_value(house.methods, house.resident.has, example=example(house))
        form = CircuitForm(_server("align", align, house), first)
        told = rail.Message()
        asked = CircuitAbout()
        with gr.Row(elem_classes=["circuit-stage"], equal_height=False):
            with gr.Column(elem_classes=["circuit-main"], min_width=0):
                graph = _plot(house, PICTURES[0], 0)
                handles = CircuitTools(_server("export", export, house))
                CircuitParts()
                heads = _plot(house, PICTURES[2], 2)
            with gr.Column(elem_classes=["circuit-side"], min_width=0):
                node = CircuitNode()
                looks = LivePlot(
                    attention.PICTURE.id,
                    patterns.value(),
                    table=_server("table", _pattern_table, patterns),
                    narrate=_server("narrate", lambda what: patterns.narrate(str(what.get("run", "")))),
                    see=house.see,
                )
                maps = _plot(house, PICTURES[1], 1)
    shown = [told, asked, graph, maps, heads, handles, node, looks]
    owner = play.owner

    def begin(owner: str, page: str, event: gr.EventData, reader: gr.Request) -> Iterator[list[Any]]:
        yield from run(house, views, told_by(event), owner, known(page, reader), Reader(reader))

    def why(owner: str, page: str, event: gr.EventData, reader: gr.Request) -> Iterator[list[Any]]:
        what = told_by(event)
        try:
            question = asked_why(house, what)
        except DecodingError as error:
            yield [gr.skip(), *_say(str(error), tone="problem")]
            return
        value = form_value(house.methods, house.resident.has, asked=question)
        for update in run(house, views, question, owner, known(page, reader), Reader(reader)):
            yield [value, *update]
            value = gr.skip()

    def reopen(owner: str, page: str, event: gr.EventData, reader: gr.Request) -> list[Any]:
        return opened(house, views, str(told_by(event).get("run", ""))[:64], known(page, reader))

    def adjust(owner: str, page: str, event: gr.EventData, reader: gr.Request) -> Iterator[list[Any]]:
        yield from adjusted(house, benches, views, told_by(event), owner, known(page, reader))

    def look(owner: str, page: str, event: gr.EventData, reader: gr.Request) -> Iterator[list[Any]]:
        yield from looked(house, benches, views, patterns, told_by(event), owner, known(page, reader))

    def patch(owner: str, page: str, event: gr.EventData, reader: gr.Request) -> Iterator[list[Any]]:
        yield from patched(house, benches, views, told_by(event), owner, known(page, reader))

    def halt(page: str, reader: gr.Request) -> None:
        house.stop(_place(known(page, reader)))

    def model_changed() -> str:
        benches.forget_others(house.resident.model)
        return form_value(house.methods, house.resident.has, example=example(house))

    both = [owner, page]
    running: dict[str, Any] = DRAWING | {"concurrency_limit": None, "concurrency_id": "decode"}
    asking: dict[str, Any] = DRAWING | {
        "trigger_mode": "multiple",
        "concurrency_limit": WEIGHINGS,
        "concurrency_id": "circuits",
    }
    form.begin(begin, both, shown, trigger_mode="multiple", **running)
    form.why(why, both, [form, *shown], trigger_mode="multiple", **running)
    form.halt(halt, page, None, queue=False, **PRIVATE)
    handles.open(reopen, both, [form, *shown], trigger_mode="always_last", queue=False, **DRAWING)
    handles.adjust(adjust, both, [graph, handles], **asking)
    node.look(look, both, [node, looks], **asking)
    node.patch(patch, both, [node, graph], **asking)
    header.loaded(model_changed, None, form, queue=False, **PRIVATE)
    return form


def example(house: House) -> str:
    """The shipped run that a page shows before anything was asked; empty when there is none."""
    return f"{RECORDED_RUN}{EXAMPLE}" if EXAMPLE in house.shelf.recordings() else ""


def setup_of(what: Mapping[str, Any]) -> Setup:
    """The run that the form asks for. Raises `DecodingError`."""
    rules = _switches(what)
    chosen = {name: bool(rules.get(name)) for name in Rules.__struct_fields__}
    task = _words(what.get("task"), 40)
    method = "relp" if any(chosen.values()) else "attribution-patching"
    params: dict[str, Any] = {"task": task, "exact": bool(what.get("exact", True))}
    if method == "relp":
        params |= chosen
    if task != OWN:
        params["pairs"] = _whole(what.get("pairs"), 8)
        return Setup(method=method, prompt=_sample(task), params=params, raw=True, max_new_tokens=1)
    params |= {
        "corrupted": _words(what.get("corrupted"), LONGEST_PROMPT),
        "answer": _words(what.get("answer"), 80),
        "foil": _words(what.get("foil"), 80),
    }
    prefix = what.get("prefix")
    given = prefix[:4096] if isinstance(prefix, list) else []
    ids = tuple(id for id in given if isinstance(id, int) and not isinstance(id, bool) and 0 <= id < 2**31)
    return plausible(
        Setup(
            method=method,
            prompt=_words(what.get("prompt"), 1_000_000),
            params=params,
            raw=bool(what.get("raw")),
            prefix=ids,
            max_new_tokens=1,
        )
    )


def _switches(what: Mapping[str, Any]) -> dict[str, Any]:
    rules = what.get("rules")
    return rules if isinstance(rules, dict) else {}


def _sample(task: str) -> str:
    """What the list of runs shows of a shipped task: its first prompt."""
    from engines.attribution.questions import shipped

    found = shipped().get(task)
    if found is None:
        raise BadSetup(str(text("circuits.no-task")))
    return found.pairs[0].clean


def _words(value: object, most: int) -> str:
    """A text as it was typed; half characters become whole ones."""
    return value.encode(errors="replace").decode()[: most + 1] if isinstance(value, str) else ""


def _whole(value: object, otherwise: int) -> int:
    try:
        return max(1, min(MOST_PAIRS, int(str(value))))
    except ValueError:
        return otherwise


def run(
    house: House, views: Views, what: Mapping[str, Any], owner: str, page: str, reader: Reader
) -> Iterator[list[Any]]:
    """One run from the form to its end, as values of what the page shows."""
    key = _place(page)
    if house.repeated(key, repr(sorted(what.items(), key=lambda item: item[0]))):
        yield [gr.skip()] * 8
        return
    owner = owner_or_nobody(owner)
    flag = house.stopper(key, owner)
    events: list[Event] = []
    board: Board | None = None
    told: str = message()
    try:
        setup = setup_of(what)
        parent = _parent(what)
        with house.places.take(owner) as place:
            for told in waiting(house, place, flag):
                yield [told, *[gr.skip()] * 7]
            if flag.is_set():
                return
            yield _say("")
            recording = house.record(setup, owner=owner, parent=parent, stop=flag)
            with closing(recording), suppress(Stopped):
                for event in recording:
                    events.append(event)
                    if board is None:
                        board = Board(house.pictures, house.shelf.put(events, recording.run_id or ""))
                        title = _title(house, events)
                    if flag.is_set():
                        break
                    found = isinstance(event, Circuit)
                    # Nothing is drawn before there is a question.
                    if found or (board.due and reader.ready and circuits.asked_in(events)):
                        marks = views.get(page, board.run) or Marks()
                        graph, maps, heads = board.draw(events, marks, live=True)
                        fresh = [tools(events, board.run, marks), encode({"run": board.run}), no_pattern()]
                        yield [
                            message(others(house, owner)),
                            about(events, board.run, live=True, title=title),
                            graph,
                            maps,
                            heads,
                            *(fresh if found else [gr.skip()] * 3),
                        ]
                    elif reader.gone:
                        flag.set()
        if board is None or not circuits.asked_in(events):
            return
        gone = house.made_room(owner)
        told = message(text("limits.made-room-one" if gone == 1 else "limits.made-room", n=gone) if gone else "")
        marks = views.get(page, board.run) or Marks()
        graph, maps, heads = board.draw(events, marks)
        summary = about(events, board.run, live=False, title=title)
        yield [told, summary, graph, maps, heads, *[gr.skip()] * 3]
    except DecodingError as error:
        yield _say(str(error), tone="problem")
    finally:
        house.forget(key, flag)


def asked_why(house: House, what: Mapping[str, Any]) -> dict[str, Any]:
    """The question about one token of a run, as the form has it. Raises `DecodingError`."""
    run, position = str(what.get("run", ""))[:64], what.get("position")
    if not isinstance(position, int):
        raise NotMeasurable("This token is not in the run.")
    events = house.shelf.events(run)
    header, prefix, token, foil = circuits.why(events, position)
    for one in (token, *([foil] if foil else [])):
        if one.hex or not one.text:
            raise NotMeasurable(str(text("circuits.no-words")))
    return {
        "task": OWN,
        "pairs": 8,
        "prompt": header.prompt,
        "corrupted": "",
        "answer": token.text,
        "foil": foil.text if foil else "",
        "raw": header.raw_prompt,
        "rules": _switches(what) or {"ln": True, "identity": True, "half": True},
        "prefix": list(prefix),
        "given": [placed.token for placed in committed(events)[: len(prefix)]],
        "parent": [run, position],
        "exact": True,
    }


def opened(house: House, views: Views, run: str, page: str) -> list[Any]:
    """A stored run brought back: the form, then what the page shows. A run without a question changes nothing."""
    nothing = [gr.skip()] * 9
    if not run:
        return nothing
    try:
        events = house.shelf.events(run)
        if circuits.asked_in(events) is None:
            return [*nothing[:6], encode({"other": run}), *nothing[7:]]
        setup = Setup.of(events)
        marks = circuits.kept(house.store, run)
        parent = _parent_of(house, run)
    except (DecodingError, ValueError) as error:
        return [gr.skip(), *_say(str(error), tone="problem")]
    views.put(page, run, marks)
    graph, maps, heads = Board(house.pictures, run).draw(events, marks)
    return [
        form_value(house.methods, house.resident.has, asked=asked_of(setup, events, parent)),
        message(),
        about(events, run, live=False, title=_title(house, events)),
        graph,
        maps,
        heads,
        tools(events, run, marks),
        encode({"run": run}),
        no_pattern(),
    ]


def align(house: House, what: dict[str, Any]) -> dict[str, Any]:
    """Two prompts token by token, and what is wrong with the question, if anything."""
    from engines.attribution.questions import LONGEST, check_lengths, named

    model = house.resident.model
    if model is None:
        return {"waiting": text("circuits.no-model")}
    raw = bool(what.get("raw"))
    clean, corrupted = (_words(what.get(side), LONGEST_PROMPT)[:LONGEST_PROMPT] for side in ("prompt", "corrupted"))
    sides = [model.encode(words, raw=raw) if words else [] for words in (clean, corrupted)]
    problems = []
    try:
        if all(sides):
            check_lengths(model, *sides)
    except DecodingError as error:
        problems.append(str(error))
    for name in ("answer", "foil"):
        try:
            named(model, _words(what.get(name), 80)[:80], str(text(f"circuits.{name}")).lower())
        except DecodingError as error:
            problems.append(str(error))
    return {
        "sides": [[model.token(id) for id in ids[-LONGEST:]] for ids in sides],
        "counts": [len(ids) for ids in sides],
        "problems": problems,
    }


def _plot(house: House, id: str, order: int) -> LivePlot:
    picture = house.pictures[id]
    empty = plot_value(picture, None, run="", step=-1, order=order, relevant=order == 0)
    return LivePlot(id, empty, table=house.table, narrate=house.narrate, see=house.see)


def _pattern_table(patterns: Patterns, what: dict[str, Any]) -> list[list[Any]]:
    rows = patterns.table(str(what.get("run", "")))
    return [list(rows[0]), *(list(row.values()) for row in rows)] if rows else [["no data"]]


def _title(house: House, events: Sequence[Event]) -> str:
    method = house.methods.get(getattr(events[0], "method", "")) if events else None
    return method.title if method else ""


def _parent(what: Mapping[str, Any]) -> tuple[str, int] | None:
    match what.get("parent"):
        case [str(run), int(position)] if not isinstance(position, bool):
            return run[:64], position
    return None


def _parent_of(house: House, run: str) -> tuple[str, int] | None:
    with suppress(DecodingError):
        stored = house.store.run(run)
        if stored.parent_run is not None and stored.parent_position is not None:
            return stored.parent_run, stored.parent_position
    return None


def _say(said: str | Text, *, tone: str = "calm") -> list[Any]:
    return [message(said, tone=tone), *[gr.skip()] * 7]


def _place(page: str) -> str:
    return f"circuits:{page}"


def _server(name: str, function: Any, *first: Any) -> Server:
    """`function` as the browser calls it: by `name`, with one dict."""

    def call(what: dict[str, Any]) -> Any:
        return function(*first, what)

    call.__name__ = name
    return call
