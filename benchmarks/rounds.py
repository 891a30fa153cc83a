"""The arithmetic of a fair comparison: who goes when, and what a speed-up is.

A machine warms up, throttles and has other guests, so contestants never run in blocks: they alternate, prompt
by prompt, in an order in which everyone takes every place equally often. Speeds are compared as Spec-Bench does
it, a ratio of means of per-question speeds (Xia et al. 2024, arXiv 2401.07851), and as total tokens over total
time, which gives long answers more weight.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Timing(msgspec.Struct, frozen=True):
    """One decoded answer: generated tokens, and the seconds on the wall that they took."""

    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


class Spread(msgspec.Struct, frozen=True):
    """Where repeated measurements lie."""

    median: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        low, _, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else (values[0],) * 3
        return cls(statistics.median(values), low, high, min(values), max(values))


def alternating(contestants: Sequence[str], turn: int) -> list[str]:
    """The order of turn number `turn`: shifted by one every second turn, backwards every other.

    In 2n turns each of n contestants takes every place twice, and each pair is in either order equally often.
    """
    shift = turn // 2 % len(contestants)
    order = [*contestants[shift:], *contestants[:shift]]
    return order[::-1] if turn % 2 else order


def together(turns: Sequence[Timing]) -> Timing:
    """The turns of one conversation as one answer."""
    return Timing(sum(turn.tokens for turn in turns), sum(turn.seconds for turn in turns))


def speed_up(answers: Sequence[Timing], plain: Sequence[Timing]) -> float:
    """Spec-Bench's formula: mean over questions of tokens per second, divided by the same mean of plain decoding."""
    return statistics.fmean(answer.speed for answer in answers) / statistics.fmean(answer.speed for answer in plain)


def total_speed_up(answers: Sequence[Timing], plain: Sequence[Timing]) -> float:
    """All tokens over all time, divided by the same of plain decoding."""
    return together(answers).speed / together(plain).speed
