"""Where things are in a network: its blocks, and in each the modules that read the residual stream and write to it.

Three build plans are known, told apart by the names of the modules: Llama's (also Mistral, Qwen2, Qwen3, and Gemma-2
and -3, whose blocks normalise once more before they write), GPT-2's and GPT-NeoX's. Of any other network only its
blocks are known. A plan is believed when a network does what the plan says: its blocks add to the stream what their
parts add, these read what the norms before them give, and the logits are what is read off the end of the stream
(`engines.models.white_box.WhiteBox` tries it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, slots=True)
class Block:
    """The modules of one layer."""

    layer: nn.Module
    attention: nn.Module
    attention_norm: nn.Module
    projections: tuple[nn.Module, ...]
    """Queries, keys and values: three modules, or one for all of them."""
    out: nn.Module
    """Takes the heads' outputs side by side."""
    attention_writer: nn.Module
    """Its output is added to the stream: the attention itself, or a norm behind it."""
    mlp: nn.Module
    mlp_norm: nn.Module
    mlp_writer: nn.Module


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A network's plan."""

    layers: Sequence[nn.Module]
    final_norm: nn.Module | None = None
    heads: int = 0
    key_heads: int = 0
    head_width: int = 0
    parallel: bool = False
    """Attention and MLP of a block read the same stream, so that the MLP does not see its own block's attention."""
    plan: str = ""
    """`llama`, `gpt2` or `gpt_neox`; empty when only the layers are known."""
    blocks: tuple[Block, ...] = field(default=())

    def split(self, projected: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs of a block's projections, (…, features) each, as queries, keys and values (…, heads, width)."""
        width = self.head_width
        if self.plan == "llama":
            return {name: part.unflatten(-1, (-1, width)) for name, part in zip("qkv", projected, strict=True)}
        (fused,) = projected
        if self.plan == "gpt2":
            return dict(zip("qkv", fused.unflatten(-1, (3, self.heads, width)).unbind(-3), strict=True))
        return dict(zip("qkv", fused.unflatten(-1, (self.heads, 3, width)).unbind(-2), strict=True))


def find(network: Any) -> Anatomy:
    """The plan of a transformers causal LM. Raises `ValueError` when not even its layers can be told."""
    config = network.config.get_text_config(decoder=True)
    body = network.base_model
    heads = getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    kinds = {"llama": _llama, "gpt2": _gpt2, "gpt_neox": _gpt_neox}
    for plan, read in kinds.items():
        try:
            layers, norm, blocks = read(body)
        except AttributeError:
            continue
        if any(block.attention_norm is None or block.mlp_norm is None for block in blocks):
            continue
        return Anatomy(
            layers,
            norm,
            heads,
            (getattr(config, "num_key_value_heads", None) or heads) if plan == "llama" else heads,
            width,
            plan == "gpt_neox" and bool(config.use_parallel_residual),
            plan,
            tuple(blocks),
        )
    count = getattr(config, "num_hidden_layers", 0)
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return Anatomy(module)
    raise ValueError(f"{type(network).__name__} has no list of {count} layers")


def layers_only(anatomy: Anatomy) -> Anatomy:
    """What is left of a plan that is not believed."""
    return Anatomy(anatomy.layers)


def fits(anatomy: Anatomy, projected: Sequence[Tensor]) -> bool:
    """Whether the outputs of a block's projections (…, features) are as long as queries, keys and values are."""
    features = [part.shape[-1] // anatomy.head_width for part in projected]
    heads, key_heads = anatomy.heads, anatomy.key_heads
    return features == ([heads, key_heads, key_heads] if anatomy.plan == "llama" else [3 * heads])


def weight(module: nn.Module) -> Tensor:
    """The matrix of a linear module, (out, in)."""
    matrix: Any = module.weight
    return matrix.T if isinstance(module, Conv1D) else matrix


def _llama(body: Any) -> tuple[Any, nn.Module, list[Block]]:
    blocks = []
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        sandwiched = hasattr(layer, "pre_feedforward_layernorm")
        blocks.append(
            Block(
                layer,
                attention,
                layer.input_layernorm,
                (attention.q_proj, attention.k_proj, attention.v_proj),
                attention.o_proj,
                layer.post_attention_layernorm if sandwiched else attention,
                mlp,
                layer.pre_feedforward_layernorm if sandwiched else layer.post_attention_layernorm,
                layer.post_feedforward_layernorm if sandwiched else mlp,
            )
        )
    return body.layers, body.norm, blocks


def _gpt2(body: Any) -> tuple[Any, nn.Module, list[Block]]:
    blocks = [
        Block(
            layer,
            layer.attn,
            layer.ln_1,
            (layer.attn.c_attn,),
            layer.attn.c_proj,
            layer.attn,
            layer.mlp,
            layer.ln_2,
            layer.mlp,
        )
        for layer in body.h
    ]
    return body.h, body.ln_f, blocks


def _gpt_neox(body: Any) -> tuple[Any, nn.Module, list[Block]]:
    blocks = [
        Block(
            layer,
            layer.attention,
            layer.input_layernorm,
            (layer.attention.query_key_value,),
            layer.attention.dense,
            layer.attention,
            layer.mlp,
            layer.post_attention_layernorm,
            layer.mlp,
        )
        for layer in body.layers
    ]
    return body.layers, body.final_layer_norm, blocks
