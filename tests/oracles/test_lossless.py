"""Lossless means: the same tokens as plain greedy decoding, and the same distribution when sampling.

A pass over several tokens adds floats in another order than a pass over one, so an argmax can flip where the
two best logits are closer than `TIE`. Such ties are counted and shown, and only they excuse a difference.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from string import ascii_lowercase

import pytest
import torch
from scipy.stats import chisquare

from engines.events import Draft, Finished, Verdict
from engines.method import find
from engines.models.causal import CausalModel, State
from engines.runner import Run, run
from engines.speculative.loop import speculate
from engines.speculative.token_recycling import Params, Recycler, likeliest_first
from tests.oracles.prompts import PROMPTS, SHORT_ANSWERS

TIE = 1e-3
EVERY_PROMPT = PROMPTS + SHORT_ANSWERS
BUDGETS = (1, 7, 64)
WHOLE = bool(os.environ.get("WHOLE_SWEEP"))
"""Whether the longest texts are written after all prompts by every method: five minutes more. Otherwise every method
takes every other prompt, and its neighbour in the list the rest."""
LOSSLESS = [
    ("prompt-lookup", {"fallback": False}),
    ("copyspec", {"fallback": False}),
    ("aggressive-decoding", {"fallback": False}),
    ("token-recycling", {"nodes": 12}),
    ("aded", {"choices": 16, "fallback": False}),
    ("speculative-sampling", {"gamma": 4, "fallback": False}),
    ("pearl", {}),
    ("specinfer", {"adapt": False, "fallback": False}),
    ("rsd-c", {"fallback": False}),
    ("rsd-s", {"adapt": False, "fallback": False}),
]


def tokens(read: State, prompt: list[int], method: str, params: dict[str, object], length: int) -> tuple[int, ...]:
    """What a method writes, after a prompt that is read once for all of them."""
    spec = find(method)
    job = Run(read._model, prompt, max_new_tokens=length)
    job.state = read.fork(1)
    job.clock.start()
    for _ in spec.generate(job, spec.validate(params)):
        pass
    return tuple(job.output)


@pytest.fixture(scope="module")
def states(smollm: CausalModel) -> dict[str, tuple[State, list[int]]]:
    """The prompts' ids, and a cache of all but the last."""
    found = {}
    for prompt in EVERY_PROMPT:
        job = Run(smollm, smollm.encode(prompt))
        list(job.read_prompt())
        found[prompt] = (job.state, job.prompt)
    return found


@pytest.fixture(scope="module")
def greedy(states: dict[str, tuple[State, list[int]]]) -> dict[str, tuple[int, ...]]:
    return {prompt: tokens(*states[prompt], "greedy", {}, max(BUDGETS)) for prompt in EVERY_PROMPT}


def test_a_prompt_read_once_for_all_is_a_prompt_read(
    smollm: CausalModel, states: dict[str, tuple[State, list[int]]], greedy: dict[str, tuple[int, ...]]
) -> None:
    for prompt in EVERY_PROMPT[-3:]:
        last = list(run(smollm, "greedy", prompt, max_new_tokens=7))[-1]
        assert isinstance(last, Finished)
        assert last.token_ids == greedy[prompt][:7]
        assert states[prompt][0].length == len(states[prompt][1]) - 1, "no method has left anything in it"


def gap(model: CausalModel, prompt: str, prefix: tuple[int, ...]) -> float:
    """Difference of the two best logits after a prefix, read in one fresh pass."""
    best = model.start().extend([*model.encode(prompt), *prefix], last=True)[-1].topk(2).values
    return float(best[0] - best[1])


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(("method", "params"), LOSSLESS, ids=[method for method, _ in LOSSLESS])
def test_greedy_output_is_plain_greedys(
    smollm: CausalModel,
    states: dict[str, tuple[State, list[int]]],
    greedy: dict[str, tuple[int, ...]],
    method: str,
    params: dict[str, object],
    budget: int,
) -> None:
    ties = 0
    turn = [name for name, _ in LOSSLESS].index(method) % 2
    for prompt in EVERY_PROMPT if WHOLE or budget < max(BUDGETS) else EVERY_PROMPT[turn::2]:
        ours = tokens(*states[prompt], method, params, budget)
        plain = greedy[prompt][:budget]
        if ours == plain:
            continue
        first = next(i for i, (a, b) in enumerate(zip(ours, plain, strict=False)) if a != b)
        assert gap(smollm, prompt, plain[:first]) < TIE, f"{method} differs at token {first} of {prompt!r}"
        ties += 1
    print(f"{method}: {ties} of {len(EVERY_PROMPT)} prompts differ at a float tie within {budget} tokens")
    assert ties <= 3


