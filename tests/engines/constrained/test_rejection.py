"""The estimators of the allowed mass: by hand, enumerated in fractions over every course of events, simulated."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch

from engines.chi_square import fit
from engines.constrained.rejection import (
    Estimate,
    RandomUrn,
    Urn,
    awrs,
    estimate,
    geometric,
    lcd,
    recursive,
    wrs,
)

Case = tuple[tuple[str, ...], frozenset[int]]
CASES: dict[str, Case] = {
    "only the second": ((".5", ".3", ".2"), frozenset({1})),
    "first and third": ((".5", ".3", ".2"), frozenset({0, 2})),
    "second and fourth of five": ((".4", ".3", ".15", ".1", ".05"), frozenset({1, 3})),
    "the two least": ((".6", ".2", ".1", ".05", ".05"), frozenset({3, 4})),
    "all but the last": ((".6", ".2", ".1", ".05", ".05"), frozenset({0, 1, 2, 3})),
}
# Variance of the weight and expected proposals, from enumeration; for geometric (r = 2) variance and tests, simulated.
AWRS = {"only the second": (0.064625, 3.499), "first and third": (0.089250, 2.510)}
AWRS |= {"second and fourth of five": (0.082216, 3.431), "the two least": (0.017926, 4.619)}
AWRS |= {"all but the last": (0.023156, 2.098)}
RECURSIVE = {"only the second": (0.0, 2.700), "first and third": (0.060000, 2.300)}
RECURSIVE |= {"second and fourth of five": (0.053030, 2.884), "the two least": (0.010119, 4.024)}
RECURSIVE |= {"all but the last": (0.024500, 2.050)}
GEOMETRIC_TESTS = {"only the second": 2.50, "first and third": 1.92, "second and fourth of five": 2.81}
GEOMETRIC_TESTS |= {"the two least": 4.12, "all but the last": 1.64}

every_case = pytest.mark.parametrize("name", CASES)
Rule = Callable[[Urn, Callable[[int], bool]], Estimate]


class Enumerated:
    """An urn whose every choice is one of a few, with exact probabilities: `outcomes` goes through them all."""

    def __init__(self, p: Sequence[Fraction], script: Sequence[int], most_misses: int) -> None:
        self.p, self._script, self._most = p, script, most_misses
        self.probability = Fraction(1)
        self.options: list[int] = []
        """How many there were at each choice."""
        self.taken: list[int] = []

    def _choose(self, chances: Sequence[Fraction]) -> int:
        step = len(self.taken)
        choice = self._script[step] if step < len(self._script) else 0
        self.options.append(len(chances))
        self.taken.append(choice)
        self.probability *= chances[choice]
        return choice

    def walk(self, out: Collection[int]) -> Iterator[int]:
        rest = [token for token, p in enumerate(self.p) if token not in out and p > 0]
        while rest:
            total = sum(self.p[token] for token in rest)
            yield rest.pop(self._choose([self.p[token] / total for token in rest]))

    def draw(self) -> int:
        total = sum(self.p)
        return self._choose([p / total for p in self.p])

    def misses(self, share: Fraction) -> int:
        """Never more than `most_misses`, which stands for all larger numbers too."""
        chances = [share * (1 - share) ** count for count in range(self._most)]
        return self._choose([*chances, (1 - share) ** self._most])

    def left(self, out: Collection[int]) -> Fraction:
        return sum((p for token, p in enumerate(self.p) if token not in out), Fraction(0))


def outcomes(rule: Rule, p: Sequence[Fraction], allowed: Collection[int], most_misses: int = 0) -> list[Any]:
    """Every course of events: its probability and what the rule makes of it."""
    out: list[tuple[Fraction, Estimate]] = []
    script: list[int] | None = []
    while script is not None:
        urn = Enumerated(p, script, most_misses)
        found = rule(urn, allowed.__contains__)
        out.append((urn.probability, found))
        choices = list(zip(urn.taken, urn.options, strict=True))
        while choices and choices[-1][0] == choices[-1][1] - 1:
            choices.pop()
        script = [choice for choice, _ in choices[:-1]] + [choices[-1][0] + 1] if choices else None
    assert sum(probability for probability, _ in out) == 1
    return out


def fractions(name: str) -> tuple[list[Fraction], frozenset[int]]:
    p, allowed = CASES[name]
    return [Fraction(value) for value in p], allowed


def check_properly_weighted(rule: Rule, p: Sequence[Fraction], allowed: Collection[int], most: int = 0) -> None:
    courses = outcomes(rule, p, allowed, most)
    for token in range(len(p)):
        weighted = sum(probability * found.weight for probability, found in courses if found.token == token)
        assert weighted == (p[token] if token in allowed else 0)
    for _, found in courses:
        assert (found.weight > 0) == (found.token is not None)


class Dice:
    """An urn of floats, faster than the real one for many draws from few tokens."""

    def __init__(self, p: Sequence[float], seed: int) -> None:
        self.p, self._random = p, random.Random(seed)

    def walk(self, out: Collection[int]) -> Iterator[int]:
        keys = {
            token: math.log(p) - math.log(-math.log(self._random.random()))
            for token, p in enumerate(self.p)
            if token not in out
        }
        yield from sorted(keys, key=lambda token: -keys[token])

    def draw(self) -> int:
        return self._random.choices(range(len(self.p)), self.p)[0]

    def misses(self, share: float) -> int:
        count = 0
        while self._random.random() >= share:
            count += 1
        return count

    def left(self, out: Collection[int]) -> float:
        return sum(p for token, p in enumerate(self.p) if token not in out)


def simulated(rule: Rule, name: str, draws: int, seed: int = 0) -> list[Estimate]:
    p, allowed = CASES[name]
    urn = Dice([float(value) for value in p], seed)
    return [rule(urn, allowed.__contains__) for _ in range(draws)]


def mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return float(tensor.mean()), float(tensor.std()) / math.sqrt(len(values))


def test_awrs_by_hand_with_two_equally_likely_tokens_of_which_one_is_allowed() -> None:
    half = [Fraction(1, 2), Fraction(1, 2)]
    courses = [(chance, found.weight) for chance, found in outcomes(awrs, half, {0})]
    # a, then a again; a, then b is refused; b is refused at once, and a is all that is left.
    assert sorted(courses) == sorted(
        [
            (Fraction(1, 4), Fraction(1)),
            (Fraction(1, 4), Fraction(1, 2)),
            (Fraction(1, 2), Fraction(1, 4)),
        ]
    )
    assert sum(chance * weight for chance, weight in courses) == Fraction(1, 2)


@every_case
@pytest.mark.parametrize("rule", [awrs, recursive])
def test_the_weight_times_the_law_of_the_token_is_exactly_the_models_probability(name: str, rule: Rule) -> None:
    check_properly_weighted(rule, *fractions(name))


@every_case
@pytest.mark.parametrize(("rule", "expected"), [(awrs, AWRS), (recursive, RECURSIVE)])
def test_variance_and_number_of_proposals_are_those_of_the_table(
    name: str, rule: Rule, expected: dict[str, tuple[float, float]]
) -> None:
    p, allowed = fractions(name)
    courses = outcomes(rule, p, allowed)
    mass = sum(p[token] for token in allowed)
    variance = sum(chance * found.weight**2 for chance, found in courses) - mass**2
    proposals = sum(chance * len(found.trials) for chance, found in courses)
    assert float(variance) == pytest.approx(expected[name][0], abs=6e-7)
    assert float(proposals) == pytest.approx(expected[name][1], abs=6e-4)


@pytest.mark.parametrize("rule", [awrs, recursive])
def test_it_holds_too_where_the_probabilities_do_not_add_up_to_one(rule: Rule) -> None:
    check_properly_weighted(rule, [Fraction(1, 5), Fraction(1, 4), Fraction(1, 10), Fraction(0)], {0, 2})


@pytest.mark.parametrize(("accepts", "rejects"), [(2, 2), (2, 4), (3, 3)])
@pytest.mark.parametrize("name", ["only the second", "first and third"])
def test_geometric_with_a_limit_is_exactly_properly_weighted(name: str, accepts: int, rejects: int) -> None:
    def rule(urn: Urn, accept: Callable[[int], bool]) -> Estimate:
        return geometric(urn, accept, accepts, rejects)

    check_properly_weighted(rule, *fractions(name), most=rejects)


@pytest.mark.parametrize(("loops", "rejects"), [(1, 2), (1, 4), (2, 3)])
def test_with_replacement_and_a_limit_it_is_exactly_properly_weighted(loops: int, rejects: int) -> None:
    def rule(urn: Urn, accept: Callable[[int], bool]) -> Estimate:
        return wrs(urn, accept, loops, rejects)

    check_properly_weighted(rule, *fractions("first and third"))


def test_awrs_cannot_be_given_more_walks() -> None:
    """(1 - ψ₀) L / (n + L) with L = 2, two equally likely tokens, one allowed: 13/24 instead of 1/2."""

    def three_walks(urn: Urn, accept: Callable[[int], bool]) -> Estimate:
        refused: set[int] = set()
        first_mass = Fraction(0)
        for walk in range(3):
            for token in urn.walk(frozenset(refused)):
                if accept(token):
                    break
                refused.add(token)
                first_mass += urn.p[token] if walk == 0 else 0
        return Estimate(0, (1 - first_mass) * 2 / (len(refused) + 2))  # type: ignore[arg-type]

    courses = outcomes(three_walks, [Fraction(1, 2), Fraction(1, 2)], {0})
    assert sum(chance * found.weight for chance, found in courses) == Fraction(13, 24)


@every_case
def test_weighted_rejection_has_the_closed_variance(name: str) -> None:
    mass = float(sum(Fraction(CASES[name][0][token]) for token in CASES[name][1]))
    weights = [found.weight for found in simulated(wrs, name, 20_000)]
    average, error = mean(weights)
    assert average == pytest.approx(mass, abs=4 * error)
    spread, spread_error = mean([(weight - mass) ** 2 for weight in weights])
    closed = mass**2 * (-math.log(mass) / (1 - mass) - 1)
    assert spread == pytest.approx(closed, abs=4 * spread_error)


@every_case
def test_geometric_has_the_law_of_weighted_rejection_with_fewer_tests(name: str) -> None:
    p, allowed = CASES[name]
    found = simulated(geometric, name, 20_000)
    mass = float(sum(Fraction(p[token]) for token in allowed))
    for token in allowed:
        average, error = mean([one.weight if one.token == token else 0.0 for one in found])
        assert average == pytest.approx(float(p[token]), abs=4 * error)
    spread, error = mean([(one.weight - mass) ** 2 for one in found])
    assert spread == pytest.approx(mass**2 * (-math.log(mass) / (1 - mass) - 1), abs=4 * error)
    assert mean([one.tests for one in found])[0] == pytest.approx(GEOMETRIC_TESTS[name], abs=0.04)


def test_more_acceptances_make_the_geometric_weight_surer() -> None:
    def five(urn: Urn, accept: Callable[[int], bool]) -> Estimate:
        return geometric(urn, accept, 5)

    weights = [found.weight for found in simulated(five, "only the second", 20_000)]
    average, error = mean(weights)
    assert average == pytest.approx(0.3, abs=4 * error)
    assert mean([(weight - 0.3) ** 2 for weight in weights])[0] == pytest.approx(0.0169, abs=0.0008)


@pytest.mark.parametrize("rule", [lcd, wrs, awrs, recursive, geometric])
def test_the_token_has_the_law_of_masking(rule: Rule) -> None:
    counts = [found.token for found in simulated(rule, "second and fourth of five", 4000)]
    law = {1: 0.3 / 0.4, 3: 0.1 / 0.4}
    assert fit({token: counts.count(token) for token in set(counts)}, law).consistent


@pytest.mark.parametrize("rule", [lcd, awrs, recursive, geometric])
def test_where_nothing_is_allowed_every_token_is_tested_once_and_the_weight_is_0(rule: Rule) -> None:
    urn = Dice([0.5, 0.3, 0.2], 0)
    asked: list[int] = []

    def refuse(token: int) -> bool:
        asked.append(token)
        return False

    found = rule(urn, refuse)
    assert (found.token, found.weight) == (None, 0.0)
    assert sorted(asked) == [0, 1, 2]
    assert found.refused_mass == pytest.approx(1)


def test_with_replacement_it_gives_up_where_nothing_is_allowed() -> None:
    found = wrs(Dice([0.5, 0.3, 0.2], 0), lambda token: False, 1, 50)
    assert (found.token, found.weight, len(found.trials), found.tests) == (None, 0.0, 50, 3)


@pytest.mark.parametrize("estimator", ["auto", "lcd", "wrs", "awrs", "recursive", "geometric"])
def test_no_token_is_asked_about_twice_and_impossible_ones_never(estimator: Any) -> None:
    p = torch.tensor([0.3, 0.0, 0.3, 0.2, 0.2, 0.0])
    rng = torch.Generator().manual_seed(0)
    for _ in range(30):
        asked: list[int] = []

        def accept(token: int, asked: list[int] = asked) -> bool:
            asked.append(token)
            return token in (1, 3, 5)

        found = estimate(estimator, p, accept, rng)
        assert found.token == 3
        assert len(asked) == len(set(asked)) == found.tests
        assert not {1, 5} & set(asked)


def test_proposals_tell_the_chance_they_had_in_the_urn() -> None:
    p = [Fraction(1, 2), Fraction(3, 10), Fraction(1, 5)]
    first = outcomes(awrs, p, {1})[0][1]
    # The walks: first refused, second accepted; then second of what is left.
    assert [(trial.token, trial.p, trial.accepted, trial.round) for trial in first.trials] == [
        (0, Fraction(1, 2), False, 0),
        (1, Fraction(3, 5), True, 0),
        (1, Fraction(3, 5), True, 1),
    ]
    assert first.refused_mass == Fraction(1, 2)
    assert first.weight == Fraction(1, 2) / 2


def test_the_urn_walks_in_the_order_of_drawing_without_replacement() -> None:
    p = torch.tensor([0.5, 0.0, 0.3, 0.2])
    urn = RandomUrn(p, torch.Generator().manual_seed(1))
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(4000):
        walk = tuple(urn.walk(()))
        counts[walk] = counts.get(walk, 0) + 1
    weights = {0: 0.5, 2: 0.3, 3: 0.2}
    law = {(a, b, c): weights[a] * weights[b] / (1 - weights[a]) for a in weights for b in weights for c in weights
           if len({a, b, c}) == 3}  # fmt: skip
    assert fit(counts, law).consistent


def test_a_walk_goes_through_a_whole_vocabulary_and_leaves_out_what_is_out() -> None:
    p = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    p[::7] = 0
    walk = list(RandomUrn(p / p.sum(), torch.Generator().manual_seed(2)).walk({1, 2, 3}))
    assert sorted(walk) == [token for token in range(4, 1000) if token % 7]


def test_the_urn_draws_by_probability_and_misses_geometrically() -> None:
    p = torch.tensor([0.5, 0.0, 0.3, 0.2])
    urn = RandomUrn(p, torch.Generator().manual_seed(3))
    drawn = [urn.draw() for _ in range(4000)]
    assert fit({token: drawn.count(token) for token in set(drawn)}, {0: 0.5, 2: 0.3, 3: 0.2}).consistent
    missed = [urn.misses(0.3) for _ in range(4000)]
    law = {count: 0.3 * 0.7**count for count in range(80)}
    assert fit({count: missed.count(count) for count in set(missed)}, law).consistent
    assert urn.misses(1.0) == 0


@pytest.mark.parametrize("estimator", ["awrs", "recursive", "geometric"])
def test_a_token_that_is_hardly_possible_still_has_its_weight(estimator: Any) -> None:
    """What remains is added up, not subtracted: 1 - ψ₀ would be 0 here."""
    p = torch.tensor([0.5, 0.5 - 1e-30, 1e-30], dtype=torch.float64)
    found = estimate(estimator, p, {2}.__contains__, torch.Generator().manual_seed(0))
    assert found.token == 2
    assert 0 < found.weight < 1e-15
    if estimator == "recursive":
        assert found.weight == pytest.approx(1e-30, rel=1e-9)


def test_weights_of_the_real_urn_are_unbiased_over_a_large_vocabulary() -> None:
    generator = torch.Generator().manual_seed(4)
    p = (3 * torch.randn(5000, generator=generator)).double().softmax(-1)
    allowed = set(range(0, 5000, 3))
    mass = float(p[sorted(allowed)].sum())
    weights = [estimate("awrs", p, allowed.__contains__, generator).weight for _ in range(1500)]
    average, error = mean(weights)
    assert average == pytest.approx(mass, abs=4 * error)


def test_auto_takes_the_geometric_rule_where_one_token_dominates_or_more_is_asked() -> None:
    def chosen(p: list[float], **options: int) -> str:
        rng = torch.Generator().manual_seed(0)
        return estimate("auto", torch.tensor(p), {0}.__contains__, rng, **options).estimator

    assert chosen([0.5, 0.5]) == "recursive"
    assert chosen([0.7, 0.3]) == "geometric"
    assert chosen([0.5, 0.5], max_accepts=3) == "geometric"
    assert chosen([0.5, 0.5], max_rejects=8) == "geometric"


@pytest.mark.parametrize("estimator", ["auto", "lcd", "wrs", "awrs", "recursive", "geometric"])
def test_the_same_seed_gives_the_same_estimate(estimator: Any) -> None:
    p = torch.rand(50, generator=torch.Generator().manual_seed(5)).double().softmax(-1)
    found = [estimate(estimator, p, lambda token: token % 3 == 0, torch.Generator().manual_seed(6)) for _ in range(2)]
    assert found[0] == found[1]
