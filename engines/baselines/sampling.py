"""Sampling: draw every token at random, with the probabilities the model gives, reshaped as you like.

    1. z ← the model's logits after the text so far
    2. penalties lower the logits of tokens that the text already has
    3. temperature flattens or sharpens; filters remove the improbable tail, each by its own idea of "tail"
    4. renormalise what is left, draw one token, append it
    5. mirostat moves its threshold by how surprising the token was
    6. repeat until the end

The filters, their papers and their order are those of `engines/sampling.py`; with all of them off this is a draw
from the model itself. Exact: with transformers' settings of the same names the distribution is transformers' own.
Unlike in transformers, top-k is off by default (there it is 50), so that plain sampling is plain.
"""

from __future__ import annotations

from collections.abc import Iterator

from engines.events import Event
from engines.method import Need, Paper, method
from engines.runner import Run
from engines.sampling import Sampling


@method(
    "sampling",
    title="Sampling",
    family="baselines",
    idea="Draw every token by chance from the model's probabilities, after temperature and filters have reshaped them.",
    look_at="The filters picture: what each one removed. Switch them on one at a time and watch the tail go.",
    needs=Need.NOTHING,
    paper=Paper("The Curious Case of Neural Text Degeneration", "Holtzman et al.", 2020, "1904.09751"),
    params=Sampling,
    shines=("poem-sea", "story-robot"),
    loses=("math-apples", "qa-capital"),
    pictures=("filters", "token-stream", "confidence", "budget"),
)
def sampling(run: Run, params: Sampling) -> Iterator[Event]:
    sampler = run.sampler(params)
    while not run.finished:
        logits = run.next_logits()
        distribution = sampler.distribution(logits, run.prompt, run.output)
        yield run.candidates(logits, stages=distribution.stages)
        token = sampler.draw(distribution.probabilities, run.rng)
        sampler.learn(token, logits)
        yield from run.commit(run.placed(token, logits=logits, final=float(distribution.probabilities[token])))
