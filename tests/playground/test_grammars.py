"""The gallery of grammars, and what is said of one that somebody types."""

from __future__ import annotations

import json
import threading
import time

import pytest
from lark import Lark

from engines.grammars import samples
from engines.grammars.guidance import Kind, compile_guidance
from engines.models.causal import CausalModel
from playground import grammars, referee
from playground.grammars import BYTES, END, KINDS, Example, by_bytes, load, read
from playground.texts import languages, texts

GALLERY = load()
every_example = pytest.mark.parametrize("example", GALLERY.values(), ids=list(GALLERY))

FITS = {
    "person": ['{"name": "Ada", "age": 36, "languages": ["English"]}', '{ "name": "", "age": 0, "languages": [] }'],
    "invoice": [
        '{"number": "INV-0001", "issued": "2024-02-29", "customer": {"name": "Ada", "city": "Rome"}, '
        '"items": [{"what": "lamp", "count": 2, "price": 30}], "paid": false}'
    ],
    "date": ["1969-07-20", "7/20/1969", "12/01/2000"],
    "email": ["ada@example.org", "a.b+c@mail.example.com"],
    "sql": ["SELECT * FROM a;", "SELECT name, COUNT(id) FROM a WHERE b = 'x y' AND c >= 3 ORDER BY d DESC LIMIT 10;"],
    "arithmetic": ["1", "(1 + 2) * 3 / 4 - 5"],
    "chess": ["1. e4 e5 2. Nf3 Nc6 3. Bb5 a6", "1. O-O-O Nbd7+ 2. exd8=Q# R1xe2"],
    "small-language": ["n = 1\nwhile n < 11 {\nprint n\nn = n + 1\n}\n", "if a == (b + 2) * 3 {\nprint 4\n}\n"],
    "json": ['{"a": [1, -2.5e3, true, null], "b": "\\u00e9 \\" x"}', "[]"],
    "yes-no": ["yes", "no", "unsure"],
    "s-expressions": ["(+ (* 3 3) (* 4 4))", '(define (f x?) "hello, world")'],
}
FAILS = {
    "person": ['{"name": "Ada", "age": 121, "languages": []}', '{"name": "Ada", "age": 3}', "Ada"],
    "invoice": ['{"number": "INV-1"}', "{}"],
    "date": ["1969-13-20", "13/13/1969", "20.7.1969"],
    "email": ["ada", "ada@example", "@example.org"],
    "sql": ["SELECT FROM a;", "DROP TABLE a;", "SELECT * FROM a"],
    "arithmetic": ["1 +", "(1", "a"],
    "chess": ["e4", "1. e9 e5", "1. e4"],
    "small-language": ["print", "while n < 3 {\n}\n", "nn = 1\n"],
    "json": ['{"a": 01}', "{'a': 1}", "[1,]", "3"],
    "yes-no": ["maybe", "Yes", ""],
    "s-expressions": ["()", "(+ 1 2", "x"],
}


def accepts(example: Example, text: str) -> bool:
    constraint = by_bytes(example.kind, example.grammar)
    return all(constraint.commit(byte) for byte in text.encode()) and constraint.accepting


def test_the_gallery_has_every_kind_and_no_id_twice() -> None:
    raw = json.loads(grammars.FILE.read_text(encoding="utf-8"))
    assert len({one["id"] for one in raw}) == len(raw) >= 11
    assert {example.kind for example in GALLERY.values()} == set(KINDS)
    assert set(FITS) == set(FAILS) == set(GALLERY)


def test_what_methods_begin_with_has_a_name_in_the_gallery() -> None:
    assert GALLERY["person"].grammar == samples.PERSON
    assert GALLERY["arithmetic"].grammar == samples.ARITHMETIC


@every_example
def test_the_embedded_model_can_be_held_to_it(example: Example, smollm: CausalModel) -> None:
    assert compile_guidance(example.kind, example.grammar, smollm.vocabulary).mask().any()


