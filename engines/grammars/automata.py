"""Automata over bytes: regular expressions without backtracking, and walks over all tokens of a vocabulary at once.

    1. parse the expression (the parser of Python's own `re`, so that it means what Lark means by it)
    2. build a nondeterministic automaton over bytes: each class of characters becomes the byte ranges of its UTF-8
    3. make it deterministic by the subset construction, within limits on states and time
    4. keep only live states, from which a match can be reached, and merge equal ones

Counters in counters are one counter where they leave no gap, `(a{1,9}){1,9}` is `a{1,81}`; and one that ends beyond
`LONGEST_TEXT` does not end, for no run gets there. So `((a{1,100}){1,100}){1,100}` has two states, not a million.

A match is found in time proportional to the text whatever the expression, `(a+)+b` included. `\\w`, `\\d` and `\\s`
mean ASCII; look-around, anchors and back-references describe no automaton and are refused.

(interegular, which also turns expressions into automata, spells out every character of a class and has no limits:
a minute for `(a|b)*a(a|b){14}`, two for a class of all characters beyond ASCII. So it is not used.)

`Trie` arranges the tokens of a vocabulary as a tree of bytes, level by level, so that an automaton can be run over
all of them with a few array operations per level.
"""

from __future__ import annotations

import itertools
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from re import _parser
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.grammars.constraint import BadGrammar
from engines.grammars.vocabulary import Bits, Vocabulary

MOST_STATES = 2_000
"""Of one terminal's automaton."""
MOST_PARTS = 60_000
"""States of the nondeterministic automaton."""
SECONDS = 2.0
"""Of computing, so that a busy machine refuses nothing that a quiet one takes."""
LONGEST_TEXT = 1_000_000
"""Characters; more than any run writes."""
LAST_CHARACTER = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)
CATEGORIES = {
    "DIGIT": ("09",),
    "SPACE": ("\t\r", "  "),
    "WORD": ("09", "AZ", "__", "az"),
}
REFUSED = {
    "ASSERT": "look-ahead or look-behind, which no automaton over bytes can do",
    "ASSERT_NOT": "look-ahead or look-behind, which no automaton over bytes can do",
    "FAILURE": "look-ahead or look-behind, which no automaton over bytes can do",
    "GROUPREF": "a back-reference, which no automaton can do",
    "GROUPREF_EXISTS": "a conditional group, which no automaton can do",
    "AT": "an anchor such as ^, $ or \\b; a terminal always matches as a whole, so leave it out",
    "ATOMIC_GROUP": "an atomic group, which no automaton can do",
    "POSSESSIVE_REPEAT": "a possessive repetition, which no automaton can do",
}

States = NDArray[np.int16]
Nodes = NDArray[np.int64]
Ranges = list[tuple[int, int]]


class ByteDFA:
    """A deterministic automaton over bytes. State 0 is the start; every state but the dead one is live.

    `delta` (states + 1, 256) is the transition table; its last row is the dead state, `final` (states + 1,) says where
    a match may end.
    """

    def __init__(self, delta: States, final: NDArray[np.bool_]) -> None:
        self.delta, self.final = delta, final
        self.dead = len(delta) - 1
        # Scalars are read ten times faster from here than from the array.
        self.table: memoryview = memoryview(np.ascontiguousarray(delta).reshape(-1).data)
        self.ends: list[bool] = final.tolist()

    def __len__(self) -> int:
        return self.dead

    @property
    def empty(self) -> bool:
        """Whether nothing at all matches."""
        return self.dead == 0

    @property
    def zero_width(self) -> bool:
        """Whether the empty text matches."""
        return bool(self.final[0])

    def run(self, text: bytes, state: int = 0) -> int:
        """The state after `text`."""
        table = self.table
        for byte in text:
            state = table[state << 8 | byte]
        return state

    def matches(self, text: bytes) -> bool:
        """Whether the whole text matches."""
        return self.ends[self.run(text)]

    @cached_property
    def shortest(self) -> bytes | None:
        """A shortest match; None when there is none."""
        paths = {0: b""}
        queue = [0] if len(self) else []
        for state in queue:
            if self.ends[state]:
                return paths[state]
            targets, firsts = np.unique(self.delta[state], return_index=True)
            for target, byte in zip(targets.tolist(), firsts.tolist(), strict=True):
                if target != self.dead and target not in paths:
                    paths[target] = paths[state] + bytes([byte])
                    queue.append(target)
        return None

    def without(self, bytes_: NDArray[np.bool_]) -> ByteDFA:
        """The automaton when some bytes, bool (256,), can never be written."""
        delta = self.delta.copy()
        delta[:, bytes_] = self.dead
        return _live(delta, self.final)


