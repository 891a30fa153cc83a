"""SynCode's mask store: which tokens fit a terminal from one state of its automaton, looked up instead of computed.

"SynCode: LLM Generation with Grammar Augmentation", Ugare et al., arXiv 2403.01632. For a state q of terminal t:

    M_0(q)      the tokens that stay inside t, or in which t ends, whatever follows
    M_1(q, t')  the tokens that stay inside t, or in which t ends and the rest stays inside t', or t' ends in it too

Neither depends on the text, so both are made once. Where ignored text may stand between t and t', the store also holds
M_2(q, ignored, t'), by the same rule. (The reference has M_1(q0 of ignored, t') in its place, which misses a token such
as `2 ,` after a digit; leaving t' open instead lets everything pass that begins with a space.)

 Each entry is a walk over the trie of all tokens, made when it is
first asked for, and kept on disk by the hash of the grammar, of all tokens' bytes, and of the code that makes it.

`beyond` asks for the tokens in which t ends behind the place where q stands, `inside` for those that stay inside the
last terminal up to their own end. With `as_published`, a token that stays alive counts as cut at the last match inside
it, which is how the reference code came to forbid `1.` where a number may have a fraction.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from engines.grammars import automata
from engines.grammars.automata import ByteDFA, Nodes, States, Trie, Walk, trie_walk
from engines.grammars.vocabulary import Bits, Vocabulary
from engines.models.conversion import cache_folder

Kind = Literal["all", "beyond", "inside"]

KINDS: tuple[Kind, ...] = ("all", "beyond", "inside")
MOST_ENTRIES = 1_000
"""Kept on disk, of one grammar."""
MOST_KEPT = 4_096
"""Kept in memory, of one grammar; the oldest are made again when they are asked for."""
KEY = 20
"""Bytes of a row that say what it is about."""
MOST_FILES = 24
"""The oldest files beyond these are deleted."""


class Entry(NamedTuple):
    """What a row of the store is about."""

    terminal: int
    state: int
    follow: int
    """-1 for M_0."""
    then: int
    """-1 for M_0 and M_1."""
    kind: int


class MaskStore:
    """The masks of one set of terminals for one vocabulary.

    Args:
        terminals: by name; their order is part of the key.
        as_published: with the reference code's defect.
    """

    def __init__(self, vocabulary: Vocabulary, terminals: Mapping[str, ByteDFA], *, as_published: bool = False) -> None:
        self.vocabulary, self.terminals, self.as_published = vocabulary, dict(terminals), as_published
        self.index = {name: index for index, name in enumerate(terminals)}
        self.trie = trie_of(vocabulary)
        self.seconds = 0.0
        """Spent on making entries."""
        self.read = 0
        """Entries that came from the disk."""
        self._rows: dict[Entry, Bits] = {}
        self._walks: dict[tuple[str, int], Walk] = {}
        self._lock = threading.RLock()
        self._saved = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def states(self) -> int:
        """States of all terminals together."""
        return sum(len(dfa) for dfa in self.terminals.values())

    @property
    def bytes(self) -> int:
        """Size of the entries made so far."""
        return len(self._rows) * (len(self.vocabulary) + 7 >> 3)

    def mask(self, terminal: str, state: int, follow: tuple[str, ...] = (), kind: Kind = "all") -> Bits:
        """M_0(state), or M_1 or M_2 with one or two following terminals. Not to be changed by the caller."""
        first, second = (*(self.index[name] for name in follow), -1, -1)[:2]
        key = Entry(self.index[terminal], state, first, second, KINDS.index(kind))
        if (row := self._rows.get(key)) is not None:
            return row
        with self._lock:
            if key not in self._rows:
                if len(self._rows) >= MOST_KEPT:
                    del self._rows[next(iter(self._rows))]
                start = time.perf_counter()
                self._rows[key] = self._made(terminal, state, [self.terminals[name] for name in follow], kind)
                self.seconds += time.perf_counter() - start
            return self._rows[key]

    def fill(self) -> None:
        """Makes all entries M_0 and M_1."""
        for name, dfa in self.terminals.items():
            for state in range(len(dfa)):
                self.mask(name, state)
                for follow in self.terminals:
                    self.mask(name, state, (follow,))

    def _walk(self, terminal: str, state: int) -> Walk:
        key = terminal, state
        if key not in self._walks:
            if len(self._walks) >= 256:
                self._walks.pop(next(iter(self._walks)))
            self._walks[key] = trie_walk(self.trie, self.terminals[terminal], state)
        return self._walks[key]

    def _made(self, terminal: str, state: int, follow: Sequence[ByteDFA], kind: Kind) -> Bits:
        walk = self._walk(terminal, state)
        bits = walk.live
        if self.as_published and (follow or kind == "inside"):
            bits = bits & ~walk.cut
        if follow:
            return bits | self._following(walk.ended, follow, kind)
        if kind == "inside":
            return bits
        nodes = np.concatenate(walk.ended[kind == "beyond" :])
        return bits | self.trie.bits([(self.trie.low[nodes], self.trie.high[nodes])])

    def _following(self, seeds: list[Nodes], follow: Sequence[ByteDFA], kind: Kind) -> Bits:
        """The tokens whose rest, behind one of the seeds, fits the following terminals from their start on."""
        trie, dfa, last = self.trie, follow[0], len(follow) == 1
        nodes, states = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int16)
        spans, ended, level = [], [nodes], 0
        while level < len(seeds) or len(nodes):
            if level < len(seeds) and len(seeds[level]):
                nodes = np.concatenate([nodes, seeds[level]])
                states = np.concatenate([states, np.zeros(len(seeds[level]), dtype=np.int16)])
                nodes, states = _distinct(nodes, states, len(dfa) + 1)
            nodes, states, _ = trie.step(dfa, nodes, states)
            final = dfa.final[states]
            whole = final if last and kind != "inside" else np.zeros_like(final)
            spans.append((trie.low[nodes], np.where(whole, trie.high[nodes], trie.exact[nodes])))
            ended.append(nodes[final])
            # Everything below a match of the last terminal is allowed already.
            nodes, states = nodes[~whole], states[~whole]
            level += 1
        bits = trie.bits(spans)
        return bits if last else bits | self._following(ended, follow[1:], kind)

    @property
    def key(self) -> str:
        """A hash of all that the entries depend on: automata, all tokens' bytes, code."""
        digest = hashlib.sha256(f"{self.vocabulary.key} {code()} {self.as_published}".encode())
        for name, dfa in self.terminals.items():
            digest.update(f"{len(name)} {name} {len(dfa)} ".encode())
            digest.update(np.ascontiguousarray(dfa.delta, dtype="<i2").tobytes() + dfa.final.tobytes())
        return digest.hexdigest()[:24]

    @property
    def path(self) -> Path:
        """Where the store is kept."""
        return cache_folder() / "mask-stores" / f"{self.key}.npy"

    def load(self) -> int:
        """Takes over the entries on disk, if there are any that can be read; returns how many."""
        try:
            table = np.load(self.path, allow_pickle=False)
            os.utime(self.path)
        except (OSError, ValueError, EOFError):
            return 0
        width = len(self.vocabulary) + 7 >> 3
        if table.dtype != np.uint8 or table.ndim != 2 or table.shape[1] != width + KEY or len(table) > MOST_ENTRIES:
            return 0
        keys = np.ascontiguousarray(table[:, :KEY]).view("<i4").tolist()
        with self._lock:
            for key, row in zip(keys, table, strict=True):
                self._rows.setdefault(Entry(*key), row[KEY:])
            self.read = self._saved = len(keys)
        return len(keys)

    def save(self) -> None:
        """Writes the entries, if there are new ones: one row each, in order, so that equal stores are equal files.

        A cache that cannot be written is done without.
        """
        with self._lock:
            rows = dict(sorted(self._rows.items())[:MOST_ENTRIES])
            if len(rows) <= self._saved:
                return
            self._saved = len(rows)
        keys = np.array(list(rows), dtype="<i4").view(np.uint8).reshape(len(rows), KEY)
        table = np.concatenate([keys, np.stack(list(rows.values()))], axis=1)
        path = self.path
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".store-", dir=path.parent)
            with os.fdopen(handle, "wb") as stream:
                np.save(stream, table)
            Path(name).replace(path)
            kept = sorted(path.parent.glob("*.npy"), key=lambda file: file.stat().st_mtime)
            for old in kept[:-MOST_FILES]:
                old.unlink(missing_ok=True)


