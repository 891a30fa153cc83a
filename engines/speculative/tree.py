"""The draft tree: guessed continuations that share prefixes, merged so that one pass reads them all.

Node 0 is the root, the last committed token; every other node is a guess at what follows its parent.
Parents precede children. A chain is a tree with one branch.

How the guesses were made decides how they must be tested (`engines.speculative.verify`):

* `point`: looked up, copied, or the draft's best; a deterministic function of the text before them.
* `with replacement`: each child of a node was drawn from the same distribution q(·|node), on its own.
* `without replacement`: drawn one after the other, each from what q(·|node) has left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from torch import Tensor

from engines.events import Draft, DraftNode, Token

Drawn = Literal["point", "with replacement", "without replacement"]


class TokenTree:
    """Parallel lists over nodes: `tokens`, `parents` (-1 for the root), `depths`, `q`, `sources`."""

    def __init__(self, root: int, drawn: Drawn = "point") -> None:
        self.drawn = drawn
        self.tokens = [root]
        self.parents = [-1]
        self.depths = [0]
        self.q: list[float | None] = [None]
        self.sources = ["committed"]
        self.children: list[list[int]] = [[]]
        """Children of each node in draw order, which is the order of their tests. A token drawn twice with
        replacement is one node, is listed twice, and is tested twice."""
        self.distributions: dict[int, Tensor] = {}
        """q(·|node), (vocabulary,), of the nodes whose children were drawn."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        return self.parents == list(range(-1, len(self) - 1))

    def add(self, parent: int, token: int, source: str, q: float | None = None) -> int:
        """Adds a guess and returns its id; a sibling with the same token is that guess already."""
        for sibling in self.children[parent]:
            if self.tokens[sibling] == token:
                if self.drawn == "with replacement":
                    self.children[parent].append(sibling)
                return sibling
        node = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.q.append(q)
        self.sources.append(source)
        self.children.append([])
        self.children[parent].append(node)
        return node

    def trimmed(self, depth: int, forbidden: Collection[int] = ()) -> TokenTree:
        """The part that is at most `depth` deep and holds none of the `forbidden` tokens.

        Only guesses that were not drawn may be forbidden: to drop a drawn one for what it is bends the distribution.
        """
        assert self.drawn == "point" or not forbidden
        kept = TokenTree(self.tokens[0], self.drawn)
        new_ids = {0: 0}
        for node in range(1, len(self)):
            parent = new_ids.get(self.parents[node])
            if parent is not None and self.depths[node] <= depth and self.tokens[node] not in forbidden:
                new_ids[node] = kept.add(parent, self.tokens[node], self.sources[node], self.q[node])
        for node, new in new_ids.items():
            kept.children[new] = [new_ids[child] for child in self.children[node] if child in new_ids]
            if kept.children[new] and node in self.distributions:
                kept.distributions[new] = self.distributions[node]
        return kept

    def first_branch(self) -> TokenTree:
        """The chain of first children, for models that cannot read a tree. As good a draw as any: it is the first."""
        chain, node = TokenTree(self.tokens[0], self.drawn), 0
        while self.children[node]:
            end = len(chain) - 1
            if node in self.distributions:
                chain.distributions[end] = self.distributions[node]
            node = self.children[node][0]
            chain.add(end, self.tokens[node], self.sources[node], self.q[node])
        return chain

    def as_draft(self, position: int, spell: Callable[[int], Token]) -> Draft:
        """The event; `position` is where the tokens at depth 1 would go."""
        nodes = zip(self.tokens, self.parents, self.q, self.sources, strict=True)
        return Draft(
            position=position,
            nodes=tuple(
                DraftNode(id, parent, spell(token), q, source) for id, (token, parent, q, source) in enumerate(nodes)
            ),
        )
