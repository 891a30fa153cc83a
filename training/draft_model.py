"""The shared draft model: a tiny Llama that guesses what the embedded model would say.

    python -m training.conversations --tokens 1000000 --output /tmp/conversations.safetensors
    python -m training.draft_model --data /tmp/conversations.safetensors --output assets/models/draft

A draft of its own would be mostly embedding. This one borrows the target's: its embedding is E·A and its output
matrix E'·B, with E (vocabulary, 576) the target's tied embedding, E' the rows of the 8,192 most frequent tokens, and
A, B (576, width) trained. Two Llama layers stand between them. It never guesses any other token, which costs a little
acceptance and nothing else. Shipped are A, B and the layers, about a million numbers in half precision.

Loss: KL(p ‖ q) from the target's 64 most probable tokens at every place, the rest of p left out, as in "DistillSpec:
Improving Speculative Decoding via Knowledge Distillation", arXiv 2310.08461. Judged by what decides about speed:
the overlap Σ min(p, q), the chance that a drawn guess is accepted, on held-out answers, and the time of a step.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import msgspec
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

import engines
from engines.models.causal import CausalModel
from engines.models.draft import SCALE, DraftCard, shape

HELD_OUT = 0.05


class Draft(nn.Module):
    """Llama layers between two projections of a borrowed embedding."""

    def __init__(self, embedding: Tensor, spoken: Tensor, config: LlamaConfig) -> None:
        super().__init__()
        self.embedding, self.spoken = embedding, spoken
        """(vocabulary, target width), frozen; and the ids (spoken,) of the tokens that can be guessed."""
        self.into = nn.Parameter(torch.randn(embedding.shape[1], config.hidden_size) / math.sqrt(embedding.shape[1]))
        self.out = nn.Parameter(torch.randn(embedding.shape[1], config.hidden_size) / math.sqrt(embedding.shape[1]))
        self.body = LlamaModel(config)
        self.body.embed_tokens = None  # type: ignore[assignment]

    def forward(self, ids: Tensor) -> Tensor:
        """Log-probabilities (rows, length, spoken) of the next tokens after ids (rows, length)."""
        inputs = F.embedding(ids, self.embedding) @ self.into * SCALE
        hidden = self.body(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return (hidden @ (self.embedding[self.spoken] @ self.out).T).log_softmax(-1)


def losses(log_q: Tensor, top: Tensor, top_log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of p's top tokens, and the overlap Σ min(p, q) over them, both (rows, length).

    `top` (rows, length, 64) counts within the spoken tokens; -1 is a token that the draft cannot guess.
    """
    p = top_log_p.float().exp() * (top >= 0)
    log_q = log_q.gather(-1, top.clamp(min=0))
    return -(p * log_q).sum(-1), torch.minimum(p, log_q.exp()).sum(-1)


def answers(tokens: Tensor, model: CausalModel) -> Tensor:
    """(rows, length), True where the next token belongs to an answer, its end included."""
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    opening = model.encode("<|im_start|>assistant\n", raw=True)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, ids in enumerate(tokens.tolist()):
        inside = False
        for place, token in enumerate(ids):
            inside = (inside and token != end) or ids[max(0, place - len(opening) + 1) : place + 1] == opening
            mask[row, place] = inside
    return mask


def save(draft: Draft, card: DraftCard, folder: Path) -> None:
    """Writes weights, in half precision, and card, for `engines.models.draft.load_draft`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().half().cpu().contiguous() for name, weight in draft.state_dict().items()}
    save_file(weights | {"spoken": draft.spoken.to("cpu", torch.int32)}, folder / "model.safetensors")
    (folder / "card.json").write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--spoken", type=int, default=8192)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop, and say where it is, after this long")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    target = engines.load()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = load_file(arguments.data)
    tokens, top_ids, top_log_p = data["tokens"][:, :-1].long(), data["top_ids"], data["top_log_p"]
    split = max(1, int(len(tokens) * HELD_OUT))
    spoken = torch.bincount(tokens[:-split].flatten(), minlength=target.vocabulary_size).topk(arguments.spoken).indices
    place = torch.full((target.vocabulary_size,), -1)
    place[spoken] = torch.arange(len(spoken))
    embedding = target.network.get_input_embeddings().weight.detach().float().to(device)
    draft = Draft(embedding, spoken.to(device), shape(arguments.width, arguments.layers, len(embedding))).to(device)
    trained = [weight for weight in draft.parameters() if weight.requires_grad]
    print(f"{sum(weight.numel() for weight in trained):,} parameters, {len(tokens) - split} rows, {split} held out")
    steps = int(arguments.epochs * (len(tokens) - split) / arguments.rows)
    optimiser = torch.optim.AdamW(trained, lr=arguments.rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arguments.rate, total_steps=steps, pct_start=0.05)
    held = answers(tokens[-split:], target)

    def judged(rows: Tensor) -> tuple[Tensor, Tensor]:
        top = place[top_ids[rows].long()].to(device)
        return losses(draft(tokens[rows].to(device)), top, top_log_p[rows].to(device))

    @torch.no_grad()
    def evaluate() -> float:
        found = []
        for rows in torch.arange(split).split(arguments.rows):
            overlap = judged(rows + len(tokens) - split)[1]
            found.append(overlap[held[rows].to(device)])
        return float(torch.cat(found).mean())

    began, order, seen = time.monotonic(), torch.empty(0, dtype=torch.long), 0
    for step in range(steps):
        if len(order) < arguments.rows:
            order = torch.randperm(len(tokens) - split)
        rows, order = order[: arguments.rows], order[arguments.rows :]
        loss, overlap = judged(rows)
        optimiser.zero_grad()
        loss.mean().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        seen += tokens[rows].numel()
        late = time.monotonic() - began > 60 * arguments.minutes
        if step % 50 == 0 or step == steps - 1 or late:
            held_out = f", held out {evaluate():.3f}" if step % 200 == 0 or step == steps - 1 or late else ""
            took = (time.monotonic() - began) / 60
            figures = f"loss {loss.mean():.3f}, overlap {overlap.mean():.3f}{held_out}"
            print(f"step {step} of {steps}: {figures}, {took:.1f} min", flush=True)
        if late:
            break
    if arguments.output:
        card = DraftCard(
            width=arguments.width,
            layers=arguments.layers,
            steps=step + 1,
            tokens=seen,
            held_out_overlap=round(evaluate(), 4),
            parameters=sum(weight.numel() for weight in trained),
            data="conversations of the embedded model with itself, training/conversations.py",
            seed=0,
            target_weights=target.weights,
        )
        save(draft, card, arguments.output)


if __name__ == "__main__":
    main()
