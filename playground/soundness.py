"""Whether events from elsewhere can be a run: what every stream of our own keeps to, and a stranger's may not.

The event decoder checks types. Here is what types cannot say and everything that reads a run relies on: what comes
first and last, that places and times move forward, that a guess hangs on an earlier guess and a verdict is about a
draft, and that no number is so large that a picture would try to draw as many things.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from engines.events import (
    Attribution,
    Beams,
    Candidates,
    Choice,
    Circuit,
    Commit,
    Compiled,
    Contrast,
    Curve,
    Draft,
    Event,
    Finished,
    Forward,
    Growth,
    Lens,
    Mask,
    Match,
    Matrix,
    Particles,
    Patch,
    Score,
    Started,
    Store,
    Suggestions,
    Trials,
    Verdict,
)
from engines.tally import Tally

FARTHEST = 100_000
"""Positions, lengths and ids are below this; the longest run of ours has some thousand tokens."""
MOST_NODES = 4096
MOST_ROWS = 100
MOST_CONTEXT = 256
"""Tokens of a prompt that attribution looks into; also heads of a layer."""
MOST_LAYERS = 1000
MOST_COMPONENTS, MOST_WAYS = 2000, 5000
"""Nodes and edges of a circuit."""
LONGEST = 1e8
"""Seconds."""


class Unsound(ValueError):
    """The events cannot be a run; the message ends the sentence "This event …"."""


class Soundness:
    """Takes the events of one run in order. `take` raises `Unsound`."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.finished: Finished | None = None
        self._seq, self._time, self._position, self._step = -1, 0.0, 0, -1
        self._whole = True
        self._ids: list[int] = []
        self._nodes: set[int] = set()
        self._beams: set[int] = set()
        self._tally = Tally()

    def take(self, event: Event) -> None:
        """Checks one more event."""
        if (self.started is None) != isinstance(event, Started):
            raise Unsound("stands before the start of a run")
        _must(self.finished is None, "comes after the end of its run")
        _must(self._seq < event.seq < 2**31, "is out of order")
        _must(self._time <= event.time < LONGEST, "goes back in time")
        self._whole = self._whole and event.seq == self._seq + 1
        self._seq, self._time = event.seq, event.time
        self._tally.count([event])
        match event:
            case Started():
                self._start(event)
            case Commit():
                self._commit(event)
            case Draft():
                self._draft(event)
            case Verdict():
                self._verdict(event)
            case Beams(beams=beams):
                _must(len(beams) <= MOST_NODES, "holds too many hypotheses")
                for beam in beams:
                    _must(0 <= beam.id < FARTHEST and -1 <= beam.group < FARTHEST, "has a number that cannot be")
                    _must(beam.parent == -1 or beam.parent in self._beams, "continues a hypothesis that is not there")
                self._beams |= {beam.id for beam in beams}
            case Candidates(raw=raw, stages=stages, entropy=entropy, sequence=sequence):
                _rates(raw)
                _must(0 <= entropy < FARTHEST and 0 <= sequence < FARTHEST, "has a number that cannot be")
                for stage in stages:
                    _rates((*stage.removed, *stage.top))
                    _must(0 <= stage.kept < 2**31 and -0.01 <= stage.removed_mass <= 1.01, "has a share that cannot be")
            case Match(source=source, target=target, copied=copied):
                for first, last in (source, target, copied):
                    _must(-FARTHEST < first <= last < FARTHEST, "has a span that cannot be")
            case Store(rows=rows, changed=changed, size=size):
                _must(len(rows) <= MOST_ROWS, "holds too many rows")
                _must(0 <= changed < 2**31 and 0 <= size < 2**31, "has a number that cannot be")
                for row in rows:
                    _must(1 <= len(row.key) <= 16, "has a key that cannot be")
                    _must(max(len(row.before), len(row.after)) <= MOST_ROWS, "has a row that is too long")
                    _must(
                        all(0 <= one.p < FARTHEST for one in (*row.before, *row.after)), "has a weight that cannot be"
                    )
            case Mask(wanted=wanted, permitted=permitted, blocked_mass=blocked, cells=cells, state=state):
                _rates((*wanted, *permitted))
                _must(-0.001 <= blocked <= 1.001, "has a share that cannot be")
                _must(0 <= event.allowed <= event.vocabulary < 2**31, "allows more tokens than there are")
                _must(len(cells) <= MOST_NODES and cells.isdecimal() == bool(cells), "has a map that cannot be")
                _must(len(state) <= MOST_ROWS and all(len(text) < FARTHEST for text in state.values()), "says too much")
            case Compiled(seconds=seconds, sizes=sizes):
                _must(0 <= seconds < LONGEST and len(sizes) <= MOST_ROWS, "has a number that cannot be")
            case Trials(tried=tried, tests=tests, weight=weight, refused_mass=refused):
                _must(len(tried) <= MOST_ROWS and 0 <= tests < 2**31, "tests too much")
                _must(all(0 <= one.p <= 1.001 for one in tried), "has a share that cannot be")
                _must(0 <= weight < FARTHEST and -0.001 <= refused <= 1.001, "has a weight that cannot be")
            case Particles(particles=particles, effective=effective):
                _must(len(particles) <= MOST_NODES and 0 <= effective < FARTHEST, "holds too many texts")
                _must(all(0 <= one.parent < FARTHEST for one in particles), "continues a text that is not there")
            case Growth(places=places, size=size):
                _must(len(places) <= MOST_NODES and 0 <= size < 2**31, "holds too many places")
                _must(all(-1 <= one.parent < one.id < 2**31 for one in places), "has a place that hangs on nothing")
                _must(all(one.p is None or 0 <= one.p <= 1.001 for one in places), "has a share that cannot be")
            case Suggestions(suggestions=suggestions, count=count):
                _must(len(suggestions) <= MOST_ROWS and 0 <= count < 2**31, "suggests too much")
            case Matrix(rows=rows, columns=columns, values=values, marks=marks):
                _must(len(rows) * len(columns) <= FARTHEST, "is too large a table")
                _must(len(values) == len(rows) and {len(row) for row in values} <= {len(columns)}, "has unequal rows")
                _must(
                    all(0 <= one.row < len(rows) and 0 <= one.column < len(columns) for one in marks),
                    "marks a cell that is not there",
                )
            case Contrast():
                _contrast(event)
            case Patch(layer=layer, effects=effects, how=how):
                _must(0 <= layer < MOST_LAYERS and len(effects) <= MOST_CONTEXT, "patches a place that is not there")
                _must(len(how) <= MOST_ROWS, "has a name that is too long")
                _numbers(effects)
            case Circuit():
                _circuit(event)
            case Attribution():
                _attribution(event)
            case Lens(layer=layer, tokens=choices, differences=differences):
                _must(0 <= layer < MOST_LAYERS and 0 < len(choices) <= MOST_CONTEXT, "reads a layer that is not there")
                _must(len(differences) in (0, len(choices)), "has unequal rows")
                _rates(choices)
                _numbers(differences)
            case Forward(batch=batch, query=query, cached=cached, seconds=seconds, began=began):
                _must(0 <= began < LONGEST, "has a time that cannot be")
                _must(0 < batch < FARTHEST and 0 < query < FARTHEST, "has a number that cannot be")
                _must(0 <= cached < 2**31 and 0 <= seconds < LONGEST, "has a number that cannot be")
            case Score(sequence=sequence):
                _must(sequence is None or 0 <= sequence < FARTHEST, "has a number that cannot be")
            case Curve(x=x, y=y):
                _must(len(x) == len(y) <= FARTHEST, "is a curve of unequal sides")
            case Finished():
                self._finish(event)
        position = getattr(event, "position", None)
        _must(position is None or abs(position) < FARTHEST, "has a position that cannot be")

    def _start(self, event: Started) -> None:
        self.started = event
        _must(event.seq == 0, "is a start in the middle")
        _must(0 <= event.seed < 2**63, "has a seed that cannot be")
        _must(0 < event.max_new_tokens < FARTHEST and 0 < event.prompt_length < 2**31, "has a length that cannot be")
        _must(len(event.prompt_tokens) <= event.prompt_length, "has a longer prompt than it says")
        named = (event.model, event.weights, event.precision, event.method, event.family, event.machine, event.code)
        _must(all(len(name) < 500 for name in named), "has a name that is too long")
        _must(len(event.params) <= 100 and len(event.versions) <= 100, "has too many settings")

    def _commit(self, event: Commit) -> None:
        _must(len(event.tokens) > 0 and event.step > self._step, "is out of order")
        _must(event.position == self._position or (not self._whole and event.position > self._position), "leaves a gap")
        for placed in event.tokens:
            _must(all(p is None or 0 <= p <= 1.001 for p in (placed.raw, placed.final)), "has a share that cannot be")
            _must(placed.rank is None or 0 <= placed.rank < 2**31, "has a number that cannot be")
        self._ids += [placed.token.id for placed in event.tokens]
        self._position, self._step = event.position + len(event.tokens), event.step

    def _draft(self, event: Draft) -> None:
        self._nodes = set()
        _must(0 < len(event.nodes) <= MOST_NODES, "holds no guess, or too many")
        for node in event.nodes:
            _must(0 <= node.id < FARTHEST and node.id not in self._nodes, "has a guess twice")
            _must(not self._nodes or node.parent in self._nodes, "has a guess that hangs on nothing")
            _must(node.q is None or 0 <= node.q <= 1.001, "has a share that cannot be")
            self._nodes.add(node.id)
        _must(event.nodes[0].parent < 0, "has a root that hangs on something")

    def _verdict(self, event: Verdict) -> None:
        _must(self._nodes.issuperset(event.path), "accepts guesses that nobody made")
        _must(len(set(event.path)) == len(event.path), "accepts a guess twice")
        _must(self._nodes.issuperset(judged.id for judged in event.nodes), "judges guesses that nobody made")
        _must(len({judged.id for judged in event.nodes}) == len(event.nodes), "judges a guess twice")
        for judged in event.nodes:
            weighed = [p for one in judged.weighed for p in (one.p, one.q)]
            shares = (judged.p, judged.accept_probability, judged.u, judged.q, judged.overlap, *weighed)
            _must(len(weighed) <= 2 * MOST_ROWS, "weighs too many tokens")
            _must(all(p is None or 0 <= p <= 1.001 for p in shares), "has a share that cannot be")
            _rates((*judged.residual, *([judged.best] if judged.best else [])))
        _rates(event.residual)

    def _finish(self, event: Finished) -> None:
        self.finished = event
        if not self._whole:  # a run of which events were lost ends as it did, and its sums are more than its events'
            return
        _must(list(event.token_ids) == self._ids, "ends with other tokens than its run")
        sums, said = self._tally.totals, event.totals
        for name in ("tokens", "accepted", "rejected", "untested"):
            _must(getattr(sums, name) == getattr(said, name), f"counts other {name} than its run has")


