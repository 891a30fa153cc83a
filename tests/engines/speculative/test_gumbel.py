"""Tickets: always numbers, as many as there are outcomes, and moved without losing their order."""

from __future__ import annotations

import math

import pytest
import torch

from engines.speculative.gumbel import conditioned, gumbel, gumbel_top_k

NEVER = float("-inf")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("u", [0.0, 2.0**-53, 0.5, 1 - 2.0**-53])
def test_noise_is_finite_for_every_number_that_the_generator_gives(u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, u, dtype=torch.float64))
    assert gumbel((2,), rng()).isfinite().all()


def test_noise_is_drawn_in_double_precision() -> None:
    """In float32 one uniform number in 2^24 is 1 or 0: a few in every pass over a large vocabulary."""
    assert gumbel((3, 5), rng()).dtype == torch.float64


def test_draws_differ_and_stand_in_the_order_of_their_tickets() -> None:
    q = torch.tensor([0.4, 0.3, 0.2, 0.1])
    for seed in range(50):
        tickets, tokens = gumbel_top_k(q, 3, rng(seed))
        assert len(set(tokens)) == 3
        assert tickets == sorted(tickets, reverse=True)


def test_what_is_impossible_is_never_drawn() -> None:
    q = torch.tensor([0.0, 0.7, 0.0, 0.3])
    for seed in range(20):
        tickets, tokens = gumbel_top_k(q, 4, rng(seed))
        assert sorted(tokens) == [1, 3]
        assert all(map(math.isfinite, tickets))


def test_the_largest_ticket_becomes_the_one_that_is_given() -> None:
    phi = torch.randn(200, 50, generator=rng(), dtype=torch.float64) * 8
    best = torch.randn(200, generator=rng(1), dtype=torch.float64) * 20
    moved = conditioned(phi + gumbel(phi.shape, rng(2)), best)
    assert moved.isfinite().all()
    assert (moved.amax(-1) - best).abs().max() < 1e-6


def test_moving_keeps_the_order() -> None:
    tickets = gumbel((100, 30), rng())
    for best in (-10.0, 0.0, 40.0):
        moved = conditioned(tickets, torch.full((100,), best, dtype=torch.float64))
        assert torch.equal(moved.argsort(-1), tickets.argsort(-1))


def test_impossible_tickets_stay_impossible() -> None:
    tickets = torch.tensor([[NEVER, 1.0, NEVER, -3.0], [2.0, NEVER, NEVER, NEVER]], dtype=torch.float64)
    moved = conditioned(tickets, torch.tensor([0.5, -7.0], dtype=torch.float64))
    assert not moved.isnan().any()
    assert torch.equal(moved == NEVER, tickets == NEVER)
    assert moved[0, 1] == 0.5
    assert moved[1, 0] == -7.0


def test_a_given_best_that_is_the_best_already_moves_nothing() -> None:
    tickets = gumbel((20, 8), rng())
    assert torch.allclose(conditioned(tickets, tickets.amax(-1)), tickets, atol=1e-9)
