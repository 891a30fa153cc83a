"""ReAGent: which tokens of the context does a prediction hang on? Replace some and see, again and again.

"ReAGent: A Model-agnostic Feature Attribution Method for Generative Language Models", Zhao and Shan,
arXiv 2402.00794; code: casszhao/ReAGent, also in inseq-team/inseq.

Of the model it asks for nothing but the next token's probabilities. Context x_1 … x_n, explained token y:

    1. p0 ← P(y | x). B probes, each with scores S ~ U(0, 1), one per token; importance s ← softmax(S)
    2. at most `max_steps` times, for every probe that is still searching:
       a. R ← each position with chance ρ; x~ ← x with substitutes for the tokens in R
       b. p~ ← P(y | x~), d ← p0 - p~
       c. δ_i ← d if i ∈ R else -d; S_i ← S_i + logit((δ_i + 1) / 2)
       d. a probe that has settled keeps its S
       e. keep the `keep` most important tokens, replace all others anew; the probe settles when y is among the
          model's `top_k` most probable tokens then
    3. the answer is the mean of s over the settled probes; over all of them if none has

A step is two passes, over the probes side by side. logit((δ + 1) / 2) is 2 artanh δ, which is how it is computed;
|δ| is held below 1, where it would be infinite. A context without one changed token is not read again: d is 0.

What differs from the published code: special tokens (chat markers, the beginning and the end of a text) are never
replaced and have no importance, because models break without them. Substitutes come from the model itself (drawn;
the published sampler of that name takes the most probable token, and its scripts draw from words of the same part of
speech instead, which needs a tagger). Tokens that are as probable as y count as more probable in e. In a long context
only the last 256 tokens are explained; what stands before them stays. The abstract speaks of predictions that differ;
like the code, this looks at the probability of y alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from engines.attribution.substitutes import OwnModel, Substitutes, Uniform, UnigramBucket
from engines.errors import BadParameter, DecodingError
from engines.events import Attribution, Curve, Event, Note, Swap
from engines.method import Need, Paper, method
from engines.runner import Run

LONGEST = 256
"""Context tokens that are explained, the last ones."""
BELOW_ONE = 1 - 1e-6

Source = Literal["own model", "unigram bucket", "uniform"]


class NothingToReplace(DecodingError):
    """The context has no token that could be replaced."""


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target: Annotated[
        str, Meta(max_length=60, description="The token to explain, as text; empty: the one the model would write next")
    ] = ""
    rho: Annotated[float, Meta(ge=0, le=1, description="Share of the context that is replaced at a time")] = 0.3
    keep: Annotated[int, Meta(ge=1, le=64, description="Tokens that have to be enough to predict the target")] = 3
    top_k: Annotated[int, Meta(ge=1, le=100, description="Predicted: among so many of the most probable tokens")] = 3
    probes: Annotated[int, Meta(ge=1, le=10, description="Searches side by side, of which the mean is taken")] = 4
    max_steps: Annotated[int, Meta(ge=1, le=3000, description="Steps at most")] = 60
    sampler: Annotated[
        Source,
        Meta(
            description="Substitutes: what the model would have written there, a token of similar look and frequency, "
            "or any token"
        ),
    ] = "own model"


@dataclass(frozen=True, slots=True)
class Step:
    """Where the search stands. Tensors of B probes and n tokens are (B, n)."""

    number: int
    tested: bool
    """Whether the stopping rule has been tried in this step."""
    S: Tensor
    replaced: Tensor
    texts: Tensor
    """x~, token ids."""
    searching: Tensor
    """Which probes took part (B,)."""
    after: Tensor
    """p~ (B,)."""
    settled: Tensor
    """(B,)"""

    @property
    def importance(self) -> Tensor:
        """s, (B, n); every row sums to 1."""
        return self.S.softmax(-1)


def updated(S: Tensor, replaced: Tensor, d: Tensor) -> Tensor:
    """Step c: scores S (B, n) after tokens were `replaced` (B, n) and the probability fell by d (B,)."""
    delta = torch.where(replaced, d[:, None], -d[:, None]).clamp(-BELOW_ONE, BELOW_ONE)
    return S + 2 * delta.atanh()


def best(S: Tensor, count: int) -> Tensor:
    """Where the `count` highest scores of every row are (B, n); of equal ones the first."""
    places = S.argsort(dim=-1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(S, dtype=torch.bool).scatter(1, places, True)


def among_top(logits: Tensor, target: int, top_k: int) -> Tensor:
    """For every row of logits (rows, vocabulary) whether the target is among the `top_k` greatest."""
    return (logits >= logits[:, [target]]).sum(-1) <= top_k


def search(
    look: Callable[[Tensor], Tensor],
    context: Tensor,
    fixed: Tensor,
    target: int,
    p0: float,
    substitutes: Substitutes,
    rng: torch.Generator,
    params: Params,
) -> Iterator[Step]:
    """The probes, after each of the two passes of every step, and before the first one.

    Args:
        look: next-token logits (rows, vocabulary) of texts (rows, n).
        context: token ids (n,); where `fixed` (n,) they are never replaced.
    """
    shape = (params.probes, len(context))
    original = context.expand(shape)

    def chance() -> Tensor:
        return torch.rand(shape, generator=rng, device=context.device)

    S = chance().masked_fill(fixed, -torch.inf)
    settled = torch.zeros(params.probes, dtype=torch.bool, device=context.device)
    before = torch.full_like(S[:, 0], p0)
    yield Step(0, True, S, torch.zeros_like(S, dtype=torch.bool), original, ~settled, before, settled)
    for number in range(1, params.max_steps + 1):
        searching = ~settled
        replaced = (chance() < params.rho) & ~fixed
        texts = torch.where(replaced, substitutes(chance()), original)
        after = before.clone()
        changed = searching & (texts != original).any(-1)
        if changed.any():
            after[changed] = look(texts[changed]).softmax(-1)[:, target]
        # Probes that have settled were not read: their d is 0, and they keep their S.
        S = updated(S, replaced, before - after)
        yield Step(number, False, S, replaced, texts, searching, after, settled)
        essence = torch.where(best(S, params.keep) | fixed, original, substitutes(chance()))
        settled = settled.clone()
        settled[searching] = among_top(look(essence[searching]), target, params.top_k)
        yield Step(number, True, S, replaced, texts, searching, after, settled)
        if settled.all():
            return


def answer(step: Step) -> Tensor:
    """Step 3: the mean importance (n,) over the settled probes, over all if none has settled."""
    return step.importance[step.settled if step.settled.any() else slice(None)].mean(0)


class Context:
    """The text before the target, as far as it is explained, and the passes over its variants."""

    def __init__(self, run: Run) -> None:
        sequence = run.sequence
        self._run = run
        begin = max(0, len(sequence) - LONGEST)
        device = run.model.device
        self.tokens = torch.tensor(sequence[begin:], device=device)
        never = run.model.vocabulary.special | run.model.vocabulary.ends
        self.fixed = torch.tensor([id in never for id in sequence[begin:]], device=device)
        if self.fixed.all():
            raise NothingToReplace(
                "The prompt has no token that could be replaced: special tokens always stay. Give it some text."
            )
        lead = int((~self.fixed).nonzero()[0])
        self._first = begin + lead
        """Where the first token stands that may be replaced. What comes before it is cached once for all passes."""
        self.logits = self._read(begin)
        """The model's for every place of the context and the one after it, (n + 1, vocabulary)."""

    def _read(self, begin: int) -> Tensor:
        state, sequence = self._run.state, self._run.sequence
        start = max(0, begin - 1)
        state.rollback(state.length - start)
        logits = state.extend(sequence[start:])
        state.rollback(state.length - self._first)
        # A cache that was emptied may still have the form of its one row; a new one has none.
        self._beginning = state if self._first else self._run.model.start(self._run.ledger, self._run.clock.now)
        # The first token of a text has nothing before it that could predict it.
        return logits if begin else torch.cat((torch.zeros_like(logits[:1]), logits))

    def look(self, texts: Tensor) -> Tensor:
        """The logits (rows, vocabulary) after variants of the context (rows, n)."""
        tail = texts[:, len(self.tokens) - (len(self._run.sequence) - self._first) :]
        return self._beginning.fork(len(tail)).extend(tail.tolist(), last=True)[:, -1]

    def substitutes(self, source: Source) -> Substitutes:
        """Where substitutes come from."""
        vocabulary = self._run.model.vocabulary
        ids = torch.from_numpy(vocabulary.text_ids).sort().values.to(self.tokens.device)
        if source == "own model":
            return OwnModel(self.logits[:-1], self.tokens, ids)
        if source == "uniform":
            return Uniform(self.tokens, ids)
        return UnigramBucket(self.tokens, ids.tolist(), vocabulary.bytes_of)


