"""Quotations: the automaton against a plain search, the rules of every constraint, and real methods held to it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import run
from engines.events import Finished, Mask, Placed
from engines.grammars import substring as file
from engines.grammars.constraint import BadGrammar, Constraint, Joint
from engines.grammars.gate import Gate
from engines.grammars.kinds import constraint_for
from engines.grammars.substring import Substring, SuffixAutomaton, substring
from engines.grammars.vocabulary import has
from engines.models.causal import CausalModel
from engines.runner import Run
from engines.sampling import Sampler, Sampling

FOX = "the red fox saw the dog"
WIDE = "a naïve 日本 naïf 👩‍👩‍👧"


def spelled(constraint: Constraint) -> set[bytes]:
    """What may follow, ends aside."""
    vocabulary = constraint.vocabulary
    return {vocabulary.bytes_of[id] for id in vocabulary.ids(constraint.mask()) if id not in vocabulary.ends}


def write(constraint: Constraint, text: str) -> bool:
    """Byte after byte, through the tokens of single bytes."""
    pieces = constraint.vocabulary.bytes_of
    return all(constraint.commit(pieces.index(bytes([byte]))) for byte in text.encode())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=14), st.lists(st.integers(0, 3), max_size=6))
def test_the_automaton_reads_exactly_the_substrings(text: list[int], asked: list[int]) -> None:
    automaton = SuffixAutomaton(text)
    places = [end for end in range(len(asked), len(text) + 1) if text[end - len(asked) : end] == asked]
    state = automaton.read(0, asked)
    assert (state is not None) == bool(places)
    if state:
        assert automaton.ends[state] == places[0], "the first place"
        assert automaton.counts[state] == len(places)


@pytest.mark.parametrize("text", ["a" * 300, "abcb" * 75, "".join(random.Random(1).choices("ab", k=300))])
def test_the_automaton_is_no_larger_than_it_must_be(text: str) -> None:
    automaton = SuffixAutomaton(text.encode())
    assert len(automaton.moves) <= 2 * len(text)
    assert sum(map(len, automaton.moves)) <= 3 * len(text)


def test_by_bytes_every_token_is_allowed_that_keeps_to_the_text(smollm: CausalModel) -> None:
    here = substring(FOX, smollm.vocabulary)
    for written in ("", "the", "the r", "saw the", "dog", "o"):
        constraint = here.fork()
        assert write(constraint, written)
        expected = {
            piece
            for id, piece in enumerate(smollm.vocabulary.bytes_of)
            if piece and id not in smollm.vocabulary.special and written.encode() + piece in FOX.encode()
        }
        assert spelled(constraint) == expected - ({b""} if written else set())
        assert constraint.accepting == bool(written)
        assert has(constraint.mask(), 2) == bool(written)


@pytest.mark.parametrize("level", ["bytes", "tokens"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_mask_allows_commit_and_rollback_agree(level: str, seed: int, smollm: CausalModel) -> None:
    draw, constraint = random.Random(seed), substring(WIDE, smollm.vocabulary, level)  # type: ignore[arg-type]
    depth = 0
    for _ in range(8):
        allowed = smollm.vocabulary.ids(constraint.mask())
        others = [*draw.sample(range(49152), 30), *allowed[:30]]
        assert all(constraint.allows(token) == (token in set(allowed)) for token in others)
        assert not set(allowed) & smollm.vocabulary.special
        before = constraint.mask().copy()
        token = draw.choice(allowed or [5])
        if constraint.commit(token):
            depth += 1
            twin = constraint.fork()
            constraint.rollback(1)
            assert (constraint.mask() == before).all()
            constraint = twin
        else:
            assert token not in allowed
            assert (constraint.mask() == before).all()
        if token in smollm.vocabulary.ends:
            break
    constraint.rollback(depth)
    assert (constraint.mask() == substring(WIDE, smollm.vocabulary, level).mask()).all()  # type: ignore[arg-type]


def test_quotations_begin_and_end_at_whole_characters(smollm: CausalModel) -> None:
    constraint = substring("aï日", smollm.vocabulary)
    assert all(piece[0] & 0xC0 != 0x80 for piece in spelled(constraint)), "none begins in the middle"
    lead = smollm.vocabulary.bytes_of.index(b"\xc3")
    assert constraint.commit(lead)
    assert not constraint.accepting
    assert not has(constraint.mask(), 2)
    assert constraint.commit(smollm.vocabulary.bytes_of.index(b"\xaf"))
    assert constraint.accepting


@pytest.mark.parametrize("level", ["bytes", "tokens"])
def test_white_space_alone_is_no_quotation(level: str, tiny_llama: CausalModel) -> None:
    space, b = (tiny_llama.vocabulary.bytes_of.index(piece) for piece in (b" ", b"b"))
    constraint = substring("a b", tiny_llama.vocabulary, level)  # type: ignore[arg-type]
    assert constraint.commit(space)
    assert not constraint.accepting
    assert tiny_llama.vocabulary.ids(constraint.mask()) == [b]
    assert constraint.commit(b)
    assert constraint.accepting
    constraint.rollback(2)
    assert constraint.commit(tiny_llama.vocabulary.bytes_of.index(b"a"))
    assert constraint.commit(space)
    assert constraint.accepting, "the same place of the text, reached by other words"


def test_by_tokens_the_text_keeps_its_own_cut(smollm: CausalModel) -> None:
    tokens = smollm.vocabulary.tokenise(FOX)
    constraint = substring(FOX, smollm.vocabulary, "tokens")
    assert set(smollm.vocabulary.ids(constraint.mask())) == set(tokens)
    assert constraint.commit(tokens[1])
    assert set(smollm.vocabulary.ids(constraint.mask())) == {tokens[2], 2}


def test_a_closing_token_ends_a_quotation_and_is_never_in_one(smollm: CausalModel) -> None:
    newline = smollm.vocabulary.bytes_of.index(b"\n")
    for level in ("bytes", "tokens"):
        constraint = substring("ab\ncd", smollm.vocabulary, level, closing=[newline], may_end=False)
        assert not constraint.allows(newline), "nothing has been written"
        assert not has(constraint.mask(), newline)
        assert constraint.commit(next(id for id in smollm.vocabulary.tokenise("ab")))
        assert not constraint.accepting
        assert not constraint.allows(2)
        assert constraint.commit(newline)
        assert constraint.accepting
        assert smollm.vocabulary.ids(constraint.mask()) == [2]
        assert not constraint.allows(smollm.vocabulary.tokenise("cd")[0])
        constraint.rollback(1)
        assert constraint.allows(newline)


def test_a_token_text_with_an_end_in_it_is_broken_there(smollm: CausalModel) -> None:
    a, b = smollm.vocabulary.tokenise("a")[0], smollm.vocabulary.tokenise("b")[0]
    constraint = Substring([a, 2, b], smollm.vocabulary, "tokens")
    assert smollm.vocabulary.ids(constraint.mask()) == sorted([a, b])
    assert constraint.commit(a)
    assert smollm.vocabulary.ids(constraint.mask()) == [2]
    assert constraint.commit(2)
    assert not constraint.allows(b)


def test_the_view_says_where_the_quotation_stands(smollm: CausalModel) -> None:
    constraint = substring(FOX, smollm.vocabulary)
    assert constraint.view()["stands in the text"] == "anywhere"
    assert write(constraint, "the ")
    assert constraint.view()["stands in the text"] == "at 2 places"
    assert "“d”" in constraint.view()["what may follow"]
    assert write(constraint, "d")
    assert constraint.view()["stands in the text"] == "at 1 place"


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("x" * 101, "101 bytes, and at most 100")])
def test_a_text_that_cannot_be_quoted_from_is_refused(
    text: str, words: str, smollm: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "MOST_SYMBOLS", 100)
    with pytest.raises(BadGrammar, match=words):
        substring(text, smollm.vocabulary)


def test_it_joins_with_other_constraints(smollm: CausalModel) -> None:
    both = Joint([substring(FOX, smollm.vocabulary), constraint_for("regex", "[a-z]+", smollm)])
    assert {b"the", b"red", b"d"} <= spelled(both)
    assert b" the" not in spelled(both)


@pytest.mark.parametrize("level", ["bytes", "tokens"])
def test_whatever_a_hot_sampler_draws_through_the_gate_is_a_quotation(level: str, tiny_llama: CausalModel) -> None:
    lengths: Counter[int] = Counter()
    for seed in range(12):
        job = Run(tiny_llama, tiny_llama.encode("Quote: "), seed=seed, max_new_tokens=12)
        list(job.read_prompt())
        constraint = substring(WIDE, tiny_llama.vocabulary, level)  # type: ignore[arg-type]
        sampler = Sampler(Sampling(temperature=2.0), tiny_llama.token, Gate(constraint))
        while not job.finished:
            distribution = sampler.distribution(job.next_logits(), job.prompt, job.output)
            token = sampler.draw(distribution.probabilities, job.rng)
            list(job.commit(Placed(tiny_llama.token(token), "sampled")))
        written = tiny_llama.vocabulary.decode(job.output)
        assert written in WIDE.encode()
        if job.reason == "end of text" and level == "bytes":
            assert written.decode() in WIDE
        lengths[len(written)] += 1
    assert len(lengths) > 1


def test_a_method_is_held_to_the_passage(smollm: CausalModel) -> None:
    prompt = "Text: The river Arno flows through Florence and Pisa.\nQuestion: Where does it flow?\nAnswer:"
    params = {"decode": "constrained greedy"}
    events = list(run(smollm, "exact-extract", prompt, params=params, max_new_tokens=12))
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.text.strip() in "The river Arno flows through Florence and Pisa."
    assert len([event for event in events if isinstance(event, Mask)]) == len(end.token_ids)


def test_masks_of_a_long_text_are_quick(smollm: CausalModel) -> None:
    words = random.Random(2).choices(["river", "fox", "stone", "blue", "seven", "of"], k=1500)
    constraint = substring(" ".join(words), smollm.vocabulary)
    assert len(spelled(constraint)) > 20
    assert torch.from_numpy(smollm.vocabulary.flags(constraint.mask())).sum() == len(spelled(constraint))
