"""A transformer set by hand whose next token copies the token at one position."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from engines.models.causal import CausalModel
from tests.conftest import byte_tokenizer

PLACES = 48
BYTES = 257


def copying_model(source: int, *, seed: int = 0) -> CausalModel:
    """One head attends from everywhere to position `source`, and what stands there is very probable next.

    Embeddings are one-hot, for the token and for the position, so that the norms see the same mean and variance
    everywhere. The other tokens differ by chance: none is as probable as another.
    """
    width = BYTES + PLACES
    config = GPT2Config(
        vocab_size=BYTES,
        n_positions=PLACES,
        n_embd=width,
        n_layer=1,
        n_head=1,
        n_inner=1,
        tie_word_embeddings=False,
        bos_token_id=256,
        eos_token_id=256,
    )
    network = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        tokens, places = torch.eye(width)[:BYTES], torch.eye(width)[BYTES:]
        body, block = network.transformer, network.transformer.h[0]
        body.wte.weight.copy_(tokens)
        body.wpe.weight.copy_(places)
        for norm in (block.ln_1, block.ln_2, body.ln_f):
            norm.weight.fill_(1)
        attention = block.attn
        query, key, value = attention.c_attn.weight.split(width, dim=1)
        attention.c_attn.bias[BYTES + source] = 40.0
        key.copy_(torch.eye(width))
        value.copy_(torch.eye(width))
        query.zero_()
        # What was read weighs more in the stream than the token and the position that are there already.
        attention.c_proj.weight.copy_(4 * torch.diag(torch.cat((torch.ones(BYTES), torch.zeros(PLACES)))))
        network.lm_head.weight[:, :BYTES] = 0.6 * torch.eye(BYTES)
        generator = torch.Generator().manual_seed(seed)
        # A direction that is the same at every place, for the tokens' own frequencies.
        network.transformer.ln_f.bias[BYTES] = 1.0
        network.lm_head.weight[:, BYTES] = torch.randn(BYTES, generator=generator)
    return CausalModel(network, byte_tokenizer(), name="planted", lean=False)
