"""Token Recycling: "Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token
Recycling", Luo et al., arXiv 2408.08696.

Every pass ranks the whole vocabulary after every token it reads, and all ranks but one are thrown away. Keep
the k best successors of *every token that passed through*, also of refused guesses, in a table M; the next
draft tree is read from the table. No training, no corpus.

    1. M ← empty (V × k)
    2. tree ← the template T, filled level by level: tok[i] = M[tok[parent(i)], rank(i)]; unknown rows are pruned
    3. one pass over the tree; accept the path that agrees with the model
    4. M[tok[i]] ← the k best successors after node i, for every node i, nodes on the path last
    5. append the accepted path and the model's next token; go to 2

Exact: the output is plain decoding's, greedy or sampled (the tree depends on the past alone, so rule `point`).
Differs from the reference code: its table starts as zeros and drafts token 0 from unknown rows, ours prunes
them; it writes duplicate keys in undefined order on a GPU, ours lets the true context win; it ignores
temperature. The published template T has 80 nodes. A small machine cannot pay for them: T is cut to the nodes
most likely to be accepted, as many as the measured t(q) makes worthwhile. The rank chances behind that choice
are measurements of ours, not the paper's.

Two options are ours too, both off by default. `recycle_prompt` fills M with the ranks after the prompt's tokens,
which the paper throws away. Measured on the embedded model, one thread, cold, 17 prompts of 86 tokens and answers of
48: tokens per pass rise from 1.28 to 1.49 with 12 guesses, from 1.15 to 1.29 with 3. But the product with the output
matrix takes 73 ms, and passes that would have read one token now read a tree: processor time grows by 8 % with 12
guesses and stays the same with 3. It should pay where a wide pass costs hardly more than a narrow one. `adapt` rebuilds
T every 200 passes from what was right; most answers are shorter than that, so it is of use with hot memory only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor

from engines.events import Choice, Event, Note, Origin, Store, StoredRow, Token
from engines.method import AUTOMATIC, Need, Paper, method
from engines.runner import Run
from engines.sampling import Speculating
from engines.speculative.budget import affordable
from engines.speculative.loop import speculate
from engines.speculative.memory import remembered
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification

# Ranks from the root: "02" is the third-best successor of the best successor. Template 2.2.2 of the paper's
# repository, levels of 8, 21, 25, 15, 8 and 3 nodes.
_LEVELS = (
    "0 1 2 3 4 5 6 7",
    "00 01 02 03 04 05 06 07 10 11 12 13 20 21 22 30 31 40 50 60 70",
    "000 001 002 003 004 005 006 007 010 011 012 020 021 030 040 050 060 070 100 101 110 200 300 400 500",
    "0000 0001 0002 0003 0004 0010 0011 0020 0030 0040 0100 0200 1000 2000 3000",
    "00000 00001 00002 00010 00020 00100 01000 10000",
    "000000 000001 000100",
)
TEMPLATE: tuple[str, ...] = tuple(path for level in _LEVELS for path in level.split())

RANK_CHANCES = (0.35, 0.16, 0.06, 0.03, 0.02, 0.01, 0.005, 0.003)
"""Probability that the successor remembered at each rank is the right one: measured on the embedded model, cold."""

SHOWN_ROWS = 16
RECYCLED_PROMPT = 512
"""Different prompt tokens, counted from its end, whose ranks are recycled at most."""
PROMPT_CHUNK = 64
"""Of them at a time: the logits after 64 tokens of a large vocabulary are 30 MB."""
ADAPT_EVERY = 200
"""Passes between two rebuilds of the template."""
PRIOR_PASSES = 50
"""How many passes `node_chance` is worth beside what was counted."""

Table = dict[int, tuple[Choice, ...]]
"""M: for a token id its k best successors, best first, each with the model's own probability of it at that node."""


