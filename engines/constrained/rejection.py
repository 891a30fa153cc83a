"""Drawing one allowed token by rejection, and estimating from the refusals how much probability was allowed.

A mask asks about every token of the vocabulary. Rejection proposes one token, tests that one, and never proposes a
refused one again. From "Fast Controlled Generation from Language Models with Adaptive Weighted Rejection Sampling",
Lipkin et al., arXiv 2504.05410.

p is a distribution, A the set of tokens that the test accepts, Z = p(A). All but `lcd` are *properly weighted*: the
token is distributed as p given A, and E[weight · f(token)] = Σ p(x) f(x) over A for every f; so E[weight] = Z.

    lcd         the first accepted token; the weight is ignored, as masking does
    wrs         with replacement, until L + 1 acceptances: n refusals, weight L / (n + L)
    awrs        two walks without replacement. The first meets n₀ refusals of mass ψ₀ before it accepts X. The refused
                stay out, X goes back, and the second meets n₁. Weight (1 - ψ₀) / (n₀ + n₁ + 1)
    recursive   one walk, to the first accepted token X and one token further. Weight 1 - ψ₀ if that one is accepted
                too or there is none, else p(X)
    geometric   as wrs, but no refused token is tested again: how often it would have been proposed is drawn from the
                geometric distribution. r = L + 1 acceptances, weight L / (n + L)

`wrs` and `geometric` may stop after m refusals with fewer acceptances a: the weight is then a / (a + m - 1), which is
unbiased too. `awrs` has no version with more walks: (1 - ψ₀) L / (n + L) is biased for L > 1.

The recursive rule is usually written with q = p(x) / (1 - refused mass) of each proposal: the weight is Π (1 - q) over
the refusals, times q of X if the next is refused. The product telescopes to 1 - ψ₀, and (1 - ψ₀) · q to p(X). It holds
because with a share q of what is left on X, what is left is allowed with q + (1 - q) P(the next is allowed).

Exact: all of it, for any total of p, which need not be 1. Chance comes from an `Urn` alone, so a test can enumerate
every course of events in fractions. Proposals are in the order of Gumbel keys, log p - log(-log U); the urn computes
the same order as that of exponential clocks, -log(U) / p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Accept = Callable[[int], bool]
Estimator = Literal["auto", "lcd", "wrs", "awrs", "recursive", "geometric"]

DOMINANT = 2 / 3
"""From this probability of the most probable token on, `auto` takes the geometric rule."""
MOST_REFUSALS = 4096
"""With replacement nothing else ends a walk where nothing is allowed."""
AHEAD = 64
"""So many proposals are put in order before anybody asks for more."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A token that was proposed, and what the test said."""

    token: int
    p: float
    """The probability that it was proposed with: of what was still in the urn."""
    accepted: bool
    round: int


@dataclass(slots=True)
class Estimate:
    """What an estimator gives: a token with its weight, None with weight 0 if nothing is allowed, and how it came."""

    token: int | None = None
    weight: float = 0.0
    trials: list[Trial] = field(default_factory=list)
    refused_mass: float = 0.0
    """ψ₀: of the tokens refused before the first acceptance."""
    estimator: str = ""

    @property
    def tests(self) -> int:
        """Tokens that the test was asked about; what it said is remembered."""
        return len({trial.token for trial in self.trials})


class Urn(Protocol):
    """Where chance comes from: a distribution `p` to be drawn from. The total mass need not be 1."""

    @property
    def p(self) -> Sequence[Any]: ...

    def walk(self, out: Collection[int]) -> Iterator[int]:
        """The tokens of positive probability that are not `out`, drawn without replacement."""

    def draw(self) -> int:
        """One token from all of `p`, with replacement."""

    def misses(self, share: Any) -> int:
        """How many draws with replacement miss what holds this share of the mass before one hits it."""

    def left(self, out: Collection[int]) -> Any:
        """The mass of the tokens that are not `out`; above 0 whenever one of them has probability."""


class RandomUrn:
    """An urn over float64 probabilities (vocabulary,), with the run's own generator."""

    def __init__(self, p: Tensor, rng: torch.Generator) -> None:
        self._p, self._rng = p.double(), rng

    @cached_property
    def p(self) -> Sequence[float]:
        return _Lookup(self._p)

    @cached_property
    def _possible(self) -> int:
        return int((self._p > 0).sum())

    def walk(self, out: Collection[int]) -> Iterator[int]:
        clocks = torch.empty_like(self._p).exponential_(generator=self._rng) / self._p
        given = 0
        for size in (AHEAD, len(self._p)):
            # A second, longer sorting begins with the same tokens as the first.
            order = clocks.topk(min(size, self._possible), largest=False).indices.tolist()
            yield from (token for token in order[given:] if token not in out)
            given = len(order)

    @cached_property
    def _cumulative(self) -> Tensor:
        return self._p.cumsum(0)

    def draw(self) -> int:
        u = torch.rand((), generator=self._rng, dtype=torch.float64, device=self._p.device)
        below = torch.minimum(u * self._cumulative[-1], self._cumulative[-1].nextafter(torch.zeros_like(u)))
        return int(torch.searchsorted(self._cumulative, below[None], right=True))

    def misses(self, share: float) -> int:
        if share >= 1:
            return 0
        u = 1 - float(torch.rand((), generator=self._rng, dtype=torch.float64, device=self._p.device))
        return math.floor(math.log(u) / math.log1p(-share))

    def left(self, out: Collection[int]) -> float:
        ids = torch.tensor(list(out), dtype=torch.long, device=self._p.device)
        return float(self._p.index_fill(0, ids, 0.0).sum())


