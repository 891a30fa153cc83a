"""Where two constraints part, token by token, and why.

A constraint that forbids too much cannot be caught by looking at finished texts, because they are all valid. Two masks
laid side by side show it: along one text, every token that only one of them allows is a difference, and has a cause.

    1. walk the text; at every place compare the two masks, as the engines themselves give them
    2. for each token that one side alone allows, let the other side read it byte by byte: the byte at which it stops
       is what the two disagree about; when it reads them all, only the cut into tokens is refused
    3. name the cause by that byte, and by where in the JSON it stands
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from engines.events import Token
from engines.grammars.constraint import Constraint
from engines.grammars.peers import Peer
from engines.grammars.vocabulary import Bits

Cause = Literal[
    "special token",
    "end of text",
    "DEL character",
    "control character",
    "forced cut",
    "whitespace",
    "property order",
    "escape",
    "not UTF-8",
    "characters",
    "number",
    "value",
    "unspeakable",
]
"""Why one side allows a token and the other does not."""

WHY: dict[Cause, str] = {
    "special token": "it spells nothing, so no text may hold it",
    "end of text": "one side takes the text for complete",
    "DEL character": "the byte 7F, which JSON allows in strings, and which one side refuses",
    "control character": "80 to 9F, as UTF-8, which JSON allows in strings, or one below 20, which it does not",
    "forced cut": "the bytes are allowed, but not this cut of them: one side shows the usual token alone",
    "whitespace": "between the parts of JSON one side allows more of it",
    "property order": "another property, or the end of the object, at the place of a name: one side fixes the order",
    "escape": "a backslash in a string, or what follows it",
    "not UTF-8": "bytes that are no character",
    "characters": "other characters in a string, or its end",
    "number": "digits, sign, fraction or exponent",
    "value": "another value, or another sign of punctuation",
    "unspeakable": "the vocabulary lacks a token for one of the bytes, so nobody can be asked",
}
"""The same in words."""


class Difference(msgspec.Struct, frozen=True):
    """One token at one place that one side alone allows."""

    place: int
    """So many tokens of the text stand before it."""
    token: Token
    allowed_by: str
    """The engine that allows it."""
    cause: Cause
    reading: int
    """The byte of the token at which the other side stops; the token's length where it is the cut, -1 without bytes."""


class Comparison(msgspec.Struct, frozen=True):
    """All differences along a text."""

    differences: tuple[Difference, ...]
    places: int
    """At so many places the masks were compared."""
    stopped: str = ""
    """Who refused the text itself, so that there is no going on."""

    def causes(self) -> dict[Cause, int]:
        """How many differences have each cause."""
        return dict(Counter(difference.cause for difference in self.differences))


class Parting(msgspec.Struct, frozen=True):
    """Two masks at one place of a text."""

    place: int
    before: str
    """The text so far."""
    token: Token | None
    """How it goes on; None behind its end."""
    differences: tuple[Difference, ...]
    stopped: str = ""
    """Who refused `token`, so that there is no going on."""


def partings(a: Constraint, b: Constraint, text: str | Sequence[int]) -> Iterator[Parting]:
    """Walks one text with two constraints and explains every token on which they differ, place by place.

    Neither constraint is moved. Foreign engines are asked for their masks before our rules are applied to them.

    Args:
        text: or its tokens; both constraints should be at the place where it begins.
    """
    a, b = a.fork(), b.fork()
    vocabulary = a.vocabulary
    tokens = vocabulary.tokenise(text) if isinstance(text, str) else list(text)
    single = {piece[0]: id for id in vocabulary.text_ids.tolist() if len(piece := vocabulary.bytes_of[id]) == 1}
    for place in range(len(tokens) + 1):
        before = vocabulary.decode(tokens[:place])
        told = (_told(a), _told(b))
        found: list[Difference] = []
        for bits, by, other in ((told[0] & ~told[1], a, b), (told[1] & ~told[0], b, a)):
            reader = _Reader(other, single)
            # In the order of their bytes neighbours begin alike, and are read together.
            for token in sorted(vocabulary.ids(bits), key=vocabulary.bytes_of.__getitem__):
                cause, reading = _cause(token, reader, before)
                found.append(Difference(place, vocabulary.spell(token), by.engine, cause, reading))
        stopped = ""
        if place < len(tokens):
            taken = [side.commit(tokens[place]) for side in (a, b)]
            stopped = " and ".join(side.engine for side, took in zip((a, b), taken, strict=True) if not took)
        goes_on = vocabulary.spell(tokens[place]) if place < len(tokens) else None
        yield Parting(place, before.decode("utf-8", "replace"), goes_on, tuple(found), stopped)
        if stopped:
            return


def mask_differences(a: Constraint, b: Constraint, text: str | Sequence[int]) -> Comparison:
    """All that `partings` finds along a text."""
    places = list(partings(a, b, text))
    return Comparison(tuple(one for place in places for one in place.differences), len(places), places[-1].stopped)


