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
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

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
"""Why one side allows a token and the other does not:

special token      it spells nothing; no text may hold it
end of text        one side takes the text for complete
DEL character      7F, which JSON allows in strings
control character  80 to 9F, as UTF-8, which JSON allows in strings, or one below 20, which it does not
forced cut         the bytes are allowed but not this cut of them: the side shows the usual token alone
whitespace         between the parts of JSON
property order     another property, or the end of the object, at the place of a name
escape             a backslash in a string, or what follows it
not UTF-8          bytes that are no character
characters         other characters in a string, or its end
number             digits, sign, fraction, exponent
value              another value, or another sign of punctuation
unspeakable        the vocabulary lacks a token for one of the bytes, so nobody can be asked
"""


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


def mask_differences(a: Constraint, b: Constraint, text: str | Sequence[int]) -> Comparison:
    """Walks one text with two constraints and explains every token on which they differ.

    Neither constraint is moved. Foreign engines are asked for their masks before our rules are applied to them.

    Args:
        text: or its tokens; both constraints should be at the place where it begins.
    """
    a, b = a.fork(), b.fork()
    vocabulary = a.vocabulary
    tokens = vocabulary.tokenise(text) if isinstance(text, str) else list(text)
    single = {piece[0]: id for id in vocabulary.text_ids.tolist() if len(piece := vocabulary.bytes_of[id]) == 1}
    found: list[Difference] = []
    for place in range(len(tokens) + 1):
        before = vocabulary.decode(tokens[:place])
        told = (_told(a), _told(b))
        for bits, by, other in ((told[0] & ~told[1], a, b), (told[1] & ~told[0], b, a)):
            for token in np.flatnonzero(vocabulary.flags(bits)).tolist():
                cause, reading = _cause(token, other, before, single)
                found.append(Difference(place, vocabulary.spell(token), by.engine, cause, reading))
        if place < len(tokens):
            taken = [side.commit(tokens[place]) for side in (a, b)]
            if not all(taken):
                who = " and ".join(side.engine for side, took in zip((a, b), taken, strict=True) if not took)
                return Comparison(tuple(found), place + 1, who)
    return Comparison(tuple(found), len(tokens) + 1)


def _told(constraint: Constraint) -> Bits:
    return constraint.told() if isinstance(constraint, Peer) else constraint.mask()


def _cause(token: int, other: Constraint, before: bytes, single: dict[int, int]) -> tuple[Cause, int]:
    """Why `other` refuses a token, and at which of its bytes it stops."""
    vocabulary = other.vocabulary
    if token in vocabulary.ends:
        return "end of text", -1
    if token in vocabulary.special:
        return "special token", -1
    piece = vocabulary.bytes_of[token]
    reading = _reads(other, piece, single)
    if reading is None:
        return ("DEL character", piece.index(0x7F)) if 0x7F in piece else ("unspeakable", -1)
    if reading == len(piece):
        return "forced cut", reading
    return _named(piece, reading, before + piece[:reading]), reading


def _reads(constraint: Constraint, piece: bytes, single: dict[int, int]) -> int | None:
    """How many bytes of a token a constraint takes one by one; None when there is no token for the next one."""
    trial = constraint.fork()
    for place, byte in enumerate(piece):
        if byte not in single:
            return None
        if not trial.commit(single[byte]):
            return place
    return len(piece)


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
