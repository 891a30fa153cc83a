"""The draft tree: guessed continuations that share prefixes, merged so that one pass reads them all.

Node 0 is the root, the last committed token; every other node is a guess at what follows its parent.
Parents precede children. A chain is a tree with one branch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from engines.events import Draft, DraftNode, Token


class TokenTree:
    """Parallel lists over nodes: `tokens`, `parents` (-1 for the root), `depths`, `q`, `sources`."""

    def __init__(self, root: int) -> None:
        self.tokens = [root]
        self.parents = [-1]
        self.depths = [0]
        self.q: list[float | None] = [None]
        self.sources = ["committed"]
        self.children: list[list[int]] = [[]]
        """Children of each node, in draw order."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        return all(len(children) <= 1 for children in self.children)

    def add(self, parent: int, token: int, source: str, q: float | None = None) -> int:
        """Adds a guess and returns its id; a sibling with the same token is that guess already."""
        for sibling in self.children[parent]:
            if self.tokens[sibling] == token:
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

    def trimmed(self, depth: int, forbidden: Collection[int]) -> TokenTree:
        """The part that is at most `depth` deep and holds none of the `forbidden` tokens."""
        kept = TokenTree(self.tokens[0])
        new_ids = {0: 0}
        for node in range(1, len(self)):
            parent = new_ids.get(self.parents[node])
            if parent is not None and self.depths[node] <= depth and self.tokens[node] not in forbidden:
                new_ids[node] = kept.add(parent, self.tokens[node], self.sources[node], self.q[node])
        return kept

    def as_draft(self, position: int, spell: Callable[[int], Token]) -> Draft:
        """The event; `position` is where the tokens at depth 1 would go."""
        nodes = zip(self.tokens, self.parents, self.q, self.sources, strict=True)
        return Draft(
            position=position,
            nodes=tuple(
                DraftNode(id, parent, spell(token), q, source) for id, (token, parent, q, source) in enumerate(nodes)
            ),
        )
