"""Tables and their place in the README."""

from __future__ import annotations

import re

import pytest

from benchmarks.command import Benchmark
from benchmarks.readme import BENCHMARKS
from benchmarks.report import README, RESULTS, filled, table


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


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=[benchmark.name for benchmark in BENCHMARKS])
def test_the_readme_quotes_the_kept_result(benchmark: Benchmark) -> None:
    if benchmark.kept is None:
        pytest.skip("nothing has been measured yet")
    name = benchmark.name
    quoted = re.search(rf"<!-- {name} -->\n\n(.*?)\n\n<!-- /{name} -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert quoted is not None
    assert quoted[1] == benchmark.kept, "run: python -m benchmarks.readme"


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=[benchmark.name for benchmark in BENCHMARKS])
def test_nothing_is_kept_of_a_try_out(benchmark: Benchmark) -> None:
    result = RESULTS / f"{benchmark.name}.json"
    assert not result.exists() or '"quick": true' not in result.read_text(encoding="utf-8")
