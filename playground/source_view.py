"""A method's code beside its run: which files it is made of, and which line came to each event of a step.

An event's `at` is text that may come from an imported run, so it is never a path: it is looked up among the modules
of `engines` and of the registered methods, and nothing else is ever read.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, _TokenType

import engines
from engines.errors import DecodingError
from engines.events import Event, Started
from engines.method import Method
from engines.runner import code
from playground.ui.shelf import steps

SHARED_BY_ALL = {"engines.errors", "engines.events", "engines.method", "engines.runner"}
"""What every method imports and no step of it happens in."""
LONGEST = 200_000
"""Characters of a file that are shown."""
KINDS: tuple[tuple[_TokenType, str], ...] = (
    (String.Doc, "c"),
    (Comment, "c"),
    (Keyword, "k"),
    (Operator.Word, "k"),
    (String, "s"),
    (Number, "n"),
    (Name.Decorator, "d"),
    (Name.Function, "f"),
    (Name.Class, "f"),
)
"""Kinds of code that have a colour, each with the class of its spans; the first that fits counts."""


class Happened(msgspec.Struct, frozen=True):
    """An event of a step, and the place that the method had come to."""

    kind: str
    module: str
    line: int
    """0 when the place is not known."""


class Step(msgspec.Struct, frozen=True):
    """What the code panel shows for a step."""

    method: str
    modules: tuple[str, ...]
    """The method's own module first, then those it uses."""
    events: tuple[Happened, ...]
    stale: bool
    """Whether the run was made by other code than today's, so that lines may be off."""


class NotShown(DecodingError):
    """Code that is none of a method's."""


Line = list[tuple[str, str]]
"""Spans of a line: class and text."""


def step_of(events: Sequence[Event], step: int | None, methods: Mapping[str, Method]) -> Step:
    """The files behind a run, and the events of its `step`-th step (default: the last)."""
    header = events[0] if events else None
    if not isinstance(header, Started):
        return Step("", (), (), False)
    ends = steps(events)
    last = len(ends) - 1
    step = last if step is None else max(0, min(step, last))
    happened = tuple(_happened(event, methods) for event in events[ends[step - 1] if step else 0 : ends[step]])
    method = methods.get(header.method)
    own = modules_of(method) if method else ()
    used = dict.fromkeys((*own, *(one.module for one in happened if one.module)))
    return Step(method.title if method else header.method, tuple(used), happened, header.code != code())


def modules_of(method: Method) -> tuple[str, ...]:
    """A method's own module, then those of `engines` that it and its shared loop import, its own family first."""
    own = method.generate.__module__
    found = [own]
    for module in found:  # grows while it is read: what the shared loop imports belongs to the method too
        found += [name for name in _imports(module) if name not in found and name not in SHARED_BY_ALL]
    family = own.rpartition(".")[0]
    return tuple(sorted(found, key=lambda name: (name != own, name.rpartition(".")[0] != family)))


@cache
def source(module: str, methods: frozenset[str] = frozenset()) -> tuple[Line, ...]:
    """A module's lines in coloured spans. Raises `NotShown` unless it is in `engines` or one of `methods`."""
    path = _ours().get(module)
    if path is None and module in methods:
        spec = importlib.util.find_spec(module)
        path = Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
    if path is None:
        raise NotShown("Only the code of decoding methods is shown.")
    return coloured(path.read_text(encoding="utf-8")[:LONGEST])


def coloured(text: str) -> tuple[Line, ...]:
    """Python source as lines of spans; the text of all spans together is the source."""
    lines: list[Line] = [[]]
    for kind, value in PythonLexer(stripnl=False, ensurenl=False).get_tokens(text):
        name = next((name for family, name in KINDS if kind in family), "")
        for index, part in enumerate(value.split("\n")):
            if index:
                lines.append([])
            if not part:
                continue
            if lines[-1] and lines[-1][-1][0] == name:
                lines[-1][-1] = (name, lines[-1][-1][1] + part)
            else:
                lines[-1].append((name, part))
    return tuple(lines[:-1] if lines[-1] == [] else lines)


@cache
def _ours() -> dict[str, Path]:
    """Every module of `engines` by name. Nothing is imported to find them."""
    root = Path(engines.__file__).parent
    names = {file: ".".join(("engines", *file.relative_to(root).with_suffix("").parts)) for file in root.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of `engines` that one of them imports."""
    path = _ours().get(module)
    tree = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])
    named = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    # The models' inside is none of the methods' business.
    return tuple(name for name in named if name in _ours() and not name.startswith("engines.models"))


def _happened(event: Event, methods: Mapping[str, Method]) -> Happened:
    kind = type(event).__name__
    module, _, line = event.at.partition(":")
    known = module in _ours() or any(module == method.generate.__module__ for method in methods.values())
    return (
        Happened(kind, module, int(line))
        if known and line.isascii() and line.isdecimal() and len(line) < 7
        else Happened(kind, "", 0)
    )