def fits(
    piece: bytes,
    dfa: ByteDFA,
    state: int,
    follow: Sequence[ByteDFA] = (),
    kind: Kind = "all",
    *,
    as_published: bool = False,
) -> bool:
    """Whether one token is in an entry of the store, without making the entry."""
    table, ends, dead = dfa.table, dfa.ends, dfa.dead
    splits = [0] if ends[state] else []
    for place, byte in enumerate(piece, 1):
        state = table[state << 8 | byte]
        if state == dead:
            break
        if ends[state]:
            splits.append(place)
    else:
        cut = as_published and not ends[state] and any(splits) and bool(follow or kind == "inside")
        if not cut:
            return True
    if not follow:
        return kind != "inside" and any(place or kind == "all" for place in splits)
    return any(fits(piece[place:], follow[0], 0, follow[1:], kind) for place in splits)


_tries: WeakKeyDictionary[Vocabulary, Trie] = WeakKeyDictionary()


def trie_of(vocabulary: Vocabulary) -> Trie:
    """The vocabulary's trie, made once."""
    if vocabulary not in _tries:
        _tries[vocabulary] = Trie(vocabulary)
    return _tries[vocabulary]


def code() -> str:
    """A hash of the sources that make the entries."""
    sources = (Path(__file__), Path(automata.__file__))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def _distinct(nodes: Nodes, states: States, count: int) -> tuple[Nodes, States]:
    pairs = np.unique(nodes * count + states)
    return pairs // count, (pairs % count).astype(np.int16)
