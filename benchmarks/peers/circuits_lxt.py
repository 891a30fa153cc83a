"""Relevance at the embeddings by lxt, for `benchmarks.peers.circuits`: run by the Python of lxt's environment.

Reads a Llama, prompts (pairs, tokens) and their answers and foils (pairs, 2) from a folder, and leaves the relevance
(pairs, tokens) of the logit differences there. lxt changes Llama's classes, so it gets a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lxt.efficient import monkey_patch
from transformers.models.llama import modeling_llama


def main(folder: Path) -> None:
    monkey_patch(modeling_llama)
    network = modeling_llama.LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    prompts, candidates = torch.load(folder / "asked.pt")
    embeddings = network.get_input_embeddings()(prompts).detach().requires_grad_()
    chosen = network(inputs_embeds=embeddings, use_cache=False).logits[:, -1].gather(1, candidates)
    (chosen[:, 0] - chosen[:, 1]).sum().backward()
    torch.save((embeddings.detach() * embeddings.grad).sum(-1), folder / "relevance.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
