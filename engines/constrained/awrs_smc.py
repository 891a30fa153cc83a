"""AWRS-SMC: several texts side by side, weighted by how much of the model was allowed on their way, and resampled.

From "Fast Controlled Generation from Language Models with Adaptive Weighted Rejection Sampling", Lipkin et al.,
arXiv 2504.05410. Masking step by step prefers beginnings that look allowed and have little allowed future. Here every
text pays for that: where only a thousandth of the model's probability was allowed, its weight falls by a thousand.

    1. N particles, all empty, with weight 1
    2. every unfinished particle: draw an allowed token x and the weight w of that step (`rejection`); append x,
       weight ← weight · w. w = 0 is a dead end and kills it; the end of the text finishes it
    3. at the last place that the token limit leaves, nothing is drawn: the end of the text is appended, with the
       model's probability of it as w, or 0 if the text may not end there
    4. ESS ← (Σ weight)² / Σ weight²; if ESS < threshold · N: draw N ancestors by weight, finished ones take part, and
       give each the mean weight
    5. repeat 2 to 4 until all are finished; all dead is a dead end
    6. the weights, normalised and added up for equal texts, are the posterior; the text is drawn from it

Exact: the mean weight is an unbiased estimate of P(L), the model's own probability, at the temperature, that its text
fits the condition and ends within the limit. As N grows the posterior comes to the model given that. With N = 1, or
with `lcd`, it is masking. `at the limit: may be cut` counts a text that reaches the limit as finished as it stands,
which aims at beginnings instead, as do stop strings and a time limit.

Equal texts share a row of the batch, so the first pass is for one. Weights are kept as logarithms. The published
experiments resample multinomially; systematic, stratified and residual resampling add less chance, and like it keep the
mean weight unbiased.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from engines.constrained.awrs import PAPER, Rejecting, compiled, propose, target, tested, trials
from engines.events import Event, Note, Particle, Particles, Placed, Score
from engines.grammars.constraint import Constraint, DeadEnd
from engines.method import Need, method
from engines.runner import Run

Resampling = Literal["multinomial", "systematic", "stratified", "residual"]
State = Literal["alive", "finished", "dead"]


class Params(Rejecting, frozen=True, kw_only=True, forbid_unknown_fields=True):
    n_particles: Annotated[int, Meta(ge=1, le=64, description="Texts side by side (N)")] = 5
    ess_threshold: Annotated[
        float, Meta(ge=0, le=1, description="Resample when the effective number falls below this share of N; 0 never")
    ] = 0.5
    resampling: Annotated[Resampling, Meta(description="How ancestors are drawn")] = "multinomial"
    limit: Annotated[
        Literal["must end", "may be cut"], Meta(description="At the token limit: texts end there, or are cut off")
    ] = "must end"


@dataclass(slots=True)
class Text:
    """One particle."""

    condition: Constraint
    row: int = 0
    """Which row of the logits is about its next token."""
    placed: list[Placed] = field(default_factory=list)
    shown: list[Event] = field(default_factory=list)
    """What the model wanted along the way."""
    log_weight: float = 0.0
    state: State = "alive"
    parent: int = 0
    """Its place in the population before."""
    wrote: str = ""

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(placed.token.id for placed in self.placed)

    def copy(self, parent: int) -> Text:
        """A particle that goes on from this one."""
        return replace(
            self,
            condition=self.condition.fork(),
            placed=list(self.placed),
            shown=list(self.shown),
            parent=parent,
        )


@method(
    "awrs-smc",
    title="AWRS-SMC",
    family="constrained",
    needs=Need.BATCH | Need.LOGITS,
    paper=PAPER,
    params=Params,
    idea="Several texts are written by rejection side by side; those that had to force the model lose weight, and are "
    "replaced by copies of the others.",
    look_at="The particles: which lines grow thin, which die, and from whom the survivors descend.",
    shines=("poem-sea", "story-robot"),
    loses=("qa-capital",),
    pictures=("particles", "dartboard", "scores", "token-stream", "budget"),
)
def awrs_smc(run: Run, params: Params) -> Iterator[Event]:
    condition, ready = compiled(run, params)
    yield ready
    yield from sequential_monte_carlo(run, params, condition)


def sequential_monte_carlo(run: Run, params: Params, condition: Constraint) -> Iterator[Event]:
    """The numbered steps, for a condition that stands at the end of the run's text."""
    texts = [Text(condition.fork()) for _ in range(params.n_particles)]
    tests = choices = 0
    logits = run.next_logits()[None]
    for step in itertools.count():
        last = params.limit == "must end" and run.remaining - step == 1
        targets = [target(row, params.temperature) for row in logits]
        for index, text in enumerate(texts):
            if text.state != "alive":
                continue
            p, place = targets[text.row], run.position + step
            text.shown += run.shown(logits[text.row], place)
            if last:
                token, weight = end(run, p, text.condition)
            else:
                found = propose(run, params, p, text.condition)
                if found is None:
                    # The others are judged as they stand.
                    break
                yield trials(run, found, p, text.condition, place, index)
                token, weight = found.token, float(found.weight)
                tests, choices = tests + found.tests, choices + 1
            go_on(run, text, token, weight, logits[text.row], p)
        effective = effective_size([text.log_weight for text in texts])
        living = [text.state == "alive" for text in texts]
        resample = any(living) and 0 < effective < params.ess_threshold * len(texts)
        yield population(step, texts, effective, resample)
        if all(text.state == "dead" for text in texts):
            yield Note(text=_no_text(params, last))
            raise DeadEnd
        if not any(living) or run.out_of_time:
            break
        if resample:
            texts = successors(texts, params, run.rng)
        for index, text in enumerate(texts):
            text.parent, text.wrote = text.parent if resample else index, ""
        going = {text.tokens: text.row for text in texts if text.state == "alive"}
        if not going:
            # Only finished texts were drawn as ancestors.
            break
        for text in texts:
            text.row = list(going).index(text.tokens) if text.state == "alive" else 0
        run.state.select(list(going.values()))
        logits = run.state.extend([[tokens[-1]] for tokens in going], last=True)[:, -1]
    yield from conclude(run, texts)
    if choices:
        yield tested(tests, choices, run.model.vocabulary_size)


