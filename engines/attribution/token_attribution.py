"""Why this token and not that one? All attributions to the words of a prompt, side by side, and how far to trust each.

Explained is the next token y against a foil y', by LD = logit(y) − logit(y') after x_1 … x_n, with embeddings e_i:

    gradient x input      e_i · ∂LD/∂e_i: "Not Just a Black Box", Shrikumar et al., arXiv 1605.01713
    integrated gradients  e_i · mean of ∂LD/∂e_i on the way from 0 to e, at midpoints: "Axiomatic Attribution for Deep
                          Networks", Sundararajan et al., arXiv 1703.01365
    relp, relp-ah         e_i · c_i, what flows back under the rules of RelP (arXiv 2508.21258), without and with a
                          frozen attention pattern. With it, and in a model without biases, they sum to LD
    attention             the last token's attention to x_i, its mean over all heads and layers: the classical picture,
                          and no explanation: "Attention is not Explanation", Jain and Wallace, arXiv 1902.10186
    leave-one-out         LD(x) − LD(x without x_i), from logits alone: "Understanding Neural Networks through
                          Representation Erasure", Li et al., arXiv 1612.08220
    reagent               `engines.attribution.reagent`, arXiv 2402.00794, a few steps of it
    random                knows nothing

Attention and ReAGent do not know the foil: they speak of y alone. Then every answer is tried:

    1. s ← its scores as importances that sum to 1: their sizes, shared out
    2. Soft-NS, Soft-NC of s, over `samples` masks, for the same masks everywhere (`engines.attribution.
       soft_faithfulness`); reported is log(value / mean of it for `CHANCES` random scores), 0 for chance
    3. the deletion curve: P(y) as the embeddings of the tokens go to 0, those of the highest signed score first

What differs: special tokens are neither scored nor masked nor deleted, because models break without them. A metric
below `LEAST` counts as `LEAST` in the logarithm, which would be infinite otherwise: importances of a long text leave so
little of each word that Soft-NS is often 0. In a long text the curve has `MOST_POINTS` points instead of one per token.
Leaving a token out moves all that follow one place to the left, which is part of its effect.

Layer-wise relevance propagation is patented; the patent's holder allows personal and scientific use.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from engines.attribution import reagent
from engines.attribution.integrated_gradients import points
from engines.attribution.questions import LONGEST, BadQuestion, Question, check_memory, named
from engines.attribution.relp import PATENT, usable
from engines.attribution.soft_faithfulness import (
    ROWS,
    Distance,
    Faithfulness,
    deletion_curve,
    log_ratio,
    random_scores,
    shares,
    soft_faithfulness,
)
from engines.errors import shown
from engines.events import Attribution, Curve, Event, Note, Score
from engines.method import Need, Paper, method
from engines.models.rules import GRADIENT, RELP, RELP_AH, Rules
from engines.models.white_box import Edit, Trace, WhiteBox
from engines.runner import Run

KINDS: tuple[Distance, ...] = ("repo", "Hellinger")
METRICS = {"Soft-NS": "sufficiency", "Soft-NC": "comprehensiveness"}
CHANCE = "random"
CHANCES = 4
"""Random attributions that stand for chance."""
LEAST = 1e-3
"""The smallest value of a metric that a logarithm is taken of."""
MOST_POINTS = 16
"""Of a deletion curve, beside the one where nothing is deleted."""
REAGENT_STEPS = 12


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target: Annotated[
        str, Meta(max_length=60, description="The token to explain, as text; empty: the one the model would write next")
    ] = ""
    foil: Annotated[str, Meta(max_length=60, description="What it is set against; empty: the runner-up")] = ""
    gradient: Annotated[bool, Meta(description="Gradient x input")] = True
    integrated: Annotated[bool, Meta(description="Integrated gradients, from an empty input to the prompt")] = True
    relp: Annotated[bool, Meta(description=f"Relevance under the rules of RelP. {PATENT}")] = True
    relp_ah: Annotated[bool, Meta(description="Relevance with attention patterns frozen as well")] = False
    attention: Annotated[bool, Meta(description="What the last token attends to")] = True
    leave_one_out: Annotated[bool, Meta(description="The prompt without each of its tokens, run again")] = True
    reagent: Annotated[bool, Meta(description="ReAGent, a few steps")] = True
    steps: Annotated[int, Meta(ge=1, le=30, description="Points of integrated gradients")] = 10
    samples: Annotated[int, Meta(ge=1, le=64, description="Soft masks of which the metrics are the mean")] = 8


class Prompt:
    """A text whose next token is explained, and passes over variants of it.

    n tokens are free to be scored and left out; the others are special and stay.
    """

    def __init__(self, run: Run, box: WhiteBox, free: Tensor, target: int, foil: int) -> None:
        self._run, self._box = run, box
        self.target, self.foil = target, foil
        self.free = free
        """Their positions, (n,)."""
        self._ids = torch.tensor([run.sequence])
        plain = self.read()
        assert plain.embedding is not None
        self.difference = float(self.lead(plain.logits)[0])
        """LD."""
        self.p = float(plain.logits[0].softmax(-1)[target])
        self.embeddings = plain.embedding[0, free]
        """(n, width)"""

    def lead(self, logits: Tensor) -> Tensor:
        """LD by row, of logits (rows, vocabulary)."""
        return logits[:, self.target] - logits[:, self.foil]

    def read(
        self,
        edit: Edit | None = None,
        *,
        rows: int = 1,
        keep: Sequence[str] = ("sites",),
        rules: Rules = GRADIENT,
        gradients: bool = False,
    ) -> Trace:
        """A pass over the prompt, as often as asked side by side, with its embeddings (rows, tokens, width) edited."""
        edits: Mapping[tuple[str, int], Edit] = {("embedding", 0): edit} if edit else {}
        ids = self._ids.expand(rows, -1)
        return self._box.read(ids, keep=keep, rules=rules, gradients=gradients, edits=edits)

    def predict(self, embeddings: Tensor) -> Tensor:
        """Next-token probabilities (rows, vocabulary) with other embeddings of the free tokens (rows, n, width)."""

        def edit(value: Tensor) -> Tensor:
            value = value.clone()
            value[:, self.free] = embeddings
            return value

        return self.read(edit, rows=len(embeddings), keep=()).logits.softmax(-1)

    def relevance(self, rules: Rules) -> Tensor:
        """Embedding times coefficient, (n,)."""
        trace = self.read(rules=rules, gradients=True)
        assert trace.embedding is not None
        (coefficient,) = self._box.backward(self.lead(trace.logits).sum(), [trace.embedding])
        return (self.embeddings * coefficient[0, self.free]).sum(-1)

    def integrated(self, steps: int) -> Tensor:
        """Embedding times mean gradient on the way from embeddings of 0, (n,)."""
        total = torch.zeros_like(self.embeddings)
        for at in torch.tensor(points(steps, "midpoint"), device=self._box.device).split(ROWS):
            part = torch.ones((len(at), self._ids.shape[1], 1), device=self._box.device)
            part[:, self.free] = at[:, None, None]
            trace = self.read(lambda value, part=part: value * part, rows=len(at), gradients=True)  # type: ignore[misc]
            assert trace.embedding is not None
            (gradient,) = self._box.backward(self.lead(trace.logits).sum(), [trace.embedding])
            total += gradient[:, self.free].sum(0)
        return (self.embeddings * total / steps).sum(-1)

    def attention(self) -> Tensor:
        """The last token's attention, its mean over heads and layers, (n,)."""
        patterns = self.read(keep=("patterns",)).patterns
        return torch.stack([pattern[0, :, -1].mean(0) for pattern in patterns]).mean(0)[self.free]

    def leave_one_out(self) -> Tensor:
        """What LD loses when a token is taken out of the text, (n,). What comes before the first is read once."""
        sequence, free = self._run.sequence, self.free.tolist()
        begin = max(0, free[0] - 1)
        state = self._run.model.start(self._run.ledger, self._run.clock.now)
        if begin:
            state.extend(sequence[:begin], last=True)
        left: list[Tensor] = []
        for start in range(0, len(free), ROWS):
            rows = [sequence[begin:place] + sequence[place + 1 :] for place in free[start : start + ROWS]]
            left.append(self.lead(state.fork(len(rows)).extend(rows, last=True)[:, -1]))
        return self.difference - torch.cat(left)

    def reagent(self, context: reagent.Context) -> Tensor:
        """ReAGent's importances after a few steps, (n,)."""
        params = reagent.Params(max_steps=REAGENT_STEPS)
        substitutes = context.substitutes(params.sampler)
        steps = reagent.search(
            context.look, context.tokens, context.fixed, self.target, self.p, substitutes, self._run.rng, params
        )
        *_, last = itertools.takewhile(lambda step: not step.number or not self._run.out_of_time, steps)
        return reagent.answer(last)[self.free]


