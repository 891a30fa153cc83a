"""The draft tree as a data structure."""

from __future__ import annotations

import pytest
import torch

from engines.events import Token
from engines.models.causal import ancestors
from engines.speculative.tree import TokenTree


def tree_of_the_paper() -> TokenTree:
    """for → {i → {in, =}, j → {in}}."""
    tree = TokenTree(1)
    i, j = tree.add(0, 2, "first"), tree.add(0, 3, "second")
    tree.add(i, 4, "third")
    tree.add(i, 5, "fourth")
    tree.add(j, 4, "fifth")
    return tree


def test_equal_siblings_are_one_guess_but_equal_cousins_are_two() -> None:
    tree = tree_of_the_paper()
    assert tree.add(0, 2, "again") == 1
    assert len(tree) == 6
    assert tree.tokens.count(4) == 2


def test_a_node_sees_itself_and_its_ancestors_alone() -> None:
    mask, depths = ancestors(tree_of_the_paper().parents)
    assert depths.tolist() == [0, 1, 1, 2, 2, 2]
    assert [row.nonzero().flatten().tolist() for row in mask] == [[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [0, 2, 5]]
    assert torch.equal(mask.sum(1) - 1, depths)


def test_trimming_cuts_depth_and_forbidden_tokens_with_all_that_hangs_on_them() -> None:
    tree = tree_of_the_paper()
    assert tree.trimmed(1, ()).tokens == [1, 2, 3]
    assert tree.trimmed(0, ()).tokens == [1]
    without = tree.trimmed(9, {2})
    assert without.tokens == [1, 3, 4]
    assert without.parents == [-1, 0, 1]
    assert without.sources == ["committed", "second", "fifth"]


def test_a_chain_is_recognised() -> None:
    tree = TokenTree(1)
    tree.add(tree.add(0, 2, ""), 3, "")
    assert tree.is_chain
    tree.add(0, 9, "")
    assert not tree.is_chain


def test_the_draft_event_tells_every_node() -> None:
    draft = tree_of_the_paper().as_draft(7, lambda id: Token(id, str(id)))
    assert draft.position == 7
    assert [(node.id, node.parent, node.token.id) for node in draft.nodes][3:] == [(3, 1, 4), (4, 1, 5), (5, 2, 4)]


def test_the_first_branch_is_a_chain_of_first_children() -> None:
    tree = TokenTree(1, "without replacement")
    first, _ = tree.add(0, 5, "a", 0.5), tree.add(0, 6, "b", 0.2)
    tree.add(first, 7, "c", 0.9)
    tree.distributions = {0: torch.tensor([1.0]), first: torch.tensor([2.0])}
    chain = tree.first_branch()
    assert chain.is_chain
    assert (chain.tokens, chain.q, chain.sources) == ([1, 5, 7], [None, 0.5, 0.9], ["committed", "a", "c"])
    assert chain.drawn == "without replacement"
    assert {node: float(q) for node, q in chain.distributions.items()} == {0: 1.0, 1: 2.0}


def test_trimming_keeps_draw_order_and_repeats() -> None:
    tree = TokenTree(1, "with replacement")
    for token in (5, 6, 5):
        node = tree.add(0, token, "")
    tree.add(node, 8, "")
    tree.distributions = {0: torch.tensor([1.0]), node: torch.tensor([2.0])}
    cut = tree.trimmed(1)
    assert [cut.tokens[child] for child in cut.children[0]] == [5, 6, 5]
    assert list(cut.distributions) == [0]
    with pytest.raises(AssertionError):
        tree.trimmed(1, {5})
