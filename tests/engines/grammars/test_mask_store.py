"""The store's entries are dmatch by definition, reproducible, apart for apart vocabularies, and quickly made."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from engines.events import Token
from engines.grammars.automata import ByteDFA, from_regex, from_text
from engines.grammars.cfg import Grammar
from engines.grammars.mask_store import KINDS, Kind, MaskStore, fits
from engines.grammars.vocabulary import Vocabulary
from engines.models.causal import CausalModel
from tests.engines.constrained.test_syncode import JSON

TERMINALS = {
    "NUMBER": from_regex("-?[0-9]+(\\.[0-9]+)?"),
    "WORD": from_regex("[a-c]+|é"),
    "SPACE": from_regex("[ ]+"),
    "OPEN": from_text("(("),
}


def vocabulary(pieces: list[bytes]) -> Vocabulary:
    return Vocabulary([*pieces, b"", b""], [len(pieces) + 1], [len(pieces)], lambda text: [], lambda id: Token(id, ""))


def pieces() -> list[bytes]:
    rng = random.Random(5)
    made = {bytes(rng.choice(b"12.-ab ((\xc3\xa9") for _ in range(rng.randint(1, 5))) for _ in range(300)}
    return [*sorted(made), b"1.", b".", "é".encode(), b" a", b"1 a", b"((", b"(", b"1.5 ((a"]


def dmatch(piece: bytes, state: int, chain: list[ByteDFA], *, beyond: bool = False, inside: bool = False) -> bool:
    """The paper's definition, word for word; `chain` begins with the automaton that `state` belongs to."""
    dfa, rest = chain[0], chain[1:]
    if dfa.run(piece, state) != dfa.dead:
        return True
    for size in range(len(piece) + 1):
        if not dfa.ends[dfa.run(piece[:size], state)]:
            continue
        if not rest and not inside and (size or not beyond):
            return True
        if rest and dmatch(piece[size:], 0, rest, inside=inside):
            return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_is_dmatch_by_definition_for_no_one_and_two_following_terminals(kind: Kind) -> None:
    words = vocabulary(pieces())
    store = MaskStore(words, TERMINALS)
    for name, dfa in TERMINALS.items():
        for follow in [(), *((one,) for one in TERMINALS), ("SPACE", "WORD"), ("SPACE", "NUMBER")]:
            chain = [dfa, *(TERMINALS[one] for one in follow)]
            for state in range(len(dfa)):
                ids = set(words.ids(store.mask(name, state, follow, kind)))
                beyond = kind == "beyond" and not follow
                expected = {
                    id
                    for id in words.text_ids.tolist()
                    if dmatch(words.bytes_of[id], state, chain, beyond=beyond, inside=kind == "inside")
                }
                assert ids == expected, (name, state, follow)
                for id in words.text_ids.tolist()[::7]:
                    assert fits(words.bytes_of[id], dfa, state, chain[1:], kind) == (id in ids)


def test_with_the_published_defect_a_token_is_cut_at_the_last_match_inside_it() -> None:
    words = vocabulary(pieces())
    ours, theirs = MaskStore(words, TERMINALS), MaskStore(words, TERMINALS, as_published=True)
    number = TERMINALS["NUMBER"].run(b"7")
    lost = set(words.ids(ours.mask("NUMBER", number, ("WORD",)))) - set(
        words.ids(theirs.mask("NUMBER", number, ("WORD",)))
    )
    assert b"1." in {words.bytes_of[id] for id in lost}
    assert all(words.bytes_of[id].endswith(b".") and len(words.bytes_of[id]) > 1 for id in lost)
    for id in words.text_ids.tolist():
        held = id in words.ids(theirs.mask("NUMBER", number, ("WORD",)))
        follow = [TERMINALS["WORD"]]
        assert fits(words.bytes_of[id], TERMINALS["NUMBER"], number, follow, as_published=True) == held
    assert ours.key != theirs.key


def test_neither_special_tokens_nor_the_end_are_in_any_entry() -> None:
    words = vocabulary(pieces())
    store = MaskStore(words, TERMINALS)
    for name, dfa in TERMINALS.items():
        for state in range(len(dfa)):
            assert not set(words.ids(store.mask(name, state))) & {len(words) - 1, len(words) - 2}


