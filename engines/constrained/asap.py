"""ASAp: draws texts of a language one after another, and comes nearer to the model's own law with every one.

"Grammar-Aligned Decoding", Park et al., arXiv 2405.21047; as an option its exact successor CARS, "Constrained Adaptive
Rejection Sampling", arXiv 2510.01902.

A mask asks only whether a text can still become valid, not how probable the model finds that. The target is the model
given that its text is valid, Q(w) = P(w) / P(L) for w in L, and its weight for token x after u is P(x | u) · c(u x): c,
the expected future validity, is the probability that the model, left alone, would finish validly. Nobody knows c; ASAp
holds a bound c~ ≥ c in a trie of all that it has drawn, 1 at first.

    1. u ← the empty text, at the root of the trie
    2. P(· | u) ← the model's distribution at the chosen temperature, A(u) ← its mass on what the constraint allows
    3. draw x from P(x | u) · c~(u x) over what is allowed, c~ = 1 where nothing was drawn yet; u ← u x
    4. repeat 2 and 3 until the end of the text or the token limit
    5. from the leaf back to the root: c~(u) ← A(u) - Σ P(x | u) · (1 - c~(u x)), over the children that were drawn
    6. repeat with the same trie; the last text is the run's output

Exact: the first text is plain masked sampling (GCD); every text is valid; c~ never rises, stays ≥ c, and at the root it
falls towards P(L). The law of the texts tends to Q, but not step by step nearer.

`gcd` never uses what the trie has learnt, so every text is masked sampling. `cars` draws at a place that it sees for
the first time from all of P, and gives up the text if the token is not allowed; everywhere else P · c~ adds up to
c~(u), so what is accepted has the law Q from the first text on.

Our choices: the trie keeps only drawn children and A(u) (the published code keeps a node for each allowed token), in
logarithms, for the values of long texts underflow. `bounded`, the default, gives a text without an end at the token
limit the value 0 and no output: the target is then Q among texts that fit, the only one that is reached for languages
without a longest text. `open` is the published reading: such a text is output, its value stays 1. A trie belongs to one
run; in the published baseline script one trie serves all runs by mistake, so that its GCD is not one.

Where a language is small, one pass over all its beginnings gives Q itself, to compare with; it is not used to draw.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from engines.events import Event, Growth, Note, Place, Placed, Score
from engines.grammars.constraint import DeadEnd
from engines.grammars.gate import Gate
from engines.method import Need, Paper, method
from engines.runner import Run
from engines.sampling import Constrainable, Constraining, GrammarText, apply_temperature, draw

NEVER = float("-inf")
KEPT = 256
"""Places of the latest text whose logits are kept, so that a text that begins alike needs no pass for them."""
DEEPEST_SHOWN = 64
"""Places of a text that `Growth` tells of; the trie itself holds them all."""
MOST_BEGINNINGS = 64
"""A language with at most so many beginnings is compared with Q."""

Variant = Literal["asap", "gcd", "cars"]
Length = Literal["bounded", "open"]


class Params(Constrainable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    samples: Annotated[
        int, Meta(ge=1, le=2000, description="Texts drawn one after another; those that come to nothing count too")
    ] = 20
    variant: Annotated[
        Variant,
        Meta(
            description="asap corrects the mask by what was drawn; gcd never does; cars gives up invalid texts, exactly"
        ),
    ] = "asap"
    constraint: Constraining = "regex"
    grammar: GrammarText = "0{5}|1[01]{4}"
    temperature: Annotated[
        float, Meta(ge=0.05, le=5, description="The model's own distribution, which all is measured by, is this one")
    ] = 1.0
    length_semantics: Annotated[
        Length, Meta(description="A text without an end at the token limit: bounded drops it, open lets it pass")
    ] = "bounded"


@dataclass(slots=True, eq=False)
class Node:
    """A place of the trie. `log_value` is log c~, `allowed` A(u), None until a text has come by."""

    id: int
    parent: Node | None
    token: int
    log_p: float
    log_value: float = 0.0
    allowed: float | None = None
    legal: int = 0
    """Tokens that may follow and have a probability."""
    children: dict[int, Node] = field(default_factory=dict)
    visits: int = 0
    state: str = "open"

    @property
    def value(self) -> float:
        return math.exp(self.log_value)

    def back_up(self) -> None:
        """c~(u) from the children: what was never drawn counts whole, everything else by its own c~."""
        assert self.allowed is not None
        drawn = self.children.values()
        # With every token drawn the difference is 0, of which rounding would leave a trace.
        rest = 0.0 if len(drawn) >= self.legal else math.fsum([self.allowed, *(-math.exp(x.log_p) for x in drawn)])
        terms = [child.log_p + child.log_value for child in drawn]
        if rest > 0:
            terms.append(math.log(rest))
        self.log_value = min(self.log_value, log_sum(terms))


class Trie:
    """All that was drawn in one run."""

    def __init__(self) -> None:
        self.root = Node(0, None, -1, 0.0)
        self.size = 1

    def child(self, parent: Node, token: int, log_p: float) -> Node:
        """The place one token further, made when it is new."""
        if token not in parent.children:
            parent.children[token] = Node(self.size, parent, token, log_p)
            self.size += 1
        return parent.children[token]

    @staticmethod
    def back_up(path: Sequence[Node]) -> None:
        """Recomputes c~ along a path, from its leaf to the root."""
        for node in reversed(path):
            node.visits += 1
            if node.allowed is not None:
                node.back_up()


def log_sum(terms: Sequence[float]) -> float:
    """log Σ exp."""
    top = max(terms, default=NEVER)
    return top if top == NEVER else top + math.log(math.fsum(math.exp(term - top) for term in terms))


class Reader:
    """The model's logits after any continuation of the run's text, with one cache.

    A text that begins like the latest one goes on from its cache and, for `KEPT` places, from its logits.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._sequence, self._state = run, run.sequence, run.state
        # Where a cache cannot take back what several passes read, each text goes on from a copy.
        self._first = run.state.fork(1) if getattr(run.model, "rereads", False) else None
        self._text: list[int] = []
        self._kept: dict[int, Tensor] = {}

    def knows(self, text: Sequence[int]) -> bool:
        """Whether `logits` needs no pass."""
        return len(text) in self._kept and self._shared(text) == len(text)

    def logits(self, text: Sequence[int]) -> Tensor:
        """Logits (vocabulary,) for the token after `text`."""
        if self.knows(text):
            return self._kept[len(text)]
        whole, shared = [*self._sequence, *text], self._shared(text)
        cached = min(self._state.length, len(self._sequence) + shared, len(whole) - 1)
        if cached < self._state.length:
            if self._first is None:
                self._state.rollback(self._state.length - cached)
            else:
                self._state = self._first.fork(1)
        logits = self._state.extend(whole[self._state.length :], last=True)[-1]
        self._text = list(text)
        self._kept = {depth: kept for depth, kept in self._kept.items() if depth <= shared}
        if len(text) < KEPT:
            self._kept[len(text)] = logits
        return logits

    def _shared(self, text: Sequence[int]) -> int:
        pairs = enumerate(zip(self._text, text, strict=False))
        return next((place for place, (a, b) in pairs if a != b), min(len(self._text), len(text)))


