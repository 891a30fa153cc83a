r"""AWRS beside genlm-control's: are the weights of both the same in law?

genlm-control (genlm/genlm-control, Apache-2.0) brings its own torch and changes jsonschema for the whole process, so
it gets an environment of its own, to which the few packages are added that `engines` imports:

    python -m venv /tmp/venv-genlm
    /tmp/venv-genlm/bin/pip install genlm-control==0.4.1 msgspec llguidance jsonschema lark networkx gguf psutil \
        platformdirs httpx accelerate
    PYTHONPATH=. /tmp/venv-genlm/bin/python -m benchmarks.peers.genlm_awrs

The toy has five tokens and a test that some of them pass. Theirs is asked through the public class `AWRS`, which takes
the recursive rule, and the geometric one where a token is dominant or `max_accepts` is above 2; ours is `estimate`,
which chooses as theirs does. Compared are, token by token, the mean of weight · [token is x], which both must have at
p(x), and mean and variance of the weight. Leaves with 1 when a mean is more than `FAR` standard errors off.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from genlm.control import AWRS, Potential

from engines.constrained.rejection import estimate

FAR = 4.5
"""Standard errors. Of some sixty means in a run the farthest is beyond this once in two thousand."""
CASES: tuple[tuple[tuple[float, ...], frozenset[int], int], ...] = (
    ((0.5, 0.3, 0.2), frozenset({1}), 2),
    ((0.5, 0.3, 0.2), frozenset({0, 2}), 2),
    ((0.4, 0.3, 0.15, 0.1, 0.05), frozenset({1, 3}), 2),
    ((0.6, 0.2, 0.1, 0.05, 0.05), frozenset({3, 4}), 2),
    ((0.6, 0.2, 0.1, 0.05, 0.05), frozenset({0, 1, 2, 3}), 2),
    ((0.5, 0.3, 0.2), frozenset({1}), 5),
    ((0.8, 0.1, 0.1), frozenset({0, 2}), 2),
)
"""Probabilities, the tokens that pass, and `max_accepts`."""

Draw = tuple[int, float]
"""A token and its weight."""


class Table(Potential):
    """The same next-token probabilities at every place; a text never ends."""

    def __init__(self, p: tuple[float, ...]) -> None:
        super().__init__(list(range(len(p))))
        self._log_p = np.log(np.array([*p, 1e-300]))
        self._log_p[-1] = -np.inf

    async def prefix(self, context: list[int]) -> float:
        return float(sum(self._log_p[token] for token in context))

    async def complete(self, context: list[int]) -> float:
        return -math.inf

    async def logw_next(self, context: list[int]) -> object:
        return self.make_lazy_weights(self._log_p.copy())


class Passes(Potential):
    """The test: 0 for texts of tokens that pass, -inf for others."""

    def __init__(self, size: int, passing: frozenset[int]) -> None:
        super().__init__(list(range(size)))
        self._passing = passing

    async def prefix(self, context: list[int]) -> float:
        return 0.0 if self._passing.issuperset(context) else -math.inf

    async def complete(self, context: list[int]) -> float:
        return -math.inf


def theirs(p: tuple[float, ...], passing: frozenset[int], max_accepts: int, count: int) -> list[Draw]:
    sampler = AWRS(Table(p), Passes(len(p), passing), seed=0, max_accepts=max_accepts, autobatch=False)

    async def draw() -> list[Draw]:
        found = [await sampler.sample([]) for _ in range(count)]
        return [(token, math.exp(weight)) for token, weight, _ in found]

    return asyncio.run(draw())


def ours(p: tuple[float, ...], passing: frozenset[int], max_accepts: int, count: int) -> list[Draw]:
    rng, table = torch.Generator().manual_seed(1), torch.tensor(p, dtype=torch.float64)
    found = (estimate("auto", table, passing.__contains__, rng, max_accepts=max_accepts) for _ in range(count))
    return [(-1 if one.token is None else one.token, one.weight) for one in found]


def errors(draws: list[Draw], p: tuple[float, ...], passing: frozenset[int]) -> Iterator[float]:
    """How many standard errors the mean of weight · [token is x] is from p(x), for every x that passes."""
    for x in sorted(passing):
        values = np.array([weight * (token == x) for token, weight in draws])
        error = values.std(ddof=1) / math.sqrt(len(values))
        yield abs(values.mean() - p[x]) / error if error > 1e-12 else abs(values.mean() - p[x]) * 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=5000)
    arguments = parser.parse_args()
    sides: dict[str, Callable[..., list[Draw]]] = {"genlm-control": theirs, "ours": ours}
    worst = 0.0
    for p, passing, max_accepts in CASES:
        print(f"p = {p}, passing {sorted(passing)}, Z = {sum(p[x] for x in passing):.2f}, r = {max_accepts}")
        means = {}
        for name, side in sides.items():
            draws = side(p, passing, max_accepts, arguments.draws)
            weights = np.array([weight for _, weight in draws])
            means[name] = weights.mean(), weights.var(ddof=1) / len(weights)
            off = max(errors(draws, p, passing))
            worst = max(worst, off)
            print(
                f"  {name:14} mean {weights.mean():.4f}  variance {weights.var():.5f}  farthest p(x) {off:.1f} errors"
            )
        (mean, square), (other, other_square) = means.values()
        apart = abs(mean - other) / math.sqrt(square + other_square) if square + other_square > 1e-20 else 0.0
        worst = max(worst, apart)
    print(f"Farthest: {worst:.1f} standard errors; allowed: {FAR:g}")
    return int(worst > FAR)


if __name__ == "__main__":
    sys.exit(main())
