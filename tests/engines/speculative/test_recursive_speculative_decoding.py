"""RSD: siblings that differ, beams that are cut, and what both do to the text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from engines.chi_square import LEVEL, fit
from engines.events import Draft, Event, Finished, Verdict
from engines.goodness_of_fit import PROMPT, distribution_test
from engines.models.causal import CausalModel
from engines.models.twin import twin
from engines.runner import Run, run
from engines.speculative.recursive_speculative_decoding import Beams, StochasticBeams, WithoutReplacement
from engines.speculative.specinfer import LevelByLevel, Params
from engines.speculative.tree import TokenTree

METHODS = ("rsd-c", "rsd-s")
HOT: dict[str, Any] = {"temperature": 1.0, "fallback": False}
EXIT: dict[str, Any] = {"draft": "early exit", "exit_layer": 1, "fallback": False, "adapt": False}


def decode(method: str, params: dict[str, Any], seed: int = 0, length: int = 12) -> list[Event]:
    return list(run(twin(), method, PROMPT, params=params, raw=True, seed=seed, max_new_tokens=length))


def trees(params: Params | Beams, count: int) -> list[TokenTree]:
    """Trees for the prompt, drawn one after the other."""
    job = Run(twin(), twin().encode(PROMPT, raw=True), max_new_tokens=20)
    return [proposed(job, params) for _ in range(count)]


def proposed(job: Run, params: Params | Beams) -> TokenTree:
    drafter: LevelByLevel = (
        StochasticBeams(job, params) if isinstance(params, Beams) else WithoutReplacement(job, params)
    )
    with pytest.raises(StopIteration) as stop:
        next(drafter.propose(job))
    tree: TokenTree = stop.value.value
    return tree


def ticket(source: str) -> float:
    return float(source.rpartition("ticket ")[2])


@pytest.mark.parametrize(
    "params", [Params(temperature=1.0, branching="4-3-2"), Beams(temperature=1.0, width=8)], ids=METHODS
)
def test_no_sibling_repeats_another_and_the_best_ticket_comes_first(params: Params | Beams) -> None:
    for tree in trees(params, 30):
        assert tree.drawn == "without replacement"
        for children in tree.children:
            assert len({tree.tokens[child] for child in children}) == len(children)
            tickets = [ticket(tree.sources[child]) for child in children]
            assert tickets == sorted(tickets, reverse=True)


def test_fixed_branching_fills_every_level() -> None:
    for tree in trees(Params(temperature=1.0, branching="2-2-1"), 30):
        for node in range(len(tree)):
            ended = tree.tokens[node] in twin().eos_ids
            assert len(tree.children[node]) == (0 if ended else (2, 2, 1, 0)[tree.depths[node]])


@pytest.mark.parametrize("width", [1, 3, 6, 16])
def test_no_level_is_wider_than_the_beams(width: int) -> None:
    for tree in trees(Beams(temperature=1.0, width=width, length=3), 20):
        sizes = Counter(tree.depths)
        assert sizes[1] == min(width, 10)
        assert all(sizes[level] <= width for level in (2, 3))
        assert max(tree.depths) <= 3


def test_the_best_child_has_its_parents_ticket() -> None:
    kept = 0
    for tree in trees(Beams(temperature=1.0, width=4), 30):
        for node in range(1, len(tree)):
            if tree.children[node]:
                assert ticket(tree.sources[tree.children[node][0]]) == ticket(tree.sources[node])
                kept += 1
        assert ticket(tree.sources[tree.children[0][0]]) == 0
    assert kept > 60


def test_a_level_holds_the_best_tickets_whosever_children_they_are() -> None:
    """Beams compete: some nodes get several children, others none, and neither is rare."""
    children = Counter(
        len(tree.children[node])
        for tree in trees(Beams(temperature=1.0, width=4, length=2), 40)
        for node in tree.children[0]
    )
    assert children[0] > 20
    assert sum(count for size, count in children.items() if size > 1) > 20


@pytest.mark.parametrize(
    "params", [Params(temperature=1.0, branching="1-1-1"), Beams(temperature=1.0, width=1)], ids=METHODS
)
def test_one_guess_per_level_is_chain_sampling(params: Params | Beams) -> None:
    """Pairs of first and second guess come with the probability q(a) · q(b|a)."""
    grown = trees(params, 600)
    assert all(tree.is_chain for tree in grown)
    first = grown[0].distributions[0]
    law: dict[tuple[int, ...], float] = {}
    for tree in grown:
        a = tree.tokens[1]
        for b, q in enumerate(tree.distributions[1].tolist() if len(tree) > 2 else ()):
            law[a, b] = float(first[a]) * q
    law[()] = 1 - sum(law.values())  # what begins with an end of text, or with a token that was never drawn
    pairs = Counter(tuple(tree.tokens[1:3]) if len(tree) > 2 else () for tree in grown)
    assert fit(pairs, law).p_value > LEVEL


def test_no_more_guesses_than_the_filters_leave() -> None:
    for tree in trees(Params(temperature=1.0, top_k=2, branching="4-4"), 10):
        assert all(len(children) <= 2 for children in tree.children)
    for tree in trees(Beams(temperature=1.0, top_k=2, width=16, length=2), 10):
        assert Counter(tree.depths)[1] == 2
        assert Counter(tree.depths)[2] <= 4


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_guessed_below_an_end_of_text(method: str) -> None:
    ends = 0
    for seed in range(5):
        for draft in (event for event in decode(method, HOT, seed) if isinstance(event, Draft)):
            parents = {node.parent for node in draft.nodes}
            below = [node.id in parents for node in draft.nodes[1:] if node.token.id in twin().eos_ids]
            ends += len(below)
            assert not any(below)
    assert ends > 0


def test_a_leaf_whose_beam_was_cut_is_not_refused() -> None:
    """Accepted, it is followed by a bonus; not come to, it is untested; and every guess is counted once."""
    cut = bonus = 0
    for seed in range(20):
        events = decode("rsd-s", HOT, seed, length=20)
        drafts = [event for event in events if isinstance(event, Draft)]
        verdicts = [event for event in events if isinstance(event, Verdict)]
        for draft, verdict in zip(drafts, verdicts, strict=True):
            parent = {node.id: node.parent for node in draft.nodes}
            come_to = {0, *verdict.path}
            for node in verdict.nodes:
                assert (node.outcome == "accepted") == (node.id in verdict.path)
                if parent[node.id] not in come_to:
                    assert node.outcome == "untested"
                if node.outcome == "untested" and node.id not in parent.values():
                    cut += 1
            if verdict.path and verdict.path[-1] not in parent.values():
                assert verdict.extra_origin == "bonus"
                bonus += len(verdict.path) < 3 <= 20 - draft.position - 1
        last = events[-1]
        assert isinstance(last, Finished)
        totals = last.totals
        assert totals.accepted + totals.rejected + totals.untested == totals.drafted
    assert cut > 50
    assert bonus > 5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize("prompt", ["The sea", "abcabc", "12", "{}"])
def test_greedy_output_is_plain_greedys(tiny_llama: CausalModel, method: str, prompt: str, length: int) -> None:
    ours = list(run(tiny_llama, method, prompt, params=EXIT, raw=True, max_new_tokens=length))[-1]
    plain = list(run(tiny_llama, "greedy", prompt, raw=True, max_new_tokens=length))[-1]
    assert isinstance(ours, Finished)
    assert isinstance(plain, Finished)
    assert ours.token_ids == plain.token_ids


def test_at_temperature_0_both_hold_the_drafts_best_continuations() -> None:
    """RSD-S is beam search then: no sequence outside the tree is likelier than one in it."""
    (wide,) = trees(Params(branching="4-4"), 1)
    (tree,) = trees(Beams(width=3, length=2), 1)

    def probability(grown: TokenTree, node: int) -> float:
        return (grown.q[node] or 1.0) * probability(grown, grown.parents[node]) if node else 1.0

    for depth in (1, 2):
        everything = sorted(
            (probability(wide, node) for node in range(len(wide)) if wide.depths[node] == depth), reverse=True
        )
        beams = [probability(tree, node) for node in range(len(tree)) if tree.depths[node] == depth]
        assert beams == pytest.approx(everything[:3])
    assert tree.drawn == wide.drawn == "point"


@pytest.mark.parametrize("method", METHODS)
def test_sampled_output_has_the_targets_law(method: str) -> None:
    found = list(distribution_test(method, HOT, 600, length=3))[-1]
    assert found.consistent
    assert found.tested / 4 < found.accepted < found.tested


@pytest.mark.parametrize("method", METHODS)
def test_siblings_tried_in_order_of_draft_probability_are_caught(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LevelByLevel.propose

    def sorted_siblings(self: LevelByLevel, job: Run) -> Any:
        tree = yield from original(self, job)
        for children in tree.children:
            children.sort(key=lambda node: -(tree.q[node] or 0.0))
        return tree

    monkeypatch.setattr(LevelByLevel, "propose", sorted_siblings)
    assert not list(distribution_test(method, HOT, 400, length=3))[-1].consistent


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_draws_the_same_trees(method: str) -> None:
    def drafts(seed: int) -> list[tuple[Any, ...]]:
        return [event.nodes for event in decode(method, HOT, seed) if isinstance(event, Draft)]

    assert drafts(1) == drafts(1)
    assert drafts(1) != drafts(2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("left", [1, 2, 3])
def test_no_guess_is_deeper_than_the_run_can_take(method: str, left: int) -> None:
    for draft in (event for event in decode(method, HOT, length=left) if isinstance(event, Draft)):
        depth = {0: 0}
        for node in draft.nodes[1:]:
            depth[node.id] = depth[node.parent] + 1
        assert 0 < max(depth.values()) < left