def from_text(text: str) -> ByteDFA:
    """The automaton of one text."""
    piece = text.encode("utf-8")
    if len(piece) >= MOST_STATES:
        raise BadGrammar(_too_large(text))
    delta = np.full((len(piece) + 2, 256), len(piece) + 1, dtype=np.int16)
    delta[np.arange(len(piece)), np.frombuffer(piece, dtype=np.uint8)] = np.arange(1, len(piece) + 1)
    final = np.zeros(len(piece) + 2, dtype=np.bool_)
    final[len(piece)] = True
    return ByteDFA(delta, final)


def from_regex(expression: str, *, most_states: int = MOST_STATES, seconds: float = SECONDS) -> ByteDFA:
    """The automaton of a regular expression.

    Raises:
        BadGrammar: it is malformed, uses what no automaton can do, or is too large or too slow to build.
    """
    deadline = time.thread_time() + seconds
    parts = _Parts(expression, deadline)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree: Any = _parser.parse(expression)
        start = parts.new()
        end = parts.add_all(tree, start, tree.state.flags)
    except re.error as error:
        raise BadGrammar(f"/{_brief(expression)}/ is not a regular expression: {error.msg}.") from None
    except (RecursionError, OverflowError):
        raise BadGrammar(f"/{_brief(expression)}/ is nested too deeply, or repeated too often.") from None
    dfa = _minimal(*_deterministic(parts, start, end, 4 * most_states), deadline)
    if len(dfa) > most_states:
        raise BadGrammar(_too_large(expression))
    return dfa


def longest_match(dfas: Mapping[str, ByteDFA], text: bytes, start: int = 0) -> tuple[str, int] | None:
    """The terminal with the longest match at `start`, the first named of several, and where it ends. None if none.

    Matches of no bytes do not count.
    """
    live = {name: 0 for name, dfa in dfas.items() if not dfa.empty}
    best: tuple[str, int] | None = None
    for place in range(start, len(text)):
        live = {
            name: after
            for name, state in live.items()
            if (after := dfas[name].table[state << 8 | text[place]]) != dfas[name].dead
        }
        if not live:
            break
        if won := next((name for name, state in live.items() if dfas[name].ends[state]), None):
            best = won, place + 1
    return best


