"""The method `sampling`: what the stream shows of a draw."""

from __future__ import annotations

from math import log2
from string import printable

import pytest
from scipy.stats import chisquare

from engines.errors import BadParameter
from engines.events import Candidates, committed
from engines.models.causal import CausalModel
from engines.runner import run
from engines.sampling import apply_repetition_penalty
from tests.engines.laws import finished, only


def test_filters_show_up_at_every_position_in_order(tiny_llama: CausalModel) -> None:
    params = {"min_p": 0.01, "top_k": 20, "temperature": 0.8, "presence_penalty": 0.3}
    events = list(run(tiny_llama, "sampling", "Hello", params=params, max_new_tokens=5))
    for candidates in only(events, Candidates):
        names = [stage.name for stage in candidates.stages]
        assert names == ["frequency and presence penalty", "temperature", "top-k", "min-p"]
        assert candidates.stages[2].kept <= 20


def test_a_committed_token_carries_its_probability_before_and_after_filters(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "sampling", "Hello", params={"top_k": 1}, max_new_tokens=5))
    for placed in committed(events):
        assert placed.rank == 0
        assert placed.final == pytest.approx(1.0)
        assert placed.raw is not None
        assert placed.raw < 1


def test_temperature_zero_is_greedy(tiny_llama: CausalModel) -> None:
    cold = finished(list(run(tiny_llama, "sampling", "Hello", params={"temperature": 0}, max_new_tokens=20)))
    greedy = finished(list(run(tiny_llama, "greedy", "Hello", max_new_tokens=20)))
    assert cold.token_ids == greedy.token_ids


def test_tokens_are_drawn_with_the_filtered_probabilities(tiny_llama: CausalModel) -> None:
    params = {"top_k": 4, "temperature": 2.0}
    counts: dict[int, int] = {}
    shown: dict[int, float] = {}
    for seed in range(600):
        events = list(run(tiny_llama, "sampling", "Hello", params=params, seed=seed, max_new_tokens=1))
        (placed,) = committed(events)
        counts[placed.token.id] = counts.get(placed.token.id, 0) + 1
        (candidates,) = only(events, Candidates)
        shown = {choice.token.id: choice.p for choice in candidates.stages[-1].top if choice.p > 0}
    observed = [counts.get(id, 0) for id in shown]
    assert sum(observed) == 600
    total = sum(shown.values())
    assert chisquare(observed, [600 * p / total for p in shown.values()]).pvalue > 1e-3


def test_a_repetition_penalty_counts_the_prompt_as_well(tiny_llama: CausalModel) -> None:
    changed = 0
    for prompt in ("Hello", "the sea at night", printable[:90], printable[60::-1]):
        ids = tiny_llama.encode(prompt)
        logits = tiny_llama.start().extend(ids, last=True)[-1]
        expected = apply_repetition_penalty(logits, 0.2, ids)
        changed += int(expected.argmax()) != int(logits.argmax())
        params = {"temperature": 0, "repetition_penalty": 0.2}
        got = finished(list(run(tiny_llama, "sampling", prompt, params=params, max_new_tokens=1)))
        assert got.token_ids == (int(expected.argmax()),)
    assert changed


def test_mirostat_learns_from_every_token(tiny_llama: CausalModel) -> None:
    params = {"mirostat_tau": 3.0, "mirostat_eta": 0.8}
    events = list(run(tiny_llama, "sampling", "Hello", params=params, seed=1, max_new_tokens=10))
    mu, state, new = 6.0, tiny_llama.start(), tiny_llama.encode("Hello")
    for candidates, placed in zip(only(events, Candidates), committed(events), strict=True):
        p = state.extend(new, last=True)[-1].softmax(-1)
        (stage,) = candidates.stages
        assert stage.kept == max(1, int((p >= 2**-mu).sum()))
        new = [placed.token.id]
        mu -= 0.8 * (-log2(float(p[new[0]])) - 3.0)


@pytest.mark.parametrize(
    "params", [{"temperature": -1}, {"top_p": 0}, {"top_k": 1.5}, {"min_p": float("nan")}, {"topk": 3}]
)
def test_bad_settings_are_refused_before_anything_runs(tiny_llama: CausalModel, params: dict[str, object]) -> None:
    with pytest.raises(BadParameter) as caught:
        run(tiny_llama, "sampling", "Hello", params=params)
    assert next(iter(params)) in str(caught.value)
