"""A language model of letters with a dead end in it: after `a`, nearly everything leads out of the language.

P(a) = .9, P(b) = .1; after a: x .01, z .99; after b: x .5, y .5; then the end. L = {ax, bx, by}, P(L) = .109, and the
model given L says ax with .009/.109. Masking says ax with .9.
"""

from __future__ import annotations

from engines.grammars.vocabulary import Vocabulary
from engines.method import Need
from tests.engines.toy import ToyModel

LANGUAGE = ("ax", "bx", "by")
MASS = 0.109
TARGET = {"ax": 0.009 / MASS, "bx": 0.05 / MASS, "by": 0.05 / MASS}
MASKED = {"ax": 0.9, "bx": 0.05, "by": 0.05}


class LetterModel(ToyModel):
    """A toy model whose tokens are also bytes."""

    def __init__(self, rows: dict[str, dict[str, float]]) -> None:
        letters = "".join(rows)
        super().__init__(letters, [[row.get(letter, 0.0) for letter in letters] for row in rows.values()])
        self.has = Need.ROLLBACK | Need.BATCH | Need.LOGITS
        self.vocabulary = Vocabulary(
            [b"" if letter == "." else letter.encode() for letter in letters],
            [],
            self.eos_ids,
            lambda text: [letters.index(letter) for letter in text],
            self.token,
        )


def dead_end_model() -> LetterModel:
    end = {".": 1.0}
    return LetterModel(
        {
            "s": {"a": 0.9, "b": 0.1},
            "a": {"x": 0.01, "z": 0.99},
            "b": {"x": 0.5, "y": 0.5},
            "x": end,
            "y": end,
            "z": end,
            ".": end,
        }
    )


class Words:
    """A finite language."""

    name = "words"
    local = False

    def __init__(self, *words: str) -> None:
        self._words = words

    def begins(self, text: str) -> bool:
        return any(word.startswith(text) for word in self._words)

    def accepts(self, text: str) -> bool:
        return text in self._words


class Anything:
    """No condition at all, or one that never lets a text end."""

    name = "anything"
    local = False

    def __init__(self, ends: bool = True) -> None:
        self._ends = ends

    def begins(self, text: str) -> bool:
        return True

    def accepts(self, text: str) -> bool:
        return self._ends
