"""Networks of random weights, of every plan that the white box knows and of some that it does not."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from engines.attribution.questions import Question

VOCABULARY = 97
LENGTH = 9
"""Tokens of a prompt; longer than the sliding windows are."""
FIRST = 3
"""Where clean and corrupted prompts begin to differ."""

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA = _COMMON | {"intermediate_size": 48, "num_key_value_heads": 2}
_SLIDING = _LLAMA | {"head_dim": 16, "sliding_window": 4}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _GPT2),
    "gpt_neox": ("gpt_neox", _COMMON | {"intermediate_size": 48, "use_parallel_residual": True}),
    "gpt_neox, sequential": ("gpt_neox", _COMMON | {"intermediate_size": 48, "use_parallel_residual": False}),
    "llama": ("llama", _LLAMA),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", _LLAMA | {"head_dim": 16}),
    "mistral": ("mistral", _SLIDING),
    "gemma2": ("gemma2", _SLIDING | {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 4.0}),
    "gemma3": ("gemma3_text", _SLIDING),
}
UNKNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    # Names of no known plan: one whose attention is torch's, one whose attention is its own.
    "opt": ("opt", _COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3}),
    "bloom": (
        "bloom",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.3},
    ),
    # Llama's names, and something else behind them.
    "granite, scaled blocks": ("granite", _LLAMA | {"residual_multiplier": 0.5}),
    "granite, scaled logits": ("granite", _LLAMA | {"logits_scaling": 3.0}),
    "gpt_oss, attention sinks": ("gpt_oss", _SLIDING | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "stablelm, parallel": ("stablelm", _LLAMA | {"use_parallel_residual": True}),
    # GPT-2's names, and one key head for all.
    "gpt_bigcode": ("gpt_bigcode", _GPT2),
}


@cache
def network(name: str) -> PreTrainedModel:
    """A network in evaluation mode; the gains of its norms are random, too."""
    kind, options = (KNOWN | UNKNOWN)[name]
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options)).eval()
    for parameter in made.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return made


@cache
def asked(name: str, pairs: int = 2) -> Question:
    """Prompts that differ from `FIRST` on, with the answer and foil whose logits that changes most."""
    torch.manual_seed(1)
    clean = torch.randint(3, VOCABULARY, (pairs, LENGTH))
    corrupted = clean.clone()
    corrupted[:, FIRST] = (clean[:, FIRST] - 3 + 11) % (VOCABULARY - 3) + 3
    corrupted[:, FIRST + 2] = (clean[:, FIRST + 2] - 3 + 7) % (VOCABULARY - 3) + 3
    with torch.no_grad():
        change = network(name)(clean).logits[:, -1] - network(name)(corrupted).logits[:, -1]
    return Question(name, clean, corrupted, change.argmax(-1), change.argmin(-1))