def end(run: Run, p: Tensor, condition: Constraint) -> tuple[int | None, float]:
    """The end of the text at its last place, and the probability of it; 0 where the text may not end."""
    ends = [(float(p[token]), token) for token in sorted(run.model.eos_ids) if condition.allows(token)]
    total = sum(share for share, _ in ends)
    return (max(ends)[1], total) if total > 0 else (None, 0.0)


def go_on(run: Run, text: Text, token: int | None, weight: float, logits: Tensor, p: Tensor) -> None:
    """Step 2: appends the token and takes its weight; kills the text where there is none."""
    if token is None or weight <= 0:
        text.log_weight, text.state = -math.inf, "dead"
        return
    text.condition.commit(token)
    text.log_weight += math.log(weight)
    text.placed.append(run.placed(token, logits=logits, final=float(p[token])))
    text.wrote = "" if token in run.model.eos_ids else run.model.token(token).text
    if run.ends([*run.output, *text.tokens]) is not None:
        text.state = "finished"


def effective_size(log_weights: Sequence[float]) -> float:
    """(Σ w)² / Σ w²; 0 when all are 0."""
    weights = torch.tensor(log_weights, dtype=torch.float64)
    if weights.isneginf().all():
        return 0.0
    return float((2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp())


def successors(texts: Sequence[Text], params: Params, rng: torch.Generator) -> list[Text]:
    """Step 4: as many texts as before, drawn by weight, each with the mean weight."""
    log_weights = torch.tensor([text.log_weight for text in texts], dtype=torch.float64)
    mean = float(log_weights.logsumexp(0)) - math.log(len(texts))
    out = []
    for parent in ancestors(params.resampling, log_weights.softmax(0), rng):
        heir = texts[parent].copy(parent)
        heir.log_weight = mean
        out.append(heir)
    return out


def ancestors(resampling: Resampling, weights: Tensor, rng: torch.Generator) -> list[int]:
    """As many indices as there are weights (n,), which add up to 1; each is expected n · weight times."""
    count = len(weights)
    match resampling:
        case "multinomial":
            u = torch.rand(count, generator=rng, dtype=torch.float64, device=rng.device).cpu()
            return _at(weights, u)
        case "stratified":
            u = torch.rand(count, generator=rng, dtype=torch.float64, device=rng.device).cpu()
            return _at(weights, (torch.arange(count) + u) / count)
        case "systematic":
            u = torch.rand((), generator=rng, dtype=torch.float64, device=rng.device).cpu()
            return _at(weights, (torch.arange(count) + u) / count)
        case "residual":
            # Everyone has the whole part of their share for certain; the rest is drawn by the fractions.
            whole = (weights * count + 1e-12).floor()
            certain = [index for index, times in enumerate(whole.tolist()) for _ in range(int(times))]
            fractions = (weights * count - whole).clamp(min=0)
            if len(certain) == count or not fractions.sum() > 0:
                return certain
            u = torch.rand(count - len(certain), generator=rng, dtype=torch.float64, device=rng.device).cpu()
            return certain + _at(fractions / fractions.sum(), u)


def _at(weights: Tensor, u: Tensor) -> list[int]:
    """Where numbers (k,) from [0, 1) fall among the cumulative weights; never on a weight of 0."""
    cumulative = weights.cumsum(0)
    below = torch.minimum(u * cumulative[-1], cumulative[-1].nextafter(torch.zeros((), dtype=torch.float64)))
    return torch.searchsorted(cumulative, below, right=True).tolist()


def population(step: int, texts: Sequence[Text], effective: float, resampled: bool) -> Particles:
    """The weighed texts after a step, before any resampling."""
    return Particles(
        step=step,
        particles=tuple(
            Particle(
                id=index,
                parent=text.parent,
                text=text.wrote,
                log_weight=text.log_weight if math.isfinite(text.log_weight) else None,
                state=text.state,
            )
            for index, text in enumerate(texts)
        ),
        effective=effective,
        resampled=resampled,
    )


def conclude(run: Run, texts: Sequence[Text]) -> Iterator[Event]:
    """Step 6: the evidence, the posterior of the texts, and one text drawn from it."""
    log_weights = torch.tensor([text.log_weight for text in texts], dtype=torch.float64)
    evidence = float(log_weights.logsumexp(0)) - math.log(len(texts))
    shares = log_weights.softmax(0)
    drawn = texts[_at(shares, torch.rand(1, generator=run.rng, dtype=torch.float64, device=run.rng.device).cpu())[0]]
    merged: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        if text.state != "dead":
            merged.setdefault(spelling(run, text), []).append(index)
    yield Score(name="log evidence", value=evidence, parts={"particles": float(len(texts))})
    for sequence, (spelled, members) in enumerate(merged.items()):
        yield Score(
            name="posterior",
            value=float(shares[members].sum()),
            parts={"particles": float(len(members)), "log weight": float(log_weights[members].logsumexp(0))},
            chosen=spelling(run, drawn) == spelled,
            sequence=sequence,
            text=spelled,
        )
    yield from drawn.shown
    yield from run.commit(*drawn.placed)


def spelling(run: Run, text: Text) -> str:
    """What a particle has written; the end of the text spells nothing."""
    return run.model.decode([token for token in text.tokens if token not in run.model.eos_ids])


def _no_text(params: Params, last: bool) -> str:
    if last:
        return (
            "No text could end where the token limit asks it to, so none is left. Allow more tokens, or let texts be "
            "cut off at the limit."
        )
    return f"All {params.n_particles} texts came to a dead end. More particles, or another seed, may find a way."
