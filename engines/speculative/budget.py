"""How many guesses are worth checking: expected tokens per pass against the machine's measured cost of a pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.events import Curve


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
