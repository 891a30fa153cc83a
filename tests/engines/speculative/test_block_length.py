"""How long a copy is: what the machine can pay for at the rate at which copies hold."""

from __future__ import annotations

from engines.events import Curve
from engines.speculative.budget import BlockLength, Fixed


def curve(*seconds: float) -> Curve:
    sizes = tuple(float(size) for size in range(1, len(seconds) + 1))
    return Curve(name="t(q)", x_name="new tokens", y_name="seconds", x=sizes, y=seconds)


STEP = curve(1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2)
"""Up to three guesses cost nothing, up to eleven cost another pass."""


def test_copies_that_hold_grow_longer() -> None:
    block = BlockLength(STEP, 0.6, 11)
    assert block.length(2) == 3
    for _ in range(20):
        block.count(2, block.length(2), block.length(2))
    assert block.length(2) == 11


def test_copies_that_fail_grow_shorter_again() -> None:
    block = BlockLength(STEP, 0.95, 11)
    assert block.length(2) == 11
    for _ in range(5):
        block.count(2, block.length(2), 0)
    assert block.length(2) == 3


def test_long_matches_are_not_blamed_for_short_ones() -> None:
    block = BlockLength(STEP, 0.95, 11)
    for _ in range(5):
        block.count(1, 11, 0)
    assert block.length(1) == 3
    assert block.length(3) == 11


def test_an_old_failure_is_forgotten() -> None:
    block = BlockLength(STEP, 0.95, 11)
    for _ in range(5):
        block.count(2, 3, 0)
    for _ in range(20):
        block.count(2, 3, 3)
    assert block.length(2) == 11


def test_certain_copies_divide_nothing_by_zero() -> None:
    block = BlockLength(STEP, 0.6, 11)
    for _ in range(2000):
        block.count(3, 11, 11)
    assert block.length(3) == 11


def test_a_fixed_length_stays() -> None:
    block = Fixed(7)
    block.count(1, 7, 0)
    assert block.length(1) == block.length(3) == 7
