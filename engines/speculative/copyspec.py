"""CopySpec: "CopySpec: Accelerating LLMs with Speculative Copy-and-Paste Without Compromising Quality",
Dumitru et al., arXiv 2502.08923.

If the last γ tokens already occurred, in the prompt or in the answer, guess that what followed then follows now.
Prompt lookup copies even after a match of one token; CopySpec waits for γ, so its copies are fewer and better.

    1. H ← every γ-gram of the text and where it ended first, the text's own ending left out
    2. look the last γ tokens up in H; found at e: guess the block that followed, text[e : e + block]
    3. not found: one plain pass
    4. one pass over the block; accept the longest prefix that agrees with the model; append it and the model's token
    5. put the new γ-grams into H; go to 2

Exact: the output is plain decoding's, greedy or sampled (the guess depends on the past alone, rule `point`).
Differs from the reference code, which when sampling accepts a copied token only if its probability is exactly 1,
and which looks up a shorter key near the token limit, where it can never be found. The paper's block is 10 tokens;
0 picks, pass by pass, what the measured t(q) makes worthwhile at the rate at which copies have held up so far.
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
    gamma: Annotated[int, Meta(ge=1, le=10, description="Tokens that must match before anything is copied (γ)")] = 3
    block: Annotated[
        int,
        Meta(
            ge=0, le=64, description="Tokens copied at a time; 0 picks what this machine can pay for", extra=AUTOMATIC
        ),
    ] = 0
    which: Annotated[Which, Meta(description="Which earlier occurrence to copy from")] = "first"


COPY_CHANCE = 0.8
"""Estimated probability that a copied token is right if all before it were; ours, it only sizes the block."""
LONGEST_BLOCK = 31


@method(
    "copyspec",
    title="CopySpec",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK,
    paper=Paper("CopySpec: Accelerating LLMs with Speculative Copy-and-Paste", "Dumitru et al.", 2025, "2502.08923"),
    params=Params,
    idea="When the last few tokens already occurred, copies a whole block of what followed them. "
    "It waits for a longer match than prompt lookup, so its copies are fewer and better.",
    look_at="The matches: arcs are long and few. Raise γ, and watch wrong copies vanish along with some right ones.",
    shines=("copy-list", "sum-lighthouse"),
    loses=("qa-rain", "fact-photosynthesis"),
    pictures=("token-stream", "matches", "draft-tree", "acceptance", "budget", "confidence"),
)
def copyspec(run: Run, params: Params) -> Iterator[Event]:
    block = yield from block_length(run, params.block, COPY_CHANCE, LONGEST_BLOCK)
    index = NgramIndex(params.gamma, params.gamma, params.which)
    yield from speculate(run, Copier(index, block), params)
