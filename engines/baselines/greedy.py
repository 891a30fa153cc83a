"""Greedy decoding: at every step, take the most probable token.

    1. p ← the model's distribution after the text so far
    2. append argmax p
    3. repeat until the end

Exact by definition: what lossless methods must reproduce, token for token, is this.
"""

from __future__ import annotations

from collections.abc import Iterator

from engines.events import Event
from engines.method import Need, method
from engines.runner import Run
from engines.sampling import Constrainable


@method(
    "greedy",
    title="Greedy",
    family="baselines",
    lossless=True,
    params=Constrainable,
    needs=Need.NOTHING,
    idea="Always take the most probable next token. Deterministic, simple, and prone to repeating itself.",
    look_at="The confidence picture: where the top token is barely ahead, another path was close.",
    shines=("fact-photosynthesis",),
    loses=("poem-sea",),
    pictures=("token-stream", "confidence", "budget"),
)
def greedy(run: Run, params: Constrainable) -> Iterator[Event]:
    sampler = run.sampler(params)
    while not run.finished:
        logits = run.next_logits()
        best = int(sampler.warp(logits, run.prompt, run.output).argmax())
        yield run.candidates(logits)
        yield from run.commit(run.placed(best, logits=logits))
