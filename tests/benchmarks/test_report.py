"""Tables and their place in the README."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import overhead, speculative
from benchmarks.report import README, filled, saved, table


def test_table() -> None:
    assert table(["", "speed"], [["a", "1"], ["b", "2"]]) == "|  | speed |\n| --- | ---: |\n| a | 1 |\n| b | 2 |"


def test_filled_replaces_what_is_between_the_markers_only() -> None:
    page = "before <!-- x --> old <!-- /x --> after <!-- y --> other <!-- /y -->"
    once = filled(page, "x", "new")
    assert once == "before <!-- x -->\n\nnew\n\n<!-- /x --> after <!-- y --> other <!-- /y -->"
    assert filled(once, "x", "new") == once


@pytest.mark.parametrize("page", ["", "<!-- x -->", "<!-- /x --> <!-- x -->"])
def test_filled_needs_both_markers(page: str) -> None:
    with pytest.raises(ValueError, match="no place for x"):
        filled(page, "x", "new")


@pytest.mark.parametrize(
    ("name", "kind", "tables"),
    [("overhead", overhead.Overhead, overhead.tables), ("speculative", speculative.Speculation, speculative.tables)],
    ids=["overhead", "speculative"],
)
def test_the_readme_quotes_the_kept_result(name: str, kind: type[Any], tables: Callable[[Any], str]) -> None:
    kept = saved(kind, name)
    if kept is None:
        pytest.skip("nothing has been measured yet")
    assert not kept.setting.quick
    quoted = re.search(rf"<!-- {name} -->\n\n(.*?)\n\n<!-- /{name} -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert quoted is not None
    assert quoted[1] == tables(kept), f"run: python -m benchmarks.{name} --readme"
