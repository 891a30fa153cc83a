"""Effects of patches, estimated from one backward pass: coefficient × difference.

"Attribution Patching", Nanda 2023, and "RelP: Faithful and Efficient Circuit Discovery via Relevance Patching", Rezaei
Jafari et al., arXiv 2508.21258. What would the metric m be if a component's activation a in the base run were the one
from the other run? To first order

    s = Σ c · (a_other − a_base),      c = ∂m/∂a in the base run,

summed over pairs and width, for all components at once. RelP is the same formula with a backward pass that keeps to
rules (`engines.models.rules`).

Edges are scored in the same way, "Attribution Patching Outperforms Automated Circuit Discovery", Syed et al., arXiv
2310.10348: the stream is a sum, so what writer u does through reader v alone is

    e(u → v) = Σ (a_u,other − a_u,base) · g_v,

g_v being what flows back into the stream out of reader v: the coefficient at the reader's projection, through its
matrix and its norm. Over all readers behind u these sum to the score of u.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engines.attribution.questions import Question, check_metric
from engines.events import Circuit, CircuitEdge, CircuitNode, Direction, Event, Patch, Site
from engines.models.anatomy import weight
from engines.models.rules import GRADIENT, Rules
from engines.models.white_box import Trace, WhiteBox

SHOWN_EDGES = 3000
STREAM_SITES: tuple[Site, ...] = ("resid_pre", "attn_out", "mlp_out")


@dataclass(slots=True)
class Runs:
    """The two runs that are compared: patches go into the base run, and come from the other one."""

    question: Question
    direction: Direction
    base: Trace
    other: Trace
    clean: Tensor
    """LD by pair after the clean prompts, (pairs,)."""
    corrupted: Tensor

    @property
    def base_ids(self) -> Tensor:
        return self.question.corrupted if self.direction == "denoise" else self.question.clean

    def metric(self, difference: Tensor) -> Tensor:
        """m of logit differences (…, pairs)."""
        low = self.corrupted.mean()
        return (difference.mean(-1) - low) / (self.clean.mean() - low)

    @property
    def at_rest(self) -> float:
        """m of the base run."""
        return 0.0 if self.direction == "denoise" else 1.0


@dataclass(slots=True)
class Estimate:
    """Scores in units of m."""

    how: str
    runs: Runs
    sites: dict[Site, Tensor]
    """(layers, tokens) for places in the stream, (layers, heads, tokens) for heads."""
    logits: float
    """The whole difference of m between the runs, with its sign."""
    edges: list[tuple[str, str, str, float]] = field(default_factory=list)
    """Writer, reader, through what, score: the strongest."""
    edge_count: int = 0
    flows: list[Tensor] = field(default_factory=list)
    """What flows back to the readers, for `score_edges`."""

    def node(self, id: str) -> float:
        """The score of a component by its id."""
        if id == "embed":
            return float(self.sites["resid_pre"][0].sum())
        if id == "logits":
            return self.logits
        if id.startswith("m"):
            return float(self.sites["mlp_out"][int(id[1:])].sum())
        layer, head = map(int, id[1:].split("."))
        return float(self.sites["head"][layer, head].sum())

    def events(self) -> Iterator[Event]:
        """The maps row by row, then the circuit."""
        yield from self.maps()
        if "head" in self.sites:
            yield self.circuit()

    def maps(self) -> Iterator[Patch]:
        """The maps row by row."""
        direction = self.runs.direction
        for site, scores in self.sites.items():
            for layer, row in enumerate(scores.sum(-1).tolist() if site == "head" else scores.tolist()):
                yield Patch(
                    site=site,
                    layer=layer,
                    how=self.how,
                    effects=tuple(row),
                    along="head" if site == "head" else "position",
                    direction=direction,
                )

    def circuit(self) -> Circuit:
        """All components with their scores, and the strongest edges."""
        return Circuit(
            how=self.how,
            nodes=tuple(self._nodes()),
            edges=tuple(CircuitEdge(*edge) for edge in self.edges),  # type: ignore[arg-type]
            edge_count=self.edge_count,
            direction=self.runs.direction,
        )

    def _nodes(self) -> Iterator[CircuitNode]:
        embedding = self.sites["resid_pre"][0].tolist()
        yield CircuitNode("embed", "embedding", -1, None, sum(embedding), tuple(embedding))
        for layer, (heads, mlp) in enumerate(
            zip(self.sites["head"].tolist(), self.sites["mlp_out"].tolist(), strict=True)
        ):
            for head, row in enumerate(heads):
                yield CircuitNode(head_id(layer, head), "head", layer, head, sum(row), tuple(row))
            yield CircuitNode(mlp_id(layer), "mlp", layer, None, sum(mlp), tuple(mlp))
        yield CircuitNode("logits", "logits", len(self.sites["mlp_out"]), None, self.logits)


def head_id(layer: int, head: int) -> str:
    return f"a{layer}.{head}"


def mlp_id(layer: int) -> str:
    return f"m{layer}"


def compare(
    box: WhiteBox,
    question: Question,
    direction: Direction = "denoise",
    rules: Rules = GRADIENT,
    *,
    gradients: bool = True,
    keep: tuple[str, ...] = ("sites",),
) -> Runs:
    """Reads both sides; the base run under rules and with its graph, if `gradients`.

    Raises `BadQuestion` when the sides hardly differ in LD.
    """
    sides = question.corrupted, question.clean
    base_ids, other_ids = sides if direction == "denoise" else sides[::-1]
    # Under the same rules, which round differently: where the prompts agree the activations are then the same ones.
    other = box.read(other_ids, rules=rules)
    base = box.read(base_ids, rules=rules, gradients=gradients, keep=keep)
    said = question.difference(base.logits.detach()), question.difference(other.logits)
    corrupted, clean = said if direction == "denoise" else said[::-1]
    check_metric(question, clean, corrupted)
    return Runs(question, direction, base, other, clean, corrupted)


def estimate(
    box: WhiteBox,
    question: Question,
    how: str,
    rules: Rules = GRADIENT,
    direction: Direction = "denoise",
    *,
    edges: bool = False,
) -> Estimate:
    """Scores of all components, and of all edges if asked: two passes forward, one backward.

    Raises `BadQuestion` when the sides hardly differ in LD.
    """
    found = score_nodes(box, question, how, rules, direction, readers=edges)
    score_edges(box, found, rules)
    return found


def score_nodes(
    box: WhiteBox,
    question: Question,
    how: str,
    rules: Rules = GRADIENT,
    direction: Direction = "denoise",
    *,
    readers: bool = False,
) -> Estimate:
    """Scores of all components. `readers`: with all that `score_edges` needs then.

    Raises `BadQuestion` when the sides hardly differ in LD.
    """
    readers = readers and bool(box.anatomy.plan)
    runs = compare(box, question, direction, rules, keep=("sites", "readers") if readers else ("sites",))
    base, other = runs.base, runs.other
    places = [(site, tensor) for site in box.sites for tensor in base.site(site)]
    tensors = [tensor for _, tensor in places]
    if readers:
        tensors += [base.resid_pre[-1], *base.mlp_in, *(part for parts in base.projected for part in parts)]
    coefficients = box.backward(runs.metric(question.difference(base.logits)), tensors)
    sites: dict[Site, Tensor] = {}
    for site in box.sites:
        mine = [c for (name, _), c in zip(places, coefficients, strict=False) if name == site]
        sites[site] = torch.stack(
            [
                ((there - here.detach()) * c).sum(-1).sum(0)
                for there, here, c in zip(other.site(site), base.site(site), mine, strict=True)
            ]
        )
    if "head" in sites:
        sites["head"] = sites["head"].transpose(1, 2)
    found = Estimate(how, runs, sites, 1.0 if direction == "denoise" else -1.0, flows=coefficients[len(places) :])
    # The graph goes; what the runs were stays.
    runs.base = _without_graph(base)
    return found


@torch.no_grad()
def score_edges(box: WhiteBox, found: Estimate, rules: Rules) -> None:
    """Fills in `edges`: the strongest of all pairs of a writer and a later reader, where there are flows."""
    if not found.flows:
        return
    names, readers, scores = edge_matrix(box, found.runs, rules, found.flows)
    found.flows = []
    found.edge_count = int((~scores.isnan()).sum())
    strength = scores.abs().nan_to_num(-1.0)
    top = strength.flatten().topk(min(SHOWN_EDGES, found.edge_count)).indices
    for at in top.tolist():
        writer, reader = divmod(at, len(readers))
        target, through = readers[reader]
        found.edges.append((names[writer], target, through, float(scores[writer, reader])))


@torch.no_grad()
def edge_matrix(
    box: WhiteBox, runs: Runs, rules: Rules, coefficients: list[Tensor]
) -> tuple[list[str], list[tuple[str, str]], Tensor]:
    """e(u → v) of all writers and readers.

    Args:
        coefficients: of what the final norm reads, of the MLPs' inputs, and of the projections' outputs.

    Returns:
        Ids of the writers, (id, through what) of the readers, and scores (writers, readers), NaN where the reader comes
        before the writer.
    """
    layers, blocks, base, other = box.layers, box.anatomy.blocks, runs.base, runs.other
    # Before the first difference nothing is written that could be told apart.
    there = slice(runs.question.first, None)
    coefficients = [part[:, there] for part in coefficients]
    at_end, at_mlps = coefficients[0], coefficients[1 : 1 + layers]
    rest = iter(coefficients[1 + layers :])
    at_projections = [tuple(next(rest) for _ in block.projections) for block in blocks]

    deltas, names, written = [], [], []
    deltas.append((other.resid_pre[0] - base.resid_pre[0].detach())[None, :, there])
    names.append("embed")
    written.append(0)
    for layer, block in enumerate(blocks):
        matrix = weight(block.out).unflatten(1, (box.heads, -1))
        heads = (other.head[layer] - base.head[layer].detach())[:, there]
        contribution = torch.einsum("bthd,whd->hbtw", heads, matrix)
        if block.attention_writer is not block.attention:
            # A norm stands between the heads and the stream; to first order it passes differences on linearly.
            heads = base.head[layer].detach()[:, there]
            behind = block.out(heads.flatten(-2))
            contribution = through_norm(box, block.attention_writer, behind, contribution, rules, forward=True)
        deltas.append(contribution)
        names += [head_id(layer, head) for head in range(box.heads)]
        deltas.append((other.mlp_out[layer] - base.mlp_out[layer].detach())[None, :, there])
        names.append(mlp_id(layer))
        written += [2 * layer + 1] * box.heads + [2 * layer + 2]
    writers = torch.cat([part.flatten(1) for part in deltas])

    columns: list[Tensor] = []
    readers: list[tuple[str, str]] = []

    def column(flowing: Tensor, reads: int) -> None:
        """Scores of readers (readers, pairs, tokens, width) that see what was written before `reads`."""
        earlier = sum(place < reads for place in written)
        product = writers.new_full((len(writers), len(flowing)), float("nan"))
        product[:earlier] = writers[:earlier] @ flowing.flatten(1).T
        columns.append(product)

    for layer, block in enumerate(blocks):
        stream = base.resid_pre[layer].detach()[:, there]
        parts = box.anatomy.split(at_projections[layer])
        matrices = box.anatomy.split([weight(module).T for module in block.projections])
        flowing = torch.cat([torch.einsum("bthd,whd->hbtw", parts[name], matrices[name]) for name in ("q", "k", "v")])
        column(through_norm(box, block.attention_norm, stream, flowing, rules), 2 * layer + 1)
        # Queries have a head each, keys and values may share one: they are told by the first head of their group.
        group = box.heads // parts["k"].shape[2]
        readers += [(head_id(layer, head), "q") for head in range(box.heads)]
        for name in ("k", "v"):
            readers += [(head_id(layer, head * group), name) for head in range(parts[name].shape[2])]
        middle = stream if box.anatomy.parallel else stream + base.attn_out[layer].detach()[:, there]
        reads = 2 * layer + 1 if box.anatomy.parallel else 2 * layer + 2
        column(through_norm(box, block.mlp_norm, middle, at_mlps[layer][None], rules), reads)
        readers.append((mlp_id(layer), "mlp"))
    # The coefficient at the end of the stream has come through the final norm already.
    column(at_end[None], 2 * layers + 1)
    readers.append(("logits", "logits"))
    return names, readers, torch.cat(columns, dim=1)


def through_norm(
    box: WhiteBox, norm: torch.nn.Module, x: Tensor, vectors: Tensor, rules: Rules, *, forward: bool = False
) -> Tensor:
    """Vectors (n, *x) through the derivative of a norm at x, as the rules have it: back, or `forward`."""
    box.rules = rules
    try:
        if forward:
            return torch.func.vmap(lambda vector: torch.func.jvp(norm, (x,), (vector,))[1])(vectors)
        _, pull = torch.func.vjp(norm, x)
        return torch.func.vmap(lambda vector: pull(vector)[0])(vectors)
    finally:
        box.rules = GRADIENT


def _without_graph(trace: Trace) -> Trace:
    bare = Trace(trace.logits.detach())
    for name in ("resid_pre", "attn_out", "mlp_out", "head"):
        setattr(bare, name, [tensor.detach() for tensor in getattr(trace, name)])
    return bare
