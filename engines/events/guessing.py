"""Guesses, and what became of them."""

from __future__ import annotations

from typing import Literal

import msgspec

from engines.events.stream import Choice, Event, Token

Outcome = Literal["accepted", "rejected", "untested"]


class DraftNode(msgspec.Struct, frozen=True):
    """A guessed token. Node 0 is the root: the last committed token, not a guess."""

    id: int
    parent: int
    token: Token
    q: float | None
    """The draft's probability given its parent; None when the draft is a table or a copy."""
    source: str
    """Where the guess came from, e.g. `recycled, rank 2`, `copied from -31`."""


class Draft(Event, frozen=True, kw_only=True):
    """A tree of guesses, to be checked by one forward pass of the target. Parents precede children."""

    position: int
    """Position of the tokens at depth 1."""
    nodes: tuple[DraftNode, ...]
    template: str = ""


class Weighed(msgspec.Struct, frozen=True):
    """A token under the two distributions that a drawn guess is tested with."""

    token: Token
    p: float
    """Under the target's, without what the guesses refused before it had claimed."""
    q: float
    """Under the draft's, which the guess was drawn from."""


class Judged(msgspec.Struct, frozen=True):
    """What became of one guess."""

    id: int
    outcome: Outcome
    p: float | None = None
    """The target's probability of this token given its parent, after filters; None when untested."""
    accept_probability: float | None = None
    u: float | None = None
    """The random number that the acceptance probability met; None under greedy decoding."""
    best: Choice | None = None
    """The target's most probable token given the same parent, after filters; None when untested."""
    residual: tuple[Choice, ...] = ()
    """Of a refused guess that met a random number: top of the distribution that is left for its place."""
    q: float | None = None
    """The draft's probability of it at the moment of the test, guesses refused before it taken out where the rule
    says so; None when the guess was not drawn."""
    overlap: float | None = None
    """Σ min(p, q) over the vocabulary: the chance that whatever the draft draws here is accepted."""
    weighed: tuple[Weighed, ...] = ()
    """The most probable tokens under either distribution; of drawn guesses only."""


class Verdict(Event, frozen=True, kw_only=True):
    """The target's judgement on a `Draft`: the accepted path, and the token that every pass yields."""

    position: int
    rule: str
    path: tuple[int, ...]
    """Ids of the accepted nodes from depth 1 down; empty when all guesses were wrong."""
    nodes: tuple[Judged, ...]
    extra: Token | None
    """None when every place that the pass decided held a guess, and all were right: then nothing comes free."""
    extra_origin: Literal["bonus", "correction"] | None
    residual: tuple[Choice, ...] = ()
    """Top of the distribution that `extra` was drawn from; empty under greedy decoding."""


class Match(Event, frozen=True, kw_only=True):
    """The end of the text so far also occurs earlier: what follows there is a guess for what follows here."""

    source: tuple[int, int]
    """Positions [start, stop) of the earlier occurrence; negative ones lie in the prompt."""
    target: tuple[int, int]
    copied: tuple[int, int]
    """Positions [start, stop) of the tokens offered as a guess."""


class StoredRow(msgspec.Struct, frozen=True):
    """What a table of guesses now says about one key, and what it said before."""

    key: tuple[Token, ...]
    before: tuple[Choice, ...]
    """Best first; empty when the key is new. `p` is the table's own weight or the probability that it was given."""
    after: tuple[Choice, ...]
    source: str = ""
    """Where the new entry comes from, e.g. `rejected`, `accepted`, `prompt`, `text`."""


class Store(Event, frozen=True, kw_only=True):
    """A table that guesses are read from has learnt something."""

    table: str
    rows: tuple[StoredRow, ...]
    """At most the 16 that matter most."""
    changed: int
    """Rows written, also those that are not in `rows`."""
    size: int
    """Rows in the table now."""
