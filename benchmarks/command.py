"""What every benchmark's command does: measure, print the tables, keep the result.

    python -m benchmarks.<name>            measure; print the tables; keep them in benchmarks/results
    python -m benchmarks.<name> --quick    a try-out that keeps nothing

`python -m benchmarks.readme` copies what was kept last into the README.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report import RESULTS, save, saved
from engines.models.catalogue import DEFAULT


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One measurement: the result's name, type and tables, and how it is made from the command's options."""

    name: str
    about: str
    """The module's docstring; its first line describes the command."""
    kind: type[msgspec.Struct]
    measure: Callable[[argparse.Namespace], msgspec.Struct]
    tables: Callable[[Any], str]
    quick: str
    """What `--quick` does."""
    numbers: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """Further options, each a whole number: default, and what it means."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Further options that measure only a part, so that nothing is kept: names with commas between, what they mean."""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """The command; returns the exit code."""
        options = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name.replace('-', '_')}", description=self.about.partition("\n")[0]
        )
        options.add_argument("--quick", action="store_true", help=f"{self.quick}; keep nothing")
        options.add_argument("--model", default=DEFAULT, metavar="ID", help="default: %(default)s")
        for name, (default, meaning) in self.numbers.items():
            help = f"{meaning}; default: %(default)s" if meaning else "default: %(default)s"
            options.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
        for name, meaning in self.parts.items():
            options.add_argument(f"--{name}", default="", metavar="A,B", help=f"{meaning}; keep nothing")
        options.add_argument(
            "--results", type=Path, metavar="FOLDER", help="where to keep the JSON; default: benchmarks/results"
        )
        chosen = options.parse_args(argv)
        result = self.measure(chosen)
        print(self.tables(result))
        partial = chosen.quick or any(getattr(chosen, name) for name in self.parts)
        if chosen.results or not partial:
            print(f"Kept in {save(result, self.name, chosen.results or RESULTS)}", file=sys.stderr)
        return 0

    @property
    def kept(self) -> str | None:
        """The tables of the result that was kept last, if any."""
        result = saved(self.kind, self.name)
        return None if result is None else self.tables(result)
