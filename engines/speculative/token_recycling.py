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
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Annotated, Literal

from msgspec import Meta
from torch import Tensor

from engines.events import Event, Origin
from engines.method import Need, Paper, method
from engines.runner import Run
from engines.sampling import Choosing
from engines.speculative.budget import affordable
from engines.speculative.loop import speculate
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification

# Ranks from the root: "02" is the third-best successor of the best successor. Template 2.2.2 of the paper's
# repository, levels of 8, 21, 25, 15, 8 and 3 nodes.
TEMPLATE: tuple[str, ...] = (
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "00",
    "01",
    "02",
    "03",
    "04",
    "05",
    "06",
    "07",
    "10",
    "11",
    "12",
    "13",
    "20",
    "21",
    "22",
    "30",
    "31",
    "40",
    "50",
    "60",
    "70",
    "000",
    "001",
    "002",
    "003",
    "004",
    "005",
    "006",
    "007",
    "010",
    "011",
    "012",
    "020",
    "021",
    "030",
    "040",
    "050",
    "060",
    "070",
    "100",
    "101",
    "110",
    "200",
    "300",
    "400",
    "500",
    "0000",
    "0001",
    "0002",
    "0003",
    "0004",
    "0010",
    "0011",
    "0020",
    "0030",
    "0040",
    "0100",
    "0200",
    "1000",
    "2000",
    "3000",
    "00000",
    "00001",
    "00002",
    "00010",
    "00020",
    "00100",
    "01000",
    "10000",
    "000000",
    "000001",
    "000100",
)

RANK_CHANCES = (0.35, 0.16, 0.06, 0.03, 0.02, 0.01, 0.005, 0.003)
"""Probability that the successor remembered at each rank is the right one: measured on the embedded model, cold."""


class Params(Choosing, frozen=True, kw_only=True, forbid_unknown_fields=True):
    nodes: Annotated[int, Meta(ge=0, le=80, description="Guesses per tree; 0 picks what this machine can pay for")] = 0
    width: Annotated[int, Meta(ge=1, le=8, description="Remembered successors per token (k)")] = 8
    memory: Annotated[
        Literal["cold", "hot"],
        Meta(description="Start with an empty table, or with what earlier hot runs of this model left in it"),
    ] = "cold"


def node_chance(path: str) -> float:
    """Estimated probability that a template node is accepted: the product of its ranks' chances."""
    chance = 1.0
    for rank in path:
        chance *= RANK_CHANCES[int(rank)]
    return chance


def likeliest_first(width: int) -> list[str]:
    """The template's nodes of ranks below `width`, most likely first. Every prefix is closed under parents."""
    nodes = [path for path in TEMPLATE if all(int(rank) < width for rank in path)]
    return sorted(nodes, key=lambda path: (-node_chance(path), len(path), path))


class Recycler:
    """The table of successors, and the tree that is read from it."""

    origin: Origin = "drafted"

    def __init__(self, template: list[str], width: int, successors: dict[int, list[int]]) -> None:
        self.template = sorted(template, key=lambda path: (len(path), path))
        self.width = width
        self.successors = successors

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        return self.read(run.root)
        yield  # proposes without events

    def read(self, root: int) -> TokenTree:
        """Fills the template breadth first from the table."""
        tree = TokenTree(root)
        ids = {"": 0}
        for path in self.template:
            parent, rank = ids.get(path[:-1]), int(path[-1])
            row = self.successors.get(tree.tokens[parent], []) if parent is not None else []
            if parent is not None and rank < len(row):
                ids[path] = tree.add(parent, row[rank], f"recycled, rank {rank + 1}")
        return tree

    def observe(self, tree: TokenTree, logits: Tensor, verification: Verification) -> Iterator[Event]:
        """Remembers the best successors of every node; the accepted path is written last, so its context wins."""
        rows = logits.topk(self.width, dim=-1).indices.tolist()
        on_path = [0, *verification.path]
        off_path = sorted(set(range(len(tree))) - set(on_path))
        for node in [*off_path, *on_path]:
            self.successors[tree.tokens[node]] = rows[node]
        yield from ()


_hot: dict[tuple[str, int], dict[int, list[int]]] = {}
"""Tables that hot runs share, by weights and width."""


@method(
    "token-recycling",
    title="Token Recycling",
    family="speculative",
    lossless=True,
    needs=Need.TREE_ATTENTION | Need.ROLLBACK,
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
    pictures=("token-stream", "draft-tree", "rejection-xray", "acceptance", "budget", "cost-curve", "confidence"),
)
def token_recycling(run: Run, params: Params) -> Iterator[Event]:
    order = likeliest_first(params.width)
    nodes = params.nodes or (yield from affordable(run, [node_chance(path) for path in order]))
    table = _hot.setdefault((run.model.weights, params.width), {}) if params.memory == "hot" else {}
    yield from speculate(run, Recycler(order[:nodes], params.width, table), params)
