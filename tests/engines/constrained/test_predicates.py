"""Conditions that are programs: never too strict on the way to an accepted text, and strict where they must be."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.constrained.predicates import (
    Checked,
    FitsSchema,
    Judge,
    NoMask,
    ParsesAsPython,
    WithoutLetter,
    WordsSpell,
    checker_for,
    read_json,
    simplified,
    spelled,
)
from engines.grammars.constraint import BadGrammar
from engines.grammars.vocabulary import has
from engines.models.causal import CausalModel

PYTHON = '''\
"""A module."""
import os, sys as s
from x.y import (a, b as c,
                 d)
@dec(1)
class A(B, metaclass=C):
    """doc"""
    x: int = 1_000; y = 0x1F
    def f(self, /, a: "str" = 'it\\'s', *b, c=None, **d) -> list[int]:
        global q
        try:
            return a if not b else [i ** 2 for i in range(10) if i != 3]
        except (ValueError, OSError) as e:
            raise e from None
        finally:
            pass
        print(f"{a!r:>10} {b}") if True else None
        z += 1.5e-3 - 2E+5 * .5 // 1.
        s = rb"\\d" \\
            b'' + rb"x"  # a comment's "quote
        while a >= 3 and not b or c is not None:
            x -= 1
        else:
            lambda a, b=2: a @ b
        match a:
            case [1, *rest] if rest: ...
            case {"a": 1, **r}: pass
            case _: pass
        async with a as b, c: await d
        a[1:2, ::3] = b = {**c, 'k': {1, 2}}
        if (n := 3) > 2: pass
        elif n == 1: del a, b
        yield from (z for z in z)
'''
SCHEMA = {
    "type": "object",
    "properties": {
        "dice": {"type": "array", "items": {"type": "integer", "multipleOf": 3}, "uniqueItems": True},
        "name": {"not": {"const": "Bob"}},
        "next": {"$ref": "#"},
    },
}


def prefixes(text: str) -> list[str]:
    return [text[:end] for end in range(len(text) + 1)]


def test_a_lipogram_has_no_e_of_any_kind() -> None:
    judge = WithoutLetter()
    assert judge.begins("A bold dog.")
    assert not any(judge.begins(text) for text in ("the", "THE", "café", "cafe\u0301", "ｅ"))
    assert not judge.accepts(" ")


def test_words_spell_a_word() -> None:
    judge = WordsSpell("Sun")
    good = '"Six unicorns\' nap."'
    assert all(judge.begins(text) for text in prefixes("Six ugly newts."))
    assert judge.accepts("Six ugly newts.")
    assert judge.accepts("Six ugly n")
    assert judge.begins(good[:10])
    for bad in ("T", "Six b", "Six ugly newts sing", "Six 1", "Six     ", "S" * 21):
        assert not judge.begins(bad)
    assert not judge.accepts("Six ugly ")


def test_every_prefix_of_a_python_file_may_go_on() -> None:
    judge = ParsesAsPython()
    ast.parse(PYTHON)
    assert [text[-40:] for text in prefixes(PYTHON) if not judge.begins(text)] == []
    assert judge.accepts(PYTHON)


@pytest.mark.parametrize("path", ["engines/constrained/rejection.py", "engines/tally.py"])
def test_every_prefix_of_our_own_code_may_go_on(path: str) -> None:
    judge = ParsesAsPython()
    text = Path(path).read_text("utf-8")[:6000]
    assert [end for end in range(0, len(text), 3) if not judge.begins(text[:end])] == []


@pytest.mark.parametrize(
    "text",
    [
        "Here are a",
        "Here's",
        "Sure! Here",
        "x = = 1",
        "1 = x",
        "x = (1])",
        "if x:\ny = 1\n",
        " x = 1\n",
        "for i on x",
        "print 'a'",
        "else: ",
        "try:\n  x\ny = 1\n",
        "x = 1\0",
        "cost $",
    ],
)
def test_what_cannot_become_python_is_refused(text: str) -> None:
    assert not ParsesAsPython().begins(text)


def test_python_ends_only_where_it_parses() -> None:
    judge = ParsesAsPython()
    assert not any(judge.accepts(text) for text in ("", "def f(", "x = 'a", "if x:", "x = (1"))
    assert judge.accepts("def f(): return 1")


def test_hostile_python_is_an_answer_and_not_a_crash() -> None:
    judge = ParsesAsPython()
    for text in ("(" * 5000, "-" * 20000, "x = " + "9" * 6000, "a." * 3000, "\\", "\ud800", "é" * 10):
        assert judge.begins(text) in (True, False)


@pytest.mark.parametrize(
    ("text", "begins", "accepts"),
    [
        ('{"dice": [3, 6', True, False),
        ('{"dice": [3, 4', True, False),
        ('{"dice": [3, 4,', False, False),
        ('{"dice": [3, 3', True, False),
        ('{"dice": [3, 3]', False, False),
        ('{"dice": [3, 3,', False, False),
        ('{"dice": [3, 33, 6], "name": "Bob', True, False),
        ('{"dice": [3, 33, 6], "name": "Bob"', False, False),
        ('{"dice": [3, 33, 6], "name": "Bobby"}', True, True),
        ('{"next": {"next": {"dice": [1,', False, False),
        ('{"next": {"next": {"dice": [9]}}}', True, True),
        ("[1", True, False),
    ],
)
def test_a_schema_is_checked_on_every_complete_part(text: str, begins: bool, accepts: bool) -> None:
    judge = FitsSchema(SCHEMA)
    assert judge.begins(text) == begins
    assert judge.accepts(text) == accepts


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.floats(-9, 9, width=16) | st.text('ab"\\é,:[]{}', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)
json_schemas = st.sampled_from(
    [
        SCHEMA,
        {"not": {"type": "string"}},
        {"items": {"not": {"const": 1}}, "uniqueItems": True},
        {"anyOf": [{"type": "array", "uniqueItems": True}, {"multipleOf": 2}]},
        {"allOf": [{"items": {"multipleOf": 2}}], "additionalProperties": {"not": {"type": "null"}}},
        {"prefixItems": [{"multipleOf": 2}], "items": {"not": {"type": "array"}}},
        {"if": {"type": "array"}, "then": {"contains": {"const": 1}}},
        {"oneOf": [{"type": "integer"}, {"multipleOf": 2}]},
    ]
)


@given(json_values, json_schemas, st.sampled_from([None, 1]))
@settings(max_examples=150, deadline=None)
def test_no_beginning_of_a_valid_text_is_refused_and_no_invalid_text_is_accepted(
    value: object, schema: dict[str, object], indent: int | None
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    judge = FitsSchema(schema)
    valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert judge.accepts(text) == valid
    if valid:
        assert all(judge.begins(prefix) for prefix in prefixes(text))
        assert jsonschema.Draft202012Validator(simplified(schema)).is_valid(value)


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema = {"properties": {"not": {"type": "integer", "multipleOf": 2}}, "required": ["not"], "not": {"type": "null"}}
    assert simplified(schema) == {"properties": {"not": {"type": "integer"}}, "required": ["not"]}


def test_json_that_is_none_is_seen() -> None:
    assert read_json("]") is None
    assert read_json('{"a" 1') is None
    assert read_json("1 2") is None
    part = read_json('{"a": [1, {"b": "x')
    assert part is not None
    assert not part.complete


@pytest.mark.parametrize("judge", [WithoutLetter(), WordsSpell("decode"), ParsesAsPython()])
def test_a_checked_text_keeps_the_rules_of_a_constraint(tiny_llama: CausalModel, judge: Judge) -> None:
    vocabulary = tiny_llama.vocabulary
    checked = Checked(judge, vocabulary)
    end = min(vocabulary.ends)
    for token in tiny_llama.encode("d e", raw=True)[:1]:
        assert checked.allows(token)
        assert checked.commit(token)
    twin = checked.fork()
    space = tiny_llama.encode(" ", raw=True)[0]
    assert twin.commit(space)
    assert checked.view() == {"condition": judge.name}
    twin.rollback(1)
    assert [twin.allows(token) for token in range(257)] == [checked.allows(token) for token in range(257)]
    assert checked.allows(end) == checked.accepting == judge.accepts("d")
    if checked.accepting:
        assert checked.commit(end)
        assert not any(checked.allows(token) for token in range(257))
        checked.rollback(1)
        assert checked.accepting


def test_an_incomplete_character_is_waited_for_and_a_broken_one_refused(tiny_llama: CausalModel) -> None:
    checked = Checked(WithoutLetter(), tiny_llama.vocabulary)
    by_byte = {piece: id for id, piece in enumerate(tiny_llama.vocabulary.bytes_of) if piece}
    assert checked.commit(by_byte[b"\xc3"])
    assert not checked.accepting
    assert not checked.allows(by_byte[b"a"])
    assert not checked.allows(by_byte[b"\xa9"])  # é
    assert checked.allows(by_byte[b"\xa7"])  # ç
    assert spelled(b"a\xc3") == "a"
    assert spelled(b"a\xff") is None


def test_a_condition_on_letters_has_a_mask_that_agrees_with_its_tests(smollm: CausalModel) -> None:
    checked = Checked(WithoutLetter(), smollm.vocabulary)
    for token in smollm.encode("A dog", raw=True):
        checked.commit(token)
    bits = checked.mask()
    step = range(0, len(smollm.vocabulary), 17)
    assert [has(bits, token) for token in step] == [checked.allows(token) for token in step]
    assert has(bits, min(smollm.vocabulary.ends))


def test_other_conditions_say_that_they_have_none(smollm: CausalModel) -> None:
    with pytest.raises(NoMask, match="one token at a time"):
        Checked(ParsesAsPython(), smollm.vocabulary).mask()


def test_schemas_that_would_cost_unbounded_time_or_a_network_are_refused(smollm: CausalModel) -> None:
    def ask(schema: object) -> object:
        return checker_for("json schema and validator", "", "none", json.dumps(schema), smollm)

    with pytest.raises(BadGrammar, match="patternProperties"):
        ask({"type": "object", "patternProperties": {"(a+)+$": {}}})
    with pytest.raises(BadGrammar, match="pattern"):
        ask({"type": "string", "not": {"pattern": "(a+)+$"}})
    with pytest.raises(BadGrammar):
        ask({"$ref": "https://example.org/schema.json"})
    with pytest.raises(BadGrammar, match="not JSON"):
        checker_for("json schema and validator", "", "none", "{", smollm)
    judge = FitsSchema({"items": {"$ref": "https://example.org/schema.json"}})
    assert not judge.accepts("[1]")


def test_the_validator_sits_on_top_of_the_grammar(smollm: CausalModel) -> None:
    schema = '{"type": "array", "items": {"type": "integer", "multipleOf": 3}, "uniqueItems": true}'
    both = checker_for("json schema and validator", "", "none", schema, smollm)
    for token in smollm.encode("[3, ", raw=True):
        assert both.commit(token)
    three, six, close = (smollm.encode(text, raw=True)[0] for text in ("3", "6", "]"))
    assert not both.allows(close)
    assert both.commit(three)
    assert not both.allows(close)
    both.rollback(1)
    assert both.commit(six)
    assert both.commit(close)
    assert both.accepting
