from __future__ import annotations

import json

import pytest

from playground.prompt_set import (
    LONGEST_PROMPT,
    MOST_BYTES,
    MOST_PROMPTS,
    Asked,
    NoPrompts,
    categories,
    pasted,
    read,
    shipped,
    uploaded,
)


def prompts(text: str) -> list[str]:
    return [one.prompt for one in pasted(text).prompts]


def test_pasted_lines_are_prompts() -> None:
    assert prompts("One?\r\n  Two?  \nThree?\n") == ["One?", "Two?", "Three?"]


def test_with_blank_lines_a_prompt_may_have_several_lines() -> None:
    assert prompts("\nA list:\n- one\n\n\n  \nAnother") == ["A list:\n- one", "Another"]


def test_pasted_prompts_are_numbered() -> None:
    assert [one.id for one in pasted("a\nb").prompts] == ["1", "2"]


def test_shipped_prompts_can_be_had_by_category() -> None:
    everything, some = shipped(), shipped("translation")
    assert 0 < len(some.prompts) < len(everything.prompts)
    assert {one.category for one in some.prompts} == {"Translation"}
    assert everything.categories == categories()


def test_an_unknown_category_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(NoPrompts, match=r"Poetry.*Translation"):
        shipped("Poetry")


def test_a_jsonl_file_may_name_ids_and_categories() -> None:
    lines = [{"prompt": "One?", "id": 7, "category": "a b"}, {"prompt": "Two?", "other": [1]}, {"prompt": "Drei?\n…"}]
    content = "\n\n".join(json.dumps(line) for line in lines).encode()
    assert uploaded("mine.jsonl", content).prompts == (
        Asked("7", "One?", "a b"),
        Asked("2", "Two?"),
        Asked("3", "Drei?\n…"),
    )


def test_a_csv_file_needs_the_column_prompt_and_may_quote_lines() -> None:
    content = '\ufeffcategory,prompt\r\nlists,"Two\nlines, here"\r\n,Plain\r\n'.encode()
    assert uploaded("MINE.CSV", content).prompts == (Asked("1", "Two\nlines, here", "lists"), Asked("2", "Plain"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", b"x", "ends in .jsonl or .csv, not 'a.png'"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "b"', "Line 2 is not JSON"),
        ("a.jsonl", b'{"prompt": "a"}\n\xff\xfe', "Line 2 is not UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n\n{"text": "b"}', 'Line 3 has no "prompt"'),
        ("a.jsonl", b"[1, 2]", 'Line 1 has no "prompt"'),
        ("a.jsonl", b'{"prompt": ["a"]}', "Line 1: prompt must be text, not a list"),
        ("a.jsonl", b'{"prompt": "a", "id": true}', "Line 1: id must be text, not true or false"),
        ("a.jsonl", b'{"prompt": "a", "category": {}}', "Line 1: category must be text, not an object"),
        ("a.jsonl", b'{"prompt": "  "}', "Line 1: the prompt is empty"),
        ("a.jsonl", b'{"prompt": null}', "Line 1: the prompt is empty"),
        ("a.jsonl", b'{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', "Line 2: the id 'x' occurs twice"),
        ("a.jsonl", b"[" * 100_000, "Line 1 is"),
        ("a.jsonl", b"", "no prompt in it"),
        ("a.jsonl", b'{"prompt": "a"}\n\0', "Line 2 holds a zero byte"),
        ("a.csv", b"text\nhello", "Line 1 must name the columns"),
        ("a.csv", b'prompt\n"open', "Line 2 cannot be read as CSV"),
        ("a.csv", b"prompt\n" + b"x" * (LONGEST_PROMPT + 1), "Line 2: the prompt has 20,001 characters"),
        ("a.csv", b"prompt\n" + b"x\n" * (MOST_PROMPTS + 1), f"line {MOST_PROMPTS + 2} is one too many"),
        ("a.csv", b"x" * (MOST_BYTES + 1), "larger than 1 MB"),
    ],
)  # fmt: skip
def test_what_is_no_set_of_prompts_is_refused_with_its_line(name: str, content: bytes, said: str) -> None:
    with pytest.raises(NoPrompts) as refused:
        uploaded(name, content)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()


def test_half_a_character_becomes_a_question_mark() -> None:
    assert prompts("a\ud800b") == ["a?b"]


def test_the_command_line_names_shipped_prompts_text_files_and_uploads() -> None:
    files = {"p.txt": b"one\ntwo", "p.csv": b"prompt\nthree"}
    assert read("shipped:Translation", files.__getitem__) == shipped("Translation")
    assert [one.prompt for one in read("p.txt", files.__getitem__).prompts] == ["one", "two"]
    assert [one.prompt for one in read("p.csv", files.__getitem__).prompts] == ["three"]
