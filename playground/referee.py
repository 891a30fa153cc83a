"""An independent opinion on whether a text keeps to a language, in a process of its own.

Reads `{"kind", "grammar", "text"}` from its input and writes `{"valid", "by", "why"}`: `valid` is null when this
referee cannot say. Schemas are judged by jsonschema, regular expressions by Python's re, grammars by Lark; none of them
had a part in the decoding. A hostile expression can keep any of these busy for ever, hence the process, its limits,
and that it imports nothing of ours: it is started as a file.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

SECONDS, BYTES = 4, 2**30
MOST_SAID = 300

Opinion = dict[str, Any]


def judge(kind: str, grammar: str, text: str) -> Opinion:
    """The opinion on one text."""
    match kind:
        case "json schema":
            return by_schema(grammar, text)
        case "regex":
            return by_expression(grammar, text)
        case "grammar":
            return by_lark(grammar, text)
    return opinion(None, "", f"There is no referee for {kind}.")


def opinion(valid: bool | None, by: str, why: str = "") -> Opinion:
    return {"valid": valid, "by": by, "why": " ".join(why.split())[:MOST_SAID]}


def by_schema(grammar: str, text: str) -> Opinion:
    """Draft 2020-12 with checks of formats. References to other documents are not followed."""
    from jsonschema import Draft202012Validator, FormatChecker
    from referencing import Registry

    by = f"jsonschema {version('jsonschema')}"

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        return opinion(False, by, f"This is not JSON: {error}")
    schema = json.loads(grammar)
    registry: Registry[Any] = Registry()
    validator = Draft202012Validator(schema, registry=registry, format_checker=FormatChecker())
    first = min(validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path)), default=None)
    if first is None:
        return opinion(True, by)
    place = "/".join(map(str, first.absolute_path)) or "the top level"
    return opinion(False, by, f"At {place[:80]}: {first.message}")


def by_expression(grammar: str, text: str) -> Opinion:
    """The whole text must match."""
    import re

    by = f"Python {sys.version_info[0]}.{sys.version_info[1]}'s re"
    try:
        expression = re.compile(grammar.strip("\r\n"))
    except (re.error, RecursionError, OverflowError) as error:
        return opinion(None, by, f"It cannot read this expression: {error}")
    return opinion(True, by) if expression.fullmatch(text) else opinion(False, by, "The expression does not match it.")


def by_lark(grammar: str, text: str) -> Opinion:
    """LALR where it can be had; Earley, which knows no conflicts and cuts words as needed, where that says no."""
    from lark import Lark
    from lark.exceptions import GrammarError, LarkError, UnexpectedInput

    by = f"Lark {version('lark')}"
    why = ""
    for parser in ("lalr", "earley"):
        try:
            reader = Lark(grammar, parser=parser)
        except UnexpectedInput as error:  # in the grammar itself
            return opinion(None, by, f"It cannot read this grammar: line {error.line}, column {error.column}")
        except (GrammarError, LarkError, OSError, RecursionError) as error:
            why = f"It cannot read this grammar: {error}"
            continue
        try:
            reader.parse(text)
            return opinion(True, by)
        except UnexpectedInput as error:
            said = f"line {error.line}, column {error.column}" if error.line > 0 else "the end"
            refused = opinion(False, by, f"It does not fit at {said}.")
    return refused if not why else opinion(None, by, why)


def main() -> None:
    """One request, one opinion."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    except (ImportError, ValueError, OSError):
        pass  # not every system has limits; whoever started this waits no longer than so many seconds anyway
    asked = json.load(sys.stdin)
    try:
        said = judge(asked["kind"], asked["grammar"], asked["text"])
    except Exception as error:
        said = opinion(None, "", f"{type(error).__name__}: {error}")
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
