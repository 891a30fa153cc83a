"""Best-of-n: draw N texts and return the one that a reward likes best.

The simplest way to spend more computing on one answer, and the control that every cleverer search must beat.

Known by many names; as rejection sampling against a reward model in Nakano et al. 2021, arXiv 2112.09332,
section 3.2; its cost in divergence from the model is at most log N - (N - 1)/N, Beirami et al. 2024, arXiv 2401.01879.

    1. read the prompt once, make N copies of it
    2. draw one token for every unfinished copy, in one batched pass; finished copies leave the batch
    3. repeat until all have ended
    4. the text is the argmax of the reward; on ties the first

Exact: the N texts are independent draws, all from one seed. The rewards offered are computed from the text and the
model alone, always with the model's own probabilities (before temperature and filters):

    mean log-probability    log p(y) / |y|: the text of the least average surprise
    log-probability         log p(y): as above, but every token costs, so short texts win
    distinct bigrams        |set of adjacent token pairs| / |pairs|: the text that repeats itself least

None of them measures truth or usefulness; a trained reward model would. At a time limit the unfinished texts are
judged as they stand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from msgspec import Meta

from engines.baselines.beam_search import Hypothesis, commit_hypothesis
from engines.events import Beams, Event, Placed, Score
from engines.method import Need, Paper, method
from engines.runner import Run
from engines.sampling import Constrainable, draw

Reward = Literal["mean log-probability", "log-probability", "distinct bigrams"]


class Params(Constrainable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    n: Annotated[int, Meta(ge=1, le=16, description="Texts drawn (N)")] = 8
    reward: Annotated[Reward, Meta(description="What the best text has most of")] = "mean log-probability"
    temperature: Annotated[float, Meta(ge=0.05, le=5, description="Flattens (above 1) or sharpens (below 1)")] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1000, description="Keep the k most probable tokens; 0 keeps all")] = 0
    top_p: Annotated[
        float, Meta(ge=0.01, le=1, description="Keep the smallest set that holds this much probability")
    ] = 0.95
    min_p: Annotated[
        float, Meta(ge=0, le=1, description="Keep tokens at least this fraction as probable as the top one")
    ] = 0.0


def reward_parts(reward: Reward, tokens: Sequence[int], log_probability: float) -> tuple[float, dict[str, float]]:
    """The reward of a text, and the numbers that it is made of."""
    match reward:
        case "log-probability":
            return log_probability, {"log-probability": log_probability}
        case "mean log-probability":
            value = log_probability / len(tokens)
            return value, {"log-probability": log_probability, "tokens": float(len(tokens))}
        case "distinct bigrams":
            pairs = list(itertools.pairwise(tokens))
            distinct = len(set(pairs))
            return distinct / max(1, len(pairs)), {"distinct pairs": float(distinct), "pairs": float(len(pairs))}


@method(
    "best-of-n",
    title="Best-of-n",
    family="baselines",
    idea="Draw several texts at once and keep the one that scores best by a simple reward.",
    look_at="The scores of the texts: how far the best one is ahead, and what the reward overlooks.",
    needs=Need.BATCH,
    paper=Paper("WebGPT", "Nakano et al.", 2021, "2112.09332"),
    params=Params,
    shines=("fact-photosynthesis", "sum-lighthouse"),
    loses=("math-apples",),
    pictures=("scores", "beam-tree", "token-stream", "budget"),
)
def best_of_n(run: Run, params: Params) -> Iterator[Event]:
    sampler = run.sampler(params)
    ids = itertools.count()
    texts: list[Hypothesis | None] = [None] * params.n
    active = list(range(params.n))
    logits = run.next_logits().expand(params.n, -1)
    run.state.select([0] * params.n)
    for position in itertools.count(run.position):
        warped, shown = [], []
        for row, index in enumerate(active):
            written = text.tokens if (text := texts[index]) else []
            warped.append(sampler.warp(logits[row], run.prompt, [*run.output, *written]))
            shown.append(run.shown(logits[row], position))
        p = torch.stack(warped).softmax(-1)
        drawn = draw(p, run.rng)[:, None]
        log_p = logits.log_softmax(-1).gather(-1, drawn)
        ranks = (logits > logits.gather(-1, drawn)).sum(-1)
        beams, going = [], []
        for row, index in enumerate(active):
            token, parent = int(drawn[row]), texts[index]
            total = (parent.total if parent else 0.0) + float(log_p[row])
            grown = Hypothesis(
                id=next(ids),
                parent=parent,
                length=position - run.position + 1,
                log_probability=total,
                total=total,
                placed=Placed(
                    run.model.token(token),
                    "sampled",
                    raw=float(log_p[row].exp()),
                    final=float(p[row, token]),
                    rank=int(ranks[row]),
                ),
                shown=shown[row],
            )
            texts[index] = grown
            ended = run.ends([*run.output, *grown.tokens]) is not None
            value, _ = reward_parts(params.reward, grown.tokens, total)
            beams.append(grown.beam(value, "finished" if ended else "live", index))
            if not ended:
                going.append(row)
        yield Beams(position=position, beams=tuple(beams))
        active = [active[row] for row in going]
        if not active or run.out_of_time:
            break
        run.state.select(going)
        logits = run.state.extend([[int(drawn[row])] for row in going], last=True)[:, -1]
    yield from _judge(run, params, [text for text in texts if text])


def _judge(run: Run, params: Params, texts: list[Hypothesis]) -> Iterator[Event]:
    rewards = [reward_parts(params.reward, text.tokens, text.log_probability) for text in texts]
    best = max(range(len(texts)), key=lambda index: rewards[index][0])
    for index, (text, (value, parts)) in enumerate(zip(texts, rewards, strict=True)):
        yield Score(
            name=params.reward,
            value=value,
            parts=parts,
            chosen=index == best,
            sequence=index,
            text=run.model.decode(text.tokens),
        )
    winner = texts[best]
    beam = winner.beam(rewards[best][0], "chosen", best)
    yield Beams(position=run.position + winner.length - 1, beams=(beam,))
    yield from commit_hypothesis(run, winner)
