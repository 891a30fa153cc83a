"""ADED (Adaptix): "Adaptive Draft-Verification for Efficient Large Language Model Decoding", Liu et al.,
arXiv 2407.12021.

A sparse trigram table says which token tends to follow two others, and is pushed towards what the model is writing
just now. A small Monte-Carlo tree search walks in that table, so that the guesses are both likely continuations and
ones that were hardly looked at. One pass of the model checks all of them.

    R: (a, b) → {c: weight}, at first the trigrams of the prompt, counted and normalised per pair, 12 per pair
    1. adapt:   R[(a, b)][c] += 0.04, at most 3.0, for every triple abc of the last 16 tokens
    2. search, 150 times from the last two tokens:
         select   while the node has children, go to the child of the highest
                  w / n + (c1 + ln((N + c2 + 1) / c2)) · p · √N / (1 + n);   unvisited children first
         expand   make all successors of the leaf its children, step into the heaviest
         roll out to four pairs, successors drawn in proportion to their weights
         reward   1 + Σ R[pair][next token] along the way; back up to the root
    3. extract: the 24 most visited paths, each longer by its heaviest successor, merged into one tree; drop the
                longest paths while it has more than `choices` nodes
    4. one pass over the tree; accept the path that agrees with the model; append it and the model's own token; go to 1

p is the weight that led to the node, n its visits, w its summed rewards, N its parent's visits.

Exact: the output is plain decoding's, greedy or sampled (the tree depends on the past alone, so rule `point`).
Differs from the reference code: its reward looks up the pair's second token again instead of the next one, nearly
always in vain, so that the search follows the prior alone (`reward: as_published` does that); its limit adds up the
distinct tokens of every path instead of the tree's nodes (`count: as_published`); it drafts token 100 when it finds no
path, ours makes a plain pass; when sampling it draws once per path, which favours shared beginnings. The paper's table
is counted from a corpus of 253 MB. None is shipped here: the table begins with the prompt, and all else in it was
written while it watched, in this run or, with `memory: hot`, in earlier ones of the same person.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from random import Random
from typing import Annotated, Literal

from msgspec import Meta
from torch import Tensor

from engines.events import Choice, Event, Origin, Score, Store, StoredRow
from engines.method import AUTOMATIC, Need, Paper, method
from engines.runner import Run
from engines.sampling import Speculating
from engines.speculative.budget import affordable
from engines.speculative.loop import speculate
from engines.speculative.memory import remembered
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification

Pair = tuple[int, ...]
Row = dict[int, float]
Reward = Literal["intended", "as_published"]
Count = Literal["nodes", "as_published"]

KEPT = 12
"""Successors kept per pair; a thirteenth replaces the lightest."""
WINDOW = 16
CAP = 3.0
TOP_PATHS = 24
MOST_PAIRS = 50_000
"""A hot table forgets its oldest pairs beyond this many."""
CHANCES = (
    0.60, 0.44, 0.34, 0.27, 0.19, 0.16, 0.15, 0.12, 0.11, 0.10, 0.09, 0.08,
    0.07, 0.06, 0.05, 0.05, 0.04, 0.04, 0.03, 0.03, 0.02, 0.02, 0.01, 0.01,
)  # fmt: skip
"""Probability that the nth guess of a tree that has so many is right: measured on the embedded model, cold."""
SHOWN_NODES, SHOWN_ROWS, SHOWN_SUCCESSORS = 24, 16, 4


class Params(Speculating, frozen=True, kw_only=True, forbid_unknown_fields=True):
    choices: Annotated[
        int,
        Meta(
            ge=0, le=64, description="Guesses per pass, at most; 0 picks what this machine can pay for", extra=AUTOMATIC
        ),
    ] = 0
    iterations: Annotated[int, Meta(ge=20, le=500, description="Walks of the search per pass")] = 150
    c1: Annotated[
        float, Meta(ge=0, le=100, description="Small: the search follows the reward; large: the table's weights")
    ] = 32.0
    c2: Annotated[float, Meta(ge=1, le=100, description="Visits after which the search grows more curious")] = 8.0
    pairs: Annotated[int, Meta(ge=2, le=6, description="Guesses along one path, at most")] = 4
    boost: Annotated[
        float,
        Meta(ge=0, le=0.5, description="What the latest text adds to its table entries per pass; 0 stops learning"),
    ] = 0.04
    reward: Annotated[
        Reward, Meta(description="The paper's reward, or the published code's, which is nearly always 1")
    ] = "intended"
    count: Annotated[
        Count, Meta(description="What the limit counts: nodes of the tree, or, as the published code, whole paths")
    ] = "nodes"
    memory: Annotated[
        Literal["cold", "hot"],
        Meta(description="Start with the prompt's trigrams alone, or also with what earlier hot runs left"),
    ] = "cold"


class Trigrams:
    """The table R. `rows[a, b]` holds the weights of the successors of a b, at most `KEPT`."""

    def __init__(self, rows: dict[Pair, Row] | None = None) -> None:
        self.rows = {} if rows is None else rows

    def count(self, text: Sequence[int]) -> dict[Pair, Row]:
        """Adds the trigrams of a text, counted and normalised per pair; known entries keep the higher weight.

        Returns the rows as they were before, most frequent pairs last.
        """
        counts: dict[Pair, Counter[int]] = {}
        for a, b, c in zip(text, text[1:], text[2:], strict=False):
            counts.setdefault((a, b), Counter())[c] += 1
        before: dict[Pair, Row] = {}
        for pair, found in sorted(counts.items(), key=lambda item: item[1].total()):
            row = self.rows.pop(pair, {})
            before[pair] = dict(row)
            for c, times in found.items():
                row[c] = max(row.get(c, 0.0), times / found.total())
            kept = sorted(row.items(), key=lambda item: -item[1])[:KEPT]
            self.rows[pair] = dict(kept)  # put in anew: now the youngest
        for pair in list(self.rows)[: max(0, len(self.rows) - MOST_PAIRS)]:
            del self.rows[pair]
        return before

    def adapt(self, window: Sequence[int], boost: float) -> dict[Pair, Row]:
        """Boosts every triple of the window, O(window); returns the boosted rows as they were before."""
        before: dict[Pair, Row] = {}
        for a, b, c in zip(window, window[1:], window[2:], strict=False):
            row = self.rows.setdefault((a, b), {})
            before.setdefault((a, b), dict(row))
            if c not in row and len(row) == KEPT:
                del row[min(row, key=row.__getitem__)]
            row[c] = min(row.get(c, 0.0) + boost, CAP)
        return before

    def successors(self, pair: Pair) -> list[tuple[int, float]]:
        """(token, weight), heaviest first; empty for an unknown pair."""
        return sorted(self.rows.get(pair, {}).items(), key=lambda item: -item[1])


class Node:
    """A place in the search: the walk that leads to it, and what walks through it were worth."""

    __slots__ = ("children", "parent", "prior", "score", "tokens", "visits")

    def __init__(self, tokens: tuple[int, ...], prior: float = 0.0, parent: Node | None = None) -> None:
        self.tokens = tokens
        """From the root's two on."""
        self.prior = prior
        """p: the weight in R that led here; after boosts it may exceed 1."""
        self.parent = parent
        self.children: list[Node] = []
        """Heaviest first."""
        self.visits = 0
        self.score = 0.0
        """Sum of the rewards of all walks that came through."""

    def below(self) -> Iterator[Node]:
        """All nodes under this one, parents first."""
        for child in self.children:
            yield child
            yield from child.below()


