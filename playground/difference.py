"""Two runs side by side: the first token at which they part, how their texts line up, and what they were asked for.

Tokens are compared by id, so that two spellings of the same text are not called the same. After the first difference
the texts are lined up again where they agree, as far as that can be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import msgspec

from engines.events import Event, Finished, Placed, Started, Token, committed
from visuals.reading import candidates

SHORTEST_SAME = 2
"""Equal stretches of fewer tokens, after the first difference, are chance: they are shown as part of the change."""


class Side(msgspec.Struct, frozen=True):
    """What one run wrote at the first difference, and what its model thought of both tokens."""

    token: Token | None
    """None: the run had ended."""
    p: float | None
    """The model's own probability of this token here."""
    p_other: float | None
    """The same of the other run's token; None when it was not among the recorded ones."""


class First(msgspec.Struct, frozen=True):
    """The first difference."""

    position: int
    left: Side
    right: Side


class Block(msgspec.Struct, frozen=True):
    """A stretch of both texts, the same or not; either side may be empty."""

    same: bool
    left: list[Token]
    right: list[Token]


class Difference(msgspec.Struct, frozen=True):
    """Everything that tells two runs apart."""

    settings: list[tuple[str, str, str]]
    """Name, left value, right value, of what they were asked for; only what differs."""
    circumstances: list[tuple[str, str, str]]
    """The same of weights, precision, code, library versions and machine."""
    shared: int
    """Tokens before the first difference."""
    first: First | None
    """None when one text goes on exactly as the other, to the end of the shorter one."""
    blocks: list[Block]
    lengths: tuple[int, int]
    complete: tuple[bool, bool]
    """Whether each run came to its end by itself."""

    @property
    def identical(self) -> bool:
        """Whether the tokens are the same; a run that was cut short is compared as far as it went."""
        if self.first is not None:
            return False
        left, right = self.lengths
        return left == right or (left < right and not self.complete[0]) or (right < left and not self.complete[1])


def difference(left: Sequence[Event], right: Sequence[Event]) -> Difference:
    """Compares two runs; both begin with `Started`."""
    settings, circumstances = _headers(_started(left), _started(right))
    a, b = committed(left), committed(right)
    ids_a, ids_b = [placed.token.id for placed in a], [placed.token.id for placed in b]
    shared = next((k for k, (x, y) in enumerate(zip(ids_a, ids_b, strict=False)) if x != y), min(len(a), len(b)))
    parted = shared < min(len(a), len(b)) or (len(a) != len(b) and _ended(left) and _ended(right))
    return Difference(
        settings=settings,
        circumstances=circumstances,
        shared=shared,
        first=First(shared, _side(left, a, b, shared), _side(right, b, a, shared)) if parted else None,
        blocks=_blocks([p.token for p in a], [p.token for p in b], ids_a, ids_b, shared),
        lengths=(len(a), len(b)),
        complete=(_ended(left), _ended(right)),
    )


def _started(events: Sequence[Event]) -> Started:
    if not events or not isinstance(events[0], Started):
        raise ValueError("a run begins with Started")
    return events[0]


def _ended(events: Sequence[Event]) -> bool:
    return isinstance(events[-1], Finished) and events[-1].reason != "time limit"


def _side(events: Sequence[Event], own: list[Placed], other: list[Placed], position: int) -> Side:
    mine = own[position] if position < len(own) else None
    theirs = other[position].token.id if position < len(other) else None
    here = candidates(events).get(position)
    wanted = {choice.token.id: choice.p for choice in here.raw} if here else {}
    if mine is None:
        return Side(None, None, wanted.get(theirs) if theirs is not None else None)
    p = mine.raw if mine.raw is not None else wanted.get(mine.token.id)
    return Side(mine.token, p, wanted.get(theirs) if theirs is not None else None)


def _blocks(a: list[Token], b: list[Token], ids_a: list[int], ids_b: list[int], shared: int) -> list[Block]:
    blocks = [Block(True, a[:shared], b[:shared])] if shared else []
    left, right = shared, shared
    for match in SequenceMatcher(None, ids_a[shared:], ids_b[shared:]).get_matching_blocks():
        if match.size and match.size < SHORTEST_SAME:
            continue
        start_a, start_b = shared + match.a, shared + match.b
        if start_a > left or start_b > right:
            blocks.append(Block(False, a[left:start_a], b[right:start_b]))
        if match.size:
            blocks.append(Block(True, a[start_a : start_a + match.size], b[start_b : start_b + match.size]))
        left, right = start_a + match.size, start_b + match.size
    return blocks


def _headers(left: Started, right: Started) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    asked = [
        (name, getattr(left, name), getattr(right, name))
        for name in ("method", "prompt", "seed", "max_new_tokens", "raw_prompt", "stop", "time_limit")
    ]
    asked += [(name, left.params[name], right.params[name]) for name in left.params if name in right.params]
    only = [
        tuple(f"{n} {_said(v)}" for n, v in a.params.items() if n not in b.params)
        for a, b in ((left, right), (right, left))
    ]
    asked.append(("own_settings", only[0], only[1]))
    around = [
        (name, getattr(left, name), getattr(right, name))
        for name in ("model", "weights", "precision", "code", "machine")
    ]
    libraries = [*left.versions, *(name for name in right.versions if name not in left.versions)]
    around += [(name, left.versions.get(name), right.versions.get(name)) for name in libraries]
    return _differing(asked), _differing(around)


def _differing(rows: list[tuple[str, object, object]]) -> list[tuple[str, str, str]]:
    return [(name, _said(one), _said(other)) for name, one, other in rows if one != other]


def _said(value: object) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, tuple):
        return " | ".join(map(str, value))
    return str(value)
