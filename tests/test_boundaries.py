"""Walls between the rooms that the import contract cannot see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("engines", "visuals", "playground") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_models_touch_the_inside_of_a_cache(path: Path):
    if ROOT / "engines" / "models" in path.parents:
        return
    assert not re.search(r"cache\.layers|past_key_values|layer\.keys\b", path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_can_be_held_in_the_head(path: Path):
    assert len(path.read_text().splitlines()) <= 600
    assert path.stem not in {"utils", "helpers", "base", "manager"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_imports_the_entry_point(path: Path):
    assert not re.search(r"^\s*(import app\b|from app\b)", path.read_text(), re.MULTILINE)
