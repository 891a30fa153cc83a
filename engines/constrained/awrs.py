"""Adaptive weighted rejection sampling: allowed tokens without a mask, and how lucky each one was.

From "Fast Controlled Generation from Language Models with Adaptive Weighted Rejection Sampling", Lipkin et al.,
arXiv 2504.05410. A mask tests the whole vocabulary at every step. Here only what the model proposes is tested.

    1. p ← the model's distribution after the text so far, at the temperature
    2. propose tokens from p, each once; the first that the condition accepts is the next token
    3. a few more proposals give an unbiased estimate w of the probability that was allowed (`rejection`)
    4. append it, and repeat until the end

The condition may be a grammar, or a program that no mask is made for (`predicates`). The token has exactly the
distribution that masking gives it, whatever the estimator. So one text on its own is still not the model given that
its text is allowed: its weight, the product of all w, says by how much, and `awrs-smc` puts such weights to use.

A text that reaches the token limit is cut off there. The temperature belongs to p, and so to what is aimed at. Top-k
and top-p are not offered: they would make allowed tokens impossible, and quietly aim at another model. What is shown of
the exact allowed mass, where a mask can tell, is computed apart from the decode time and changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from engines.constrained.predicates import NoMask, Predicate, checker_for
from engines.constrained.rejection import Estimate, Estimator, estimate
from engines.events import Compiled, Event, Note, Score, Trials, Tried
from engines.grammars.constraint import Constraint, DeadEnd
from engines.grammars.gate import Gate
from engines.method import Paper, method
from engines.runner import Run
from engines.sampling import Constrainable, GrammarText, apply_temperature

PAPER = Paper(
    "Fast Controlled Generation from Language Models with Adaptive Weighted Rejection Sampling",
    "Lipkin et al.",
    2025,
    "2504.05410",
)
SHOWN = 64
"""Proposals named in an event."""
MULTIPLES = """\
{
  "type": "array",
  "items": {"type": "integer", "minimum": 0, "maximum": 99, "multipleOf": 3},
  "uniqueItems": true,
  "minItems": 3,
  "maxItems": 5
}
"""
"""For `json schema and validator`, so that Run shows something at once."""


class Rejecting(Constrainable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of methods that test tokens one by one."""

    predicate: Annotated[
        Predicate, Meta(description="A condition that a program checks, alone or on top of the constraint")
    ] = "no letter e"
    word: Annotated[str, Meta(max_length=32, description="words spell: the word, such as DECODE")] = "DECODE"
    grammar: GrammarText = MULTIPLES
    estimator: Annotated[
        Estimator, Meta(description="How the allowed mass is estimated; auto picks recursive or geometric")
    ] = "auto"
    max_accepts: Annotated[
        int, Meta(ge=2, le=16, description="geometric, wrs: acceptances waited for; more make the weight surer")
    ] = 2
    max_rejects: Annotated[
        int, Meta(ge=0, le=65536, description="geometric, wrs: refusals at most, from 2 on; 0 is no limit")
    ] = 0
    temperature: Annotated[
        float, Meta(ge=0.05, le=5, description="Part of the distribution that is aimed at; 1 is the model's own")
    ] = 1.0


def compiled(run: Run, params: Rejecting) -> tuple[Constraint, Compiled]:
    """The condition at the end of the run's text, and what it took. Compiling is not decode time."""
    start = time.perf_counter()
    with run.aside():
        condition = checker_for(params.predicate, params.word, params.constraint, params.grammar, run.model)
        Gate(condition, loud=False).follow(run.output)
    return condition, Compiled(
        engine=condition.engine,
        subject=params.predicate if params.predicate != "none" else params.constraint,
        status="ok",
        seconds=time.perf_counter() - start,
        sizes={"vocabulary": float(len(condition.vocabulary))},
    )


def target(logits: Tensor, temperature: float) -> Tensor:
    """The distribution that tokens are proposed from, float64 (vocabulary,)."""
    return apply_temperature(logits.double(), temperature).softmax(-1)


def propose(run: Run, params: Rejecting, p: Tensor, condition: Constraint) -> Estimate | None:
    """The next token of one text, with its weight; None when time ran out first."""

    def accept(token: int) -> bool:
        # Where little is allowed this is asked tens of thousands of times.
        if run.out_of_time:
            raise TimeoutError
        return condition.allows(token)

    try:
        return estimate(
            params.estimator,
            p,
            accept,
            run.rng,
            max_accepts=params.max_accepts,
            max_rejects=params.max_rejects and max(2, params.max_rejects),
        )
    except TimeoutError:
        return None


def trials(run: Run, found: Estimate, p: Tensor, condition: Constraint, position: int, particle: int = 0) -> Trials:
    """What was tested, and beside it the exact allowed mass where a mask can tell."""
    with run.aside():
        try:
            allowed = torch.from_numpy(condition.vocabulary.flags(condition.mask()))
            exact = float(p[allowed.to(p.device)].sum())
        except NoMask:
            exact = None
    return Trials(
        position=position,
        particle=particle,
        tried=tuple(
            Tried(run.model.token(trial.token), min(1.0, float(trial.p)), trial.accepted, trial.round)
            for trial in found.trials[:SHOWN]
        ),
        tests=found.tests,
        weight=float(found.weight),
        estimator=found.estimator,
        refused_mass=min(1.0, float(found.refused_mass)),
        exact_mass=None if exact is None else min(1.0, exact),
    )


@method(
    "awrs",
    title="AWRS",
    family="constrained",
    paper=PAPER,
    params=Rejecting,
    idea="Proposes tokens and tests only those, instead of masking the whole vocabulary; the refusals tell how much "
    "probability was allowed.",
    look_at="The dartboard: how few tokens are tested at each step, and what weight the refusals give.",
    shines=("poem-sea", "story-robot"),
    loses=("qa-capital",),
    pictures=("dartboard", "token-stream", "confidence", "budget"),
)
def awrs(run: Run, params: Rejecting) -> Iterator[Event]:
    condition, ready = compiled(run, params)
    yield ready
    log_weight, tests, steps = 0.0, 0, 0
    while not run.finished:
        logits = run.next_logits()
        p = target(logits, params.temperature)
        found = propose(run, params, p, condition)
        yield run.candidates(logits)
        if found is None:
            break
        yield trials(run, found, p, condition, run.position)
        tests, steps = tests + found.tests, steps + 1
        if found.token is None:
            raise DeadEnd
        condition.commit(found.token)
        log_weight += math.log(found.weight)
        yield from run.commit(run.placed(found.token, logits=logits, final=float(p[found.token])))
    if steps:
        yield Score(name="log weight", value=log_weight, parts={"tokens": float(steps)}, sequence=0, text=run.text())
        yield tested(tests, steps, run.model.vocabulary_size)


def tested(tests: int, choices: int, vocabulary: int) -> Note:
    """How many tokens were tested, beside a mask's count."""
    share = 100 * tests / (choices * vocabulary)
    return Note(
        text=f"{tests:,} tokens were tested for {choices:,} choices, {tests / choices:.1f} each; masks would have "
        f"decided {choices * vocabulary:,}. That is {share:.3g} %."
    )
