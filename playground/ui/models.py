"""The Models page: choose what decodes. A model that cannot be had says why, and the running one stays usable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from engines.errors import DecodingError
from engines.models.catalogue import catalogue
from playground.texts import text
from playground.ui import rail
from playground.ui.house import House
from playground.ui.live import Heading, encode, native
from playground.ui.play import PRIVATE
from playground.ui.rail import message

DEFAULT_PRECISION = "float32"


def build(house: House) -> tuple[gr.Dropdown, gr.HTML]:
    """Lays out the page; returns the precision choice and the line about costs, which need the libraries."""
    with gr.Column(elem_classes=["page", "page-models"]), gr.Column(elem_classes=["card", "models"]):
        Heading(encode({"title": text("models.heading"), "explains": text("models.explains")}))
        picker = rail.Picker(_picker(), elem_id="model")
        precision = gr.Dropdown(
            [DEFAULT_PRECISION], value=DEFAULT_PRECISION, label=native("models.precision"), elem_id="precision"
        )
        costs = rail.Message()
        with gr.Row():
            load = gr.Button(native("models.load"), variant="primary", elem_id="load", min_width=0)
            measure = gr.Button(native("models.measure"), elem_id="measure", min_width=0)
        told = rail.Message()

    def start(name: str, precision: str) -> Iterator[str]:
        house.resident.load(rail.selected(name), precision or DEFAULT_PRECISION)
        for fraction, doing in house.resident.wait():
            yield message(doing, fraction=fraction)
        model = house.resident.model
        if house.resident.problem:
            problem = house.resident.problem
            said = text("models.stays", problem=problem, model=model.title) if model else problem
            yield message(said, tone="problem")
        elif model:
            yield message(text("models.ready", model=model.title, precision=model.precision))

    def weigh() -> Iterator[tuple[str, Any]]:
        from engines.models import quantisation

        model = house.resident.model
        if model is None or model.truncated:
            yield message(text("models.load-first" if model is None else "models.remote"), tone="problem"), gr.skip()
            return
        yield message(text("models.measuring", model=model.title, precision=model.precision)), gr.skip()
        try:
            cost = quantisation.measure_cost(model)
        except DecodingError as error:
            yield message(str(error), tone="problem"), gr.skip()
            return
        figures = {"milliseconds": f"{cost.milliseconds:.1f}", "perplexity": f"{cost.perplexity:.2f}"}
        yield message(text("models.measured", precision=cost.precision, **figures)), precisions(house)[1]

    measure.click(weigh, None, [told, costs], concurrency_limit=1, **PRIVATE)
    load.click(start, [picker, precision], told, concurrency_limit=4, **PRIVATE)
    return precision, costs


def precisions(house: House) -> tuple[dict[str, Any], str]:
    """What the machine offers, and what it was measured to cost, once the libraries are there."""
    from engines.models import quantisation

    known = quantisation.precisions()
    choices = [(one.title, one.id) for one in known if one.available]
    lines = [f"{one.title}: {one.note}" if one.available else f"{one.title}: not here, {one.reason}" for one in known]
    model = house.resident.model
    if model:
        measured = quantisation.measured_costs(model.weights)
        reference = measured.get(DEFAULT_PRECISION)
        lines += [cost.beside(reference) for id, cost in measured.items() if reference and id != DEFAULT_PRECISION]
    return gr.update(choices=choices), message("\n".join(lines))


def _picker() -> str:
    try:
        cards = catalogue()
    except DecodingError:
        cards = {}
    options = []
    for card in cards.values():
        notes = (_size(card.parameters), card.licence, card.note)
        options.append({"id": card.id, "title": card.title, "note": " · ".join(note for note in notes if note)})
    return encode(
        {"kind": "model", "label": text("models.model"), "free": True, "selected": next(iter(cards), ""),
         "groups": [{"title": text("models.known"), "options": options}]}
    )  # fmt: skip


def _size(parameters: int) -> str:
    return f"{parameters / 1e6:,.0f} M" if parameters else ""
