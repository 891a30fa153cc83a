"""Constraints computed by llguidance: JSON Schema, regular expressions, Lark grammars and lists of choices.

llguidance parses with a derivative-based lexer and an Earley parser (github.com/guidance-ai/llguidance). It needs no
table per grammar, refuses what it cannot enforce, and gives up aloud at its limits.

Masks are truthful unless `forcing` is set: by default llguidance shows only the usual token where the next bytes are
certain, which hides that the model could have cut the same text differently. All shapes of request are written as one
Lark text, so that this switch reaches them all.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from typing import Any, Literal
from weakref import WeakKeyDictionary

import jsonschema
import numpy as np
from jsonschema.validators import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer
from llguidance._lib import LLParserLimits, regex_to_lark

from engines.grammars.constraint import BadGrammar, GrammarLimit
from engines.grammars.endless import no_text_ends
from engines.grammars.view import what_may_follow
from engines.grammars.vocabulary import Bits, Vocabulary

Kind = Literal["json schema", "regex", "grammar", "choices"]
Whitespace = Literal["one space", "compact", "any"]

MOST_CHARACTERS = 256 * 1024
DEEPEST = 64
"""Levels of nesting in a schema."""
COMPILE_SECONDS = 5.0
TRUTHFUL = '%llguidance {"no_forcing": true}\n'
SPACES: dict[Whitespace, str] = {"one space": "[ ]?", "compact": "", "any": r"[\x20\x0A\x0D\x09]*"}


class Guidance:
    """A compiled grammar at one place of one text. Made by `compile_guidance`."""

    engine = "llguidance"

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher, self.vocabulary = matcher, vocabulary
        self._ended = 0
        """End tokens taken: the matcher is not told, it would not let itself be asked any more."""
        self._mask: Bits | None = None

    def mask(self) -> Bits:
        if self._mask is None:
            bits = self.vocabulary.bits([])
            if not self._ended:
                raw = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)[: len(bits)]
                self._complain()
                bits = raw & self.vocabulary.plain_bits
                if self._matcher.is_accepting():
                    bits |= self.vocabulary.end_bits
            self._mask = bits
        return self._mask

    def allows(self, token: int) -> bool:
        if self._ended or token in self.vocabulary.special:
            return False
        if token in self.vocabulary.ends:
            return self.accepting
        return self._matcher.validate_tokens([token]) == 1

    def commit(self, token: int) -> bool:
        if not self.allows(token):
            return False
        if token in self.vocabulary.ends:
            self._ended += 1
        elif not self._matcher.consume_token(token):
            self._complain()
            return False
        self._mask = None
        return True

    def rollback(self, count: int) -> None:
        ends = min(self._ended, count)
        self._ended -= ends
        if count > ends:
            self._matcher.rollback(count - ends)
            self._complain()
        self._mask = None

    def fork(self) -> Guidance:
        twin = Guidance(self._matcher.deep_copy(), self.vocabulary)
        twin._ended = self._ended
        return twin

    @property
    def accepting(self) -> bool:
        return not self._ended and self._matcher.is_accepting()

    def forced(self) -> list[int]:
        if self._ended:
            return []
        if usual := self._matcher.compute_ff_tokens():
            return list(usual)
        # Without forcing the engine names no tokens, but the bytes that are certain.
        text = self._matcher.compute_ff_bytes().decode("utf-8", "ignore")
        tokens = self.vocabulary.tokenise(text) if text else []
        return tokens if self._matcher.validate_tokens(tokens) == len(tokens) else []

    def view(self) -> dict[str, str]:
        words = {"what may follow": what_may_follow(self.mask(), self.vocabulary)}
        if not self._ended and (certain := self._matcher.compute_ff_bytes()):
            words["certain"] = certain.decode("utf-8", "replace")
        return words

    def _complain(self) -> None:
        if self._matcher.is_error():
            if "NoExtensionBias" in self._matcher.get_error():
                raise GrammarLimit(
                    "The text cannot go on: the grammar needs a byte here that no token of this model has. Change that "
                    "place of the grammar, or try another model."
                )
            raise GrammarLimit(
                f"llguidance gave up on this grammar: {_first_line(self._matcher.get_error())}. "
                "A simpler grammar may do; counted repetitions and large alternatives cost most."
            )


class _Tokenizer:
    """A vocabulary as llguidance asks for it."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.eos_token_id = min(vocabulary.ends, default=0)
        self.special_token_ids = sorted(vocabulary.special | vocabulary.ends)
        self.tokens = [piece or f"<unused {id}>".encode() for id, piece in enumerate(vocabulary.bytes_of)]
        self.is_tokenizer_wrapper = True

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("give text")
        return self._vocabulary.tokenise(text)


