"""Brings the tables of the README up to date: the methods, and the results that were kept last; and the reference.

python -m benchmarks.readme
"""

from __future__ import annotations

import sys

from benchmarks import circuits, load, masks, overhead, page, reference, specbench_mini, store
from benchmarks.report import fill
from engines.method import Method, methods
from playground.limits import limits_table

BENCHMARKS = tuple(module.BENCHMARK for module in (overhead, specbench_mini, masks, circuits, load, page, store))
"""In the order of the README."""


def methods_table() -> str:
    """One line per method."""
    head = "| method | what it does | lossless | from |\n| --- | --- | --- | --- |"
    return "\n".join([head, *(_line(method) for method in methods().values())])


def _line(method: Method) -> str:
    source = f"{method.paper.title}. {method.paper}" if method.paper else ""
    return f"| `{method.id}` | {method.idea} | {'yes' if method.lossless else ''} | {source} |"


def main() -> int:
    """The command."""
    fill("methods", methods_table())
    fill("limits", limits_table())
    for benchmark in BENCHMARKS:
        if tables := benchmark.kept:
            fill(benchmark.name, tables)
    reference.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
