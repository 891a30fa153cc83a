"""The arithmetic of a comparison, with numbers written out."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from benchmarks.rounds import Timing, speed_up, together, total_speed_up
from playground.rounds import Spread, alternating

# Two questions: plain decoding runs at 10 and at 20 tokens/s, the method at 30 and at 20.
PLAIN = [Timing(100, 10.0), Timing(20, 1.0)]
METHOD = [Timing(90, 3.0), Timing(20, 1.0)]


def test_speed_up_is_the_ratio_of_mean_speeds() -> None:
    assert speed_up(METHOD, PLAIN) == pytest.approx(25 / 15)


def test_speed_up_is_not_the_mean_of_ratios() -> None:
    assert speed_up(METHOD, PLAIN) != pytest.approx((3 + 1) / 2)


def test_total_speed_up_weighs_long_answers_more() -> None:
    assert total_speed_up(METHOD, PLAIN) == pytest.approx((110 / 4) / (120 / 11))


def test_a_slower_method_is_shown_below_one() -> None:
    assert speed_up(PLAIN, METHOD) < 1


def test_rounds_of_one_question_count_together() -> None:
    assert together(PLAIN) == Timing(120, 11.0)


def test_spread_of_five() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0, minimum=1.0, maximum=5.0)


def test_spread_of_one() -> None:
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 2.0, 2.0)


def test_two_contestants_alternate() -> None:
    assert [alternating("ab", turn) for turn in range(4)] == [["a", "b"], ["b", "a"], ["b", "a"], ["a", "b"]]


@pytest.mark.parametrize("number", [2, 3, 4, 6])
def test_everyone_takes_every_place_twice(number: int) -> None:
    names = "abcdef"[:number]
    orders = [alternating(names, turn) for turn in range(2 * number)]
    assert all(sorted(order) == list(names) for order in orders)
    for place in range(number):
        assert Counter(order[place] for order in orders) == dict.fromkeys(names, 2)
    for one, other in combinations(names, 2):
        assert sum(order.index(one) < order.index(other) for order in orders) == number
