"""The general path: any causal LM of transformers, through its own forward and its own cache.

What a model can do is read off its cache: layers that are plain key-value lists can be rolled back and can
read trees; sliding windows and recurrent states cannot, and methods that need it are refused with a reason.
This file and `lean.py` are the only ones that touch the inside of a cache.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from engines.method import Need


class StockCache:
    """A transformers `DynamicCache` with the operations that decoding needs."""

    def __init__(self, cache: DynamicCache) -> None:
        self.cache = cache
        self.length = 0

    def crop(self, length: int) -> None:
        for layer in self.cache.layers:
            layer.keys = layer.keys[:, :, :length]
            layer.values = layer.values[:, :, :length]
        self.length = length

    def gather(self, start: int, columns: Tensor) -> None:
        """Keeps positions [0, start) and, behind them, the given columns in the given order."""
        kept = torch.cat((torch.arange(start, device=columns.device), columns))
        for layer in self.cache.layers:
            layer.keys = layer.keys[:, :, kept]
            layer.values = layer.values[:, :, kept]
        self.length = len(kept)

    def select(self, rows: Tensor) -> None:
        """Makes row i of the batch a copy of row `rows[i]`."""
        if self.length:
            self.cache.reorder_cache(rows)

    def copy(self) -> StockCache:
        twin = StockCache(copy.deepcopy(self.cache))
        twin.length = self.length
        return twin


class StockNetwork:
    """Calls a transformers model. Same interface as `lean.LeanLlama`."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        parameters = inspect.signature(network.forward).parameters
        # transformers 5.24 renamed the argument.
        accepted = [name for name in ("cache", "past_key_values") if name in parameters]
        if not accepted:
            raise ValueError(f"{type(network).__name__} does not take a cache")
        self._cache_argument = accepted[0]
        self.has = Need.HIDDEN_STATES
        if all(type(layer) is DynamicLayer for layer in self._probe().layers):
            self.has |= Need.ROLLBACK | Need.BATCH
            if getattr(network.config, "_attn_implementation", "") == "sdpa" and "position_ids" in parameters:
                self.has |= Need.TREE_ATTENTION

    def _probe(self) -> DynamicCache:
        """The cache after one token: layers are made lazily."""
        cache = DynamicCache(config=self._network.config)
        device = next(self._network.parameters()).device
        with torch.inference_mode():
            self._network(torch.zeros(1, 1, dtype=torch.long, device=device), **{self._cache_argument: cache})
        return cache

    def new_cache(self) -> StockCache:
        return StockCache(DynamicCache(config=self._network.config))

    def forward(
        self, ids: Tensor, cache: StockCache, positions: Tensor, tree: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor]:
        """As `LeanLlama.forward`."""
        arguments: dict[str, Any] = {self._cache_argument: cache.cache, "output_hidden_states": True}
        if last:
            arguments["logits_to_keep"] = 1
        if tree is not None:
            # Additive, because a boolean mask is silently wrong under eager attention.
            blocked = torch.zeros(
                ids.shape[1], cache.length + ids.shape[1], dtype=self._network.dtype, device=ids.device
            )
            blocked[:, cache.length :].masked_fill_(~tree, torch.finfo(blocked.dtype).min)
            arguments["attention_mask"] = blocked[None, None].expand(ids.shape[0], 1, -1, -1)
            arguments["position_ids"] = positions[None].expand(ids.shape[0], -1)
        output = self._network(ids, **arguments)
        cache.length += ids.shape[1]
        return output.logits, output.hidden_states[-1]