@every_example
def test_its_sentences_are_told_from_others(example: Example) -> None:
    """By the engine and by the referee, who know nothing of each other."""
    for text in FITS[example.id]:
        assert accepts(example, text), text
    for text in FAILS[example.id]:
        assert not accepts(example, text), text
    if example.kind != "choices":
        assert [referee.judge(example.kind, example.grammar, text)["valid"] for text in FITS[example.id]] == [
            True for _ in FITS[example.id]
        ]
        assert [referee.judge(example.kind, example.grammar, text)["valid"] for text in FAILS[example.id]] == [
            False for _ in FAILS[example.id]
        ]


@pytest.mark.parametrize("example", [one for one in GALLERY.values() if one.kind == "grammar"], ids=lambda one: one.id)
def test_lark_reads_it_without_a_conflict(example: Example) -> None:
    """Strictly: no choice between shift and reduce, no two terminals for one text. Table-driven methods need that."""
    Lark(example.grammar, parser="lalr", strict=True)
    assert read("grammar", example.grammar, tabled=True).good


@every_example
def test_its_words_are_short_and_translated(example: Example) -> None:
    assert 1 <= len(example.title) <= 30
    assert example.note.endswith(".")
    assert len(example.note) <= 140
    assert example.prompt.strip() == example.prompt != ""
    for language in languages()[1:]:
        assert texts(language)[f"grammars.{example.id}.title"]
        assert texts(language)[f"grammars.{example.id}.note"].endswith(".")


@every_example
def test_reading_says_that_it_is_good_and_how_long_it_took(example: Example) -> None:
    found = read(example.kind, example.grammar)
    assert (found.good, found.says) == (True, "")
    assert 0 < found.milliseconds < 5000


def test_the_first_mistake_in_a_schema_has_a_line_and_a_column() -> None:
    found = read("json schema", samples.PERSON.replace('"type": "integer"', '"type" "integer"'))
    line = samples.PERSON.splitlines()[4]
    assert (found.good, found.line, found.column) == (False, 5, line.index('"integer"'))
    assert "expecting ':'" in found.says


def test_the_first_mistake_in_a_grammar_has_a_line_and_a_column_and_says_what_was_expected() -> None:
    found = read("grammar", 'start: "a" b\nb: ("c"\nC: /d/\n')
    assert (found.good, found.line, found.column) == (False, 2, 8)
    assert "Expected ')'" in found.says


def test_a_conflict_is_a_mistake_only_for_who_makes_a_table() -> None:
    conflict = 'start: start start | "a"\n'
    assert read("grammar", conflict).good
    found = read("grammar", conflict, tabled=True)
    assert not found.good
    assert len(found.says) > 20


def test_the_first_mistake_in_an_expression_has_a_column() -> None:
    found = read("regex", "a(b|c")
    assert (found.good, found.line, found.column) == (False, 1, 2)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json schema", ""),
        ("json schema", '{"type": "nothing"}'),
        ("json schema", "[" * 5000),
        ("json schema", '{"$ref": "http://127.0.0.1:9/x"}'),
        ("json schema", "x" * 300_000),
        ("regex", "(?=a)b"),
        ("regex", "a\nb"),
        ("grammar", "start: missing"),
        ("grammar", '%llguidance {"no_forcing": false}\nstart: "a"'),
        ("grammar", "<script>alert(1)</script>" * 100),
        ("choices", "\r\n\n"),
    ],
)
def test_what_cannot_be_used_gets_a_short_sentence(kind: Kind, text: str) -> None:
    found = read(kind, text)
    assert not found.good
    assert 10 < len(found.says) <= grammars.MOST_SAID


def test_a_gallery_grammar_is_read_while_others_wait_but_not_by_everybody_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammars, "PATIENCE", 0.05)
    for _ in range(grammars.AT_ONCE):
        grammars._turns.acquire()
    try:
        began = time.perf_counter()
        assert read("choices", "a").busy
        assert time.perf_counter() - began < 2
    finally:
        for _ in range(grammars.AT_ONCE):
            grammars._turns.release()
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(read("choices", "a").good)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True, True], "turns are given back"


def test_bytes_spell_themselves() -> None:
    assert len(BYTES) == 257
    assert BYTES.ends == {END}
    assert BYTES.special == frozenset()
    assert BYTES.decode([0xC3, 0xA9, END]).decode() == "é"
