"""Verification: which guesses the target confirms, and the one token that every pass yields anyway.

Every rule walks down from the root, with p(·|v) the target's distribution after node v, filters applied.

`greedy`, at temperature 0: t ← argmax p(·|v). A child that carries t is accepted, the walk goes on from it; else t is
emitted. The output is what plain greedy decoding would have said.

When sampling, r ← p(·|v), and the children c of v are tested in draw order:

    accept c with probability min(1, r(c) / q(c)), and go on from it
    refused: r ← max(r - q, 0), renormalised, and the next child is tested against that
    no child left: draw the token from r

What q is depends on how the children came about: a point mass on c where they were looked up (`point`), the draft's
q(·|v) where each was drawn on its own (`with replacement`), and q(·|v) without the children refused so far,
renormalised, where they were drawn one after the other (`without replacement`). A token's chance to be emitted stays
p(token|v) in all three, so sampling is exact; that is what `tests/oracles/test_exact_enumeration.py` adds up.

Sources: one drawn child "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192, algorithm 1 and
appendix A.1; several, with replacement, "SpecInfer", 2305.09781, section 4; without, "Recursive Speculative Decoding",
2402.14160, section 3; the point mass is the first with q one-hot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from msgspec.structs import replace
from torch import Tensor

from engines.events import Choice, Judged, Outcome, Stage, Token, Verdict, Weighed
from engines.sampling import Sampler, top_choices
from engines.speculative.tree import Drawn, TokenTree

SHOWN_RESIDUAL = 8
TINY = 1e-38
"""Keeps quotients finite; no probability is that small."""


@dataclass(slots=True)
class Verification:
    """The outcome of one pass over a tree."""

    rule: Literal["greedy"] | Drawn
    path: list[int] = field(default_factory=list)
    """Accepted nodes from depth 1 down."""
    extra: int = -1
    """The bonus or correction token."""
    finals: list[float | None] = field(default_factory=list)
    """Probability after filters of every accepted token and of the extra one; None under greedy decoding."""
    stages: list[tuple[Stage, ...]] = field(default_factory=list)
    """What the filters did at the place of every accepted token and of the extra one."""
    judged: dict[int, Judged] = field(default_factory=dict)
    residual: Tensor | None = None
    """(vocabulary,) what the extra token was drawn from; None under greedy decoding."""

    @property
    def last(self) -> int:
        """The deepest accepted node; the root when all guesses were wrong."""
        return self.path[-1] if self.path else 0

    def extra_origin(self, tree: TokenTree) -> Literal["bonus", "correction"]:
        """A `correction` replaces a refused guess; a `bonus` comes when there was nothing left to refuse."""
        return "correction" if tree.children[self.last] else "bonus"

    def as_event(self, tree: TokenTree, position: int, spell: Callable[[int], Token]) -> Verdict:
        residual: tuple[Choice, ...] = ()
        if self.residual is not None:
            residual = top_choices(self.residual, SHOWN_RESIDUAL, spell)
        untested = (Judged(node, "untested") for node in range(1, len(tree)) if node not in self.judged)
        return Verdict(
            position=position,
            rule=self.rule,
            path=tuple(self.path),
            nodes=tuple(sorted((*self.judged.values(), *untested), key=lambda judged: judged.id)),
            extra=spell(self.extra),
            extra_origin=self.extra_origin(tree),
            residual=residual,
        )


def verify(
    tree: TokenTree,
    logits: Tensor,
    sampler: Sampler,
    rng: torch.Generator,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
) -> Verification:
    """Walks the tree by the rule that fits the sampler.

    Args:
        tree: n nodes.
        logits: the target's raw logits after each node, (n, vocabulary).
        sampler: penalties, temperature, filters; at temperature 0 the rule is `greedy`, else the tree's own.
        rng: source of the acceptance tests and draws.
        prompt, output: the committed text, root included, for the penalties.
    """
    result = Verification("greedy" if sampler.greedy else tree.drawn)
    walk = _walk_greedy if sampler.greedy else _walk_drawn
    text = list(output)
    node = 0
    while True:
        chosen = walk(tree, node, logits[node], sampler, rng, prompt, text, result)
        if chosen is None:
            return result
        result.path.append(chosen)
        text.append(tree.tokens[chosen])
        node = chosen


def _walk_greedy(
    tree: TokenTree, node: int, logits: Tensor, sampler: Sampler, rng: torch.Generator,
    prompt: Sequence[int], text: Sequence[int], result: Verification,
) -> int | None:  # fmt: skip
    warped = logits if sampler.plain else sampler.warp(logits, prompt, text)
    best = int(warped.argmax())
    log_total = float(warped.logsumexp(-1))
    first = Choice(sampler.spell(best), float((warped[best] - log_total).exp())) if tree.children[node] else None
    accepted = None
    for child in tree.children[node]:
        token = tree.tokens[child]
        outcome: Outcome = "accepted" if token == best else "rejected"
        p = float((warped[token] - log_total).exp())
        result.judged[child] = Judged(child, outcome, p=p, accept_probability=float(token == best), best=first)
        if token == best:
            accepted = child
    result.finals.append(None)
    result.stages.append(())
    if accepted is None:
        result.extra = best
    return accepted


def _walk_drawn(
    tree: TokenTree, node: int, logits: Tensor, sampler: Sampler, rng: torch.Generator,
    prompt: Sequence[int], text: Sequence[int], result: Verification,
) -> int | None:  # fmt: skip
    distribution = sampler.distribution(logits, prompt, text)
    p = distribution.probabilities
    r, q = p, tree.distributions.get(node)
    result.stages.append(distribution.stages)
    first = sampler.top(p, 1)[0] if tree.children[node] else None
    for child in tree.children[node]:
        token = tree.tokens[child]
        q_token = 1.0 if q is None else float(q[token])
        chance = min(1.0, float(r[token]) / max(q_token, TINY))
        u = uniform(rng)
        judged = Judged(child, "accepted", p=float(p[token]), accept_probability=chance, u=u, best=first)
        if q is not None:
            overlap = float(torch.minimum(r, q).sum())
            judged = replace(judged, q=q_token, overlap=overlap, weighed=weighed(r, q, sampler.spell))
        result.judged[child] = judged
        if u < chance:
            result.finals.append(float(p[token]))
            return child
        r = without(r, token) if q is None else remainder(r, q)
        left = tuple(choice for choice in sampler.top(r, SHOWN_RESIDUAL) if choice.p > 0)
        result.judged[child] = replace(judged, outcome="rejected", residual=left)
        if q is not None and tree.drawn == "without replacement":
            q = without(q, token)
    result.residual = r
    result.extra = sampler.draw(r, rng)
    result.finals.append(float(p[result.extra]))
    return None


def uniform(rng: torch.Generator) -> float:
    """The random number that an acceptance probability meets, in [0, 1)."""
    return float(torch.rand((), generator=rng, device=rng.device))


def weighed(r: Tensor, q: Tensor, spell: Callable[[int], Token]) -> tuple[Weighed, ...]:
    """The most probable tokens under either of two distributions (vocabulary,)."""
    ids = torch.maximum(r, q).topk(min(SHOWN_RESIDUAL, len(r))).indices.tolist()
    return tuple(Weighed(spell(id), float(r[id]), float(q[id])) for id in ids)


def without(distribution: Tensor, token: int) -> Tensor:
    """The distribution (vocabulary,) given that it is not this token; all zeros if it could be no other."""
    rest = distribution.clone()
    rest[token] = 0.0
    return rest / rest.sum().clamp(min=TINY)


def remainder(r: Tensor, q: Tensor) -> Tensor:
    """max(r - q, 0), renormalised: what is drawn from when a guess drawn from q was refused."""
    rest = (r - q).clamp(min=0)
    total = rest.sum()
    # r = q up to rounding refuses with probability 0; a float that does so anyway must still find a token.
    return rest / total if total > 0 else r