def _told(constraint: Constraint) -> Bits:
    return constraint.told() if isinstance(constraint, Peer) else constraint.mask()


class _Reader:
    """Lets a constraint read tokens byte by byte; what two of them begin with in common is read once."""

    def __init__(self, constraint: Constraint, single: dict[int, int]) -> None:
        self.vocabulary, self._single = constraint.vocabulary, single
        self._read = b""
        self._path: list[Constraint | None] = [constraint]
        """Where it stands after each byte of `_read`; None from the byte on that it refused."""

    def reads(self, piece: bytes) -> int | None:
        """How many bytes it takes one by one; None when there is no token for the next one."""
        pairs = enumerate(zip(self._read, piece, strict=False))
        same = next((place for place, (one, other) in pairs if one != other), min(len(self._read), len(piece)))
        del self._path[same + 1 :]
        self._read = piece
        for place, byte in enumerate(piece):
            here = self._path[place]
            assert here is not None
            if place + 1 == len(self._path):
                if byte not in self._single:
                    self._read = piece[:place]
                    return None
                there = here.fork()
                self._path.append(there if there.commit(self._single[byte]) else None)
            if self._path[place + 1] is None:
                self._read = piece[: place + 1]
                return place
        return len(piece)


def _cause(token: int, reader: _Reader, before: bytes) -> tuple[Cause, int]:
    """Why the other side refuses a token, and at which of its bytes it stops."""
    vocabulary = reader.vocabulary
    if token in vocabulary.ends:
        return "end of text", -1
    if token in vocabulary.special:
        return "special token", -1
    piece = vocabulary.bytes_of[token]
    reading = reader.reads(piece)
    if reading is None:
        return ("DEL character", piece.index(0x7F)) if 0x7F in piece else ("unspeakable", -1)
    if reading == len(piece):
        return "forced cut", reading
    return _named(piece, reading, before + piece[:reading]), reading


def _named(piece: bytes, reading: int, before: bytes) -> Cause:
    """The cause behind the refusal of a byte that follows `before`."""
    byte = piece[reading]
    where = place_in_json(before)
    if where in ("string", "name"):
        if byte == ord("\\"):
            return "escape"
        if byte == 0x7F:
            return "DEL character"
        if byte < 0x20 or ((byte == 0xC2 or before[-1:] == b"\xc2") and _is_control(piece, reading, before)):
            return "control character"
        if byte >= 0x80 and not _begins_character(before, piece[reading:]):
            return "not UTF-8"
        return "property order" if where == "name" else "characters"
    if where == "escape":
        return "escape"
    if chr(byte) in " \t\n\r":
        return "whitespace"
    if where == "before a name":
        return "property order"
    if where == "number" or chr(byte) in "-0123456789":
        return "number"
    if where == "after a value" and chr(byte) in ",}":
        return "property order"
    return "value"


def _is_control(piece: bytes, reading: int, before: bytes) -> bool:
    pair = (before[-1:] + piece[reading : reading + 1]) if piece[reading] != 0xC2 else piece[reading : reading + 2]
    return len(pair) < 2 or 0x80 <= pair[1] <= 0x9F


def _begins_character(before: bytes, rest: bytes) -> bool:
    """Whether the bytes at the end of `before`, with `rest`, are characters, the last one perhaps unfinished."""
    tail = before[-3:]
    while tail and 0x80 <= tail[0] < 0xC0:
        tail = tail[1:]
    try:
        (tail + rest).decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


Where = Literal["string", "name", "escape", "number", "before a name", "before a value", "after a value"]


def place_in_json(text: bytes) -> Where:
    """Where in a JSON text the next byte stands."""
    stack: list[str] = []
    where: Where = "before a value"
    quoted: Where | None = None
    escaped = 0
    """Of an escape in a string: -1 right behind the backslash, else so many hexadecimal digits are to come."""
    for byte in text.decode("latin-1"):
        if quoted:
            if escaped:
                escaped = 4 if escaped == -1 and byte == "u" else max(0, escaped - 1)
            elif byte == "\\":
                escaped = -1
            elif byte == '"':
                where, quoted = "after a value", None
        elif byte == '"':
            quoted = "name" if where == "before a name" else "string"
        elif byte in "{[":
            stack.append(byte)
            where = "before a name" if byte == "{" else "before a value"
        elif byte in "}]":
            stack = stack[:-1]
            where = "after a value"
        elif byte == ",":
            where = "before a name" if stack[-1:] == ["{"] else "before a value"
        elif byte == ":":
            where = "before a value"
        elif byte in "-0123456789" and where == "before a value":
            where = "number"
        elif (where == "number" and byte in " \t\n\r") or byte in "el":
            # true, false and null end in e or l; a number goes on behind its e.
            where = where if where == "number" and byte == "e" else "after a value"
    if quoted:
        return "escape" if escaped else quoted
    return where
