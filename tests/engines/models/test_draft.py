"""The trained draft as a model: what training computes is what decoding uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engines.errors import ModelUnavailable
from engines.models.causal import CausalModel
from engines.models.draft import DraftCard, load_draft, packed, unpacked
from training.draft_model import Draft, save

SPOKEN = torch.arange(0, 257, 2)


@pytest.fixture(scope="module")
def trained(tiny_llama: CausalModel) -> Draft:
    """As after training: the first layer's copy, moved a little, on the grid that is stored."""
    torch.manual_seed(3)
    draft = Draft(tiny_llama, (0,), SPOKEN)
    with torch.no_grad():
        for name, weight in draft.body.named_parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
                weight.copy_(unpacked(packed(name, weight), name))
    return draft.eval()


def card(weights: str) -> DraftCard:
    figures = {"parameters": 1, "tokens": 1, "steps": 1, "seed": 0, "held_out_overlap": 0.5, "step_cost": 0.1}
    return DraftCard(layers=(0,), spoken=len(SPOKEN), data="none", target_weights=weights, **figures)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(trained: Draft, tiny_llama: CausalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("draft")
    save(trained, card(tiny_llama.weights), path)
    return path


def test_the_loaded_draft_says_what_the_trained_one_says(trained: Draft, tiny_llama: CausalModel, folder: Path) -> None:
    ids = [72, 101, 108, 108, 111, 32, 119]
    with torch.inference_mode():
        expected = trained(torch.tensor([ids]))[0].exp()
    loaded = load_draft(tiny_llama, folder)
    ours = loaded.start().extend(ids).softmax(-1)
    torch.testing.assert_close(ours[:, SPOKEN], expected, atol=1e-5, rtol=1e-4)
    step_by_step = loaded.start()
    last = [step_by_step.extend([token])[-1] for token in ids][-1]
    torch.testing.assert_close(last.softmax(-1), ours[-1], atol=1e-5, rtol=1e-4)


def test_the_target_is_left_as_it_was(tiny_llama: CausalModel, folder: Path) -> None:
    before = tiny_llama.start().extend([1, 2, 3])
    load_draft(tiny_llama, folder).start().extend([1, 2, 3])
    assert torch.equal(tiny_llama.start().extend([1, 2, 3]), before)


def test_a_token_that_it_cannot_guess_has_no_probability(tiny_llama: CausalModel, folder: Path) -> None:
    p = load_draft(tiny_llama, folder).start().extend([1, 2, 3]).softmax(-1)
    assert p.shape == (3, tiny_llama.vocabulary_size)
    assert float(p[:, 1::2].sum()) == 0.0
    torch.testing.assert_close(p.sum(-1), torch.ones(3))


def test_eight_bits_keep_each_weight_to_half_a_step_of_its_row() -> None:
    weight = torch.randn(5, 40) * torch.tensor([1e-3, 1.0, 10.0, 1.0, 1.0])[:, None]
    error = (unpacked(packed("w", weight), "w") - weight).abs()
    assert bool((error <= weight.abs().amax(1, keepdim=True) / 254 * 1.001).all())


def test_another_targets_draft_is_refused(tiny_llama: CausalModel, tiny_gpt2: CausalModel, folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match="another model"):
        load_draft(tiny_gpt2, folder)


def test_without_a_draft_it_says_how_to_make_one(tiny_llama: CausalModel, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"training\.draft_model"):
        load_draft(tiny_llama, tmp_path)
