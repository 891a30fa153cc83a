"""PEARL: the draft model and the target work at the same time instead of waiting for each other.

While the draft writes a block of γ guesses, the target already decides the place of the first one (pre-verify); while
the target checks a block, the draft already writes the next one (post-verify). A block that fails costs a round of
drafting; as long as guesses hold, the draft never stops, so its length adapts by itself.

"PEARL: Parallel Speculative Decoding with Adaptive Draft Length", Liu et al., arXiv 2408.11850.

    L tokens are committed, x_L-1 the last of them.
    PRE, nothing is pending. At the same time: (a) the draft writes x_L … x_L+γ-1; (b) the target reads x_L-1: p_L.
        1. test x_L. Refused: commit a token from max(p_L - q_L, 0), renormalised; the block is lost; stay in PRE
        2. accepted: commit x_L; the other γ - 1 guesses are pending; go to POST
    POST, γ - 1 guesses are pending. At the same time: (a) the draft writes γ more; (b) the target reads the last
    committed token and the pending ones: p at the pending places and at the first place of the new block.
        3. test these γ guesses in order. All accepted: commit them; the other γ - 1 of the new block are pending; stay
        4. one refused: commit those before it and a correction; both caches forget the rest; go to PRE

A round takes max(γ · t_draft, t(γ)) instead of the sum. γ = 0 picks the γ for which the two are closest, that is
round(t_target / t_draft) where reading γ tokens takes as long as reading one.

Exact: greedy and sampled text are plain decoding's. Every test meets a random number of its own. The published code
seeds the test of x_L in PRE and that of x_L+1 in the next POST alike; the second then meets a number that is known to
be small, and its token's law is the draft's rather than the target's: greedy decoding is not affected, sampling is no
longer lossless, so it is not offered here (tests/engines/speculative/test_pearl.py shows it). The draft draws from a
generator of its own, so the text does not depend on who is faster.

Two differences. Where the draft stops, at an end of text or near the run's limit, the last place has no guess to test,
and the target's pass gives a token of its own there; nowhere else is there a bonus token. And the published code does
not look for the end of text and may write more than it was asked for; here only confirmed tokens are text.

Two workers are two threads. On few cores they share what one would have had for itself, so a gain in measured time is
not to be expected; the note at the end of a run gives three clocks, the last of which is the paper's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from engines.events import Curve, Event, Forward, Note, Verdict
from engines.method import AUTOMATIC, Need, Paper, method
from engines.models.causal import CausalModel
from engines.runner import Run
from engines.sampling import Sampler
from engines.speculative.budget import Payback, cost, expected_tokens
from engines.speculative.drafting import Drafted, Reader, draft_for
from engines.speculative.loop import commit_path
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification, verify

LONGEST = 8
"""The largest γ that is picked."""
WORTH_WAKING = 0.002
"""Seconds of drafting for which another thread is woken."""
PRE, POST = "pre-verify", "post-verify"
"""What `Draft.template` says of a round."""
NOTHING = -1
"""`Verification.extra` when all places held a guess, and all guesses were right."""


class Params(Drafted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gamma: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="Guesses per block (γ); 0 picks as many as fit beside a pass of the target",
            extra=AUTOMATIC,
        ),
    ] = 0
    workers: Annotated[
        Literal["auto", "two", "one"],
        Meta(
            description="Two: both models work at the same time. One: they take turns, and two workers are computed. "
            "Auto: two where cores are idle"
        ),
    ] = "auto"
    fallback: Annotated[
        bool, Meta(description="Decode plainly for a while when guesses do not pay with the workers at hand")
    ] = False


class Guess(NamedTuple):
    """A token of the draft, and the distribution (vocabulary,) that it came from."""

    token: int
    q: Tensor


class Writer:
    """The draft's worker: its cache, its random numbers and its ledger are its own, so it may run in another thread."""

    def __init__(self, run: Run, draft: CausalModel, sampler: Sampler) -> None:
        self.ledger: list[Event] = []
        self.reader = Reader(run, draft, sampler, self.ledger)
        self._sampler, self._ends = sampler, run.model.eos_ids
        seed = int(torch.randint(2**62, (), generator=run.rng, device=run.rng.device))
        self._rng = torch.Generator(run.rng.device).manual_seed(seed)

    def extend(self, pending: Sequence[Guess], count: int) -> list[Guess]:
        """The pending guesses and at most `count` more; none follows an end of text."""
        guesses = list(pending)
        while len(guesses) < len(pending) + count and not (guesses and guesses[-1].token in self._ends):
            path = [guess.token for guess in guesses]
            logits = self.reader.read(path[-1]) if path else self.reader.catch_up()
            q = self.reader.distribution(logits, path)
            token = int(q.argmax()) if self._sampler.greedy else self._sampler.draw(q, self._rng)
            guesses.append(Guess(token, q))
        return guesses


