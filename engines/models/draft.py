"""The shared draft model: two layers that guess what the embedded model will say.

`python -m training.draft_model` makes one; its `card.json` says from what, and how good it is. Embedding and output
matrix are the target's own, which costs no memory; of the output matrix it has only the rows of the tokens that it can
guess at all. Its layers began as copies of some of the target's and were trained further. They are stored as 8-bit
integers with a scale per row, and are float32 once loaded. Loaded, it is a `CausalModel` like any other, with -inf for
the tokens it never guesses.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from engines.errors import ModelUnavailable
from engines.models.causal import CausalModel

FOLDER = Path(__file__).parents[2] / "assets" / "models" / "draft"


class DraftCard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a trained draft."""

    layers: tuple[int, ...]
    """The target's layers that its own began as."""
    spoken: int
    """How many tokens it can guess."""
    parameters: int
    """Trained numbers."""
    data: str
    tokens: int
    """Different training tokens."""
    steps: int
    seed: int
    held_out_overlap: float
    """Σ min(p, q) over held-out answers: the chance that a drawn guess is accepted."""
    step_cost: float
    """Time of a step over the target's, float32, on two cores."""
    target_weights: str


class Draft(CausalModel):
    """A draft for one target, whose tokenizer and vocabulary it shares."""

    def __init__(self, network: LlamaForCausalLM, target: CausalModel, spoken: Tensor, card: DraftCard) -> None:
        super().__init__(
            network, target.tokenizer, name="draft", title="the trained draft model", weights=card.target_weights
        )
        self.card, self.spoken = card, spoken
        """`spoken` (tokens,): the ids that it can guess."""
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


def body(target: CausalModel, layers: int) -> LlamaForCausalLM:
    """An untrained network of the target's shape with fewer layers, on the target's embedding."""
    config = copy.deepcopy(target.network.config)
    # Both ends are replaced, so they are made small.
    config.num_hidden_layers, config.vocab_size, config.tie_word_embeddings = layers, 1, False
    config.pad_token_id = None
    network = LlamaForCausalLM(config)
    config.vocab_size = target.vocabulary_size
    network.model.embed_tokens = nn.Embedding.from_pretrained(target.network.get_input_embeddings().weight.detach())
    return network


def load_draft(target: CausalModel, folder: Path = FOLDER) -> Draft:
    """The draft in `folder`. Raises `ModelUnavailable` when there is none, or when it is another target's."""
    try:
        card = msgspec.json.decode((folder / "card.json").read_bytes(), type=DraftCard)
        stored = load_file(folder / "model.safetensors", device=str(target.device))
    except FileNotFoundError:
        raise ModelUnavailable(
            "There is no trained draft model here. python -m training.draft_model makes one; "
            "methods such as prompt-lookup need none."
        ) from None
    if target.weights != card.target_weights or target.precision not in ("float32", "bfloat16"):
        raise ModelUnavailable(
            f"The draft model was trained for another model than {target.title}. "
            "Choose a method that needs none, such as prompt-lookup."
        )
    spoken = stored.pop("spoken").long()
    network = body(target, len(card.layers)).to(target.device)
    weights = {name: unpacked(stored, name) for name in stored if not name.endswith(SCALE)}
    absent = network.model.load_state_dict(weights, strict=False)
    assert absent.missing_keys == ["embed_tokens.weight"]
    assert not absent.unexpected_keys
    rows = network.model.embed_tokens.weight[spoken]
    network.lm_head = nn.Linear(rows.shape[1], len(rows), bias=False)
    network.lm_head.weight = nn.Parameter(rows, requires_grad=False)
    network = network.to(target.network.dtype).eval().requires_grad_(False)
    return Draft(network, target, spoken, card)


SCALE = ".scale"


def packed(name: str, weight: Tensor) -> dict[str, Tensor]:
    """A matrix as 8-bit integers with a scale per row; a vector as it is."""
    if weight.dim() == 1:
        return {name: weight.float()}
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
    return {name: (weight / scale).round().to(torch.int8), name + SCALE: scale.float()}


def unpacked(stored: dict[str, Tensor], name: str) -> Tensor:
    """The inverse of `packed`, up to half a step of the scale."""
    weight = stored[name].float()
    return weight * stored[name + SCALE] if name + SCALE in stored else weight
