"""Each rule of verification over 20,000 draws: a chi-square test of the emitted text against the target's own law.

No model: p and q are tables of four tokens. `test_exact_enumeration.py` adds up what can happen; here the random
numbers are real ones, and so is the sampler that draws from what is left. A round is one tree, drawn from q or looked
up, checked by `verify`; what it leaves open of two tokens is drawn from p. A rule that is wrong in a way that was once
published, or is easily written, must fail the same test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

import pytest
import torch

from engines.chi_square import LEVEL, fit
from engines.events import Token
from engines.sampling import Sampler, Sampling
from engines.speculative import verify as verification
from engines.speculative.gumbel import gumbel_top_k
from engines.speculative.tree import Drawn, TokenTree
from engines.speculative.verify import verify

DRAWS, FEWER = 20_000, 6_000
P1 = torch.tensor([0.4, 0.3, 0.2, 0.1])
P2 = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.4, 0.1], [0.6, 0.2, 0.1, 0.1], [0.3, 0.1, 0.1, 0.5]])
Q1 = torch.tensor([0.3, 0.05, 0.05, 0.6])
Q2 = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.1, 0.6, 0.1, 0.2], [0.25, 0.25, 0.25, 0.25], [0.5, 0.1, 0.3, 0.1]])
LAW = {(one, two): float(P1[one] * P2[one, two]) for one, two in product(range(4), repeat=2)}
SAMPLER = Sampler(Sampling(temperature=1.0), lambda id: Token(id, str(id)))


def looked_up(source: torch.Generator) -> TokenTree:
    """The same guesses every time: two first tokens, and one behind the first of them."""
    tree = TokenTree(3)
    tree.add(tree.add(0, 2, ""), 0, "")
    tree.add(0, 0, "")
    return tree


def independent(source: torch.Generator) -> TokenTree:
    """Two first tokens, each drawn from q on its own, and one behind each."""
    tree = TokenTree(3, "with replacement")
    tree.distributions[0] = Q1
    for token in torch.multinomial(Q1, 2, replacement=True, generator=source).tolist():
        tree.add(0, token, "")
    return second_level(tree, source)


def different(source: torch.Generator) -> TokenTree:
    """Two first tokens drawn from q one after the other, and one behind each."""
    tree = TokenTree(3, "without replacement")
    tree.distributions[0] = Q1
    for token in gumbel_top_k(Q1, 2, source)[1]:
        tree.add(0, token, "")
    return second_level(tree, source)


def second_level(tree: TokenTree, source: torch.Generator) -> TokenTree:
    for node in dict.fromkeys(tree.children[0]):
        tree.distributions[node] = Q2[tree.tokens[node]]
        tree.add(node, int(torch.multinomial(Q2[tree.tokens[node]], 1, generator=source)), "")
    return tree


def texts(draw: Callable[[torch.Generator], TokenTree], rounds: int = DRAWS) -> Counter[tuple[int, ...]]:
    """How often each text of two tokens came out."""
    source, found = torch.Generator().manual_seed(11), Counter[tuple[int, ...]]()
    logs, seconds = torch.cat((P1[None], P2)).log(), P2
    for _ in range(rounds):
        tree = draw(source)
        # Row 0 is p after the root, row 1 + t after a first token t; behind a second token nothing is asked.
        rows = [0 if node == 0 else 1 + tree.tokens[node] for node in range(len(tree))]
        result = verify(tree, logs[rows], SAMPLER, source)
        text = [*(tree.tokens[node] for node in result.path), result.extra][:2]
        if len(text) < 2:
            text.append(int(torch.multinomial(seconds[text[0]], 1, generator=source)))
        found[tuple(text)] += 1
    return found


RULES: dict[Drawn, Callable[[torch.Generator], TokenTree]] = {
    "point": looked_up,
    "with replacement": independent,
    "without replacement": different,
}


@pytest.mark.parametrize("rule", RULES)
def test_what_is_emitted_has_the_targets_law(rule: Drawn) -> None:
    assert fit(texts(RULES[rule]), LAW).p_value > LEVEL


def test_a_refused_copy_that_may_come_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "without", lambda distribution, token: distribution)
    assert fit(texts(looked_up, FEWER), LAW).p_value < LEVEL


def test_a_correction_drawn_from_p_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "remainder", lambda r, q: r)
    assert fit(texts(independent, FEWER), LAW).p_value < LEVEL


def test_draws_without_replacement_tested_as_if_with_are_caught() -> None:
    def told_otherwise(source: torch.Generator) -> TokenTree:
        tree = different(source)
        tree.drawn = "with replacement"
        return tree

    assert fit(texts(told_otherwise, FEWER), LAW).p_value < LEVEL