def puct(node: Node, parent_visits: int, c1: float, c2: float) -> float:
    """What a child is worth to the selection; unvisited ones come first."""
    if not node.visits:
        return math.inf
    curiosity = c1 + math.log((parent_visits + c2 + 1) / c2)
    return node.score / node.visits + curiosity * node.prior * math.sqrt(parent_visits) / (1 + node.visits)


def reward_of(walk: Sequence[int], table: Trigrams, kind: Reward) -> float:
    """1 + Σ R[(a, b)][c] over the triples abc of a walk; `as_published` looks up b where it should look up c."""
    total = 1.0
    for a, b, c in zip(walk, walk[1:], walk[2:], strict=False):
        if row := table.rows.get((a, b)):
            total += row.get(c if kind == "intended" else b, 0.0)
    return total


def search(table: Trigrams, root: Pair, params: Params, rng: Random) -> Node:
    """The root of the search tree after all walks."""
    top = Node(root)
    for _ in range(params.iterations):
        leaf = top
        while leaf.children:
            n = leaf.visits
            leaf = max(leaf.children, key=lambda child: puct(child, n, params.c1, params.c2))
        if len(leaf.tokens) <= params.pairs:
            successors = table.successors(leaf.tokens[-2:])
            leaf.children = [Node((*leaf.tokens, c), weight, leaf) for c, weight in successors]
            leaf = leaf.children[0] if leaf.children else leaf
        walk = list(leaf.tokens)
        while len(walk) <= params.pairs and (row := table.rows.get((walk[-2], walk[-1]))):
            walk += rng.choices(list(row), list(row.values()))
        reward = reward_of(walk, table, params.reward)
        place: Node | None = leaf
        while place is not None:
            place.visits += 1
            place.score += reward
            place = place.parent
    return top


def most_visited(top: Node) -> list[Node]:
    """The visited nodes under the root, most visits first; a parent comes before its children."""
    return sorted((node for node in top.below() if node.visits), key=lambda node: -node.visits)


def extract(top: Node, table: Trigrams) -> list[tuple[int, ...]]:
    """The most visited paths below the root, best first, each longer by its heaviest successor."""
    paths = []
    for node in most_visited(top)[:TOP_PATHS]:
        paths.append((*node.tokens[2:], *(c for c, _ in table.successors(node.tokens[-2:])[:1])))
    return list(dict.fromkeys(paths))


