"""Conditions on a text that no token mask is made for, asked of one token at a time.

AWRS needs no mask, only an answer to "may the text go on like this?". So the condition can be a program:

    no letter e     a lipogram: the text never uses one letter
    words spell     word after word begins with the next letter of a given word, and the text ends with the last one
    python          what is written can still become a Python file that parses
    sql             a SELECT that SQLite can prepare against the shipped tables (`engines.constrained.sql_predicate`)
    json schema and validator
                    JSON by llguidance, of the keywords that it knows; and the whole schema, with `uniqueItems`,
                    `multipleOf`, `not` and the like, by the jsonschema validator on every part that is complete

All are prefix predicates: a refused beginning has no accepted continuation. They may be too generous, and allow a
beginning that leads nowhere; they are never too strict, which no weight could repair. Sources: the parser's own word on
incomplete input for Python (`PyCF_ALLOW_INCOMPLETE_INPUT`), JSON Schema draft 2020-12 for the parts.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from jsonschema import validators
from jsonschema.exceptions import _WrappedReferencingError
from jsonschema.validators import Draft202012Validator
from referencing import Registry

from engines.constrained.sql_predicate import Sql
from engines.errors import BadParameter, DecodingError
from engines.grammars.constraint import BadGrammar, Constraint, Joint
from engines.grammars.guidance import schema_to_enforce
from engines.grammars.kinds import constraint_for
from engines.grammars.vocabulary import Bits, Vocabulary
from engines.sampling import ConstraintKind

if TYPE_CHECKING:
    from engines.models.causal import CausalModel

Predicate = Literal["none", "no letter e", "words spell", "python", "sql", "json schema and validator"]


class NoMask(DecodingError):
    """A predicate tests tokens one by one; asking it about the whole vocabulary at every step would take too long."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no mask for {name!r}: this condition is asked about one token at a time. "
            "Use it with AWRS, which needs no mask."
        )


class Judge(Protocol):
    """A condition on texts."""

    name: str
    local: bool
    """Whether what may come next does not depend on what was written: then there is a mask after all."""

    def begins(self, text: str) -> bool:
        """Whether this may still become an accepted text; True when in doubt."""

    def accepts(self, text: str) -> bool:
        """Whether the text may end here."""

    def __hash__(self) -> int: ...


class Checked:
    """A text under a condition, as a `Constraint` without masks.

    Tokens are bytes; what they spell so far is judged without the bytes of a character that is not complete yet.
    """

    def __init__(self, judge: Judge, vocabulary: Vocabulary) -> None:
        self._judge, self.vocabulary = judge, vocabulary
        self.engine = judge.name
        self._written = [b""]
        """What was written after each token; the last is the text."""
        self._ended = 0

    def mask(self) -> Bits:
        if not self._judge.local:
            raise NoMask(self._judge.name)
        if self._ended:
            return self.vocabulary.bits([])
        if spelled(self._written[-1]) != self._written[-1].decode("utf-8", "replace"):
            return self.vocabulary.bits([int(id) for id in self.vocabulary.text_ids if self.allows(int(id))])
        bits = _everywhere(self._judge, self.vocabulary)
        return bits | self.vocabulary.end_bits if self.accepting else bits

    def allows(self, token: int) -> bool:
        if self._ended or token in self.vocabulary.special:
            return False
        if token in self.vocabulary.ends:
            return self.accepting
        piece = self.vocabulary.bytes_of[token]
        text = spelled(self._written[-1] + piece)
        return bool(piece) and text is not None and self._judge.begins(text)

    def commit(self, token: int) -> bool:
        if not self.allows(token):
            return False
        if token in self.vocabulary.ends:
            self._ended += 1
        else:
            self._written.append(self._written[-1] + self.vocabulary.bytes_of[token])
        return True

    def rollback(self, count: int) -> None:
        ends = min(self._ended, count)
        self._ended -= ends
        if count > ends:
            del self._written[-(count - ends) :]

    def fork(self) -> Checked:
        twin = Checked(self._judge, self.vocabulary)
        twin._written, twin._ended = list(self._written), self._ended
        return twin

    @property
    def accepting(self) -> bool:
        if self._ended:
            return False
        try:
            text = self._written[-1].decode("utf-8")
        except UnicodeDecodeError:
            return False
        return self._judge.accepts(text)

    def forced(self) -> list[int]:
        return []

    def view(self) -> dict[str, str]:
        return {"condition": self._judge.name}


