"""How far an attribution can be trusted: soft sufficiency, soft comprehensiveness, and the deletion curve.

"ReAGent", Zhao and Shan, arXiv 2402.00794, which takes the two soft metrics from "Incorporating Attribution Importance
for Improving Faithfulness Metrics", Zhao and Aletras, arXiv 2305.10496; code: casszhao/ReAGent.

Input embeddings e_1 … e_n, importance s_i in [0, 1], q the next-token distribution on the whole input.

    1. soft masking: every coordinate of e_i is kept with chance r_i, independently, and is 0 otherwise
    2. sufficiency       r = s:      S(s) = 1 - D(p, q), p the distribution on the masked input
    3. nothing kept      r = 0:      S0 = 1 - D(p_0, q)
    4. Soft-NS = max(0, S(s) - S0) / (1 - S0): how much of the way back to q the important parts alone lead
    5. comprehensiveness r = 1 - s:  Soft-NC = D(p', q) / (1 - S0): how far off q is without them
    6. both for random scores, the softmax of n uniform numbers; reported is log(mean / mean for random scores), above 0
       where the attribution is better than chance

Two distances D: `repo`, Σ (√p - √q)² / √2, between 0 and √2, is what the published code computes; `Hellinger`,
√Σ (√p - √q)² / √2, between 0 and 1, is the distance of that name.

Importances that sum to 1 keep about one nth of every embedding: in a long context little is left of the input, and
Soft-NS is mostly 0 for every attribution. So n belongs beside the numbers. The published code draws one mask per
prompt; `draws` are averaged here.

The deletion curve takes the tokens away one by one, the most important first, by setting their embeddings to 0, and
records the probability of the target: the earlier it falls, the better the order.

The model is a function from embeddings (rows, n, width) to next-token probabilities (rows, vocabulary).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
"""Next-token probabilities (rows, vocabulary) after embeddings (rows, n, width)."""

Distance = Literal["repo", "Hellinger"]

ROWS = 8
"""Masked inputs in one pass."""


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """The two metrics of one attribution for one prediction; nan where S0 is 1, as then nothing can be compared."""

    sufficiency: float
    """Soft-NS, from 0 to 1."""
    comprehensiveness: float
    """Soft-NC, from 0; above 1 where the input without its important parts leads further away than none."""
    tokens: int
    """n, on which both depend."""


def distance(p: Tensor, q: Tensor, kind: Distance) -> Tensor:
    """D between distributions (…, vocabulary)."""
    squares = (p.sqrt() - q.sqrt()).square().sum(-1)
    return (squares if kind == "repo" else squares.sqrt()) / math.sqrt(2)


def normalised_sufficiency(q: Tensor, masked: Tensor, empty: Tensor, kind: Distance) -> Tensor:
    """Soft-NS from the distributions on the whole, the softly masked (…, vocabulary) and the empty input."""
    most = distance(empty, q, kind)
    return (most - distance(masked, q, kind)).clamp(min=0) / most


def normalised_comprehensiveness(q: Tensor, masked: Tensor, empty: Tensor, kind: Distance) -> Tensor:
    """Soft-NC; `masked` (…, vocabulary) are distributions on inputs that lack what is important."""
    return distance(masked, q, kind) / distance(empty, q, kind)


def softly_masked(embeddings: Tensor, keep: Tensor, draws: int, rng: torch.Generator) -> Tensor:
    """Embeddings (n, width) with each coordinate of token i kept with chance keep[i], `draws` times: (draws, n, width).

    Raises `ValueError` unless all chances are in [0, 1].
    """
    if not ((keep >= 0) & (keep <= 1)).all():
        raise ValueError(f"chances are between 0 and 1, not {float(keep.min()):g} to {float(keep.max()):g}")
    drawn = torch.rand((draws, *embeddings.shape), generator=rng, device=embeddings.device)
    return embeddings * (drawn < keep[:, None])


def soft_faithfulness(
    predict: Predict,
    embeddings: Tensor,
    scores: Tensor,
    rng: torch.Generator,
    *,
    kinds: Sequence[Distance] = ("repo", "Hellinger"),
    draws: int = 1,
) -> dict[Distance, Faithfulness]:
    """Soft-NS and Soft-NC of importances (n,) in [0, 1] for the prediction after embeddings (n, width).

    2 + 2 · `draws` rows are predicted; each metric is the mean over its draws. The same masks serve all `kinds`.
    """
    inputs = torch.cat(
        (
            embeddings[None],
            torch.zeros_like(embeddings)[None],
            softly_masked(embeddings, scores, draws, rng),
            softly_masked(embeddings, 1 - scores, draws, rng),
        )
    )
    p = in_pieces(predict, inputs)
    q, empty, kept, left = p[0], p[1], p[2 : 2 + draws], p[2 + draws :]
    return {
        kind: Faithfulness(
            sufficiency=float(normalised_sufficiency(q, kept, empty, kind).mean()),
            comprehensiveness=float(normalised_comprehensiveness(q, left, empty, kind).mean()),
            tokens=len(embeddings),
        )
        for kind in kinds
    }


def deletion_curve(
    predict: Predict, embeddings: Tensor, scores: Tensor, target: int, counts: Sequence[int] | None = None
) -> list[float]:
    """The target's probability with the embeddings (n, width) of so many most important tokens set to 0, for each of
    `counts`; without them, for 0, 1, … n.

    Of equally important tokens the first goes first.
    """
    order = scores.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    removed = torch.tensor(range(len(order) + 1) if counts is None else counts, device=order.device)
    stays = rank >= removed[:, None]
    return in_pieces(predict, embeddings * stays[:, :, None])[:, target].tolist()


def random_scores(count: int, rng: torch.Generator) -> Tensor:
    """An attribution that knows nothing (count,): the softmax of uniform numbers."""
    return torch.rand(count, generator=rng, device=rng.device).softmax(-1)


def shares(scores: Tensor) -> Tensor:
    """Signed scores (n,) of other methods as importances: absolute values that sum to 1; all alike if all are 0."""
    size = scores.abs()
    total = size.sum()
    return size / total if total > 0 else torch.full_like(size, 1 / len(size))


def log_ratio(values: Sequence[float], random: Sequence[float]) -> float:
    """log(mean / mean for random scores); infinite where one of the two is 0, nan where both are.

    Undefined values (nan) are left out of both means; nan where nothing remains.
    """
    above, below = ([value for value in side if not math.isnan(value)] for side in (values, random))
    if not above or not below or not (sum(above) or sum(below)):
        return math.nan
    mean, chance = sum(above) / len(above), sum(below) / len(below)
    if not mean or not chance:
        return math.inf if mean else -math.inf
    return math.log(mean / chance)


def in_pieces(predict: Predict, inputs: Tensor) -> Tensor:
    """Predictions for many inputs (rows, n, width), at most `ROWS` in one pass."""
    return torch.cat([predict(piece) for piece in inputs.split(ROWS)])
