"""Circuits beside other people's tools: captum, TransformerLens and lxt on the same network and prompts.

They pin versions that the playground does not share, so they get environments of their own. lxt 2.1 (Clear BSD, no
grant of patents; used for this comparison alone) reads a module that transformers 5 has no more: it gets a second one.

    python -m venv /tmp/venv-peers && /tmp/venv-peers/bin/pip install -r benchmarks/peers/requirements.txt
    python -m venv /tmp/venv-lxt && /tmp/venv-lxt/bin/pip install "transformers<4.53" torch torchvision accelerate \
        tabulate matplotlib && /tmp/venv-lxt/bin/pip install --no-deps lxt==2.1
    PYTHONPATH=. /tmp/venv-peers/bin/python -m benchmarks.peers.circuits --lxt /tmp/venv-lxt/bin/python

Compared, on a tiny random Llama with shared key heads that is saved to a temporary folder:

    lxt             relevance at the embeddings by AttnLRP's rules: ln, identity, half and uniform
    captum          integrated gradients at the embeddings, by midpoints and by left ends
    TransformerLens the maps of activation patching and of attribution patching, at three kinds of places

Prints a table. Leaves with 1 when a difference is above `CLOSE` of the greatest value, or when a peer is not there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from captum.attr import IntegratedGradients
from tokenizers import Tokenizer, models
from torch import Tensor
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engines.attribution import exact, integrated_gradients
from engines.attribution.estimate import STREAM_SITES, Runs, compare, estimate
from engines.attribution.questions import Question
from engines.models.rules import ATTNLRP
from engines.models.white_box import WhiteBox

CLOSE = 1e-4
"""Of the greatest value of a map."""
STEPS = 10
VOCABULARY, LAYERS, LENGTH, FIRST = 97, 3, 9, 3

Row = tuple[str, str, Tensor, Tensor]
"""Peer, what is compared, theirs, ours."""


def build(folder: Path) -> None:
    """A Llama of random weights, with a tokenizer that nobody uses but everybody wants."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    network = LlamaForCausalLM(config)
    for parameter in network.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    network.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{id}": id for id in range(VOCABULARY)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", bos_token="w1", eos_token="w2").save_pretrained(
        folder
    )


def asked(network: LlamaForCausalLM) -> Question:
    """Two pairs of prompts, with the answers and foils whose logits the corruption changes most."""
    torch.manual_seed(1)
    clean = torch.randint(3, VOCABULARY, (2, LENGTH))
    corrupted = clean.clone()
    corrupted[:, FIRST] = (clean[:, FIRST] - 3 + 11) % (VOCABULARY - 3) + 3
    with torch.no_grad():
        change = network(clean).logits[:, -1] - network(corrupted).logits[:, -1]
    return Question("tiny", clean, corrupted, change.argmax(-1), change.argmin(-1))


