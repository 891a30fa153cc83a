"""The shared draft model: a tiny Llama, trained on the embedded model's own answers, that guesses what it will say.

`python -m training.draft_model` makes one; its `card.json` says from what, and how good it is. It borrows the
target's embedding E: its own is E·A, its output matrix E'·B, with E' the rows of the tokens that it can guess at all.
Loaded, both are multiplied out, and it is a `CausalModel` like any other, with -inf for the tokens it never guesses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from engines.errors import ModelUnavailable
from engines.models.causal import CausalModel

FOLDER = Path(__file__).parents[2] / "assets" / "models" / "draft"


class DraftCard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the shipped draft."""

    width: int
    layers: int
    steps: int
    tokens: int
    """Training tokens, repeats counted."""
    held_out_overlap: float
    """Σ min(p, q) over held-out answers: the chance that a drawn guess is accepted."""
    parameters: int
    data: str
    seed: int
    target_weights: str


class Draft(CausalModel):
    """A draft for one target, whose tokenizer and vocabulary it shares."""

    def __init__(self, network: LlamaForCausalLM, target: CausalModel, spoken: Tensor, card: DraftCard) -> None:
        super().__init__(network, target.tokenizer, name="draft", title="trained draft", weights=card.target_weights)
        self.card = card
        self.vocabulary_size = target.vocabulary_size
        self._forward: Any = _Restricted(self._forward, spoken, target.vocabulary_size)


class _Restricted:
    """A network that scores few tokens, as one that scores all."""

    def __init__(self, network: Any, spoken: Tensor, vocabulary_size: int) -> None:
        self._network, self._spoken, self._size = network, spoken, vocabulary_size
        self.has, self.new_cache = network.has, network.new_cache

    def forward(self, *args: Any) -> tuple[Tensor, Tensor]:
        few, hidden = self._network.forward(*args)
        logits = few.new_full((*few.shape[:-1], self._size), float("-inf"))
        logits[..., self._spoken] = few
        return logits, hidden


def shape(width: int, layers: int, vocabulary: int) -> LlamaConfig:
    """The architecture for a width and a number of layers."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 48,
        num_key_value_heads=width // 48,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )


def load_draft(target: CausalModel, folder: Path = FOLDER) -> Draft:
    """The draft in `folder`. Raises `ModelUnavailable` when there is none, or when it is another target's."""
    try:
        card = msgspec.json.decode((folder / "card.json").read_bytes(), type=DraftCard)
        weights = load_file(folder / "model.safetensors", device=str(target.device))
    except FileNotFoundError:
        raise ModelUnavailable(
            "There is no trained draft model here. python -m training.draft_model makes one; "
            "methods such as prompt-lookup need none."
        ) from None
    if target.weights != card.target_weights:
        raise ModelUnavailable(
            f"The draft model was trained for another model than {target.title}. "
            "Choose a method that needs none, such as prompt-lookup."
        )
    spoken = weights.pop("spoken").long()
    weights = {name: weight.float() for name, weight in weights.items()}
    embedding = target.network.get_input_embeddings().weight.detach().float()
    # Made with a vocabulary of one, because both ends are replaced.
    network = LlamaForCausalLM(shape(card.width, card.layers, 1)).to(target.device)
    network.config.vocab_size = target.vocabulary_size
    network.model.embed_tokens = nn.Embedding.from_pretrained(embedding @ weights["into"] * SCALE)
    network.lm_head = nn.Linear(card.width, len(spoken), bias=False)
    network.lm_head.weight = nn.Parameter(embedding[spoken] @ weights["out"], requires_grad=False)
    body = {name.removeprefix("body."): weight for name, weight in weights.items() if name.startswith("body.")}
    absent = network.model.load_state_dict(body, strict=False)
    assert absent.missing_keys == ["embed_tokens.weight"]
    assert not absent.unexpected_keys
    return Draft(network.eval().requires_grad_(False), target, spoken, card)


SCALE = 8.0
"""The borrowed embedding has small numbers; this brings its projection near unit size."""
