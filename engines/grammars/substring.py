"""A constraint to quotations: what is written must stand, word for word, somewhere in a given text.

A suffix automaton is the smallest automaton that accepts exactly the substrings of a text: at most two states and three
moves per symbol, built in one pass over it (Blumer et al., "The Smallest Automaton Recognizing the Subwords of a Text",
1985). A state stands for all substrings that end at the same places of the text.

    1. symbols ← the bytes of the text, or its tokens; a symbol that must not be written breaks it
    2. build the suffix automaton: for each symbol a new state, and a copy of a state whose places fall apart
    3. a token is allowed if the automaton can read it (its bytes) from where it stands
    4. the text may end, or a closing token may come, once more than white space has been written

Exact: at byte level whatever the model's cut into tokens, at token level for the cut that the text has in its place.
By bytes a quotation begins and ends at whole characters, not necessarily at whole words.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from copy import copy
from typing import Literal
from weakref import WeakKeyDictionary

from engines.grammars.constraint import BadGrammar
from engines.grammars.view import what_may_follow
from engines.grammars.vocabulary import Bits, Vocabulary

Level = Literal["bytes", "tokens"]

MOST_SYMBOLS = 50_000
BREAK = -1
"""Stands in the text where no quotation may reach across."""
CLOSED = -1
"""The state behind a closing token."""

_spellings: WeakKeyDictionary[Vocabulary, list[bytes]] = WeakKeyDictionary()


class SuffixAutomaton:
    """All substrings of a sequence of symbols. State 0 is the empty one; `moves[state][symbol]` is the next state."""

    def __init__(self, symbols: Sequence[int]) -> None:
        self.moves: list[dict[int, int]] = [{}]
        self.ends: list[int] = [0]
        """For each state, how many symbols of the text its first place lies behind."""
        self.counts: list[int] = [0]
        """For each state, at how many places of the text its substrings end."""
        self._link, self._longest = [-1], [0]
        last = 0
        for end, symbol in enumerate(symbols, 1):
            last = self._add(symbol, last, end)
        for state in sorted(range(1, len(self.moves)), key=self._longest.__getitem__, reverse=True):
            self.counts[self._link[state]] += self.counts[state]

    def _state(self, moves: dict[int, int], longest: int, link: int, end: int, count: int) -> int:
        self.moves.append(moves)
        self._longest.append(longest)
        self._link.append(link)
        self.ends.append(end)
        self.counts.append(count)
        return len(self.moves) - 1

    def _add(self, symbol: int, last: int, end: int) -> int:
        new = self._state({}, self._longest[last] + 1, 0, end, 1)
        at = last
        while at >= 0 and symbol not in self.moves[at]:
            self.moves[at][symbol] = new
            at = self._link[at]
        if at < 0:
            return new
        met = self.moves[at][symbol]
        if self._longest[met] == self._longest[at] + 1:
            self._link[new] = met
            return new
        # `met` also stands for longer substrings, which do not end here.
        clone = self._state(dict(self.moves[met]), self._longest[at] + 1, self._link[met], self.ends[met], 0)
        while at >= 0 and self.moves[at].get(symbol) == met:
            self.moves[at][symbol] = clone
            at = self._link[at]
        self._link[met] = self._link[new] = clone
        return new

    def read(self, state: int, symbols: Sequence[int]) -> int | None:
        """The state after more symbols; None when that is no substring."""
        for symbol in symbols:
            if (found := self.moves[state].get(symbol)) is None:
                return None
            state = found
        return state


class Substring:
    """A `Constraint`: any substring of the text that is more than white space.

    Args:
        text: its bytes (level `bytes`) or its tokens (level `tokens`).
        vocabulary: the model's.
        level: of the symbols.
        closing: tokens that may follow a quotation and close it, e.g. a line break; they are never part of one.
        may_end: the end of the text may follow a quotation at once, without a closing token.

    Raises:
        BadGrammar: the text is empty or too long.
    """

    def __init__(
        self,
        text: Sequence[int],
        vocabulary: Vocabulary,
        level: Level = "bytes",
        *,
        closing: Sequence[int] = (),
        may_end: bool = True,
    ) -> None:
        symbols = list(text)
        if not symbols:
            raise BadGrammar("The text to quote from is empty. Give a text of at least one character.")
        if len(symbols) > MOST_SYMBOLS:
            raise BadGrammar(
                f"The text to quote from has {len(symbols):,} {level}, and at most {MOST_SYMBOLS:,} can be used. "
                "Shorten it."
            )
        self.engine = "suffix automaton"
        self.vocabulary, self.level = vocabulary, level
        self._closing, self._may_end = frozenset(closing), may_end
        if level == "tokens":
            never = self._closing | vocabulary.ends | vocabulary.special
            symbols = [BREAK if symbol in never else symbol for symbol in symbols]
        self._symbols = symbols
        self._automaton = SuffixAutomaton(symbols)
        self._masks: dict[tuple[int, bool], Bits] = {}
        self._path = [(0, False)]
        """The state after each token, and whether more than white space has been written."""

    def mask(self) -> Bits:
        state, _ = here = self._path[-1]
        if here not in self._masks:
            ids = [] if state == CLOSED else self._readable(state)
            self._masks[here] = self.vocabulary.bits(sorted({*ids, *self._after()}))
        return self._masks[here]

    def allows(self, token: int) -> bool:
        return self._next(token) is not None

    def commit(self, token: int) -> bool:
        following = self._next(token)
        if following is None:
            return False
        said = self._path[-1][1] or bool(self.vocabulary.bytes_of[token].strip())
        self._path.append((following, said))
        return True

    def rollback(self, count: int) -> None:
        del self._path[len(self._path) - count :]

    def fork(self) -> Substring:
        twin = copy(self)
        twin._path = self._path.copy()
        return twin

    @property
    def accepting(self) -> bool:
        return self._path[-1][0] == CLOSED or (self._may_end and self._whole())

    def forced(self) -> list[int]:
        """Nothing: a quotation may end after any of its symbols."""
        return []

    def view(self) -> dict[str, str]:
        state, _ = self._path[-1]
        if state == CLOSED:
            return {"quoted": "to its end"}
        places = self._automaton.counts[state] if state else len(self._symbols)
        return {
            "stands in the text": f"at {places:,} {'place' if places == 1 else 'places'}" if state else "anywhere",
            "what may follow": what_may_follow(self.mask(), self.vocabulary),
        }

    def _whole(self) -> bool:
        """Whether something has been written, and its last character completely."""
        state, said = self._path[-1]
        if not said:
            return False
        end = self._automaton.ends[state]
        return self.level == "tokens" or end == len(self._symbols) or not _continues(self._symbols[end])

    def _after(self) -> frozenset[int]:
        """End and closing tokens that may come here."""
        if self._path[-1][0] == CLOSED:
            return self.vocabulary.ends
        if not self._whole():
            return frozenset()
        return self._closing | (self.vocabulary.ends if self._may_end else frozenset())

    def _next(self, token: int) -> int | None:
        """The state behind a token, None where it is not allowed. Behind an end token nothing is kept."""
        state, _ = self._path[-1]
        if token in self._after():
            return CLOSED
        if state == CLOSED or not 0 <= token < len(self.vocabulary):
            return None
        if self.level == "tokens":
            return self._automaton.read(state, [token])
        if token in self._closing or token in self.vocabulary.special or token in self.vocabulary.ends:
            return None
        piece = self.vocabulary.bytes_of[token]
        return None if state == 0 and _continues(piece[0]) else self._automaton.read(state, piece)

    def _readable(self, state: int) -> list[int]:
        """All tokens that the automaton can read from here: at byte level a walk through it and, at the same time,
        through the tokens in the order of their bytes, where those that begin alike are neighbours."""
        if self.level == "tokens":
            return [symbol for symbol in self._automaton.moves[state] if symbol != BREAK]
        spelled, ids = _in_order(self.vocabulary), self.vocabulary.text_ids
        found: list[int] = []
        stack = [(state, b"", 0, len(spelled))]
        while stack:
            at, begun, low, high = stack.pop()
            place = low
            while begun and place < high and spelled[place] == begun:
                if int(ids[place]) not in self._closing:
                    found.append(int(ids[place]))
                place += 1
            for byte, there in self._automaton.moves[at].items():
                if not begun and state == 0 and _continues(byte):
                    continue
                longer = begun + bytes([byte])
                first = bisect_left(spelled, longer, place, high)
                # No byte is 256, so the neighbours that begin alike end before the next byte, or with the range.
                last = bisect_left(spelled, begun + bytes([byte + 1]), first, high) if byte < 255 else high
                if first < last:
                    stack.append((there, longer, first, last))
        return found


def substring(
    text: str, vocabulary: Vocabulary, level: Level = "bytes", *, closing: Sequence[int] = (), may_end: bool = True
) -> Substring:
    """A constraint to the substrings of a text, by its bytes or by its usual tokens. Raises `BadGrammar`."""
    symbols: Sequence[int] = text.encode("utf-8") if level == "bytes" else vocabulary.tokenise(text)
    return Substring(symbols, vocabulary, level, closing=closing, may_end=may_end)


def _continues(byte: int) -> bool:
    """Whether a byte continues a character of UTF-8."""
    return byte & 0xC0 == 0x80


def _in_order(vocabulary: Vocabulary) -> list[bytes]:
    """The bytes of `text_ids`, kept for each vocabulary."""
    if vocabulary not in _spellings:
        _spellings[vocabulary] = [vocabulary.bytes_of[id] for id in vocabulary.text_ids.tolist()]
    return _spellings[vocabulary]
