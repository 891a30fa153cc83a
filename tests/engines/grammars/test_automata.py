"""Automata over bytes agree with Python's `re`, keep their limits, and walk a trie as they read texts."""

from __future__ import annotations

import itertools
import random
import re
import time

import numpy as np
import pytest

from engines.events import Token
from engines.grammars.automata import ByteDFA, Trie, from_regex, from_text, longest_match, trie_walk, utf8_ranges
from engines.grammars.constraint import BadGrammar
from engines.grammars.vocabulary import Vocabulary

EXPRESSIONS = (
    "a*b", "(a|b)*abb", "a{2,3}", "a{2}b?", "a{2,}", "(ab|a)(c|bc)?", "[ab]+c", "[^a]b", "(a+)+b", "a|", "(a|b|)c",
    "(?:ab)*", "(?i:aB)c", "[a-c]{2}", "a.c", "(a?b?c?)+", "(?P<x>a)b", "((a|b)*c)*", "[^ab]", "a+?b", "(a*)*", "()",
    "(?i)aB", "a(?#note)b", "(?x) a  b", "a{", "a{b", "[]a]b", "[a-]",
)  # fmt: skip


def vocabulary(pieces: list[bytes]) -> Vocabulary:
    return Vocabulary([*pieces, b""], [], [len(pieces)], lambda text: [], lambda id: Token(id, ""))


def random_expression(rng: random.Random, depth: int = 3) -> str:
    if depth == 0:
        return rng.choice(["a", "b", "c", "[ab]", "[^a]", "."])
    inner = [random_expression(rng, depth - 1) for _ in range(2)]
    shapes = [f"{inner[0]}{inner[1]}", f"({inner[0]}|{inner[1]})", *(f"({inner[0]}){sign}" for sign in "*+?")]
    return rng.choice([*shapes, f"({inner[0]}){{{rng.randint(0, 2)},{rng.randint(2, 3)}}}"])


def test_matches_are_those_of_python_on_all_short_texts() -> None:
    rng = random.Random(1)
    texts = ["".join(letters) for size in range(5) for letters in itertools.product("abcAB"[:4], repeat=size)]
    for expression in (*EXPRESSIONS, *(random_expression(rng) for _ in range(120))):
        dfa, pattern = from_regex(expression), re.compile(expression)
        for text in texts:
            assert dfa.matches(text.encode()) == bool(pattern.fullmatch(text)), (expression, text)


def test_a_state_is_alive_exactly_when_a_match_can_be_reached() -> None:
    rng = random.Random(2)
    texts = ["".join(letters) for size in range(4) for letters in itertools.product("abc", repeat=size)]
    for expression in (*EXPRESSIONS, *(random_expression(rng, 2) for _ in range(60))):
        dfa, pattern = from_regex(expression), re.compile(expression)
        for text in texts:
            ends = (
                pattern.fullmatch(text + "".join(more))
                for size in range(5)
                for more in itertools.product("abc{ ", repeat=size)
            )
            assert (dfa.run(text.encode()) != dfa.dead) == any(ends), (expression, text)


@pytest.mark.parametrize(
    ("expression", "size"),
    [("a", 2), ("(a|b)*abb", 4), ("(aa|aa|aa)", 3), ("a*a*a*", 1), ("[^\\s\\S]", 0), ("(a|b)(a|b)", 3)],
)
def test_equal_states_are_merged(expression: str, size: int) -> None:
    assert len(from_regex(expression)) == size


