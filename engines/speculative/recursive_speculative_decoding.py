"""Recursive speculative decoding: trees of guesses without repetition, because siblings are drawn without replacement.

"Recursive Speculative Decoding: Accelerating LLM Inference via Sampling Without Replacement", Jeon et al., arXiv
2402.14160. Independent draws repeat each other, and a repeated guess is hardly a second chance. Drawn one after the
other from what is left, every sibling is new, and with as many siblings as tokens one of them is always accepted.

    RSD-C   1. level ℓ = 1 … L: for every guess v of the level before, b_ℓ children by Gumbel-Top-k of q(·|v)
    RSD-S   1. stochastic beam search. φ(root) ← 0, G(root) ← 0; level ℓ = 1 … L:
               φ(x) ← φ(v) + log q(x|v) for every child x of every guess v of the level before;
               G(x) ← φ(x) + Gumbel noise, moved so that the best child of v has v's own ticket G(v);
               the W children with the best tickets, whosever they are, become the level
    both    2. one pass of the target over the tree gives p(·|v) for all v
            3. from the root down: r ← p(·|v), Q ← q(·|v); for each child c of v in draw order, best ticket first:
               accept c with probability min(1, r(c) / Q(c)) and go on from it;
               refused: r ← max(r - Q, 0) and Q ← Q without c, both renormalised
            4. no child left: draw one more token from r

Exact: the text is plain decoding's, greedy or sampled. Cutting beams does not bend it: whether a guess's j-th child is
kept depends on its ticket, whose law depends on the siblings before it, not on which token it is. A level keeps all of
its W guesses; one whose children were all cut stays as a leaf, and if it is accepted the next token is a bonus. RSD-S
gives likely guesses more children: W·L nodes at most, spread differently at every turn.

At temperature 0 nothing is drawn: RSD-C takes the draft's b_ℓ most probable tokens, RSD-S is beam search, and the child
that is the target's first choice is accepted. Below an end of text nothing is guessed; other beams take its place.
`adapt` cuts L to what should pay, as in `specinfer`.

With the root's ticket fixed at 0, as in stochastic beam search (1903.06059, algorithm 1), tickets say how far a guess
is behind the best. They may: which guesses win does not depend on the best ticket's value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from engines.events import Event
from engines.method import Need, Paper, method
from engines.runner import Run
from engines.speculative.gumbel import conditioned, gumbel, gumbel_top_k
from engines.speculative.loop import speculate
from engines.speculative.specinfer import Expansion, Growing, LevelByLevel
from engines.speculative.specinfer import Params as Branching
from engines.speculative.tree import TokenTree

PAPER = Paper(
    "Recursive Speculative Decoding: Accelerating LLM Inference via Sampling Without Replacement",
    "Jeon et al.",
    2024,
    "2402.14160",
)
PICTURES = (
    "token-stream",
    "draft-tree",
    "overlap",
    "rejection-xray",
    "acceptance",
    "timeline",
    "budget",
    "cost-curve",
    "confidence",
)


class Beams(Growing, frozen=True, kw_only=True, forbid_unknown_fields=True):
    width: Annotated[int, Meta(ge=1, le=16, description="Guesses kept at every level (W)")] = 4
    length: Annotated[int, Meta(ge=1, le=8, description="Levels of the tree (L)")] = 3


class WithoutReplacement(Expansion):
    """Trees of a fixed shape: b_ℓ different children at level ℓ."""

    def __init__(self, run: Run, params: Branching) -> None:
        super().__init__(run, params, "without replacement")

    def draws(self, q: Tensor, count: int) -> Iterator[tuple[int, str]]:
        """Different tokens drawn from q (vocabulary,), in draw order, with their tickets."""
        for ticket, token in zip(*gumbel_top_k(q, count, self.rng), strict=True):
            yield token, f"{self.reader.draft.title}, ticket {ticket:z.2f}"


class StochasticBeams(LevelByLevel):
    """Trees whose shape is drawn too: the W best tickets of every level."""

    def __init__(self, run: Run, params: Beams) -> None:
        super().__init__(run, params, [params.width] * params.length, "without replacement")
        self._width = params.width
        self._phi: dict[int, float] = {}
        """Log-probability of every guess and those above it."""
        self._tickets: dict[int, float] = {}

    def grow(self, tree: TokenTree, leaves: Sequence[int], level: int) -> None:
        if level == 0:
            self._phi, self._tickets = {0: 0.0}, {0: 0.0}
        q = torch.stack([tree.distributions[leaf] for leaf in leaves])
        own = q.new_tensor([(self._phi[leaf], self._tickets[leaf]) for leaf in leaves], dtype=torch.float64)
        phi = own[:, :1] + q.double().log()
        tickets = phi if self.sampler.greedy else drawn_tickets(phi, own[:, 1], self.rng)
        best = tickets.flatten().topk(min(self._width, int((q > 0).sum())))
        for ticket, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            beam, token = divmod(place, q.shape[-1])
            source = "" if self.sampler.greedy else f", ticket {ticket:z.2f}"
            node = tree.add(leaves[beam], token, f"{self.reader.draft.title}{source}", float(q[beam, token]))
            self._phi[node], self._tickets[node] = float(phi[beam, token]), ticket


def drawn_tickets(phi: Tensor, own: Tensor, rng: torch.Generator) -> Tensor:
    """G of every child, from φ (..., vocabulary), -inf where impossible, and from the parents' own tickets (...)."""
    return conditioned(phi + gumbel(phi.shape, rng), own)


@method(
    "rsd-c",
    title="Recursive speculative decoding, fixed branching (RSD-C)",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK,
    paper=PAPER,
    params=Branching,
    idea="A small model guesses a tree of continuations in which no sibling repeats another. "
    "So every refused guess is followed by a truly new one.",
    look_at="The draft tree at temperature 1, beside SpecInfer's: no place in it is wasted on a repeated guess.",
    shines=("math-change", "copy-list"),
    loses=("poem-sea",),
    pictures=PICTURES,
)
def rsd_c(run: Run, params: Branching) -> Iterator[Event]:
    tree = WithoutReplacement(run, params)
    yield from tree.notes()
    yield from speculate(run, tree, params, drafting=tree.drafting)


@method(
    "rsd-s",
    title="Recursive speculative decoding, stochastic beams (RSD-S)",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK,
    paper=PAPER,
    params=Beams,
    idea="A small model draws whole continuations without repetition, and drops the unlikely ones early. "
    "So the guesses stand where they are most likely to be right.",
    look_at="The draft tree at temperature 1: every turn it has another shape, and never more than W guesses abreast.",
    shines=("math-change", "copy-list"),
    loses=("poem-sea",),
    pictures=PICTURES,
)
def rsd_s(run: Run, params: Beams) -> Iterator[Event]:
    beams = StochasticBeams(run, params)
    yield from beams.notes()
    yield from speculate(run, beams, params, drafting=beams.drafting)
