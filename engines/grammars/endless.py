"""Whether a grammar has any text at all that ends, read off its definitions without expanding them.

    1. read the definitions (the `lark` package); what it cannot read, or what reaches beyond the text, is not judged
    2. a name is productive if some alternative of it is made of productive parts; all text and expressions are, except
       text with a byte that no token has
    3. repeat until nothing changes: the start is productive, or every way through it goes on for ever

`engines.grammars.cfg` knows the same of the grammars that it makes tables of. This is for engines that begin to write
without asking: with `a: "x" a` they would go on until the token limit. Expressions are taken for productive, so a
grammar may have no text and pass; none that has a text is refused.
"""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable

import numpy as np
from lark import LarkError, Token, Tree
from lark.grammar import Symbol
from lark.load_grammar import load_grammar
from numpy.typing import NDArray

from engines.grammars.vocabulary import Vocabulary

MOST_CHARACTERS = 16 * 1024
"""Of longer ones nothing is said: reading the definitions would take as long as compiling them."""
SECONDS = 0.5
"""Of computing, for step 3."""


def no_text_ends(text: str, vocabulary: Vocabulary, start: str = "start") -> bool:
    """Whether no text of this grammar ever ends, or none that these tokens can spell. False when in doubt."""
    if len(text) > MOST_CHARACTERS or re.search(r"^\s*%(?!ignore\b)", text, re.MULTILINE):
        return False
    try:
        loaded, _ = load_grammar(text, "<string>", [], False)
        defined: dict[str, Tree[Token]] = {str(name): tree for name, (tree, _) in loaded.term_defs if tree}
        for name, parameters, tree, _ in loaded.rule_defs:
            if parameters:
                return False
            defined[str(name)] = tree
        known: set[str] = set()
        missing = vocabulary.missing
        deadline = time.thread_time() + SECONDS
        while fresh := [
            name for name, tree in defined.items() if name not in known and productive(tree, known, missing)
        ]:
            known.update(fresh)
            if time.thread_time() > deadline:
                return False
    except (LarkError, OSError, AssertionError, RecursionError):
        return False
    return start in defined and start not in known


def productive(part: object, known: set[str], missing: NDArray[np.bool_]) -> bool:
    """Whether some finite text fits a part of a definition, when it does for the `known` names."""
    if isinstance(part, Symbol):
        return str(part.name) in known
    if not isinstance(part, Tree):
        return True
    inner: Callable[[object], bool] = lambda other: productive(other, known, missing)  # noqa: E731
    match part.data:
        case "expansions":
            return any(map(inner, part.children))
        case "expansion":
            return all(map(inner, part.children))
        case "maybe":
            return True
        case "alias" | "value":
            return inner(part.children[0])
        case "expr":
            operation = str(part.children[1])
            return operation in "*?" or (operation == "~" and str(part.children[2]) == "0") or inner(part.children[0])
        case "literal":
            return spellable(str(part.children[0]), missing)
    return True


def spellable(literal: str, missing: NDArray[np.bool_]) -> bool:
    """Whether tokens have all bytes of a text in quotes; of an expression, or a text that cannot be read, True."""
    if not literal.startswith('"'):
        return True
    quoted, _, flags = literal.rpartition('"')
    try:
        spelled = str(ast.literal_eval(quoted + '"')).encode("utf-8")
    except (SyntaxError, ValueError):
        return True
    return bool(flags) or not missing[np.frombuffer(spelled, dtype=np.uint8)].any()