@dataclass(slots=True)
class Text:
    """A text as it was drawn. `path` holds the root and a node for each token."""

    path: list[Node]
    placed: list[Placed] = field(default_factory=list)
    outcome: Literal["finished", "cut off", "refused", "dead end", "out of time"] = "out of time"

    @property
    def tokens(self) -> list[int]:
        return [placed.token.id for placed in self.placed]

    @property
    def log_probability(self) -> float:
        """log P(w) at the run's temperature."""
        return math.fsum(node.log_p for node in self.path[1:])


@dataclass(slots=True)
class Walk:
    """Draws texts with one trie."""

    run: Run
    params: Params
    gate: Gate | None
    trie: Trie = field(default_factory=Trie)

    def __post_init__(self) -> None:
        self.given = list(self.run.output)
        self.limit = self.run.remaining
        self.reader = Reader(self.run)

    reader: Reader = field(init=False)
    given: list[int] = field(init=False)
    limit: int = field(init=False)

    def allowed(self, text: Sequence[int], size: int) -> Tensor:
        """What may follow, bool (vocabulary,); nothing in a dead end."""
        if self.gate is None:
            return torch.ones(size, dtype=torch.bool)
        try:
            return self.gate.allowed([*self.given, *text])
        except DeadEnd:
            return torch.zeros(size, dtype=torch.bool)

    def log_p(self, logits: Tensor) -> Tensor:
        """log P (vocabulary,), before any mask, in double precision."""
        return apply_temperature(logits.double(), self.params.temperature).log_softmax(-1)

    def draw(self) -> Generator[Event, None, Text]:
        """Steps 1 to 4, and the leaf's own value."""
        node, text = self.trie.root, Text([self.trie.root])
        while len(text.placed) < self.limit:
            logits = self.reader.logits(text.tokens)
            yield from self.run.settle()
            log_p = self.log_p(logits)
            legal = self.allowed(text.tokens, len(log_p)).to(log_p.device)
            new = node.allowed is None
            if new:
                node.allowed = min(1.0, float(log_p.where(legal, NEVER).exp().sum()))
                node.legal = int((legal & (log_p > NEVER)).sum())
            weights = log_p if new and self.params.variant == "cars" else log_p.where(legal, NEVER)
            if self.params.variant != "gcd":
                for child in node.children.values():
                    weights[child.token] = child.log_p + child.log_value
            if weights.max() == NEVER:
                text.outcome = node.state = "dead end"
                return text
            weights = (weights - weights.max()).exp()
            token = int(draw(weights, self.run.rng))
            if not legal[token]:
                text.outcome = "refused"
                return text
            share = float(weights[token] / weights.sum())
            text.placed.append(self.run.placed(token, logits=logits, final=share))
            node = self.trie.child(node, token, float(log_p[token]))
            text.path.append(node)
            end = self.run.ends([*self.given, *text.tokens])
            if end in ("end of text", "stop string"):
                text.outcome = node.state = "finished"
                return text
            if self.run.out_of_time:
                return text
        text.outcome = node.state = "cut off"
        if self.params.length_semantics == "bounded":
            node.log_value = NEVER
        return text

    def takes(self, text: Text) -> bool:
        """Whether a text is output."""
        return text.outcome == "finished" or (
            text.outcome == "cut off" and self.params.length_semantics == "open" and bool(text.placed)
        )