class Trie:
    """The tokens of a vocabulary that spell something, as a tree of bytes.

    Nodes are numbered level by level, node 0 is the root; the children of a node are neighbours. The tokens below a
    node are neighbours in `vocabulary.text_ids`, rows [`low`, `high`) of it; those that end at it are the rows up to
    `exact`. All arrays have one entry per node.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        pieces = [vocabulary.bytes_of[id] for id in vocabulary.text_ids.tolist()]
        lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
        spelled = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        at = np.zeros(len(pieces), dtype=np.int64)
        """The node that a row has come to."""
        parents, bytes_ = [np.array([-1])], [np.zeros(1, dtype=np.uint8)]
        low, high, exact = [np.zeros(1, int)], [np.array([len(pieces)])], [np.zeros(1, int)]
        size, depth = 1, 0
        while len(rows := np.flatnonzero(lengths > depth)):
            before, here = at[rows], spelled[offsets[rows] + depth]
            fresh = np.ones(len(rows), dtype=np.bool_)
            fresh[1:] = (before[1:] != before[:-1]) | (here[1:] != here[:-1])
            group = np.cumsum(fresh) - 1
            at[rows] = size + group
            first = rows[fresh]
            counts = np.bincount(group)
            parents.append(before[fresh])
            bytes_.append(here[fresh])
            low.append(first)
            high.append(first + counts)
            exact.append(first + np.bincount(group, weights=lengths[rows] == depth + 1).astype(np.int64))
            size, depth = size + len(first), depth + 1
        self.size, self.depth = size, depth
        self.bytes, self.low, self.high, self.exact = (np.concatenate(part) for part in (bytes_, low, high, exact))
        self.children = np.bincount(np.concatenate(parents)[1:], minlength=size)
        self.first = 1 + np.cumsum(self.children) - self.children

    def step(self, dfa: ByteDFA, nodes: Nodes, states: States) -> tuple[Nodes, States, NDArray[np.int64]]:
        """One level down from pairs of a node and a state: the live pairs, and which pair each comes from."""
        counts = self.children[nodes]
        origin = np.repeat(np.arange(len(nodes)), counts)
        below = self.first[nodes][origin] + np.arange(len(origin)) - (np.cumsum(counts) - counts)[origin]
        after = dfa.delta[states[origin], self.bytes[below]]
        kept = after != dfa.dead
        return below[kept], after[kept], origin[kept]

    def bits(self, spans: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Bits:
        """The tokens of rows [start, stop), several arrays of them."""
        size = len(self.vocabulary.text_ids)
        if not spans:
            return self.vocabulary.bits([])
        starts, stops = (np.concatenate(part) for part in zip(*spans, strict=True))
        depth = np.cumsum(np.bincount(starts, minlength=size + 1) - np.bincount(stops, minlength=size + 1))
        return self.vocabulary.bits(self.vocabulary.text_ids[depth[:-1] > 0])


@dataclass(frozen=True, slots=True)
class Walk:
    """What became of all tokens, run through an automaton from one state.

    `live`: the tokens after which it is still alive. `ended`: per level of the trie from the root on, the nodes at
    which it had a match. `cut`: the live tokens with a match before their end, and none there.
    """

    live: Bits
    ended: list[Nodes]
    cut: Bits


def trie_walk(trie: Trie, dfa: ByteDFA, state: int) -> Walk:
    """Runs every token of the trie through the automaton from `state`, level by level."""
    nodes, states = np.zeros(1, dtype=np.int64), np.array([state], dtype=np.int16)
    ended = [nodes[dfa.final[states]]]
    passed = np.zeros(1, dtype=np.bool_)
    live, cut = [], []
    while len(nodes):
        nodes, states, origin = trie.step(dfa, nodes, states)
        final = dfa.final[states]
        passed = passed[origin]
        live.append((trie.low[nodes], trie.exact[nodes]))
        split = nodes[passed & ~final]
        cut.append((trie.low[split], trie.exact[split]))
        ended.append(nodes[final])
        passed = passed | final
    return Walk(trie.bits(live), ended, trie.bits(cut))


class _Parts:
    """A nondeterministic automaton over bytes under construction."""

    def __init__(self, expression: str, deadline: float) -> None:
        self.expression, self.deadline = expression, deadline
        self.free: list[list[int]] = []
        """Where one gets from each part without reading."""
        self._work = 0
        self.arcs: list[list[tuple[int, int, int]]] = []
        """From each part: first byte, last byte, where to."""

    def new(self) -> int:
        if len(self.free) >= MOST_PARTS:
            raise BadGrammar(_too_large(self.expression))
        self.free.append([])
        self.arcs.append([])
        if len(self.free) % 256 == 0:
            self.check_time()
        return len(self.free) - 1

    def check_time(self) -> None:
        if time.thread_time() > self.deadline:
            raise BadGrammar(f"/{_brief(self.expression)}/ takes too long to turn into an automaton. Make it smaller.")

    def add_all(self, tree: Any, start: int, flags: int) -> int:
        """Reads a sequence from `start` on; returns where that ends."""
        for operation, argument in tree:
            start = self.add(str(operation), argument, start, flags)
        return start

    def add(self, operation: str, argument: Any, start: int, flags: int) -> int:
        """Reads one item of the parsed expression from `start` on; returns where that ends."""
        self._work += 1
        if self._work % 256 == 0:
            self.check_time()
        match operation:
            case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY":
                return self._characters(_ranges(operation, argument, flags), start)
            case "SUBPATTERN":
                _, added, removed, inner = argument
                return self.add_all(inner, start, (flags | added) & ~removed)
            case "BRANCH":
                end = self.new()
                for option in argument[1]:
                    self.free[self.add_all(option, start, flags)].append(end)
                return end
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = argument
                return self._repeated(int(least), int(most), inner, start, flags)
            case _:
                reason = REFUSED.get(operation, "something that is not supported")
                raise BadGrammar(f"/{_brief(self.expression)}/ uses {reason}.")

    def _repeated(self, least: int, most: int, inner: Any, start: int, flags: int) -> int:
        least, most, inner = collapsed(least, most, inner)
        for _ in range(least):
            start = self.add("SUBPATTERN", (None, 0, 0, inner), start, flags)
        # Ends of their own, so that what is added to a loop later cannot be reached from inside.
        end = self.new()
        if most == _parser.MAXREPEAT:
            loop = self.new()
            self.free[start].append(loop)
            self.free[self.add_all(inner, loop, flags)].append(loop)
            self.free[loop].append(end)
            return end
        self.free[start].append(end)
        for _ in range(most - least):
            start = self.add("SUBPATTERN", (None, 0, 0, inner), start, flags)
            self.free[start].append(end)
        return end

    def _characters(self, ranges: Ranges, start: int) -> int:
        # A part of its own: `start` may be entered again by a loop.
        begin, end = self.new(), self.new()
        self.free[start].append(begin)
        prefixes: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        for low, high in ranges:
            for sequence in utf8_ranges(low, high):
                here = begin
                for index, (first, last) in enumerate(sequence[:-1]):
                    key = (len(sequence), tuple(sequence[: index + 1]))
                    if key not in prefixes:
                        prefixes[key] = self.new()
                        self.arcs[here].append((first, last, prefixes[key]))
                    here = prefixes[key]
                self.arcs[here].append((*sequence[-1], end))
        return end

    def closure(self, parts: set[int]) -> frozenset[int]:
        todo = list(parts)
        while todo:
            for part in self.free[todo.pop()]:
                if part not in parts:
                    parts.add(part)
                    todo.append(part)
        return frozenset(parts)


def collapsed(least: int, most: int, inner: Any) -> tuple[int, int, Any]:
    """A counter of a counter as one counter, and no upper end where that lies beyond every text."""
    endless = int(_parser.MAXREPEAT)
    while len(inner) == 1:
        operation, argument = inner[0]
        if str(operation) == "SUBPATTERN" and not argument[1] and not argument[2]:
            inner = argument[3]
            continue
        if str(operation) not in ("MAX_REPEAT", "MIN_REPEAT"):
            break
        few, many, part = int(argument[0]), int(argument[1]), argument[2]
        # Each round adds few to many; the next must begin where this one ends, or before.
        if least * many < (least + 1) * few - 1 and most > least:
            break
        least, inner = least * few, part
        most = 0 if not most * many else endless if endless in (most, many) else most * many
    if most * max(1, inner.getwidth()[0]) >= LONGEST_TEXT and inner.getwidth()[0]:
        most = endless
    return least, most, inner


def utf8_ranges(low: int, high: int) -> Iterator[list[tuple[int, int]]]:
    """The UTF-8 of the characters from `low` to `high`, without surrogates: sequences of byte ranges."""
    if low > high:
        return
    if low <= SURROGATES[1] and high >= SURROGATES[0]:
        yield from utf8_ranges(low, SURROGATES[0] - 1)
        yield from utf8_ranges(SURROGATES[1] + 1, high)
        return
    for last in (0x7F, 0x7FF, 0xFFFF):
        if low <= last < high:
            yield from utf8_ranges(low, last)
            yield from utf8_ranges(last + 1, high)
            return
    first, final = chr(low).encode(), chr(high).encode()
    for place in range(1, len(first)):
        # All bytes from `place` on must run over their full range unless everything before them is the same.
        size = 1 << 6 * (len(first) - place)
        if low // size != high // size:
            if low % size:
                yield from utf8_ranges(low, low | (size - 1))
                yield from utf8_ranges((low | (size - 1)) + 1, high)
                return
            if high % size != size - 1:
                yield from utf8_ranges(low, high - high % size - 1)
                yield from utf8_ranges(high - high % size, high)
                return
    yield list(zip(first, final, strict=True))


def _ranges(operation: str, argument: Any, flags: int) -> Ranges:
    """The characters that one item of an expression stands for."""
    match operation:
        case "ANY":
            return [(0, LAST_CHARACTER)] if flags & re.DOTALL else _others([(10, 10)])
        case "IN":
            items = [(str(kind), value) for kind, value in argument]
        case _:
            items = [("LITERAL", argument)]
    found: Ranges = []
    for kind, value in items:
        match kind:
            case "LITERAL":
                found.append((value, value))
            case "RANGE":
                found.append(value)
            case "CATEGORY":
                name = str(value).removeprefix("CATEGORY_")
                plain = [(ord(pair[0]), ord(pair[1])) for pair in CATEGORIES[name.removeprefix("NOT_")]]
                found += _others(plain) if name.startswith("NOT_") else plain
    if flags & re.IGNORECASE:
        found += [
            (ord(other), ord(other))
            for low, high in found
            if high - low < 4096
            for one in map(chr, range(low, high + 1))
            for other in (one.lower(), one.upper())
            if len(other) == 1
        ]
    negated = operation == "NOT_LITERAL" or any(kind == "NEGATE" for kind, _ in items)
    return _others(found) if negated else _joined(found)


def _joined(ranges: Ranges) -> Ranges:
    joined: Ranges = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    return joined


def _others(ranges: Ranges) -> Ranges:
    edges = [-1, *(edge for pair in _joined(ranges) for edge in pair), LAST_CHARACTER + 1]
    return [(a + 1, b - 1) for a, b in zip(edges[::2], edges[1::2], strict=True) if a + 1 <= b - 1]


def _deterministic(
    parts: _Parts, start: int, end: int, most_states: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The subset construction; the last row is the dead state."""
    cuts = sorted({0, 256, *(cut for arcs in parts.arcs for low, high, _ in arcs for cut in (low, high + 1))})
    classes = np.zeros(256, dtype=np.int64)
    for index, (low, high) in enumerate(itertools.pairwise(cuts)):
        classes[low:high] = index
    class_of = classes.tolist()
    known = {parts.closure({start}): 0}
    queue = list(known)
    rows: list[dict[int, int]] = []
    work = 0
    for subset in queue:
        moves: dict[int, set[int]] = {}
        for part in subset:
            for low, high, target in parts.arcs[part]:
                for index in range(class_of[low], class_of[high] + 1):
                    moves.setdefault(index, set()).add(target)
        row: dict[int, int] = {}
        closed: dict[frozenset[int], frozenset[int]] = {}
        for index, targets in moves.items():
            raw = frozenset(targets)
            if raw not in closed:
                closed[raw] = parts.closure(targets)
                work += len(closed[raw])
                if work > 2_000:
                    parts.check_time()
                    work = 0
            reached = closed[raw]
            if reached not in known:
                if len(known) >= most_states:
                    raise BadGrammar(_too_large(parts.expression))
                known[reached] = len(known)
                queue.append(reached)
            row[index] = known[reached]
        rows.append(row)
        parts.check_time()
    by_class = np.full((len(rows) + 1, len(cuts) - 1), len(rows), dtype=np.int32)
    for state, row in enumerate(rows):
        for index, target in row.items():
            by_class[state, index] = target
    final = np.array([end in subset for subset in queue] + [False], dtype=np.bool_)
    return by_class[:, classes], final


