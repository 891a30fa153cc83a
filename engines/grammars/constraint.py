"""A constraint: which tokens may come next, so that the text can still become a word of its language.

One object per text being written. Whoever computes the masks (a compiled grammar, a table of automata, a program
analyser) speaks this protocol, and so every constraint can be combined with every way of choosing tokens, and with
other constraints.

The rules that all keep:
    1. a text that has left the language stays dead; nothing ever falls back to the unconstrained
    2. special tokens are never allowed; the end tokens are allowed together, exactly where the text may end
    3. `mask` and `allows` agree, and what they allow `commit` takes
    4. an engine that gives up raises `GrammarLimit`; it never passes for a text that may end here
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engines.errors import DecodingError
from engines.grammars.vocabulary import Bits, Vocabulary


class BadGrammar(DecodingError):
    """A schema, expression or grammar cannot be used; the message says where and why.

    `line` and `column` count from 1 and are 0 where no place is known.
    """

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        self.line, self.column = line, column
        where = f"Line {line}, column {column}: " if line else ""
        super().__init__(where + message)


class GrammarLimit(DecodingError):
    """An engine reached its limits in the middle of a text."""


class DeadEnd(Exception):
    """No token may come next, not even the end of the text. The run ends and says so."""


class Constraint(Protocol):
    """Which tokens may come next."""

    engine: str
    """Who computes the masks, for people, e.g. `llguidance`."""
    vocabulary: Vocabulary

    def mask(self) -> Bits:
        """The tokens that may come next; empty in a dead end. Not to be changed by the caller."""

    def allows(self, token: int) -> bool:
        """Whether this one may, without computing the mask."""

    def commit(self, token: int) -> bool:
        """Goes on by one token. False when it is not allowed; the constraint then stays as it was."""

    def rollback(self, count: int) -> None:
        """Forgets the last `count` tokens."""

    def fork(self) -> Constraint:
        """A second text that begins like this one."""

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""

    def forced(self) -> list[int]:
        """Tokens that must come next whatever the model says, in the tokenizer's usual cut; mostly empty."""

    def view(self) -> dict[str, str]:
        """Where the reader of the grammar stands, in words: heading → text. For pictures only."""


class Joint:
    """Several constraints at once: allowed is what all allow."""

    def __init__(self, parts: Sequence[Constraint]) -> None:
        self.parts = list(parts)
        self.engine = " + ".join(part.engine for part in parts)
        self.vocabulary = parts[0].vocabulary

    def mask(self) -> Bits:
        bits = self.parts[0].mask().copy()
        for part in self.parts[1:]:
            bits &= part.mask()
        return bits

    def allows(self, token: int) -> bool:
        return all(part.allows(token) for part in self.parts)

    def commit(self, token: int) -> bool:
        for index, part in enumerate(self.parts):
            if not part.commit(token):
                for earlier in self.parts[:index]:
                    earlier.rollback(1)
                return False
        return True

    def rollback(self, count: int) -> None:
        for part in self.parts:
            part.rollback(count)

    def fork(self) -> Joint:
        return Joint([part.fork() for part in self.parts])

    @property
    def accepting(self) -> bool:
        return all(part.accepting for part in self.parts)

    def forced(self) -> list[int]:
        """What one part forces, as far as the others allow it."""
        for part in self.parts:
            tokens: list[int] = []
            trial = self.fork()
            for token in part.forced():
                if not trial.commit(token):
                    break
                tokens.append(token)
            if tokens:
                return tokens
        return []

    def view(self) -> dict[str, str]:
        views = [part.view() for part in self.parts]
        return {
            f"{heading} ({part.engine})" if sum(heading in view for view in views) > 1 else heading: text
            for part, view in zip(self.parts, views, strict=True)
            for heading, text in view.items()
        }