@dataclass(slots=True)
class Clocks:
    """Seconds of all rounds, three ways, from the start of a round until both lanes are done."""

    rounds: int = 0
    measured: float = 0.0
    """As they were run."""
    serial: float = 0.0
    """The passes of both lanes one after the other."""
    virtual: float = 0.0
    """The longer lane of every round: each model on a machine of its own."""

    def count(self, measured: float, target: float, draft: float) -> None:
        """Takes a round into account; `target` and `draft` are the seconds of their passes."""
        self.rounds += 1
        self.measured += measured
        self.serial += target + draft
        self.virtual += max(target, draft)

    def note(self, two: bool) -> Note:
        """The three numbers in words."""
        workers = "two workers" if two else "one worker"
        shared = ", timed while they shared the machine" if two else ""
        return Note(
            text=f"Three clocks for the {self.rounds} rounds: {self.measured:.2f} s as they were run, with {workers}; "
            f"{self.serial:.2f} s for all passes one after the other{shared}; {self.virtual:.2f} s on the virtual "
            "clock, which counts the longer lane of every round, as if each model had a machine of its own."
        )


@method(
    "pearl",
    title="PEARL",
    family="speculative",
    lossless=True,
    needs=Need.ROLLBACK,
    paper=Paper("PEARL: Parallel Speculative Decoding with Adaptive Draft Length", "Liu et al.", 2024, "2408.11850"),
    params=Params,
    idea="The small model writes the next block while the large one checks the last: neither waits for the other.",
    look_at="The timeline: where blocks hold, both lanes are full; where one fails, the draft's work is hatched.",
    shines=("math-change", "copy-list"),
    loses=("poem-sea",),
    pictures=(
        "token-stream",
        "timeline",
        "draft-tree",
        "overlap",
        "rejection-xray",
        "acceptance",
        "budget",
        "confidence",
    ),
)
def pearl(run: Run, params: Params) -> Iterator[Event]:
    sampler = run.sampler(params)
    with run.aside():
        draft = draft_for(run.model, params)
    gamma = params.gamma or balanced(run.cost_curve(), cost(run.cost_curve(draft), 1))
    two = params.workers == "two" or (params.workers == "auto" and another_pays(run, draft, gamma))
    yield Note(
        text=f"The guesses come from {draft.title}, {gamma} to a block. "
        + ("It works beside the model, in a thread of its own." if two else "One worker does both models' passes.")
    )
    payback = Payback(run.cost_curve()) if params.fallback else None
    writer, clocks = Writer(run, draft, sampler), Clocks()
    pending: list[Guess] = []
    mode = PRE
    with ThreadPoolExecutor(1, thread_name_prefix="pearl-draft") as worker:
        while not run.finished:
            pausing = payback is not None and not pending and payback.pausing()
            count = 0 if pausing else min(gamma, writer.reader.room() - len(pending))
            began, mark, cached = run.clock.seconds, len(run.ledger), run.state.length
            # Between the start of the draft and the end of both nothing is yielded, so nobody can leave in between.
            drafting = worker.submit(writer.extend, pending, count) if two else None
            logits = run.state.extend([run.root, *(guess.token for guess in pending)])
            guesses = drafting.result() if drafting else writer.extend(pending, count)
            clocks.count(run.clock.seconds - began, seconds(run.ledger[mark:]), seconds(writer.ledger))
            run.ledger += writer.ledger
            writer.ledger.clear()

            tree = as_chain(run.root, guesses, draft.title)
            verification = test(tree, logits, sampler, run)
            alive = len(verification.path) == len(logits)
            if len(tree) > 1:
                yield msgspec.structs.replace(tree.as_draft(run.position, run.model.token), template=mode)
                yield judgement(run, tree, verification, alive)
            if alive:
                verification.extra = NOTHING
            yield from commit_path(run, tree, logits, verification, "drafted")
            run.state.rollback(max(0, len(pending) - len(verification.path)))
            if payback and len(tree) > 1:
                # A second worker's drafting is taken to fit beside the target's pass, as it does when γ is balanced.
                drafting_seconds = 0.0 if two else cost(run.cost_curve(draft), 1) * (len(guesses) - len(pending))
                note = payback.count(max(1, len(pending)), len(verification.path) - alive, drafting_seconds)
                if note is not None:
                    yield note
            mode, pending = (POST, guesses[len(logits) :]) if alive else (PRE, [])
            assert run.finished or run.state.length == len(run.sequence) - 1 > cached
    if clocks.rounds:
        yield clocks.note(two)


