"""The twin: a Llama with a vocabulary of ten tokens, so that every continuation of it can be counted.

What a sampling method does to the output's distribution cannot be seen on a real vocabulary: there are too many
continuations. The twin has nine letters and an end of text, weights from a fixed seed, and is otherwise a
`CausalModel` like any other: the same forward pass, tree attention, cache and rollback, in well under a millisecond.
Its probabilities are uneven, and it likes to repeat itself, so that guesses are accepted and refused in good numbers.

Its companion, the draft of methods that need one, is a twin whose weights lie between the twin's and those of another
seed. The cost curve is a fixed, flat one: methods that choose how much to guess then guess as much as they ever would,
on every machine alike.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engines.events import Curve
from engines.models.causal import QUERY_SIZES, CausalModel

LETTERS = "abcdefghi"
END = "."
SHARPNESS = 1.6
"""Factor on the output weights: higher makes the twin surer of its next token."""
STRANGE = 0.25
"""How far the companion is from the twin: they agree on about two thirds of the probability."""


class Twin(CausalModel):
    """`twin()` is the one of this process."""

    def __init__(self, companion: CausalModel | None = None) -> None:
        size = len(LETTERS) + len(END)
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=size - 1,
            pad_token_id=size - 1,
        )
        with torch.random.fork_rng(devices=[]):  # transformers draws weights of its own first
            network = LlamaForCausalLM(config)
        network.generation_config = GenerationConfig(eos_token_id=size - 1)
        fill(network, strange=0.0 if companion else STRANGE)
        tokenizer = Tokenizer(BPE({letter: id for id, letter in enumerate(LETTERS + END)}, []))
        tokenizer.decoder = decoders.Fuse()
        super().__init__(
            network,
            PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END),
            name="twin" if companion else "twin's companion",
            title="Tiny twin" if companion else "the tiny twin's companion",
            weights="twin-1",
        )
        self.companion = companion

    def cost_curve(self, *, cached: int = 256, repeats: int = 3) -> Curve:
        """As if a pass over many tokens cost no more than one over a few, and the companion's a tenth of it."""
        sizes = tuple(float(size) for size in QUERY_SIZES)
        seconds = 0.001 if self.companion else 0.0001
        return Curve(name="flat", x_name="new tokens", y_name="seconds", x=sizes, y=(seconds,) * len(sizes))


@torch.no_grad()
def fill(network: LlamaForCausalLM, strange: float) -> None:
    """Weights that are the same for every version of torch and transformers: normal, by name, from one seed.

    `strange` is the share of another seed in them, as an angle: 0 leaves the twin's own, 1 nothing of it.
    """
    rng, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
    own, foreign = math.cos(strange * math.pi / 2), math.sin(strange * math.pi / 2)
    for _, weight in sorted(network.named_parameters()):
        if weight.dim() == 1:
            weight.fill_(1.0)
        else:
            mixed = own * torch.randn(weight.shape, generator=rng) + foreign * torch.randn(
                weight.shape, generator=other
            )
            weight.copy_(mixed / weight.shape[1] ** 0.5)
    embedding = network.get_input_embeddings().weight
    embedding.mul_(embedding.shape[1] ** 0.5)
    # Half of what a token wants next is itself.
    output = network.get_output_embeddings().weight
    output.copy_(SHARPNESS * (0.5 * output + 0.5 * embedding / embedding.shape[1] ** 0.5))


@cache
def twin() -> Twin:
    """The twin of this process, built at first use."""
    return Twin(companion=Twin())
