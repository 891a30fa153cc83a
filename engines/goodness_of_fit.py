"""Whether a sampling method leaves the model's distribution as it is: a chi-square test on the tiny twin.

A lossless method that samples promises the distribution of plain sampling, not its tokens. Real models have too many
continuations to compare frequencies with probabilities; the twin (`engines/models/twin.py`) has few enough:

    1. exact: walk through every continuation y of n tokens; p(y) = Π p(y_i | prompt, y_<i), the twin's own
       conditional probabilities after the method's penalties, temperature and filters, each from a pass of its own
    2. observed: run the method itself N times, each with a seed of its own; count the continuations
    3. compare the two by `engines/chi_square.py`

A method whose P is below 0.001 differs. One in a thousand exact methods does too, by chance. What agrees is not
thereby proven exact: a bias that is small against N draws stays unseen.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from engines.chi_square import Fit, fit
from engines.events import Finished, Verdict
from engines.method import find
from engines.models.causal import CausalModel
from engines.models.twin import twin
from engines.runner import run
from engines.sampling import Sampler

DRAWS = 2000
LENGTH = 4
PASSES = 25
"""Passes of the enumeration between two values, some milliseconds of work."""
PROMPT = "addddcadd"
"""Its ending occurs before, and what follows there is likely but not certain here: a guess to accept or to refuse."""

Continuation = tuple[int, ...]
Law = dict[Continuation, float]
"""Probability of every possible continuation."""


def distribution_test(
    method_id: str,
    params: Mapping[str, Any] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    *,
    length: int = LENGTH,
    every: int = 5,
) -> Iterator[Fit]:
    """Runs the method `draws` times on the twin; yields the fit so far every few milliseconds, the last one whole.

    Args:
        method_id, params: as for `engines.run`.
        draws: continuations to draw; more see smaller biases.
        seed: draw i has the seed `seed · draws + i`.
        length: tokens per continuation.
        every: draws between two values, some milliseconds of work.

    Raises:
        DecodingError: the method or a parameter is not known.
    """
    settings = find(method_id).validate(params)
    model = twin()
    law: Law = {}
    for count, _ in enumerate(_enumerate(model, PROMPT, settings, length, law), 1):
        if count % PASSES == 0:
            yield Fit.none(draws)
    counts: Counter[Continuation] = Counter()
    accepted = tested = 0
    for draw in range(1, draws + 1):
        for event in run(
            model, method_id, PROMPT, params=params, raw=True, seed=seed * draws + draw - 1, max_new_tokens=length
        ):
            if isinstance(event, Verdict):
                outcomes = [node.outcome for node in event.nodes]
                accepted += outcomes.count("accepted")
                tested += len(outcomes) - outcomes.count("untested")
            elif isinstance(event, Finished):
                counts[event.token_ids] += 1
        if draw % every == 0 or draw == draws:
            yield fit(counts, law, wanted=draws, accepted=accepted, tested=tested)


def exact_law(model: CausalModel, prompt: str, settings: Any, length: int) -> Law:
    """The probability of every continuation of at most `length` tokens; those that an end of text ends are shorter."""
    law: Law = {}
    for _ in _enumerate(model, prompt, settings, length, law):
        pass
    return law


def _enumerate(model: CausalModel, prompt: str, settings: Any, length: int, law: Law) -> Iterator[None]:
    """Fills `law`, one pass of the model per step."""
    ids = model.encode(prompt, raw=True)
    open: list[tuple[Continuation, float, Sampler]] = [((), 1.0, Sampler(settings, model.token))]
    while open:
        text, p, sampler = open.pop()
        if len(text) == length or (text and text[-1] in model.eos_ids):
            law[text] = p
            continue
        logits = model.start().extend([*ids, *text], last=True)[-1]
        probabilities = sampler.distribution(logits, ids, text).probabilities.double()
        for token, chance in enumerate((probabilities / probabilities.sum()).tolist()):
            if chance > 0:
                further = copy.copy(sampler)  # mirostat's threshold depends on the way here
                further.learn(token, logits)
                open.append(((*text, token), p * chance, further))
        yield
