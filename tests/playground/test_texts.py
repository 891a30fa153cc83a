from __future__ import annotations

import re

import pytest

from playground.texts import ENGLISH, filled, languages, text, texts


def test_a_text_says_itself_in_english() -> None:
    assert str(text("compare.page")) == "Compare"


def test_a_typing_error_in_a_key_is_found_at_once() -> None:
    with pytest.raises(KeyError):
        text("compare.pagge")


def test_arguments_are_filled_in_and_other_braces_stay() -> None:
    assert filled("{a} of {b}, {x}", {"a": 1, "b": "{a}"}) == "1 of {a}, {x}"


def test_english_comes_first() -> None:
    assert languages()[0] == ENGLISH


@pytest.mark.parametrize("language", languages()[1:])
def test_every_language_says_what_english_says(language: str) -> None:
    english, other = texts(ENGLISH), texts(language)
    assert [key for key in english if key not in other] == []
    places = {key: set(re.findall(r"\{(\w+)\}", english[key])) for key in english}
    assert [key for key in english if set(re.findall(r"\{(\w+)\}", other[key])) != places[key]] == []
