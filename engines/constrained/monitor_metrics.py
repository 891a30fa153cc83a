"""How good a continuation of code is, measured as in the paper of monitor-guided decoding (arXiv 2306.10763).

    compile rate (CR)                the code parses, and every member that it names exists
    next identifier match (NIM)      the first identifier is the true one
    identifier sequence match (ISM)  share of the true identifiers that are met, in order, before the first difference
    prefix match (PM)                the same of all language tokens
    score@k                          the best of k texts, expected over all choices of k among the n that were drawn:
                                     (1 / C(n, k)) Σ_i v_i C(n - i, k - 1), v falling, i from 1 to n - k + 1

The paper compiles Java. Python has no such judge, so the first is a proxy: a member exists if the analyser offers it,
or knows nothing there, which is counted apart. The prompts (`assets/pydot.json`) are our own two-file projects.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from engines.constrained.monitor_guided import defined_names, without_imports
from engines.grammars.analyser import Analyser, analyser
from engines.grammars.python_lexis import Reading, name_begins, step

PROMPTS = Path(__file__).parents[2] / "assets" / "pydot.json"

_STRING = r"""[a-zA-Z]{0,2}(?:'''.*?(?:'''|\Z)|\"{3}.*?(?:\"{3}|\Z)|'(?:\\.|[^'\\\n])*'?|"(?:\\.|[^"\\\n])*"?)"""
_OPERATOR = r"\*\*=?|//=?|->|:=|[=!<>+\-*/%&|^@]=|<<=?|>>=?|[^\s\w]"
_TOKEN = re.compile(
    rf"#[^\n]*|(?P<string>{_STRING})|(?P<name>[^\W\d]\w*)|(?P<number>\d[\w.]*)|(?P<operator>{_OPERATOR})", re.DOTALL
)


class DotPrompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A two-file project, cut behind a dot."""

    id: str
    context: str
    """The other file."""
    prompt: str
    """The file to be continued; ends with the dot."""
    truth: str
    """How it goes on."""


@dataclass(frozen=True, slots=True)
class Members:
    """What became of the members that a text names."""

    resolved: int
    invented: tuple[str, ...]
    unknown: int
    """Those where the analyser knew nothing."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One text's, each from 0 to 1."""

    compiles: float
    next_identifier: float
    identifier_sequence: float
    prefix: float


@cache
def dot_prompts() -> tuple[DotPrompt, ...]:
    """The prompts to measure with."""
    return tuple(msgspec.convert(json.loads(PROMPTS.read_text("utf-8")), list[DotPrompt]))


def scores(prompt: DotPrompt, text: str, *, asked: Analyser | None = None) -> Scores:
    """All of one continuation's. Only its first line is compiled: a model goes on for ever, the truth does not."""
    line = text.partition("\n")[0]
    judged = members(prompt.context, prompt.prompt, line, asked=asked)
    return Scores(
        compiles=float(parses(prompt.prompt + line) and not judged.invented),
        next_identifier=float(identifiers(text)[:1] == identifiers(prompt.truth)[:1]),
        identifier_sequence=met(identifiers(text), identifiers(prompt.truth)),
        prefix=met(tokens(text), tokens(prompt.truth)),
    )


def parses(code: str) -> bool:
    """Whether it is Python. Nothing is executed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def members(context: str, prompt: str, text: str, *, asked: Analyser | None = None) -> Members:
    """Asks the analyser at every dot of `text`, and at one that the prompt ends with."""
    judge, defined = asked or analyser(), defined_names(context)
    code = (prompt + text).encode("utf-8", "replace")
    begin = len(prompt.encode("utf-8", "replace")) - 1
    reading, resolved, unknown, invented = Reading(), 0, 0, list[str]()
    for place, byte in enumerate(code):
        reading = step(reading, byte)
        if place < begin or not reading.dot or not name_begins(code, place + 1):
            continue
        name = re.match(r"\w+", code[place + 1 :].decode("utf-8", "replace"))
        before = without_imports(code[: place + 1].decode("utf-8", "replace"), defined)
        names = judge.names(f"{context}\n{before}", reading.closers).names
        if not names:
            unknown += 1
        elif name and name[0] in names:
            resolved += 1
        else:
            invented.append(name[0] if name else "")
    return Members(resolved, tuple(invented), unknown)


def tokens(code: str) -> list[str]:
    """The tokens of a piece of Python, also an unfinished one; comments and spaces left out."""
    return [found[0] for found in _TOKEN.finditer(code) if found.lastgroup]


def identifiers(code: str) -> list[str]:
    """The names in a piece of Python."""
    names = (found["name"] for found in _TOKEN.finditer(code))
    return [name for name in names if name and not keyword.iskeyword(name)]


def met(written: Sequence[str], truth: Sequence[str]) -> float:
    """Share of `truth` that `written` meets before the first difference; 1 if there is nothing to meet."""
    same = 0
    while same < min(len(written), len(truth)) and written[same] == truth[same]:
        same += 1
    return same / len(truth) if truth else 1.0


def score_at_k(values: Sequence[float], k: int) -> float:
    """The expected best of `k` values drawn without replacement. Raises `ValueError` unless 1 ≤ k ≤ len(values)."""
    n = len(values)
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to {n}, not {k}")
    ordered = sorted(values, reverse=True)
    return sum(v * math.comb(n - i, k - 1) for i, v in enumerate(ordered[: n - k + 1], 1)) / math.comb(n, k)