def captum(network: LlamaForCausalLM, box: WhiteBox, runs: Runs) -> Iterator[Row]:
    question = runs.question
    embed = network.get_input_embeddings()
    clean, corrupted = embed(question.clean).detach(), embed(question.corrupted).detach()

    def share(embeddings: Tensor) -> Tensor:
        """Each pair's part of m, for embeddings of all pairs at one or at several points."""
        logits = network(inputs_embeds=embeddings, use_cache=False).logits[:, -1]
        candidates = question.candidates.repeat(len(logits) // len(clean), 1)
        chosen = logits.gather(1, candidates)
        gap = runs.clean.mean() - runs.corrupted.mean()
        return (chosen[:, 0] - chosen[:, 1]) / gap / len(clean)

    for rule, method in (("midpoint", "riemann_middle"), ("left", "riemann_left")):
        theirs = IntegratedGradients(share).attribute(clean, baselines=corrupted, n_steps=STEPS, method=method)
        at = [integrated_gradients.coefficients(box, runs, alpha) for alpha in integrated_gradients.points(STEPS, rule)]
        mean = [torch.stack(parts).mean(0) for parts in zip(*at, strict=True)]
        ours = integrated_gradients.scored(box, runs, mean).sites["resid_pre"][0]
        yield "captum", f"integrated gradients, {STEPS} {rule}s", theirs.sum(-1).sum(0), ours


def transformer_lens(folder: Path, box: WhiteBox, runs: Runs) -> Iterator[Row]:
    question = runs.question
    network = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=network, device="cpu", dtype=torch.float32)

    def metric(logits: Tensor) -> Tensor:
        return runs.metric(question.difference(logits[:, -1]))

    _, cache = bridge.run_with_cache(question.clean)
    measure: dict[str, Callable[..., Tensor]] = {
        "resid_pre": patching.get_act_patch_resid_pre,
        "attn_out": patching.get_act_patch_attn_out,
        "mlp_out": patching.get_act_patch_mlp_out,
    }
    ours = {site: torch.zeros(LAYERS, LENGTH) for site in STREAM_SITES}
    for row in exact.maps(box, runs, STREAM_SITES):
        ours[row.site][row.layer] = torch.tensor(row.effects)
    for site in STREAM_SITES:
        with torch.no_grad():
            theirs = measure[site](bridge, question.corrupted, cache, metric)
        yield "TransformerLens", f"activation patching, {site}", theirs, ours[site]

    names = [f"blocks.{layer}.hook_{site}" for site in STREAM_SITES for layer in range(LAYERS)]
    held: dict[str, Tensor] = {}

    def holding(name: str) -> Callable[..., None]:
        def hold(tensor: Tensor, hook: object) -> None:
            held[name] = tensor

        return hold

    logits = bridge.run_with_hooks(question.corrupted, fwd_hooks=[(name, holding(name)) for name in names])
    flowing = torch.autograd.grad(metric(logits), [held[name] for name in names])
    scores = {
        name: ((cache[name] - held[name].detach()) * c).sum(-1).sum(0) for name, c in zip(names, flowing, strict=True)
    }
    found = estimate(box, question, "attribution-patching")
    for site in STREAM_SITES:
        theirs = torch.stack([scores[f"blocks.{layer}.hook_{site}"] for layer in range(LAYERS)])
        yield "TransformerLens", f"attribution patching, {site}", theirs, found.sites[site]


def lxt(folder: Path, python: str, box: WhiteBox, question: Question) -> Iterator[Row]:
    trace = box.read(question.clean, rules=ATTNLRP, gradients=True)
    assert trace.embedding is not None
    (coefficient,) = box.backward(question.difference(trace.logits).sum(), [trace.embedding])
    torch.save((question.clean, question.candidates), folder / "asked.pt")
    script = Path(__file__).with_name("circuits_lxt.py")
    subprocess.run([python, script, folder], check=True)
    theirs = torch.load(folder / "relevance.pt")
    yield "lxt", "relevance at the embeddings, AttnLRP", theirs, (trace.embedding.detach() * coefficient).sum(-1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lxt", default="", help="the Python of an environment with lxt; left out without it")
    python = parser.parse_args().lxt
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        network = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        box, question = WhiteBox(network), asked(network)
        runs = compare(box, question, gradients=False, keep=("sites", "keys"))
        rows = [*captum(network, box, runs), *transformer_lens(folder, box, runs)]
        rows += lxt(folder, python, box, question) if python else ()
    worst = 0.0
    print(f"{'peer':16} {'compared':38} {'greatest':>10} {'difference':>11}")
    for peer, what, theirs, ours in rows:
        size = float(theirs.abs().max())
        difference = float((theirs - ours).abs().max()) / size
        worst = max(worst, difference)
        print(f"{peer:16} {what:38} {size:10.4f} {difference:11.1e}")
    if not python:
        print("lxt was left out: --lxt names the Python of its environment.")
    return 0 if worst < CLOSE and python else 1


if __name__ == "__main__":
    sys.exit(main())
