"""Penalties and filters: worked numbers first, then what holds for any logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.errors import DecodingError
from engines.events import Token
from engines.sampling import (
    NEVER,
    Sampler,
    Sampling,
    apply_count_penalties,
    apply_epsilon,
    apply_eta,
    apply_min_p,
    apply_mirostat,
    apply_repetition_penalty,
    apply_temperature,
    apply_top_k,
    apply_top_n_sigma,
    apply_top_p,
    apply_typical,
    draw,
    top_choices,
)

P = torch.tensor([0.5, 0.25, 0.15, 0.06, 0.03, 0.01])
LOGITS = P.log()

FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "top-k": lambda x: apply_top_k(x, 3),
    "top-p": lambda x: apply_top_p(x, 0.8),
    "min-p": lambda x: apply_min_p(x, 0.2),
    "typical": lambda x: apply_typical(x, 0.7),
    "epsilon": lambda x: apply_epsilon(x, 0.05),
    "eta": lambda x: apply_eta(x, 0.05),
    "top-nσ": lambda x: apply_top_n_sigma(x, 1.0),
    "mirostat": lambda x: apply_mirostat(x, 3.0),
}


def kept(logits: Tensor) -> list[int]:
    return (logits > NEVER).nonzero()[:, 0].tolist()


def spell(id: int) -> Token:
    return Token(id, f"t{id}")


def sampler(**values: float) -> Sampler:
    return Sampler(Sampling(**values), spell)


@pytest.mark.parametrize(
    ("filtered", "expected"),
    [
        (apply_top_k(LOGITS, 3), [0, 1, 2]),
        (apply_top_k(LOGITS, 100), [0, 1, 2, 3, 4, 5]),
        (apply_top_p(LOGITS, 0.8), [0, 1, 2]),
        (apply_top_p(LOGITS, 0.74), [0, 1]),
        (apply_top_p(LOGITS, 0.01), [0]),
        (apply_min_p(LOGITS, 0.1), [0, 1, 2, 3]),
        (apply_min_p(LOGITS, 1.0), [0]),
        (apply_eta(LOGITS, 0.02), [0, 1, 2, 3, 4]),
        (apply_eta(LOGITS, 0.8), [0, 1]),
        (apply_epsilon(LOGITS, 0.1), [0, 1, 2]),
        (apply_epsilon(LOGITS, 0.9), [0]),
        (apply_typical(LOGITS, 0.2), [1]),
        (apply_typical(LOGITS, 0.39), [1, 2]),
        (apply_typical(LOGITS, 0.89), [0, 1, 2]),
        (apply_typical(LOGITS, 0.91), [0, 1, 2, 3]),
        (apply_top_n_sigma(LOGITS, 1.0), [0, 1, 2]),
        (apply_top_n_sigma(LOGITS, 1.5), [0, 1, 2, 3]),  # by the population deviation there would be 3
        (apply_mirostat(LOGITS, 3.0), [0, 1, 2]),
        (apply_mirostat(LOGITS, 4.059), [0, 1, 2, 3]),
        (apply_mirostat(LOGITS, -1.0), [0]),
    ],
)
def test_filters_keep_what_the_worked_example_says(filtered: Tensor, expected: list[int]) -> None:
    assert kept(filtered) == expected


def test_the_quantities_of_the_worked_example() -> None:
    assert float(-(P * P.log()).sum()) == pytest.approx(1.2978, abs=1e-4)
    assert float(LOGITS.std()) == pytest.approx(1.4429, abs=1e-4)
    assert (-P.log2()).tolist() == pytest.approx([1, 2, 2.737, 4.059, 5.059, 6.644], abs=1e-3)
    assert math.sqrt(0.02) * math.exp(-1.2978) == pytest.approx(0.0386, abs=1e-4)


def test_top_k_keeps_ties() -> None:
    assert kept(apply_top_k(torch.tensor([1.0, 2.0, 2.0, 0.0]), 1)) == [1, 2]


def test_top_n_sigma_keeps_the_same_tokens_at_every_temperature() -> None:
    for temperature in (0.2, 1.0, 3.0):
        assert kept(apply_top_n_sigma(apply_temperature(LOGITS, temperature), 1.0)) == [0, 1, 2]


def test_top_n_sigma_measures_the_spread_of_possible_tokens_only() -> None:
    with_impossible = torch.cat([LOGITS, torch.tensor([NEVER, NEVER])])
    assert kept(apply_top_n_sigma(with_impossible, 1.0)) == [0, 1, 2]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    out = apply_repetition_penalty(torch.tensor([2.0, -2.0, 2.0, -2.0]), 2.0, [0, 1, 1, 0])
    assert out.tolist() == [1.0, -4.0, 2.0, -2.0]


def test_frequency_counts_and_presence_does_not() -> None:
    out = apply_count_penalties(torch.zeros(4), 0.5, 0.25, [2, 2, 2, 1])
    assert out.tolist() == [0.0, -0.75, -1.75, 0.0]


def test_penalties_without_any_context_change_nothing() -> None:
    assert torch.equal(apply_repetition_penalty(LOGITS, 2.0, []), LOGITS)
    assert torch.equal(apply_count_penalties(LOGITS, 1.0, 1.0, []), LOGITS)


def test_repetition_penalty_covers_the_prompt_and_the_count_penalties_only_the_output() -> None:
    repeated = sampler(repetition_penalty=2.0).warp(torch.ones(4), [0], [1])
    assert repeated.tolist() == [0.5, 0.5, 1.0, 1.0]
    counted = sampler(presence_penalty=1.0).warp(torch.ones(4), [0], [1])
    assert counted.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_stages_come_in_the_documented_order() -> None:
    everything = sampler(
        temperature=0.9,
        top_k=5,
        top_p=0.95,
        min_p=0.01,
        typical=0.95,
        epsilon=1e-3,
        eta=1e-3,
        top_n_sigma=2,
        mirostat_tau=5,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
    )
    names = [stage.name for stage in everything.distribution(LOGITS, [0], [1]).stages]
    assert names == [
        "repetition penalty",
        "frequency and presence penalty",
        "top-nσ",
        "temperature",
        "top-k",
        "top-p",
        "min-p",
        "typical",
        "epsilon",
        "eta",
        "mirostat",
    ]


def test_a_stage_says_what_it_removed() -> None:
    distribution = sampler(top_k=3, min_p=0.4).distribution(LOGITS, [], [])
    top_k, min_p = distribution.stages
    assert (top_k.kept, [choice.token.id for choice in top_k.removed]) == (3, [3, 4, 5])
    assert top_k.removed_mass == pytest.approx(0.1)
    assert top_k.top[0].p == pytest.approx(0.5 / 0.9)
    assert (min_p.kept, min_p.removed_mass) == (2, pytest.approx(0.15 / 0.9))
    assert distribution.probabilities.tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0, 0, 0])


def test_temperature_removes_nothing_even_where_probabilities_underflow() -> None:
    (stage,) = sampler(temperature=0.05).distribution(torch.tensor([50.0, 0.0, -50.0]), [], []).stages
    assert (stage.kept, stage.removed_mass, stage.removed) == (3, 0.0, ())


def test_sampling_with_everything_off_is_the_models_own_distribution() -> None:
    assert sampler().plain
    distribution = sampler().distribution(LOGITS, [0, 1], [2])
    assert distribution.stages == ()
    assert torch.allclose(distribution.probabilities, P)


def test_temperature_zero_takes_the_most_probable_token_after_penalties() -> None:
    greedy = sampler(temperature=0.0, repetition_penalty=2.0, top_k=1)
    distribution = greedy.distribution(torch.tensor([2.0, 1.5, 0.0]), [0], [])
    assert distribution.probabilities.tolist() == [0.0, 1.0, 0.0]
    assert greedy.draw(distribution.probabilities, torch.Generator().manual_seed(0)) == 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45, 1e-300])
def test_a_tiny_temperature_is_nearly_greedy_and_never_nan(temperature: float) -> None:
    assert sampler(temperature=temperature).distribution(LOGITS + 40, [], []).probabilities[0] == 1


def test_mirostat_moves_its_threshold_by_the_surprise_under_the_models_own_distribution() -> None:
    mirostat = sampler(mirostat_tau=3.0, mirostat_eta=0.5)
    assert mirostat._mu == 6.0
    mirostat.learn(1, LOGITS + 7)  # two bits
    assert mirostat._mu == pytest.approx(6.0 - 0.5 * (2 - 3))
    mirostat.learn(5, LOGITS)  # 6.644 bits
    assert mirostat._mu == pytest.approx(6.5 - 0.5 * (6.6439 - 3), abs=1e-3)


@pytest.mark.parametrize("tau", [3.0, 5.0])
def test_mirostat_holds_the_mean_surprise_at_its_target(tau: float) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = -1.1 * torch.arange(1, 2001).float().log()
    mirostat = sampler(mirostat_tau=tau, mirostat_eta=0.1)
    surprises = []
    for _ in range(1500):
        token = mirostat.draw(mirostat.distribution(logits, [], []).probabilities, rng)
        mirostat.learn(token, logits)
        surprises.append(float(-logits.log_softmax(-1)[token]) / math.log(2))
    assert sum(surprises[100:]) / 1400 == pytest.approx(tau, abs=0.1)


@pytest.mark.parametrize("mu", [-5000.0, 5000.0])
def test_mirostat_survives_a_target_that_cannot_be_reached(mu: float) -> None:
    assert kept(apply_mirostat(LOGITS, mu)) == ([0] if mu < 0 else [0, 1, 2, 3, 4, 5])


def test_a_struct_with_some_of_the_settings_is_enough() -> None:
    class Few:
        temperature = 0.5
        top_k = 2

    assert Sampler(Few(), spell).settings == Sampling(temperature=0.5, top_k=2)


def test_draws_follow_the_distribution() -> None:
    rng = torch.Generator().manual_seed(3)
    counts = draw(P.expand(20_000, -1), rng).bincount(minlength=6)
    expected = 20_000 * P
    assert float(((counts - expected) ** 2 / expected).sum()) < 20.5  # chi-square, 5 degrees: p = 0.001


def test_a_draw_does_not_care_about_scale_and_repeats_with_its_seed() -> None:
    first, second = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    assert [int(draw(P, first)) for _ in range(30)] == [int(draw(100 * P, second)) for _ in range(30)]


def test_impossible_tokens_are_never_drawn() -> None:
    p = torch.tensor([0.0, 0.0, 1e-6, 0.0, 1.0, 0.0])
    assert set(draw(p.expand(5000, -1), torch.Generator().manual_seed(0)).tolist()) <= {2, 4}


@pytest.mark.parametrize(("u", "token"), [(0.0, 2), (1 - 2.0**-53, 4)])
def test_nor_at_the_ends_of_the_random_numbers(u: float, token: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.full(shape, u, dtype=torch.float64))
    for scale in (1.0, 0.3, 1 / 3, 7.0):
        assert int(draw(scale * torch.tensor([0.0, 0.0, 0.25, 0.0, 0.75, 0.0]), torch.Generator())) == token


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_overflowed_logits_are_refused_with_a_sentence(bad: float) -> None:
    distribution = sampler().distribution(torch.tensor([1.0, bad, 0.0]), [], [])
    with pytest.raises(DecodingError, match="overflowed"):
        sampler().draw(distribution.probabilities, torch.Generator())


def test_top_choices_are_sorted_and_bounded_by_the_vocabulary() -> None:
    assert [choice.token.id for choice in top_choices(P.flip(0), 20, spell)] == [5, 4, 3, 2, 1, 0]


logit_rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40).map(lambda row: torch.tensor(row))


@pytest.mark.parametrize("name", FILTERS)
@given(logits=logit_rows)
@settings(max_examples=60, deadline=None)
def test_a_filter_keeps_at_least_one_token_and_leaves_logits_as_they_are(name: str, logits: Tensor) -> None:
    before = logits.clone()
    out = FILTERS[name](logits)
    assert torch.equal(logits, before)
    assert kept(out)
    assert torch.equal(out[out > NEVER], logits[out > NEVER])


@pytest.mark.parametrize("name", [name for name in FILTERS if name != "typical"])
@given(logits=logit_rows)
@settings(max_examples=60, deadline=None)
def test_a_filter_cuts_a_tail(name: str, logits: Tensor) -> None:
    """No removed token is more probable than a kept one. (Locally typical sampling is the exception.)"""
    possible = FILTERS[name](logits) > NEVER
    p = logits.softmax(-1)
    assert possible.all() or p[~possible].max() <= p[possible].min()


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_treats_rows_of_a_batch_apart(name: str) -> None:
    rows = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(1)) * 3
    batched = FILTERS[name](rows)
    for i in range(2):
        for j in range(3):
            assert torch.equal(batched[i, j], FILTERS[name](rows[i, j]))


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
@pytest.mark.parametrize(
    ("apply", "value"), [(apply_top_p, 0.5), (apply_top_p, 0.99), (apply_typical, 0.5), (apply_typical, 0.99)]
)
def test_putting_only_some_tokens_in_order_gives_the_same_as_sorting_all(
    apply: Callable[[Tensor, float], Tensor], value: float, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(2)) * spread
    quick = apply(logits, value)
    monkeypatch.setattr("engines.sampling._sizes", lambda logits: (logits.shape[-1],))
    different = ((quick > NEVER) != (apply(logits, value) > NEVER)).sum(-1)
    # The two add up in a different order; a token whose cumulative mass is the limit itself may fall either way.
    assert (different <= (2 if spread > 0.1 else 20)).all()


def test_filters_compose_on_what_earlier_ones_left() -> None:
    distribution = sampler(top_k=4, top_p=0.6, min_p=0.1).distribution(LOGITS, [], [])
    assert [stage.kept for stage in distribution.stages] == [4, 2, 2]
    assert float(distribution.probabilities.sum()) == pytest.approx(1.0)