@lru_cache(maxsize=8)
def _everywhere(judge: Judge, vocabulary: Vocabulary) -> Bits:
    """The tokens that a local condition allows behind complete characters."""
    pieces = ((id, spelled(vocabulary.bytes_of[id])) for id in vocabulary.text_ids.tolist())
    return vocabulary.bits([id for id, text in pieces if text is not None and judge.begins(text)])


def spelled(piece: bytes) -> str | None:
    """The text, without an incomplete character at its end; None if it cannot be UTF-8."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError as error:
        return piece[: error.start].decode("utf-8") if error.reason == "unexpected end of data" else None


class WithoutLetter:
    """A lipogram. Accents do not hide the letter: é is an e."""

    local = True

    def __init__(self, letter: str = "e") -> None:
        self.name = f"no letter {letter}"
        self._letter = letter

    def begins(self, text: str) -> bool:
        return (
            self._letter not in text.casefold() and self._letter not in unicodedata.normalize("NFKD", text).casefold()
        )

    def accepts(self, text: str) -> bool:
        return bool(text.strip()) and self.begins(text)


_NO_E, _SQL = WithoutLetter(), Sql()


class WordsSpell:
    """The n-th word begins with the n-th letter of a given word; the text ends with its last letter's word."""

    local = False
    BETWEEN = 3
    """Characters between two words at most: a space and punctuation, but not spaces for ever."""
    LONGEST = 20
    """Letters of a word."""

    def __init__(self, word: str) -> None:
        self._letters = word.casefold()
        self.name = f"words spell {word}"

    def begins(self, text: str) -> bool:
        text = text.casefold()
        words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]*)?", text)
        gaps = re.split(r"[^\W\d_]+(?:['’][^\W\d_]*)?", text)
        if len(words) == len(self._letters) and re.search(r"\s", gaps[-1]):
            return False
        return (
            len(words) <= len(self._letters)
            and all(word.startswith(letter) for word, letter in zip(words, self._letters, strict=False))
            and all(len(word) <= self.LONGEST for word in words)
            and all(len(gap) <= self.BETWEEN and not re.search(r"\w", gap) for gap in gaps)
        )

    def accepts(self, text: str) -> bool:
        return self.begins(text) and len(re.findall(r"[^\W\d_]+(?:['’][^\W\d_]*)?", text)) == len(self._letters)


_PREFIX = ast.PyCF_ONLY_AST | 0x4000
"""Parse, and say `incomplete input` where the parser came to the end without a complaint."""
_LAST_TOKEN = re.compile(r"(?:\d[\w.]*[eE][-+]|\w+|[^\w\s'\"#\\()\[\]{},;~$?`]+)\Z")
_STRING_PREFIX = re.compile(r"[a-zA-Z]{0,2}")


class ParsesAsPython:
    """Python that can still parse.

    The line that is being written goes to the parser with its last token cut off, for that one may grow, and with a
    continuation at its end: the parser then either asks for more, or has seen an error. Only the grammar is asked;
    that names exist, or that `return` stands in a function, is not.
    """

    name = "python"
    local = False

    def begins(self, text: str) -> bool:
        return _python_begins(text)

    def accepts(self, text: str) -> bool:
        return bool(text.strip()) and _parsed(text, ast.PyCF_ONLY_AST) is None


@lru_cache(maxsize=65536)
def _python_begins(text: str) -> bool:
    if "\0" in text:
        return False
    if text.endswith("\\"):
        return _python_begins(text[:-1])
    complaint = _parsed(text, _PREFIX)
    if complaint is None or complaint.msg == "incomplete input":
        return True
    if text.endswith("\n"):
        return False
    line = text.rpartition("\n")[2]
    if complaint.lineno == text.count("\n") + 1 and (complaint.msg or "").startswith(("unterminated", "f-string")):
        # In an open string anything may follow, if a string may stand there.
        start = (complaint.offset or 1) - 1
        prefix = _STRING_PREFIX.match(line, start)
        head = text[: len(text) - len(line) + start] + (prefix[0] if prefix else "") + '""'
    else:
        head = _LAST_TOKEN.sub("", text)
    complaint = _parsed(head + "\\\n", _PREFIX)
    return complaint is None or complaint.msg == "incomplete input"


