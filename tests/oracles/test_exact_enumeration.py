"""Every rule of verification on vocabularies of three and four tokens, with all that can happen added up.

For a target p and a draft q given as tables, `law` enumerates every tree that can be drawn and, for each, every way the
acceptance tests can go; what the step leaves open is continued by p. Speculation is exact if the probability of every
text is p's own: here to 1e-12, without a random number.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch

from engines.events import Token
from engines.sampling import Sampler, Sampling
from engines.speculative import verify as verification
from engines.speculative.tree import Drawn, TokenTree
from engines.speculative.verify import verify

Text = tuple[int, ...]
Table = Callable[[Text], torch.Tensor]
"""The distribution (vocabulary,) after a text."""
Trees = Iterator[tuple[float, TokenTree]]
"""Every tree that can be drawn, with its probability."""


def table(size: int, seed: int) -> Table:
    """Random distributions, a different one after every text."""

    def after(text: Text) -> torch.Tensor:
        place = sum((token + 1) * 7**index for index, token in enumerate(text))
        weights = torch.rand(size, generator=torch.Generator().manual_seed(1000 * seed + place), dtype=torch.float64)
        return weights.square().add(0.01) / weights.square().add(0.01).sum()

    return after


def path(tree: TokenTree, node: int) -> Text:
    """The guesses from the root down to a node."""
    return () if node == 0 else (*path(tree, tree.parents[node]), tree.tokens[node])


class Decision(float):
    """A random number that falls as it is told, and remembers the probability that it met."""

    accepts: bool
    met: list[float]

    def __lt__(self, chance: float) -> bool:
        self.met.append(chance)
        return self.accepts


def outcomes(
    tree: TokenTree, p: Table, size: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[float, Text, torch.Tensor]]:
    """(probability, accepted guesses, distribution of the extra token), one for each way the tests can go."""
    logits = torch.stack([p(path(tree, node)) for node in range(len(tree))]).log()
    sampler = Sampler(Sampling(temperature=1.0), lambda id: Token(id, str(id)))
    monkeypatch.setattr(Sampler, "draw", lambda self, distribution, rng: int(distribution.argmax()))
    open_scripts: list[list[bool]] = [[]]
    while open_scripts:
        script = open_scripts.pop()
        met: list[float] = []

        def uniform(rng: torch.Generator, script: list[bool] = script, met: list[float] = met) -> Decision:
            decision = Decision(0.5)
            # Beyond the script everything is refused; the other way is written down for later.
            decision.accepts, decision.met = script[len(met)] if len(met) < len(script) else False, met
            return decision

        monkeypatch.setattr(verification, "uniform", uniform)
        result = verify(tree, logits, sampler, torch.Generator())
        taken = script + [False] * (len(met) - len(script))
        for place in range(len(script), len(met)):
            open_scripts.append([*taken[:place], True])
        probability = 1.0
        for accepted, chance in zip(taken, met, strict=True):
            probability *= chance if accepted else 1 - chance
        if probability > 0:
            assert result.residual is not None
            yield probability, path(tree, result.last), result.residual


def law(trees: Trees, p: Table, size: int, length: int, monkeypatch: pytest.MonkeyPatch) -> Counter[Text]:
    """The probability of every text of `length` tokens when it begins with one step over such trees."""
    found: Counter[Text] = Counter()
    for drawn, tree in trees:
        for probability, accepted, residual in outcomes(tree, p, size, monkeypatch):
            for extra in range(size):
                text = (*accepted, extra)
                weight = drawn * probability * float(residual[extra])
                for rest in itertools.product(range(size), repeat=max(0, length - len(text))):
                    found[(*text, *rest)[:length]] += weight * chance(p, text, rest)
    return found


def chance(p: Table, text: Text, rest: Text) -> float:
    """The probability that `rest` follows `text`."""
    product = 1.0
    for index, token in enumerate(rest):
        product *= float(p((*text, *rest[:index]))[token])
    return product


def error(found: Counter[Text], p: Table, size: int, length: int) -> float:
    """The largest difference from the target's own law."""
    texts = itertools.product(range(size), repeat=length)
    return max(abs(found[text] - chance(p, (), text)) for text in texts)


