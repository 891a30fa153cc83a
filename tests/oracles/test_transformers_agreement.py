"""The classic decoders are those of transformers, or, where it has none, those of a few independent lines.

Only float noise may separate the two: a batch of another shape adds in another order. Filters are compared on the
same logits, so their masks must be identical.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from engines.events import Beams, Finished, Score
from engines.models.causal import CausalModel
from engines.runner import run
from engines.sampling import (
    NEVER,
    Sampler,
    Sampling,
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
)

PROMPTS = (
    "What is photosynthesis? Explain it simply.",
    "Write a short poem about the sea at night.",
    "List three fruits, one per line.",
)


def ours(model: CausalModel, method: str, prompt: str, length: int, **params: object) -> list[int]:
    last = list(run(model, method, prompt, params=params, max_new_tokens=length))[-1]
    assert isinstance(last, Finished)
    return list(last.token_ids)


def theirs(model: CausalModel, prompt: str, length: int, **settings: object) -> list[int]:
    ids = torch.tensor([model.encode(prompt)])
    out = model.network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=length,
        pad_token_id=min(model.eos_ids),
        eos_token_id=sorted(model.eos_ids),
        **settings,
    )
    return out[0, ids.shape[1] :].tolist()


@pytest.fixture(params=["lean", "stock"])
def tiny(request: pytest.FixtureRequest, tiny_llama: CausalModel, tiny_gpt2: CausalModel) -> CausalModel:
    return tiny_llama if request.param == "lean" else tiny_gpt2


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_on_the_embedded_model(smollm: CausalModel, prompt: str) -> None:
    assert ours(smollm, "greedy", prompt, 64) == theirs(smollm, prompt, 64)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_on_tiny_models(tiny: CausalModel, prompt: str) -> None:
    assert ours(tiny, "greedy", prompt, 60) == theirs(tiny, prompt, 60)


@pytest.mark.parametrize(
    ("prompt", "beams", "length_penalty", "early_stopping", "length"),
    [
        (0, 2, 1.0, "false", 40),
        (0, 4, 1.0, "true", 40),
        (1, 3, 0.0, "false", 30),
        (2, 4, 2.0, "never", 60),
        (2, 4, 1.0, "false", 60),
        (2, 5, -1.0, "true", 60),
    ],
)
def test_beams_on_the_embedded_model(
    smollm: CausalModel, prompt: int, beams: int, length_penalty: float, early_stopping: str, length: int
) -> None:
    settings = {"num_beams": beams, "length_penalty": length_penalty}
    mine = ours(smollm, "beam-search", PROMPTS[prompt], length, early_stopping=early_stopping, **settings)
    stop: object = {"false": False, "true": True, "never": "never"}[early_stopping]
    assert mine == theirs(smollm, PROMPTS[prompt], length, early_stopping=stop, **settings)


@pytest.mark.parametrize("beams", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("length_penalty", [-2.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("early_stopping", ["false", "true", "never"])
def test_beams_on_tiny_models(
    tiny: CausalModel, beams: int, length_penalty: float, early_stopping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # End tokens that such a model does choose, and more than one: the search then ends in every possible way.
    for ends in ([256], [10, 32, 97, 101, 180], list(range(0, 256, 4))):
        monkeypatch.setattr(tiny, "eos_ids", frozenset(ends))
        settings = {"num_beams": beams, "length_penalty": length_penalty}
        for prompt in PROMPTS[:2]:
            mine = ours(tiny, "beam-search", prompt, 16, early_stopping=early_stopping, **settings)
            stop: object = {"false": False, "true": True, "never": "never"}[early_stopping]
            assert mine == theirs(tiny, prompt, 16, early_stopping=stop, **settings), (ends, prompt)


def test_beam_scores(tiny: CausalModel) -> None:
    ids = torch.tensor([tiny.encode(PROMPTS[0])])
    out = tiny.network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_beams=4,
        length_penalty=0.7,
        do_sample=False,
        max_new_tokens=12,
        return_dict_in_generate=True,
        output_scores=True,
    )
    events = list(
        run(tiny, "beam-search", PROMPTS[0], params={"num_beams": 4, "length_penalty": 0.7}, max_new_tokens=12)
    )
    chosen = [beam for event in events if isinstance(event, Beams) for beam in event.beams if beam.outcome == "chosen"]
    assert chosen[0].score == pytest.approx(float(out.sequences_scores[0]), abs=1e-5)


FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    f"{name} {value}": (lambda x, a=apply, v=value: a(x, v), lambda x, w=warper, v=value: w(v)(None, x))  # type: ignore[misc]
    for name, apply, warper, values in [
        ("temperature", apply_temperature, TemperatureLogitsWarper, (0.3, 0.7, 1.8)),
        ("top-k", apply_top_k, TopKLogitsWarper, (1, 5, 50, 1000)),
        ("top-p", apply_top_p, TopPLogitsWarper, (0.05, 0.5, 0.9, 0.95, 0.99)),
        ("min-p", apply_min_p, MinPLogitsWarper, (0.01, 0.1, 0.5, 1.0)),
        ("typical", apply_typical, TypicalLogitsWarper, (0.2, 0.5, 0.9, 0.95)),
        ("epsilon", apply_epsilon, EpsilonLogitsWarper, (3e-4, 9e-4, 0.1)),
        ("eta", apply_eta, EtaLogitsWarper, (3e-4, 2e-3, 0.1)),
    ]
    for value in values
}


@pytest.fixture(scope="module")
def real_logits(smollm: CausalModel) -> Tensor:
    """Logits (places, vocabulary) along a real text: sure places and unsure ones."""
    ids = smollm.encode("The old lighthouse keeper wrote: 1 + 1 = 2, and then the wind, who had", raw=True)
    return smollm.start().extend(ids)


def assert_same(mine: Tensor, reference: Tensor) -> None:
    assert torch.equal(mine > NEVER, reference > NEVER)
    assert torch.allclose(mine.softmax(-1), reference.softmax(-1), atol=1e-5)


@pytest.mark.parametrize("name", FILTERS)
def test_each_filter_on_real_logits(real_logits: Tensor, name: str) -> None:
    mine, reference = FILTERS[name]
    assert_same(mine(real_logits), reference(real_logits))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_each_filter_on_random_logits(name: str, spread: float) -> None:
    logits = torch.randn(20, 300, generator=torch.Generator().manual_seed(0)) * spread
    mine, reference = FILTERS[name]
    assert_same(mine(logits), reference(logits))


@pytest.mark.parametrize("penalty", [0.8, 1.1, 2.0])
def test_repetition_penalty(real_logits: Tensor, penalty: float) -> None:
    context = [5, 9, 9, 260, 44_000, 5]
    reference = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([context]), real_logits[-1:].clone())
    assert_same(apply_repetition_penalty(real_logits[-1:], penalty, context), reference)


def test_all_filters_together_in_the_order_of_transformers(smollm: CausalModel, real_logits: Tensor) -> None:
    settings = Sampling(
        temperature=1.3,
        top_k=200,
        top_p=0.95,
        min_p=0.002,
        typical=0.97,
        epsilon=2e-4,
        eta=3e-4,
        repetition_penalty=1.2,
    )
    context = list(range(300, 340))
    chain = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.2),
            TemperatureLogitsWarper(1.3),
            TopKLogitsWarper(200),
            TopPLogitsWarper(0.95),
            MinPLogitsWarper(0.002),
            TypicalLogitsWarper(0.97),
            EpsilonLogitsWarper(2e-4),
            EtaLogitsWarper(3e-4),
        ]
    )
    sampler = Sampler(settings, smollm.token)
    for row in real_logits:
        assert_same(sampler.warp(row, context[:30], context[30:]), chain(torch.tensor([context]), row[None])[0])
        distribution = sampler.distribution(row, context[:30], context[30:])
        assert torch.allclose(distribution.probabilities, sampler.warp(row, context[:30], context[30:]).softmax(-1))


def test_the_order_is_the_one_generate_uses(tiny_llama: CausalModel) -> None:
    """Reads the processors off `generate` itself, so that a change of its order does not go unseen."""
    config = tiny_llama.network._prepare_generation_config(None)[0]
    config.update(do_sample=True, temperature=0.7, top_k=9, top_p=0.9, min_p=0.01, typical_p=0.9)
    config.update(epsilon_cutoff=1e-3, eta_cutoff=1e-3, repetition_penalty=1.3, max_length=9)
    processors = tiny_llama.network._get_logits_processor(config, input_ids_seq_length=3)
    names = [
        type(processor).__name__.removesuffix("LogitsWarper").removesuffix("LogitsProcessor")
        for processor in processors
    ]
    assert names == ["RepetitionPenalty", "Temperature", "TopK", "TopP", "MinP", "Typical", "Epsilon", "Eta"]


def test_top_n_sigma_against_its_definition(real_logits: Tensor) -> None:
    for n in (0.5, 1.0, 2.0):
        threshold = real_logits.max(dim=-1, keepdim=True).values - n * real_logits.std(dim=-1, keepdim=True)
        assert torch.equal(apply_top_n_sigma(real_logits, n) > NEVER, real_logits >= threshold)


def test_mirostat_against_its_definition(real_logits: Tensor) -> None:
    tau, eta = 2.5, 0.3
    sampler = Sampler(Sampling(mirostat_tau=tau, mirostat_eta=eta), lambda id: None)  # type: ignore[arg-type,return-value]
    rng = torch.Generator().manual_seed(0)
    mu = 2 * tau
    for logits in real_logits:
        surprise = [-math.log2(p) if p > 0 else math.inf for p in logits.double().softmax(-1).tolist()]
        allowed = [token for token, bits in enumerate(surprise) if bits <= mu] or [int(logits.argmax())]
        warped = sampler.warp(logits, [], [])
        assert (warped > NEVER).nonzero()[:, 0].tolist() == allowed
        token = sampler.draw(warped.softmax(-1), rng)
        sampler.learn(token, logits)
        mu -= eta * (surprise[token] - tau)
    assert apply_mirostat(real_logits[0], mu).isfinite().any()


def log_p_after(model: CausalModel, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        return model.network(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("penalty", [0.0, 0.5, 3.0])
def test_diverse_beams_against_a_few_lines(tiny: CausalModel, width: int, penalty: float) -> None:
    """Groups of (text, score) extended by brute force, without a cache; no text may end, so only the search counts."""
    groups, length = 3, 8
    prompt = tiny.encode(PROMPTS[0])
    state: list[list[tuple[list[int], float]]] = [[([], 0.0)] for _ in range(groups)]
    for _ in range(length):
        used = torch.zeros(tiny.vocabulary_size)
        for index, texts in enumerate(state):
            options: list[tuple[list[int], float]] = []
            for text, score in texts:
                row = score + log_p_after(tiny, prompt + text) - penalty * used
                row[list(tiny.eos_ids)] = -math.inf
                options += [([*text, token], value) for token, value in enumerate(row.tolist())]
            state[index] = sorted(options, key=lambda option: -option[1])[:width]
            for text, _ in state[index]:
                used[text[-1]] += 1
    best = [max(texts, key=lambda option: option[1])[0] for texts in state]

    params = {"num_beam_groups": groups, "beams_per_group": width, "diversity_penalty": penalty}
    events = list(run(tiny, "diverse-beam-search", PROMPTS[0], params=params, max_new_tokens=length))
    assert not any(
        beam.token.id in tiny.eos_ids and beam.outcome != "pruned"
        for event in events
        if isinstance(event, Beams)
        for beam in event.beams
    ), "choose a prompt where no text ends"
    texts = [event.text for event in events if isinstance(event, Score)]
    assert texts == [tiny.decode(ids) for ids in best]
    log_p = [
        sum(float(log_p_after(tiny, prompt + ids[:place])[token]) for place, token in enumerate(ids)) for ids in best
    ]
    assert list(events[-1].token_ids) == best[max(range(groups), key=log_p.__getitem__)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("alpha", "k"), [(0.0, 4), (0.3, 4), (0.6, 4), (0.6, 8), (0.9, 3)])
def test_contrastive_search_against_a_few_lines(tiny: CausalModel, alpha: float, k: int) -> None:
    """Equation 5, without a cache: every candidate is read behind the whole text."""
    length = 12
    prompt = tiny.encode(PROMPTS[1])
    text: list[int] = []
    while len(text) < length and not (text and text[-1] in tiny.eos_ids):
        p, candidates = log_p_after(tiny, prompt + text).exp().topk(k)
        scores = []
        for probability, token in zip(p.tolist(), candidates.tolist(), strict=True):
            with torch.inference_mode():
                hidden = tiny.network(torch.tensor([[*prompt, *text, token]]), output_hidden_states=True).hidden_states[
                    -1
                ][0]
            similarity = torch.cosine_similarity(hidden[-1:], hidden[:-1], dim=-1).max()
            scores.append((1 - alpha) * probability - alpha * float(similarity))
        text.append(int(candidates[max(range(k), key=scores.__getitem__)]))
    assert ours(tiny, "contrastive-search", PROMPTS[1], length, penalty_alpha=alpha, top_k=k) == text


def test_best_of_n_against_its_own_texts(tiny: CausalModel) -> None:
    """The argmax over all texts of what the model says of them, computed afresh."""
    prompt = tiny.encode(PROMPTS[0])
    for seed, reward in itertools.product(range(3), ("log-probability", "mean log-probability")):
        params = {"n": 5, "reward": reward}
        events = list(run(tiny, "best-of-n", PROMPTS[0], params=params, seed=seed, max_new_tokens=10))
        lines = _lines(events)
        values = []
        for ids in lines:
            total = sum(float(log_p_after(tiny, prompt + ids[:place])[token]) for place, token in enumerate(ids))
            values.append(total / len(ids) if reward.startswith("mean") else total)
        scores = [event.value for event in events if isinstance(event, Score)]
        assert scores == pytest.approx(values, abs=1e-3)
        assert list(events[-1].token_ids) == lines[scores.index(max(scores))]  # type: ignore[attr-defined]


def _lines(events: list[object]) -> list[list[int]]:
    """Token ids of every text of a best-of-n run, read off the tree."""
    steps = [event for event in events if isinstance(event, Beams)][:-1]
    lines: dict[int, list[int]] = {}
    for step in steps:
        for beam in step.beams:
            lines.setdefault(beam.group, []).append(beam.token.id)
    return [lines[group] for group in sorted(lines)]
