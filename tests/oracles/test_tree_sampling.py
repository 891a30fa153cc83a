"""What is drawn without replacement has the law it should have, and checking it leaves the target's law as it is.

Rounds by the hundred thousand over tables of a few tokens, all at once: the tickets come from the code under test, the
walk from the root down is written out here once more, after the paper. Distances between laws are total variation; what
chance alone makes of it, with as many draws from the law itself, is the noise floor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import permutations, product

import pytest
import torch
from scipy.stats import chi2_contingency, gumbel_r, kstest
from torch import Tensor

from engines.chi_square import LEVEL, fit
from engines.speculative.gumbel import conditioned, gumbel, gumbel_top_k
from engines.speculative.recursive_speculative_decoding import drawn_tickets

Q = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(*shape: int, seed: int) -> Tensor:
    """Random distributions over the last axis, uneven ones."""
    weights = torch.rand(shape, generator=rng(seed), dtype=torch.float64).square() + 0.01
    return weights / weights.sum(-1, keepdim=True)


def counted(rows: Tensor) -> Counter[tuple[int, ...]]:
    found, counts = rows.unique(dim=0, return_counts=True)
    return Counter(dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True)))


def test_two_draws_by_gumbel_top_k_have_the_law_of_two_draws_without_replacement() -> None:
    source = rng()
    counts = Counter(tuple(gumbel_top_k(Q, 2, source)[1]) for _ in range(15_000))
    law = {(i, j): float(Q[i] * Q[j] / (1 - Q[i])) for i, j in permutations(range(4), 2)}
    assert fit(counts, law).p_value > LEVEL


def test_gumbel_top_k_draws_as_torchs_multinomial_does() -> None:
    source = rng(1)
    ours = torch.tensor([gumbel_top_k(Q, 3, source)[1] for _ in range(10_000)])
    theirs = torch.multinomial(Q.expand(10_000, 4), 3, replacement=False, generator=source)
    for place in range(3):
        both = torch.stack([ours[:, place].bincount(minlength=4), theirs[:, place].bincount(minlength=4)])
        assert chi2_contingency(both.numpy()).pvalue > LEVEL


def test_tickets_under_a_drawn_best_are_tickets_drawn_freely() -> None:
    """The best of a group is Gumbel noise about log Σ exp φ; under it, each member's must be its own about its φ."""
    phi = torch.tensor([-0.3, -1.0, -2.5], dtype=torch.float64)
    rounds, source = 20_000, rng(2)
    best = phi.logsumexp(-1) + gumbel((rounds,), source)
    tickets = conditioned(phi + gumbel((rounds, 3), source), best)
    for member in range(3):
        assert kstest(tickets[:, member].numpy(), gumbel_r(loc=float(phi[member])).cdf).pvalue > LEVEL


