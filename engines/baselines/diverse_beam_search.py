"""Diverse beam search: beam search in groups, where a later group pays for repeating an earlier group's tokens.

Plain beams end up as near-copies of one text. Here the beams are split into groups that are extended one after
the other at every position; a token that earlier groups have just chosen is made less attractive to later ones.

Vijayakumar, Cogswell, Selvaraju, Sun, Lee, Crandall and Batra, "Diverse Beam Search", arXiv 1610.02424, algorithm 1.

    1. split the B beams into G groups
    2. at every position, for g = 1 … G:
         a. count(v) ← how often groups 1 … g-1 have chosen token v at this position (Hamming diversity)
         b. one step of beam search in group g by  log p(y v) - λ · count(v)
    3. a group stops as a beam search does; its rows leave the batch
    4. the text is the best of the groups' best texts

Exact: group 1 is never penalised, so it is a plain beam search with B/G beams; with one group the whole is. As in
the authors' code the penalties of all positions add up in the ranking inside a group, and choosing to end the text
counts as choosing a token. Different from it: the groups' winners are compared by the model's own log-probability
(over length^penalty), without the penalties, which measure the order of the groups rather than their texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated

import torch
from msgspec import Meta

from engines.baselines.beam_search import EarlyStopping, Hypothesis, Search, commit_hypothesis
from engines.events import Beam, Beams, Event, Score
from engines.method import Need, Paper, method
from engines.runner import Run
from engines.sampling import Constrainable


class Params(Constrainable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    num_beam_groups: Annotated[int, Meta(ge=1, le=8, description="Groups that avoid each other's tokens (G)")] = 4
    beams_per_group: Annotated[int, Meta(ge=1, le=4, description="Hypotheses kept per group (B/G)")] = 1
    diversity_penalty: Annotated[
        float, Meta(ge=0, le=20, description="Nats off a token for each time an earlier group chose it here (λ)")
    ] = 0.5
    length_penalty: Annotated[
        float, Meta(ge=-5, le=5, description="Score = log-probability / length^this; higher favours longer texts")
    ] = 1.0
    early_stopping: Annotated[
        EarlyStopping,
        Meta(description="false: stop when improvement is unlikely; true: once B finished; never: when impossible"),
    ] = "false"


@method(
    "diverse-beam-search",
    title="Diverse beam search",
    family="baselines",
    idea="Beam search in groups: later groups pay for repeating what earlier groups chose, so the texts differ.",
    look_at="The beam tree: the groups part at the first words. Raise the penalty to drive them further apart.",
    needs=Need.BATCH,
    paper=Paper("Diverse Beam Search", "Vijayakumar et al.", 2016, "1610.02424"),
    params=Params,
    shines=("poem-sea", "letter-friend"),
    loses=("math-table", "copy-list"),
    pictures=("beam-tree", "scores", "token-stream", "budget"),
)
def diverse_beam_search(run: Run, params: Params) -> Iterator[Event]:
    ids, sampler = itertools.count(), run.sampler(params)
    groups = [
        Search(run, sampler, params.beams_per_group, params.length_penalty, params.early_stopping, ids, group)
        for group in range(params.num_beam_groups)
    ]
    active = groups
    logits = run.next_logits().expand(len(groups), -1)
    run.state.select([0] * len(groups))
    for position in itertools.count(run.position):
        chosen = torch.zeros_like(logits[0])
        considered: list[Beam] = []
        rows: list[int] = []
        first = 0
        for group in active:
            width = len(group.live)
            parents, beams = group.step(logits[first : first + width], params.diversity_penalty * chosen)
            for token in group.taken:
                chosen[token] += 1
            considered += beams
            rows += [first + parent for parent in parents] if not group.done else []
            first += width
        yield Beams(position=position, beams=tuple(considered))
        active = [group for group in active if not group.done]
        if not active or run.out_of_time:
            break
        run.state.select(rows)
        tokens = [[live.placed.token.id] for group in active for live in group.live if live]
        logits = run.state.extend(tokens, last=True)[:, -1]
    yield from _conclude(run, params, groups)


def _conclude(run: Run, params: Params, groups: list[Search]) -> Iterator[Event]:
    def value(text: Hypothesis) -> float:
        return text.log_probability / text.length**params.length_penalty

    winners = [group.best() for group in groups]
    best = max(range(len(groups)), key=lambda index: value(winners[index]))
    for index, text in enumerate(winners):
        yield Score(
            name="log-probability / length^penalty",
            value=value(text),
            parts={"log-probability": text.log_probability, "tokens": float(text.length)},
            chosen=index == best,
            sequence=index,
            text=run.model.decode(text.tokens),
        )
    winner = winners[best]
    beam = winner.beam(groups[best].score(winner), "chosen", best)
    yield Beams(position=run.position + winner.length - 1, beams=(beam,))
    yield from commit_hypothesis(run, winner)
