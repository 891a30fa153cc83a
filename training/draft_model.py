"""The shared draft model: a few of the embedded model's own layers, taught to guess what the whole of it would say.

    python -m training.conversations --tokens 1000000 --output /tmp/conversations.safetensors
    python -m training.draft_model --data /tmp/conversations.safetensors --output assets/models/draft

Embedding and output matrix are the target's, frozen, the output matrix cut to the rows of the most frequent tokens: a
draft never guesses any other token, which costs a little acceptance and nothing else. Between them stand copies of a
few of the target's layers, and those are trained, in bfloat16 arithmetic with float32 weights.

Loss: KL(p ‖ q) from the target's 64 most probable tokens at every place, the rest of p left out, as in "DistillSpec:
Improving Speculative Decoding via Knowledge Distillation", arXiv 2310.08461. Judged by what decides about speed:
the overlap Σ min(p, q), the chance that a drawn guess is accepted, on held-out answers, and the time of a step.

What was tried, on two cores; the last line is shipped:

    layers                      training tokens   steps × rows   overlap in training, held out   step / target's
    2 new ones, 192 wide                172,000       31 × 8          0.16          –                 –
    copies of 0 and 29                  146,000      242 × 8          0.40         0.26             0.08
    copies of 0 and 29                  901,000     1760 × 8          0.60         0.47             0.10

The gap between the two overlaps says that more text would help further; it is what a GPU should be used for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import engines
from engines.models.causal import CausalModel
from engines.models.draft import DraftCard, body, load_draft, packed

HELD_OUT = 0.05


class Draft(nn.Module):
    """Copies of some of the target's layers between its frozen embedding and output matrix."""

    def __init__(self, target: CausalModel, layers: tuple[int, ...], spoken: Tensor) -> None:
        super().__init__()
        network = body(target, len(layers)).float()
        self.body = network.model
        for own, index in zip(self.body.layers, layers, strict=True):
            own.load_state_dict(
                {name: weight.float() for name, weight in target.network.model.layers[index].state_dict().items()}
            )
        self.body.norm.load_state_dict(target.network.model.norm.state_dict())
        embedding = self.body.embed_tokens.weight
        embedding.requires_grad_(False)
        self.spoken = spoken
        """Ids (spoken,) of the tokens that can be guessed."""
        self.rows = embedding[spoken].clone()

    def forward(self, ids: Tensor) -> Tensor:
        """Log-probabilities (rows, length, spoken) of the next tokens after ids (rows, length)."""
        hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return (hidden @ self.rows.to(hidden.dtype).T).float().log_softmax(-1)


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
    """Writes weights and card for `engines.models.draft.load_draft`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Tensor] = {"spoken": draft.spoken.to("cpu", torch.int32)}
    for name, weight in draft.body.state_dict().items():
        if name != "embed_tokens.weight":
            weights |= packed(name, weight.detach().cpu())
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    (folder / "card.json").write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")


@torch.no_grad()
def agreement(target: CausalModel, draft: CausalModel, tokens: Tensor, counted: Tensor) -> float:
    """Mean overlap Σ min(p, q) of two models at the `counted` places (rows, length) of tokens (rows, length)."""
    found = []
    for ids, mask in zip(tokens.tolist(), counted, strict=True):
        p, q = (model.start().extend(ids).softmax(-1) for model in (target, draft))
        found.append(torch.minimum(p, q).sum(-1)[mask])
    return float(torch.cat(found).mean())


def step_cost(target: CausalModel, draft: CausalModel, repeats: int = 30) -> float:
    """Seconds of a one-token pass of the draft over the target's, alternating, medians."""
    states, seconds = [model.start() for model in (target, draft)], ([], [])  # type: ignore[var-annotated]
    for state in states:
        state.extend([0] * 256, last=True)
    for _ in range(repeats):
        for state, taken in zip(states, seconds, strict=True):
            began = time.perf_counter()
            state.extend([0])
            taken.append(time.perf_counter() - began)
            state.rollback(1)
    return statistics.median(seconds[1]) / statistics.median(seconds[0])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--layers", default="0,29", help="which of the target's layers to begin with")
    parser.add_argument("--spoken", type=int, default=8192)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="shorten the training so that it takes this long")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    target = engines.load()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = load_file(arguments.data)
    tokens, top_ids, top_log_p = data["tokens"][:, :-1].long(), data["top_ids"], data["top_log_p"]
    split = max(1, min(int(len(tokens) * HELD_OUT), 64))
    spoken = torch.bincount(tokens[:-split].flatten(), minlength=target.vocabulary_size).topk(arguments.spoken).indices
    place = torch.full((target.vocabulary_size,), -1)
    place[spoken] = torch.arange(len(spoken))
    layers = tuple(int(layer) for layer in arguments.layers.split(","))
    draft = Draft(target, layers, spoken).to(device)
    draft.rows = draft.rows.to(device)
    trained = [weight for weight in draft.parameters() if weight.requires_grad]
    print(f"{sum(weight.numel() for weight in trained):,} parameters, {len(tokens) - split} rows, {split} held out")
    steps = int(arguments.epochs * (len(tokens) - split) / arguments.rows)
    optimiser = torch.optim.AdamW(trained, lr=arguments.rate, betas=(0.9, 0.95), weight_decay=0.01)
    held = answers(tokens[-split:], target)
    began, order, step, share = time.monotonic(), torch.empty(0, dtype=torch.long), 0, 0.0

    def judged(rows: Tensor) -> tuple[Tensor, Tensor]:
        top = place[top_ids[rows].long()].to(device)
        with torch.autocast(device, torch.bfloat16):
            log_q = draft(tokens[rows].to(device))
        return losses(log_q, top, top_log_p[rows].to(device))

    @torch.no_grad()
    def evaluate() -> float:
        found = []
        for rows in torch.arange(split).split(arguments.rows):
            overlap = judged(rows + len(tokens) - split)[1]
            found.append(overlap[held[rows].to(device)])
        return float(torch.cat(found).mean())

    while share < 1:
        if len(order) < arguments.rows:
            order = torch.randperm(len(tokens) - split)
        rows, order = order[: arguments.rows], order[arguments.rows :]
        # Warm-up, then a cosine down to nothing at the last step, or when the time is up.
        share = max((step + 1) / steps, (time.monotonic() - began) / (60 * arguments.minutes))
        for group in optimiser.param_groups:
            group["lr"] = (
                arguments.rate
                * min(1.0, (step + 1) / 50)
                * (1 + torch.cos(torch.pi * torch.tensor(min(1.0, share))))
                / 2
            )
        loss, overlap = judged(rows)
        optimiser.zero_grad()
        loss.mean().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        if step % 50 == 0 or share >= 1:
            held_out = f", held out {evaluate():.3f}" if step % 200 == 0 or share >= 1 else ""
            took = (time.monotonic() - began) / 60
            figures = f"loss {loss.mean():.3f}, overlap {overlap.mean():.3f}{held_out}"
            print(f"step {step} of {steps}: {figures}, {took:.1f} min", flush=True)
        step += 1
    if arguments.output:
        card = DraftCard(
            layers=layers,
            spoken=len(spoken),
            parameters=sum(weight.numel() for weight in trained),
            data="conversations of the embedded model with itself, training/conversations.py",
            tokens=(len(tokens) - split) * tokens.shape[1],
            steps=step,
            seed=arguments.seed,
            held_out_overlap=0.0,
            step_cost=0.0,
            target_weights=target.weights,
        )
        save(draft, card, arguments.output)
        # What is shipped is judged: 8-bit weights, float32 arithmetic.
        shipped = load_draft(target, arguments.output)
        found, cost = agreement(target, shipped, tokens[-split:], held), step_cost(target, shipped)
        card = msgspec.structs.replace(card, held_out_overlap=round(found, 3), step_cost=round(cost, 3))
        save(draft, card, arguments.output)


if __name__ == "__main__":
    main()
