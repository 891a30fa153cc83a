"""The general path: any causal LM of transformers, through its own forward and its own cache.

What a model can do is read off its cache:

* Plain key-value lists can be rolled back, copied row by row, and can read trees.
* Sliding windows are kept as plain lists too, at full length: what has left the window is needed again when guesses
  are taken back. The network's own masks still apply the window. A tree needs a mask of ours in their place, so there
  are no trees.
* Anything else, such as a recurrent state, is copied before a pass of several tokens. Taking back some of them means
  to go on from the copy and to read the others again (`rereads`). Two things are tried out when such a model is
  loaded: whether a copy goes on as the original does, which it does not where a network keeps state of its own, and
  whether several tokens behind a cached text give the state that they give one at a time. Mamba of transformers 5.24
  forgets its state in such a pass, so it is given one token after the other (`stepwise`).

This file and `lean.py` are the only ones that touch the inside of a cache.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from engines.method import Need

SAME, SAME_IN_HALF_PRECISION = 1e-3, 0.05
"""Relative difference up to which two states are the same one. What was forgotten makes one of 0.01 and more."""


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
            return
        # What was emptied by a rollback still has the form of its rows.
        for layer in self.cache.layers:
            if torch.is_tensor(getattr(layer, "keys", None)) and layer.keys.dim() == 4:
                layer.keys, layer.values = layer.keys[rows], layer.values[rows]

    def copy(self) -> StockCache:
        cache = copy.copy(self.cache)
        cache.layers = [_copied(layer) for layer in self.cache.layers]
        twin = StockCache(cache)
        twin.length = self.length
        return twin


def _copied(layer: Any) -> Any:
    """A layer that does not change with this one. Key-value lists are never written in place, so they are shared."""
    return copy.copy(layer) if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) else copy.deepcopy(layer)


def _states(cache: DynamicCache) -> Iterator[Tensor]:
    """The tensors of all layers, in a fixed order."""
    for layer in cache.layers:
        for value in vars(layer).values():
            parts = value.values() if isinstance(value, dict) else [value]
            yield from (part for part in parts if torch.is_tensor(part))


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
        self._places = "position_ids" in parameters
        self.rereads = self.stepwise = self._whole = False
        layers = self._probe().layers
        window = getattr(network.config.get_text_config(decoder=True), "sliding_window", None)
        plain = [type(layer) is DynamicLayer for layer in layers]
        # A layer of chunks looks like one of windows, but its width is not the window's.
        windowed = [
            type(layer) is DynamicSlidingWindowLayer and layer.sliding_window == window is not None for layer in layers
        ]
        if all(map(or_, plain, windowed)):
            self.has |= Need.ROLLBACK | Need.BATCH
            self._whole = any(windowed)
            sdpa = getattr(network.config, "_attn_implementation", "") == "sdpa"
            if all(plain) and sdpa and self._places:
                self.has |= Need.TREE_ATTENTION
        else:
            self._try_copies()

    def _probe(self) -> DynamicCache:
        """The cache after one token: layers are made lazily."""
        cache = DynamicCache(config=self._network.config)
        device = next(self._network.parameters()).device
        with torch.inference_mode():
            self._network(torch.zeros(1, 1, dtype=torch.long, device=device), **{self._cache_argument: cache})
        return cache

    def _try_copies(self) -> None:
        """Reads four tokens behind eight: twice one at a time, each time from a copy of the cache, and once at once."""
        device = next(self._network.parameters()).device
        size = self._network.get_input_embeddings().weight.shape[0]
        ids = (torch.arange(1, 13, device=device) % size)[None]
        with torch.inference_mode():
            start = self.new_cache()
            self.forward(ids[:, :8], start, torch.arange(8, device=device), None, True)
            caches, logits = [start.copy() for _ in range(3)], []
            for cache, width in zip(caches, (1, 1, 4), strict=True):
                for piece in ids[:, 8:].split(width, dim=1):
                    positions = torch.arange(cache.length, cache.length + width, device=device)
                    said, _ = self.forward(piece, cache, positions, None, True)
                logits.append(said)
            same = SAME if self._network.dtype == torch.float32 else SAME_IN_HALF_PRECISION
            if not _alike(logits[0], logits[1], same):
                return
            pairs = zip(_states(caches[1].cache), _states(caches[2].cache), strict=True)
            self.stepwise = not all(_alike(one, other, same) for one, other in pairs)
        self.rereads = True
        self.has |= Need.ROLLBACK

    def new_cache(self) -> StockCache:
        return StockCache(DynamicCache() if self._whole else DynamicCache(config=self._network.config))

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
        # Some hybrids count positions by a layer that has none.
        if self._places:
            arguments["position_ids"] = positions[None].expand(ids.shape[0], -1)
        output = self._network(ids, **arguments)
        cache.length += ids.shape[1]
        return output.logits, output.hidden_states[-1]


def _alike(one: Tensor, other: Tensor, same: float) -> bool:
    """Whether two tensors are the same one up to rounding."""
    return one.shape == other.shape and bool((one.float() - other.float()).norm() <= same * one.float().norm())