@dataclass(slots=True)
class Beginning:
    """A legal beginning of a small language: what leads there, and log P of each token that may follow."""

    parent: int
    token: int
    depth: int
    legal: list[int]
    log_p: dict[int, float] = field(default_factory=dict)


class Referee:
    """A language small enough to know the law of its texts. Texts are named by beginning and last token."""

    def __init__(self, beginnings: list[Beginning], ends: frozenset[int], length: Length) -> None:
        self.beginnings, self._ends, self._length = beginnings, ends, length
        law = self._law({index: here.log_p for index, here in enumerate(beginnings)})
        self.valid = math.exp(log_sum(list(law.values())))
        """P(L)."""
        self.target = normalised(law)
        """Q."""

    @classmethod
    def of(cls, walk: Walk) -> Referee | None:
        """The beginnings of the language and the model's probabilities along them, by one pass over their tree; None
        when there are too many, or when the model cannot read a tree."""
        run = walk.run
        if walk.gate is None or run.stop or Need.TREE_ATTENTION not in run.model.has:
            return None
        found = [Beginning(-1, run.root, 0, [])]
        texts: list[list[int]] = [[]]
        for index, here in enumerate(found):
            here.legal = walk.allowed(texts[index], run.model.vocabulary_size).nonzero().flatten().tolist()
            if here.depth + 1 < walk.limit:
                further = [token for token in here.legal if token not in run.model.eos_ids]
                if len(found) + len(further) > MOST_BEGINNINGS:
                    return None
                found += [Beginning(index, token, here.depth + 1, []) for token in further]
                texts += [[*texts[index], token] for token in further]
        pending = run.sequence[run.state.length :]
        chain = [*range(-1, len(pending) - 2)]
        root = len(pending) - 1
        logits = run.state.extend(
            [*pending[:-1], *(here.token for here in found)],
            [*chain, root - 1, *(root + here.parent for here in found[1:])],
        )[root:]
        run.state.keep([])
        for here, row in zip(found, logits, strict=True):
            log_p = walk.log_p(row)
            here.log_p = {token: float(log_p[token]) for token in here.legal}
        return cls(found, run.model.eos_ids, walk.params.length_semantics)

    def _law(self, step: dict[int, dict[int, float]]) -> dict[tuple[int, int], float]:
        """log-weights of texts from log-weights of the tokens at every beginning."""
        reached, law = {0: 0.0}, {}
        index_of = {(here.parent, here.token): index for index, here in enumerate(self.beginnings) if index}
        for index, here in enumerate(self.beginnings):
            for token in here.legal:
                weight = reached[index] + step[index][token]
                if (index, token) in index_of:
                    reached[index_of[index, token]] = weight
                elif token in self._ends or self._length == "open":
                    law[index, token] = weight
        return law

    def distance(self, trie: Trie, variant: Variant) -> float:
        """Total variation between the law of the next output and Q."""
        nodes: list[Node | None] = []
        steps: dict[int, dict[int, float]] = {}
        for index, here in enumerate(self.beginnings):
            parent = nodes[here.parent] if index else None
            node = trie.root if not index else parent.children.get(here.token) if parent else None
            nodes.append(node)
            step = dict(here.log_p)
            if node and variant != "gcd":
                step |= {token: step[token] + child.log_value for token, child in node.children.items()}
            # What CARS refuses at a new place is not shared out among the rest.
            whole = variant == "cars" and (node is None or node.allowed is None)
            total = 0.0 if whole else log_sum(list(step.values()))
            steps[index] = {token: weight - total if weight > NEVER else NEVER for token, weight in step.items()}
        found = normalised(self._law(steps))
        return 0.5 * math.fsum(abs(found[text] - share) for text, share in self.target.items())


