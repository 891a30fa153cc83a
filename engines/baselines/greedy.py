"""Greedy decoding: at every step, take the most probable token.

    1. p ← the model's distribution after the text so far
    2. append argmax p
    3. repeat until the end

Exact by definition: what lossless methods must reproduce, token for token, is this.
"""

from __future__ import annotations

from collections.abc import Iterator

from engines.events import Event
from engines.method import Need, NoParams, method
from engines.runner import Run


@method(
    "greedy",
    title="Greedy",
    family="baselines",
    lossless=True,
    needs=Need.NOTHING,
    idea="Always take the most probable next token. Deterministic, simple, and prone to repeating itself.",
    look_at="The confidence picture: where the top token is barely ahead, another path was close.",
    shines=("fact-photosynthesis",),
    loses=("poem-sea",),
    pictures=("token-stream", "confidence", "budget"),
)
def greedy(run: Run, params: NoParams) -> Iterator[Event]:
    while not run.finished:
        logits = run.next_logits()
        yield run.candidates(logits)
        yield from run.commit(run.placed(int(logits.argmax()), logits=logits))