def _parsed(text: str, flags: int) -> SyntaxError | None:
    """What the parser says against a text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "<text>", "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return SyntaxError(str(error))
    return None


UNKNOWN_TO_ENGINES = frozenset(
    {
        "uniqueItems",
        "multipleOf",
        "not",
        "contains",
        "minContains",
        "maxContains",
        "if",
        "then",
        "else",
        "dependentRequired",
        "dependentSchemas",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
        "format",
    }
)
"""Left out of what llguidance is given, and left to the validator."""
_SCHEMAS = frozenset({"items", "additionalProperties"})
_LISTS_OF_SCHEMAS = frozenset({"prefixItems", "allOf", "anyOf", "oneOf"})
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})


def simplified(schema: Any) -> Any:
    """The schema without the keywords that only the validator checks; what fits the schema fits this."""
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in UNKNOWN_TO_ENGINES:
            continue
        if keyword in _SCHEMAS:
            value = simplified(value)
        elif keyword in _LISTS_OF_SCHEMAS and isinstance(value, list):
            value = [simplified(part) for part in value]
        elif keyword in _NAMED_SCHEMAS and isinstance(value, dict):
            value = {name: simplified(part) for name, part in value.items()}
        # Two alternatives may fit at once after the cut.
        out["anyOf" if keyword == "oneOf" and "anyOf" not in schema else keyword] = value
    return out


# Patterns are llguidance's business: a regular expression can keep Python's engine busy for years.
_Validator = validators.extend(Draft202012Validator, {"pattern": lambda *_: None})


class FitsSchema:
    """JSON whose complete parts the validator accepts. That it is JSON at all is for another to see."""

    name = "json schema validator"
    local = False

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._validator = _Validator(schema, registry=Registry())

    def begins(self, text: str) -> bool:
        part = read_json(text)
        try:
            return part is not None and self._can_fit(part, self._schema)
        except RecursionError:
            return True

    def accepts(self, text: str) -> bool:
        try:
            return self._fits(json.loads(text), self._schema)
        except (ValueError, RecursionError):
            return False

    def _fits(self, value: Any, schema: Any) -> bool:
        try:
            return self._validator.evolve(schema=schema).is_valid(value)
        except (_WrappedReferencingError, RecursionError, OverflowError):
            return False

    def _can_fit(self, part: Part, schema: Any) -> bool:
        if part.complete:
            return self._fits(part.value, schema)
        if not isinstance(schema, dict):
            return schema is not False
        if isinstance(schema.get("$ref"), str) and (target := self._local(schema["$ref"])) is not None:
            return self._can_fit(part, target) and self._can_fit(part, {**schema, "$ref": None})
        if not all(self._can_fit(part, other) for other in schema.get("allOf", ())):
            return False
        if (alternatives := schema.get("anyOf")) and not any(self._can_fit(part, other) for other in alternatives):
            return False
        children = list(self._children(part, schema))
        if part.kind == "array" and schema.get("uniqueItems") is True:
            done = [child.value for child in part.items if child.complete]
            if not self._fits(done, {"uniqueItems": True}):
                return False
        return all(self._can_fit(child, subschema) for child, subschema in children)

    def _children(self, part: Part, schema: dict[str, Any]) -> Iterator[tuple[Part, Any]]:
        """The elements and members so far, each with the schema that holds for it."""
        if part.kind == "array":
            first = schema.get("prefixItems", [])
            for index, child in enumerate(part.items):
                yield child, first[index] if index < len(first) else schema.get("items", True)
        if part.kind == "object":
            for name, child in part.members:
                if name in schema.get("properties", {}):
                    yield child, schema["properties"][name]
                elif "patternProperties" not in schema:
                    yield child, schema.get("additionalProperties", True)

    def _local(self, reference: str) -> Any:
        """What a reference within the schema points to; None for any other."""
        if not reference.startswith("#"):
            return None
        place = self._schema
        for step in reference[1:].split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(place, dict) or step not in place:
                return None
            place = place[step]
        return place


@dataclass(slots=True)
class Part:
    """A JSON value of which perhaps only the beginning is written."""

    kind: Literal["array", "object", "scalar"]
    complete: bool = False
    value: Any = None
    """Of a complete one."""
    items: list[Part] = field(default_factory=list)
    members: list[tuple[str, Part]] = field(default_factory=list)


_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^ \t\r\n,\]}\[{:\"]+")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def read_json(text: str) -> Part | None:
    """The value that a beginning of JSON is the beginning of, with what is complete of it; None if it is not JSON.

    Generous about the part that is still being written.
    """
    try:
        part, end = _read(text, _SPACE.match(text, 0).end())  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        return None
    return part if not part.complete or not text[end:].strip(" \t\r\n") else None


def _read(text: str, at: int) -> tuple[Part, int]:
    if at >= len(text):
        return Part("scalar"), at
    if text[at] == '"':
        if string := _STRING.match(text, at):
            return Part("scalar", True, json.loads(string[0])), string.end()
        return Part("scalar"), len(text)
    if text[at] in "[{":
        return _read_container(text, at)
    scalar = _SCALAR.match(text, at)
    if scalar is None:
        raise ValueError(text[at])
    # A number or a word is complete when something follows it: 1 may become 12.
    if scalar.end() == len(text):
        return Part("scalar"), len(text)
    return Part("scalar", True, json.loads(scalar[0])), scalar.end()


def _read_container(text: str, at: int) -> tuple[Part, int]:
    part = Part("array" if text[at] == "[" else "object")
    closer = "]" if text[at] == "[" else "}"
    at = _skip(text, at + 1)
    while at < len(text):
        if text[at] == closer:
            part.complete = True
            if part.kind == "array":
                part.value = [child.value for child in part.items]
            else:
                part.value = {name: child.value for name, child in part.members}
            return part, at + 1
        if part.items or part.members:
            if text[at] != ",":
                raise ValueError(text[at])
            at = _skip(text, at + 1)
            if at >= len(text):
                break
        name = ""
        if part.kind == "object":
            key, at = _read(text, at)
            at = _skip(text, at)
            if not key.complete or at >= len(text):
                break
            if not isinstance(key.value, str) or text[at] != ":":
                raise ValueError(text[at])
            name, at = key.value, _skip(text, at + 1)
            if at >= len(text):
                break
        child, at = _read(text, at)
        part.items.append(child) if part.kind == "array" else part.members.append((name, child))
        at = _skip(text, at)
    return part, len(text)


def _skip(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def checker_for(predicate: Predicate, word: str, kind: ConstraintKind, grammar: str, model: CausalModel) -> Constraint:
    """The constraint that a request names: a predicate, a grammar, or both at once.

    Args:
        word: of `words spell`.
        grammar: of a `kind` that is not `none`; the schema of `json schema and validator`.

    Raises:
        BadParameter: neither is chosen, or the word is not one.
        BadGrammar: the grammar cannot be used.
    """
    vocabulary = model.vocabulary
    parts: list[Constraint] = []
    if kind != "none" and predicate != "json schema and validator":
        parts.append(constraint_for(kind, grammar, model))
    match predicate:
        case "no letter e":
            parts.append(Checked(_NO_E, vocabulary))
        case "words spell":
            if not re.fullmatch(r"[^\W\d_]{1,32}", word):
                raise BadParameter("word must be one word of 1 to 32 letters, such as DECODE.")
            parts.append(Checked(WordsSpell(word), vocabulary))
        case "python":
            parts.append(Checked(ParsesAsPython(), vocabulary))
        case "sql":
            parts.append(Checked(_SQL, vocabulary))
        case "json schema and validator":
            schema = _schema(grammar)
            parts.append(constraint_for("json schema", json.dumps(simplified(schema)), model))
            parts.append(Checked(FitsSchema(schema), vocabulary))
        case "none":
            pass
    if not parts:
        raise BadParameter("Nothing holds the text: choose a predicate, or a constraint with its grammar.")
    return parts[0] if len(parts) == 1 else Joint(parts)


def _schema(text: str) -> Any:
    """The schema as the validator may read it: patterns cost it a time that no one can bound, so those are left to
    llguidance, and refused where only the validator would look."""
    schema_to_enforce(text, "one space")
    schema = json.loads(text)
    if '"patternProperties"' in text:
        raise BadGrammar("patternProperties cannot be used with the validator. Name the properties one by one.")
    if any('"pattern"' in json.dumps(part) for part in _seen_by_validator_only(schema)):
        raise BadGrammar("pattern cannot stand inside not, if, contains and the like. Use enum or const there.")
    return schema


def _seen_by_validator_only(schema: Any) -> Iterator[Any]:
    level = [schema]
    while level:
        value = level.pop()
        if isinstance(value, dict):
            yield from (part for keyword, part in value.items() if keyword in UNKNOWN_TO_ENGINES)
            level += value.values()
        elif isinstance(value, list):
            level += value
