"""Speculative sampling: a small model guesses a few tokens ahead, the large one checks them all in one pass.

"Fast Inference from Transformers via Speculative Decoding", Leviathan et al., arXiv 2211.17192; "Accelerating Large
Language Model Decoding with Speculative Sampling", Chen et al., 2302.01318.

    1. the draft reads what was committed since its last turn
    2. d₁ ~ q₁, read d₁; d₂ ~ q₂, read d₂; … d_γ ~ q_γ       (temperature and filters as for the target)
    3. one pass of the target over root, d₁ … d_γ gives p₁ … p_γ₊₁
    4. for i = 1 … γ: accept dᵢ with probability min(1, pᵢ(dᵢ) / qᵢ(dᵢ)), stop at the first refusal
    5. refused at i: draw the correction from max(pᵢ - qᵢ, 0), renormalised; all accepted: draw a bonus from p_γ₊₁
    6. both caches forget what was refused; go to 1

At temperature 0 the draft takes its first choice, and a guess is accepted if it is the target's first choice too.
Exact: the text is plain decoding's, greedy or sampled. γ = 0 picks the length anew at every turn, from the two
models' measured times and the share of guesses accepted so far (the paper's equation 1 over γ·t_draft + t(γ+1), where
the paper has γ·t_draft + t(1): on a machine with few cores reading γ+1 tokens costs more than reading one).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Annotated

from msgspec import Meta
from torch import Tensor

from engines.events import Event, Note, Origin
from engines.method import AUTOMATIC, Need, Paper, method
from engines.runner import Run
from engines.speculative.budget import best_chain, cost
from engines.speculative.drafting import Drafted, Reader, draft_for
from engines.speculative.loop import speculate
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification

LONGEST = 8


class Params(Drafted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gamma: Annotated[
        int,
        Meta(
            ge=0,
            le=12,
            description="Guesses per turn (γ); 0 picks what should pay, anew at every turn",
            extra=AUTOMATIC,
        ),
    ] = 0


class Chain:
    """Guesses one token after the other with the draft model."""

    origin: Origin = "drafted"

    def __init__(self, run: Run, params: Params) -> None:
        self._sampler = run.sampler(params)
        with run.aside():
            draft = draft_for(run.model, params)
        self.reader = Reader(run, draft, self._sampler)
        self._gamma = params.gamma
        self.curve, self.seconds = run.cost_curve(), cost(run.cost_curve(draft), 1)
        self._accepted, self._tested = 3.0, 5.0  # a guess before there is evidence

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        tree = TokenTree(run.root, "with replacement")
        gamma = self._gamma or best_chain(self.curve, self.seconds, self._accepted / self._tested, LONGEST)
        gamma = min(gamma, self.reader.room())
        if note := self.reader.full():
            yield note
        logits = self.reader.catch_up() if gamma else None
        path: list[int] = []
        while logits is not None:
            q = self.reader.distribution(logits, path)
            token = int(q.argmax()) if self._sampler.greedy else self._sampler.draw(q, run.rng)
            node = len(path)
            tree.distributions[node] = q
            tree.add(node, token, self.reader.draft.title, float(q[token]))
            path.append(token)
            ends = len(path) == gamma or token in run.model.eos_ids
            logits = None if ends else self.reader.read(token)
        return tree

    def observe(self, tree: TokenTree, logits: Tensor, verification: Verification) -> Iterator[Event]:
        """Counts: the running share of accepted guesses decides how far ahead to guess."""
        self._accepted = 0.95 * self._accepted + len(verification.path)
        self._tested = 0.95 * self._tested + len(verification.judged)
        yield from ()

    def drafting(self, tree: TokenTree) -> float:
        """Seconds that these guesses cost."""
        return self.seconds * (len(tree) - 1)


@method(
    "speculative-sampling",
    title="Speculative sampling",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK,
    paper=Paper("Fast Inference from Transformers via Speculative Decoding", "Leviathan et al.", 2022, "2211.17192"),
    params=Params,
    idea="A small model guesses the next few tokens, the large one checks them all in one pass. "
    "What it would not have said is replaced, so the text is the large model's own.",
    look_at="The X-ray of a refused guess at temperature 1: how far q reached above p, and what the residual left.",
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
def speculative_sampling(run: Run, params: Params) -> Iterator[Event]:
    chain = Chain(run, params)
    yield chain.curve
    share = chain.seconds / cost(chain.curve, 1)
    yield Note(text=f"The guesses come from {chain.reader.draft.title}: one costs {share:.0%} of a plain pass.")
    yield from speculate(run, chain, params, drafting=chain.drafting)
