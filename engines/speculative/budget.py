"""How many guesses are worth checking: expected tokens per pass against the machine's measured cost of a pass."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from engines.events import Curve, Event, Note
from engines.runner import Run


def best_budget(curve: Curve, chances: Sequence[float]) -> int:
    """The number of nodes n ≥ 1 that maximises (1 + Σ first n chances) / t(n + 1).

    Args:
        curve: t(q), seconds of a pass over q new tokens; read by linear interpolation.
        chances: estimated probability that each node is accepted, best node first.
    """
    sizes = np.arange(1, len(chances) + 1)
    tokens = 1 + np.cumsum(chances)
    seconds = np.interp(sizes + 1, curve.x, np.maximum.accumulate(curve.y))
    return int(sizes[np.argmax(tokens / seconds)])


def affordable(run: Run, chances: Sequence[float]) -> Generator[Event, None, int]:
    """`best_budget` on this machine; shows the curve and says the number."""
    curve = run.cost_curve()
    budget = best_budget(curve, chances)
    yield curve
    guesses = "1 guess" if budget == 1 else f"{budget} guesses"
    yield Note(text=f"On this machine {guesses} per pass should pay best: see how the cost of a pass grows.")
    return budget