def normalised(law: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Probabilities from log-weights; all 0 when there are none."""
    total = log_sum(list(law.values()))
    return {text: math.exp(weight - total) if total > NEVER else 0.0 for text, weight in law.items()}


@method(
    "asap",
    title="ASAp",
    family="constrained",
    paper=Paper("Grammar-Aligned Decoding", "Park et al.", 2024, "2405.21047"),
    params=Params,
    needs=Need.LOGITS | Need.ROLLBACK,
    idea="A mask prefers beginnings that look valid now and have little valid future. Draw many texts, learn from each "
    "how much future a beginning has, and come nearer to the model's own law; the last text is the output.",
    look_at="The trie: nodes lose value after each text, and the two bars of a branch part.",
    shines=("number",),
    pictures=("trie", "convergence", "distortion", "mask", "token-stream", "budget"),
)
def asap(run: Run, params: Params) -> Iterator[Event]:
    loud = run.sampler(params).gate
    walk = Walk(run, params, loud and loud.twin())
    trie = walk.trie
    referee = Referee.of(walk)
    if referee:
        yield Note(
            text=f"This language has {len(referee.target):,} texts that fit, cut into tokens in every possible way. "
            "One pass read all their beginnings, so that each step can be compared with the exact law."
        )
    distances = [referee.distance(trie, params.variant)] if referee else []
    output: tuple[Text, Score] | None = None
    drawn: list[Text] = []
    for sample in range(params.samples):
        text = yield from walk.draw()
        drawn.append(text)
        if text.outcome == "out of time":
            break
        trie.back_up(text.path)
        yield Growth(
            tree="trie",
            sample=sample,
            places=tuple(_place(run, node) for node in text.path[: DEEPEST_SHOWN + 1]),
            size=trie.size,
        )
        parts = {"log-probability": text.log_probability, "output": float(walk.takes(text))}
        if referee:
            distances.append(referee.distance(trie, params.variant))
            parts |= {"distance before": distances[-2], "distance after": distances[-1], "P(L)": referee.valid}
        score = Score(
            name="root value c~",
            value=trie.root.value,
            parts=parts,
            sequence=sample,
            text=_spelled(run, text),
        )
        yield score
        if walk.takes(text):
            output = text, score
        if run.out_of_time:
            break
    yield from _remarks(walk, drawn, referee, distances)
    if output:
        yield msgspec.structs.replace(output[1], chosen=True)
    yield from _commit(walk, loud, output[0] if output else drawn[-1])


def _place(run: Run, node: Node) -> Place:
    root = node.parent is None
    return Place(
        id=node.id,
        parent=node.parent.id if node.parent else -1,
        token=None if root else run.model.token(node.token),
        p=None if root else math.exp(node.log_p),
        value=node.value,
        visits=node.visits,
        state=node.state,
    )


def _spelled(run: Run, text: Text) -> str:
    return run.model.decode([token for token in text.tokens if token not in run.model.eos_ids])


def _remarks(walk: Walk, drawn: list[Text], referee: Referee | None, distances: list[float]) -> Iterator[Event]:
    """What a learner should take from the run."""
    root, whole = walk.trie.root.value, [text for text in drawn if text.outcome != "out of time"]
    texts = f"{len(whole):,} {'text' if len(whole) == 1 else 'texts'}"
    if whole:
        exact = f" Exactly it is {referee.valid:.3g}." if referee else ""
        yield Note(
            text=f"After {texts}, the model's own probability of a valid text, P(L), is at most {root:.3g}: the value "
            f"of the root, which only falls.{exact}"
        )
    if len(distances) > 1:
        first, last, worst = distances[0], distances[-1], max(distances)
        detour = f" On the way it was {worst:.3f} away: this is no straight road." if worst > first + 0.01 else ""
        yield Note(
            text=f"The law of the first text was {first:.3f} away from the model's own among valid texts (total "
            f"variation, 0 to 1); a text drawn now would be {last:.3f} away.{detour}"
        )
    if lost := sum(not walk.takes(text) for text in whole):
        why = {
            "cut off": "had no end at the token limit",
            "refused": "met a token that is not allowed",
            "dead end": "had nothing left that could follow",
        }
        counts = {name: sum(not walk.takes(text) and text.outcome == name for text in whole) for name in why}
        reasons = ", ".join(f"{count:,} {why[name]}" for name, count in counts.items() if count)
        yield Note(text=f"{lost:,} of {texts} came to nothing: {reasons}. The trie has learnt from them.")
    if not any(walk.takes(text) for text in drawn):
        yield Note(
            text="No text came to a valid end, so the beginning of the last one is shown. Allow more tokens, more "
            "samples or more time."
        )


def _commit(walk: Walk, loud: Gate | None, text: Text) -> Iterator[Event]:
    """The output, with what the mask did at each of its places."""
    run, tokens = walk.run, text.tokens
    for depth, placed in enumerate(text.placed):
        if walk.reader.knows(tokens[:depth]) or not run.out_of_time:
            logits = walk.reader.logits(tokens[:depth])
            if loud:
                loud.allowed(run.output)
            yield from run.shown(logits, run.position)
        yield from run.commit(placed)
