"""The words of the field."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from playground.glossary import load

# What a newcomer meets on the Play page and in the lessons.
EXPECTED = """token, logit, temperature, top-p, nucleus, top-k, entropy, draft, verify, acceptance rate, bonus,
correction, residual, KV cache, forward pass, target pass, lossless, float tie, beam, beam search,
prompt lookup, n-gram, perplexity, quantisation, greedy, sampling, seed, softmax, distribution,
vocabulary, speculative decoding"""


def test_the_words_of_the_field_are_there() -> None:
    forms = {form for word in load() for form in (word.word, *word.also)}
    assert {" ".join(word.split()) for word in EXPECTED.split(",")} <= forms
    assert len(load()) >= 40


def test_every_meaning_is_a_plain_sentence_or_three() -> None:
    for word in load():
        sentences = re.findall(r"[.!?](?:\s|$)", word.means)
        assert 1 <= len(sentences) <= 3, word.word
        assert word.means.endswith("."), word.word
        assert len(word.means.split()) <= 40, word.word
        assert not word.means.lower().startswith((f"{word.word.lower()} is", "a word")) or word.word == "token"


def test_papers_are_named_with_their_number() -> None:
    for word in load():
        assert not word.source or re.search(r"\d{4}", word.source), word.word


def test_one_form_means_one_thing(tmp_path: Path) -> None:
    file = tmp_path / "glossary.json"
    file.write_text(json.dumps([{"word": "pass", "means": "One."}, {"word": "run", "also": ["Pass"], "means": "Two."}]))
    with pytest.raises(ValueError, match="pass"):
        load(file)


def test_the_list_is_in_order() -> None:
    words = [word.word.lower() for word in load()]
    assert words == sorted(words)
