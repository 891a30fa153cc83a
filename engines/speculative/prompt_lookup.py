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
t(q) makes worthwhile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from torch import Tensor

from engines.events import Event, Match, Origin
from engines.method import Need, Paper, method
from engines.runner import Run
from engines.speculative.budget import affordable
from engines.speculative.loop import speculate
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    guesses: Annotated[
        int, Meta(ge=0, le=64, description="Tokens copied at a time; 0 picks what this machine can pay for")
    ] = 0
    max_ngram: Annotated[int, Meta(ge=1, le=8, description="Longest ending of the text that is looked up")] = 3
    which: Annotated[Literal["latest", "first"], Meta(description="Which earlier occurrence to copy from")] = "latest"
    temperature: Annotated[float, Meta(ge=0, le=5, description="0 takes the most probable token")] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=1000, description="Keep the k most probable tokens; 0 keeps all")] = 0
    top_p: Annotated[
        float, Meta(ge=0.01, le=1, description="Keep the smallest set that holds this much probability")
    ] = 1.0


COPY_CHANCE = 0.6
"""Estimated probability that a copied token is right if all before it were; ours, it only sizes the guess."""


class NgramIndex:
    """Where every n-gram of a growing text ended first and last, for n up to `longest`."""

    def __init__(self, longest: int, which: Literal["latest", "first"]) -> None:
        self._longest, self._which = longest, which
        self._text: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}

    def find(self, text: list[int]) -> tuple[int, int] | None:
        """(end, n): the last n tokens of `text` also stood before position `end`; longest n first."""
        # Endings before the last token only: an occurrence needs something to follow it.
        for end in range(len(self._text) + 1, len(text)):
            for n in range(1, min(self._longest, end) + 1):
                gram = tuple(text[end - n : end])
                if self._which == "latest":
                    self._ends[gram] = end
                else:
                    self._ends.setdefault(gram, end)
        self._text = text[: len(text) - 1]
        for n in range(min(self._longest, len(text) - 1), 0, -1):
            gram = tuple(text[-n:])
            if gram in self._ends:
                return self._ends[gram], n
        return None


class Copier:
    """Guesses a chain by copying what followed the last occurrence of the text's ending."""

    origin: Origin = "copied"

    def __init__(self, params: Params, guesses: int) -> None:
        self._index = NgramIndex(params.max_ngram, params.which)
        self._guesses = guesses

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        text = run.sequence
        tree = TokenTree(run.root)
        if found := self._index.find(text):
            end, n = found
            copied = text[end : end + self._guesses]
            zero = len(run.prompt)  # events count from the first generated token
            yield Match(
                source=(end - n - zero, end - zero),
                target=(len(text) - n - zero, len(text) - zero),
                copied=(end - zero, end + len(copied) - zero),
            )
            node = 0
            for offset, token in enumerate(copied):
                node = tree.add(node, token, f"copied from {end + offset - zero}")
        return tree

    def observe(self, tree: TokenTree, logits: Tensor, verification: Verification) -> Iterator[Event]:
        """Nothing to learn: the text itself is the memory."""
        yield from ()


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
    pictures=("token-stream", "matches", "draft-tree", "acceptance", "budget", "confidence"),
)
def prompt_lookup(run: Run, params: Params) -> Iterator[Event]:
    guesses = params.guesses or (yield from affordable(run, [COPY_CHANCE**depth for depth in range(1, 17)]))
    yield from speculate(run, Copier(params, guesses), params)
