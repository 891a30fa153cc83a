"""The chi-square test lets exact methods pass and catches wrong ones."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.stats import chi2, chisquare

import engines.speculative.verify as verification
from engines.chi_square import LEVEL, Fit, cells, critical, fit, tail
from engines.errors import BadParameter, UnknownMethod
from engines.events import Judged
from engines.goodness_of_fit import PROMPT, distribution_test, exact_law
from engines.models.twin import twin
from engines.sampling import Sampling

METHODS = ("prompt-lookup", "token-recycling")
HOT = {"temperature": 1.0}


def result(method: str, params: dict[str, Any], draws: int, seed: int = 0, length: int = 4) -> Fit:
    return list(distribution_test(method, params, draws, seed, length=length))[-1]


def test_tail_and_limit_are_scipys() -> None:
    for freedom in (1, 4, 45, 200):
        for statistic in (0.1, 5.0, 80.0, 300.0):
            assert tail(statistic, freedom) == pytest.approx(chi2.sf(statistic, freedom), rel=1e-6, abs=1e-12)
        assert critical(freedom) == pytest.approx(chi2.isf(LEVEL, freedom), rel=1e-6)


def test_a_fit_by_hand() -> None:
    law = {"a": 0.5, "b": 0.3, "c": 0.2}
    counts = {"a": 60, "b": 25, "c": 15}
    expected = chisquare([60, 25, 15], [50, 30, 20])
    found = fit(counts, law)
    assert (found.statistic, found.freedom) == (pytest.approx(expected.statistic), 2)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.consistent


def test_rare_outcomes_share_a_cell_of_at_least_five() -> None:
    law = {"a": 0.60, "b": 0.37, "c": 0.02, "d": 0.01}
    assert cells({"a": 61, "b": 36, "c": 1, "d": 2}, law, 100) == ([61.0, 39.0], [60.0, pytest.approx(40.0)])
    observed, expected = cells({"a": 610, "b": 360, "c": 10, "d": 20}, law, 1000)
    assert observed == [610.0, 360.0, 10.0, 20.0]
    assert expected == pytest.approx([600, 370, 20, 10])


def test_an_impossible_outcome_settles_it() -> None:
    found = fit({"a": 5000, "z": 1}, {"a": 1.0})
    assert (found.p_value, found.impossible, found.consistent) == (0.0, 1, False)


def test_nothing_drawn_and_nothing_to_choose_are_no_evidence() -> None:
    assert fit({}, {"a": 0.5, "b": 0.5}).consistent
    assert fit({"a": 100}, {"a": 1.0}).p_value == 1.0


def test_the_exact_law_adds_up_and_is_the_product_of_conditionals() -> None:
    model = twin()
    law = exact_law(model, PROMPT, Sampling(temperature=0.7, top_k=3), 3)
    assert sum(law.values()) == pytest.approx(1.0)
    (end,) = model.eos_ids
    assert all(len(text) == 3 or text[-1] == end for text in law)
    assert all(end not in text[:-1] for text in law)
    ids = model.encode(PROMPT, raw=True)
    text = max(law, key=lambda one: law[one])
    p = 1.0
    for place, token in enumerate(text):
        logits = model.start().extend([*ids, *text[:place]], last=True)[-1] / 0.7
        top = logits.topk(3)
        p *= float(top.values.softmax(-1)[top.indices.tolist().index(token)])
    assert law[text] == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_exact_methods_pass_with_every_seed(method: str) -> None:
    fits = [result(method, HOT, 150, seed, length=3) for seed in range(20)]
    assert all(one.consistent for one in fits)
    # P-values of an exact method are spread evenly: a test that always says 1 would pass nothing through.
    assert 3 <= sum(one.p_value < 0.5 for one in fits) <= 17
    assert all(0 < one.accepted < one.tested for one in fits)


def test_every_filter_is_part_of_the_exact_law() -> None:
    settings = {"temperature": 0.8, "top_k": 4, "top_p": 0.9}
    for method in METHODS:
        found = result(method, settings, 400)
        assert found.consistent, method
    full = {"mirostat_tau": 1.5, "frequency_penalty": 1.0, "repetition_penalty": 1.2, "min_p": 0.05}
    assert result("sampling", full, 400).consistent


def test_greedy_is_not_sampling() -> None:
    assert not result("greedy", {}, 60).consistent


def correction_from_p(
    tree: Any, node: int, logits: Any, sampler: Any, rng: Any, prompt: Any, text: Any, result: Any
) -> int | None:
    """Wrong: a refused guess is replaced from p, in which it can be drawn once more."""
    p = sampler.distribution(logits, prompt, text).probabilities
    result.stages.append(())
    residual = p.clone()
    for child in tree.children[node]:
        token = tree.tokens[child]
        chance = float(residual[token] / residual.sum())
        u = float(torch.rand((), generator=rng))
        result.judged[child] = Judged(child, "accepted" if u < chance else "rejected", chance, chance, u)
        if u < chance:
            result.finals.append(chance)
            return child
        residual[token] = 0.0
    result.residual = p
    result.extra = sampler.draw(p, rng)
    result.finals.append(None)
    return None


def acceptance_without_ratio(
    tree: Any, node: int, logits: Any, sampler: Any, rng: Any, prompt: Any, text: Any, result: Any
) -> int | None:
    """Wrong: every guess meets p itself, though the guesses before it have been taken out."""
    p = sampler.distribution(logits, prompt, text).probabilities
    result.stages.append(())
    residual = p.clone()
    for child in tree.children[node]:
        token = tree.tokens[child]
        u = float(torch.rand((), generator=rng))
        result.judged[child] = Judged(child, "accepted" if u < p[token] else "rejected", float(p[token]), None, u)
        if u < p[token]:
            result.finals.append(None)
            return child
        residual[token] = 0.0
    result.residual = residual if residual.sum() > 0 else p
    result.extra = sampler.draw(result.residual, rng)
    result.finals.append(None)
    return None


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("prompt-lookup", correction_from_p),
        ("token-recycling", correction_from_p),
        ("token-recycling", acceptance_without_ratio),
    ],
    ids=["lookup, correction from p", "recycling, correction from p", "recycling, acceptance without ratio"],
)
def test_wrong_verification_is_caught(method: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_walk_drawn", wrong)
    found = result(method, HOT, 1000)
    assert not found.consistent
    assert found.p_value < LEVEL / 1000


def test_progress_comes_in_small_steps_and_ends_whole() -> None:
    fits = list(distribution_test("prompt-lookup", HOT, 23))
    drawn = [one.draws for one in fits]
    assert drawn == sorted(drawn)
    assert max(b - a for a, b in pairwise(drawn)) <= 5
    assert (fits[-1].draws, fits[-1].wanted, fits[-1].done) == (23, 23, True)
    assert not fits[-2].done
    assert all(math.isfinite(one.statistic) and 0 <= one.p_value <= 1 for one in fits)


def test_the_same_seed_gives_the_same_result() -> None:
    assert result("token-recycling", HOT, 40, 3) == result("token-recycling", HOT, 40, 3)
    assert result("token-recycling", HOT, 40, 3) != result("token-recycling", HOT, 40, 4)


def test_bad_requests_get_sentences() -> None:
    with pytest.raises(UnknownMethod):
        next(distribution_test("no-such-method"))
    with pytest.raises(BadParameter):
        next(distribution_test("prompt-lookup", {"temperature": -1}))


def test_counting_is_not_fooled_by_order() -> None:
    law = {(0,): 0.25, (1,): 0.75}
    assert fit(Counter({(1,): 75, (0,): 25}), law).statistic == 0.0
