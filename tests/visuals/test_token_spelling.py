"""Token text reaches a drawing as the model sees it, and as nothing else."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_streams import HOSTILE

from engines.events import Token
from visuals.spelling import plain, quoted, safe, visible


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (Token(1, " the"), "␣the"),
        (Token(1, "a\nb\r\tc"), "a⏎b␍⇥c"),
        (Token(1, "<b>x</b>"), "&lt;b&gt;x&lt;/b&gt;"),
        (Token(1, "&lt;"), "&amp;lt;"),
        (Token(1, '"it\'s"'), "&#34;it&#39;s&#34;"),
        (Token(1, "$x$"), "&#36;x&#36;"),
        (Token(1, "\x07\x1b"), "\\x07\\x1b"),
        (Token(1, "\u202eabc"), "\\u202eabc"),
        (Token(1, "\u00a0"), "\\xa0"),
        (Token(1, "\U000e0001"), "\\U000e0001"),
        (Token(1, "", "e2"), "⟦e2⟧"),
        (Token(7, ""), "⟦7⟧"),
        (Token(1, "naïve"), "naïve"),
        (Token(1, "😀"), "😀"),
        (Token(1, "\u0301"), "◌\u0301"),
        (Token(1, "x" * 100), "x" * 23 + "…"),
    ],
)
def test_worked_examples(token: Token, shown: str) -> None:
    assert visible(token) == shown


def test_right_to_left_text_is_isolated() -> None:
    assert plain(Token(1, "שלום")) == "\u2068שלום\u2069"


def test_padding_keeps_columns() -> None:
    assert visible(Token(1, "ab"), 5, pad=True) == "ab   "
    assert visible(Token(1, "<"), 3, pad=True) == "&lt;  "


def test_plain_is_not_escaped() -> None:
    assert plain(Token(1, "<b>")) == "<b>"
    assert quoted(Token(1, " a")) == "“␣a”"
    assert safe("top-k <b> 1\n") == "top-k &lt;b&gt; 1⏎"


@pytest.mark.parametrize("token", HOSTILE, ids=[str(token.id) for token in HOSTILE])
def test_hostile_tokens_are_harmless(token: Token) -> None:
    assert_harmless(visible(token))


@given(st.text(max_size=60), st.integers(4, 24))
def test_any_text_is_harmless_and_short(text: str, width: int) -> None:
    assert_harmless(visible(Token(1, text), width))
    assert len(plain(Token(1, text), width).strip("\u2068\u2069")) <= width


def assert_harmless(shown: str) -> None:
    assert shown
    assert not set("<>$\"'") & set(shown)
    inside = shown.removeprefix("\u2068").removesuffix("\u2069")
    assert not [char for char in inside if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"}]
    shown.encode("utf-8")