def _contrast(event: Contrast) -> None:
    _must(0 < len(event.pairs) <= MOST_ROWS, "asks nothing, or too much")
    length = len(event.pairs[0].clean)
    _must(0 < length <= MOST_CONTEXT and 0 <= event.first <= length, "has a prompt that cannot be")
    _must(max(len(event.task), len(event.metric)) <= MOST_ROWS, "has a name that is too long")
    _numbers((event.clean, event.corrupted))
    for pair in event.pairs:
        _must(len(pair.clean) == length and len(pair.corrupted) in (0, length), "has prompts of unequal length")
        _numbers((pair.clean_difference, pair.corrupted_difference))


def _circuit(event: Circuit) -> None:
    _must(0 < len(event.nodes) <= MOST_COMPONENTS and len(event.edges) <= MOST_WAYS, "is too large a circuit")
    _must(len(event.edges) <= event.edge_count < 2**31, "counts fewer edges than it has")
    _must(max(len(event.how), *(len(node.id) for node in event.nodes)) <= MOST_ROWS, "has a name that is too long")
    ids = {node.id for node in event.nodes}
    _must(len(ids) == len(event.nodes), "has a component twice")
    for node in event.nodes:
        _must(-1 <= node.layer <= MOST_LAYERS, "has a layer that cannot be")
        _must(node.unit is None or 0 <= node.unit < MOST_CONTEXT, "has a head that cannot be")
        _must(len(node.by_position) <= MOST_CONTEXT, "has more positions than there can be")
        _numbers((node.score, node.exact, *node.by_position))
    for edge in event.edges:
        _must(edge.source in ids and edge.target in ids, "joins a component that is not there")
        _must(edge.source != edge.target, "joins a component to itself")
    _numbers(edge.score for edge in event.edges)


def _attribution(event: Attribution) -> None:
    length = len(event.context)
    _must(0 < length <= MOST_CONTEXT and len(event.scores) == length, "scores other tokens than it has")
    _must(
        len(event.swaps) <= length and all(0 <= swap.index < length for swap in event.swaps), "swaps what is not there"
    )
    _must(all(p is None or 0 <= p <= 1.001 for p in (event.before, event.after)), "has a share that cannot be")
    _must(0 <= event.settled <= event.probes < FARTHEST and 0 <= event.step < 2**31, "has a number that cannot be")
    _must(len(event.how) <= MOST_ROWS, "has a name that is too long")
    _numbers(event.scores)


def _numbers(values: Iterable[float | None]) -> None:
    """Effects and differences may be of either sign, but are of a size that can be drawn."""
    _must(all(value is None or -FARTHEST < value < FARTHEST for value in values), "has a number that cannot be")


def _rates(choices: Iterable[Choice]) -> None:
    _must(all(0 <= choice.p <= 1.001 and math.isfinite(choice.p) for choice in choices), "has a share that cannot be")


def _must(sound: bool, otherwise: str) -> None:
    if not sound:
        raise Unsound(otherwise)
