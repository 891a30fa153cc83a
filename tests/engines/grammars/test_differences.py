"""Two masks side by side: every token on which they differ has a cause, and the cause is the right one."""

from __future__ import annotations

import json

import pytest

from engines.grammars.constraint import Constraint
from engines.grammars.differences import Comparison, mask_differences, place_in_json
from engines.grammars.guidance import Kind, compile_guidance
from engines.grammars.peers import Engine, compile_with, installed
from engines.grammars.samples import PERSON
from engines.models.causal import CausalModel

# Without maxLength, in which xgrammar reads strings by other rules, see below.
FRIEND = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "languages": {"type": "array", "items": {"enum": ["English", "French", "Hindi"]}, "maxItems": 3},
        },
        "required": ["name", "age", "languages"],
        "additionalProperties": False,
    }
)
TEXT = '{"name":"Ada Lovelace","age":36,"languages":["French","Hindi"]}'


def need(engine: Engine) -> None:
    if engine not in installed():
        pytest.skip(f"{engine} is not installed")


def made(model: CausalModel, kind: Kind, text: str, **options: object) -> Constraint:
    return compile_guidance(kind, text, model.vocabulary, **options)  # type: ignore[arg-type]


def compared(model: CausalModel, schema: str, text: str, engine: Engine = "xgrammar") -> Comparison:
    need(engine)
    sides = [
        compile_with(name, "json schema", schema, model.vocabulary, whitespace="compact")
        for name in ("llguidance", engine)
    ]
    return mask_differences(sides[0], sides[1], text)


def test_llguidance_and_xgrammar_differ_on_a_person_only_in_special_tokens_and_del(smollm: CausalModel) -> None:
    found = compared(smollm, FRIEND, TEXT)
    assert found.stopped == ""
    assert found.places == len(smollm.vocabulary.tokenise(TEXT)) + 1
    assert set(found.causes()) == {"special token", "DEL character"}
    assert {one.allowed_by for one in found.differences} == {"xgrammar"}
    for one in found.differences:
        if one.cause == "DEL character":
            assert one.token.text.encode()[one.reading] == 0x7F
        else:
            assert one.token.id in smollm.vocabulary.special


def test_every_difference_is_really_one(smollm: CausalModel) -> None:
    """Token by token: the side that is named allows it and the other does not, at that place of the text."""
    need("xgrammar")
    vocabulary = smollm.vocabulary
    sides = {
        engine: compile_with(engine, "json schema", PERSON, vocabulary, whitespace="compact")
        for engine in ("llguidance", "xgrammar")
    }
    found = mask_differences(*sides.values(), TEXT)
    assert found.differences
    tokens = vocabulary.tokenise(TEXT)
    for place in range(len(tokens) + 1):
        flags = {engine: vocabulary.flags(side.mask()) for engine, side in sides.items()}
        differing = {
            (engine, id)
            for engine, other in (("llguidance", "xgrammar"), ("xgrammar", "llguidance"))
            for id in (flags[engine] & ~flags[other]).nonzero()[0].tolist()
        }
        named = {(one.allowed_by, one.token.id) for one in found.differences if one.place == place}
        assert {pair for pair in named if pair[1] not in vocabulary.special} == differing
        if place < len(tokens):
            assert all(side.commit(tokens[place]) for side in sides.values())


def test_where_strings_have_a_length_xgrammar_takes_raw_control_characters_and_refuses_escapes(
    smollm: CausalModel,
) -> None:
    found = compared(smollm, PERSON, TEXT)
    if installed()["xgrammar"] != "0.2.8":
        pytest.skip("this was found in 0.2.8")
    by = {(one.cause, one.allowed_by) for one in found.differences}
    assert by == {
        ("special token", "xgrammar"),
        ("DEL character", "xgrammar"),
        ("control character", "xgrammar"),
        ("escape", "llguidance"),
    }
    with pytest.raises(json.JSONDecodeError):
        json.loads('{"name":"\x01"}')


