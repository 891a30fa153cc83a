"""All spans of a passage in one trie, and how probable a model finds them.

Spans that begin alike share nodes, wherever in the passage they stand. L(v) is the log-probability of the tokens down
to node v, e(v) that of an end marker right after them; a span's score is S = L + e at its last node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from engines.constrained.passage import Passage

NEVER = float("-inf")


@dataclass(slots=True)
class SpanTrie:
    """All distinct beginnings of spans. Node v holds `tokens[v]`; parents, -1 for the prompt, come first.

    `cells[i]` are the nodes at which the spans from start i end, shortest first; -1 for white space alone, which is no
    answer.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    """Tokens from the prompt to the node, the node's included."""
    children: list[dict[int, int]] = field(default_factory=lambda: [{}])
    """By node + 1, so that those of the prompt stand first."""
    cells: list[list[int]] = field(default_factory=list)
    cut: set[int] = field(default_factory=set)
    """Nodes behind which the passage goes on, but the cap ends the spans."""

    def add(self, parent: int, token: int) -> int:
        """The child of a node that holds this token."""
        known = self.children[parent + 1].get(token)
        if known is not None:
            return known
        node = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(1 + (self.depths[parent] if parent >= 0 else 0))
        self.children.append({})
        self.children[parent + 1][token] = node
        return node

    def path(self, node: int) -> list[int]:
        """The nodes from the first token to this one."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def text(self, node: int) -> list[int]:
        """The tokens from the first to this node's."""
        return [self.tokens[step] for step in self.path(node)]

    def find(self, tokens: Sequence[int]) -> int | None:
        """The node that these tokens lead to."""
        node = -1
        for token in tokens:
            found = self.children[node + 1].get(token)
            if found is None:
                return None
            node = found
        return node

    def preorder(self) -> list[int]:
        """All nodes, each followed by all that is below it."""
        order, stack = [], list(reversed(self.children[0].values()))
        while stack:
            order.append(node := stack.pop())
            stack += reversed(self.children[node + 1].values())
        return order


def span_trie(passage: Passage, cap: int, ends: frozenset[int]) -> SpanTrie:
    """The trie of all spans of 1 to `cap` passage tokens that hold no end marker."""
    trie = SpanTrie()
    for start, first in enumerate(passage.firsts):
        nodes: list[int] = []
        node = -1
        for length, token in enumerate(passage.tokens[start : start + cap]):
            if token in ends:
                break
            for piece in [token] if length else first:
                node = trie.add(node, piece)
            blank = token in passage.blank and not any(earlier >= 0 for earlier in nodes)
            nodes.append(-1 if blank else node)
        trie.cells.append(nodes)
        if (
            len(nodes) == cap
            and passage.tokens[start + cap : start + cap + 1]
            and passage.tokens[start + cap] not in ends
        ):
            trie.cut.add(nodes[-1])
    return trie


@dataclass(slots=True)
class Scores:
    """What the passes found out about the nodes of a trie; None where none has looked."""

    trie: SpanTrie
    ends: list[int]
    root_end: float
    """log P(E) right after the prompt."""
    paths: list[float | None]
    """L of every node."""
    stops: list[float | None]
    """e of every node."""
    end_tokens: list[tuple[int, float] | None]
    """The most probable single end token after every node, and its log-probability."""

    def learn(self, node: int, logits: Tensor) -> None:
        """Reads e of a node and L of its children off the logits (vocabulary,) after it; -1 is the prompt."""
        children = self.trie.children[node + 1]
        wanted = [*self.ends, *children]
        log_p = (logits[wanted] - logits.logsumexp(-1)).tolist()
        ends = log_p[: len(self.ends)]
        stop = log_sum(ends)
        if node < 0:
            self.root_end = stop
        else:
            best = max(range(len(ends)), key=ends.__getitem__)
            self.stops[node], self.end_tokens[node] = stop, (self.ends[best], ends[best])
        before = (self.paths[node] or 0.0) if node >= 0 else 0.0
        for child, one in zip(children.values(), log_p[len(self.ends) :], strict=True):
            self.paths[child] = before + one

    @property
    def read(self) -> int:
        """Nodes that have been looked at."""
        return sum(stop is not None for stop in self.stops)


def unread(trie: SpanTrie, ends: Sequence[int], logits: Tensor) -> Scores:
    """Scores of which only the logits (vocabulary,) right after the prompt are known."""
    size = len(trie.tokens)
    scores = Scores(trie, list(ends), NEVER, [None] * size, [None] * size, [None] * size)
    scores.learn(-1, logits)
    return scores


@dataclass(frozen=True, slots=True)
class Ranking:
    """How spans are compared. `roll` is the published code's error: the length whose e is that of the prompt, or 0."""

    normalise: bool
    roll: int = 0

    def cell(self, scores: Scores, start: int, length: int) -> float | None:
        """S of the span of `length` tokens from `start`; None where its end has not been looked at."""
        node = scores.trie.cells[start][length - 1]
        if node < 0:
            return None
        path, stop = scores.paths[node], scores.stops[node]
        if path is None or stop is None:
            return None
        return self.weigh(path + (scores.root_end if length == self.roll else stop), scores.trie.depths[node])

    def weigh(self, total: float, tokens: int) -> float:
        """A log-probability as a score: of so many tokens and the end marker."""
        return total / (tokens + 1) if self.normalise else total

    def matrix(self, scores: Scores) -> list[list[float | None]]:
        """S by start and length, as far as known; ragged."""
        return [
            [self.cell(scores, start, length) for length in range(1, len(nodes) + 1)]
            for start, nodes in enumerate(scores.trie.cells)
        ]


def best_cell(matrix: Sequence[Sequence[float | None]]) -> tuple[int, int] | None:
    """(start, length) of the greatest value, the first one in reading order; None when there is none."""
    best, at = NEVER, None
    for start, row in enumerate(matrix):
        for length, value in enumerate(row, 1):
            if value is not None and (at is None or value > best):
                best, at = value, (start, length)
    return at


def log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values)) if top > NEVER else NEVER
