"""Verification on distributions of three and four tokens, where every outcome can be written down."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
import torch
from scipy.stats import chisquare

from engines.events import Token
from engines.sampling import Sampler, Sampling
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification, verify

P = (0.5, 0.3, 0.2)


def spell(id: int) -> Token:
    return Token(id, str(id))


def sampler(**settings: float) -> Sampler:
    return Sampler(msgspec.convert(settings, Sampling), spell)


def fan(*tokens: int) -> TokenTree:
    """A root with these children."""
    tree = TokenTree(0)
    for token in tokens:
        tree.add(0, token, "")
    return tree


def logits_of(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def draws(tree: TokenTree, logits: torch.Tensor, count: int, **settings: float) -> list[Verification]:
    rng = torch.Generator().manual_seed(7)
    rule = sampler(temperature=1.0, **settings)
    return [verify(tree, logits, rule, rng) for _ in range(count)]


def first_token(tree: TokenTree, result: Verification) -> int:
    return tree.tokens[result.path[0]] if result.path else result.extra


@pytest.mark.parametrize("guesses", [(0,), (2,), (1, 2), (2, 1), (0, 1, 2)])
def test_the_first_token_has_the_targets_law_whatever_was_guessed(guesses: tuple[int, ...]) -> None:
    tree = fan(*guesses)
    logits = logits_of(*[P] * len(tree))
    counts = Counter(first_token(tree, result) for result in draws(tree, logits, 4000))
    assert chisquare([counts[token] for token in range(3)], [4000 * p for p in P]).pvalue > 1e-3


def test_acceptance_chances_are_those_of_the_shrinking_residual() -> None:
    tree = fan(2, 1, 0)
    logits = logits_of(*[P] * 4)
    seen = {}
    for result in draws(tree, logits, 300):
        for node, judged in result.judged.items():
            seen[node] = judged.accept_probability
            assert (judged.outcome == "accepted") == (judged.u < judged.accept_probability)
    assert seen[1] == pytest.approx(0.2)
    assert seen[2] == pytest.approx(0.3 / 0.8)
    assert seen[3] == pytest.approx(1.0)


def test_guesses_behind_an_accepted_sibling_or_a_refused_parent_are_untested() -> None:
    tree = fan(0, 1)
    tree.add(2, 0, "")
    result = next(r for r in draws(tree, logits_of(*[P] * 4), 50) if r.path and r.path[0] == 1)
    event = result.as_event(tree, 0, spell)
    assert [judged.outcome for judged in event.nodes] == ["accepted", "untested", "untested"]


def test_greedy_follows_the_argmax_and_names_bonus_and_correction() -> None:
    tree = fan(1, 0)
    tree.add(2, 1, "")  # below token 0
    logits = logits_of(P, P, (0.1, 0.8, 0.1), (0.2, 0.2, 0.6))
    result = verify(tree, logits, sampler(temperature=0.0), torch.Generator())
    assert result.path == [2, 3]
    assert result.extra == 2
    assert result.extra_origin(tree) == "bonus"
    assert result.residual is None
    outcomes = {judged.id: judged.outcome for judged in result.as_event(tree, 0, spell).nodes}
    assert outcomes == {1: "rejected", 2: "accepted", 3: "accepted"}
    wrong = verify(fan(2), logits_of(P, P), sampler(temperature=0.0), torch.Generator())
    assert (wrong.path, wrong.extra, wrong.extra_origin(fan(2))) == ([], 0, "correction")


def test_filters_apply_at_every_node() -> None:
    """With top-k 1 a guess is accepted with certainty if it is the argmax at its own node, and never otherwise."""
    tree = fan(0)
    tree.add(1, 1, "")
    logits = logits_of(P, (0.1, 0.8, 0.1), (0.1, 0.2, 0.7))
    assert all(r.path == [1, 2] and r.extra == 2 for r in draws(tree, logits, 50, top_k=1))
    assert all(r.path == [] and r.extra == 0 for r in draws(fan(1), logits_of(P, P), 50, top_k=1))


def test_penalties_depend_on_the_path() -> None:
    """Repeating the token just accepted is penalised below it, not at the root."""
    tree = fan(0)
    tree.add(1, 0, "")
    logits = torch.tensor([[2.0, 1.9, 0.0]] * 3)
    rule = Sampler(Sampling(temperature=0.0, presence_penalty=1.0), spell)
    result = verify(tree, logits, rule, torch.Generator(), prompt=[2], output=[])
    assert result.path == [1]
    assert result.extra == 1