def find_target(run: Run, text: str, logits: Tensor) -> tuple[int, str]:
    """The id of the token to explain and what is to be said about the choice, maybe nothing.

    Raises `BadParameter` when the text is no token's.
    """
    if not text:
        return int(logits.argmax()), ""
    ids = run.model.vocabulary.tokenise(text)
    if not ids:
        raise BadParameter("target has no token in this model's vocabulary. Give another text, or none.")
    if len(ids) > 1:
        return ids[0], f"{_quoted(text)} is {len(ids)} tokens. The first, {_said(run, ids[0])}, is explained."
    spaced = run.model.vocabulary.tokenise(" " + text)
    if len(spaced) == 1 and logits[spaced[0]] > logits[ids[0]]:
        p = float(logits.softmax(-1)[spaced[0]])
        return ids[0], f"{_said(run, spaced[0])}, with a space before it, would be more probable here ({p:.2g})."
    return ids[0], ""


def _quoted(text: str) -> str:
    return f"“{text.replace(chr(10), '⏎')}”"


def _said(run: Run, id: int) -> str:
    token = run.model.token(id)
    return f"⟦{token.hex}⟧" if token.hex else _quoted(token.text)


@method(
    "reagent",
    title="ReAGent",
    family="attribution",
    needs=Need.LOGITS | Need.BATCH | Need.ROLLBACK,
    paper=Paper(
        "ReAGent: A Model-agnostic Feature Attribution Method for Generative Language Models",
        "Zhao and Shan",
        2024,
        "2402.00794",
    ),
    params=Params,
    idea="Which words of the context does the next token hang on? Replaces some of them by others, watches the token's "
    "probability fall, and gives the credit to what was replaced, until a few words are enough to predict it.",
    look_at="The colours of the context: chance at first, and with every swap they gather on fewer words.",
    pictures=("token-importance", "timeline"),
)
def reagent(run: Run, params: Params) -> Iterator[Event]:
    context = Context(run)
    logits = context.logits[-1]
    yield run.candidates(logits)
    target, remark = find_target(run, params.target, logits)
    p0 = float(logits.softmax(-1)[target])
    yield from _opening(run, params, context, target, p0, remark)
    shown = torch.empty(0)
    last: Step | None = None
    substitutes = context.substitutes(params.sampler)
    steps = search(context.look, context.tokens, context.fixed, target, p0, substitutes, run.rng, params)
    for last in steps:
        if last.tested:
            importance = last.importance.mean(0)
            yield _attribution(run, context, last, importance, target, p0)
            if last.number:
                yield _change(last.number, float((importance - shown).abs().max()))
            shown = importance
        yield from run.settle()
        if run.out_of_time:
            break
    assert last is not None
    yield from _closing(params, last)
    yield _attribution(run, context, last, answer(last), target, p0, final=True)


