"""Input-guided Aggressive Decoding: "Lossless Acceleration for Seq2seq Generation with Aggressive Decoding",
Ge, Xia et al., arXiv 2205.10350.

When the answer is nearly its input (a correction, a small edit, a copy), the rest of the input is the guess. After
a difference the model goes on alone until the end of its answer stands at one place of the input only; copying goes
on from there.

    1. s ← the text to edit; j ← 0, its beginning
    2. a place j: guess s[j:], one pass; accept the longest prefix that agrees with the model, and its own next token
    3. no place: one plain pass
    4. j ← the place after the accepted tokens, if the model's own token is also the input's;
       else for n = 1, 2, 3: the place after the last n tokens, if they stand at exactly one place of s
    5. go to 2

Exact: the output is plain decoding's, greedy or sampled (the guess depends on the past alone, rule `point`).
The paper edits with an encoder–decoder, and guesses all that is left of the input. Here the model is decoder-only,
the input is the part of the request behind its first line break or colon, and a guess has at most `block` tokens,
as many as the measured t(q) makes worthwhile at the rate at which guesses have held up so far. Because of that step 4
may go on without looking anything up.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Annotated

from msgspec import Meta
from torch import Tensor

from engines.events import Event, Match, Origin
from engines.method import AUTOMATIC, Need, Paper, method
from engines.runner import Run
from engines.sampling import Speculating
from engines.speculative.budget import BlockLength, Fixed, block_length
from engines.speculative.loop import speculate
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification


class Params(Speculating, frozen=True, kw_only=True, forbid_unknown_fields=True):
    block: Annotated[
        int,
        Meta(
            ge=0, le=128, description="Tokens copied at a time; 0 picks what this machine can pay for", extra=AUTOMATIC
        ),
    ] = 0
    longest_ngram: Annotated[
        int, Meta(ge=1, le=5, description="Tokens of the answer used to find its place in the input again")
    ] = 3


COPY_CHANCE = 0.8
"""Estimated probability that a copied token is right if all before it were; ours, it only sizes the block."""
LONGEST_BLOCK = 31
SURE = 4
"""Tokens of agreement with the input beyond which a place in it is no surer."""


class Places:
    """Where n-grams of the input end: after which of its tokens, for n up to `longest`."""

    def __init__(self, source: Sequence[int], longest: int) -> None:
        self._longest = longest
        self._after: dict[tuple[int, ...], list[int]] = {}
        for n in range(1, longest + 1):
            for end in range(n, len(source) + 1):
                self._after.setdefault(tuple(source[end - n : end]), []).append(end)

    def find(self, output: Sequence[int]) -> tuple[int, int] | None:
        """(place, n): the shortest ending, of n tokens, that stands at one place only; None when there is none."""
        for n in range(1, min(self._longest, len(output)) + 1):
            places = self._after.get(tuple(output[-n:]), [])
            if len(places) == 1:
                return places[0], n
            if not places:
                return None
        return None


class Editor:
    """Guesses that the answer goes on as the input does. `start` is where the input begins in the prompt."""

    origin: Origin = "copied"

    def __init__(self, source: Sequence[int], start: int, params: Params, block: BlockLength | Fixed) -> None:
        self._source, self._start, self._block = list(source), start, block
        self._places = Places(source, params.longest_ngram)
        self._place: tuple[int, int] | None = (0, 0)
        """Place in the input, and how many tokens of the answer led there."""

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        tree = TokenTree(run.root)
        self._place = self._place or self._places.find(run.output)
        if self._place is None:
            return tree
        place, known = self._place
        guesses = self._source[place : place + self._block.length(min(known, SURE))]
        zero = self._start + place - len(run.prompt)  # events count from the first generated token
        if guesses:
            yield Match(
                source=(zero - known, zero),
                target=(run.position - known, run.position),
                copied=(zero, zero + len(guesses)),
            )
        node = 0
        for offset, token in enumerate(guesses):
            node = tree.add(node, token, f"input at {zero + offset}")
        return tree

    def observe(self, tree: TokenTree, logits: Tensor, verification: Verification) -> Iterator[Event]:
        """Stays in step with the input as long as the model's own token is the input's next one."""
        if self._place is not None:
            if len(tree) > 1:
                self._block.count(min(self._place[1], SURE), len(tree) - 1, len(verification.path))
            reached = self._place[0] + len(verification.path)
            if len(tree) > 1 and self._source[reached : reached + 1] == [verification.extra]:
                self._place = (reached + 1, len(verification.path) + 1)
            else:
                self._place = None
        yield from ()


def text_to_edit(run: Run) -> tuple[list[int], int]:
    """The tokens of the request that are to be edited, and where they begin in the prompt.

    The request is what the chat template does not account for; the text is what follows its first line break or
    colon, or all of it when nothing does.
    """
    prompt, frame = run.prompt, run.model.encode("@")
    first = next((i for i, pair in enumerate(zip(prompt, frame, strict=False)) if pair[0] != pair[1]), 0)
    last = next((i for i, (a, b) in enumerate(zip(reversed(prompt), reversed(frame), strict=False)) if a != b), 0)
    request = range(first, max(first, len(prompt) - last))
    for index in request:
        spelled = run.model.token(prompt[index]).text
        if ("\n" in spelled or spelled.rstrip().endswith(":")) and index + 1 < request.stop:
            request = range(index + 1, request.stop)
            break
    while len(request) > 1 and not run.model.token(prompt[request.start]).text.strip():
        request = request[1:]
    return prompt[request.start : request.stop], request.start


@method(
    "aggressive-decoding",
    title="Aggressive decoding",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK,
    paper=Paper(
        "Lossless Acceleration for Seq2seq Generation with Aggressive Decoding", "Ge, Xia et al.", 2022, "2205.10350"
    ),
    params=Params,
    idea="Where the answer is nearly its input, the rest of the input is the guess. After each difference the model "
    "writes alone until it is clear where in the input it stands.",
    look_at="The matches: long copies, a red guess where the edit is, and soon the next long copy.",
    shines=("copy-list",),
    loses=("fact-photosynthesis",),
    pictures=("token-stream", "matches", "draft-tree", "acceptance", "budget", "confidence"),
)
def aggressive_decoding(run: Run, params: Params) -> Iterator[Event]:
    block = yield from block_length(run, params.block, COPY_CHANCE, LONGEST_BLOCK)
    source, start = text_to_edit(run)
    yield from speculate(run, Editor(source, start, params, block), params)
