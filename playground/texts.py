"""The page's words, in one place: `assets/texts/en.json`, and one file of the same shape per other language.

The server never needs to know which language somebody reads. It sends a `Text`, a key with its arguments, and the
browser says it; `P.say` in `assets/scripts/live.js` is the other half. A key is `section.name`, arguments stand in
braces: `"queue": "{ahead} people are before you"`. What a method, a picture or an error says of itself is written
in its own file, in English; a language may translate the fixed part of it under `methods.<id>.<field>`,
`pictures.<id>.<field>` and `families.<id>`.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

TEXTS = Path(__file__).parents[1] / "assets" / "texts"
ENGLISH = "en"


class Text(msgspec.Struct, frozen=True):
    """A sentence of the page, to be said in the reader's language; arguments are plain values or `Text`."""

    key: str
    args: dict[str, Any] = {}

    def __str__(self) -> str:
        """In English."""
        return filled(texts(ENGLISH)[self.key], self.args)


def text(key: str, **args: Any) -> Text:
    """The text called `key`. Raises `KeyError` when English has no such text, so that a typing error is found early."""
    texts(ENGLISH)[key]
    return Text(key, args)


@cache
def texts(language: str) -> dict[str, str]:
    """All texts of one language by key. Raises `FileNotFoundError` for a language that is not shipped."""
    sections = json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8"))
    return dict(_flat(sections, ""))


def languages() -> list[str]:
    """The shipped languages, English first."""
    return sorted((file.stem for file in TEXTS.glob("*.json")), key=lambda name: (name != ENGLISH, name))


def filled(template: str, args: dict[str, Any]) -> str:
    """`template` with its arguments; braces that name no argument stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda found: str(args.get(found[1], found[0])), template)


def _flat(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(path, value)]
    return [pair for name, below in value.items() for pair in _flat(below, f"{path}.{name}" if path else name)]
