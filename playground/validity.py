"""Is the output of a constrained run valid? Asked of somebody who did not help to write it.

    1. the referee of the kind judges the text: jsonschema, Python's re, Lark; a list of choices needs none
    2. the constraint is run again over the text's bytes, without a model: how far does it fit, and may it end there?
    3. valid: the referee says so, or the second reading where no referee can say
       unfinished: every byte fits, but the text may not end yet
       invalid: anything else, with the referee's reason

The referee works in a process of its own with limits (`playground.referee`), since expressions and texts are whatever
somebody typed. Verdicts are kept, so that stepping through a run asks once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, Literal

import msgspec

from engines.errors import DecodingError
from engines.events import Event, Finished, Started, committed
from engines.grammars.guidance import SPACES, Kind, Whitespace
from playground.grammars import KINDS, by_bytes

REFEREE = Path(__file__).with_name("referee.py")
SECONDS = 5.0
AT_ONCE = 2
PATIENCE = 6.0
MOST_KEPT = 256
MOST_BYTES = 64 * 1024
"""Of a text that is judged."""
MOST_PRETTY = 20_000
"""Characters of indented JSON."""

Outcome = Literal["valid", "unfinished", "invalid", "unknown"]


class Validity(msgspec.Struct, frozen=True):
    """The verdict on one text."""

    outcome: Outcome
    kind: Kind
    by: str
    """Who says so, e.g. `jsonschema 4.26.0`; `list` for the choices themselves, `again` for a second reading by the
    engine that made the masks, `` for nobody."""
    why: str = ""
    """What is wrong, or why nobody could say."""
    pretty: str = ""
    """The text with its JSON indented; empty when it is none."""


_kept: OrderedDict[tuple[str, ...], Validity] = OrderedDict()
_lock = Lock()
_turns = BoundedSemaphore(AT_ONCE)


def validity(events: Sequence[Event]) -> Validity | None:
    """The verdict on a run's output; None when it was not constrained, or has not ended."""
    header, last = (events[0], events[-1]) if events else (None, None)
    if not isinstance(header, Started) or not isinstance(last, Finished):
        return None
    # A method that takes grammars only has no setting for their kind.
    kind, grammar = header.params.get("constraint", "grammar"), header.params.get("grammar")
    if kind not in KINDS or not isinstance(grammar, str) or not committed(events):
        return None
    space = header.params.get("whitespace")
    whitespace: Whitespace = space if space in SPACES else "one space"
    return judged(kind, grammar, last.text, whitespace)


def judged(kind: Kind, grammar: str, text: str, whitespace: Whitespace = "one space") -> Validity:
    """The verdict on a text."""
    key = (kind, grammar, text, whitespace)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    found = _judged(kind, grammar, text, whitespace)
    if found.outcome != "unknown":
        with _lock:
            _kept[key] = found
            while len(_kept) > MOST_KEPT:
                _kept.popitem(last=False)
    return found


def _judged(kind: Kind, grammar: str, text: str, whitespace: Whitespace) -> Validity:
    if len(text.encode("utf-8", "replace")) > MOST_BYTES:
        return Validity("unknown", kind, "", f"The text is longer than {MOST_BYTES:,} bytes.")
    said = _choice(grammar, text) if kind == "choices" else asked(kind, grammar, text)
    shown = pretty(text) if kind != "regex" and kind != "choices" else ""
    if said["valid"]:
        return Validity("valid", kind, said["by"], pretty=shown)
    try:
        fits, may_end, bytes_ = _read_again(kind, grammar, text, whitespace)
    except DecodingError as error:
        return Validity("unknown", kind, said["by"], said["why"] or str(error)[:300], shown)
    if fits == bytes_ and not may_end:
        return Validity("unfinished", kind, said["by"], pretty=shown)
    if said["valid"] is None:
        if fits == bytes_:
            return Validity("valid", kind, "again", said["why"], shown)
        return Validity("invalid", kind, "again", f"It fits up to byte {fits}.", shown)
    return Validity("invalid", kind, said["by"], said["why"], shown)


def asked(kind: str, grammar: str, text: str) -> dict[str, Any]:
    """The referee's opinion; it has none when it takes too long."""
    request = json.dumps({"kind": kind, "grammar": grammar, "text": text})
    if not _turns.acquire(timeout=PATIENCE):
        return {"valid": None, "by": "", "why": "Too many texts are being checked. Try again in a moment."}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(REFEREE)], input=request, capture_output=True, text=True, timeout=SECONDS
        )
        said = json.loads(done.stdout or "null")
    except (subprocess.TimeoutExpired, ValueError, OSError):
        said = None
    finally:
        _turns.release()
    if not isinstance(said, dict):
        return {"valid": None, "by": "", "why": f"The check was given up: it took more than its {SECONDS:g} s or room."}
    return said


def _choice(grammar: str, text: str) -> dict[str, Any]:
    choices = {line for line in grammar.splitlines() if line.strip()}
    found = text in choices
    return {"valid": found, "by": "list", "why": "" if found else "It is none of the choices."}


def _read_again(kind: Kind, grammar: str, text: str, whitespace: Whitespace) -> tuple[int, bool, int]:
    """How many bytes fit, whether the text may end there, and how many there are."""
    constraint = by_bytes(kind, grammar, whitespace)
    data = text.encode("utf-8", "replace")
    fits = next((place for place, byte in enumerate(data) if not constraint.commit(byte)), len(data))
    return fits, constraint.accepting, len(data)


def pretty(text: str) -> str:
    """JSON, indented; empty when the text is none, or too long for a page."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(value, dict | list):
        return ""
    shown = json.dumps(value, indent=2, ensure_ascii=False)
    return shown if len(shown) <= MOST_PRETTY else shown[:MOST_PRETTY] + "\n…"
