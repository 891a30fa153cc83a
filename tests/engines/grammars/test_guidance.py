"""Constraints by llguidance: what they allow, and how they refuse."""

from __future__ import annotations

import json
import random
import time

import jsonschema
import pytest

from engines.grammars.constraint import BadGrammar, Constraint, Joint
from engines.grammars.guidance import COMPILE_SECONDS, Kind, compile_guidance
from engines.grammars.kinds import constraint_for
from engines.grammars.samples import ARITHMETIC, PERSON
from engines.grammars.vocabulary import has
from engines.models.causal import CausalModel


def spelled(constraint: Constraint) -> set[bytes]:
    vocabulary = constraint.vocabulary
    return {vocabulary.bytes_of[id] or b"<end>" for id in vocabulary.ids(constraint.mask())}


def write(constraint: Constraint, text: str) -> Constraint:
    for token in constraint.vocabulary.tokenise(text):
        assert constraint.commit(token), (text, constraint.vocabulary.bytes_of[token])
    return constraint


def made(smollm: CausalModel, kind: Kind, text: str, **options: object) -> Constraint:
    return compile_guidance(kind, text, smollm.vocabulary, **options)  # type: ignore[arg-type]


def test_a_truthful_mask_shows_every_cut_of_what_is_certain(smollm: CausalModel) -> None:
    constraint = made(smollm, "choices", "hello world")
    assert spelled(constraint) == {b"h", b"he", b"hel", b"hell", b"hello"}


def test_forcing_leaves_the_usual_cut_only(smollm: CausalModel) -> None:
    constraint = made(smollm, "choices", "hello world", forcing=True)
    assert spelled(constraint) == {b"hello"}
    assert constraint.vocabulary.decode(constraint.forced()) == b"hello world"


def test_the_end_is_allowed_exactly_where_the_text_is_complete(smollm: CausalModel) -> None:
    constraint = made(smollm, "regex", "[0-9]{2,3}")
    assert [has(write(constraint, "1").mask(), 2), constraint.accepting] == [False, False]
    assert [has(write(constraint, "2").mask(), 2), constraint.accepting] == [True, True]
    assert spelled(write(constraint, "3")) == {b"<end>"}


def test_after_the_end_nothing_may_follow_and_it_can_be_taken_back(smollm: CausalModel) -> None:
    constraint = write(made(smollm, "choices", "yes\nyesterday"), "yes")
    assert constraint.commit(2)
    assert not constraint.mask().any()
    assert not constraint.allows(2)
    constraint.rollback(2)
    assert constraint.commit(constraint.vocabulary.tokenise("yesterday")[0])


def test_special_tokens_are_never_allowed_not_even_where_text_looks_like_one(smollm: CausalModel) -> None:
    constraint = made(smollm, "choices", "<|im_end|>")
    assert spelled(constraint) == {b"<"}
    anything = made(smollm, "regex", r"(.|\n)*")
    assert not any(has(anything.mask(), id) for id in smollm.vocabulary.special)


def test_a_fork_goes_its_own_way(smollm: CausalModel) -> None:
    constraint = made(smollm, "choices", "north\nsouth")
    twin = write(constraint.fork(), "south")
    assert twin.accepting
    assert b"n" in spelled(constraint)


@pytest.mark.parametrize("seed", range(4))
def test_mask_allows_and_commit_agree_along_random_texts(smollm: CausalModel, seed: int) -> None:
    rng = random.Random(seed)
    constraint = made(smollm, "json schema", PERSON) if seed % 2 else made(smollm, "grammar", ARITHMETIC)
    for _ in range(25):
        allowed = constraint.vocabulary.ids(constraint.mask())
        some = {*rng.sample(range(len(constraint.vocabulary)), 40), *rng.sample(allowed, min(5, len(allowed)))}
        for token in some:
            assert constraint.allows(token) == (token in allowed)
            twin = constraint.fork()
            assert twin.commit(token) == (token in allowed)
        token = rng.choice(allowed)
        if token in constraint.vocabulary.ends:
            break
        before = constraint.mask().copy()
        assert constraint.commit(token)
        constraint.rollback(1)
        assert (constraint.mask() == before).all()
        assert constraint.commit(token)


def test_random_allowed_texts_are_valid(smollm: CausalModel) -> None:
    schema = json.loads(PERSON)
    for seed in range(12):
        rng, constraint, written = random.Random(seed), made(smollm, "json schema", PERSON), []
        while not constraint.accepting and len(written) < 400:
            closers = [t for t in constraint.vocabulary.tokenise('"]},') if constraint.allows(t)]
            allowed = constraint.vocabulary.ids(constraint.mask())
            token = rng.choice(closers if closers and rng.random() < 0.5 else allowed)
            assert constraint.commit(token)
            written.append(token)
        jsonschema.validate(json.loads(constraint.vocabulary.decode(written)), schema)


def test_a_character_cut_into_tokens_is_followed_byte_by_byte(smollm: CausalModel) -> None:
    constraint = made(smollm, "choices", "😀")
    tokens = smollm.vocabulary.tokenise("😀")
    assert len(tokens) > 1
    for token in tokens:
        assert constraint.commit(token)
    assert constraint.accepting


@pytest.mark.parametrize(
    ("whitespace", "text", "fits"),
    [
        ("compact", '{"a":1}', True),
        ("compact", '{"a": 1}', False),
        ("one space", '{"a": 1}', True),
        ("one space", '{"a":  1}', False),
        ("any", '{"a": \n\n 1}', True),
    ],
)
def test_whitespace_is_what_was_asked_for(smollm: CausalModel, whitespace: str, text: str, fits: bool) -> None:
    constraint = made(smollm, "json schema", '{"type": "object"}', whitespace=whitespace)
    assert all(constraint.commit(token) for token in smollm.vocabulary.tokenise(text)) == fits


