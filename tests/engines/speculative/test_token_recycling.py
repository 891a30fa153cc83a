"""Token Recycling: the template, the table, and what they do to a run."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from engines.events import Commit, Draft, Event, Finished, Note, Totals, Verdict
from engines.models.causal import CausalModel
from engines.runner import run
from engines.speculative.token_recycling import TEMPLATE, Recycler, likeliest_first, node_chance
from engines.speculative.verify import Verification

WORDS = ["for", "i", "j", "in", "=", "+", "range", "zip", "x", "(", "n", "len", ",", "a", "b"]
ID = {word: id for id, word in enumerate(WORDS)}


def table(rows: str) -> dict[int, list[int]]:
    """`for:i j x; …` as ids."""
    split = (row.split(":") for row in rows.split(";"))
    return {ID[key.strip()]: [ID[word] for word in words.split()] for key, words in split}


def test_the_template_is_the_published_one() -> None:
    assert len(set(TEMPLATE)) == 80
    assert [Counter(map(len, TEMPLATE))[level] for level in range(1, 7)] == [8, 21, 25, 15, 8, 3]
    assert all(path[:-1] in TEMPLATE for path in TEMPLATE if len(path) > 1)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_every_budget_keeps_parents_and_prefers_likely_nodes(width: int) -> None:
    order = likeliest_first(width)
    chances = [node_chance(path) for path in order]
    assert chances == sorted(chances, reverse=True)
    for size in range(1, len(order) + 1):
        kept = set(order[:size])
        assert all(path[:-1] in kept for path in kept if len(path) > 1)


def test_the_worked_example_fills_the_tree_level_by_level() -> None:
    rows = table("for:i j x; i:in = +; j:in + =; in:range zip x; range:( n len; zip:( a b")
    recycler = Recycler(["0", "1", "00", "01", "10", "000", "001", "0000"], 3, rows)
    tree = recycler.read(ID["for"])
    assert [WORDS[token] for token in tree.tokens] == ["for", "i", "j", "in", "=", "in", "range", "zip", "("]


def test_unknown_rows_are_pruned() -> None:
    assert len(Recycler(["0", "00"], 2, {}).read(5)) == 1
    assert Recycler(["0", "00"], 2, {5: [6, 7]}).read(5).tokens == [5, 6]


def test_every_node_teaches_and_the_accepted_path_wins() -> None:
    rows = table("for:i j; i:in =; j:in +")
    recycler = Recycler(["0", "1", "00", "10"], 2, rows)
    tree = recycler.read(ID["for"])  # for, i, j, in (below i), in (below j)
    logits = torch.zeros(len(tree), len(WORDS))
    for node in range(len(tree)):
        logits[node, node] = 2.0
        logits[node, 14] = 1.0
    list(recycler.observe(tree, logits, Verification("greedy", path=[1, 3])))
    assert rows[ID["for"]] == [0, 14]
    assert rows[ID["j"]] == [2, 14], "a refused guess teaches too"
    assert rows[ID["in"]] == [3, 14], "node 3 lies on the path, node 4 does not"
    list(recycler.observe(tree, logits, Verification("greedy", path=[2, 4])))
    assert rows[ID["in"]] == [4, 14]


def finished(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def test_a_second_copy_of_a_text_is_drafted_from_the_first(smollm: CausalModel) -> None:
    """The table has seen every token of the text, so that most passes yield more than one."""

    def totals() -> Totals:
        params = {"nodes": 40, "memory": "hot"}
        return finished(
            list(run(smollm, "token-recycling", "Why is the sky blue?", params=params, max_new_tokens=40))
        ).totals

    first, second = totals(), totals()
    assert second.tokens_per_target_pass > 1.3 * first.tokens_per_target_pass
    assert second.accepted + second.rejected + second.untested == second.drafted


def test_hot_runs_share_a_table_and_cold_ones_do_not(tiny_llama: CausalModel) -> None:
    def first_drafts(memory: str) -> int:
        events = run(tiny_llama, "token-recycling", "hot or cold", params={"nodes": 4, "memory": memory})
        steps = 0
        for event in events:
            if isinstance(event, Draft):
                return steps
            steps += isinstance(event, Commit)
        return steps

    assert first_drafts("cold") > 0
    first_drafts("hot")
    assert first_drafts("hot") == 0
    assert first_drafts("cold") > 0


def test_the_budget_is_chosen_from_the_measured_cost_and_said(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "token-recycling", "abc", max_new_tokens=4))
    assert any(isinstance(event, Note) and "per pass should pay best" in event.text for event in events)


def test_one_guess_is_a_tree_too(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "token-recycling", "abc", params={"nodes": 1}, max_new_tokens=60))
    assert all(len(event.nodes) == 1 for event in events if isinstance(event, Verdict))
    greedy = finished(list(run(tiny_llama, "greedy", "abc", max_new_tokens=60)))
    assert finished(events).token_ids == greedy.token_ids
