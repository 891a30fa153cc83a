"""SpecInfer: a draft model guesses several continuations, which share prefixes, and one pass checks the whole tree.

"SpecInfer: Accelerating Large Language Model Serving with Tree-based Speculative Inference and Verification", Miao et
al., arXiv 2305.09781. A chain is lost with its first wrong guess; where a node has several children, each is a chance.

    1. level ℓ = 1 … L: for every guess v of the level before, draw b_ℓ children from q(·|v), each on its own
       (equal ones are one node, tested as often as it was drawn); one pass of the draft over the tree so far gives
       q for the next level
    2. one pass of the target over the tree, in which each node sees its ancestors only, gives p(·|v) for all v
    3. from the root down: r ← p(·|v); for each child c of v in draw order: accept c with probability
       min(1, r(c) / q(c|v)) and go on from it; refused: r ← max(r - q, 0), renormalised
    4. no child left: draw one more token from r

Exact: the text is plain decoding's, greedy or sampled. At temperature 0 nothing is drawn: the children are the draft's
b_ℓ most probable tokens, and the child that is the target's first choice is accepted. Below an end of text nothing is
guessed.

Differs from the paper: one draft model, where the paper may also merge the trees of several. L may be cut anew at every
turn to what should pay, from the two models' measured times and the share of levels passed so far (`adapt`): on a
machine with few cores a pass over ten guesses costs twice one over a single token.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import Annotated

from msgspec import Meta
from torch import Tensor

from engines.errors import BadParameter
from engines.events import Curve, Event, Note, Origin
from engines.method import Need, Paper, method
from engines.runner import Run
from engines.sampling import draw
from engines.speculative.budget import cost, expected_tokens
from engines.speculative.drafting import Drafted, Reader, draft_for
from engines.speculative.loop import speculate
from engines.speculative.tree import Drawn, TokenTree
from engines.speculative.verify import Verification


class Growing(Drafted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of methods whose trees grow level by level."""

    adapt: Annotated[
        bool, Meta(description="Guess fewer levels ahead where more should not pay, judged anew at every turn")
    ] = True


class Params(Growing, frozen=True, kw_only=True, forbid_unknown_fields=True):
    branching: Annotated[
        str,
        Meta(
            pattern=r"^[1-4](-[1-4]){0,3}\Z",
            max_length=7,
            description="Children per guess, level by level: one to four numbers from 1 to 4, e.g. 2-2-1",
        ),
    ] = "2-2-1"

    @property
    def levels(self) -> list[int]:
        """b₁ … b_L."""
        return [int(children) for children in self.branching.split("-")]


class LevelByLevel:
    """Grows a tree with the draft model, one pass of it per level. What is added at a level, a subclass says.

    Args:
        sizes: guesses at each level, at most.
        drawn: how the children of a node are drawn when sampling.

    Raises:
        BadParameter: the draft cannot read trees.
    """

    origin: Origin = "drafted"

    def __init__(self, run: Run, params: Growing, sizes: Sequence[int], drawn: Drawn) -> None:
        self.sampler = run.sampler(params)
        with run.aside():
            draft = draft_for(run.model, params)
        if Need.TREE_ATTENTION not in draft.has:
            raise BadParameter(
                f"{draft.title} cannot read a tree of guesses in one pass. Choose another draft, or speculative "
                "sampling, whose guesses form a chain."
            )
        self.reader = Reader(run, draft, self.sampler)
        self.rng = run.rng
        self._drawn: Drawn = "point" if self.sampler.greedy else drawn
        self._sizes, self._adapt = sizes, params.adapt
        self._target, self._draft = run.cost_curve(), run.cost_curve(draft)
        self._passed, self._entered = 3.0, 5.0  # a guess before there is evidence

    def grow(self, tree: TokenTree, leaves: Sequence[int], level: int) -> None:
        """Adds children to `leaves`, guesses at depth `level` whose q are in `tree.distributions`."""
        raise NotImplementedError

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        tree = TokenTree(run.root, self._drawn)
        alpha = self._passed / self._entered
        levels = best_depth(self._target, self._draft, self._sizes, alpha) if self._adapt else len(self._sizes)
        leaves = [0]
        for level in range(min(levels, self.reader.room())):
            logits = self.reader.read_tree(tree) if level else self.reader.catch_up()[None]
            for leaf in leaves:  # of several rows, the first is node 1's; the root's is the only one
                tree.distributions[leaf] = self.reader.distribution(logits[leaf - 1], path(tree, leaf))
            known = len(tree)
            self.grow(tree, leaves, level)
            leaves = [node for node in range(known, len(tree)) if tree.tokens[node] not in run.model.eos_ids]
            if not leaves:
                break
        return tree
        yield  # proposes without events

    def observe(self, tree: TokenTree, logits: Tensor, verification: Verification) -> Iterable[Event]:
        """Counts levels: of those that the target came to, how many held the right guess."""
        passed, refused = len(verification.path), bool(tree.children[verification.last])
        self._passed = 0.95 * self._passed + passed
        self._entered = 0.95 * self._entered + passed + refused
        return ()

    def drafting(self, tree: TokenTree) -> float:
        """Seconds that these guesses cost."""
        return drafting(self._draft, [tree.depths.count(depth) for depth in range(1, max(tree.depths) + 1)])

    def notes(self) -> Iterator[Event]:
        """What a reader should know before the first guess."""
        yield Note(text=f"The guesses come from {self.reader.draft.title}.")
        if self.sampler.greedy:
            yield Note(text="At temperature 0 nothing is drawn: the guesses are the draft's most probable tokens.")


