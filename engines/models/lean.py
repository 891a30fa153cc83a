"""A short forward pass for Llama-like models: the same numbers as transformers, in fewer and larger operations.

At one token per pass a small model spends much of its time between the matrix products. This forward fuses
the query, key and value projections into one product, gate and up into another, writes keys and values into
a cache that is allocated ahead, and looks rotary angles up in a table. The fused weights are the storage of
the original network too (its own projections become views), so that nothing is held twice.

Only what is exactly this architecture takes this path (`LeanLlama.suits`); everything else uses `stock.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.method import Need

WEIGHT_FIRST = 64
"""Up to so many rows a CPU multiplies weight first. Milliseconds for all products of 135M float32 weights on two cores,
usual order → weight first: 1 row 33 → 15, 4 rows 51 → 15, 8 rows 48 → 31, 16 rows 59 → 48, 64 rows 120 → 109."""

_FIXED_ROPE = {"default", "linear", "llama3"}


class LeanCache:
    """Keys and values of all layers in one tensor, (layers, 2, batch, kv_heads, capacity, head_dim)."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.length = 0
        self._store = torch.empty(layers, 2, 1, kv_heads, 256, head_dim, dtype=dtype, device=device)

    def reserve(self, new: int) -> None:
        """Makes room for `new` more positions."""
        capacity = self._store.shape[4]
        if self.length + new > capacity:
            grown = self._store.new_empty(
                *self._store.shape[:4], max(2 * capacity, self.length + new), self._store.shape[5]
            )
            grown[..., : self.length, :] = self._store[..., : self.length, :]
            self._store = grown

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores (batch, kv_heads, query, head_dim) behind the cached positions; returns all keys and values."""
        stop = self.length + keys.shape[2]
        self._store[layer, 0, :, :, self.length : stop] = keys
        self._store[layer, 1, :, :, self.length : stop] = values
        return self._store[layer, 0, :, :, :stop], self._store[layer, 1, :, :, :stop]

    def crop(self, length: int) -> None:
        self.length = length

    def gather(self, start: int, columns: Tensor) -> None:
        """Keeps positions [0, start) and, behind them, the given columns in the given order."""
        stop = start + len(columns)
        self._store[..., start:stop, :] = self._store[..., columns, :]
        self.length = stop

    def select(self, rows: Tensor) -> None:
        """Makes row i of the batch a copy of row `rows[i]`."""
        used = self._store[..., : self.length, :]
        if len(rows) == used.shape[2]:
            changed = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
            used[:, :, changed] = used[:, :, rows[changed]]
            return
        shape = self._store.shape
        self._store = self._store.new_empty(*shape[:2], len(rows), *shape[3:])
        for new, old in enumerate(rows.tolist()):
            self._store[:, :, new, :, : self.length] = used[:, :, old]

    def copy(self) -> LeanCache:
        twin = object.__new__(LeanCache)
        twin.length, twin._store = self.length, self._store.clone()
        return twin


class LeanLlama:
    """The fast path. Same interface as `stock.StockNetwork`."""

    has = Need.ROLLBACK | Need.TREE_ATTENTION | Need.BATCH | Need.HIDDEN_STATES

    @staticmethod
    def suits(network: nn.Module) -> bool:
        """True for unquantised Llama without biases, with SiLU and a rotary table that depends on position alone."""
        config = network.config
        if config.model_type != "llama" or config.hidden_act != "silu" or config.attention_bias or config.mlp_bias:
            return False
        rope = getattr(network.model.rotary_emb, "rope_type", "default")
        dtypes = {weight.dtype for weight in network.parameters()}
        return rope in _FIXED_ROPE and len(dtypes) == 1 and dtypes.pop().is_floating_point

    def __init__(self, network: nn.Module) -> None:
        config, model = network.config, network.model
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._head_dim = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._eps = config.rms_norm_eps
        self._embedding = model.embed_tokens.weight
        self._norm = model.norm.weight
        self._output = network.lm_head.weight
        positions = torch.arange(config.max_position_embeddings, device=self._embedding.device)[None]
        with torch.no_grad():
            cos, sin = model.rotary_emb(self._embedding[:1], positions)
        half = self._head_dim // 2
        self._cos, self._sin = cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()
        self._layers = [
            (
                layer.input_layernorm.weight,
                _fuse(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                layer.self_attn.o_proj.weight,
                layer.post_attention_layernorm.weight,
                _fuse(layer.mlp.gate_proj, layer.mlp.up_proj),
                layer.mlp.down_proj.weight,
            )
            for layer in model.layers
        ]

    def new_cache(self) -> LeanCache:
        weight = self._embedding
        return LeanCache(len(self._layers), self._kv_heads, self._head_dim, weight.dtype, weight.device)

    def forward(
        self, ids: Tensor, cache: LeanCache, positions: Tensor, tree: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor]:
        """Reads `ids` (batch, query) at `positions` (query,).

        `tree` (query, query) is True where a token may see another one of this pass; None means a chain.
        Returns logits (batch, query, vocabulary), of the last token only when `last`, and hidden states
        (batch, query, width) of all.
        """
        batch, query = ids.shape
        heads, kv_heads, dim = self._heads, self._kv_heads, self._head_dim
        cache.reserve(query)
        mask = _mask(tree, query, cache.length, ids.device)
        cos, sin = self._cos[positions], self._sin[positions]
        hidden = F.embedding(ids, self._embedding)
        for index, (norm_in, qkv_weight, out_weight, norm_mlp, up_weight, down_weight) in enumerate(self._layers):
            qkv = _project(F.rms_norm(hidden, norm_in.shape, norm_in, self._eps), qkv_weight)
            qkv = qkv.view(batch, query, heads + 2 * kv_heads, dim).transpose(1, 2)
            turned = _rotate(qkv[:, : heads + kv_heads], cos, sin)
            keys, values = cache.write(index, turned[:, heads:], qkv[:, heads + kv_heads :])
            mixed = _attend(turned[:, :heads], keys, values, mask)
            hidden = hidden + _project(mixed.transpose(1, 2).reshape(batch, query, heads * dim), out_weight)
            gate, up = _project(F.rms_norm(hidden, norm_mlp.shape, norm_mlp, self._eps), up_weight).chunk(2, dim=-1)
            hidden = hidden + _project(F.silu(gate) * up, down_weight)
        cache.length += query
        hidden = F.rms_norm(hidden, self._norm.shape, self._norm, self._eps)
        return _project(hidden[:, -1:] if last else hidden, self._output), hidden


def _project(x: Tensor, weight: Tensor) -> Tensor:
    """x (batch, query, in) times weight (out, in), transposed: (batch, query, out).

    A CPU's matrix library takes the usual order, x first, for a few rows at a quarter to a half of the speed at
    which memory delivers the weights. The other order, weight first, runs at full speed for the numbers of rows that
    its kernels are made for; others are filled up to the next of these.
    """
    batch, query, _ = x.shape
    rows = batch * query
    if rows > WEIGHT_FIRST or x.device.type != "cpu":
        return F.linear(x, weight)
    columns = x.reshape(rows, -1)
    wanted = _kernel_rows(rows)
    if wanted > rows:
        columns = torch.cat((columns, columns[:1].expand(wanted - rows, -1)))
    return torch.mm(weight, columns.contiguous().t())[:, :rows].t().reshape(batch, query, -1)


def _kernel_rows(rows: int) -> int:
    """The next number of rows, from this one on, that takes no longer than this one."""
    if rows <= 8:
        return {1: 2, 3: 4}.get(rows, rows)
    return max(16, -(-rows // 8) * 8)


def _mask(tree: Tensor | None, query: int, cached: int, device: torch.device) -> Tensor | None:
    """(query, cached + query), True = may attend; None when the only query sees everything."""
    if query == 1:
        return None
    new = torch.ones(query, query, dtype=torch.bool, device=device).tril() if tree is None else tree
    return torch.cat((new.new_ones(query, cached), new), dim=1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (batch, heads, query, head_dim) by tables (query, head_dim / 2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    batch, heads, _query, dim = queries.shape
    if mask is None:
        # The heads of one group share keys: as queries of one head they need no copy of the cache.
        grouped = queries.view(batch, keys.shape[1], heads // keys.shape[1], dim)
        return F.scaled_dot_product_attention(grouped, keys, values).reshape(batch, heads, 1, dim)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)


def _fuse(*projections: nn.Module) -> Tensor:
    """One weight for several projections of the same input; the projections become views of it.

    Those that are already are left as they are: layers can be shared by several models (`early_exit`).
    """
    weights = [projection.weight.data for projection in projections]
    first, rows = weights[0], [len(weight) for weight in weights]
    storage, width = first.untyped_storage(), first.shape[1]
    begins = [first.storage_offset() + width * sum(rows[:index]) for index in range(len(rows))]
    if all(
        weight.untyped_storage().data_ptr() == storage.data_ptr() and weight.storage_offset() == begin
        for weight, begin in zip(weights, begins, strict=True)
    ):
        return first.as_strided((sum(rows), width), (width, 1))
    fused = torch.cat(weights)
    for projection, part in zip(projections, fused.split(rows), strict=True):
        projection.weight.data = part
    return fused
