"""Direct logit attribution: how much of the answer does each part of the model write itself?

"A Mathematical Framework for Transformer Circuits", Elhage et al., 2021 (no arXiv number); "Interpretability in the
Wild: a Circuit for Indirect Object Identification in GPT-2 small", Wang et al., arXiv 2211.00593. What the head reads
is a sum: the embedding and what every attention head and every MLP has added to it. With the scale of the last norm
held fixed, reading is linear, and the logit difference a sum, too:

    1. read the prompt:  h = e + Σ_l (attn_l + mlp_l) at the last position, attn_l = Σ_heads W_h · z_h + bias
    2. scale ← 1 / std(h), and d ← W_U[answer] − W_U[foil], W_U the head's matrix
    3. direct(v) ← (γ · centred(v) · scale) · d, for v each of these parts

    LD = direct(e) + Σ direct(W_h · z_h) + Σ direct(mlp_l) + biases, exactly

Where another norm stands between the heads and the stream (Gemma-2 and -3), its scale is held fixed as well. What a
part does through other parts is not in these numbers: a head that tells later heads where to look scores nothing.
Patching answers that.

Given are shares of the mean logit difference over the prompts. Logits that the model caps in the end (Gemma-2) are
taken before the cap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from engines.attribution.estimate import head_id, mlp_id
from engines.attribution.questions import Asking, Question, Task, check_lead, question
from engines.events import Circuit, CircuitNode, Event, Note, Patch
from engines.method import Need, Paper, method
from engines.models.anatomy import weight
from engines.models.rules import gain, norm_factors
from engines.models.white_box import NotReadable, Trace, WhiteBox
from engines.runner import Run

HOW = "direct"


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    task: Annotated[
        Task, Meta(description="A shipped set of prompts, which takes the prompt's place, or your own prompt")
    ] = "ioi"
    pairs: Annotated[int, Meta(ge=1, le=24, description="Prompts of a shipped task")] = 8
    answer: Annotated[
        str, Meta(description="The token to explain; empty: the most probable next one", max_length=80)
    ] = ""
    foil: Annotated[str, Meta(description="What it is set against; empty: the runner-up", max_length=80)] = ""


@dataclass(frozen=True, slots=True)
class Direct:
    """Direct contributions to the logit difference after the last token, in logits, by prompt."""

    embedding: Tensor
    """(prompts,)"""
    heads: Tensor
    """(layers, heads, prompts)"""
    attention: Tensor
    """What the attention of a layer adds, its bias included, (layers, prompts)."""
    mlps: Tensor
    """(layers, prompts)"""
    rest: Tensor
    """Of the last norm's and the head's biases, (prompts,)."""

    @property
    def biases(self) -> Tensor:
        """All that no head, no MLP and no embedding writes, (prompts,)."""
        return self.rest + (self.attention - self.heads.sum(1)).sum(0)

    @property
    def whole(self) -> Tensor:
        """The sum, which is LD, (prompts,)."""
        return self.embedding + self.heads.sum((0, 1)) + self.mlps.sum(0) + self.biases


def held(norm: nn.Module, at: Tensor) -> Callable[[Tensor], Tensor]:
    """A norm as a linear map of vectors (…, width): with the scale that it has for `at` (…, width), without its bias.

    Raises `NotReadable` for a kind of norm that is not known.
    """
    factors = norm_factors(norm)
    if factors is None:
        raise NotReadable(
            f"This network's norms are of a kind not known here, {type(norm).__name__}, so its logits cannot be "
            "taken apart. Try attribution patching."
        )
    scale = factors(at)[1]
    return lambda vector: gain(norm) * (factors(vector)[0] * scale)


@torch.no_grad()
def contributions(box: WhiteBox, unembedding: nn.Linear, trace: Trace, asked: Question) -> Direct:
    """Takes the logit difference apart.

    Args:
        unembedding: the network's head.
        trace: of the clean prompts.
    """
    last, norm = trace.resid_pre[-1][:, -1], box.anatomy.final_norm
    assert norm is not None
    rows = unembedding.weight[asked.candidates.to(box.device)]
    d = rows[:, 0] - rows[:, 1]
    read = held(norm, last)

    def direct(vectors: Tensor) -> Tensor:
        """(…, prompts) of vectors (…, prompts, width)."""
        return (read(vectors) * d).sum(-1)

    heads = []
    for layer, block in enumerate(box.anatomy.blocks):
        z = trace.head[layer][:, -1]
        written = torch.einsum("bhd,whd->hbw", z, weight(block.out).unflatten(1, (box.heads, -1)))
        if block.attention_writer is not block.attention:
            written = held(block.attention_writer, block.out(z.flatten(-2)))(written)
        heads.append(direct(written))
    bias = getattr(norm, "bias", None)
    rest = torch.zeros_like(d[:, 0]) if bias is None else d @ bias
    if unembedding.bias is not None:
        difference = unembedding.bias[asked.candidates.to(box.device)]
        rest = rest + difference[:, 0] - difference[:, 1]
    return Direct(
        embedding=direct(trace.resid_pre[0][:, -1]),
        heads=torch.stack(heads),
        attention=direct(torch.stack([out[:, -1] for out in trace.attn_out])),
        mlps=direct(torch.stack([out[:, -1] for out in trace.mlp_out])),
        rest=rest,
    )


def events(shares: Direct, asked: Question) -> Iterator[Event]:
    """Rows of the maps, and the components; of shares by prompt, which are averaged."""

    def at_last(share: float) -> tuple[float, ...]:
        return (0.0,) * (asked.length - 1) + (share,)

    heads, mlps = shares.heads.mean(-1).tolist(), shares.mlps.mean(-1).tolist()
    embedding = float(shares.embedding.mean())
    nodes = [CircuitNode("embed", "embedding", -1, None, embedding, at_last(embedding))]
    for layer, attention in enumerate(shares.attention.mean(-1).tolist()):
        yield Patch(site="attn_out", layer=layer, how=HOW, effects=at_last(attention))
        yield Patch(site="mlp_out", layer=layer, how=HOW, effects=at_last(mlps[layer]))
        yield Patch(site="head", layer=layer, how=HOW, effects=tuple(heads[layer]), along="head")
        for head, share in enumerate(heads[layer]):
            nodes.append(CircuitNode(head_id(layer, head), "head", layer, head, share, at_last(share)))
        nodes.append(CircuitNode(mlp_id(layer), "mlp", layer, None, mlps[layer], at_last(mlps[layer])))
    nodes.append(CircuitNode("logits", "logits", len(mlps), None, 1.0))
    yield Circuit(how=HOW, nodes=tuple(nodes), edges=(), edge_count=0)


@method(
    "direct-logit-attribution",
    title="Direct logit attribution",
    family="attribution",
    needs=Need.LOGITS | Need.GRADIENTS,
    paper=Paper("A Mathematical Framework for Transformer Circuits", "Elhage et al.", 2021),
    params=Params,
    idea="Every head and every MLP adds something to one stream, from which the words are read in the end. So the "
    "answer's lead is a sum, and each of them can be told its part of it.",
    look_at="The few heads that write the answer, and those that write the foil. What a part does through others is "
    "not here: compare the map with activation patching.",
    shines=("ioi",),
    pictures=("head-map", "circuit-graph"),
)
def direct_logit_attribution(run: Run, params: Params) -> Iterator[Event]:
    asking = Asking(task=params.task, pairs=params.pairs, answer=params.answer, foil=params.foil)
    asked = question(run, asking, alone=True)
    yield from run.settle()
    box = WhiteBox(run.model.network, run.ledger, run.clock.now)
    if not box.anatomy.plan:
        raise NotReadable(
            "The logits of this network cannot be taken apart, because only its layers can be told apart: "
            f"{box.doubt}. Try attribution patching."
        )
    trace = box.read(asked.clean)
    said = asked.difference(trace.logits)
    yield from run.settle()
    check_lead(said)
    yield asked.event(run.model, said, said)
    found = contributions(box, run.model.network.get_output_embeddings(), trace, asked)
    total = float(found.whole.mean())
    yield from events(Direct(*(getattr(found, name) / total for name in Direct.__slots__)), asked)
    heads, mlps = float(found.heads.sum((0, 1)).mean()), float(found.mlps.sum(0).mean())
    yield Note(
        text=f"The logit difference of {total:.2f} is a sum: {heads:+.2f} from the heads, {mlps:+.2f} from the MLPs, "
        f"{float(found.embedding.mean()):+.2f} from the embedding, {float(found.biases.mean()):+.2f} from biases. "
        "Effects are shares of it."
    )
