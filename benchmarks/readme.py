"""Brings the tables of the README up to date: the methods, and the results that were kept last; and the reference.

python -m benchmarks.readme
"""

from __future__ import annotations

import sys

from benchmarks import load, overhead, page, reference, speculative, store
from benchmarks.report import fill, saved
from engines.method import Method, methods
from playground.limits import limits_table


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
    if watched := saved(overhead.Overhead, "overhead"):
        fill("overhead", overhead.tables(watched))
    if guessed := saved(speculative.Speculation, "speculative"):
        fill("speculative", speculative.tables(guessed))
    fill("limits", limits_table())
    if crowded := saved(load.Load, "load"):
        fill("load", load.tables(crowded))
    if kept := saved(store.Keeping, "store"):
        fill("store", store.tables(kept))
    if opened := saved(page.Opened, "page"):
        fill("page", page.tables(opened))
    reference.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
