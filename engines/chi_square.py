"""Pearson's chi-square test of counts against a distribution that is known exactly.

    1. pool what is expected fewer than five times into one cell, so that k cells are left
    2. χ² = Σ (observed - expected)² / expected
    3. P = probability of at least this χ² with k - 1 degrees of freedom

Pearson 1900; the rule of five is Cochran 1954. Counts of what the distribution rules out settle the matter at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

LEVEL = 0.001
"""A P below it counts as a difference; so does chance, once in a thousand tests of what is exact."""
FEWEST_EXPECTED = 5.0
NEGLIGIBLE = 1e-6
"""Probability that rounding may leave over."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """How well what was drawn so far fits the exact distribution."""

    draws: int
    wanted: int
    statistic: float
    """χ²; 0 with no degree of freedom."""
    freedom: int
    """Degrees of freedom: cells - 1."""
    p_value: float
    limit: float
    """The χ² above which the p-value is below `LEVEL`."""
    impossible: int = 0
    """Draws that the exact distribution rules out."""
    accepted: int = 0
    tested: int = 0
    """Guesses that the draws were made with."""

    @classmethod
    def none(cls, wanted: int) -> Fit:
        """Before the first draw."""
        return cls(draws=0, wanted=wanted, statistic=0.0, freedom=0, p_value=1.0, limit=0.0)

    @property
    def done(self) -> bool:
        return self.draws >= self.wanted

    @property
    def consistent(self) -> bool:
        """Whether an exact method may well look like this."""
        return not self.impossible and self.p_value >= LEVEL


def fit(
    counts: Mapping[Any, int], law: Mapping[Any, float], *, wanted: int = 0, accepted: int = 0, tested: int = 0
) -> Fit:
    """Pearson's test of counts against a law whose probabilities add up to 1."""
    draws = sum(counts.values())
    observed, expected = cells(counts, law, draws)
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    freedom = max(len(expected) - 1, 0)
    impossible = sum(count for outcome, count in counts.items() if outcome not in law)
    return Fit(
        draws=draws,
        wanted=wanted or draws,
        statistic=statistic,
        freedom=freedom,
        p_value=0.0 if impossible else tail(statistic, freedom),
        limit=critical(freedom),
        impossible=impossible,
        accepted=accepted,
        tested=tested,
    )


def cells(counts: Mapping[Any, int], law: Mapping[Any, float], draws: int) -> tuple[list[float], list[float]]:
    """Observed and expected counts, most probable first; what is too rare for the test shares the last cell."""
    own = sorted((outcome for outcome in law if law[outcome] * draws >= FEWEST_EXPECTED), key=lambda one: -law[one])
    rest = 1 - sum(law[outcome] for outcome in own)
    while own and rest > NEGLIGIBLE and rest * draws < FEWEST_EXPECTED:
        rest += law[own.pop()]
    observed = [float(counts.get(outcome, 0)) for outcome in own]
    expected = [law[outcome] * draws for outcome in own]
    if draws and rest > NEGLIGIBLE:
        observed.append(draws - sum(observed))
        expected.append(rest * draws)
    return observed, expected


def tail(statistic: float, freedom: int) -> float:
    """The probability of at least this χ², from the regularised upper incomplete gamma function."""
    if freedom < 1:
        return 1.0
    import torch  # not above, so that a stored result can be shown without it

    shape, scaled = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(shape, scaled))


@cache
def critical(freedom: int) -> float:
    """The χ² whose tail is `LEVEL`, by bisection."""
    low, high = 0.0, 40.0 + 4.0 * freedom
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, freedom) > LEVEL else (low, middle)
    return high if freedom else 0.0