RUNS = 3000


@pytest.mark.parametrize(
    ("method", "params"),
    [("prompt-lookup", {"max_ngram": 1}), ("token-recycling", {"nodes": 10, "memory": "hot"})],
    ids=["prompt-lookup", "token-recycling"],
)
def test_sampled_output_has_the_targets_distribution(
    tiny_llama: CausalModel, method: str, params: dict[str, object]
) -> None:
    """The law of the second token over thousands of runs against exact enumeration over the first.

    Top-k 3 keeps the alphabet small enough for a chi-square test. The prompt is an "xyx" after which the model
    may well say y, so that guesses are accepted and refused in good numbers.
    """
    settings = {"temperature": 0.7, "top_k": 3, **params}

    @cache
    def law(text: tuple[int, ...]) -> dict[int, float]:
        logits = tiny_llama.start().extend(text, last=True)[-1]
        values, kept = (logits / 0.7).topk(3)
        return dict(zip(kept.tolist(), values.softmax(-1).tolist(), strict=True))

    words = [x + y + x for x in ascii_lowercase for y in ascii_lowercase if x != y]
    encoded = {word: tuple(tiny_llama.encode(word, raw=True)) for word in words}
    prompt = max(words, key=lambda word: law(encoded[word]).get(encoded[word][1], 0) % 0.9)
    ids = encoded[prompt]
    expected: dict[tuple[int, ...], float] = {}
    for first, p_first in law(ids).items():
        for second, p_second in law((*ids, first)).items():
            expected[first, second] = p_first * p_second
    observed: Counter[tuple[int, ...]] = Counter()
    accepted = 0
    for seed in range(RUNS):
        last = list(run(tiny_llama, method, prompt, params=settings, raw=True, seed=seed, max_new_tokens=2))[-1]
        assert isinstance(last, Finished)
        observed[last.token_ids] += 1
        accepted += last.totals.accepted
    assert set(observed) <= set(expected)
    frequent = [pair for pair, p in expected.items() if p * RUNS >= 5]
    rest = RUNS - sum(observed[pair] for pair in frequent)
    counts = [*(observed[pair] for pair in frequent), rest]
    share = [*(expected[pair] * RUNS for pair in frequent)]
    share.append(RUNS - sum(share))
    if share[-1] < 1e-9:
        counts, share = counts[:-1], share[:-1]
    assert chisquare(counts, share, sum_check=False).pvalue > 1e-3
    assert accepted > RUNS // 20, "hardly anything was verified, so the test proves nothing"


def test_the_cache_holds_all_but_the_root_after_every_step(smollm: CausalModel) -> None:
    """And what it holds is right: a fresh pass over the text agrees with one over the root behind the cache."""
    prompt = smollm.encode("Why is the sky blue?")
    warm, job = (Run(smollm, prompt, max_new_tokens=32) for _ in range(2))
    recycler = Recycler(likeliest_first(8)[:24], 8, {})
    list(warm.read_prompt())
    list(speculate(warm, recycler, Params(nodes=24)))
    list(job.read_prompt())
    off_the_leading_nodes = 0
    for event in speculate(job, recycler, Params(nodes=24)):
        if isinstance(event, Verdict):
            off_the_leading_nodes += event.path != tuple(range(1, 1 + len(event.path)))
        if isinstance(event, Draft):
            assert job.state.length == len(job.sequence) - 1
            fresh = smollm.start().extend(job.sequence, last=True)[-1]
            behind = job.state.fork(1).extend([job.root])[-1]
            assert torch.allclose(fresh, behind, atol=1e-3)
    assert off_the_leading_nodes > 2, "keeping the first nodes would have passed"
