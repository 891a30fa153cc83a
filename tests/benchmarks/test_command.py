"""The command of a benchmark: its options, and what is kept."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pytest

from benchmarks import command
from benchmarks.command import Benchmark


class Result(msgspec.Struct):
    said: str


def measured(chosen: argparse.Namespace) -> Result:
    return Result(f"{chosen.rounds} {chosen.methods}")


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    return Benchmark(
        "two-words", "What it is.\nMore.", Result, measured, lambda result: result.said, quick="little",
        numbers={"rounds": (3, "")}, parts={"methods": "only these"},
    )  # fmt: skip


def test_the_result_is_printed_and_kept(
    benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["--rounds", "2"]) == 0
    assert capsys.readouterr().out == "2 \n"
    assert msgspec.json.decode((tmp_path / "two-words.json").read_bytes(), type=Result) == Result("2 ")


@pytest.mark.parametrize("part", [["--quick"], ["--methods", "a,b"]])
def test_nothing_is_kept_of_a_part(benchmark: Benchmark, tmp_path: Path, part: list[str]) -> None:
    benchmark.main(part)
    assert list(tmp_path.iterdir()) == []
    benchmark.main([*part, "--results", str(tmp_path / "asked")])
    assert [path.name for path in (tmp_path / "asked").iterdir()] == ["two-words.json"]


def test_the_help_names_the_module(benchmark: Benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    said = capsys.readouterr().out
    assert "python -m benchmarks.two_words" in said
    assert "--methods A,B" in said
