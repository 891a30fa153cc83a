"""What a text is held to, and what that costs: masks, trials, particles, suggestions."""

from __future__ import annotations

from typing import Literal

import msgspec

from engines.events.stream import Choice, Event, Token


class Mask(Event, frozen=True, kw_only=True):
    """Which tokens a constraint allowed at one position, beside what the model wanted there."""

    position: int
    engine: str
    """Who computed the mask."""
    allowed: int
    vocabulary: int
    blocked_mass: float
    """The model's own probability of everything that was not allowed."""
    wanted: tuple[Choice, ...]
    """The most probable blocked tokens, with the model's own probability."""
    permitted: tuple[Choice, ...]
    """The most probable allowed ones, with the model's own probability, not renormalised."""
    cells: str
    """The vocabulary in the order of its tokens' bytes, cut into equal pieces, one digit each: 0 none of the piece is
    allowed, 9 all of it, 1 to 8 the eighths between."""
    end_allowed: bool
    state: dict[str, str] = msgspec.field(default_factory=dict)
    """Where the reader of the grammar stands, in words: heading → text."""
    seconds: float = 0.0
    """What the mask took to compute."""


class Compiled(Event, frozen=True, kw_only=True):
    """A constraint was made ready, or refused."""

    engine: str
    subject: str
    """What was compiled, e.g. `json schema`, or the name of a schema."""
    status: Literal["ok", "refused", "failed", "too slow"]
    seconds: float
    message: str = ""
    sizes: dict[str, float] = msgspec.field(default_factory=dict)
    """What it amounts to, e.g. states, entries, bytes."""


class Tried(msgspec.Struct, frozen=True):
    """A token that was proposed and put to the test."""

    token: Token
    p: float
    """The probability that it was proposed with: of what was still in the urn."""
    accepted: bool
    round: int = 0
    """Which walk through the urn it belongs to."""


class Trials(Event, frozen=True, kw_only=True):
    """Tokens that were tested one by one instead of computing a mask."""

    position: int
    particle: int
    tried: tuple[Tried, ...]
    """In order; at most the first 64."""
    tests: int
    """How many tests there were in all."""
    weight: float
    """The estimate of how much probability was allowed."""
    estimator: str
    refused_mass: float
    """The model's own probability of the tokens refused in the first walk."""
    exact_mass: float | None = None
    """How much really was allowed, where a mask can tell."""


class Particle(msgspec.Struct, frozen=True):
    """One of several weighted texts."""

    id: int
    parent: int
    """Index, in the step before, of the particle that it continues."""
    text: str
    """What it has written in this step."""
    log_weight: float | None
    """Natural logarithm; None when the weight is 0."""
    state: Literal["alive", "finished", "dead"]


class Particles(Event, frozen=True, kw_only=True):
    """A population of weighted texts after one step."""

    step: int
    particles: tuple[Particle, ...]
    effective: float
    """Effective sample size (Σw)² / Σw², before resampling."""
    resampled: bool
    """Whether the particles now are draws from those that were weighed, each with the mean weight."""


class Place(msgspec.Struct, frozen=True):
    """A node of a growing tree of texts."""

    id: int
    parent: int
    """-1 for the root."""
    token: Token | None
    """None for the root."""
    p: float | None
    """The model's probability of the token given its parent."""
    value: float | None
    """What the method believes this place to be worth."""
    visits: int = 0
    state: str = ""
    """E.g. `open`, `finished`, `cut off`."""


class Growth(Event, frozen=True, kw_only=True):
    """Nodes of a tree of texts that are new or have changed. The tree outlives single texts of the run."""

    tree: str
    sample: int
    """Which text of the run this belongs to, counted from 0."""
    places: tuple[Place, ...]
    size: int
    """Nodes in the tree now."""


class Suggestion(msgspec.Struct, frozen=True):
    """A name that an analyser allows."""

    name: str
    p: float | None = None
    """The model's probability of the allowed tokens that begin it."""
    rest: str = ""
    """What of it is still to be written."""


class Suggestions(Event, frozen=True, kw_only=True):
    """An analyser was asked what may stand here, or the names it gave were narrowed down by what was written."""

    position: int
    state: Literal["asked", "narrowed", "finished", "nothing known"]
    monitor: str
    trigger: str
    """What set it off, e.g. the text up to the dot."""
    suggestions: tuple[Suggestion, ...]
    """At most 24."""
    count: int
    seconds: float = 0.0
