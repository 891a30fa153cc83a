"""Effects of patches, measured: the model is run with each of them.

"Locating and Editing Factual Associations in GPT", Meng et al., arXiv 2202.05262, and "Towards Best Practices of
Activation Patching in Language Models", Zhang & Nanda, arXiv 2309.16042. A patch puts one site's activation at one
position of the other run into the base run; its effect is what that does to the metric m. That is a run per place:
1,350 of them for 30 layers, 3 sites and 15 positions. Four observations make it a run per layer:

    causality   before the first token that differs both runs are the same, so effects there are exactly 0
    prefix      a patch at j changes nothing before j: what stands there is read from the base run's keys and values
    depth       a patch in layer l changes nothing below: the pass starts at layer l, from the base run's stream
    packing     all positions, and all sites that enter the stream at the same place, share one pass (`Chains`)

`naively` is the loop that these replace. Results are the same up to the rounding of floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from engines.attribution.estimate import Runs
from engines.events import Patch, Site
from engines.models.white_box import Chains, Edit, WhiteBox

MOST_NODES = 1024
"""Tokens in one pass, over all its rows."""


def maps(box: WhiteBox, runs: Runs, sites: Sequence[Site], order: Sequence[int] | None = None) -> Iterator[Patch]:
    """Rows of the exact maps of `resid_pre`, `attn_out` and `mlp_out`: a layer's as soon as they are measured.

    Args:
        runs: with the base run's keys and values kept.
        order: of the layers; from the first to the last when not given.
    """
    question = runs.question
    length, first, layers = question.length, question.first, box.layers
    pairs = question.clean.shape[0]
    # The MLP's patch of layer l enters the stream that layer l + 1 reads, so it is run with that.
    for layer in order if order is not None else range(layers + 1):
        entering: list[tuple[Site, int]] = []
        if layer < layers:
            entering += [(site, layer) for site in ("resid_pre", "attn_out") if site in sites]
        if layer and "mlp_out" in sites:
            entering.append(("mlp_out", layer - 1))
        if not entering:
            continue
        found: list[list[float]] = [[] for _ in entering]
        for roots in batches(first, length, pairs * len(entering)):
            measured = _pass(box, runs, Chains(roots, length), layer, entering)
            for row, values in zip(found, measured.tolist(), strict=True):
                row += values
        for (site, of), row in zip(entering, found, strict=True):
            yield Patch(site=site, layer=of, how="exact", effects=(0.0,) * first + tuple(row), direction=runs.direction)


def heads(box: WhiteBox, runs: Runs) -> Iterator[Patch]:
    """Rows of the exact head map: a head is patched at all positions at once."""
    question = runs.question
    length, pairs = question.length, question.clean.shape[0]
    chains = Chains((question.first,), length)
    span = slice(question.first, length)
    at_once = max(1, MOST_NODES // (pairs * (length - question.first)))
    for layer in range(box.layers):
        found: list[float] = []
        for start in range(0, box.heads, at_once):
            group = list(range(start, min(box.heads, start + at_once)))
            stream = runs.base.resid_pre[layer][:, span].repeat(len(group), 1, 1)
            edit = _heads_from(runs.other.head[layer][:, span], group)
            hidden = box.read_chains(runs.base, chains, layer, stream, {("head", layer): edit})
            found += effects(box, runs, hidden, len(group))[:, 0].tolist()
        yield Patch(site="head", layer=layer, how="exact", effects=tuple(found), along="head", direction=runs.direction)


def node(box: WhiteBox, runs: Runs, id: str) -> float:
    """The exact effect of patching one component at all positions, in one pass.

    Raises `KeyError` for an id that names no component.
    """
    question = runs.question
    if id == "logits":
        return 1.0 - 2 * runs.at_rest
    chains = Chains((question.first,), question.length)
    span = slice(question.first, question.length)
    layer, edits = 0, {}
    base, other = runs.base, runs.other
    if id == "embed":
        stream = other.resid_pre[0][:, span]
    elif id.startswith("m") and id[1:].isdigit() and int(id[1:]) < box.layers:
        layer = int(id[1:]) + 1
        stream = base.resid_pre[layer][:, span] + (other.mlp_out[layer - 1] - base.mlp_out[layer - 1])[:, span]
    else:
        of, _, unit = id.removeprefix("a").partition(".")
        if not (of.isdigit() and unit.isdigit() and int(of) < box.layers and int(unit) < box.heads):
            raise KeyError(id)
        layer = int(of)
        stream = base.resid_pre[layer][:, span]
        edits = {("head", layer): _heads_from(other.head[layer][:, span], [int(unit)])}
    hidden = box.read_chains(base, chains, layer, stream, edits)
    return float(effects(box, runs, hidden, 1)[0, 0])


@torch.no_grad()
def naively(box: WhiteBox, runs: Runs, site: Site, layer: int, position: int) -> float:
    """The effect of one patch by a whole pass over the whole prompts."""
    there = runs.other.site(site)[layer][:, position]

    def edit(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, position] = there
        return value

    logits = box.read(runs.base_ids, keep=(), edits={(site, layer): edit}).logits
    return float(runs.metric(runs.question.difference(logits))) - runs.at_rest


def batches(first: int, length: int, rows: int) -> Iterator[tuple[int, ...]]:
    """Positions from `first` on, in groups of which the chains hold at most `MOST_NODES` tokens over all rows."""
    group: list[int] = []
    nodes = 0
    for root in range(first, length):
        if group and (nodes + length - root) * rows > MOST_NODES:
            yield tuple(group)
            group, nodes = [], 0
        group.append(root)
        nodes += length - root
    if group:
        yield tuple(group)


def _pass(box: WhiteBox, runs: Runs, chains: Chains, layer: int, entering: Sequence[tuple[Site, int]]) -> Tensor:
    """Effects (sites, chains) of patches that enter at `layer`, by one pass."""
    base, other = runs.base, runs.other
    pairs = base.logits.shape[0]
    places, starts = chains.positions, chains.starts
    roots = list(chains.roots)
    rows, edits = [], {}
    for index, (site, of) in enumerate(entering):
        stream = base.resid_pre[layer][:, places].clone()
        if site == "resid_pre":
            stream[:, starts] = other.resid_pre[layer][:, roots]
        elif site == "mlp_out":
            stream[:, starts] += (other.mlp_out[of] - base.mlp_out[of])[:, roots]
        else:
            here = slice(index * pairs, (index + 1) * pairs)
            edits[site, of] = written(here, starts, other.attn_out[of][:, roots])
        rows.append(stream)
    hidden = box.read_chains(base, chains, layer, torch.cat(rows), edits)
    return effects(box, runs, hidden, len(entering))


def effects(box: WhiteBox, runs: Runs, hidden: Tensor, groups: int) -> Tensor:
    """Effects (groups, chains) from the streams at the chains' ends (groups · pairs, chains, width)."""
    question = runs.question
    candidates = question.candidates.to(hidden.device).repeat(groups, 1)[:, None].expand(-1, hidden.shape[1], -1)
    said = box.logits(hidden, candidates)
    difference = (said[..., 0] - said[..., 1]).unflatten(0, (groups, -1)).transpose(1, 2)
    return runs.metric(difference) - runs.at_rest


def written(rows: slice, places: list[int], values: Tensor) -> Edit:
    def edit(value: Tensor) -> Tensor:
        value = value.clone()
        value[rows, places] = values
        return value

    return edit


def _heads_from(there: Tensor, group: Sequence[int]) -> Edit:
    """Row block i of a batch gets head `group[i]` from `there`, (pairs, tokens, heads, width)."""

    def edit(value: Tensor) -> Tensor:
        value = value.clone()
        blocks = value.unflatten(0, (len(group), -1))
        for index, head in enumerate(group):
            blocks[index, :, :, head] = there[:, :, head]
        return blocks.flatten(0, 1)

    return edit