def counted(tokens: int) -> list[int]:
    """How many tokens are deleted at each point of the curve: from none to all, evenly."""
    many = min(tokens, MOST_POINTS)
    return [round(point * tokens / many) for point in range(many + 1)]


def against_chance(value: float, chance: Sequence[float]) -> float:
    """log(value / mean of chance), both at least `LEAST`; nan where the metric is undefined."""
    floored = [max(one, LEAST) if not math.isnan(one) else one for one in (value, *chance)]
    return log_ratio(floored[:1], floored[1:])


def foiled(run: Run, params: Params, logits: Tensor) -> tuple[int, int]:
    """The target's id and the foil's. Raises `BadQuestion` when either is no single token, or both are the same."""
    target, foil = named(run.model, params.target, "target"), named(run.model, params.foil, "foil")
    best = logits.topk(2).indices.tolist()
    if target is None:
        target = next(id for id in best if id != foil)
    if foil is None:
        foil = next(id for id in best if id != target)
    if target == foil:
        raise BadQuestion(
            f"Target and foil are the same token, {shown(run.model.decode([target]))}. Name two different ones."
        )
    return target, foil


def asked(run: Run, params: Params) -> tuple[reagent.Context, int, int]:
    """What ReAGent reads of the text, the target and the foil. Raises `BadQuestion` when they cannot be explained."""
    length = len(run.sequence)
    if length > LONGEST:
        raise BadQuestion(
            f"The text is {length:,} tokens long, and words are scored in texts of at most {LONGEST}. Explain a "
            "token after a shorter prompt, or an earlier token."
        )
    ids = torch.tensor([run.sequence]).expand(ROWS, -1)
    check_memory(run.model, Question("", ids, ids, ids[:, 0], ids[:, 0]))
    context = reagent.Context(run)
    return context, *foiled(run, params, context.logits[-1])