def drafting(draft: Curve, sizes: Sequence[int]) -> float:
    """Seconds of the draft for levels of these sizes: each is read off a pass over the root or all guesses above it."""
    return sum(cost(draft, query) for query in (1, *accumulate(sizes[:-1]))) if sizes else 0.0


def best_depth(target: Curve, draft: Curve, sizes: Sequence[int], alpha: float) -> int:
    """The number of levels, at least 1, that maximises expected tokens over the seconds of both models.

    Args:
        target, draft: t(q), seconds of a pass over q new tokens.
        sizes: guesses at each level.
        alpha: the chance that a level holds the right guess, given that the one above did.
    """

    def speed(depth: int) -> float:
        seconds = drafting(draft, sizes[:depth]) + cost(target, 1 + sum(sizes[:depth]))
        return expected_tokens(alpha, depth) / seconds

    return max(range(1, len(sizes) + 1), key=speed)


class Expansion(LevelByLevel):
    """Trees of a fixed shape: b_ℓ children at level ℓ, drawn with replacement."""

    def __init__(self, run: Run, params: Params, drawn: Drawn = "with replacement") -> None:
        self._branching = params.levels
        super().__init__(run, params, list(accumulate(self._branching, mul)), drawn)

    def grow(self, tree: TokenTree, leaves: Sequence[int], level: int) -> None:
        for leaf in leaves:
            q = tree.distributions[leaf]
            choose = self.first_choices if self.sampler.greedy else self.draws
            for token, source in choose(q, self._branching[level]):
                tree.add(leaf, token, source, float(q[token]))

    def first_choices(self, q: Tensor, count: int) -> Iterator[tuple[int, str]]:
        """The most probable tokens of q (vocabulary,), and where they come from."""
        best = q.topk(min(count, int((q > 0).sum())))
        for token in best.indices.tolist():
            yield token, self.reader.draft.title

    def draws(self, q: Tensor, count: int) -> Iterator[tuple[int, str]]:
        """Tokens drawn from q (vocabulary,), in draw order, and where they come from."""
        for token in draw(q.expand(count, -1), self.rng).tolist():
            yield token, self.reader.draft.title


def path(tree: TokenTree, node: int) -> list[int]:
    """The guesses from the root down to a node, the root not among them."""
    return [*path(tree, tree.parents[node]), tree.tokens[node]] if node else []


@method(
    "specinfer",
    title="SpecInfer",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK,
    paper=Paper(
        "SpecInfer: Accelerating Large Language Model Serving with Tree-based Speculative Inference and Verification",
        "Miao et al.",
        2023,
        "2305.09781",
    ),
    params=Params,
    idea="A small model guesses a tree of continuations, and the large one checks all of them in one pass. "
    "Where the first guess is wrong, a sibling may be right.",
    look_at="The X-ray of a second sibling at temperature 1: it meets what its refused elder has left of p.",
    shines=("math-change", "copy-list"),
    loses=("poem-sea",),
    pictures=(
        "token-stream",
        "draft-tree",
        "overlap",
        "rejection-xray",
        "acceptance",
        "timeline",
        "budget",
        "cost-curve",
        "confidence",
    ),
)
def specinfer(run: Run, params: Params) -> Iterator[Event]:
    expansion = Expansion(run, params)
    yield from expansion.notes()
    yield from speculate(run, expansion, params, drafting=expansion.drafting)
