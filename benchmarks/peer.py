"""The peer: transformers' own `generate`, on the same weights, in the same process, counted the same way."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from engines.models.causal import CausalModel
from engines.models.draft import Draft


class Work(msgspec.Struct):
    """The forward passes of one call of `generate`; an assistant's are not among them."""

    passes: int = 0
    read: int = 0
    """Tokens read over all passes, the prompt included."""
    seconds: float = 0.0
    """Time in forward passes; on a GPU passes are queued, so this is then the time to queue them."""


class Peer:
    """transformers decoding what `model` decodes."""

    def __init__(self, model: CausalModel) -> None:
        # The lean path turns the projections of its network into views of fused weights. A copy owns its weights
        # again, as a network fresh from `from_pretrained` does; the values are the same.
        self._network = copy.deepcopy(model.network)
        self._eos = sorted(model.eos_ids)
        self._device = model.device
        self._work = Work()
        self._since = 0.0
        self._network.register_forward_pre_hook(self._before, with_kwargs=True)
        self._network.register_forward_hook(self._after)
        logging.set_verbosity_error()

    def generate(self, prompt: Sequence[int], max_new_tokens: int, **options: Any) -> tuple[list[int], Work]:
        """Greedy continuation of `prompt`, end of text included; `options` go to `generate`."""
        self._work = Work()
        ids = torch.tensor([list(prompt)], device=self._device)
        output = self._network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=self._eos[0] if self._eos else None,
            **options,
        )
        return output[0, len(prompt) :].tolist(), self._work

    def _before(self, module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids = options.get("input_ids", args[0] if args else None)
        self._work.passes += 1
        self._work.read += ids.shape[1] if ids is not None else 0
        self._since = time.perf_counter()

    def _after(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        self._work.seconds += time.perf_counter() - self._since


def assistant(draft: CausalModel) -> PreTrainedModel:
    """Our draft as transformers' `assistant_model`: the same numbers, its weights its own."""
    network = copy.deepcopy(draft.network)
    if isinstance(draft, Draft):
        network.lm_head = Spoken(network.lm_head, draft.spoken, draft.vocabulary_size)
    return network


class Spoken(nn.Module):
    """An output layer over a few tokens as one over all. It multiplies out few rows, as ours does: with a matrix of
    full size transformers would pay more for the same guesses."""

    def __init__(self, rows: nn.Module, spoken: Tensor, vocabulary_size: int) -> None:
        super().__init__()
        self.rows, self.spoken, self.vocabulary_size = rows, spoken, vocabulary_size

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of hidden states (..., width); -inf for what the draft never guesses."""
        few = self.rows(hidden)
        logits = few.new_full((*few.shape[:-1], self.vocabulary_size), float("-inf"))
        logits[..., self.spoken] = few
        return logits
