"""Activation patching: what each part of the model does, measured by running the model with that part exchanged.

"Locating and Editing Factual Associations in GPT", Meng et al., arXiv 2202.05262 (there: causal tracing); "Towards Best
Practices of Activation Patching in Language Models", Zhang & Nanda, arXiv 2309.16042.

    1. read the clean and the corrupted prompts, keep all activations
    2. for every site, layer and position: run the base prompts with that one activation of the other run, and
    3. effect ← m(patched) − m(base)

Exact, and what all estimates are judged by. A run per layer takes the place of a run per patch, without any
approximation: see `engines.attribution.exact` for how.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from engines.attribution import exact
from engines.attribution.estimate import compare
from engines.attribution.questions import Asking, question
from engines.events import Direction, Event, Note
from engines.method import Need, Paper, method
from engines.models.white_box import NotReadable, WhiteBox
from engines.runner import Run


class Params(Asking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    direction: Annotated[
        Direction,
        Meta(description="denoise: clean activations into the corrupted run; noise: the other way round"),
    ] = "denoise"
    heads: Annotated[bool, Meta(description="Patch every attention head, too")] = True


@method(
    "activation-patching",
    title="Activation patching",
    family="attribution",
    needs=Need.LOGITS | Need.GRADIENTS,
    paper=Paper("Locating and Editing Factual Associations in GPT", "Meng et al.", 2022, "2202.05262"),
    params=Params,
    idea="Run the model on a prompt that leads it astray, but with one part taken from a run on the right prompt. If "
    "the answer comes back, that part carries it.",
    look_at="Where the map is dark the answer lives: first at the word that differs, later at the end of the prompt.",
    shines=("ioi",),
    pictures=("patch-maps", "head-map"),
)
def activation_patching(run: Run, params: Params) -> Iterator[Event]:
    asked = question(run, params)
    yield from run.settle()
    box = WhiteBox(run.model.network, run.ledger, run.clock.now)
    if not box.anatomy.plan:
        raise NotReadable(
            f"Nothing in this network can be exchanged, because only its layers can be told apart: {box.doubt}. "
            "Try attribution patching."
        )
    runs = compare(box, asked, params.direction, gradients=False, keep=("sites", "keys"))
    yield asked.event(run.model, runs.clean, runs.corrupted)
    yield from run.settle()
    patches = 3 * box.layers * asked.length
    yield Note(
        text=f"{patches:,} patches: {box.layers} layers, 3 kinds of places, {asked.length} positions. Those before "
        f"position {asked.first} change nothing, and the others share {box.layers + 1} passes or a few more."
    )
    for patch in exact.maps(box, runs, ("resid_pre", "attn_out", "mlp_out")):
        yield from run.settle()
        yield patch
        if run.finished:
            return
    if params.heads:
        for patch in exact.heads(box, runs):
            yield from run.settle()
            yield patch
            if run.finished:
                return
