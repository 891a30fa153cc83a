"""Grammars on the page: the gallery, and reading what somebody types, before any model is asked.

The gallery stands in `assets/grammars.json`. Its entries of the kind `grammar` are Lark text that both llguidance and
Lark read. What is typed is read over the 256 bytes instead of a model's tokens: the mistakes are the same, and neither
a model nor its tables are needed. It comes from strangers, so only so many are read at a time.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from threading import BoundedSemaphore
from typing import get_args

import msgspec

from engines.errors import DecodingError
from engines.events import Token
from engines.grammars.cfg import Grammar
from engines.grammars.constraint import BadGrammar
from engines.grammars.guidance import Guidance, Kind, Whitespace, compile_guidance
from engines.grammars.vocabulary import Vocabulary

FILE = Path(__file__).parents[1] / "assets" / "grammars.json"
KINDS: tuple[Kind, ...] = get_args(Kind)
AT_ONCE = 2
PATIENCE = 1.0
"""Seconds that one waits for a turn to be read."""
MOST_SAID = 400
"""Characters of a complaint; engines quote what they were given."""

END = 256
BYTES = Vocabulary(
    [*(bytes([byte]) for byte in range(256)), b""],
    special=(),
    ends=(END,),
    tokenise=lambda text: list(text.encode("utf-8", "replace")),
    spell=lambda id: Token(id, chr(id)) if id < 128 else Token(id, "", f"{id:02x}" if id < END else ""),
)
"""One token per byte, and an end."""

_turns = BoundedSemaphore(AT_ONCE)


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A grammar of the gallery."""

    id: str
    title: str
    """In English; a language may translate it as `grammars.<id>.title`, and the note as `grammars.<id>.note`."""
    kind: Kind
    grammar: str
    prompt: str
    note: str
    """What it allows, and what it cannot know."""


class Read(msgspec.Struct, frozen=True):
    """What reading a grammar came to; `busy` when nobody had time for it."""

    good: bool = False
    busy: bool = False
    milliseconds: float = 0.0
    says: str = ""
    """The first mistake."""
    line: int = 0
    column: int = 0
    """Where it is, counted from 1; 0 where no place is known."""


@cache
def load(file: Path = FILE) -> dict[str, Example]:
    """The gallery by id, in the order of the file."""
    return {one.id: one for one in msgspec.json.decode(file.read_bytes(), type=list[Example])}


def read(kind: Kind, text: str, *, tabled: bool = False) -> Read:
    """Whether this can be used, and where the first mistake is if not. Takes some seconds at most.

    `tabled` reads a grammar as methods do that make an LALR(1) table of it, which must be free of conflicts.
    """
    if not _turns.acquire(timeout=PATIENCE):
        return Read(busy=True)
    try:
        began = time.perf_counter()
        if tabled:
            Grammar.from_lark(text)
        else:
            compile_guidance(kind, text, BYTES)
        return Read(good=True, milliseconds=1000 * (time.perf_counter() - began))
    except BadGrammar as error:
        return Read(says=str(error)[:MOST_SAID], line=error.line, column=error.column)
    except DecodingError as error:
        return Read(says=str(error)[:MOST_SAID])
    finally:
        _turns.release()


def by_bytes(kind: Kind, text: str, whitespace: Whitespace = "one space") -> Guidance:
    """The constraint over single bytes. Raises `BadGrammar`."""
    return compile_guidance(kind, text, BYTES, whitespace=whitespace)