def test(tree: TokenTree, logits: Tensor, sampler: Sampler, run: Run) -> Verification:
    """Tests the guesses at the places of which p is known: logits (places, vocabulary), the root's first.

    All accepted, one at every place: the path is as long as `logits`, and `extra` means nothing.
    """
    places = len(logits)
    tested = tree.trimmed(places)
    if len(tested) > places:  # `verify` asks for logits behind the last guess too; what they say is not used
        logits = torch.cat((logits, logits[-1:]))
    return verify(tested, logits, sampler, run.rng, run.prompt, run.output)


def as_chain(root: int, guesses: Sequence[Guess], source: str) -> TokenTree:
    """The guesses as a tree with one branch."""
    tree = TokenTree(root, "with replacement")
    for node, (token, q) in enumerate(guesses):
        tree.distributions[node] = q
        tree.add(node, token, source, float(q[token]))
    return tree


def judgement(run: Run, tree: TokenTree, verification: Verification, alive: bool) -> Verdict:
    """The event. What is pending is judged in a later round, unless there is none."""
    verdict = verification.as_event(tree, run.position, run.model.token)
    if not alive:
        return verdict
    output = list(run.output)
    over = False
    for node in verification.path:
        output.append(tree.tokens[node])
        over = over or run.ends(output) is not None
    nodes = verdict.nodes if over else verdict.nodes[: len(verification.path)]
    return msgspec.structs.replace(verdict, nodes=nodes, extra=None, extra_origin=None, residual=())


def seconds(ledger: Sequence[Event]) -> float:
    """Time that the passes took."""
    return sum(event.seconds for event in ledger if isinstance(event, Forward))


def balanced(target: Curve, draft_seconds: float) -> int:
    """The γ from 1 to 8 whose two lanes, γ passes of the draft and one of the target over γ tokens, differ least."""
    return min(range(1, LONGEST + 1), key=lambda gamma: abs(gamma * draft_seconds - cost(target, gamma)))


def another_pays(run: Run, draft: CausalModel, gamma: int) -> bool:
    """Whether a pass leaves as many cores unused as it uses, and a block takes long enough to wake a thread for it."""
    # On a GPU the passes of both threads share one queue. The number of torch threads is left as it is: a number that
    # is set in one thread is also what all threads begin with that come later.
    if run.model.device.type != "cpu" or 2 * torch.get_num_threads() > (os.cpu_count() or 1):
        return False
    return gamma * cost(run.cost_curve(draft), 1) >= WORTH_WAKING


def expected_speed_up(alpha: float, c: float, gamma: int) -> float:
    """Tokens per time of a target pass, which is plain decoding's time for one, if each guess is right with chance α.

    PRE yields 1 token; POST (1 - α^γ) / (1 - α); a share α / (1 - α^γ + α) of the rounds is POST, since PRE turns into
    POST with chance α and POST ends with chance 1 - α^γ. A round takes max(γ, c) passes of the draft, c = t_target /
    t_draft.
    """
    post = alpha / (1 - alpha**gamma + alpha)
    tokens = (1 - post) + post * expected_tokens(alpha, gamma - 1)
    return tokens * c / max(gamma, c)
