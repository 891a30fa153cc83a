"""Grammars are read from Lark's notation, cleaned, refused in words, and parsed as Lark itself parses them."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from lark import Lark, UnexpectedInput

from engines.events import Token
from engines.grammars.automata import from_text
from engines.grammars.cfg import END, Grammar, Rule, Stack, intersects, two_nf, with_holes
from engines.grammars.constraint import BadGrammar, GrammarLimit
from engines.grammars.samples import ARITHMETIC
from engines.grammars.vocabulary import Vocabulary


def vocabulary(letters: bytes) -> Vocabulary:
    pieces = [bytes([letter]) for letter in letters]
    return Vocabulary([*pieces, b""], [], [len(pieces)], lambda text: [], lambda id: Token(id, ""))


def accepts(grammar: Grammar, terminals: str) -> bool:
    """Whether a text of one-letter terminals is one of the grammar."""
    stack: Stack | None = grammar.table.begin()
    for name in terminals:
        stack = stack and stack.after(name)
    return stack is not None and END in stack.accepts


# --------------------------------------------------------------------------------------------------------- what is read


def test_rules_terminals_and_names_for_people_are_read() -> None:
    grammar = Grammar.from_lark('start: "(" NUMBER ")" | /x+/\nNUMBER: /[0-9]+/\n%ignore " "')
    assert {rule.body for rule in grammar.rules} == {("LPAR", "NUMBER", "RPAR"), ("__ANON_0",)}
    assert {name: grammar.label(name) for name in grammar.terminals} == {
        "LPAR": "“(”",
        "RPAR": "“)”",
        "__IGNORE_0": "“ ”",
        "NUMBER": "NUMBER",
        "__ANON_0": "/x+/",
    }
    assert grammar.ignored == ("__IGNORE_0",)


def test_terminals_that_win_come_first_by_priority_then_fixed_text_then_order() -> None:
    grammar = Grammar.from_lark(
        'start: NAME | IF | HIGH | OTHER\nNAME: /[a-z]+/\nOTHER: /[a-d]/\nIF: "if"\nHIGH.2: /h/'
    )
    assert list(grammar.terminals) == ["HIGH", "IF", "NAME", "OTHER"]


def test_larks_own_collections_can_be_imported() -> None:
    grammar = Grammar.from_lark("%import common.NUMBER\n%import common.WS\nstart: NUMBER\n%ignore WS")
    assert grammar.terminals["NUMBER"].matches(b"3.25")
    assert grammar.ignored == ("WS",)


def test_left_recursion_of_any_depth_is_no_trouble() -> None:
    chain = "\n".join(f'r{i}: r{i} "x{i}" | r{i + 1}' for i in range(120))
    grammar = Grammar.from_lark(f'start: r0\n{chain}\nr120: r120 "y" | "z"')
    assert grammar.shortest["start"] == b"z"
    direct = Grammar.from_lark('start: start "a" | "b"')
    assert [accepts(direct, text) for text in ("B", "BA", "BAA", "A", "AB")] == [True, True, True, False, False]


# ------------------------------------------------------------------------------------------------------------- hygiene


def test_what_no_text_uses_is_trimmed() -> None:
    grammar = Grammar.from_lark('start: "a" | "b" loop\nloop: "c" loop\nlost: "d"')
    assert set(grammar.terminals) == {"A"}
    assert [rule.body for rule in grammar.rules] == [("A",)]
    assert grammar.table.begin().accepts == ("A",), "“b” would lead where no text ends"


def test_a_terminal_that_is_ignored_is_ignored_everywhere_as_in_lark() -> None:
    grammar = Grammar.from_lark('start: "a" WS "b" | "c"\nWS: " "\n%ignore WS')
    assert set(grammar.terminals) == {"C", "WS"}


def test_nullable_productive_and_the_shortest_texts_are_those_of_the_definition() -> None:
    grammar = Grammar.from_lark(
        'start: [sign] digits tail\nsign: "-" | "plus"\ndigits: D | digits D\nD: /[0-9]{2,4}/\ntail: (";" | ",,")*'
    )
    assert "tail" in grammar.nullable or any(
        rule.origin == "start" and "tail" not in rule.body for rule in grammar.rules
    )
    assert "digits" not in grammar.nullable
    assert grammar.min_length["start"] == 2
    assert grammar.min_length["sign"] == 1
    assert grammar.terminals["D"].matches(grammar.shortest["digits"])


def test_lengths_by_hand_on_a_grammar_without_lark() -> None:
    terminals = {name: from_text(text) for name, text in (("X", "xx"), ("Y", "yyy"))}
    rules = [Rule("start", ("a", "X")), Rule("a", ()), Rule("a", ("Y", "a")), Rule("b", ("b",)), Rule("b", ("X", "b"))]
    grammar = Grammar("start", rules, terminals)
    assert grammar.nullable == {"a"}
    assert grammar.productive == {"X", "Y", "a", "start"}
    assert grammar.min_length == {"X": 2, "Y": 3, "a": 0, "start": 2}
    assert {rule.origin for rule in grammar.trim().rules} == {"start", "a"}


def test_bytes_that_no_token_has_are_taken_away() -> None:
    grammar = Grammar.from_lark("start: WORD | NUMBER\nWORD: /[a-z]+é/\nNUMBER: /[0-9]+(\\.[0-9]+)?/")
    left = grammar.for_vocabulary(vocabulary(b"0123456789abc"))
    assert set(left.terminals) == {"NUMBER"}
    assert left.terminals["NUMBER"].matches(b"12")
    assert left.terminals["NUMBER"].run(b"1.") == left.terminals["NUMBER"].dead


def test_a_grammar_that_needs_bytes_that_no_token_has_is_refused_by_name() -> None:
    with pytest.raises(BadGrammar, match=r"cannot spell any text .*WORD"):
        Grammar.from_lark("start: WORD\nWORD: /[a-z]+é/").for_vocabulary(vocabulary(b"abc"))


# --------------------------------------------------------------------------------------------------------- bad grammars


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ('start: a\n a: "x', 2, 5, "Unexpected input"),
        ("start: Aß", 1, 9, "Unexpected input"),
        ("?", 1, 1, "Expecting rule"),
        ("start: b", 1, 1, "rule b is used but not defined"),
        ('start: "a"\nstart: "b"', 1, 1, "more than once"),
        ("start: A\nA: B\nB: A", 2, 1, "Recursion in terminal"),
        ('start: e\ne: e "+" e | "1"', 2, 1, "conflict: when “\\+” follows, the rule e: e PLUS e may"),
        ('start: a | b\na: "x"\nb: "x"', 2, 1, "complete by more than one rule \\(a and b\\)"),
        ('start: a\na: "x" a', 1, 1, "no finite text"),
        ("start: /[^\\s\\S]/", 1, 1, "no finite text"),
        ("start: A\nA: /a*/", 2, 1, "matches the empty text"),
        ("start: /b?/", 0, 0, "matches the empty text"),
        ("start: A\n\nA: /(?=a)a/", 3, 1, "look-ahead"),
        ("start: A\nA: /(a)\\1/", 2, 1, "back-reference"),
        ("start: A\nA: /(a|b)*a(a|b){14}/", 2, 1, "too large"),
        ('start: "a" | "b"\n%declare C', 2, 1, "not supported here"),
        ('%import .secret.rule\nstart: "a"', 1, 1, "Only common"),
        ('%import os.path\nstart: "a"', 1, 1, "Only common"),
        ('first: "a"', 0, 0, "no rule called start"),
        ("  \n ", 0, 0, "nothing here yet"),
        ("start: " + "(" * 3000 + '"a"' + ")" * 3000, 0, 0, "nested too deeply"),
    ],
)
def test_a_bad_grammar_is_refused_with_its_place_and_reason(text: str, line: int, column: int, reason: str) -> None:
    start = time.process_time()
    with pytest.raises(BadGrammar, match=reason) as caught:
        Grammar.from_lark(text)
    if line or "empty text" not in reason:
        assert (caught.value.line, caught.value.column) == (line, column)
    assert time.process_time() - start < 3


def test_a_grammar_that_goes_on_expanding_is_given_up_in_time() -> None:
    choices = " ".join(f'("a{i}" | "b{i}")' for i in range(30))
    for text in ('start: x{"a"}\nx{y}: "k" x{x{y}}', f"start: {choices}"):
        start = time.process_time()
        with pytest.raises(BadGrammar, match="took longer"):
            Grammar.from_lark(text, seconds=0.5)
        assert time.process_time() - start < 2.5


def test_a_text_of_great_length_is_not_even_read() -> None:
    with pytest.raises(BadGrammar, match="characters"):
        Grammar.from_lark('start: "' + "a" * 70_000 + '"')


# --------------------------------------------------------------------------------------------------------------- parser

TEXTS = (
    ('start: start "a" | "b"', "AB"),
    ('start: a b\na: "a"*\nb: ["b"] "c"', "ABC"),
    ('start: "a" start "b" | "c"', "ABC"),
    ('start: (x | "b")+\nx: "a" "c" | "a"', "ABC"),
    ('start: x "c"\nx: x "b" | ["a"]', "ABC"),
)


@pytest.mark.parametrize(("text", "names"), TEXTS)
def test_the_parser_takes_what_lark_takes_and_may_go_on_exactly_where_a_text_does(text: str, names: str) -> None:
    grammar, lark = Grammar.from_lark(text), Lark(text, parser="earley", lexer="basic")

    def in_lark(word: str) -> bool:
        try:
            lark.parse(word.lower())
        except UnexpectedInput:
            return False
        return True

    words = {"".join(word) for size in range(8) for word in itertools.product(names, repeat=size)}
    language = {word for word in words if len(word) < 8 and in_lark(word)}
    assert language
    for word in sorted(word for word in words if len(word) < 5):
        assert accepts(grammar, word) == (word in language), word
        stack: Stack | None = grammar.table.begin()
        for name in word:
            stack = stack and stack.after(name)
        begins = {other[len(word)] for other in language if other.startswith(word) and len(other) > len(word)}
        if stack is not None:
            assert set(stack.accepts) - {END} >= begins, word
            assert len(word) > 2 or set(stack.accepts) - {END} == begins, word
        else:
            assert not begins
            assert word not in language


def test_a_stack_is_never_changed_by_what_is_read_after_it() -> None:
    stack = Grammar.from_lark(ARITHMETIC).table.begin()
    before = stack.accepts
    behind = stack.after("LPAR")
    assert behind is not None
    assert behind.symbols() == ["LPAR"]
    assert stack.accepts == before
    assert stack.symbols() == []
    assert behind.after("RPAR") is None


# ----------------------------------------------------------------------------------------------------- texts with holes

HOLED = (*TEXTS, ('start: "a" "b" "c" | "c" start "a" "b"', "ABC"))


def in_grammar(grammar: Grammar, word: str) -> bool:
    return accepts(grammar, word.upper())


@pytest.mark.parametrize(("text", "names"), HOLED)
def test_two_names_on_the_right_are_enough_for_the_same_language(text: str, names: str) -> None:
    grammar = Grammar.from_lark(text)
    short = two_nf(grammar)
    assert max(len(rule.body) for rule in short.rules) <= 2
    assert sum(len(rule.body) for rule in short.rules) <= 3 * sum(len(rule.body) + 1 for rule in grammar.rules)
    for size in range(7):
        for letters in itertools.product(names, repeat=size):
            word = "".join(letters)
            assert accepts(short, word) == accepts(grammar, word), word


@pytest.mark.parametrize(("text", "names"), HOLED)
def test_a_text_with_holes_is_filled_as_shortly_as_brute_force_does_or_not_at_all(text: str, names: str) -> None:
    grammar = Grammar.from_lark(text)
    words = ["".join(word) for size in range(8) for word in itertools.product(names.lower(), repeat=size)]
    language = [word for word in words if in_grammar(grammar, word)]
    for known in itertools.product(["", "a", "b", "c", "ab", "ca"], repeat=2):
        for shape in ((known[0], None, known[1]), (None, *known, None), (known[0], known[1]), (None, known[0], None)):
            pattern = re.compile("".join(".*" if piece is None else piece for piece in shape))
            fitting = [word for word in language if pattern.fullmatch(word)]
            pieces = [None if piece is None else piece.encode() for piece in shape]
            found = intersects(grammar, with_holes(grammar, pieces))
            if found is None:
                assert not fitting, (shape, fitting)
                continue
            assert pattern.fullmatch(found.decode()), shape
            assert in_grammar(grammar, found.decode()), shape
            assert not fitting or len(found) == min(map(len, fitting)), (shape, found)


JSON = r"""
start: value
value: object | array | STRING | NUMBER
object: "{" [pair ("," pair)*] "}"
pair: STRING ":" value
array: "[" [value ("," value)*] "]"
STRING: /"[^"]*"/
NUMBER: /[0-9]+/
%ignore /[ ]+/
"""


@pytest.mark.parametrize(
    ("pieces", "filled"),
    [
        ((b'{"a":', None), b'{"a":0}'),
        ((b'{ "a"', None, b": [", None, b" ]}"), b'{ "a": [ ]}'),
        ((None, b":", None), b'":"'),
        ((b"{", None, b":", None), b'{"":0}'),
        ((b'{ "a": ', None, b" , ", None, b": "), None),
        ((b"{ ", None, b"]"), None),
        ((b"[", None, b"}]"), b"[{}]"),
        ((None,), b"0"),
        ((b'"', None), b'""'),
        ((b"} ", None), None),
        ((b"[[[[", None), b"[[[[]]]]"),
    ],
)
def test_json_with_holes_has_a_shortest_filling(pieces: tuple[bytes | None, ...], filled: bytes | None) -> None:
    grammar = Grammar.from_lark(JSON)
    found = intersects(grammar, with_holes(grammar, pieces))
    assert (found is None) == (filled is None)
    assert found is None or filled is None or len(found) == len(filled), found


def test_a_text_with_holes_that_is_too_long_is_refused() -> None:
    grammar = Grammar.from_lark(JSON)
    with pytest.raises(GrammarLimit, match="known bytes"):
        with_holes(grammar, [b"[" * 500, None])
