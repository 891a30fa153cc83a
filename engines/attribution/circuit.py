"""From scores to a circuit: which components to keep, and whether they do the work alone.

Faithfulness and completeness as in "Sparse Feature Circuits: Discovering and Editing Interpretable Causal Graphs in
Language Models", Marks et al., arXiv 2403.19647:

    faithfulness(C) = (m(C) − m(∅)) / (m(M) − m(∅))          completeness(C) = faithfulness of all but C

m(C) is the metric after the clean prompts when every component outside C gives what it gave after the corrupted ones.
A good circuit has a faithfulness near 1 and a completeness near 0. The nodes are the heads and the MLPs; the embedding
is always that of the clean prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from engines.attribution.estimate import Estimate, Runs, head_id, mlp_id
from engines.events import Curve, Site
from engines.models.white_box import Edit, WhiteBox

Ablation = Literal["resample", "mean", "zero"]
SIZES = (5, 10, 20, 40, 80, 160)


def components(box: WhiteBox) -> list[str]:
    """Ids of all heads and MLPs."""
    return [
        id
        for layer in range(box.layers)
        for id in (*(head_id(layer, head) for head in range(box.heads)), mlp_id(layer))
    ]


def strongest(found: Estimate, box: WhiteBox, count: int) -> list[str]:
    """The `count` heads and MLPs of the greatest scores in size, greatest first."""
    return sorted(components(box), key=lambda id: -abs(found.node(id)))[:count]


def influential(scores: Sequence[float], share: float) -> int:
    """How many of the scores, greatest in size first, hold this share of the sum of their sizes."""
    sizes = sorted(map(abs, scores), reverse=True)
    goal, total = share * sum(sizes), 0.0
    for count, size in enumerate(sizes):
        if total >= goal:
            return count
        total += size
    return len(sizes)


@torch.no_grad()
def metric_of(box: WhiteBox, runs: Runs, kept: Collection[str], ablation: Ablation = "resample") -> float:
    """m after the clean prompts when only the components of `kept` work, by one pass.

    Args:
        ablation: what the others give: their activations after the corrupted prompt (`resample`), the mean of those
            over all pairs, or nothing.
    """
    corrupted = runs.other if runs.direction == "noise" else runs.base
    edits: dict[tuple[Site | str, int], Edit] = {}
    for layer in range(box.layers):
        out = [head for head in range(box.heads) if head_id(layer, head) not in kept]
        if out:
            edits["head", layer] = _heads_out(out, _ablated(corrupted.head[layer].detach(), ablation))
        if mlp_id(layer) not in kept:
            edits["mlp_out", layer] = _all_out(_ablated(corrupted.mlp_out[layer].detach(), ablation))
    logits = box.read(runs.question.clean, keep=(), edits=edits).logits
    return float(runs.metric(runs.question.difference(logits)))


class Faithfulness:
    """Faithfulness and completeness of circuits of one question; whole and empty circuit are read once."""

    def __init__(self, box: WhiteBox, runs: Runs, ablation: Ablation = "resample") -> None:
        self._box, self._runs, self._ablation = box, runs, ablation
        self._all = frozenset(components(box))
        self.whole = metric_of(box, runs, self._all, ablation)
        self.empty = metric_of(box, runs, frozenset(), ablation)

    def of(self, kept: Iterable[str]) -> float:
        """What the circuit does of what the model does; ids other than of heads and MLPs count for nothing."""
        value = metric_of(self._box, self._runs, frozenset(kept) & self._all, self._ablation)
        return (value - self.empty) / (self.whole - self.empty)

    def completeness(self, kept: Iterable[str]) -> float:
        """What is left when the circuit is taken away."""
        return self.of(self._all - set(kept))

    def curves(self, ranking: Sequence[str], sizes: Sequence[int] = SIZES) -> Iterator[Curve]:
        """Both, point by point, for the first components of a ranking."""
        for size in sizes:
            if size > len(ranking):
                return
            kept = ranking[:size]
            for name, value in (("faithfulness", self.of(kept)), ("completeness", self.completeness(kept))):
                yield Curve(name=name, x_name="nodes kept", y_name=name, x=(float(size),), y=(value,))


def _ablated(activation: Tensor, ablation: Ablation) -> Tensor:
    if ablation == "zero":
        return torch.zeros_like(activation)
    return activation.mean(0, keepdim=True).expand_as(activation) if ablation == "mean" else activation


def _heads_out(heads: list[int], instead: Tensor) -> Edit:
    def edit(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, :, heads] = instead[:, :, heads]
        return value

    return edit


def _all_out(instead: Tensor) -> Edit:
    return lambda _: instead
