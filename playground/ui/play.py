"""The Play page: choose a method and a prompt, run, and watch every decision; step back and forth; branch."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engines.errors import DecodingError
from engines.events import Event, Started
from engines.method import Method
from playground.setup import Setup
from playground.store import is_owner
from playground.ui import proof, rail, share
from playground.ui.behind import Reader
from playground.ui.code_view import CodeView
from playground.ui.constraint import ValidityLine
from playground.ui.decoding import Request, branched, decode, say
from playground.ui.drawing import Canvas
from playground.ui.house import House
from playground.ui.live import LivePlot, Numbers, Scrubber, TokenStream, native
from playground.ui.rail import message, selected
from playground.ui.shelf import RECORDED_RUN

FIRST_METHOD = "token-recycling"
FIRST_RUN = f"{RECORDED_RUN}token-recycling"
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
DRAWING: dict[str, Any] = PRIVATE | {"postprocess": False}
"""For events whose outputs are live components: their values are ready as they are."""


@dataclass
class Play:
    """The components that other pages speak to."""

    rail: list[Any]
    """Method, card, prompt, chips and controls."""
    outputs: list[Any]
    """Message, numbers, text, scrubber and pictures."""
    owner: gr.BrowserState
    notice: share.Notice
    """What the link that opened the page asks of the reader."""


def build(house: House, page: gr.Textbox) -> Play:
    """Lays out the page. `page` carries the id by which a browser page is known."""
    methods = house.methods
    first = first_method(house)
    view = Canvas(house.pictures, methods, FIRST_RUN).at(_first_events(house), keep=False, status="recorded")
    owner = gr.BrowserState("", storage_key="decoding-playground-owner", secret="decoding-playground")
    with gr.Row(elem_classes=["page", "page-play"], equal_height=False):
        with gr.Column(elem_classes=["rail"], min_width=0):
            with gr.Column(elem_classes=["rail-scroll"], min_width=0):
                notice = share.Notice()
                with gr.Column(elem_classes=["card"], min_width=0):
                    method = rail.Picker(rail.method_picker(methods, first.id), elem_id="method")
                    card = rail.Card(rail.method_card(first))
                with gr.Column(elem_classes=["card", "prompt-card"], min_width=0):
                    prompt = gr.Textbox(
                        _first_prompt(house), label=native("play.prompt"), lines=3, max_lines=8, elem_id="prompt"
                    )
                    with gr.Row(elem_classes=["prompt-tools"]):
                        chips = rail.Chips(rail.prompt_chips(first, house.prompts))
                        examples = rail.Picker(rail.prompt_picker(house.prompts), elem_id="examples")
                with gr.Column(elem_classes=["card"], min_width=0):
                    controls = rail.Controls(rail.controls(first))
            with gr.Column(elem_classes=["actions"], min_width=0):
                told = rail.Message()
                with gr.Row():
                    run = gr.Button(native("play.run"), variant="primary", elem_id="run", min_width=0)
                    stop = gr.Button(native("play.stop"), elem_id="stop", min_width=0)
        with gr.Column(elem_classes=["stage"], min_width=0):
            numbers = Numbers(view.numbers)
            proof.build(house, owner, page)
            ValidityLine(house)
            stream = TokenStream(view.stream)
            scrubber = Scrubber(view.scrubber)
            share.Share(house)
            with gr.Row(elem_classes=["pictures"]):
                CodeView(house)
                plots = [
                    LivePlot(
                        id, view.plots[id], table=house.table, narrate=house.narrate, see=house.see, pick=house.pick
                    )
                    for id in house.panels
                ]
    outputs = [told, numbers, stream, scrubber, *plots]

    def start(
        method: str, prompt: str, controls: str, owner: str, page: str, reader: gr.Request
    ) -> Iterator[list[Any]]:
        settings, page = json.loads(controls)["values"], known(page, reader)
        yield from decode(house, Request(selected(method), prompt, settings, owner, page), Reader(reader))

    def branch(
        method: str, controls: str, owner: str, page: str, event: gr.EventData, reader: gr.Request
    ) -> Iterator[list[Any]]:
        told = event._data
        try:
            request = branched(
                house, told, selected(method), json.loads(controls)["values"], owner, known(page, reader)
            )
        except DecodingError as error:
            yield say(house, str(error), tone="problem")
            return
        yield from decode(house, request, Reader(reader))

    def step(event: gr.EventData) -> list[Any]:
        return show(house, str(event._data["run"]), int(event._data["step"]))

    gr.on(
        [run.click, prompt.submit],
        start,
        [method, prompt, controls, owner, page],
        outputs,
        concurrency_limit=None,
        concurrency_id="decode",
        **DRAWING,
    )
    stream.branch(
        branch, [method, controls, owner, page], outputs, concurrency_limit=None, concurrency_id="decode", **DRAWING
    )

    def halt(page: str, reader: gr.Request) -> None:
        house.stop(page)
        house.stop(known("", reader))

    stop.click(halt, page, None, queue=False, **PRIVATE)
    scrubber.step(step, None, outputs, trigger_mode="multiple", concurrency_limit=4, **DRAWING)

    def pick_method(method: str, controls: str) -> list[str]:
        chosen = methods[selected(method)]
        was = json.loads(controls)
        kept = was["values"]
        settings = {one["name"]: kept[one["name"]] for one in rail.RUN_SETTINGS if one["name"] in kept}
        settings |= rail.kept_constraint(kept, methods.get(str(was.get("method", ""))), chosen)
        return [
            rail.method_card(chosen),
            rail.prompt_chips(chosen, house.prompts),
            rail.controls(chosen, settings),
        ]

    method.pick(pick_method, [method, controls], [card, chips, controls], queue=False, **PRIVATE)

    def pick_prompt(event: gr.EventData) -> str:
        return house.prompts[event._data["id"]].prompt

    chips.pick(pick_prompt, None, prompt, queue=False, **PRIVATE)
    examples.pick(pick_prompt, None, prompt, queue=False, **PRIVATE)
    return Play([method, card, prompt, chips, controls], outputs, owner, notice)


def known(page: str, reader: gr.Request) -> str:
    """The page's id; that of its session while it has not said its own, or else two new pages would be one."""
    return page or str(reader.session_hash or "")