def test_an_entry_is_made_once_and_only_when_asked_for() -> None:
    store = MaskStore(vocabulary(pieces()), TERMINALS)
    assert len(store) == 0
    first = store.mask("WORD", 0, ("SPACE",))
    assert len(store) == 1
    assert store.mask("WORD", 0, ("SPACE",)) is first
    assert store.bytes == len(first)


def test_what_was_kept_is_read_again_bit_by_bit(own_cache: Path) -> None:
    words = vocabulary(pieces())
    store = MaskStore(words, TERMINALS)
    store.fill()
    store.mask("NUMBER", 1, ("SPACE", "WORD"))
    store.save()
    again = MaskStore(words, TERMINALS)
    assert again.load() == len(store) == again.read
    again._made = None  # type: ignore[assignment,method-assign]
    for name, dfa in TERMINALS.items():
        for state in range(len(dfa)):
            for follow in [(), *((one,) for one in TERMINALS)]:
                assert (again.mask(name, state, follow) == store.mask(name, state, follow)).all()
    assert (again.mask("NUMBER", 1, ("SPACE", "WORD")) == store.mask("NUMBER", 1, ("SPACE", "WORD"))).all()


def test_equal_stores_are_equal_files_whatever_the_order_in_which_they_were_made(own_cache: Path) -> None:
    words = vocabulary(pieces())
    files = []
    for order in (1, -1):
        store = MaskStore(words, TERMINALS)
        for state in range(len(TERMINALS["NUMBER"]))[::order]:
            store.mask("NUMBER", state, ("WORD",))
        store.save()
        files.append(store.path.read_bytes())
        store.path.unlink()
    assert files[0] == files[1]


def test_another_tokenizer_of_equal_size_or_another_grammar_has_another_file() -> None:
    some = pieces()
    keys = {
        MaskStore(vocabulary(some), TERMINALS).key,
        MaskStore(vocabulary([*some[1:], b"zz"]), TERMINALS).key,
        MaskStore(vocabulary(some), TERMINALS | {"OPEN": from_text("()")}).key,
        MaskStore(vocabulary(some), dict(reversed(TERMINALS.items()))).key,
    }
    assert len(keys) == 4
    assert MaskStore(vocabulary(some), TERMINALS).key in keys


@pytest.mark.parametrize("harm", [b"", b"nonsense", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_is_made_anew(own_cache: Path, harm: bytes) -> None:
    store = MaskStore(vocabulary(pieces()), TERMINALS)
    store.path.parent.mkdir(parents=True)
    store.path.write_bytes(harm)
    assert store.load() == 0
    np.save(store.path, np.zeros((3, 7), dtype=np.uint8))
    assert store.load() == 0
    assert store.mask("WORD", 0).any()


def test_a_cache_that_cannot_be_written_is_done_without(own_cache: Path) -> None:
    own_cache.parent.mkdir(parents=True, exist_ok=True)
    own_cache.write_text("a file where the folder should be")
    store = MaskStore(vocabulary(pieces()), TERMINALS)
    store.mask("WORD", 0)
    store.save()
    assert store.load() == 0


def test_for_json_on_the_embedded_models_tokens_the_store_is_small_and_quick(smollm: CausalModel) -> None:
    """On a quiet machine: first entry 10 ms, M_0 0.1 s, everything 0.4 s; the bounds allow for a busy one."""
    terminals = Grammar.from_lark(JSON).for_vocabulary(smollm.vocabulary).terminals
    begin = time.perf_counter()
    store = MaskStore(smollm.vocabulary, terminals)
    store.mask("STRING", 0)
    assert time.perf_counter() - begin < 5
    begin = time.perf_counter()
    store.fill()
    assert time.perf_counter() - begin < 30
    assert store.bytes < 5_000_000
    assert len(store) == store.states * (1 + len(terminals))
    inside = terminals["STRING"].run(b'"a')
    held = smollm.vocabulary.flags(store.mask("STRING", inside, ("COLON",)))
    for id in range(0, len(smollm.vocabulary), 97):
        piece = smollm.vocabulary.bytes_of[id]
        expected = bool(piece) and dmatch(piece, inside, [terminals["STRING"], terminals["COLON"]])
        assert held[id] == expected or id in smollm.vocabulary.ends, piece