def answers(
    prompt: Prompt, box: WhiteBox, context: reagent.Context, params: Params, length: int
) -> Iterator[tuple[str, Callable[[], Tensor] | str]]:
    """The methods that were asked for, by id: each with what computes its scores (n,), or why it cannot."""
    rules_known = bool(box.anatomy.plan)
    unknown = "how this network is built is not known here"
    asked: tuple[tuple[bool, str, Callable[[], Tensor] | str], ...] = (
        (params.gradient, "gradient-x-input", lambda: prompt.relevance(GRADIENT)),
        (params.integrated, "integrated-gradients", lambda: prompt.integrated(params.steps)),
        (params.relp, "relp", (lambda: prompt.relevance(usable(box, RELP)[0])) if rules_known else unknown),
        (params.relp_ah, "relp-ah", (lambda: prompt.relevance(usable(box, RELP_AH)[0])) if rules_known else unknown),
        (params.attention, "attention", prompt.attention if rules_known else unknown),
        (
            params.leave_one_out,
            "leave-one-out",
            prompt.leave_one_out if length > 1 else "without its only token there is no text",
        ),
        (params.reagent, "reagent", lambda: prompt.reagent(context)),
    )
    for wanted, how, compute in asked:
        if wanted:
            yield how, compute


@method(
    "token-attribution",
    title="Token attribution",
    family="attribution",
    needs=Need.LOGITS | Need.GRADIENTS | Need.BATCH | Need.ROLLBACK,
    paper=Paper(
        "Incorporating Attribution Importance for Improving Faithfulness Metrics",
        "Zhao and Aletras",
        2023,
        "2305.10496",
    ),
    params=Params,
    idea="Which words of the prompt made the model say this and not that? Asks all methods that claim to know, and "
    "then puts each to the test: hide the words by their importance, and see what the model still says.",
    look_at="Do they agree? And which of them does better than random colours, in the table below.",
    shines=("qa-capital",),
    pictures=("token-importance", "deletion"),
)
def token_attribution(run: Run, params: Params) -> Iterator[Event]:
    context, target, foil = asked(run, params)
    yield run.candidates(context.logits[-1])
    box = WhiteBox(run.model.network, run.ledger, run.clock.now)
    prompt = Prompt(run, box, (~context.fixed).nonzero()[:, 0], target, foil)
    yield from run.settle()
    spell, count = run.model.token, len(prompt.free)

    def attribution(how: str, scores: Tensor) -> Attribution:
        everywhere = torch.zeros(len(run.sequence), device=scores.device)
        everywhere[prompt.free] = scores
        knows_foil = how not in ("attention", "reagent", CHANCE)
        return Attribution(
            how=how,
            position=run.position,
            target=spell(target),
            foil=spell(foil) if knows_foil else None,
            context=tuple(map(spell, run.sequence)),
            scores=tuple(everywhere.tolist()),
            before=prompt.p,
        )

    # Drawn first, so that they do not depend on which methods are asked for.
    seed = int(torch.randint(2**62, (), generator=run.rng, device=run.rng.device))
    chances = [random_scores(count, run.rng) for _ in range(CHANCES)]
    found = {}
    for how, compute in answers(prompt, box, context, params, len(run.sequence)):
        if isinstance(compute, str):
            yield Note(text=f"{how.replace('-', ' ').capitalize()} is left out: {compute}.")
            continue
        found[how] = compute()
        yield from run.settle()
        yield attribution(how, found[how])
        if run.finished:
            return
    found[CHANCE] = chances[0]
    yield attribution(CHANCE, chances[0])

    def tried(scores: Tensor) -> dict[Distance, Faithfulness]:
        """By the same masks for all of them."""
        masks = torch.Generator(device=prompt.embeddings.device).manual_seed(seed)
        return soft_faithfulness(prompt.predict, prompt.embeddings, scores, masks, kinds=KINDS, draws=params.samples)

    by_chance = []
    for scores in chances:
        by_chance.append(tried(scores))
        yield from run.settle()
        if run.finished:
            return
    yield Note(
        text=f"Soft-NS and Soft-NC over {count} tokens, as the logarithm of the ratio to random scores: 0 is chance. "
        "They depend on that number, so compare within this text alone."
    )
    counts = counted(count)
    for how, scores in found.items():
        value = by_chance[0] if how == CHANCE else tried(shares(scores))
        yield from run.settle()
        yield from judged(how, value, by_chance)
        curve = deletion_curve(prompt.predict, prompt.embeddings, scores, target, counts)
        yield from run.settle()
        yield Curve(
            name=f"deletion, {how}",
            x_name="tokens deleted",
            y_name="probability of the target",
            x=tuple(map(float, counts)),
            y=tuple(curve),
        )
        if run.finished:
            return


def judged(
    how: str, value: Mapping[Distance, Faithfulness], by_chance: Sequence[Mapping[Distance, Faithfulness]]
) -> Iterator[Score]:
    """The two metrics of one method; none where they are undefined."""
    for name, field in METRICS.items():
        parts: dict[str, float] = {}
        for kind in KINDS:
            mine, chance = getattr(value[kind], field), [getattr(one[kind], field) for one in by_chance]
            ratio = against_chance(mine, chance)
            if math.isnan(ratio) or math.isnan(mine):
                break
            parts |= {kind: mine, f"{kind}, log ratio": ratio}
        else:
            yield Score(name=name, value=parts["repo, log ratio"], parts=parts, text=how)
