"""A kept run decoded again on a real (tiny) model, two runs side by side, and families of branches."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

import engines
from engines.events import Candidates, Choice, Commit, Event, Placed, Token, committed
from engines.models.causal import CausalModel
from playground.difference import difference
from playground.family import family
from playground.rerun import compare
from playground.setup import Setup
from playground.store import Store
from tests.playground.stored_runs import started, whole_run

ME, YOU = "m" * 32, "y" * 32


def words(*texts: str, **changes: object) -> list[Event]:
    """A whole run that writes these tokens; equal texts have equal ids."""
    return whole_run([Token(sum(map(ord, text)) * 31 + len(text), text) for text in texts], **changes)


def spelled(tokens: Sequence[Token]) -> str:
    return "".join(token.text for token in tokens)


def decoded(model: CausalModel, method: str = "greedy", **more: object) -> list[Event]:
    return list(engines.run(model, method, "Say something", max_new_tokens=24, **more))  # type: ignore[arg-type]


# Again


@pytest.mark.parametrize("method", ["greedy", "sampling", "token-recycling", "beam-search"])
def test_a_run_repeated_on_the_same_model_is_identical(tiny_llama: CausalModel, method: str) -> None:
    kept = decoded(tiny_llama, method, seed=5)
    again = list(Setup.of(kept).begin(tiny_llama))
    result = compare(kept, again)
    assert result.identical
    assert not result.cut
    assert result.difference.shared == len(committed(kept))
    assert result.difference.settings == result.difference.circumstances == []


def test_another_model_is_told_by_its_weights_and_the_first_difference(
    tiny_llama: CausalModel, tiny_gpt2: CausalModel
) -> None:
    kept = decoded(tiny_llama)
    result = compare(kept, list(Setup.of(kept).begin(tiny_gpt2)))
    assert not result.identical
    first = result.difference.first
    assert first is not None
    assert first.position == result.difference.shared
    assert first.left.token == committed(kept)[first.position].token
    assert first.left.p == committed(kept)[first.position].raw
    assert {name for name, _, _ in result.difference.circumstances} == {"model", "weights"}


def test_a_branch_is_repeated_with_what_it_was_given(tiny_llama: CausalModel) -> None:
    kept = decoded(tiny_llama, prefix=[65, 66, 67])
    setup = Setup.of(kept)
    assert setup.prefix == (65, 66, 67)
    assert compare(kept, list(setup.begin(tiny_llama))).identical


def test_a_run_that_was_cut_short_is_compared_as_far_as_it_went(tiny_llama: CausalModel) -> None:
    whole = decoded(tiny_llama)
    kept = whole[: len(whole) // 2]
    result = compare(kept, whole)
    assert result.identical
    assert result.cut


def test_other_libraries_are_named(tiny_llama: CausalModel) -> None:
    kept = decoded(tiny_llama)
    older = msgspec.structs.replace(kept[0], versions={"torch": "1.0", "numpy": "1"}, code="abc", precision="int8")  # type: ignore[type-var]
    named = {name: (left, right) for name, left, right in compare([older, *kept[1:]], kept).difference.circumstances}
    assert named["torch"][0] == "1.0"
    assert named["numpy"] == ("1", "–")
    assert named["precision"] == ("int8", "float32")
    assert named["code"][0] == "abc"


# Side by side


def test_texts_are_lined_up_again_after_a_difference() -> None:
    left, right = words("a", "b", "c", "d", "e", "f"), words("a", "b", "x", "y", "d", "e", "f")
    both = difference(left, right)
    assert [(block.same, spelled(block.left), spelled(block.right)) for block in both.blocks] == [
        (True, "ab", "ab"),
        (False, "c", "xy"),
        (True, "def", "def"),
    ]
    assert both.shared == 2
    assert both.first is not None
    assert both.first.position == 2
    assert (both.first.left.token, both.first.right.token) == (Token(3070, "c"), Token(3721, "x"))


def test_every_token_is_in_some_block() -> None:
    left, right = words(*"the quick brown fox jumps"), words(*"a quick red fox jumped over")
    both = difference(left, right)
    for side, events in (("left", left), ("right", right)):
        shown = [token for block in both.blocks for token in getattr(block, side)]
        assert shown == [placed.token for placed in committed(events)]
    assert all(block.same == (block.left == block.right) for block in both.blocks)


def test_both_probabilities_of_both_tokens_are_told() -> None:
    a, b = Token(1, "a"), Token(2, "b")

    def run(chosen: Token, p: float, other: Token, q: float) -> list[Event]:
        seen = Candidates(position=0, raw=(Choice(chosen, p), Choice(other, q)), entropy=0.6, seq=1)
        return [started(), seen, Commit(position=0, step=0, tokens=(Placed(chosen, "sampled", raw=p),), seq=2)]

    first = difference(run(a, 0.501, b, 0.499), run(b, 0.5, a, 0.49)).first
    assert first is not None
    assert (first.left.p, first.left.p_other, first.right.p, first.right.p_other) == (0.501, 0.499, 0.5, 0.49)


def test_a_longer_text_differs_where_the_shorter_one_ended() -> None:
    both = difference(words("a", "b"), words("a", "b", "c"))
    assert not both.identical
    assert both.first is not None
    assert (both.first.position, both.first.left.token) == (2, None)


def test_equal_spellings_of_different_tokens_are_a_difference() -> None:
    left, right = whole_run([Token(1, "ab")]), whole_run([Token(2, "a"), Token(3, "b")])
    assert difference(left, right).shared == 0


def test_only_what_differs_is_listed() -> None:
    left = words("a", method="greedy", params={"width": 3, "depth": 1})
    right = words("a", method="sampling", params={"width": 4, "temperature": 0.5}, seed=7)
    assert difference(left, right).settings == [
        ("method", "greedy", "sampling"),
        ("seed", str(2**62), "7"),
        ("width", "3", "4"),
        ("own_settings", "depth 1", "temperature 0.5"),
    ]
    assert difference(left, left).settings == []


@pytest.mark.parametrize("events", [[], words("a")[1:]])
def test_events_without_a_beginning_are_no_run(events: Sequence[Event]) -> None:
    with pytest.raises(ValueError, match="begins with Started"):
        difference(events, words("a"))


# Families


def branch(store: Store, parent: str, position: int, *texts: str, owner: str = ME) -> str:
    kept = store.recording(iter(words(*texts)), owner=owner, parent=(parent, position) if parent else None)
    list(kept)
    return kept.run_id or ""


def test_branches_are_listed_from_the_root_with_what_they_wrote(store: Store) -> None:
    root = branch(store, "", 0, "a", "b", "c")
    late = branch(store, root, 2, "a", "b", "z")
    early = branch(store, root, 1, "a", "x", "y")
    child = branch(store, early, 2, "a", "x", "w", "v")
    for asked in (root, late, child):
        members = family(store, ME, asked)
        assert [(one.id, one.depth, one.position, one.text) for one in members] == [
            (root, 0, 0, "abc"),
            (early, 1, 1, "xy"),
            (child, 2, 2, "wv"),
            (late, 1, 2, "z"),
        ]
    assert [one.tokens for one in members] == [3, 3, 4, 3]


def test_somebody_elses_run_is_a_root_of_which_only_the_id_is_known(store: Store) -> None:
    above = branch(store, "", 0, "secret", owner=YOU)
    theirs = branch(store, above, 1, "secret", "b", owner=YOU)
    theirs_too = branch(store, theirs, 1, "secret", "c", owner=YOU)
    mine = branch(store, theirs, 1, "secret", "d")
    members = family(store, ME, mine)
    assert [(one.id, one.foreign, one.text) for one in members] == [(theirs, True, ""), (mine, False, "d")]
    assert above not in str(members)
    assert theirs_too not in str(members)
    assert family(store, ME, theirs) == []
    assert family(store, "", mine) == []


def test_a_branch_of_a_deleted_run_stands_alone(store: Store) -> None:
    root = branch(store, "", 0, "a")
    mine = branch(store, root, 1, "a", "b")
    store.delete(ME, [root])
    assert [(one.id, one.foreign) for one in family(store, ME, mine)] == [(root, True), (mine, False)]


def test_runs_that_claim_to_be_each_others_parents_end(store: Store) -> None:
    one = branch(store, "", 0, "a")
    two = branch(store, one, 1, "a", "b")
    store.write(lambda db: db.execute("UPDATE runs SET parent_run = ? WHERE id = ?", [two, one]))
    assert {member.id for member in family(store, ME, one)} == {one, two}
