"""Guessing by copying: where the end of the text occurred before, and what followed it there.

What prompt lookup and CopySpec share. The index grows with the text and never holds the text's own ending, so a
match always has something to copy.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Literal

from torch import Tensor

from engines.events import Event, Match, Origin
from engines.runner import Run
from engines.speculative.budget import BlockLength, Fixed
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification

Which = Literal["latest", "first"]


class NgramIndex:
    """Where every n-gram of a growing text ended first or last, for n from `shortest` to `longest`."""

    def __init__(self, shortest: int, longest: int, which: Which) -> None:
        self._sizes, self._which = range(shortest, longest + 1), which
        self._indexed = 0
        self._ends: dict[tuple[int, ...], int] = {}

    def find(self, text: Sequence[int]) -> tuple[int, int] | None:
        """(end, n): the last n tokens of `text` also stood before position `end`; longest n first."""
        # Endings before the last token only: an occurrence needs something to follow it.
        for end in range(self._indexed + 1, len(text)):
            for n in self._sizes:
                if n > end:
                    break
                gram = tuple(text[end - n : end])
                if self._which == "latest":
                    self._ends[gram] = end
                else:
                    self._ends.setdefault(gram, end)
        self._indexed = max(self._indexed, len(text) - 1)
        for n in reversed(self._sizes):
            if n < len(text) and (gram := tuple(text[-n:])) in self._ends:
                return self._ends[gram], n
        return None


class Copier:
    """Guesses a chain by copying what followed an earlier occurrence of the text's ending."""

    origin: Origin = "copied"

    def __init__(self, index: NgramIndex, block: BlockLength | Fixed) -> None:
        self._index, self._block = index, block
        self._matched = 0
        """Length of the match that the present guess rests on."""
        self._text: list[int] = []
        """Prompt and output. It grows along: a long prompt is not copied at every turn."""

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        text = self._text or run.prompt.copy()
        text += run.output[len(text) - len(run.prompt) :]
        self._text = text
        tree = TokenTree(run.root)
        if found := self._index.find(text):
            end, n = found
            self._matched = n
            copied = text[end : end + self._block.length(n)]
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
        """The text itself is the memory; only how long copies should be is learnt."""
        if len(tree) > 1:
            self._block.count(self._matched, len(tree) - 1, len(verification.path))
        yield from ()
