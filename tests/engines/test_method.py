"""Cards, settings and their validation; finding methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from engines.errors import BadParameter, UnknownMethod
from engines.events import Event
from engines.method import NEED_WORDS, Method, Need, NoParams, Paper, find, method, methods


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    width: Annotated[int, Meta(ge=1, le=16, description="How wide")] = 8
    share: Annotated[float, Meta(ge=0, le=1, description="How much")] = 0.5
    on: bool = False
    rule: Annotated[Literal["first", "best"], Meta(description="Which")] = "best"
    limit: Annotated[int, Meta(ge=1, le=9)] | None = None


def generate(run: Any, params: Any) -> Iterator[Event]:
    yield from ()


EXAMPLE = Method(
    "example", "Example", "tests", "An idea.", "", False, Need.NOTHING, None, Example, generate, (), (), ()
)


def test_settings_describe_the_fields_in_order() -> None:
    width, share, on, rule, limit = EXAMPLE.settings()
    assert (width.kind, width.default, width.low, width.high, width.help) == (int, 8, 1, 16, "How wide")
    assert (share.kind, share.low, share.high) == (float, 0, 1)
    assert (on.kind, on.default, on.help) == (bool, False, "on")
    assert (rule.kind, set(rule.choices), rule.help) == (str, {"first", "best"}, "Which")
    assert (limit.kind, limit.optional, limit.default, limit.high) == (int, True, None, 9)


def test_missing_values_take_their_defaults() -> None:
    assert EXAMPLE.validate(None) == EXAMPLE.validate({}) == Example()


def test_strings_from_a_command_line_are_read_as_what_the_field_asks_for() -> None:
    values = {"width": "3", "share": "0.25", "on": "true", "rule": "first", "limit": "2"}
    assert EXAMPLE.validate(values) == Example(width=3, share=0.25, on=True, rule="first", limit=2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 0}, ["width", "'0'", "1 to 16"]),
        ({"width": 17}, ["width", "'17'", "1 to 16"]),
        ({"width": 2.5}, ["width", "whole number"]),
        ({"width": "many"}, ["width", "'many'"]),
        ({"width": True}, ["width", "True"]),
        ({"share": float("nan")}, ["share", "nan", "0 to 1"]),
        ({"share": "nan"}, ["share", "'nan'", "0 to 1"]),
        ({"share": float("inf")}, ["share", "inf"]),
        ({"share": "1e999"}, ["share", "finite"]),
        ({"share": 1.5}, ["share", "0 to 1"]),
        ({"share": None}, ["share"]),
        ({"on": "perhaps"}, ["on", "true or false"]),
        ({"rule": "worst"}, ["rule", "'worst'", "best", "first"]),
        ({"widht": 3}, ["no parameter", "'widht'", "width"]),
        ({"<script>": 3}, ["no parameter"]),
        ({"a" * 1000: 3}, ["no parameter"]),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_what_is_allowed(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadParameter) as caught:
        EXAMPLE.validate(values)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) < 250


@given(
    st.dictionaries(
        st.sampled_from(["width", "share", "on", "rule", "limit", "other"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=20)
        | st.lists(st.integers(), max_size=2),
        max_size=3,
    )
)
@settings(max_examples=200, deadline=None)
def test_anything_is_accepted_or_refused_with_a_sentence(values: dict[str, Any]) -> None:
    with suppress(BadParameter):
        params = EXAMPLE.validate(values)
        assert 1 <= params.width <= 16
        assert 0 <= params.share <= 1


def test_a_setting_whose_0_leaves_the_choice_to_the_method_is_marked() -> None:
    assert [setting.name for setting in find("copyspec").settings() if setting.automatic] == ["block"]
    assert not any(setting.automatic for setting in find("sampling").settings())


def test_a_method_without_settings_says_so() -> None:
    with pytest.raises(BadParameter, match=r"no parameter called 'x'\. It has no parameters"):
        dataclasses.replace(find("greedy"), params=NoParams).validate({"x": 1})


def test_an_unknown_method_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(UnknownMethod, match="greedy"):
        find("greddy")
    with pytest.raises(UnknownMethod, match="beam-search"):
        find("Beam Search")
    for odd in ("", "../x", "\x00", "x" * 10_000, "🌊"):
        with pytest.raises(UnknownMethod) as caught:
            find(odd)
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()


def test_an_id_is_taken_once() -> None:
    with pytest.raises(ValueError, match="greedy"):
        method("greedy", title="Mine", family="tests", idea="Another.")(generate)
    assert find("greedy").title == "Greedy"


def test_methods_are_grouped_with_the_baselines_first() -> None:
    families = [card.family for card in methods().values()]
    assert families[0] == "baselines"
    assert sorted(set(families), key=families.index) == sorted(set(families), key=lambda f: (f != "baselines", f))
    assert families == sorted(families, key=families.index)


@pytest.mark.parametrize("id", methods())
def test_every_method_has_a_card_that_can_be_shown(id: str) -> None:
    card = methods()[id]
    assert card.id == id == id.lower()
    assert card.title
    assert card.idea.endswith(".")
    assert card.pictures
    assert card.params is NoParams or card.settings()
    assert msgspec.to_builtins(card.validate({})) == {setting.name: setting.default for setting in card.settings()}
    assert card.generate.__module__
    assert __import__(card.generate.__module__, fromlist=["x"]).__doc__


def test_a_paper_reads_as_a_citation() -> None:
    assert str(Paper("T", "Su et al.", 2022, "2202.06417")) == "Su et al. 2022, arXiv 2202.06417"
    assert str(Paper("T", "Lowerre", 1976)) == "Lowerre 1976"


def test_every_need_has_words() -> None:
    assert set(NEED_WORDS) == set(Need) - {Need.NOTHING}