class Params(Speculating, frozen=True, kw_only=True, forbid_unknown_fields=True):
    nodes: Annotated[
        int, Meta(ge=0, le=80, description="Guesses per tree; 0 picks what this machine can pay for", extra=AUTOMATIC)
    ] = 0
    width: Annotated[int, Meta(ge=1, le=8, description="Remembered successors per token (k)")] = 8
    memory: Annotated[
        Literal["cold", "hot"],
        Meta(description="Start with an empty table, or with what your earlier hot runs of this model left in it"),
    ] = "cold"
    recycle_prompt: Annotated[
        bool, Meta(description="Also remember what the model ranked after the prompt's own tokens")
    ] = False
    duplicates: Annotated[
        Literal["path last", "last"],
        Meta(description="Of a token's several places in one tree, which is remembered: the text's own, or the last"),
    ] = "path last"
    adapt: Annotated[bool, Meta(description="Rebuild the template every 200 passes from the nodes that were right")] = (
        False
    )


def node_chance(path: str) -> float:
    """Estimated probability that a template node is accepted: the product of its ranks' chances."""
    chance = 1.0
    for rank in path:
        chance *= RANK_CHANCES[int(rank)]
    return chance


def likeliest_first(width: int, hits: Counter[str] | None = None) -> list[str]:
    """Nodes of ranks below `width`, most likely first: the template's, and those that were counted in `hits`.

    Every prefix is closed under parents, because a parent is right at least as often as each of its children.
    """
    counted = hits or Counter()
    nodes = {path for path in (*TEMPLATE, *counted) if path and all(int(rank) < width for rank in path)}

    def weight(path: str) -> float:
        return counted[path] + PRIOR_PASSES * node_chance(path)

    return sorted(nodes, key=lambda path: (-weight(path), len(path), path))


class Recycler:
    """The table of successors, and the tree that is read from it.

    Args:
        template: the nodes of T.
        width: k.
        successors: M, changed in place.
        spell: id → token, for the events.
        duplicates: which node of several with the same token is remembered.
        hits: for a template that adapts, how often each node was right; "" counts the passes.
    """

    origin: Origin = "drafted"

    def __init__(
        self,
        template: Sequence[str],
        width: int,
        successors: Table,
        spell: Callable[[int], Token] = lambda id: Token(id, ""),
        duplicates: Literal["path last", "last"] = "path last",
        hits: Counter[str] | None = None,
    ) -> None:
        self.template = level_by_level(template)
        self.width = width
        self.successors = successors
        self.spell = spell
        self.duplicates = duplicates
        self.hits = hits

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        return self.read(run.root)
        yield  # proposes without events

    def read(self, root: int) -> TokenTree:
        """Fills the template breadth first from the table."""
        tree = TokenTree(root)
        ids = {"": 0}
        for path in self.template:
            parent, rank = ids.get(path[:-1]), int(path[-1])
            row = self.successors.get(tree.tokens[parent], ()) if parent is not None else ()
            if parent is not None and rank < len(row):
                ids[path] = tree.add(parent, row[rank].token.id, f"recycled, rank {rank + 1}")
        return tree

    def observe(self, tree: TokenTree, logits: Tensor, verification: Verification) -> Iterator[Event]:
        """Remembers the best successors of every node."""
        on_path = [0, *verification.path]
        if self.hits is not None:
            yield from self.adapt(self.hits, [*(tree.tokens[node] for node in on_path), verification.extra])
        order = list(range(len(tree)))
        if self.duplicates == "path last":
            order.sort(key=lambda node: node in on_path)
        sources = ["accepted" if node in on_path else "rejected" for node in range(len(tree))]
        sources[0] = "root"
        rows = self.write(tree.tokens, sources, logits, order)
        yield self.stored(sorted(rows, key=_importance))

    def recycle_prompt(self, run: Run) -> Iterator[Event]:
        """Remembers the best successors of the prompt's tokens, each at its last place.

        The pass over the prompt left hidden states; one more product with the output matrix ranks the vocabulary.
        """
        if not run.prompt_hidden:
            return
        hidden = torch.cat(run.prompt_hidden)
        last = {token: place for place, token in enumerate(run.sequence[: len(hidden)])}
        places = sorted(last.values(), reverse=True)[:RECYCLED_PROMPT]
        output = run.model.network.get_output_embeddings()
        rows: list[StoredRow] = []
        for start in range(0, len(places), PROMPT_CHUNK):
            chunk = places[start : start + PROMPT_CHUNK]
            with torch.inference_mode():
                logits = output(hidden[chunk]).float()
            keys = [run.sequence[place] for place in chunk]
            rows += self.write(keys, ["prompt"] * len(keys), logits, range(len(keys)))
        yield self.stored(rows)

    def write(
        self, keys: Sequence[int], sources: Sequence[str], logits: Tensor, order: Sequence[int]
    ) -> list[StoredRow]:
        """M[key] ← the best of each row of logits (keys, vocabulary), in that order: of equal keys the last counts."""
        ids = logits.topk(min(self.width, logits.shape[-1]), dim=-1).indices
        p = logits.softmax(-1).gather(-1, ids).tolist()
        best = ids.tolist()
        winners: dict[int, int] = {}
        for place in order:
            winners.pop(keys[place], None)
            winners[keys[place]] = place
        rows = []
        for key, place in winners.items():
            before, after = self.successors.get(key, ()), tuple(map(Choice, map(self.spell, best[place]), p[place]))
            self.successors[key] = after
            rows.append(StoredRow((self.spell(key),), before, after, sources[place]))
        return rows

    def stored(self, rows: Sequence[StoredRow]) -> Store:
        """The event for rows that were written, those that matter most first."""
        return Store(table="successors", rows=tuple(rows[:SHOWN_ROWS]), changed=len(rows), size=len(self.successors))

    def adapt(self, hits: Counter[str], text: Sequence[int]) -> Iterator[Event]:
        """Counts the nodes that the root and the tokens after it confirm, and rebuilds the template now and then.

        The token that the pass itself yields is counted too: so nodes that the template lacks can be found.
        """
        path = ""
        hits[path] += 1
        for before, token in pairwise(text):
            row = [choice.token.id for choice in self.successors.get(before, ())]
            if token not in row:
                break
            path += str(row.index(token))
            hits[path] += 1
        if hits[""] % ADAPT_EVERY == 0:
            fresh = likeliest_first(self.width, hits)[: len(self.template)]
            new = len(set(fresh) - set(self.template))
            self.template = level_by_level(fresh)
            yield Note(
                text=f"After {hits['']} passes the tree is rebuilt from what was right: "
                f"{new} of its {len(fresh)} places are new."
            )


