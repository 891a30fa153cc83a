"""The loop that speculative methods share: draft, verify in one pass, commit, keep the accepted path in the cache.

A method supplies a `Drafter`, which is all that its paper invented. Invariant: before and after every turn
the cache holds all committed tokens but the last, the root.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor

from engines.events import Event, Note, Origin
from engines.method import Need
from engines.runner import Run
from engines.speculative.budget import Payback, cost
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification, verify


class Drafter(Protocol):
    """Guesses what comes next."""

    @property
    def origin(self) -> Origin:
        """What a confirmed guess is called in the text: `drafted` or `copied`."""

    def propose(self, run: Run) -> Generator[Event, None, TokenTree]:
        """A generator that may yield events (a match, a note) and returns a `TokenTree` rooted at `run.root`."""

    def observe(self, tree: TokenTree, logits: Tensor, verification: Verification) -> Iterable[Event]:
        """Learns from a pass: logits (nodes, vocabulary) of every node, also of the refused ones."""


def speculate(
    run: Run, drafter: Drafter, settings: Any, *, drafting: Callable[[TokenTree], float] = lambda tree: 0.0
) -> Iterator[Event]:
    """Decodes with `drafter`, exactly.

    Args:
        settings: a `Sampling` or some of its fields. With `fallback` decoding is plain while guesses do not pay.
        drafting: seconds that the guesses of a tree cost before they are checked, for that decision.
    """
    sampler = run.sampler(settings)
    spell = run.model.token
    told = False
    payback = Payback(run.cost_curve()) if getattr(settings, "fallback", False) else None
    rereads = getattr(run.model, "rereads", False)
    while not run.finished:
        if payback and payback.pausing():
            tree = TokenTree(run.root)
        else:
            tree = yield from drafter.propose(run)
        # A looked-up end of text gains nothing: the pass yields that token by itself where it belongs.
        tree = tree.trimmed(run.remaining - 1, run.model.eos_ids if tree.drawn == "point" else ())
        if not tree.is_chain and Need.TREE_ATTENTION not in run.model.has:
            tree = tree.first_branch()
            if not told:
                yield Note(text=f"{run.model.title} cannot read a tree in one pass: only its first branch is checked.")
                told = True
        if len(tree) > 1:
            yield tree.as_draft(run.position, spell)
        cached = run.state.length
        logits = run.state.extend(tree.tokens, None if tree.is_chain else tree.parents)
        verification = verify(tree, logits, sampler, run.rng, run.prompt, run.output)
        if len(tree) > 1:
            yield verification.as_event(tree, run.position, spell)
        yield from drafter.observe(tree, logits, verification)
        yield from commit_path(run, tree, logits, verification, drafter.origin)
        if tree.is_chain:
            run.state.rollback(len(tree) - 1 - len(verification.path))
        else:
            run.state.keep([0, *verification.path])
        guesses, held = len(tree) - 1, len(verification.path)
        if payback:
            again = cost(run.cost_curve(), 1 + held) if rereads and held < guesses else 0.0
            if note := payback.count(guesses, held, drafting(tree) + again):
                yield note
        text = len(run.prompt) + len(run.output)
        assert run.finished or run.state.length == cached + 1 + len(verification.path) == text - 1


def commit_path(
    run: Run, tree: TokenTree, logits: Tensor, verification: Verification, origin: Origin
) -> Iterator[Event]:
    """Candidates at every place that is decided, then the accepted tokens and the extra one, if there is one."""
    nodes = [0, *verification.path]
    tokens = [*(tree.tokens[node] for node in verification.path), verification.extra]
    last: Origin = verification.extra_origin(tree) if len(tree) > 1 else "sampled"
    origins: list[Origin] = [*(origin for _ in verification.path), last]
    if verification.extra < 0:  # every place held a guess, and all were right
        del nodes[-1], tokens[-1]
    placed = []
    for offset, (node, token) in enumerate(zip(nodes, tokens, strict=True)):
        yield run.candidates(logits[node], stages=verification.stages[offset], position=run.position + offset)
        placed.append(run.placed(token, origins[offset], logits=logits[node], final=verification.finals[offset]))
    yield from run.commit(*placed)
