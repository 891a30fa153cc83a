"""A short way to end a text validly, found by asking a constraint, whatever computes it.

Best first over forks of the constraint: tokens that are forced cost one each, every other step tries a few short
tokens, closers first, the later in that order the dearer. The first text that may end is returned: a short one, not
proven to be the shortest.
"""

from __future__ import annotations

import heapq
import itertools

import numpy as np

from engines.grammars.constraint import Constraint
from engines.grammars.vocabulary import Bits

MOST_FORKS = 400
STEP = 0.01
"""Cost of a token; that of a choice is its place in the order tried. Small, or every string is searched through."""
TRIED = 12
"""Tokens tried at each place."""
CLOSERS = b"\"}])'>;:,.0123456789 "
"""Bytes that tend to end something, most useful first."""


def shortest_completion(constraint: Constraint, limit: int) -> list[int] | None:
    """Tokens after which the text may end, an end token included if there is one; None if none was found in `limit`.

    The constraint stays as it is.
    """
    ends = sorted(constraint.vocabulary.ends)[:1]
    counter = itertools.count()
    queue: list[tuple[float, int, list[int], Constraint]] = [(0, next(counter), [], constraint.fork())]
    for _ in range(MOST_FORKS):
        if not queue:
            return None
        cost, _, written, here = heapq.heappop(queue)
        if here.accepting:
            return [*written, *ends] if len(written) + len(ends) <= limit else None
        if len(written) >= limit:
            continue
        for rank, tokens in enumerate(steps(here)):
            there = here.fork()
            if all(there.commit(token) for token in tokens):
                longer = [*written, *tokens]
                heapq.heappush(queue, (cost + STEP * len(tokens) + rank, next(counter), longer, there))
    return None


def steps(constraint: Constraint) -> list[list[int]]:
    """What to try next: what is forced, else a few allowed tokens, closers first, and one of each first byte."""
    if certain := constraint.forced():
        return [certain]
    return [[token] for token in _short(constraint, constraint.mask())]


def _short(constraint: Constraint, mask: Bits) -> list[int]:
    vocabulary = constraint.vocabulary
    allowed = vocabulary.flags(mask)
    ids = vocabulary.text_ids[allowed[vocabulary.text_ids]]
    firsts = vocabulary.first_bytes[ids]
    # In byte order the first token of each first byte is the shortest.
    shortest = dict(zip(*(part.tolist() for part in np.unique(firsts, return_index=True)), strict=True))
    order = sorted(shortest, key=lambda byte: (CLOSERS.find(byte) % 256, byte))
    closing = [ids[shortest[byte]] for byte in order[:TRIED]]
    # Several closers at once, such as "}], are one token of many vocabularies.
    together = [
        id for id in ids[:4096].tolist() if 1 < len(vocabulary.bytes_of[id]) <= 4 and _closes(vocabulary.bytes_of[id])
    ]
    return [int(id) for id in [*closing, *together[:TRIED]]]


def _closes(piece: bytes) -> bool:
    return all(byte in b'"}])' for byte in piece)