@pytest.mark.parametrize(
    "text", ["", "a", "é", "日", "😀", "ÿ", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff"]
)
def test_classes_of_characters_read_characters_and_not_bytes(text: str) -> None:
    for expression in ("[^a]", ".", "[\u0080-\U0010ffff]", "[é日😀]", "[\\u00e9\\U0001f600]", "[^日]"):
        expected = re.fullmatch(expression, text) is not None
        assert from_regex(expression).matches(text.encode()) == expected, expression
    assert from_regex(".{3}").matches((text + "éx").encode()) == (len(text) == 1)


def test_what_is_not_utf8_never_matches() -> None:
    dfa = from_regex(".*")
    for piece in (b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xe0\x80\x80"):
        assert dfa.run(piece) == dfa.dead, piece
    assert not dfa.matches("日".encode()[:2])
    assert dfa.run("日".encode()[:2]) != dfa.dead


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0x10FFFF), (0x7F, 0x801), (0xE9, 0x10440), (0x3042, 0x30FF), (0xFFFF, 0x10000), (65, 65)]
)
def test_byte_ranges_hold_every_character_once_and_no_surrogate(low: int, high: int) -> None:
    sizes = [np.prod([last - first + 1 for first, last in sequence]) for sequence in utf8_ranges(low, high)]
    surrogates = max(0, min(high, 0xDFFF) - max(low, 0xD800) + 1)
    assert sum(int(size) for size in sizes) == high - low + 1 - surrogates
    for code in {low, high, *random.Random(0).sample(range(low, high + 1), min(200, high - low + 1))}:
        if not 0xD800 <= code <= 0xDFFF:
            piece = chr(code).encode()
            held = [
                all(first <= byte <= last for byte, (first, last) in zip(piece, sequence, strict=True))
                for sequence in utf8_ranges(low, high)
                if len(sequence) == len(piece)
            ]
            assert sum(held) == 1, hex(code)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(?=a)b", "look-ahead"),
        ("(?!a)b", "look-ahead"),
        ("(?<=a)b", "look-behind"),
        ("(?<!a)b", "look-behind"),
        ("(a)\\1", "back-reference"),
        ("(?P<n>a)(?P=n)", "back-reference"),
        ("^a", "anchor"),
        ("a$", "anchor"),
        ("a\\b", "anchor"),
        ("\\p{L}", "not a regular expression"),
        ("(a", "not a regular expression"),
        ("a++b", "possessive"),
        ("(?>a)b", "atomic"),
        ("a)", "not a regular expression"),
        ("[z-a]", "not a regular expression"),
        ("*", "not a regular expression"),
        ("(" * 3000 + "a" + ")" * 3000, "nested too deeply"),
    ],
)
def test_what_no_automaton_can_do_is_refused_by_name(expression: str, reason: str) -> None:
    with pytest.raises(BadGrammar, match=reason):
        from_regex(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "(a|b)*a(a|b){14}",
        "[^x]{0,5000}",
        "a{100000}",
        "((a?){40}){400}",
        "(){1000000000}",
        "a{99999999999}",
    ],
)
def test_an_exploding_expression_is_refused_in_time(expression: str) -> None:
    start = time.process_time()
    with pytest.raises(BadGrammar, match=r"too large|too long|too often"):
        from_regex(expression, seconds=0.7)
    assert time.process_time() - start < 3


def test_states_are_counted_before_all_of_them_are_made() -> None:
    start = time.process_time()
    with pytest.raises(BadGrammar, match="too large"):
        from_regex("(a|b)*a(a|b){20}", seconds=20)
    assert time.process_time() - start < 3


def test_the_time_limit_holds_where_the_number_of_states_does_not() -> None:
    with pytest.raises(BadGrammar, match="too long"):
        from_regex("(a|b)*a(a|b){14}", most_states=30_000, seconds=0.05)


def test_backtracking_does_not_exist() -> None:
    dfa = from_regex("(a+)+b")
    start = time.process_time()
    assert dfa.run(b"a" * 200_000) != dfa.dead
    assert not dfa.matches(b"a" * 200_000 + b"c")
    assert longest_match({"T": dfa}, b"a" * 50_000 + b"c") is None
    assert time.process_time() - start < 2


