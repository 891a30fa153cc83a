"""Writes `docs/reference.md`: every event, picture, method, command, table and setting, each with its line.

The lines are those of the code itself: docstrings, help texts, cards, the module docstring of `playground/schema.py`.
`python -m benchmarks.readme` writes the page along with the README's tables; a test fails when it is out of date, and
when anything has no line.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import sqlite_utils

from engines import events
from engines.method import Method, Setting, methods
from playground import schema
from playground.cards import limits
from playground.cli import parser
from visuals.picture import pictures

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"
README = ROOT / "README.md"

Entry = tuple[str, str]
"""A name and its line."""


def page() -> str:
    """The whole page."""
    return (
        "\n\n".join(
            [
                "# Reference",
                "Everything that has a name, from the code's own words. Written by `python -m benchmarks.readme`.",
                "## Events\n\n" + _line_of(events.__doc__),
                *(_event(kind) for kind in events.EVENTS),
                "## Methods",
                *(_method(method) for method in methods().values()),
                "## Pictures",
                _table("picture", picture_lines()),
                "## Commands\n\nEach begins with `python -m playground`.",
                *(_command(name, command) for name, command in commands()),
                "## Tables of the database",
                *(_stored(name, line) for name, line in table_lines()),
                "## Settings\n\nEnvironment variables.",
                _table("variable", setting_lines()),
            ]
        )
        + "\n"
    )


def lines() -> list[Entry]:
    """Every name with its line; one that has none is a fault of the code."""
    return [
        *((kind.__name__, inspect.getdoc(kind) or "") for kind in events.EVENTS),
        *((method.id, method.idea) for method in methods().values()),
        *((f"{method.id} --param {one.name}", one.help) for method in methods().values() for one in method.settings()),
        *picture_lines(),
        *((name, command.description or "") for name, command in commands()),
        *((f"{name} {_called(action)}", action.help or "") for name, command in commands() for action in _own(command)),
        *table_lines(),
        *setting_lines(),
    ]


def picture_lines() -> list[Entry]:
    """Every picture with what it explains."""
    return [(id, one.explains) for id, one in pictures().items()]


def commands() -> list[tuple[str, argparse.ArgumentParser]]:
    """The commands of `python -m playground`."""
    (choices,) = (a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return list(choices.items())


def table_lines() -> list[Entry]:
    """Every table of a new database with its line in the docstring of `playground/schema.py`."""
    said = {
        name: " ".join(text.split())
        for name, text in re.findall(r"^\* `(\w+)`: (.*?)(?=^\* |\Z)", schema.__doc__ or "", re.DOTALL | re.MULTILINE)
    }
    return [(name, said.get(name, "")) for name in _tables().table_names() if not _is_index(name)]


def setting_lines() -> list[Entry]:
    """The README's table of environment variables."""
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| (.*) \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    return [(names.strip("`"), line) for names, line in rows]


def _event(kind: type[events.Event]) -> str:
    """An event with its fields."""
    own = [name for name in kind.__struct_fields__ if name not in events.Event.__struct_fields__]
    said = _fields().get(kind.__name__, {})
    rows = [f"- `{name}`: `{kind.__annotations__[name]}`" + (f". {said[name]}" if name in said else "") for name in own]
    return "\n".join([f"### {kind.__name__}\n\n{_line_of(kind.__doc__)}\n", *rows]).rstrip()


def _fields() -> dict[str, dict[str, str]]:
    """What stands under the fields of each struct of `engines/events`."""
    found: dict[str, dict[str, str]] = {}
    files = sorted(Path(events.__path__[0]).glob("*.py"))
    for struct in (part for file in files for part in ast.parse(file.read_text(encoding="utf-8")).body):
        if isinstance(struct, ast.ClassDef):
            for field, below in zip(struct.body, struct.body[1:], strict=False):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found.setdefault(struct.name, {})[name] = " ".join(text.split())
    return found


def _method(method: Method) -> str:
    facts = [f"Family: {method.family}. {'Lossless' if method.lossless else 'Not lossless'}."]
    if method.paper:
        facts.append(f"From: {method.paper.title}. {method.paper}.")
    head = f"### {method.title} (`{method.id}`)\n\n{method.idea} {method.look_at}\n\n{' '.join(facts)}"
    settings = [f"- `{one.name}`: {one.help}. {_range(one)}" for one in method.settings()]
    return "\n\n".join([head, *(["\n".join(settings)] if settings else [])])


def _range(setting: Setting) -> str:
    allowed = ", ".join(setting.choices) or ("true or false" if setting.kind is bool else limits(setting))
    return f"Default `{setting.default}`; {allowed}."


def _command(name: str, command: argparse.ArgumentParser) -> str:
    rows = [f"- `{_called(action)}`: {(action.help or '') % {'default': action.default}}" for action in _own(command)]
    return "\n\n".join([f"### {name}\n\n{command.description}", *(["\n".join(rows)] if rows else [])])


def _own(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """A command's options, but for the help that all have; a command of commands has none of its own."""
    for action in command._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            yield action


def _called(action: argparse.Action) -> str:
    if not action.option_strings:
        return action.dest
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else "")
    return f"{', '.join(action.option_strings)} {value}".strip()


def _stored(name: str, line: str) -> str:
    columns = ", ".join(f"`{column.name}` {column.type.lower()}".strip() for column in _tables()[name].columns)
    return f"### {name}\n\n{line[:1].upper()}{line[1:]}\n\nColumns: {columns}."


def _tables() -> sqlite_utils.Database:
    """A new database, in memory."""
    db = sqlite_utils.Database(memory=True)
    schema.migrate(db)
    return db


def _is_index(name: str) -> bool:
    """Whether a table is the inside of a full-text index."""
    return bool(re.fullmatch(r"\w+_(data|idx|content|docsize|config)", name)) or name.startswith("sqlite_")


def _line_of(doc: str | None) -> str:
    """A docstring, its lines joined, paragraphs and lists kept."""
    return inspect.cleandoc(doc or "").replace("\n* ", "\n- ")


def _table(head: str, entries: list[Entry]) -> str:
    return "\n".join([f"| {head} |  |", "| --- | --- |", *(f"| `{name}` | {line} |" for name, line in entries)])


def write() -> None:
    """Brings the page up to date."""
    PAGE.write_text(page(), encoding="utf-8")
