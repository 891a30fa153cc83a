"""Where in a Python text its end lies: in code, a comment or a string; what is open; whether a member may follow.

A reading is immutable and goes on byte by byte, so that it can be kept for every token of a text that is being
written, and gone back to. Unfinished and broken code has a reading too: a string that is not closed ends with its line.

`read` decides by these rules

    1. a dot asks for a member if it stands in code behind a name, a closing bracket or a string, and so not behind a
       number, a keyword, another dot or nothing
    2. the fields of an f-string are code
    3. a name ends before the first character that is no word character, as in Python's own `tokenize`
"""

from __future__ import annotations

import keyword
import re
from typing import NamedTuple

CLOSER = {ord("("): ")", ord("["): "]", ord("{"): "}"}
_VALUES = {b"None", b"True", b"False"}
_KEYWORDS = {word.encode() for word in keyword.kwlist} - _VALUES
_FORMATTED = {prefix.encode() for prefix in ("f", "fr", "rf", "t", "tr", "rt")}
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") | frozenset(range(0x80, 0x100))
_ENDS_VALUE = frozenset(b")]}\"'")
_QUOTES = frozenset(b"\"'")
LONGEST_WORD = 16
"""Of a word no more is remembered: enough to know every keyword."""


class Reading(NamedTuple):
    """The end of a text. `open` holds what would close what is open, outermost first; a field of an f-string is closed
    by its brace and the string's quotes together."""

    mode: str = "code"
    """`code`, `comment`, `quotes` (one or two quotes, not yet known of what) or `string`."""
    open: tuple[str, ...] = ()
    dot: bool = False
    """Whether the last byte is a dot that asks for a member."""
    word: bytes = b""
    in_word: bool = False
    last: int = -1
    """The last byte in code that is not a space."""
    quote: int = 0
    long: bool = False
    formatted: bool = False
    run: int = 0
    """Quotes in a row; in an f-string also whether a brace is open (-1)."""
    escaped: bool = False

    @property
    def closers(self) -> str:
        """What would close everything that is open."""
        return "".join(reversed(self.open))


def read(reading: Reading, piece: bytes) -> Reading:
    """The reading when the text goes on by `piece`."""
    for byte in piece:
        reading = step(reading, byte)
    return reading


def step(at: Reading, byte: int) -> Reading:
    """The reading when the text goes on by one byte."""
    if at.mode == "string":
        return _in_string(at, byte)
    if at.mode == "comment":
        return at._replace(mode="code") if byte == 10 else at
    if at.mode == "quotes":
        if byte == at.quote:
            return at._replace(run=2) if at.run == 1 else at._replace(mode="string", long=True, run=0)
        if at.run == 1:
            return _in_string(at._replace(mode="string", long=False, run=0), byte)
        at = _string_over(at)
    return _in_code(at, byte)


def _in_code(at: Reading, byte: int) -> Reading:
    if byte in _WORD:
        word = at.word + bytes([byte]) if at.in_word else bytes([byte])
        return at._replace(word=word[:LONGEST_WORD], in_word=True, last=byte, dot=False)
    if byte in b" \t\r\n\f\\":
        if byte == 10 and at.open and len(at.open[-1]) == 2:
            # A field of a short f-string cannot go on in the next line: the string is broken.
            return Reading()
        return at._replace(in_word=False, dot=False)
    if byte == ord("."):
        return at._replace(dot=_asks(at), in_word=False, last=byte)
    if byte == ord("#"):
        return at._replace(mode="comment", in_word=False, dot=False)
    if byte in _QUOTES:
        formatted = at.in_word and at.word.lower() in _FORMATTED
        return at._replace(mode="quotes", quote=byte, run=1, formatted=formatted, escaped=False, dot=False)
    top = at.open[-1] if at.open else ""
    at = at._replace(in_word=False, last=byte, dot=False)
    if len(top) > 1 and chr(byte) in ":}":
        quotes = top[1:]
        return at._replace(
            mode="string", open=at.open[:-1], quote=ord(quotes[0]), long=len(quotes) == 3, formatted=True, run=0
        )
    if byte in CLOSER:
        return at._replace(open=(*at.open, CLOSER[byte]))
    if top and chr(byte) == top:
        return at._replace(open=at.open[:-1])
    return at


def _asks(at: Reading) -> bool:
    if at.last in _ENDS_VALUE:
        return True
    return at.last in _WORD and at.word not in _KEYWORDS and not at.word[:1].isdigit()


def _in_string(at: Reading, byte: int) -> Reading:
    if at.escaped:
        return at._replace(escaped=False)
    if at.formatted and at.run == -1 and byte != ord("{"):
        quotes = chr(at.quote) * (3 if at.long else 1)
        return _in_code(at._replace(mode="code", open=(*at.open, "}" + quotes), in_word=False, last=-1, run=0), byte)
    if byte == ord("\\"):
        return at._replace(escaped=True, run=0)
    if byte == at.quote:
        if not at.long or at.run == 2:
            return _string_over(at)
        return at._replace(run=at.run + 1)
    if byte == 10 and not at.long:
        return _string_over(at)
    if at.formatted and byte == ord("{"):
        return at._replace(run=0 if at.run == -1 else -1)
    return at if at.run == 0 else at._replace(run=0)


def _string_over(at: Reading) -> Reading:
    return at._replace(mode="code", in_word=False, last=at.quote, run=0, escaped=False, formatted=False, dot=False)


def name_ends(piece: bytes, place: int) -> bool:
    """Whether the byte at this place of a token cannot go on a name. A character that the token leaves unfinished, or
    had begun before it, is not known and is taken for a part of the name."""
    char = _character(piece, place)
    return char is not None and re.match(r"\W", char) is not None


def name_begins(piece: bytes, place: int) -> bool:
    """Whether a name begins at this place of a token; a character that the token leaves unfinished may be a letter."""
    if place >= len(piece):
        return False
    char = _character(piece, place)
    return char.isidentifier() if char is not None else piece[place] >= 0xC2


def _character(piece: bytes, place: int) -> str | None:
    first = piece[place]
    if first < 0x80:
        return chr(first)
    size = 2 if 0xC2 <= first < 0xE0 else 3 if 0xE0 <= first < 0xF0 else 4 if 0xF0 <= first < 0xF5 else 0
    try:
        return piece[place : place + size].decode() if size else None
    except UnicodeDecodeError:
        return None
