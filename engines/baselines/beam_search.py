"""Beam search: follow the B most probable texts at once instead of the single most probable token.

A text that starts with a less probable token can still be the more probable text. Beam search keeps B unfinished
hypotheses, extends all of them in one batched pass, and keeps the best B of all the extensions.

Lowerre 1976 (speech recognition); for text Sutskever et al. 2014, arXiv 1409.3215; the length penalty is that of
Wu et al. 2016, arXiv 1609.08144, in the simpler form of transformers.

    1. live ← {empty text}, finished ← {}
    2. for every live hypothesis y and token v:  log p(y v) = log p(y) + log p(v | y)
    3. take the (1 + number of end tokens) · B best extensions (at least 2B), so that B unfinished ones remain
    4. an extension that ends the text and is among the B best joins `finished`, with score log p / length^penalty;
       of `finished` only the best B are kept
    5. live ← the B best extensions that do not end the text
    6. stop when B have finished and the best live one, at its present length, cannot beat the worst of them
       (`early_stopping` false), or as soon as B have finished (true), or when it could not win at any length (never)
    7. the text is the finished hypothesis with the best score

Exact: token for token what `transformers.generate(num_beams=B)` returns, its heuristics included. Beam search is
not a search for the most probable text (B hypotheses are not all), and more probable is not better: wide beams
give short, dull texts. Length counts generated tokens, the end token included. Where transformers waits for the
token limit, a time limit also ends the search: the best finished, else the best unfinished hypothesis is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from engines.events import Beam, Beams, Event, Placed
from engines.grammars.constraint import DeadEnd
from engines.method import Need, Paper, method
from engines.runner import Run
from engines.sampling import NEVER, Constrainable, Sampler

EarlyStopping = Literal["false", "true", "never"]
Outcome = Literal["live", "pruned", "finished", "chosen"]


class Params(Constrainable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    num_beams: Annotated[int, Meta(ge=1, le=16, description="Hypotheses kept at every position (B)")] = 4
    length_penalty: Annotated[
        float, Meta(ge=-5, le=5, description="Score = log-probability / length^this; higher favours longer texts")
    ] = 1.0
    early_stopping: Annotated[
        EarlyStopping,
        Meta(description="false: stop when improvement is unlikely; true: once B finished; never: when impossible"),
    ] = "false"


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """A text under construction: its last token and the hypothesis that it continues."""

    id: int
    parent: Hypothesis | None
    length: int
    log_probability: float
    """Sum over the generated tokens under the model's own distribution."""
    total: float
    """What the search ranks by: the log-probability, less any penalties."""
    placed: Placed
    shown: tuple[Event, ...]
    """What the model wanted at the place of the last token, and what a constraint blocked there."""

    def path(self) -> list[Hypothesis]:
        """The hypotheses from the first generated token to this one."""
        steps: list[Hypothesis] = []
        step: Hypothesis | None = self
        while step is not None:
            steps.append(step)
            step = step.parent
        return steps[::-1]

    @property
    def tokens(self) -> list[int]:
        return [step.placed.token.id for step in self.path()]

    def beam(self, score: float, outcome: Outcome, group: int = 0) -> Beam:
        """This hypothesis as part of an event."""
        parent = -1 if self.parent is None else self.parent.id
        return Beam(self.id, parent, self.placed.token, self.log_probability, score, outcome, group)


