"""The arithmetic of a fair comparison: what a speed-up is. Who goes when, `playground.rounds` says.

Speeds are compared as Spec-Bench does it, a ratio of means of per-question speeds (Xia et al. 2024, arXiv
2401.07851), and as total tokens over total time, which gives long answers more weight.
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


def together(turns: Sequence[Timing]) -> Timing:
    """The turns of one conversation as one answer."""
    return Timing(sum(turn.tokens for turn in turns), sum(turn.seconds for turn in turns))


def speed_up(answers: Sequence[Timing], plain: Sequence[Timing]) -> float:
    """Spec-Bench's formula: mean over questions of tokens per second, divided by the same mean of plain decoding."""
    return statistics.fmean(answer.speed for answer in answers) / statistics.fmean(answer.speed for answer in plain)


def total_speed_up(answers: Sequence[Timing], plain: Sequence[Timing]) -> float:
    """All tokens over all time, divided by the same of plain decoding."""
    return together(answers).speed / together(plain).speed