def cut(paths: Sequence[tuple[int, ...]], choices: int, count: Count = "nodes") -> list[tuple[int, ...]]:
    """Drops the longest path, the least visited of several, while there are more than `choices` tokens.

    `nodes` counts those of the merged tree. `as_published` adds up the distinct tokens of every path, a beginning that
    many share many times, so that a small budget loses its long paths for nothing.
    """
    kept = list(paths)
    while kept and size(kept, count) > choices:
        del kept[max(range(len(kept)), key=lambda index: (len(set(kept[index])), index))]
    return kept


def size(paths: Sequence[tuple[int, ...]], count: Count) -> int:
    """How many tokens there are to check, counted one way or the other."""
    if count == "as_published":
        return sum(len(set(path)) for path in paths)
    return len({path[:depth] for path in paths for depth in range(1, len(path) + 1)})


class Adaptive:
    """The drafter: a table that learns from the text, and the tree that a search in it yields."""

    origin: Origin = "drafted"

    def __init__(self, table: Trigrams, params: Params, choices: int) -> None:
        self.table, self.params, self.choices = table, params, choices

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        window = [*run.prompt[-WINDOW:], *run.output[-WINDOW:]][-WINDOW:]
        if self.params.boost:
            yield from stored(self.table, self.table.adapt(window, self.params.boost), "text", run)
        tree = TokenTree(run.root)
        if len(window) < 2:
            return tree
        # Not the run's generator: a guess must depend on the text alone, whatever the seed, to be tested as a `point`,
        # and the random numbers of the tests must be those of every other lossless method.
        top = search(self.table, (window[-2], window[-1]), self.params, Random(run.position))
        visits = {node.tokens[2:]: node.visits for node in most_visited(top)}
        for path in cut(extract(top, self.table), self.choices, self.params.count):
            parent = 0
            for depth, token in enumerate(path, 1):
                seen = visits.get(path[:depth])
                source = f"trigram at {seen} visits" if seen else "trigram, heaviest successor"
                parent = tree.add(parent, token, source)
        yield from scored(top, tree, self.params, run)
        return tree

    def observe(self, tree: TokenTree, logits: Tensor, verification: Verification) -> Iterator[Event]:
        """Nothing yet: what the pass confirms is in the window of the next search."""
        yield from ()


def stored(table: Trigrams, before: dict[Pair, Row], source: str, run: Run) -> Iterator[Store]:
    """The event for rows that changed, given what they were."""
    spell = run.model.token

    def heaviest(row: Row) -> tuple[Choice, ...]:
        ranked = sorted(row.items(), key=lambda item: -item[1])[:SHOWN_SUCCESSORS]
        return tuple(Choice(spell(token), weight) for token, weight in ranked)

    changed = [pair for pair, row in before.items() if row != table.rows.get(pair)]
    rows = [
        StoredRow((spell(a), spell(b)), heaviest(before[a, b]), heaviest(table.rows.get((a, b), {})), source)
        for a, b in reversed(changed[-SHOWN_ROWS:])
    ]
    if rows:
        yield Store(table="trigrams", rows=tuple(rows), changed=len(changed), size=len(table.rows))


def scored(top: Node, tree: TokenTree, params: Params, run: Run) -> Iterator[Score]:
    """The most visited places of the search, parents first: `parts` number them and name the parent, 0 is the root.

    `value` is the PUCT value at the end of the search; the prior in `parts` is a share of the siblings' weights.
    """
    drafted: list[tuple[int, ...]] = [()]
    for node in range(1, len(tree)):
        drafted.append((*drafted[tree.parents[node]], tree.tokens[node]))
    numbers = {top: 0}
    for place in most_visited(top)[:SHOWN_NODES]:
        assert place.parent is not None
        numbers[place] = len(numbers)
        yield Score(
            name="puct",
            value=puct(place, place.parent.visits, params.c1, params.c2),
            parts={
                "node": numbers[place],
                "parent": numbers[place.parent],
                "visits": place.visits,
                "prior": place.prior / sum(sibling.prior for sibling in place.parent.children),
                "mean reward": place.score / place.visits,
            },
            chosen=place.tokens[2:] in drafted,
            position=run.position + len(place.tokens) - 3,
            token=run.model.token(place.tokens[-1]),
        )


@method(
    "aded",
    title="ADED",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK,
    paper=Paper(
        "Adaptive Draft-Verification for Efficient Large Language Model Decoding", "Liu et al.", 2024, "2407.12021"
    ),
    params=Params,
    idea="Keeps a table of which token followed which two, and lets a small tree search walk in it before every pass. "
    "What the model has just written counts more with every step.",
    look_at="The search tree: big circles were visited most, and became the guesses. With a low c1 the search follows "
    "the reward rather than the table's weights.",
    shines=("copy-list", "sum-copy"),
    loses=("qa-rain", "tr-german"),
    pictures=(
        "token-stream",
        "draft-tree",
        "search-tree",
        "successors",
        "rejection-xray",
        "acceptance",
        "budget",
        "confidence",
    ),
)
def aded(run: Run, params: Params) -> Iterator[Event]:
    choices = params.choices or (yield from affordable(run, CHANCES))
    table = Trigrams(remembered(run, "trigrams") if params.memory == "hot" else None)
    yield from stored(table, table.count(run.sequence), "prompt", run)
    yield from speculate(run, Adaptive(table, params, choices), params)