def drawn_trees(q: Table, size: int, widths: tuple[int, ...], drawn: Drawn, told: Drawn | None = None) -> Trees:
    """Every tree with `widths[d]` draws at each node of depth d. `told` is what the tree claims, if not the truth."""

    def ways(node: int, tree: TokenTree) -> Iterator[tuple[float, Text]]:
        distribution = q(path(tree, node))
        for tokens in itertools.product(range(size), repeat=widths[tree.depths[node]]):
            probability, left = 1.0, distribution.clone()
            for token in tokens:
                probability *= float(left[token] / left.sum())
                if drawn == "without replacement":
                    left[token] = 0.0
            if probability > 0:
                yield probability, tokens

    def grow(choices: list[Text]) -> TokenTree:
        tree = TokenTree(99, told or drawn)
        for node, tokens in enumerate(choices):
            tree.distributions[node] = q(path(tree, node))
            for token in tokens:
                tree.add(node, token, "")
        return tree

    unfinished: list[tuple[float, list[Text]]] = [(1.0, [])]
    while unfinished:
        probability, choices = unfinished.pop()
        tree = grow(choices)
        node = len(choices)
        if node == len(tree) or tree.depths[node] == len(widths):
            yield probability, tree
            continue
        unfinished += [(probability * more, [*choices, tokens]) for more, tokens in ways(node, tree)]


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize(
    ("drawn", "widths"),
    [
        ("with replacement", (1, 1)),
        ("with replacement", (2, 1)),
        ("with replacement", (3,)),
        ("without replacement", (2, 1)),
        ("without replacement", (1, 2)),
        ("without replacement", (3,)),
    ],
)
def test_the_law_of_a_step_is_the_targets(
    drawn: Drawn, widths: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, q = table(size, 1), table(size, 2)
    length = len(widths) + 1
    assert error(law(drawn_trees(q, size, widths, drawn), p, size, length, monkeypatch), p, size, length) < 1e-12


@pytest.mark.parametrize("shape", [[(0, 0)], [(0, 2), (0, 1)], [(0, 1), (0, 0), (1, 2), (1, 0), (3, 1)]])
def test_looked_up_guesses_leave_the_law_as_it_is(
    shape: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    p, tree = table(3, 3), TokenTree(99)
    for parent, token in shape:
        tree.add(parent, token, "")
    length = max(tree.depths) + 1
    assert error(law(iter([(1.0, tree)]), p, 3, length, monkeypatch), p, 3, length) < 1e-12


def test_a_draw_without_replacement_tested_as_one_with_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = table(4, 1), table(4, 2)
    trees = drawn_trees(q, 4, (2,), "without replacement", told="with replacement")
    assert error(law(trees, p, 4, 1, monkeypatch), p, 4, 1) > 5e-3


def test_siblings_tried_in_order_of_probability_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def sorted_trees() -> Trees:
        for probability, tree in drawn_trees(q, 4, (2,), "without replacement"):
            tree.children[0].sort(key=lambda node: -float(tree.distributions[0][tree.tokens[node]]))
            yield probability, tree

    p, q = table(4, 1), table(4, 2)
    assert error(law(sorted_trees(), p, 4, 1, monkeypatch), p, 4, 1) > 1e-2


def test_a_first_choice_tested_as_if_it_were_drawn_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q, tree = table(3, 1), table(3, 2), TokenTree(99, "with replacement")
    tree.distributions[0] = q(())
    tree.add(0, int(q(()).argmax()), "")
    assert error(law(iter([(1.0, tree)]), p, 3, 1, monkeypatch), p, 3, 1) > 1e-2


def test_a_token_drawn_twice_but_tested_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def merged() -> Trees:
        for probability, tree in drawn_trees(q, 3, (2,), "with replacement"):
            tree.children[0] = sorted(set(tree.children[0]), key=tree.children[0].index)
            yield probability, tree

    p, q = table(3, 4), table(3, 5)
    assert error(law(merged(), p, 3, 1, monkeypatch), p, 3, 1) > 1e-3


def accepted(p: torch.Tensor, q: torch.Tensor, draws: int, drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> float:
    """The probability that one of the first-level guesses is accepted."""
    return sum(
        probability * way
        for probability, tree in drawn_trees(lambda text: q, len(p), (draws,), drawn)
        for way, text, _ in outcomes(tree, lambda text: p, len(p), monkeypatch)
        if text
    )


@pytest.mark.parametrize(
    ("p", "q", "with_replacement", "without_replacement"),
    [
        ((0.5, 0.3, 0.2), (0.2, 0.5, 0.3), (0.7, 0.76, 0.808), (0.7, 0.8086, 1.0)),
        ((0.4, 0.3, 0.2, 0.1), (0.7, 0.1, 0.1, 0.1), (0.7, 0.76, 0.808, 0.8464), (0.7, 0.9, 0.95, 1.0)),
    ],
)
def test_more_guesses_are_accepted_more_often_and_different_ones_most_often(
    p: Text, q: Text, with_replacement: Text, without_replacement: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    p_, q_ = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    for rule, figures in (("with replacement", with_replacement), ("without replacement", without_replacement)):
        found = [accepted(p_, q_, draws + 1, rule, monkeypatch) for draws in range(len(figures))]  # type: ignore[arg-type]
        assert found == pytest.approx(figures, abs=5e-5)
