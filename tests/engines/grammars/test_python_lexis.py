"""Where a dot asks for a member, checked by hand and against Python's own tokenizer."""

from __future__ import annotations

import io
import keyword
import tokenize
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.grammars.python_lexis import Reading, name_begins, name_ends, read, step


def asks(code: str) -> bool:
    return read(Reading(), code.encode()).dot


@pytest.mark.parametrize(
    "code",
    ["s.", "s .", "x1.", "'a'.", '"""a""".', "''.", "f(1).", "a[b.", "a[0].", "{}.", "None.", "(\n  a\n  .", "f'{x.",
     "f'{a:{b.", "f'{x}'.", "rf'''{d['a'].", "'it\\'s'.", "'broken\nx.", "f'{x.\ny.", "# a\nb.", "größe.", "r'\\\\'."],
)  # fmt: skip
def test_a_dot_behind_a_value_asks(code: str) -> None:
    assert asks(code)


@pytest.mark.parametrize(
    "code",
    ["", ".", "1.", "1_000.", "0x1f.", "1.5.", "x..", "x...", "from .", "return .", "in .", "= .", "# foo.", "a # b.",
     "'foo.", "'''a\nfoo.", '"it\\".', "f'{{x.", "f'{x}.", "f'{x:.", "b'a.", "s", "s.x", "s. "],
)  # fmt: skip
def test_no_other_dot_does(code: str) -> None:
    assert not asks(code)


@pytest.mark.parametrize(
    ("code", "closers"),
    [("f(a[{", "}])"), ("f(')')", ""), ("f(a)", ""), ("f'{a[", "]}'"), ("(]", ")"), ("f'''{x", "}'''"), ("# (", "")],
)
def test_it_knows_what_is_open(code: str, closers: str) -> None:
    assert read(Reading(), code.encode()).closers == closers


FOLDER = Path(__file__).parents[3] / "engines" / "grammars"


@pytest.mark.parametrize("name", ["analyser", "constraint", "guidance", "python_lexis", "vocabulary"])
def test_on_real_files_it_agrees_with_pythons_tokenizer(name: str) -> None:
    source = (FOLDER / f"{name}.py").read_text("utf-8")
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    expected: set[int] = set()
    unsure: list[tuple[int, int]] = []
    before: tokenize.TokenInfo | None = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        # Whether the fields of f-strings are tokens depends on the version of Python.
        if kind.startswith("FSTRING") or (
            kind == "STRING" and "f" in token.string.partition(token.string[-1])[0].lower()
        ):
            unsure.append((begin, end))
        if kind == "OP" and token.string == "." and before is not None:
            value = (
                before.string in ")]}"
                or before.type == tokenize.STRING
                or (
                    before.type == tokenize.NAME
                    and (not keyword.iskeyword(before.string) or before.string in ("None", "True", "False"))
                )
            )
            if value:
                expected.add(begin)
        if kind not in ("NL", "COMMENT", "INDENT", "DEDENT"):
            before = token
    reading, found = Reading(), set[int]()
    for place, char in enumerate(source):
        for byte in char.encode():
            reading = step(reading, byte)
        if reading.dot:
            found.add(place)
    inside = {place for begin, end in unsure for place in range(begin, end)}
    assert found - inside == expected - inside
    assert expected - inside


@given(st.text(alphabet="a.'\"\\\n#{}f[(1 :é", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_can_be_read_and_cut_anywhere(text: str) -> None:
    code = text.encode()
    whole = read(Reading(), code)
    for cut in range(len(code) + 1):
        assert read(read(Reading(), code[:cut]), code[cut:]) == whole


def test_names_end_as_for_pythons_tokenizer() -> None:
    assert [char for char in "az_09é ²(.\n—“×" if name_ends(char.encode(), 0)] == list(" (.\n—“×")
    assert not name_ends("—".encode()[:2], 0), "half a character is not known"
    assert not name_ends("a—".encode(), 2), "nor is what follows its first byte"
    assert [char for char in "az_09é—(" if name_begins(char.encode(), 0)] == list("az_é")
