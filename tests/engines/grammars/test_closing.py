"""Short valid endings."""

from __future__ import annotations

import json

import jsonschema
import pytest

from engines.grammars.closing import shortest_completion
from engines.grammars.kinds import constraint_for
from engines.grammars.samples import ARITHMETIC, PERSON
from engines.models.causal import CausalModel

CASES = [
    ("json schema", PERSON, ""),
    ("json schema", PERSON, '{"name": "Al'),
    ("json schema", PERSON, '{"name": "A", "age": 3, "languages": ["Fr'),
    ("grammar", ARITHMETIC, "(((12 + 3"),
    ("regex", "[A-Z][a-z]+, [A-Z][a-z]{3,5}", "He"),
    ("choices", "yes\nno\nperhaps", "p"),
]


@pytest.mark.parametrize(("kind", "text", "begun"), CASES)
def test_the_ending_makes_the_text_valid(smollm: CausalModel, kind: str, text: str, begun: str) -> None:
    constraint = constraint_for(kind, text, smollm)
    vocabulary = constraint.vocabulary
    for token in vocabulary.tokenise(begun):
        assert constraint.commit(token)
    ending = shortest_completion(constraint, 48)
    assert ending is not None
    assert ending[-1] == 2
    whole = begun + vocabulary.decode(ending).decode()
    assert all(constraint.commit(token) for token in ending)
    if kind == "json schema":
        jsonschema.validate(json.loads(whole), json.loads(text))


def test_closing_brackets_is_as_short_as_can_be(smollm: CausalModel) -> None:
    constraint = constraint_for("grammar", 'start: "(" start ")" | "x"', smollm)
    vocabulary = constraint.vocabulary
    for letter in b"((x)":
        assert constraint.commit(vocabulary.bytes_of.index(bytes([letter])))
    ending = shortest_completion(constraint, 10)
    assert ending is not None
    assert vocabulary.decode(ending) == b")"


def test_no_ending_within_the_limit_is_no_ending(smollm: CausalModel) -> None:
    constraint = constraint_for("regex", "[a-z]( [a-z]){40}", smollm)
    assert shortest_completion(constraint, 10) is None


def test_asking_changes_nothing(smollm: CausalModel) -> None:
    constraint = constraint_for("json schema", PERSON, smollm)
    before = constraint.mask().copy()
    shortest_completion(constraint, 48)
    assert (constraint.mask() == before).all()