def test_two_constraints_at_once_allow_what_both_allow(smollm: CausalModel) -> None:
    digits, four = made(smollm, "regex", "[0-9]+"), made(smollm, "regex", ".{4}")
    joint = Joint([digits, four])
    both = digits.mask() & four.mask()
    assert (joint.mask() == both).all()
    assert not joint.commit(smollm.vocabulary.tokenise("x")[0])
    write(joint, "1234")
    assert spelled(joint) == {b"<end>"}
    joint.rollback(1)
    assert b"7" in spelled(joint)
    assert b"x" not in spelled(joint)


def test_a_grammar_is_compiled_once_and_every_run_has_its_own(smollm: CausalModel) -> None:
    first, second = (constraint_for("regex", "a+b", smollm) for _ in range(2))
    write(first, "aab")
    assert not second.accepting


REFUSED: list[tuple[str, Kind, str, str]] = [
    ("an undefined rule, with its place", "grammar", 'start: a\na: "x" b\n', r'Line 2, column \d+: Unknown name: "b"'),
    ("a missing bracket, with its place", "grammar", 'start: ("a"\nb: "c"', r"Line 1, column 12: Expected '\)', found"),
    ("an open class, with its place", "regex", "ab[c", r"Line 1, column 3: Unclosed character class"),
    ("look-around", "regex", "(?=a)b", r"look-ahead"),
    ("a back-reference", "regex", r"(a)\1", r"(?i)backreference"),
    ("text that is no JSON", "json schema", '{"type": "object",\n}', r"Line 2, column 1: This is not JSON"),
    ("a schema that is none", "json schema", "[1, 2]", r"A schema is an object"),
    ("a keyword of the wrong shape", "json schema", '{"type": "strin"}', r"At type: 'strin' is not valid"),
    ("keywords that cannot be enforced", "json schema", '{"uniqueItems": true}', r"cannot enforce: uniqueItems"),
    ("an external reference", "json schema", '{"$ref": "http://x.y/z"}', r"(?i)not fetch|resource"),
    ("a schema nothing fits", "json schema", "false", r"(?i)unsatisfiable|no text fits"),
    ("an empty choice of values", "json schema", '{"enum": []}', r"(?i)unsatisfiable|At enum"),
    ("an endless reference to itself", "json schema", '{"$ref": "#"}', r"No text fits this"),
    ("an empty language", "regex", r"[^\s\S]", r"No text fits this"),
    ("a byte that no token spells", "choices", "\U00040000", r"cannot spell the choice"),
    ("nothing at all", "choices", "\n\n", r"nothing here yet"),
    ("blank choices", "choices", " \n ", r"one answer per line"),
    ("an expression of two lines", "regex", "a\nb", r"one line"),
    ("switches of the engine", "grammar", '%llguidance {"no_forcing": false}\nstart: "a"', r"cannot be set"),
    ("too much text", "regex", "a" * 300_000, r"300,000 characters"),
    ("too deep a schema", "json schema", '{"items":' * 80 + "{}" + "}" * 80, r"nested 81 levels deep"),
    ("a depth that breaks parsers", "json schema", '{"items":' * 20_000 + "{}" + "}" * 20_000, r"nested"),
]


@pytest.mark.parametrize(("kind", "text", "says"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_is_refused_with_a_sentence_within_three_seconds(smollm: CausalModel, kind: Kind, text: str, says: str) -> None:
    start = time.monotonic()
    with pytest.raises(BadGrammar, match=says) as refused:
        compile_guidance(kind, text, smollm.vocabulary)
    assert time.monotonic() - start < 3
    assert len(str(refused.value)) < 400
    assert "llguidance {" not in str(refused.value)


FINE: list[tuple[str, Kind, str]] = [
    ("left recursion", "grammar", 'start: start "a" | "b"'),
    ("an ambiguous grammar", "grammar", 'start: start "+" start | "1"'),
    ("an expression that makes backtrackers hang", "regex", "(a+)+b"),
    ("an expression that explodes as an automaton", "regex", "(a|b)*a(a|b){14}"),
    ("counters in counters", "regex", "((a{1,100}){1,100}){1,100}c"),
    (
        "a schema that refers to itself properly",
        "json schema",
        '{"anyOf": [{"type": "array", "items": {"$ref": "#"}}]}',
    ),
    ("quotes, backslashes and slashes", "choices", 'say "hi"\\/\nand / go'),
    ("a slash in an expression", "regex", "[0-9]{1,2}/[0-9]{1,2}"),
]


@pytest.mark.parametrize(("kind", "text"), [row[1:] for row in FINE], ids=[row[0] for row in FINE])
def test_is_read_within_three_seconds(smollm: CausalModel, kind: Kind, text: str) -> None:
    start = time.monotonic()
    assert compile_guidance(kind, text, smollm.vocabulary).mask().any()
    assert time.monotonic() - start < min(3, COMPILE_SECONDS)


def test_choices_are_taken_literally(smollm: CausalModel) -> None:
    for choice in ('say "hi"\\/', "a|b", "/x/", "line\\n"):
        assert write(made(smollm, "choices", f"{choice}\nother"), choice).accepting


def test_works_on_a_vocabulary_of_bytes(tiny_llama: CausalModel) -> None:
    constraint = constraint_for("regex", "é[0-9]", tiny_llama)
    assert spelled(constraint) == {b"\xc3"}
    assert constraint.commit(tiny_llama.vocabulary.bytes_of.index(b"\xc3"))
    assert spelled(constraint) == {b"\xa9"}
