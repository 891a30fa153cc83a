"""The rail says what methods and prompts say, for every one of them."""

from __future__ import annotations

import json

import pytest

import engines
from engines.errors import BadParameter
from engines.method import Method, Need
from playground.ui import decoding, rail
from visuals.picture import pictures

METHODS = engines.methods()
PROMPTS = rail.load_prompts()
SPEC_BENCH = {"Multi-turn chat", "Translation", "Summarisation", "Questions", "Maths", "Retrieval"}


def chosen(**settings: object) -> dict[str, object]:
    defaults = {"max_new_tokens": "96", "seed": "0", "raw": False, "stop": "", "time_limit": "60"}
    return defaults | settings


def test_prompts_are_many_distinct_and_in_the_six_categories() -> None:
    assert len({prompt.prompt for prompt in PROMPTS.values()}) == len(PROMPTS) >= 24
    for category in SPEC_BENCH:
        assert sum(prompt.category == category for prompt in PROMPTS.values()) >= 4, category
    assert all(prompt.prompt == prompt.prompt.strip() for prompt in PROMPTS.values())


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_a_method_names_prompts_and_pictures_that_exist(method: Method) -> None:
    assert {*method.shines, *method.loses} <= set(PROMPTS)
    assert set(method.pictures) <= set(pictures())


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_controls_carry_defaults_that_the_method_accepts(method: Method) -> None:
    state = json.loads(rail.controls(method))
    names = [setting["name"] for setting in state["settings"]]
    assert names == [*(setting.name for setting in method.settings()), *(one["name"] for one in rail.RUN_SETTINGS)]
    asked = decoding.arguments(state["values"])
    assert method.validate(asked["params"]) == method.params()


def test_controls_keep_what_still_applies() -> None:
    state = json.loads(rail.controls(METHODS["greedy"], {"seed": "7", "nodes": "9"}))
    assert state["values"]["seed"] == "7"
    assert "nodes" not in state["values"]


def test_a_method_that_the_model_cannot_run_says_what_it_needs() -> None:
    picker = json.loads(rail.method_picker(METHODS, "greedy", Need.NOTHING))
    options = {option["id"]: option["blocked"] for group in picker["groups"] for option in group["options"]}
    assert options["greedy"] == ""
    assert options["token-recycling"].startswith("needs ")
    assert not any(
        option["blocked"]
        for group in json.loads(rail.method_picker(METHODS, "greedy"))["groups"]
        for option in group["options"]
    )


def test_arguments() -> None:
    asked = decoding.arguments(chosen(seed=" 3 ", stop="END|\\n\\n", time_limit="", raw=True, width="4", top=""))
    assert asked == {
        "params": {"width": "4", "top": None},
        "seed": 3,
        "max_new_tokens": 96,
        "raw": True,
        "stop": ("END", "\n\n"),
        "time_limit": None,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", "x"), ("seed", "1.5"), ("max_new_tokens", "nan"), ("max_new_tokens", ""), ("time_limit", "soon")],
)
def test_arguments_that_are_no_numbers(name: str, value: str) -> None:
    with pytest.raises(BadParameter, match=name.replace("_", " ").capitalize()):
        decoding.arguments(chosen(**{name: value}))
