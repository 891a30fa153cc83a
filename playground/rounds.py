"""The order of a fair comparison, and what repeated measurements say.

A machine warms up, throttles and has other guests, so contestants never run in blocks: they alternate, in an order in
which everyone takes every place equally often.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")


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


def alternating(contestants: Sequence[T], turn: int) -> list[T]:
    """The order of turn number `turn`: shifted by one every second turn, backwards every other.

    In 2n turns each of n contestants takes every place twice, and each pair is in either order equally often.
    """
    shift = turn // 2 % len(contestants)
    order = [*contestants[shift:], *contestants[:shift]]
    return order[::-1] if turn % 2 else order
