"""The draft budget that a cost curve is worth."""

from __future__ import annotations

from engines.events import Curve
from engines.speculative.budget import best_budget


def curve(*seconds: float) -> Curve:
    sizes = tuple(float(2**power) for power in range(len(seconds)))
    return Curve(name="t", x_name="q", y_name="s", x=sizes, y=seconds)


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