def test_a_forced_cut_is_told_from_another_language(smollm: CausalModel) -> None:
    free, forced = (made(smollm, "choices", "hello world", forcing=forcing) for forcing in (False, True))
    found = mask_differences(free, forced, "hello world")
    assert set(found.causes()) == {"forced cut"}
    assert {one.token.text for one in found.differences if one.place == 0} == {"h", "he", "hel", "hell"}
    assert all(one.reading == len(one.token.text) for one in found.differences)


def test_an_earlier_end_is_an_end(smollm: CausalModel) -> None:
    found = mask_differences(made(smollm, "regex", "[0-9]{1,2}"), made(smollm, "regex", "[0-9]{2}"), "12")
    assert [(one.place, one.cause, one.allowed_by) for one in found.differences] == [(1, "end of text", "llguidance")]


def test_the_place_behind_the_last_token_is_compared_too(smollm: CausalModel) -> None:
    found = mask_differences(made(smollm, "regex", "[0-9]{1,2}"), made(smollm, "regex", "[0-9]"), "1")
    assert found.places == 2
    assert {one.token.text for one in found.differences if one.place == 1} == set("0123456789")


def objects(*names: str) -> str:
    return json.dumps(
        {
            "type": "object",
            "properties": {name: {"type": "integer"} for name in names},
            "required": list(names),
            "additionalProperties": False,
        }
    )


def test_another_order_of_properties_is_named_so(smollm: CausalModel) -> None:
    one, other = (made(smollm, "json schema", objects(*names)) for names in (("low", "top"), ("top", "low")))
    found = mask_differences(one, other, '{"low": 1, "top": 2}')
    assert set(found.causes()) == {"property order"}
    assert found.stopped == "llguidance"
    assert found.places < len(smollm.vocabulary.tokenise('{"low": 1, "top": 2}'))


def test_another_whitespace_policy_is_named_so(smollm: CausalModel) -> None:
    compact, spaced = (
        made(smollm, "json schema", objects("low"), whitespace=policy) for policy in ("compact", "one space")
    )
    found = mask_differences(compact, spaced, '{"low":1}')
    assert set(found.causes()) == {"whitespace"}
    assert all(one.token.text[one.reading] == " " for one in found.differences)


@pytest.mark.parametrize(
    ("first", "second", "text", "cause"),
    [
        ({"type": "integer"}, {"type": "integer", "minimum": 0}, "12", "number"),
        ({"type": "string"}, {"type": "string", "pattern": "^[a-z]*$"}, '"ab"', "characters"),
        ({"enum": [True, False]}, {"const": True}, "true", "value"),
    ],
)
def test_other_differences_are_named_by_what_stands_there(
    first: object, second: object, text: str, cause: str, smollm: CausalModel
) -> None:
    sides = [made(smollm, "json schema", json.dumps(schema)) for schema in (first, second)]
    assert cause in mask_differences(sides[0], sides[1], text).causes()


def test_comparing_moves_neither_side(smollm: CausalModel) -> None:
    one, other = (made(smollm, "regex", text) for text in ("[0-9]{1,2}", "[0-9]{2}"))
    before = one.mask().copy(), other.mask().copy()
    mask_differences(one, other, "12")
    assert (one.mask() == before[0]).all()
    assert (other.mask() == before[1]).all()
    assert mask_differences(one, one, "12").differences == ()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "before a value"), ("{", "before a name"), ('{"', "name"), ('{"a', "name"), ('{"a"', "after a value"),
        ('{"a":', "before a value"), ('{"a": "', "string"), ('{"a": "\\', "escape"), ('{"a": "\\u00', "escape"),
        ('{"a": "\\u00e9', "string"), ('{"a": "\\\\', "string"), ('{"a": "\\\\"', "after a value"),
        ('{"a": "{', "string"), ('{"a": 1', "number"), ('{"a": -1.5e', "number"), ('{"a": 1 ', "after a value"),
        ('{"a": 1,', "before a name"), ("[1,", "before a value"), ("[[1],", "before a value"),
        ("[tru", "before a value"), ("[true", "after a value"), ('[{"a": [1]}', "after a value"),
        ('{"a": [1], ', "before a name"),
    ],
)  # fmt: skip
def test_places_in_json(text: str, where: str) -> None:
    assert place_in_json(text.encode()) == where