_tokenizers: WeakKeyDictionary[Vocabulary, LLTokenizer] = WeakKeyDictionary()


def _tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    if vocabulary not in _tokenizers:
        from llguidance._tokenizer import TokenizerWrapper

        wrapped: Any = TokenizerWrapper(_Tokenizer(vocabulary))
        _tokenizers[vocabulary] = LLTokenizer(wrapped, n_vocab=len(vocabulary), eos_token=sorted(vocabulary.ends))
    return _tokenizers[vocabulary]


def compile_guidance(
    kind: Kind,
    text: str,
    vocabulary: Vocabulary,
    *,
    forcing: bool = False,
    whitespace: Whitespace = "one space",
) -> Guidance:
    """A constraint for a request.

    Args:
        text: the schema, expression or grammar; one choice per line.
        forcing: where the next bytes are certain, allow only the tokenizer's usual cut of them.
        whitespace: between the parts of JSON. `any` can go on for ever.

    Raises:
        BadGrammar: it is malformed, unsupported, unsatisfiable or too large; says where.
    """
    if len(text) > MOST_CHARACTERS:
        raise BadGrammar(f"This has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read.")
    if not text.strip("\r\n"):
        raise BadGrammar("There is nothing here yet. Write one, or choose one from the gallery.")
    if half := re.search(r"[\ud800-\udfff]", text):
        line = text.count("\n", 0, half.start()) + 1
        column = half.start() - text.rfind("\n", 0, half.start())
        raise BadGrammar("Half of a character stands here, which no text can hold. Delete it.", line, column)
    match kind:
        case "json schema":
            lark = "start: %json " + json.dumps(schema_to_enforce(text, whitespace))
        case "regex":
            lark = f"start: /{_regex(text)}/"
        case "choices":
            choices = list(dict.fromkeys(line for line in text.splitlines() if line.strip()))
            if not choices:
                raise BadGrammar("There is nothing here yet. Write one answer per line.")
            for choice in choices:
                _spellable(choice, vocabulary)
            lark = "start: " + "\n  | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
        case "grammar":
            lark = text
    if kind == "grammar" and "%llguidance" in text:
        raise BadGrammar("%llguidance cannot be set in a grammar here. The switches below the editor do the same.")
    guidance = Guidance(_within_time(("" if forcing else TRUTHFUL) + lark, vocabulary, kind, forcing), vocabulary)
    try:
        first = guidance.mask()
    except GrammarLimit:
        first = vocabulary.bits([])
    if not first.any():
        raise BadGrammar(
            "No text fits this, or none that this model's tokens can spell. Loosen it, or try another model."
        )
    if kind == "grammar" and no_text_ends(text, vocabulary):
        raise BadGrammar(
            "The rule start derives no finite text that this model's tokens can spell: every way through it goes on "
            "for ever, or needs a byte that no token has. Give it an alternative that ends.",
            *place_of("start", text),
        )
    return guidance


def place_of(rule: str, text: str) -> tuple[int, int]:
    """Line and column at which a rule is defined; 0, 0 if nowhere."""
    found = re.search(rf"^[?!]*({re.escape(rule)})\b", text, re.MULTILINE)
    return (text.count("\n", 0, found.start()) + 1, 1 + found.start(1) - found.start()) if found else (0, 0)


def _spellable(choice: str, vocabulary: Vocabulary) -> None:
    lost = [byte for byte in choice.encode("utf-8") if vocabulary.missing[byte]]
    if lost:
        raise BadGrammar(
            f"This model's tokens cannot spell the choice {choice[:40]!r}: none of them has the byte {lost[0]:02X}. "
            "Leave it out, or try another model."
        )


