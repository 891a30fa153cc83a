"""A set-up in the address bar: `?setup=<compact>`, and `?class=<compact>` for a class that shall see the same run.

A compact text is base64url of: one byte for the version, then a zlib stream (its check sum tells a damaged link from
a whole one) of MessagePack with one-letter names, without what has its default. A setting that has its method's
default is left out too, so a link follows the method when a default changes; a run card does not.

Links come from strangers. `decoded` reads at most `LONGEST` characters and `MOST_BYTES` bytes, checks every type
and range, and answers whatever it cannot read with one `DecodingError`.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engines.errors import DecodingError, shown
from playground.setup import Params, Setup

VERSION = 1
LONGEST = 8_000
"""Characters of a compact text; browsers and proxies take addresses of at least this length."""
MOST_BYTES = 64 * 1024
"""Bytes that a compact text may unpack to."""
MOST_SEED = 2**63 - 1

Short = Annotated[str, Meta(max_length=200)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class BadLink(DecodingError):
    """An address that names no set-up."""


class BadSetup(DecodingError):
    """A set-up that no run could have."""


class Compact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A `Setup` with one-letter names and bounds. Letters are for good: a new meaning takes a new letter."""

    m: Short
    p: Annotated[str, Meta(max_length=MOST_BYTES)]
    o: Annotated[Params, Meta(max_length=64)] = {}
    s: Annotated[int, Meta(ge=0, le=MOST_SEED)] = 0
    n: Count = 96
    r: bool = False
    e: Annotated[tuple[Short, ...], Meta(max_length=32)] = ()
    t: Annotated[float, Meta(gt=0)] | None = None
    g: Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**31)], ...], Meta(max_length=4096)] = ()
    w: Short = ""
    q: Short = ""


_LETTERS = {
    "method": "m",
    "prompt": "p",
    "params": "o",
    "seed": "s",
    "max_new_tokens": "n",
    "raw": "r",
    "stop": "e",
    "time_limit": "t",
    "prefix": "g",
    "model": "w",
    "precision": "q",
}

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Compact)


def encoded(setup: Setup) -> str:
    """The compact text of a set-up. Raises `BadLink` when it is too long for an address."""
    letters = {letter: getattr(setup, name) for name, letter in _LETTERS.items()}
    letters["o"] = chosen(setup)
    body = zlib.compress(_encoder.encode(Compact(**letters)), 9)
    text = base64.urlsafe_b64encode(bytes([VERSION]) + body).decode().rstrip("=")
    if len(text) > LONGEST:
        raise BadLink(
            f"The set-up takes {len(text):,} characters, and a link holds {LONGEST:,}. "
            "Share the run itself or its run card instead, or shorten the prompt."
        )
    return text


def decoded(text: str) -> Setup:
    """The set-up of a compact text. Raises `BadLink`, whatever the text is."""
    if len(text) > LONGEST:
        raise BadLink(f"The link is {len(text):,} characters long, and one can hold {LONGEST:,}. Ask for it again.")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text, re.ASCII):
        raise BadLink("The link holds characters that no link is made of. Copy the whole link and nothing else.")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise BadLink(_DAMAGED) from None
    if data[0] != VERSION:
        raise BadLink(
            f"The link is of version {data[0]}, and this program reads version {VERSION}. "
            "It is damaged, or it was made by a newer program."
        )
    try:
        compact = _decoder.decode(_unpacked(data[1:]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, zlib.error) as error:
        raise BadLink(f"{_DAMAGED} {_reason(error)}".strip()) from None
    setup = Setup(**{name: getattr(compact, letter) for name, letter in _LETTERS.items()})
    try:
        return plausible(setup)
    except BadSetup as error:
        raise BadLink(f"The link cannot be used: {error}") from None


def address(base: str, setup: Setup, *, name: Literal["setup", "class"] = "setup") -> str:
    """The link to a set-up on the page at `base`. Raises `BadLink`."""
    if not re.match(r"https?://[^\s#?]+$", base) or len(base) > 300:
        raise BadLink(f"{shown(base)} is not the address of a page. Write it like http://127.0.0.1:7860/.")
    return f"{base}?{name}={encoded(setup)}"


def plausible(setup: Setup) -> Setup:
    """The same set-up, when its values are such that a run could have them on some machine. Raises `BadSetup`.

    Method, model and settings may be unknown here: that is for `engines.run` to say.
    """
    numbers = [*setup.params.values(), setup.time_limit]
    if any(isinstance(value, float) and not math.isfinite(value) for value in numbers):
        raise BadSetup("One of its numbers is not finite.")
    if any(isinstance(value, int) and abs(value) > MOST_SEED for value in numbers):
        raise BadSetup("One of its numbers is far too large.")
    for name in (setup.method, setup.model, setup.precision):
        if not re.fullmatch(r"[\w./@:+ -]*", name) or len(name) > 200 or ".." in name or name.startswith(("/", "-")):
            raise BadSetup(f"{shown(name)} cannot be a name.")
    return setup


def chosen(setup: Setup) -> Params:
    """The settings that differ from their method's defaults; all of them when the method is not known here."""
    from engines.method import methods

    method = methods().get(setup.method)
    defaults = {one.name: one.default for one in method.settings()} if method else {}
    missing = object()
    return {
        name: value
        for name, value in setup.params.items()
        if (default := defaults.get(name, missing)) != value or type(default) is not type(value)
    }


_DAMAGED = "The link is damaged or not whole. Copy all of it."


def _unpacked(data: bytes) -> bytes:
    """What a zlib stream holds. Raises `BadLink` when that is too much, `zlib.error` when it is no whole stream."""
    stream = zlib.decompressobj()
    body = stream.decompress(data, MOST_BYTES + 1)
    if len(body) > MOST_BYTES:
        raise BadLink(f"The link unpacks to more than {MOST_BYTES // 1024} KB, which no set-up needs.")
    if not stream.eof or stream.unused_data:
        raise zlib.error
    return body


def _reason(error: Exception) -> str:
    """What a validation error says, without its path, when a person may have written the link by hand."""
    return f"({str(error).split(' - at')[0]}.)" if isinstance(error, msgspec.ValidationError) else ""