def _opening(run: Run, params: Params, context: Context, target: int, p0: float, remark: str) -> Iterator[Event]:
    if remark:
        yield Note(text=remark)
    left_out = len(run.sequence) - len(context.tokens)
    if left_out:
        yield Note(text=f"Only the last {LONGEST} tokens are explained; the {left_out:,} before them stay as they are.")
    rank = int((context.logits[-1] > context.logits[-1][target]).sum()) + 1
    if rank > params.top_k:
        yield Note(
            text=f"{_said(run, target)} is only the model's number {rank:,} here, with a probability of {p0:.2g}. A "
            f"probe settles when it is among the first {params.top_k}, so perhaps none will. Choose a more probable "
            "token, or a larger top_k."
        )
    free = int((~context.fixed).sum())
    if free <= params.keep:
        yield Note(
            text=f"Only {free} {'token' if free == 1 else 'tokens'} can be replaced, and {params.keep} are kept: the "
            "stopping rule is met at once and the scores say little. Choose a smaller keep, or a longer prompt."
        )


def _closing(params: Params, last: Step) -> Iterator[Event]:
    settled, steps = int(last.settled.sum()), f"{last.number} {'step' if last.number == 1 else 'steps'}"
    if settled == params.probes:
        yield Note(
            text=f"All {params.probes} probes settled within {steps}." if settled > 1 else f"Settled in {steps}."
        )
    elif settled:
        yield Note(
            text=f"{settled} of {params.probes} probes settled within {steps}; the answer is their mean. The others "
            "had not found a few tokens that are enough."
        )
    else:
        yield Note(
            text=f"No probe settled within {steps}, so the answer is the mean of all {params.probes}, and less "
            "certain. More steps, a larger keep or a larger top_k may help."
        )


def _attribution(
    run: Run, context: Context, step: Step, scores: Tensor, target: int, p0: float, *, final: bool = False
) -> Attribution:
    """The state of a step. Shown are the swaps of the first probe that took part in it."""
    one = int(step.searching.int().argmax())
    begun = step.number > 0 and not final
    places = step.replaced[one].nonzero()[:, 0].tolist() if begun else []
    return Attribution(
        how="reagent",
        position=run.position,
        target=run.model.token(target),
        foil=None,
        context=tuple(map(run.model.token, context.tokens.tolist())),
        scores=tuple(scores.tolist()),
        step=step.number,
        swaps=tuple(Swap(place, run.model.token(int(step.texts[one, place]))) for place in places),
        before=p0,
        after=float(step.after[one]) if begun else None,
        settled=int(step.settled.sum()),
        probes=len(step.settled),
    )


def _change(step: int, change: float) -> Curve:
    return Curve(name="change", x_name="step", y_name="largest change of an importance", x=(float(step),), y=(change,))