def _within_time(lark: str, vocabulary: Vocabulary, kind: Kind, forcing: bool) -> LLMatcher:
    limits = LLParserLimits(verbose_errors=False)
    worker = ThreadPoolExecutor(1, thread_name_prefix="compile-grammar")
    try:
        # The limits above bound what goes on behind a caller who has stopped waiting.
        matcher = worker.submit(LLMatcher, _tokenizer(vocabulary), lark, log_level=0, limits=limits).result(
            COMPILE_SECONDS
        )
    except Late:
        raise BadGrammar(
            f"Reading this took longer than {COMPILE_SECONDS:g} s, so it was given up. Make it smaller."
        ) from None
    finally:
        worker.shutdown(wait=False)
    if matcher.is_error():
        raise explained(matcher.get_error(), kind, 0 if forcing else 1)
    return matcher


def schema_to_enforce(text: str, whitespace: Whitespace) -> Any:
    """The schema, checked, with our whitespace. Raises `BadGrammar` with line and column or the path to the mistake."""
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadGrammar(f"This is not JSON: {error.msg.lower()}.", error.lineno, error.colno) from None
    except RecursionError:
        raise BadGrammar(f"This is nested too deeply; {DEEPEST} levels are read.") from None
    if _depth(schema) > DEEPEST:
        raise BadGrammar(f"This is nested {_depth(schema)} levels deep; {DEEPEST} are read.")
    if not isinstance(schema, dict | bool):
        raise BadGrammar('A schema is an object such as {"type": "object"}, or true or false.', 1, 1)
    try:
        Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        path = "/".join(str(step) for step in error.absolute_path) or "the top level"
        raise BadGrammar(f"At {path[:80]}: {error.message[:200]}.") from None
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        schema = schema | {"x-guidance": {"whitespace_pattern": SPACES[whitespace]}}
        if whitespace == "compact":
            schema["x-guidance"] = {"whitespace_flexible": False}
    return schema


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            part
            for whole in level
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
    return deepest


def _regex(text: str) -> str:
    expression = text.strip("\r\n")
    if "\n" in expression:
        raise BadGrammar("A regular expression stands on one line. Write \\n for a line break.", 2, 1)
    return regex_to_lark(expression, use_ascii="d")


def explained(message: str, kind: Kind, lines_before: int) -> BadGrammar:
    """llguidance's message as a sentence, with the place in the user's own text."""
    place = re.match(r"(?:at )?(\d+)\((\d+)\):\s*", message)
    line, column = (int(place[1]) - lines_before, int(place[2])) if place else (0, 0)
    plain = _first_line(message[place.end() :] if place else message)
    if unsupported := re.search(r"Unimplemented keys: \[(.*?)\]", message):
        names = unsupported[1].replace('"', "")
        return BadGrammar(
            f"The engine cannot enforce: {names}. Leave it out, or run AWRS, which checks whole texts with a validator."
        )
    if kind == "grammar" and (special := re.match(r'(?i)unknown special token: "(.{1,40}?)"', plain)):
        return BadGrammar(
            f"{special[1]} is a special token, which is no text, so no grammar can ask for it. Put it in quotes to "
            "mean its letters.",
            max(0, line),
            column,
        )
    reason = re.search(r"^error: (.*)$", message, re.MULTILINE)
    if kind == "regex":
        caret = re.search(r"^    (\s*)\^", message, re.MULTILINE)
        plain = reason[1] if reason else plain
        line, column = 1, len(caret[1]) + 1 if caret else 1
    elif kind != "grammar":
        line = column = 0
        plain = reason[1] if reason else plain.removeprefix("failed to compile JSON schema: ")
    elif reason:
        plain = reason[1]
    elif token := re.match(r"Expected token (.*), found (.*?) \(at ", plain):
        plain = f"Expected {token[1]}, found {token[2]}"
    return BadGrammar(plain[:1].upper() + plain[1:240].rstrip(".") + ".", max(0, line), column)


def _first_line(message: str) -> str:
    return message.replace("<non-verbose/>", "").strip().partition("\n")[0].strip()