def test_the_longest_match_wins_then_the_first_named() -> None:
    dfas = {"WORD": from_regex("[a-z]+"), "IF": from_text("if"), "NUMBER": from_regex("[0-9]+(\\.[0-9]+)?")}
    assert longest_match(dfas, b"iffy 1") == ("WORD", 4)
    assert longest_match(dfas, b"if(") == ("WORD", 2)
    assert longest_match({"IF": dfas["IF"]} | dfas, b"if(") == ("IF", 2)
    assert longest_match(dfas, b"x 1.x", 2) == ("NUMBER", 3)
    assert longest_match(dfas, b"-") is None


def test_a_shortest_match_is_one_and_none_is_shorter() -> None:
    for expression in EXPRESSIONS:
        dfa, pattern = from_regex(expression), re.compile(expression)
        shortest = dfa.shortest
        assert shortest is not None
        assert pattern.fullmatch(shortest.decode())
        for size in range(len(shortest)):
            assert not any(pattern.fullmatch("".join(some)) for some in itertools.product("abc", repeat=size))
    assert from_regex("[^\\s\\S]").shortest is None


def test_without_some_bytes_only_what_needs_them_is_lost() -> None:
    missing = np.zeros(256, dtype=np.bool_)
    missing[ord("b")] = True
    left = from_regex("a(b|c)d|bb|(ab)*e").without(missing)
    assert [text for text in ("abd", "acd", "bb", "e", "abe") if left.matches(text.encode())] == ["acd", "e"]
    assert left.run(b"ab") == left.dead
    assert from_regex("b+").without(missing).empty


def random_pieces(rng: random.Random) -> list[bytes]:
    pieces = {bytes(rng.choice(b"abc\xc3\xa9") for _ in range(rng.randint(1, 5))) for _ in range(80)}
    return [*pieces, b"abc", b"abcabcabcabcabc", *list(pieces)[:3]]  # some twice: two ids of one spelling


def test_the_trie_holds_every_token_at_the_end_of_its_bytes() -> None:
    words = vocabulary(random_pieces(random.Random(3)))
    trie = Trie(words)
    assert trie.depth == 15
    for node in range(trie.size):
        below = range(trie.first[node], trie.first[node] + trie.children[node])
        assert len({trie.bytes[child] for child in below}) == len(below)
    for row, id in enumerate(words.text_ids.tolist()):
        node = 0
        for byte in words.bytes_of[id]:
            assert trie.low[node] <= row < trie.high[node]
            below = range(trie.first[node], trie.first[node] + trie.children[node])
            node = next(child for child in below if trie.bytes[child] == byte)
        assert trie.low[node] <= row < trie.exact[node]


@pytest.mark.parametrize("expression", ["[abc]+", "a(b|c)*é?", "(ab?)*", "[^a]*a", "é+|a", "abcabc(a.*)?", "a(bca)*"])
def test_a_walk_over_the_trie_reads_every_token_as_the_automaton_does(expression: str) -> None:
    dfa = from_regex(expression)
    words = vocabulary(random_pieces(random.Random(4)))
    trie = Trie(words)
    for state in range(len(dfa)):
        walk = trie_walk(trie, dfa, state)
        ended = trie.bits([(trie.low[nodes], trie.high[nodes]) for nodes in walk.ended])
        for id in words.text_ids.tolist():
            piece = words.bytes_of[id]
            states = [dfa.run(piece[:size], state) for size in range(len(piece) + 1)]
            assert (id in words.ids(walk.live)) == (states[-1] != dfa.dead), (state, piece)
            assert (id in words.ids(ended)) == any(dfa.ends[one] for one in states), (state, piece)
            cut = states[-1] != dfa.dead and not dfa.ends[states[-1]] and any(dfa.ends[one] for one in states[1:])
            assert (id in words.ids(walk.cut)) == cut, (state, piece)


def test_no_tokens_and_no_matches_are_no_trouble() -> None:
    empty = Trie(vocabulary([]))
    dead = from_regex("[^\\s\\S]")
    assert not trie_walk(empty, from_text("a"), 0).live.any()
    assert not trie_walk(Trie(vocabulary([b"a"])), dead, dead.dead).live.any()
    assert isinstance(dead, ByteDFA)
    assert longest_match({"D": dead}, b"a") is None
