"""How a token is written in a picture: as the model sees it, and harmless.

Spaces become ␣, newlines ⏎, tabs ⇥; other invisible, control and direction-changing characters become their escape;
bytes that are not UTF-8 become hexadecimal in a box. Token text is whatever a model says, so it may be markup: Plotly
reads `<b>`, `<a>` and `&lt;` in every text, and `$…$` as TeX. `visible` is the one way for token text into a drawing.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from engines.events import Token

LONGEST = 24

_SHOWN = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"}
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
# Plotly knows few named entities; numbers it knows all.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "$": "&#36;"})
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"


def _character(char: str) -> str:
    if char in _SHOWN:
        return _SHOWN[char]
    if unicodedata.category(char) in _INVISIBLE:
        code = ord(char)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return char


@lru_cache(maxsize=65536)
def plain(token: Token, width: int = LONGEST) -> str:
    """The token for people, in at most `width` characters. Not escaped: for `textContent`, narrations and tables."""
    if token.hex:
        shown = f"⟦{token.hex}⟧"
    elif not token.text:
        shown = f"⟦{token.id}⟧"
    elif token.text.isascii() and token.text.isprintable():
        shown = token.text[: width + 1].replace(" ", "␣")
    else:
        # One character too many shows that there is more; no need to look at the rest of a very long token.
        shown = "".join(_character(char) for char in token.text[: width + 1])
    if len(shown) > width:
        shown = shown[: width - 1] + "…"
    if unicodedata.category(shown[0]).startswith("M"):
        shown = "◌" + shown[: width - 1]
    if any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in shown):
        # Right-to-left letters would otherwise pull the numbers beside them to the wrong side.
        shown = _ISOLATE + shown + _END_ISOLATE
    return shown


@lru_cache(maxsize=65536)
def visible(token: Token, width: int = LONGEST, pad: bool = False) -> str:
    """The token for a drawing: as `plain`, with markup made harmless; with `pad`, filled with blanks to `width`."""
    shown = plain(token, width)
    return (shown.ljust(width) if pad else shown).translate(_ESCAPES)


def safe(text: str) -> str:
    """Any other text that is not ours (names of filters, rules, samples) for a drawing: one line, markup harmless."""
    return "".join(_character(char) if char != " " else char for char in text).translate(_ESCAPES)


def quoted(token: Token) -> str:
    """The token in quotation marks, for a sentence."""
    return f"“{plain(token)}”"
