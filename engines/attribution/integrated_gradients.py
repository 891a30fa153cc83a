"""Integrated gradients: the gradient's mean along the way from one prompt to the other.

"Axiomatic Attribution for Deep Networks", Sundararajan et al., arXiv 1703.01365; for the components of a language model
as in EAP-IG, "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms", Hanna et al.,
arXiv 2403.17806. Attribution patching takes the gradient in one of the two runs, and there it can be flat or steep by
chance. Here it is taken at many points of the line between them:

    1. read both runs:  a_base[site], a_other[site], embeddings e_base, e_other
    2. for K points α of [0, 1]: midpoint (k + ½) / K or left k / K, k = 0 … K − 1
         run the network on e_base + α · (e_other − e_base), and c_α[site] ← ∂m/∂a[site] there
    3. c[site] ← mean of c_α[site]
    4. s[site] ← Σ c · (a_other − a_base)

Complete at the embeddings: their scores sum to m(other) − m(base) but for what K points miss of the integral, which the
method reports. Of sites further up no such thing is promised: the line that they follow is bent. One point by the left
rule is attribution patching.

A step is one pass forward and one backward, so K points cost K times as much as attribution patching or RelP.

What differs: the published code takes the left rule, scores edges, and interpolates from the corrupted prompt to the
clean one; ours goes from the base run to the other one, scores nodes, and takes the midpoints when nothing else is
asked, which miss less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from engines.attribution.estimate import Estimate, Runs, compare
from engines.attribution.questions import Asking, check_memory, question
from engines.attribution.relp import measure, weigh
from engines.events import Direction, Event, Note, Site
from engines.method import Need, Paper, method
from engines.models.white_box import WhiteBox
from engines.runner import Run

HOW = "integrated-gradients"

Rule = Literal["midpoint", "left"]


class Params(Asking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    steps: Annotated[int, Meta(ge=1, le=30, description="Points on the line between the two prompts")] = 10
    rule: Annotated[
        Rule,
        Meta(description="Where the points lie: in the middle of equal parts of the line, or at their left ends"),
    ] = "midpoint"
    direction: Annotated[
        Direction,
        Meta(description="denoise: clean activations into the corrupted run; noise: the other way round"),
    ] = "denoise"
    exact: Annotated[bool, Meta(description="Also run the model with every patch, and compare")] = True
    faithfulness: Annotated[
        bool, Meta(description="Also measure what the strongest components do alone, and what is left without them")
    ] = True


def points(steps: int, rule: Rule) -> list[float]:
    """Where on the line from the base run (0) to the other one (1) the gradient is taken."""
    start = 0.5 if rule == "midpoint" else 0.0
    return [(k + start) / steps for k in range(steps)]


def places(box: WhiteBox) -> list[tuple[Site, int]]:
    """All sites by layer, in the order of `coefficients`."""
    return [(site, layer) for site in box.sites for layer in range(box.layers)]


def coefficients(box: WhiteBox, runs: Runs, at: float) -> list[Tensor]:
    """∂m/∂a of all `places`, where the embeddings lie at this point of the line."""
    assert runs.base.embedding is not None
    assert runs.other.embedding is not None
    way = at * (runs.other.embedding - runs.base.embedding)
    trace = box.read(runs.base_ids, gradients=True, edits={("embedding", 0): lambda value: value + way})
    metric = runs.metric(runs.question.difference(trace.logits))
    return box.backward(metric, [trace.site(site)[layer] for site, layer in places(box)])


def scored(box: WhiteBox, runs: Runs, mean: Sequence[Tensor]) -> Estimate:
    """Step 4, from the mean coefficients of all `places`."""
    rows: dict[Site, list[Tensor]] = {}
    for (site, layer), c in zip(places(box), mean, strict=True):
        difference = runs.other.site(site)[layer] - runs.base.site(site)[layer]
        rows.setdefault(site, []).append((difference * c).sum(-1).sum(0))
    sites = {site: torch.stack(parts) for site, parts in rows.items()}
    if "head" in sites:
        sites["head"] = sites["head"].transpose(1, 2)
    return Estimate(HOW, runs, sites, 1.0 - 2 * runs.at_rest)


def gap(found: Estimate) -> float:
    """By how much the embeddings' scores miss the whole difference of m."""
    return float(found.sites["resid_pre"][0].sum()) - found.logits


@method(
    HOW,
    title="Integrated gradients",
    family="attribution",
    needs=Need.LOGITS | Need.GRADIENTS,
    paper=Paper("Axiomatic Attribution for Deep Networks", "Sundararajan et al.", 2017, "1703.01365"),
    params=Params,
    idea="One gradient can mislead. So walk from the wrong prompt to the right one in small steps, and take the mean "
    "of the gradients on the way: better, and as many times slower as there are steps.",
    look_at="The sum of the embeddings' scores: with enough steps it is the whole effect. Then the map of the MLPs, "
    "beside the exact one.",
    shines=("ioi",),
    pictures=("patch-maps", "circuit-graph", "head-map"),
)
def integrated_gradients(run: Run, params: Params) -> Iterator[Event]:
    asked = question(run, params)
    check_memory(run.model, asked)
    yield from run.settle()
    box = WhiteBox(run.model.network, run.ledger, run.clock.now)
    measuring = bool(box.anatomy.plan) and (params.exact or params.faithfulness)
    runs = compare(box, asked, params.direction, gradients=False, keep=("sites", "keys") if measuring else ("sites",))
    yield asked.event(run.model, runs.clean, runs.corrupted)
    yield from run.settle()
    total = [torch.zeros_like(runs.base.site(site)[layer]) for site, layer in places(box)]
    for at in points(params.steps, params.rule):
        total = [sum_ + c for sum_, c in zip(total, coefficients(box, runs, at), strict=True)]
        yield from run.settle()
        if run.finished:
            return
    found = scored(box, runs, [sum_ / params.steps for sum_ in total])
    yield from found.events()
    yield Note(
        text=f"The scores of the embeddings sum to {found.logits + gap(found):.3f}, and the metric changes by "
        f"{found.logits:.0f}: a gap of {abs(gap(found)):.3f} is what {params.steps} points miss of the line."
    )
    if measuring and params.exact:
        yield from measure(run, box, runs, found)
    if measuring and params.faithfulness and not run.finished:
        yield from weigh(run, box, runs, found)