class Search:
    """One beam search: its live and its finished hypotheses. A diverse beam search runs several.

    Row i of the logits that `step` takes belongs to `live[i]`; before the first step there is one row.
    """

    def __init__(
        self,
        run: Run,
        sampler: Sampler,
        beams: int,
        length_penalty: float,
        early_stopping: EarlyStopping,
        ids: Iterator[int],
        group: int = 0,
    ) -> None:
        self.live: list[Hypothesis | None] = [None]
        self.finished: list[Hypothesis] = []
        self.done = False
        self.taken: list[int] = []
        """Tokens of the extensions that the last step chose, finished ones included."""
        self._run, self._sampler, self._beams, self._group = run, sampler, beams, group
        self._length_penalty, self._early_stopping = length_penalty, early_stopping
        self._ids = ids
        self._longest = max(1, run.remaining)
        self._considered = max(2, 1 + len(run.model.eos_ids)) * beams

    def score(self, hypothesis: Hypothesis, length: int | None = None) -> float:
        """Total / length^penalty."""
        return hypothesis.total / (length or hypothesis.length) ** self._length_penalty

    def step(self, logits: Tensor, penalty: Tensor | None = None) -> tuple[list[int], list[Beam]]:
        """Extends every live hypothesis by one token.

        Args:
            logits: (live, vocabulary).
            penalty: (vocabulary,), taken off the log-probabilities for ranking.

        Returns:
            For every new live hypothesis the row of the one that it continues, and all that were considered.
        """
        texts = [[*self._run.output, *(parent.tokens if parent else [])] for parent in self.live]
        possible, shown = self._possible(logits, texts)
        rows, tokens, totals, log_p = self._best_extensions(logits, possible, penalty)
        ranks = (logits[rows] > logits[rows, tokens][:, None]).sum(-1)
        survivors: list[tuple[int, Hypothesis]] = []
        considered: list[Beam] = []
        self.taken = []
        columns = zip(rows.tolist(), tokens.tolist(), totals.tolist(), log_p.tolist(), ranks.tolist(), strict=True)
        for place, (row, token, total, log_probability, rank) in enumerate(columns):
            parent = self.live[row]
            extension = Hypothesis(
                id=next(self._ids),
                parent=parent,
                length=self._length + 1,
                log_probability=(parent.log_probability if parent else 0.0) + log_probability,
                total=total,
                placed=Placed(
                    self._run.model.token(token), "sampled", raw=float(torch.tensor(log_probability).exp()), rank=rank
                ),
                shown=shown[row],
            )
            outcome: Outcome = "pruned"
            if self._run.ends([*texts[row], token]):
                if place < self._beams:
                    outcome = "finished"
                    self.finished.append(extension)
            elif len(survivors) < self._beams:
                outcome = "live"
                survivors.append((row, extension))
            if outcome != "pruned":
                self.taken.append(token)
            considered.append(extension.beam(self.score(extension), outcome, self._group))
        self.finished = sorted(self.finished, key=self.score, reverse=True)[: self._beams]
        if survivors:
            self.live = [extension for _, extension in survivors]
        self.done = not survivors or self._cannot_improve()
        return [row for row, _ in survivors], considered

    def best(self) -> Hypothesis:
        """The best finished hypothesis, or the best unfinished one when time ran out before any finished."""
        return max(self.finished or [live for live in self.live if live], key=self.score)

    @property
    def _length(self) -> int:
        return self.live[0].length if self.live[0] else 0

    def _possible(self, logits: Tensor, texts: Sequence[list[int]]) -> tuple[Tensor, list[tuple[Event, ...]]]:
        """Which extensions a constraint leaves, bool (live, vocabulary), and what the model wanted in each row.

        A hypothesis in a dead end has no extension. Raises `DeadEnd` when all are in one.
        """
        gate, position = self._sampler.gate, self._run.position + self._length
        possible = torch.ones_like(logits, dtype=torch.bool)
        shown = []
        for row, text in enumerate(texts):
            if gate:
                try:
                    possible[row] = gate.allowed(text)
                except DeadEnd:
                    possible[row] = False
            shown.append(self._run.shown(logits[row], position))
        if not possible.any():
            raise DeadEnd
        return possible, shown

    def _best_extensions(
        self, logits: Tensor, possible: Tensor, penalty: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows, tokens, totals and log p(token | row) of the best extensions, best first."""
        log_p = logits.log_softmax(-1)
        ranked = (log_p if penalty is None else log_p - penalty).masked_fill(~possible, NEVER)
        ranked = ranked + log_p.new_tensor([live.total if live else 0.0 for live in self.live])[:, None]
        totals, flat = ranked.flatten().topk(min(self._considered, int(possible.sum())))
        rows, tokens = flat // logits.shape[-1], flat % logits.shape[-1]
        return rows, tokens, totals, log_p[rows, tokens]

    def _cannot_improve(self) -> bool:
        if len(self.finished) < self._beams:
            return False
        if self._early_stopping == "true":
            return True
        at_length = self._longest if self._early_stopping == "never" and self._length_penalty > 0 else None
        assert self.live[0] is not None
        return self.score(self.live[0], at_length) <= self.score(self.finished[-1])


def commit_hypothesis(run: Run, winner: Hypothesis) -> Iterator[Event]:
    """What the model wanted along the winning text, then the text."""
    path = winner.path()
    for step in path:
        yield from step.shown
    yield from run.commit(*(step.placed for step in path))


@method(
    "beam-search",
    title="Beam search",
    family="baselines",
    idea="Follow the few most probable texts side by side, and return the best one that reaches its end.",
    look_at="The beam tree: a branch that began behind can overtake, and most branches share one trunk.",
    needs=Need.BATCH,
    paper=Paper("Sequence to Sequence Learning with Neural Networks", "Sutskever, Vinyals and Le", 2014, "1409.3215"),
    params=Params,
    shines=("tr-french", "qa-capital"),
    loses=("poem-sea", "story-robot"),
    pictures=("beam-tree", "confidence", "token-stream", "budget"),
)
def beam_search(run: Run, params: Params) -> Iterator[Event]:
    # One beam that has finished is greedy decoding, and transformers too then looks no further.
    early_stopping = params.early_stopping if params.num_beams > 1 else "true"
    search = Search(
        run, run.sampler(params), params.num_beams, params.length_penalty, early_stopping, itertools.count()
    )
    logits = run.next_logits()[None]
    for position in itertools.count(run.position):
        rows, considered = search.step(logits)
        yield Beams(position=position, beams=tuple(considered))
        if search.done or run.out_of_time:
            break
        run.state.select(rows)
        logits = run.state.extend([[live.placed.token.id] for live in search.live if live], last=True)[:, -1]
    winner = search.best()
    last = run.position + winner.length - 1
    yield Beams(position=last, beams=(winner.beam(search.score(winner), "chosen"),))
    yield from commit_hypothesis(run, winner)
