"""Guessing on models that cannot read a tree, or cannot forget a token: plain decoding's text, and a word about it."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from engines.errors import BadParameter
from engines.events import Cache, Commit, Curve, Draft, Event, Forward, Note, Verdict
from engines.models.causal import QUERY_SIZES, CausalModel
from engines.runner import Run, run
from engines.sampling import Speculating
from engines.speculative.budget import Fixed
from engines.speculative.copying import Copier, NgramIndex
from engines.speculative.loop import speculate
from engines.speculative.tree import TokenTree
from tests.engines.laws import check_stream, finished, only
from tests.engines.models.test_causal import tiny_lfm2, tiny_mamba, tiny_mistral, wrapped

PROMPT = "Copy this: abcabdabe abcabdabe\nabcabdabe abcabdabe\n"
LENGTH = 60
METHODS: list[tuple[str, dict[str, object]]] = [
    ("prompt-lookup", {"max_ngram": 1}),
    ("copyspec", {"gamma": 1, "block": 4}),
    ("token-recycling", {"nodes": 8}),
    ("aded", {"choices": 8}),
    ("aggressive-decoding", {"block": 4}),
    ("speculative-sampling", {"gamma": 3}),
    ("pearl", {"gamma": 3, "workers": "one"}),
]
MODELS = {"sliding window": (tiny_mistral, 4.0), "recurrent": (tiny_mamba, 0.6), "hybrid": (tiny_lfm2, 1.0)}
"""Each with how wide its embedding is made: so wide that it goes round in circles, and not so wide that it stays."""


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> CausalModel:
    make, width = MODELS[request.param]
    made = make()
    circling(made, width)
    made.companion = relative(made)
    return made


def circling(model: CausalModel, width: float) -> None:
    """Lets the token after t be, as far as the layers between do not object, the next one of t's five."""
    with torch.no_grad():
        embedding = model.network.get_input_embeddings().weight
        embedding.copy_(width * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(3)))
        ids = torch.arange(255)
        rows = torch.zeros_like(embedding)
        rows[ids // 5 * 5 + (ids + 1) % 5] = 2 * embedding[:255] / embedding[:255].norm(dim=1, keepdim=True)
    output = nn.Linear(*reversed(embedding.shape), bias=False)
    output.weight = nn.Parameter(rows)
    model.network.set_output_embeddings(output)


def relative(target: CausalModel) -> CausalModel:
    """A draft that agrees now and then: a Llama of one layer between the target's own embedding and output."""
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    torch.manual_seed(1)
    network = LlamaForCausalLM(config)
    network.get_input_embeddings().weight.data = target.network.get_input_embeddings().weight.data.clone()
    network.get_output_embeddings().weight.data = target.network.get_output_embeddings().weight.data.clone()
    return wrapped(network)


def decode(model: CausalModel, method: str, **params: object) -> list[Event]:
    return list(run(model, method, PROMPT, params=params, raw=True, max_new_tokens=LENGTH))


def notes(events: list[Event], words: str) -> int:
    return sum(words in event.text for event in only(events, Note))


@pytest.mark.parametrize(("method", "params"), METHODS, ids=[method for method, _ in METHODS])
def test_greedy_text_is_plain_decodings_and_the_fallback_is_said(
    model: CausalModel, method: str, params: dict[str, object]
) -> None:
    events = decode(model, method, fallback=False, **params)
    check_stream(model, events)
    assert finished(events).token_ids == finished(decode(model, "greedy")).token_ids
    drafts, verdicts = only(events, Draft), only(events, Verdict)
    assert drafts
    assert all(node.parent == node.id - 1 for draft in drafts for node in draft.nodes)
    if method in ("token-recycling", "aded"):
        assert notes(events, "cannot read a tree in one pass: only its first branch is checked") == 1
    taken_back = only(events, Cache)
    if method != "pearl":  # which refuses the first guess of a block before it has read it
        assert any(node.outcome == "rejected" for verdict in verdicts for node in verdict.nodes)
        assert taken_back
    assert notes(events, "cannot forget single tokens") == (model.rereads and bool(taken_back))
    assert notes(events, "one token at a time") == model.stepwise


def test_guesses_are_accepted_and_refused_in_good_numbers(model: CausalModel) -> None:
    totals = finished(decode(model, "prompt-lookup", fallback=False, max_ngram=1)).totals
    assert totals.accepted > 10
    assert totals.rejected > 3
    totals = finished(decode(model, "pearl", gamma=3, workers="one")).totals
    assert totals.rejected > 3


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_cache_holds_all_but_the_root_after_every_step(model: CausalModel, temperature: float) -> None:
    job = Run(model, model.encode(PROMPT, raw=True), max_new_tokens=40)
    job.clock.start()
    list(job.read_prompt())
    steps = 0
    for event in speculate(
        job, Copier(NgramIndex(1, 2, "latest"), Fixed(4)), Speculating(temperature=temperature, fallback=False)
    ):
        if isinstance(event, Draft):
            steps += 1
            assert job.state.length == len(job.sequence) - 1
            behind = job.state.fork(1).extend([job.root])[-1]
            with torch.inference_mode():
                fresh = model.network(torch.tensor([job.sequence])).logits[0, -1].float()
            torch.testing.assert_close(behind, fresh, atol=1e-4, rtol=1e-4)
    assert steps > 3


@pytest.mark.parametrize("model", ["hybrid"], indirect=True)
def test_what_is_read_again_is_counted(model: CausalModel) -> None:
    """Every refused guess costs a second pass, over the root and the accepted ones."""
    events = decode(model, "prompt-lookup", fallback=False, max_ngram=1)
    again = len(only(events, Cache))
    assert again > 3
    assert finished(events).totals.target_passes == len(only(events, Commit)) + again
    for taken_back, then in pairwise(event for event in events if isinstance(event, Cache | Forward)):
        if isinstance(taken_back, Cache):
            assert isinstance(then, Forward)
            assert (then.lane, then.cached) == ("target", taken_back.kept)


def test_reading_again_counts_against_guessing(model: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tuple(float(size) for size in QUERY_SIZES)
    flat = Curve(name="flat", x_name="new tokens", y_name="seconds", x=sizes, y=(1.0,) * len(sizes))
    monkeypatch.setattr(model, "_cost_curve", flat, raising=False)
    job = Run(model, model.encode(PROMPT, raw=True), max_new_tokens=20)
    job.clock.start()
    list(job.read_prompt())
    paused = [event for event in speculate(job, Wrong(), Speculating()) if isinstance(event, Note)]
    assert any("2.0 times the price" in note.text for note in paused) == model.rereads


class Wrong(Copier):
    """Guesses what the model does not say."""

    def __init__(self) -> None:
        super().__init__(NgramIndex(1, 1, "latest"), Fixed(1))

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        tree = TokenTree(run.root)
        tree.add(0, 255, "")
        return tree
        yield


def test_a_window_drafts_chains_and_no_trees() -> None:
    target = tiny_mistral()
    events = decode(target, "speculative-sampling", draft="early exit", exit_layer=1, gamma=3, fallback=False)
    assert finished(events).token_ids == finished(decode(target, "greedy")).token_ids
    assert finished(events).totals.drafted > 50
    with pytest.raises(BadParameter, match="cannot read a tree of guesses in one pass"):
        decode(target, "specinfer", draft="early exit", exit_layer=1)


@pytest.mark.parametrize("model", ["recurrent", "hybrid"], indirect=True)
def test_a_model_that_reads_again_does_not_draft(model: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "companion", None)
    with pytest.raises(BadParameter, match=r"cannot forget refused guesses\. Choose another draft\."):
        decode(model, "speculative-sampling", draft="early exit", exit_layer=1)
