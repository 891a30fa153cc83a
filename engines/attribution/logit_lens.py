"""The logit lens: what would the model say if it ended after this layer?

"interpreting GPT: the logit lens", nostalgebraist, 2020 (no arXiv number), as described in "Eliciting Latent
Predictions from Transformers with the Tuned Lens", Belrose et al., arXiv 2303.08112. All layers add to one stream, and
the last norm and the head read words off its end. They can read it earlier, too:

    1. read the prompt:  h_0 the embeddings, h_l the stream after layer l, at every position
    2. z_l ← head(norm(h_l))
    3. shown: the most probable token of softmax(z_l), and z_l[answer] − z_l[foil]

After the last layer this is exactly what the model says. Before, it is a guess at what the stream holds: nothing in
training asks early layers to write in the language of the head, and in some models they do not. The tuned lens learns a
translation for every layer; this one learns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from engines.attribution.questions import Asking, Task, question
from engines.events import Choice, Event, Lens, Note
from engines.method import Need, Paper, method
from engines.models.white_box import NotReadable, WhiteBox
from engines.runner import Run


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    task: Annotated[
        Task, Meta(description="Your own prompt, or the first of a shipped set of prompts, which takes its place")
    ] = "this prompt"
    answer: Annotated[
        str, Meta(description="The token to follow; empty: the most probable next one", max_length=80)
    ] = ""
    foil: Annotated[str, Meta(description="What it is set against; empty: the runner-up", max_length=80)] = ""


@torch.no_grad()
def seen(box: WhiteBox, stream: Tensor) -> Tensor:
    """Logits (…, vocabulary) that a stream (…, width) would give if the model ended there."""
    return box.logits(box.norm(stream))


def kept_from(words: Sequence[int], answer: int) -> int | None:
    """The layer from which on the layers' words are the answer; None if the last one is not."""
    others = [layer for layer, word in enumerate(words) if word != answer]
    first = others[-1] + 1 if others else 0
    return first if first < len(words) else None


@method(
    "logit-lens",
    title="Logit lens",
    family="attribution",
    needs=Need.LOGITS | Need.GRADIENTS,
    paper=Paper("interpreting GPT: the logit lens", "nostalgebraist", 2020),
    params=Params,
    idea="Cut the model off after each layer, and let it say its next word there. Early layers guess what usually "
    "follows; later ones have read the text.",
    look_at="The last position: in which layer the answer comes up, and whether its foil was ahead before.",
    shines=("qa-capital",),
    pictures=("logit-lens",),
)
def logit_lens(run: Run, params: Params) -> Iterator[Event]:
    asked = question(run, Asking(task=params.task, pairs=1, answer=params.answer, foil=params.foil), alone=True)
    yield from run.settle()
    box = WhiteBox(run.model.network, run.ledger, run.clock.now)
    if box.anatomy.final_norm is None:
        raise NotReadable(
            f"The layers of this network cannot be read, because its last norm cannot be found: {box.doubt}."
        )
    trace = box.read(asked.clean)
    yield from run.settle()
    difference = asked.difference(trace.logits)
    yield asked.event(run.model, difference, difference)
    answer, foil = int(asked.answers[0]), int(asked.foils[0])
    words: list[int] = []
    for layer, stream in enumerate(trace.resid_pre):
        logits = seen(box, stream[0])
        p, ids = logits.softmax(-1).max(-1)
        yield Lens(
            layer=layer,
            tokens=tuple(
                Choice(run.model.token(id), chance) for id, chance in zip(ids.tolist(), p.tolist(), strict=True)
            ),
            differences=tuple((logits[:, answer] - logits[:, foil]).tolist()),
        )
        words.append(int(ids[-1]))
        if run.finished:
            return
    first = kept_from(words, answer)
    yield Note(
        text="The answer is not the most probable word, even in the end."
        if first is None
        else f"From layer {first} of {box.layers} on the answer is the most probable word at the last position."
    )