def level_by_level(template: Sequence[str]) -> list[str]:
    """Parents before children, best ranks first."""
    return sorted(template, key=lambda path: (len(path), path))


def _importance(row: StoredRow) -> int:
    """Rows of the path come first, then those with another first successor than before."""
    if row.source != "rejected":
        return 0
    return 1 if [choice.token for choice in row.before[:1]] != [choice.token for choice in row.after[:1]] else 2


@method(
    "token-recycling",
    title="Token Recycling",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK | Need.HIDDEN_STATES,
    paper=Paper(
        "Turning Trash into Treasure: Accelerating Inference of LLMs with Token Recycling",
        "Luo et al.",
        2024,
        "2408.08696",
    ),
    params=Params,
    idea="Remembers which tokens the model itself considered after each token, and guesses along those. "
    "Wrong guesses cost nothing but a little width.",
    look_at="The draft tree: the green path was right, and all of it came from one pass.",
    shines=("math-change", "copy-list"),
    loses=("sum-meeting", "tr-german"),
    pictures=(
        "token-stream",
        "draft-tree",
        "successors",
        "rejection-xray",
        "acceptance",
        "budget",
        "cost-curve",
        "confidence",
    ),
)
def token_recycling(run: Run, params: Params) -> Iterator[Event]:
    shelf = remembered(run, "token-recycling") if params.memory == "hot" else {}
    successors, hits = shelf.setdefault(params.width, ({}, Counter()))
    order = likeliest_first(params.width)
    nodes = params.nodes or (yield from affordable(run, [node_chance(path) for path in order]))
    if params.adapt and hits[""] >= ADAPT_EVERY:
        order = likeliest_first(params.width, hits)
    counter = hits if params.adapt else None
    recycler = Recycler(order[:nodes], params.width, successors, run.model.token, params.duplicates, counter)
    if params.recycle_prompt:
        yield from recycler.recycle_prompt(run)
    yield from speculate(run, recycler, params)
