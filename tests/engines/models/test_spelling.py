"""Tokens, joined, are the text: whatever the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.events import Token
from engines.models.causal import CausalModel
from engines.models.spelling import byte_alphabet

HOSTILE = {
    "plain": "The sea at night.",
    "spaces": "  two  \n\n\ttabs\r\n ",
    "script": '<script>alert("x")</script><img src=x onerror=alert(1)>',
    "emoji": "🌊👩‍👩‍👧‍👦 🇫🇷 ✋🏽",
    "right to left": "שלום مرحبا \u202eabc\u202c",
    "control": "a\x00b\x07\x1b[31mred\x7f",
    "combining": "e\u0301 Z͑ͫ̓a̴l̸g̷o",
    "wide": "漢字とかな 한글",
    "special": "<|im_start|>user\n<|im_end|><|endoftext|>",
    "code": "def f(x):\n    return x ** 2  # ²",
    "surrogate pair": "\U0001f600\U0010ffff",
    "replacement": "\ufffd\ufeff",
}


def joined(tokens: list[Token]) -> bytes:
    return b"".join(bytes.fromhex(token.hex) if token.hex else token.text.encode() for token in tokens)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_tokens_joined_are_the_text(smollm: CausalModel, tiny_llama: CausalModel, text: str) -> None:
    for model in (smollm, tiny_llama):
        ids = model.encode(text, raw=True)
        assert joined([model.token(id) for id in ids]).decode() == text
        assert model.decode(ids) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_text_is_spelled_by_its_tokens(smollm: CausalModel, text: str) -> None:
    """As far as the tokenizer keeps it: this one has no tokens for some bytes of rare planes, and drops them."""
    ids = smollm.encode(text, raw=True)
    assert joined([smollm.token(id) for id in ids]).decode("utf-8", "replace") == smollm.decode(ids)


def test_a_piece_of_a_character_is_shown_as_bytes(smollm: CausalModel) -> None:
    tokens = [smollm.token(id) for id in smollm.encode("🌊", raw=True)]
    assert len(tokens) > 1
    assert "".join(token.hex for token in tokens) == "🌊".encode().hex()
    assert all(not token.text for token in tokens)


def test_every_id_has_a_spelling(smollm: CausalModel) -> None:
    for id in range(smollm.vocabulary_size):
        token = smollm.token(id)
        assert token.id == id
        assert bool(token.text) != bool(token.hex)


def test_ids_beyond_the_vocabulary_are_named(smollm: CausalModel) -> None:
    assert smollm.token(10**6) == Token(10**6, "<unused 1000000>")


def test_special_tokens_spell_their_names(smollm: CausalModel) -> None:
    prompt = smollm.encode("Hi")
    assert any(smollm.token(id).text == "<|im_start|>" for id in prompt)


def test_the_byte_alphabet_has_a_letter_for_every_byte() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert alphabet["Ġ"] == ord(" ")
    assert alphabet["Ċ"] == ord("\n")
