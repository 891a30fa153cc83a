"""The gate follows a run's text, whatever text it is asked about next."""

from __future__ import annotations

import pytest
import torch

from engines.errors import BadParameter
from engines.grammars.constraint import DeadEnd
from engines.grammars.gate import CELLS, Gate
from engines.grammars.kinds import constraint_for
from engines.models.causal import CausalModel


@pytest.fixture
def gate(smollm: CausalModel) -> Gate:
    return Gate(constraint_for("regex", "[ab]{4}", smollm))


def ids(smollm: CausalModel, text: str) -> list[int]:
    """One token per letter."""
    return [smollm.vocabulary.bytes_of.index(letter.encode()) for letter in text]


def longest(gate: Gate, smollm: CausalModel, text: str) -> int:
    """Length of the longest token that may follow, which tells how far the text is."""
    allowed = gate.allowed(ids(smollm, text)).nonzero()[:, 0].tolist()
    return max(len(smollm.vocabulary.bytes_of[id]) for id in allowed)


def test_it_is_where_the_text_is_forwards_backwards_and_sideways(gate: Gate, smollm: CausalModel) -> None:
    asked = ("", "a", "ab", "a", "b", "bba", "aab", "", "abab")
    lengths = [longest(gate, smollm, text) for text in asked]
    assert lengths == [max(1, min(4 - len(text), 4)) if len(text) < 4 else 0 for text in asked]


def test_what_may_not_follow_has_no_probability(gate: Gate, smollm: CausalModel) -> None:
    p = gate.filtered(torch.zeros(49152), ids(smollm, "ab")).softmax(-1)
    possible = {smollm.vocabulary.bytes_of[id] for id in p.nonzero()[:, 0].tolist()}
    assert possible == {b"a", b"b", b"aa", b"ab", b"ba", b"bb"}


def test_a_text_that_has_left_the_language_is_named(gate: Gate, smollm: CausalModel) -> None:
    with pytest.raises(BadParameter, match="Token 2 of this text, 'x', does not fit"):
        gate.allowed(ids(smollm, "axb"))


def test_a_dead_end_is_no_open_door(smollm: CausalModel) -> None:
    class Dead:
        vocabulary, engine = smollm.vocabulary, "none"

        def mask(self) -> object:
            return smollm.vocabulary.bits([])

        def view(self) -> dict[str, str]:
            return {}

    with pytest.raises(DeadEnd):
        Gate(Dead()).allowed([])  # type: ignore[arg-type]


def test_behind_a_guessed_end_anything_may_follow(gate: Gate, smollm: CausalModel) -> None:
    assert gate.allowed([*ids(smollm, "abab"), 2]).all()
    assert longest(gate, smollm, "aba") == 1


def test_a_twin_goes_its_own_way_and_says_nothing(gate: Gate, smollm: CausalModel) -> None:
    gate.allowed(ids(smollm, "ab"))
    twin = gate.twin()
    assert longest(twin, smollm, "abb") == 1
    assert twin.event(3, torch.zeros(49152)) is None
    assert longest(gate, smollm, "ab") == 2


def test_the_event_weighs_what_was_blocked(gate: Gate, smollm: CausalModel) -> None:
    text = ids(smollm, "abb")
    gate.allowed(text)
    a, b, x = ids(smollm, "abx")
    logits = torch.full((49152,), -1e9)
    logits[torch.tensor([a, b, x])] = torch.tensor([0.5, 0.2, 0.3]).log()
    mask = gate.event(3, logits)
    assert mask is not None
    assert (mask.allowed, mask.position, mask.end_allowed) == (2, 3, False)
    assert mask.blocked_mass == pytest.approx(0.3)
    assert [(choice.token.text, round(choice.p, 3)) for choice in mask.wanted] == [("x", 0.3)]
    assert [(choice.token.text, round(choice.p, 3)) for choice in mask.permitted] == [("a", 0.5), ("b", 0.2)]
    assert gate.event(3, logits) is None


def test_the_cells_are_a_map_of_the_vocabulary_in_byte_order(smollm: CausalModel) -> None:
    everything, letters = (Gate(constraint_for("regex", regex, smollm)) for regex in (r"(.|\n)*", "a.*"))
    maps = []
    for gate in (everything, letters):
        gate.allowed([])
        mask = gate.event(0, torch.zeros(49152))
        assert mask is not None
        assert len(mask.cells) == CELLS
        maps.append(mask.cells)
    assert maps[0].count("9") > CELLS * 0.9
    lit = [place for place, digit in enumerate(maps[1]) if digit != "0"]
    assert lit == list(range(lit[0], lit[-1] + 1))
    assert maps[1][lit[1] : lit[-1]] == "9" * (len(lit) - 2)
