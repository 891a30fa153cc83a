"""RelP: which parts of the model carry a behaviour, from one backward pass that keeps to rules.

"RelP: Faithful and Efficient Circuit Discovery via Relevance Patching", Rezaei Jafari et al., arXiv 2508.21258.

Activation patching answers exactly, with a run per component. Attribution patching answers from one gradient, but the
gradient lies where the network is curved: at norms, activations and gates. RelP keeps attribution patching's formula
and takes the gradient with factors frozen there.

    1. read the other run:  a_other[site] for every layer, position and head
    2. read the base run under the rules ln, identity and half (`engines.models.rules`), graph kept
    3. m ← (LD − LD_corrupted) / (LD_clean − LD_corrupted)      LD = logit(answer) − logit(foil), mean over pairs
    4. c[site] ← what flows back from m to the site under the rules
    5. s[site] ← Σ c · (a_other − a_base)                        an estimate of m(patched) − m(base)
    6. e(u → v) ← Σ (a_u,other − a_u,base) · g_v                 what writer u does through reader v

The base run is the corrupted one and the other the clean one (`denoise`), or the reverse (`noise`). All rules off is
attribution patching; with `ah` it is CP-LRP's attention rule; `uniform` in its place is AttnLRP ("AttnLRP", Achtibat et
al., arXiv 2402.05602). `alone`: without a corrupted prompt, c · a, which is plain layer-wise relevance propagation and
not RelP.

Beside the estimate the method measures: exact maps layer by layer (`engines.attribution.exact`) with their running
correlation, and how much of the behaviour the strongest components carry alone (`engines.attribution.circuit`).

What differs from the paper and its code: edges join heads and MLPs by edge attribution patching with RelP's
coefficients; the paper's join sparse features. The published quick start reads its switch for the identity rule before
it is set, so it runs without that rule; ours does what the paper says. The list of rules is the one of the paper's
latest code, without `ah`, which conserves relevance but estimates worse.

Layer-wise relevance propagation is patented; the patent's holder allows personal and scientific use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from msgspec import Meta

from engines.attribution import exact
from engines.attribution.circuit import Faithfulness, strongest
from engines.attribution.estimate import Estimate, Runs, compare, score_edges, score_nodes
from engines.attribution.questions import Asking, Question, check_lead, check_memory, question
from engines.events import Curve, Direction, Event, Note, Patch, Site
from engines.method import Need, Paper, method
from engines.models.rules import Rules
from engines.models.white_box import WhiteBox
from engines.runner import Run

PATENT = "Layer-wise relevance propagation is patented; the patent's holder allows personal and scientific use."


class Measuring(Asking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of every method that estimates effects and may measure them too."""

    direction: Annotated[
        Direction,
        Meta(description="denoise: clean activations into the corrupted run; noise: the other way round"),
    ] = "denoise"
    edges: Annotated[bool, Meta(description="Score what components say to each other, too")] = True
    exact: Annotated[bool, Meta(description="Also run the model with every patch, and compare")] = True
    faithfulness: Annotated[
        bool, Meta(description="Also measure what the strongest components do alone, and what is left without them")
    ] = True


