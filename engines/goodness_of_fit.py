"""Whether a sampling method leaves the model's distribution as it is: a chi-square test on the tiny twin.

A lossless method that samples promises the distribution of plain sampling, not its tokens. Real models have too many
continuations to compare frequencies with probabilities; the twin (`engines/models/twin.py`) has few enough:

    1. exact: walk through every continuation y of n tokens; p(y) = Π p(y_i | prompt, y_<i), the twin's own
       conditional probabilities after the method's penalties, temperature and filters, each from a pass of its own
    2. observed: run the method itself N times, each with a seed of its own; count the continuations
    3. pool those with N·p(y) < 5 into one cell; χ² = Σ (observed - expected)² / expected over k cells
    4. P = probability that an exact method shows a χ² at least this large, with k - 1 degrees of freedom

A method whose P is below `LEVEL` differs. One in a thousand exact methods does too, by chance. A continuation that
the exact distribution rules out settles it at once. What agrees is not thereby proven exact: a bias that is small
against N draws stays unseen.

Pearson 1900; the rule of five is Cochran 1954.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import torch

from engines.events import Finished, Verdict
from engines.method import find
from engines.models.causal import CausalModel
from engines.models.twin import twin
from engines.runner import run
from engines.sampling import Sampler

LEVEL = 0.001
DRAWS = 2000
LENGTH = 4
PROMPT = "addddcadd"
"""Its ending occurs before, and what follows there is likely but not certain here: a guess to accept or to refuse."""
FEWEST_EXPECTED = 5.0

Continuation = tuple[int, ...]
Law = dict[Continuation, float]
"""Probability of every possible continuation."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """How well the continuations drawn so far fit the exact distribution."""

    draws: int
    wanted: int
    statistic: float
    """χ²; 0 with no degree of freedom."""
    freedom: int
    """Degrees of freedom: cells - 1."""
    p_value: float
    limit: float
    """The χ² above which the p-value is below `LEVEL`."""
    impossible: int = 0
    """Draws that the exact distribution rules out."""
    accepted: int = 0
    tested: int = 0
    """Guesses that the draws were made with."""

    @property
    def done(self) -> bool:
        return self.draws >= self.wanted

    @property
    def consistent(self) -> bool:
        """Whether an exact method may well look like this."""
        return not self.impossible and self.p_value >= LEVEL


def distribution_test(
    method_id: str,
    params: Mapping[str, Any] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    *,
    length: int = LENGTH,
    every: int = 5,
) -> Iterator[Fit]:
    """Runs the method `draws` times on the twin; yields the fit so far after every few draws, the last one whole.

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
    law = exact_law(model, PROMPT, settings, length)
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
    ids = model.encode(prompt, raw=True)
    law: Law = {}

    def walk(text: Continuation, p: float, sampler: Sampler) -> None:
        if len(text) == length or (text and text[-1] in model.eos_ids):
            law[text] = p
            return
        logits = model.start().extend([*ids, *text], last=True)[-1]
        probabilities = sampler.distribution(logits, ids, text).probabilities.double()
        for token, chance in enumerate((probabilities / probabilities.sum()).tolist()):
            if chance > 0:
                further = copy.copy(sampler)
                further.learn(token, logits)
                walk((*text, token), p * chance, further)

    walk((), 1.0, Sampler(settings, model.token))
    return law


def fit(counts: Mapping[Continuation, int], law: Law, *, wanted: int = 0, accepted: int = 0, tested: int = 0) -> Fit:
    """Pearson's test of counts against a law that adds up to 1."""
    draws = sum(counts.values())
    observed, expected = cells(counts, law, draws)
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    freedom = max(len(expected) - 1, 0)
    impossible = sum(count for text, count in counts.items() if text not in law)
    return Fit(
        draws=draws,
        wanted=wanted or draws,
        statistic=statistic,
        freedom=freedom,
        p_value=0.0 if impossible else tail(statistic, freedom),
        limit=critical(freedom),
        impossible=impossible,
        accepted=accepted,
        tested=tested,
    )


def cells(counts: Mapping[Continuation, int], law: Law, draws: int) -> tuple[Sequence[float], Sequence[float]]:
    """Observed and expected counts; continuations too rare for the test share the last cell."""
    ordered = sorted(law, key=lambda text: -law[text])
    own = [text for text in ordered if law[text] * draws >= FEWEST_EXPECTED]
    while (
        own and 0 < (rest := draws - sum(law[text] for text in own) * draws) < FEWEST_EXPECTED and rest > 1e-6 * draws
    ):
        own.pop()
    observed = [float(counts.get(text, 0)) for text in own]
    expected = [law[text] * draws for text in own]
    rest = draws - sum(expected)
    if rest > 1e-6 * draws:
        observed.append(draws - sum(observed))
        expected.append(rest)
    return observed, expected


def tail(statistic: float, freedom: int) -> float:
    """The probability of at least this χ², from the regularised upper incomplete gamma function."""
    if freedom < 1:
        return 1.0
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def critical(freedom: int, level: float = LEVEL) -> float:
    """The χ² whose tail is `level`, by bisection."""
    low, high = 0.0, 10.0 * (freedom + 20)
    if freedom < 1:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, freedom) > level else (low, middle)
    return high
