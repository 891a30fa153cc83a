"""What a mask lets through, in words: which characters may come next."""

from __future__ import annotations

import numpy as np

from engines.grammars.vocabulary import Bits, Vocabulary

NAMES = {0x20: "a space", 0x0A: "a line break", 0x09: "a tab", 0x0D: "a carriage return"}
GROUPS = (
    ("a digit", frozenset(range(0x30, 0x3A))),
    ("a capital letter", frozenset(range(0x41, 0x5B))),
    ("a small letter", frozenset(range(0x61, 0x7B))),
    ("a character beyond ASCII", frozenset(range(0x80, 0x100))),
)
MOST = 12
"""Single characters that are named."""


def what_may_follow(bits: Bits, vocabulary: Vocabulary) -> str:
    """E.g. `a digit, “,” or the end of the text`, from the first bytes of the allowed tokens."""
    flags = vocabulary.flags(bits)
    firsts = vocabulary.first_bytes
    bytes_ = set(np.unique(firsts[flags & (firsts >= 0)]).tolist())
    parts: list[str] = []
    for name, group in GROUPS:
        found = bytes_ & group
        if len(found) == len(group) or (name.startswith("a character") and found):
            parts.append(name)
            bytes_ -= group
        elif len(found) > MOST:
            parts.append(f"{name} ({len(found)} of {len(group)})")
            bytes_ -= group
    if len(bytes_) > MOST:
        parts.append(f"{len(bytes_)} other characters")
    else:
        parts += [NAMES.get(byte, f"“{chr(byte)}”") for byte in sorted(bytes_)]
    if any(flags[end] for end in vocabulary.ends):
        parts.append("the end of the text")
    if not parts:
        return "nothing: a dead end"
    return ", ".join(parts[:-1]) + " or " + parts[-1] if len(parts) > 1 else parts[0]