class Params(Measuring, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ln: Annotated[bool, Meta(description="Norms: the standard deviation counts as a constant")] = True
    identity: Annotated[bool, Meta(description="Activations: f(x) / x in the place of the derivative")] = True
    half: Annotated[bool, Meta(description="Gates: half of the derivative to either factor")] = True
    ah: Annotated[bool, Meta(description="Attention: the pattern counts as a constant")] = False
    uniform: Annotated[
        bool, Meta(description="Attention: the derivative shared out evenly among queries, keys and values (AttnLRP)")
    ] = False
    alone: Annotated[
        bool, Meta(description="Without a corrupted prompt: plain relevance of the prompt's own activations")
    ] = False

    @property
    def rules(self) -> Rules:
        return Rules(self.ln, self.identity, self.half, self.ah, self.uniform)


def examine(run: Run, params: Measuring, how: str, rules: Rules) -> Iterator[Event]:
    """Estimates, then measures as far as the settings ask."""
    asked = question(run, params)
    check_memory(run.model, asked)
    yield from run.settle()
    box = WhiteBox(run.model.network, run.ledger, run.clock.now)
    rules, remark = usable(box, rules)
    if remark:
        yield Note(text=remark)
    found = score_nodes(box, asked, how, rules, params.direction, readers=params.edges)
    yield asked.event(run.model, found.runs.clean, found.runs.corrupted)
    yield from run.settle()
    yield from found.maps()
    if box.anatomy.plan:
        score_edges(box, found, rules)
        yield found.circuit()
    yield Note(text=f"Estimated with {rules} by {how}: one backward pass for all components at once.")
    if not (params.exact or params.faithfulness) or not box.anatomy.plan:
        return
    runs = compare(box, asked, params.direction, gradients=False, keep=("sites", "keys"))
    yield from run.settle()
    if params.exact:
        yield from measure(run, box, runs, found)
    if params.faithfulness and not run.finished:
        yield from weigh(run, box, runs, found)


def measure(run: Run, box: WhiteBox, runs: Runs, found: Estimate) -> Iterator[Event]:
    """The exact maps, layer by layer, each with its correlation with the estimate so far."""
    rows: dict[Site, list[int]] = {}
    measured: dict[Site, list[tuple[float, ...]]] = {}
    for patch in exact.maps(box, runs, [site for site in box.sites if site != "head"]):
        yield from run.settle()
        yield patch
        rows.setdefault(patch.site, []).append(patch.layer)
        measured.setdefault(patch.site, []).append(patch.effects)  # type: ignore[arg-type]
        yield agreement(patch.site, found.sites[patch.site][rows[patch.site]], torch.tensor(measured[patch.site]))
        if run.finished:
            return


def weigh(run: Run, box: WhiteBox, runs: Runs, found: Estimate) -> Iterator[Event]:
    """Faithfulness and completeness of the strongest components."""
    faithfulness = Faithfulness(box, runs)
    yield from run.settle()
    for curve in faithfulness.curves(strongest(found, box, box.layers * (box.heads + 1))):
        yield from run.settle()
        yield curve
        if run.finished:
            return


def agreement(site: Site, estimated: torch.Tensor, measured: torch.Tensor) -> Curve:
    """Pearson's correlation of two maps (layers, tokens) so far; 0 where one of them is flat."""
    return Curve(
        name=f"agreement, {site}",
        x_name="layers measured",
        y_name="Pearson correlation",
        x=(float(len(measured)),),
        y=(pearson(estimated, measured),),
    )


def pearson(one: torch.Tensor, other: torch.Tensor) -> float:
    """The correlation of two maps of equal shape; 0 where one of them is flat."""
    a, b = one.flatten() - one.mean(), other.flatten() - other.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else 0.0


def usable(box: WhiteBox, rules: Rules) -> tuple[Rules, str]:
    """The rules that this network can be given, and a sentence about those that it cannot."""
    known = box.rules_known
    kept = Rules(**{name: getattr(rules, name) and getattr(known, name) for name in Rules.__struct_fields__})
    if kept == rules:
        return rules, ""
    missing = [name for name in Rules.__struct_fields__ if getattr(rules, name) != getattr(kept, name)]
    if not box.anatomy.plan:
        return kept, (
            f"Of this network only the layers can be told apart: {box.doubt}. So it is examined by attribution "
            "patching, at the layers' inputs alone. The rules need to know norms, activations and attention."
        )
    if missing == ["half"]:
        return kept, "This network's MLPs have no gates, so the half rule has nothing to do."
    return (
        kept,
        f"Some of this network's modules are of kinds not known here, so it goes without: {', '.join(missing)}.",
    )


def relevance(run: Run, params: Params) -> Iterator[Event]:
    """Plain layer-wise relevance propagation: c · a, with the logit difference itself for a metric."""
    asked: Question = question(run, params, alone=True)
    check_memory(run.model, asked)
    yield from run.settle()
    box = WhiteBox(run.model.network, run.ledger, run.clock.now)
    rules, remark = usable(box, params.rules)
    if remark:
        yield Note(text=remark)
    trace = box.read(asked.clean, rules=rules, gradients=True)
    difference = asked.difference(trace.logits)
    check_lead(difference.detach())
    yield asked.event(run.model, difference.detach(), difference.detach())
    places = [(site, layer, tensor) for site in box.sites for layer, tensor in enumerate(trace.site(site))]
    coefficients = box.backward(difference.mean(), [tensor for _, _, tensor in places])
    yield from run.settle()
    total = float(difference.mean().detach())
    for (site, layer, tensor), coefficient in zip(places, coefficients, strict=True):
        shares = (tensor.detach() * coefficient).sum(-1).sum(0) / total
        if site == "head":
            yield Patch(site=site, layer=layer, how="relevance", effects=tuple(shares.sum(0).tolist()), along="head")
        else:
            yield Patch(site=site, layer=layer, how="relevance", effects=tuple(shares.tolist()))
    yield Note(
        text="Without a corrupted prompt these are shares of the logit difference that flow back to each place: "
        "layer-wise relevance propagation, not relevance patching."
    )


@method(
    "relp",
    title="Relevance patching",
    family="attribution",
    needs=Need.LOGITS | Need.GRADIENTS,
    paper=Paper(
        "RelP: Faithful and Efficient Circuit Discovery via Relevance Patching",
        "Rezaei Jafari et al.",
        2025,
        "2508.21258",
    ),
    params=Params,
    idea="Which parts of the model make it say this rather than that? One backward pass, told to look past the "
    f"curved places of the network, tells for all of them at once. {PATENT}",
    look_at="The estimate is there at once. See the exact map fill in beside it, row by row, and whether it agrees.",
    shines=("ioi",),
    pictures=("patch-maps", "circuit-graph", "head-map"),
)
def relp(run: Run, params: Params) -> Iterator[Event]:
    yield from relevance(run, params) if params.alone else examine(run, params, "relp", params.rules)