def beams(q1: Tensor, q2: Tensor, width: int, rounds: int, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two levels of stochastic beam search: tokens (rounds, width) of both, and the second's parents."""
    size = len(q1)
    phi = q1.log().expand(rounds, size)
    best = drawn_tickets(phi, phi.new_zeros(rounds), source).topk(width)
    tickets, first = best.values, best.indices
    phi = phi.gather(-1, first)[..., None] + q2.log()[first]
    places = drawn_tickets(phi, tickets, source).flatten(1).topk(width).indices
    return first, places % size, places // size


def test_the_best_tickets_are_sequences_drawn_without_replacement() -> None:
    q1, q2 = table(3, seed=1), table(3, 3, seed=2)
    first, second, parent = beams(q1, q2, 2, 40_000, rng(3))
    pairs = torch.cat((first.gather(1, parent), second), 1)[:, [0, 2, 1, 3]]
    q = {(a, b): float(q1[a] * q2[a, b]) for a, b in product(range(3), range(3))}
    law = {(*one, *other): q[one] * q[other] / (1 - q[one]) for one, other in permutations(q, 2)}
    assert fit(counted(pairs), law).p_value > LEVEL


def walk(
    p: Tensor, q: Tensor, children: Tensor, there: Tensor, source: torch.Generator, *, shrink: bool = True
) -> tuple[Tensor, Tensor]:
    """Recursive rejection sampling at one node of every round.

    Args:
        p, q: (rounds, vocabulary).
        children: (rounds, m) in draw order; `there` says which of them the node has.
        shrink: take refused children out of q, as for draws without replacement.

    Returns:
        Which child was accepted (rounds,), m if none, and what is left to draw from (rounds, vocabulary).
    """
    rounds, m = children.shape
    r, q, accepted = p.clone(), q.clone(), torch.full((rounds,), m)
    every = torch.arange(rounds)
    for j in range(m):
        c = children[:, j]
        tested = there[:, j] & (accepted == m)
        u = torch.rand(rounds, generator=source, dtype=torch.float64)
        hit = tested & (u < r[every, c] / q[every, c])
        accepted[hit] = j
        refused = tested & ~hit
        rest = (r - q).clamp(min=0)
        r = torch.where(refused[:, None], rest / rest.sum(-1, keepdim=True), r)
        if shrink:
            left = q.clone()
            left[every, c] = 0.0
            q = torch.where(refused[:, None], left / left.sum(-1, keepdim=True), q)
    return accepted, r


def draws(distributions: Tensor, source: torch.Generator) -> Tensor:
    return torch.multinomial(distributions, 1, generator=source)[:, 0]


ROUNDS = 120_000
P1, P2, P3 = table(4, seed=11), table(4, 4, seed=12), table(4, 4, 4, seed=13)
Q1, Q2 = table(4, seed=14), table(4, 4, seed=15)


def rsd_s(width: int, *, shrink: bool = True, resort: bool = False) -> Tensor:
    """Texts of three tokens (rounds, 3): one turn over a tree of two levels, then plain sampling."""
    source, every = rng(4), torch.arange(ROUNDS)
    first, second, parent = beams(Q1, Q2, width, ROUNDS, source)
    if resort:
        order = Q1[first].argsort(-1, descending=True)
        first, parent = first.gather(1, order), order.argsort(-1).gather(1, parent)
        order = Q2[first.gather(1, parent), second].argsort(-1, descending=True)
        second, parent = second.gather(1, order), parent.gather(1, order)
    whole = torch.ones_like(first, dtype=torch.bool)
    beam, r = walk(P1.expand(ROUNDS, 4), Q1.expand(ROUNDS, 4), first, whole, source, shrink=shrink)
    refused = beam == width
    one = torch.where(refused, draws(r, source), first[every, beam % width])
    there = (parent == beam[:, None]) & ~refused[:, None]
    child, r = walk(P2[one], Q2[one], second, there, source, shrink=shrink)
    two = torch.where(child == width, draws(r, source), second[every, child % width])
    return torch.stack((one, two, draws(P3[one, two], source)), 1)


def distance(texts: Tensor) -> float:
    """Total variation between the frequencies of texts and the target's law."""
    law = P1[:, None, None] * P2[:, :, None] * P3
    counts = (texts * torch.tensor([16, 4, 1])).sum(-1).bincount(minlength=64)
    return float((counts / len(texts) - law.flatten()).abs().sum() / 2)


@cache
def floor() -> float:
    """The distance of plain sampling, as many rounds of it."""
    source = rng(5)
    one = draws(P1.expand(ROUNDS, 4), source)
    two = draws(P2[one], source)
    return distance(torch.stack((one, two, draws(P3[one, two], source)), 1))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_stochastic_beams_leave_the_targets_law_as_it_is(width: int) -> None:
    assert distance(rsd_s(width)) < 3 * floor()


@pytest.mark.parametrize(
    "wrong",
    [lambda: rsd_s(3, shrink=False), lambda: rsd_s(3, resort=True)],
    ids=["q kept as it was after a refusal", "siblings tried in order of draft probability"],
)
def test_wrong_rules_are_caught(wrong: Callable[[], Tensor]) -> None:
    assert distance(wrong()) > 3 * floor()


@pytest.mark.parametrize(("k", "with_replacement", "without"), [(1, 0.7, 0.7), (2, 0.76, 0.8086), (3, 0.808, 1.0)])
def test_siblings_that_differ_are_accepted_more_often(k: int, with_replacement: float, without: float) -> None:
    """p = (.5, .3, .2), q = (.2, .5, .3), one level of k guesses drawn by the code under test."""
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    rounds, source = 8_000, rng(6)
    different = torch.tensor([gumbel_top_k(q, k, source)[1] for _ in range(rounds)])
    independent = torch.multinomial(q.expand(rounds, 3), k, replacement=True, generator=source)
    there = torch.ones(rounds, k, dtype=torch.bool)
    tolerance = 4 * math.sqrt(0.25 / rounds)
    for children, shrink, expected in ((independent, False, with_replacement), (different, True, without)):
        accepted, _ = walk(p.expand(rounds, 3), q.expand(rounds, 3), children, there, source, shrink=shrink)
        assert float((accepted < k).double().mean()) == pytest.approx(expected, abs=tolerance)