def show(house: House, run: str, step: int | None = None) -> list[Any]:
    """A run that is on the shelf or in the store, after `step` steps."""
    try:
        events = house.shelf.events(run)
    except DecodingError as error:
        return say(house, str(error), tone="problem")
    recorded = run.startswith(RECORDED_RUN)
    view = Canvas(house.pictures, house.methods, run).at(events, step, keep=not recorded, status="recorded" * recorded)
    return [message(), *view.outputs(house.panels)]


def reopened(house: House, run: str) -> list[Any]:
    """A run brought back: what it was asked for in the rail, all of it on the right."""
    update = show(house, run)
    try:
        setup = Setup.of(house.shelf.events(run))
    except (DecodingError, ValueError):
        return [gr.skip()] * 5 + update
    return share.in_rail(house, setup) + update


def opened(house: House, owner: str, request: gr.Request) -> list[Any]:
    """What a page shows when it opens: the run and the set-up that its address names; and a new owner gets an id."""
    query = dict(request.query_params)
    run = query.get("run", "")
    update = reopened(house, run) if run else [gr.skip()] * 5 + say(house, "")
    asked, notice = share.opened_by(house, query)
    return [owner if is_owner(owner) else secrets.token_urlsafe(24), notice, *(asked or update[:5]), *update[5:]]


def first_method(house: House) -> Method:
    """The method that a new page is set to."""
    return house.methods.get(FIRST_METHOD) or next(iter(house.methods.values()))


def _first_events(house: House) -> Sequence[Event]:
    try:
        return house.shelf.events(FIRST_RUN)
    except (DecodingError, OSError):
        return []


def _first_prompt(house: House) -> str:
    events = _first_events(house)
    return events[0].prompt if events and isinstance(events[0], Started) else next(iter(house.prompts.values())).prompt
