"""Precisions and what they cost, measured on the tiny model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from engines.errors import ModelUnavailable
from engines.models import catalogue, loading, quantisation
from engines.models.causal import CausalModel
from engines.models.quantisation import Cost, measure_cost, measured_costs, precisions


def test_float32_is_always_there_and_first():
    first = precisions(catalogue.catalogue()[catalogue.DEFAULT])[0]
    assert (first.id, first.available, first.steady) == ("float32", True, True)


def test_what_cannot_be_had_says_why():
    for precision in precisions():
        assert precision.available or precision.reason.endswith(".")


def test_an_unknown_precision_is_answered_with_the_known_ones():
    with pytest.raises(ModelUnavailable, match="nf4"):
        loading.load(precision="nf5")


def test_an_unavailable_precision_is_answered_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantisation, "_reason", lambda precision: "it is not installed.")
    with pytest.raises(ModelUnavailable, match="nf4 cannot be used here: it is not installed"):
        loading.load(precision="nf4")


def test_perplexity_agrees_with_transformers_own_loss(own_cache: Path, tiny_llama: CausalModel):
    cost = measure_cost(tiny_llama)
    text = quantisation.TEXT.read_text()
    ids = torch.tensor([tiny_llama.encode(text, raw=True)[: tiny_llama.context_length]])
    with torch.inference_mode():
        loss = tiny_llama.network(ids, labels=ids).loss.item()
    assert cost.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert cost.tokens == tiny_llama.context_length - 1
    assert cost.milliseconds > 0
    assert cost.drift < 1e-4


def test_a_cost_is_measured_once_per_machine_and_weights(own_cache: Path, tiny_llama: CausalModel):
    assert measure_cost(tiny_llama) == measure_cost(tiny_llama)
    assert measured_costs(tiny_llama.weights) == {"float32": measure_cost(tiny_llama)}
    assert measured_costs("other") == {}


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {"model": "x"}}'])
def test_a_damaged_record_of_costs_is_replaced(own_cache: Path, tiny_llama: CausalModel, content: str):
    own_cache.mkdir()
    (own_cache / "costs.json").write_text(content)
    cost = measure_cost(tiny_llama)
    assert measured_costs(tiny_llama.weights) == {"float32": cost}


def test_costs_are_set_side_by_side():
    plain = Cost("m", "float32", 32.0, 26.2, 767, 538_000_000, 0.00005)
    small = Cost("m", "nf4", 22.0, 32.0, 767, 166_000_000, 0.21)
    assert small.beside(plain) == (
        "nf4: 22.0 ms per token (32.0 in float32), perplexity 32.00 (26.20), 166 MB of weights (538 MB), "
        "logits drift by 0.21 (5e-05)."
    )


@pytest.mark.parametrize(("precision", "likeness"), [("int8", 0.95), ("nf4", 0.6)])
def test_quantised_weights_stay_close_and_take_less_memory(
    own_cache: Path,
    tiny_llama: CausalModel,
    tiny_llama_folder: Path,
    precision: str,
    likeness: float,
    capfd: pytest.CaptureFixture[str],
):
    reason = next(entry.reason for entry in precisions() if entry.id == precision)
    if reason:
        pytest.skip(f"{precision}: {reason}")
    model = loading.load_folder(tiny_llama_folder, precision=precision)
    assert not model.lean
    assert model.memory_bytes < tiny_llama.memory_bytes
    exact, near = tiny_llama.start().extend([1, 2, 3, 4]), model.start().extend([1, 2, 3, 4])
    assert torch.nn.functional.cosine_similarity(exact, near).min() > likeness
    assert "MatMul8bitLt" not in capfd.readouterr().err
