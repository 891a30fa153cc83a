"""The README and the reference keep up: everything that has a name is in them, and their code runs."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from benchmarks import reference
from benchmarks.readme import methods_table
from engines import events
from engines.method import methods
from engines.models.causal import CausalModel
from playground.cli import parser
from playground.schema import migrate
from visuals.picture import pictures

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """The commands of `python -m playground`."""
    (choices,) = (a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return list(choices)


def settings() -> set[str]:
    """The environment variables that the code reads."""
    sources = [path for room in ("engines", "visuals", "playground") for path in (ROOT / room).rglob("*.py")]
    return {
        name
        for path in [*sources, ROOT / "app.py"]
        for name in re.findall(r"DECODING_PLAYGROUND_\w+", path.read_text())
    }


def tables() -> list[str]:
    """The tables of a new database, without the insides of the full-text index."""
    db = Database(memory=True)
    migrate(db)
    names = [name for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
    return [name for name in names if not name.startswith(("words_", "sqlite_"))]


def test_every_method_is_in_the_readme() -> None:
    missing = [id for id in methods() if f"| `{id}` |" not in README]
    assert missing == [], "run: python -m benchmarks.readme"


def test_the_table_of_methods_is_the_registry() -> None:
    assert f"<!-- methods -->\n\n{methods_table()}\n\n<!-- /methods -->" in README, "run: python -m benchmarks.readme"


@pytest.mark.parametrize("name", commands())
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"python -m playground {name}" in README


@pytest.mark.parametrize("name", sorted(settings()))
def test_every_setting_is_in_the_readme(name: str) -> None:
    assert f"| `{name}` |" in README


def test_the_reference_is_up_to_date() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run: python -m benchmarks.readme"


@pytest.mark.parametrize(("name", "line"), [pytest.param(*entry, id=entry[0]) for entry in reference.lines()])
def test_everything_that_has_a_name_has_its_line(name: str, line: str) -> None:
    assert len(line.split()) >= 2, f"{name} has no docstring, help or description"


@pytest.mark.parametrize("kind", ["events", "pictures", "methods", "commands", "tables", "settings"])
def test_the_reference_leaves_nothing_out(kind: str) -> None:
    """Counted without the page's own lists."""
    named = {
        "events": [event.__name__ for event in events.Event.__subclasses__()],
        "pictures": list(pictures()),
        "methods": list(methods()),
        "commands": commands(),
        "tables": tables(),
        "settings": sorted(settings()),
    }[kind]
    assert named
    page = reference.PAGE.read_text(encoding="utf-8")
    marks = {"pictures": "| `{}` |", "methods": "(`{}`)", "settings": "| `{}` |"}
    assert [name for name in named if marks.get(kind, "### {}\n").format(name) not in page] == []


def test_every_file_that_the_readme_shows_is_there() -> None:
    named = re.findall(r"\]\(([\w./-]+)\)", README)
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_front_matter_names_what_is_installed() -> None:
    matter = README.split("---")[1]
    lock = (ROOT / "requirements.txt").read_text()
    version = re.search(r"^gradio==([\d.]+)", lock, re.MULTILINE)
    assert version is not None
    assert f"sdk_version: {version[1]}\n" in matter
    assert "app_file: app.py\n" in matter


def test_every_command_line_of_the_readme_is_understood() -> None:
    lines = re.findall(r"^python -m playground ((?:.*\\\n)*.*)$", README, re.MULTILINE)
    assert lines
    for line in lines:
        words = [a or b for a, b in re.findall(r'"([^"]*)"|(\S+)', line.replace("\\\n", " ").split("  #")[0])]
        parser().parse_args(words)


def test_the_code_of_the_readme_runs(smollm: CausalModel) -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in blocks:
            exec(block, names)
    assert "tokens per target pass" in said.getvalue()
    assert names["drawing"]["data"]
