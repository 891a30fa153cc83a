"""Contrastive search: among the most probable tokens, take one that does not say again what the text has said.

A repeated phrase has nearly the same hidden states as its first occurrence. Contrastive search reads the top k
candidates, compares each one's hidden state with those of all the text before, and weighs probability against
the greatest similarity. It is deterministic.

Su, Lan, Wang, Yogatama, Kong and Collier, "A Contrastive Framework for Neural Text Generation", arXiv 2202.06417,
equation 5.

    1. V_k ← the k most probable tokens after the text x
    2. one forward pass reads all v in V_k, each behind x, and gives hidden states h_v and the next distributions
    3. score(v) = (1 - α) · p(v | x) - α · max over j of cos(h_v, h_xj)
    4. append the v with the highest score; its distribution from step 2 serves step 1 of the next round

Exact: the candidates are read as siblings of one draft tree instead of k copies of the sequence, the numbers are
the same; the context is prompt and output, as in the authors' code. α = 0 or k = 1 is greedy decoding. The paper
assumes hidden states that spread in all directions (its SimCTG training); many models come without that, and then
all similarities are high and differ little: look at the scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.nn.functional import normalize

from engines.events import Event, Score
from engines.method import Need, Paper, method
from engines.runner import Run


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    penalty_alpha: Annotated[
        float, Meta(ge=0, le=1, description="Weight of the degeneration penalty against probability (α)")
    ] = 0.6
    top_k: Annotated[int, Meta(ge=1, le=32, description="Candidates read at every position (k)")] = 4


@method(
    "contrastive-search",
    title="Contrastive search",
    family="baselines",
    idea="Among the few most probable tokens, prefer one whose hidden state is unlike everything said before.",
    look_at="The scores: where a probable token is passed over, its penalty is that of a phrase already in the text.",
    needs=Need.HIDDEN_STATES | Need.TREE_ATTENTION,
    paper=Paper("A Contrastive Framework for Neural Text Generation", "Su et al.", 2022, "2202.06417"),
    params=Params,
    shines=("story-robot", "essay-silence"),
    loses=("copy-list", "math-table"),
    pictures=("scores", "token-stream", "confidence", "budget"),
)
def contrastive_search(run: Run, params: Params) -> Iterator[Event]:
    alpha = params.penalty_alpha
    logits = run.next_logits()
    context = normalize(torch.cat([*(run.prompt_hidden or []), _hidden(run)]).float(), dim=-1)
    while not run.finished:
        yield run.candidates(logits)
        confidence, candidates = logits.softmax(-1).topk(min(params.top_k, logits.shape[-1]))
        branches = run.state.extend(candidates.tolist(), [-1] * len(candidates))
        directions = normalize(_hidden(run).float(), dim=-1)
        similarity = (directions @ context.T).amax(-1)
        score = (1 - alpha) * confidence - alpha * similarity
        best = int(score.argmax())
        for index, token in enumerate(candidates.tolist()):
            yield Score(
                name="contrastive score",
                value=float(score[index]),
                parts={
                    "confidence": (1 - alpha) * float(confidence[index]),
                    "degeneration penalty": -alpha * float(similarity[index]),
                },
                chosen=index == best,
                position=run.position,
                token=run.model.token(token),
            )
        run.state.keep([best])
        context = torch.cat([context, directions[best : best + 1]])
        yield from run.commit(run.placed(int(candidates[best]), logits=logits))
        logits = branches[best]


def _hidden(run: Run) -> Tensor:
    """Hidden states (query, width) of the last pass."""
    assert run.state.hidden is not None
    return run.state.hidden
