"""Tokens as bytes."""

from __future__ import annotations

import pytest

from engines.grammars.vocabulary import has
from engines.models.causal import CausalModel

TEXTS = ("plain words, 12.5%", "naïve Käse 東京", "👩‍👩‍👧 ok", "tab\tand\r\nline", "  spaces  ", '{"a": [1, null]}')


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_of_a_text_joined_are_the_text(smollm: CausalModel, text: str) -> None:
    vocabulary = smollm.vocabulary
    assert vocabulary.decode(vocabulary.tokenise(text)) == text.encode()


def test_text_that_looks_like_a_special_token_is_text(smollm: CausalModel) -> None:
    vocabulary = smollm.vocabulary
    ids = vocabulary.tokenise("a <|im_end|> b")
    assert vocabulary.special.isdisjoint(ids)
    assert vocabulary.ends.isdisjoint(ids)
    assert vocabulary.decode(ids) == b"a <|im_end|> b"


def test_all_seventeen_special_tokens_are_known_though_the_tokenizer_reports_three(smollm: CausalModel) -> None:
    vocabulary = smollm.vocabulary
    assert len(set(smollm.tokenizer.all_special_ids)) == 3
    assert vocabulary.special | vocabulary.ends == set(range(17))
    assert vocabulary.ends == {2}


def test_the_embedded_vocabulary_is_as_measured(smollm: CausalModel) -> None:
    spelled = [piece for piece in smollm.vocabulary.bytes_of if piece]
    assert len(smollm.vocabulary) == 49152
    assert len({piece for piece in spelled if len(piece) == 1}) == 235
    assert max(len(piece) for piece in spelled) == 81
    assert len(set(spelled)) == len(spelled)


def test_bits_hold_what_was_put_in(smollm: CausalModel) -> None:
    vocabulary = smollm.vocabulary
    ids = [2, 17, 4095, 49151]
    bits = vocabulary.bits(ids)
    assert vocabulary.ids(bits) == ids
    assert [has(bits, id) for id in (2, 3, 49151, 49150)] == [True, False, True, False]


def test_in_byte_order_neighbours_begin_alike(smollm: CausalModel) -> None:
    vocabulary = smollm.vocabulary
    spelled = [vocabulary.bytes_of[id] for id in vocabulary.text_ids]
    assert spelled == sorted(spelled)
    assert len(spelled) == 49152 - 17


def test_another_vocabulary_of_the_same_size_has_another_key(tiny_llama: CausalModel, smollm: CausalModel) -> None:
    assert tiny_llama.vocabulary.key != smollm.vocabulary.key
    assert len(smollm.vocabulary.key) == 16
