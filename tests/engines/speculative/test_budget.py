"""The draft budget that a cost curve is worth."""

from __future__ import annotations

import pytest

from engines.events import Curve
from engines.speculative.budget import Payback, best_budget, best_chain, expected_tokens


def curve(*seconds: float) -> Curve:
    sizes = tuple(float(2**power) for power in range(len(seconds)))
    return Curve(name="t", x_name="q", y_name="s", x=sizes, y=seconds)


def line(*points: tuple[float, float]) -> Curve:
    sizes, seconds = zip(*points, strict=True)
    return Curve(name="t", x_name="q", y_name="s", x=tuple(map(float, sizes)), y=seconds)


def test_a_free_pass_takes_every_guess() -> None:
    assert best_budget(curve(1, 1, 1, 1), [0.5, 0.3, 0.2, 0.1]) == 4


def test_a_pass_that_costs_by_the_token_takes_one() -> None:
    assert best_budget(curve(1, 2, 4, 8), [0.5, 0.3, 0.2, 0.1]) == 1


def test_a_step_in_the_cost_is_where_guessing_stops() -> None:
    """t(1..4) = 1 and t(5..) = 4: three guesses and the root fill the cheap part."""
    flat = Curve(name="t", x_name="q", y_name="s", x=(1.0, 4.0, 5.0, 8.0), y=(1.0, 1.0, 4.0, 4.0))
    assert best_budget(flat, [0.5, 0.3, 0.2, 0.1, 0.1, 0.1]) == 3


def test_noise_that_makes_a_larger_pass_look_cheaper_is_not_believed() -> None:
    noisy = Curve(name="t", x_name="q", y_name="s", x=(1.0, 2.0, 3.0, 4.0), y=(1.0, 2.0, 1.5, 8.0))
    assert best_budget(noisy, [0.9, 0.01, 0.01]) == best_budget(
        Curve(name="t", x_name="q", y_name="s", x=(1.0, 2.0, 3.0, 4.0), y=(1.0, 2.0, 2.0, 8.0)), [0.9, 0.01, 0.01]
    )


def test_expected_tokens_are_the_papers() -> None:
    for length, tokens in ((1, 1.70), (2, 2.19), (4, 2.7731), (8, 3.1988)):
        assert expected_tokens(0.7, length) == pytest.approx(tokens, abs=5e-5)
    assert expected_tokens(1.0, 4) == 5


def test_the_best_chain_is_long_when_guesses_are_good_and_cheap() -> None:
    flat = line((1, 0.01), (64, 0.01))
    steep = line((1, 0.01), (64, 0.64))
    assert best_chain(flat, 0.0, 0.9, 8) == 8
    assert best_chain(steep, 0.0, 0.5, 8) == 1
    assert best_chain(flat, 0.003, 0.5, 8) < best_chain(flat, 0.0003, 0.5, 8)


def test_a_pause_begins_when_guesses_do_not_pay_and_lasts_longer_each_time() -> None:
    payback = Payback(line((1, 0.01), (8, 0.04)))
    pauses = []
    for _ in range(3):
        while (note := payback.count(7, 0, 0.0)) is None:
            assert not payback.pausing()
        pauses.append(sum(1 for _ in iter(payback.pausing, False)))
        assert f"next {pauses[-1]} tokens" in note.text
    assert pauses == [8, 16, 32]


def test_guesses_that_pay_go_on() -> None:
    payback = Payback(line((1, 0.01), (8, 0.02)))
    assert all(payback.count(7, accepted, 0.0) is None for accepted in (0, 3, 0, 4, 2, 3) * 5)
    assert not payback.pausing()


def test_what_the_guesses_cost_counts_too() -> None:
    cheap, dear = (Payback(line((1, 0.01), (8, 0.01))) for _ in range(2))
    assert all(cheap.count(2, 1, 0.0) is None for _ in range(10))
    assert any(dear.count(2, 1, 0.02) for _ in range(10))