class _Lookup(Sequence[float]):
    """Probabilities one at a time as floats, without making a list of the whole vocabulary."""

    def __init__(self, p: Tensor) -> None:
        self._p = p

    def __len__(self) -> int:
        return len(self._p)

    def __getitem__(self, token: Any) -> Any:
        return float(self._p[token])


class _Tested:
    """A walk's record: tests each token once, notes every proposal, and knows what is left in the urn."""

    def __init__(self, urn: Urn, accept: Accept, found: Estimate) -> None:
        self._urn, self._accept, self._found = urn, accept, found
        self._known: dict[int, bool] = {}
        self.refused: set[int] = set()
        self.total = self.left = self._exact = urn.left(())

    def __call__(self, token: int, round: int = 0, *, among: Any = None) -> bool:
        """The test's word on a proposal drawn from a mass of `among`: without it, from what is left."""
        if token not in self._known:
            self._known[token] = self._accept(token)
        accepted, p = self._known[token], self._urn.p[token]
        among = self.left if among is None else among
        self._found.trials.append(Trial(token, p / among if among > p else 1.0, accepted, round))
        if not accepted and token not in self.refused:
            self.refused.add(token)
            self.left -= p
            if self.left < self._exact / 1000:
                # Behind so many subtractions would be little but rounding, or 0 where an allowed token remains.
                self.left = self._exact = self._urn.left(self.refused)
        return accepted

    def settle(self, token: int | None) -> None:
        """The first acceptance, or that there is none."""
        self._found.token = token
        self._found.refused_mass = sum((self._urn.p[refused] for refused in self.refused), start=0)


def lcd(urn: Urn, accept: Accept) -> Estimate:
    """Locally constrained decoding: the first accepted token, with the weight 1. Not properly weighted."""
    found = Estimate(estimator="lcd")
    test = _Tested(urn, accept, found)
    first = next((token for token in urn.walk(()) if test(token)), None)
    test.settle(first)
    found.weight = 0.0 if first is None else 1.0
    return found


def wrs(urn: Urn, accept: Accept, loops: int = 1, max_rejects: int = MOST_REFUSALS) -> Estimate:
    """Weighted rejection sampling with L = `loops`: L + 1 times, draw with replacement until an acceptance."""
    found = Estimate(estimator="wrs")
    test = _Tested(urn, accept, found)
    accepted = refusals = 0
    while accepted <= loops and refusals < max_rejects:
        token = urn.draw()
        if not test(token, accepted, among=test.total):
            refusals += 1
            continue
        if not accepted:
            test.settle(token)
        accepted += 1
    if accepted:
        found.weight = test.total * min(loops, accepted) / (accepted + refusals - 1)
    else:
        test.settle(None)
    return found


def awrs(urn: Urn, accept: Accept) -> Estimate:
    """Adaptive weighted rejection sampling: two walks, the second without what the first one refused."""
    found = Estimate(estimator="awrs")
    test = _Tested(urn, accept, found)
    first = next((token for token in urn.walk(()) if test(token, 0)), None)
    test.settle(first)
    if first is not None:
        left = test.left
        next(token for token in urn.walk(frozenset(test.refused)) if test(token, 1))
        found.weight = left / (len(test.refused) + 1)
    return found


def recursive(urn: Urn, accept: Accept) -> Estimate:
    """The recursive estimator: one walk, one token beyond the first accepted one."""
    found = Estimate(estimator="recursive")
    test = _Tested(urn, accept, found)
    walk = urn.walk(())
    first = next((token for token in walk if test(token, 0)), None)
    test.settle(first)
    if first is not None:
        left = test.left
        following = next(walk, None)
        more = following is None or test(following, 1, among=left - urn.p[first])
        found.weight = left if more else urn.p[first]
    return found


def geometric(urn: Urn, accept: Accept, max_accepts: int = 2, max_rejects: int | None = None) -> Estimate:
    """The geometric estimator: r = `max_accepts` walks; counts are those of drawing with replacement."""
    found = Estimate(estimator="geometric")
    test = _Tested(urn, accept, found)
    most = math.inf if max_rejects is None else max_rejects
    accepted = refusals = 0
    while accepted < max_accepts and refusals < most:
        for token in urn.walk(frozenset(test.refused)):
            if test.refused:
                refusals += urn.misses(test.left / test.total)
            if refusals >= most:
                break
            if test(token, accepted):
                if not accepted:
                    test.settle(token)
                accepted += 1
                break
            refusals += 1
        else:
            # All is refused: with replacement this would go on for ever.
            break
    if not accepted:
        test.settle(None)
    elif accepted == max_accepts:
        found.weight = test.total * (accepted - 1) / (accepted + refusals - 1)
    else:
        found.weight = test.total * accepted / (accepted + most - 1)
    return found


def estimate(
    estimator: Estimator, p: Tensor, accept: Accept, rng: torch.Generator, *, max_accepts: int = 2, max_rejects: int = 0
) -> Estimate:
    """One allowed token from probabilities (vocabulary,), and how much was allowed.

    Args:
        max_accepts: r of `geometric`; `wrs` has L = r - 1 loops. The others do not ask.
        max_rejects: `geometric` and `wrs` stop there, at least 2; 0 is no limit (for `wrs` it is `MOST_REFUSALS`).
    """
    urn = RandomUrn(p, rng)
    if estimator == "auto":
        sure = float(p.max()) >= DOMINANT * float(p.sum())
        estimator = "geometric" if sure or max_accepts > 2 or max_rejects else "recursive"
    match estimator:
        case "lcd":
            return lcd(urn, accept)
        case "wrs":
            return wrs(urn, accept, max_accepts - 1, max_rejects or MOST_REFUSALS)
        case "awrs":
            return awrs(urn, accept)
        case "recursive":
            return recursive(urn, accept)
        case "geometric":
            return geometric(urn, accept, max_accepts, max_rejects or None)
