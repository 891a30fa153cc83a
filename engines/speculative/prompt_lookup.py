"""Prompt lookup decoding: "Prompt Lookup Decoding", Apoorv Saxena, 2023; also "Inference with Reference:
Lossless Acceleration of Large Language Models", Yang et al., arXiv 2304.04487.

Summaries, edits and code repeat their input. If the last few tokens occurred before, what followed there is a
good guess for what follows here.

    1. for n = max_ngram … 1: find where the last n tokens of the text occur earlier
    2. guess the (up to) `guesses` tokens that followed there
    3. one pass over the guess; accept the longest prefix that agrees with the model
    4. append it and the model's next token; go to 1

Exact: the output is plain decoding's, greedy or sampled (the guess depends on the past alone, rule `point`).
transformers takes the first occurrence from the left, as `which = first` does, and 10 tokens of it; the default
`latest` takes the most recent one, whose context is more often the present one, and as many tokens as the measured
t(q) makes worthwhile at the rate at which copies after a match of so many tokens have held up so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from engines.events import Event
from engines.method import AUTOMATIC, Need, Paper, method
from engines.runner import Run
from engines.sampling import Speculating
from engines.speculative.budget import block_length
from engines.speculative.copying import Copier, NgramIndex, Which
from engines.speculative.loop import speculate


class Params(Speculating, frozen=True, kw_only=True, forbid_unknown_fields=True):
    guesses: Annotated[
        int,
        Meta(
            ge=0, le=64, description="Tokens copied at a time; 0 picks what this machine can pay for", extra=AUTOMATIC
        ),
    ] = 0
    max_ngram: Annotated[int, Meta(ge=1, le=8, description="Longest ending of the text that is looked up")] = 3
    which: Annotated[Which, Meta(description="Which earlier occurrence to copy from")] = "latest"


COPY_CHANCE = 0.6
"""Estimated probability that a copied token is right if all before it were; ours, it only sizes the guess."""
LONGEST_BLOCK = 31


@method(
    "prompt-lookup",
    title="Prompt lookup",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK,
    paper=Paper("Prompt Lookup Decoding", "Saxena", 2023),
    params=Params,
    idea="When the text's last words also occur earlier, guesses that it goes on as it did there. "
    "Free and fast where the answer repeats its input.",
    look_at="The matches: arcs show where each guess was copied from.",
    shines=("copy-list", "sum-lighthouse"),
    loses=("qa-rain", "fact-photosynthesis"),
    pictures=("token-stream", "matches", "draft-tree", "rejection-xray", "acceptance", "budget", "confidence"),
)
def prompt_lookup(run: Run, params: Params) -> Iterator[Event]:
    block = yield from block_length(run, params.guesses, COPY_CHANCE, LONGEST_BLOCK)
    index = NgramIndex(1, params.max_ngram, params.which)
    yield from speculate(run, Copier(index, block), params)
