"""The words of the field, in a plain sentence or two each: `assets/glossary.json`.

The browser links them wherever they appear (`P.gloss` in `assets/scripts/glossary.js`); the Learn page lists them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

GLOSSARY = Path(__file__).parents[1] / "assets" / "glossary.json"


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A word with its meaning."""

    word: str
    means: str
    also: tuple[str, ...] = ()
    """Other forms and other names, which are linked too."""
    source: str = ""
    """Where the word comes from, if it is a paper's."""


def load(file: Path = GLOSSARY) -> list[Word]:
    """Every word, in alphabetical order. Raises `ValueError` when one form means two things."""
    words = msgspec.json.decode(file.read_bytes(), type=list[Word])
    forms = [form.lower() for word in words for form in (word.word, *word.also)]
    if twice := {form for form in forms if forms.count(form) > 1}:
        raise ValueError(f"the glossary has more than one entry for {', '.join(sorted(twice))}")
    return sorted(words, key=lambda word: word.word.lower())