def _live(delta: NDArray[Any], final: NDArray[np.bool_]) -> ByteDFA:
    """Only the states on a way from the start to a match, in the order in which they are reached."""
    size = len(delta) - 1
    targets = [np.unique(row).tolist() for row in delta[:size]]
    sources: list[list[int]] = [[] for _ in range(size + 1)]
    for state, row in enumerate(targets):
        for target in row:
            sources[target].append(state)
    alive = set(np.flatnonzero(final[:size]).tolist())
    todo = list(alive)
    while todo:
        for source in sources[todo.pop()]:
            if source not in alive:
                alive.add(source)
                todo.append(source)
    order = [0] if 0 in alive else []
    seen = set(order)
    for state in order:
        for target in targets[state]:
            if target in alive and target not in seen:
                seen.add(target)
                order.append(target)
    renamed = np.full(size + 1, len(order), dtype=np.int16)
    renamed[order] = np.arange(len(order))
    kept = [*order, size]
    return ByteDFA(renamed[delta[kept]], final[kept] & (np.array(kept) != size))


def _minimal(delta: NDArray[np.int32], final: NDArray[np.bool_], deadline: float) -> ByteDFA:
    """Merges states that cannot be told apart, by refining final and not final; given up, harmlessly, at the deadline.

    Refining a long chain takes one round per state, so only so many rounds are tried.
    """
    block = final.astype(np.int64)
    count = 0
    _, first = np.unique(delta, axis=1, return_index=True)
    columns = delta[:, first]
    for _ in range(64):
        _, block = np.unique(np.column_stack([block, block[columns]]), axis=0, return_inverse=True)
        block = block.reshape(-1)
        size = int(block.max()) + 1
        if size == count:
            break
        count = size
        if time.thread_time() > deadline:
            return _live(delta, final)
    else:
        return _live(delta, final)
    # The start comes first and the dead state last, as everywhere.
    dead, begin = int(block[-1]), int(block[0])
    if dead == begin:
        return _live(delta, final)
    order = [begin, *(one for one in range(count) if one not in (begin, dead)), dead]
    renamed = np.empty(count, dtype=np.int64)
    renamed[order] = np.arange(count)
    representative = np.zeros(count, dtype=np.int64)
    representative[renamed[block]] = np.arange(len(block))
    return _live(renamed[block[delta[representative]]], final[representative])


def _too_large(expression: str) -> str:
    return (
        f"The automaton of /{_brief(expression)}/ is too large: more than {MOST_STATES:,} states. Make it smaller, "
        "for example with fewer counted repetitions, or use the grammar mask, which needs no table."
    )


def _brief(expression: str) -> str:
    return expression if len(expression) <= 60 else expression[:59] + "…"
