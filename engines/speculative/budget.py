"""How many guesses are worth checking: expected tokens per pass against the machine's measured cost of a pass.

Everything here is decided by counts and by the curves t(q), which are measured once per model, never by the clock of
the run: the same run on the same machine takes the same decisions.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from engines.events import Curve, Event, Note
from engines.runner import Run

FIRST_PAUSE, LONGEST_PAUSE = 8, 64
"""Plain passes after guessing has stopped paying: first, and at most."""
FORGETTING = 0.85
"""What a pass keeps of the weight of those before it in a running mean: about the last seven count."""
PRIOR_TESTS = 6.0
"""How many tested guesses an estimate made before the run counts for."""
MARGIN = 0.97
"""Guessing goes on as long as it is expected to reach this share of plain decoding's speed: means are noisy."""


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


def cost(curve: Curve, query: int) -> float:
    """t(query) in seconds, by linear interpolation; 0 when nothing was measured."""
    return float(np.interp(query, curve.x, np.maximum.accumulate(curve.y))) if curve.x else 0.0


def expected_tokens(alpha: float, length: int) -> float:
    """Tokens that a pass over a chain of `length` guesses yields, (1 - α^(γ+1)) / (1 - α), if each is accepted with
    probability α: "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192, equation 1."""
    return float(length + 1) if alpha >= 1 else (1 - alpha ** (length + 1)) / (1 - alpha)


def best_chain(curve: Curve, draft_seconds: float, alpha: float, longest: int) -> int:
    """The γ from 1 to `longest` that maximises expected tokens over γ · t_draft + t(γ + 1)."""
    lengths = range(1, max(1, longest) + 1)
    return max(lengths, key=lambda g: expected_tokens(alpha, g) / (g * draft_seconds + cost(curve, g + 1)))


class BlockLength:
    """How many tokens to copy at a time: as many as pay at the rate at which copies have held up in this run.

    The rate is kept apart by how good a match was, e.g. how many tokens long. Each starts from an estimate that
    counts as `PRIOR_TESTS` guesses and fades as passes are counted.
    """

    def __init__(self, curve: Curve, chance: float, longest: int) -> None:
        """`chance`: estimated probability that a copied token is right if all before it were."""
        self._chance = chance
        self._lengths = np.arange(1, longest + 1)
        self._seconds = np.array([cost(curve, length + 1) for length in range(1, longest + 1)])
        self._seen: dict[int, tuple[float, float]] = {}
        """Guesses that held, and guesses that were tested, by the quality of the match; older ones count less."""

    def length(self, quality: int) -> int:
        """The number of tokens, from 1 to `longest`, that should yield most tokens per second."""
        held, tested = self._seen.get(quality, (0.0, 0.0))
        alpha = (PRIOR_TESTS * self._chance + held) / (PRIOR_TESTS + tested)
        expected = (1 - alpha ** (self._lengths + 1)) / (1 - alpha)
        return int(self._lengths[np.argmax(expected / self._seconds)])

    def count(self, quality: int, guesses: int, accepted: int) -> None:
        """Takes a pass into account in which `accepted` of `guesses` copied tokens held."""
        held, tested = self._seen.get(quality, (0.0, 0.0))
        self._seen[quality] = (
            FORGETTING * held + accepted,
            FORGETTING * tested + min(accepted + 1, guesses),
        )


class Fixed:
    """The same number of tokens every time."""

    def __init__(self, length: int) -> None:
        self._length = length

    def length(self, quality: int) -> int:
        return self._length

    def count(self, quality: int, guesses: int, accepted: int) -> None:
        """Nothing changes."""


def block_length(run: Run, fixed: int, chance: float, longest: int) -> Generator[Event, None, BlockLength | Fixed]:
    """`fixed` tokens at a time, or with 0 what pays; then shows the curve and says so."""
    if fixed:
        return Fixed(fixed)
    curve = run.cost_curve()
    block = BlockLength(curve, chance, longest)
    first = block.length(0)
    yield curve
    yield Note(
        text=f"Copies begin with {first} token{'s' * (first > 1)}, what should pay best on this machine. While they "
        "hold they grow longer, when they do not they grow shorter."
    )
    return block


class Payback:
    """Whether guessing pays: tokens per second of the last passes with guesses, as the curve prices them, against
    plain decoding's. When it does not, decoding goes on plainly for a while, then guesses are tried again."""

    def __init__(self, curve: Curve) -> None:
        self._curve = curve
        self._weight = self._tokens = self._seconds = 0.0
        self._left, self._pause = 0, FIRST_PAUSE

    def pausing(self) -> bool:
        """Whether the next pass is to be a plain one. Counts the passes of a pause."""
        self._left -= 1
        return self._left >= 0

    def count(self, guesses: int, accepted: int, drafting: float) -> Note | None:
        """Takes a pass into account. `drafting`: seconds the guesses cost. Says so when a pause begins."""
        if not guesses:
            return None
        self._weight = FORGETTING * self._weight + 1
        self._tokens = FORGETTING * self._tokens + 1 + accepted
        self._seconds = FORGETTING * self._seconds + cost(self._curve, guesses + 1) + drafting
        plain = cost(self._curve, 1)
        if self._weight < 3 or self._tokens * plain >= MARGIN * self._seconds:
            if self._weight >= 3:
                self._pause = FIRST_PAUSE
            return None
        tokens, price = self._tokens / self._weight, self._seconds / self._weight / plain
        self._left, self._weight, self._tokens, self._seconds = self._pause, 0.0, 0.0, 0.0
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        return Note(
            text=f"Guessing does not pay here: {tokens:.1f} tokens per pass at {price:.1f} times the price of a plain "
            f"pass. The next {self._left} tokens are decoded plainly, then guesses are tried again."
        )
