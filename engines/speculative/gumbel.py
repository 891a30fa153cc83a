"""Drawing without replacement by adding noise: the Gumbel-Top-k trick, and noise whose maximum is given.

To log q(x) of every outcome x add its own Gumbel noise, -log(-log U) with U uniform. The outcome with the largest sum
is a draw from q; the k largest, in order, are k draws without replacement: one sort instead of k draws. The sums are
called tickets here, as in a lottery in which likely outcomes hold better ones.

The largest ticket of a set of outcomes does not depend on which outcome holds it. So a group may be given its best
ticket first and its members theirs later, moved so that the best of them is just that (`conditioned`): a tree of
outcomes is drawn from the top down, without ever listing its leaves.

Source: "Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick for Sampling Sequences Without Replacement",
Kool et al., arXiv 1903.06059, section 3 and appendix B.3. In float64 throughout: in float32 U is 0 or 1 too often.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 2.0**-54
"""Half of the step between the numbers that `torch.rand` gives: a U of 0 would be a ticket of minus infinity."""


def gumbel(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float64, finite."""
    u = torch.rand(tuple(shape), generator=rng, device=rng.device, dtype=torch.float64).clamp(min=SMALLEST)
    return -(-u.log()).log()


def gumbel_top_k(q: Tensor, k: int, rng: torch.Generator) -> tuple[list[float], list[int]]:
    """Tickets and ids of k different draws from q (n,), in draw order; fewer when fewer are possible."""
    tickets = q.double().log()
    tickets = tickets + gumbel(tickets.shape, rng)
    best = tickets.topk(min(k, int((q > 0).sum())))
    return best.values.tolist(), best.indices.tolist()


def conditioned(tickets: Tensor, best: Tensor) -> Tensor:
    """Tickets (..., n), moved so that the largest of each row is `best` (...,): their law, given that it is.

    Order within a row stays; -inf, the ticket of what is impossible, stays too. Each row needs one that is finite.
    """
    largest, best = tickets.amax(-1, keepdim=True), best[..., None]
    # At the largest the logarithm is -inf and v with it, so that exactly `best` comes out.
    v = best - tickets + (-torch.expm1(tickets - largest)).log()
    moved = best - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
    return moved.where(tickets.isfinite(), tickets)
