"""Several texts at a time."""

from __future__ import annotations

from typing import Literal

import msgspec

from engines.events.stream import Event, Token


class Beam(msgspec.Struct, frozen=True):
    """One hypothesis. Ids are unique in a run; `parent` is -1 for the first generated token."""

    id: int
    parent: int
    token: Token
    log_probability: float
    """Sum over the generated tokens, natural logarithm."""
    score: float
    """What the hypotheses are ranked by (after length penalty or diversity penalty)."""
    outcome: Literal["live", "pruned", "finished", "chosen"]
    group: int = 0


class Beams(Event, frozen=True, kw_only=True):
    """The hypotheses considered at one position, best first, and which of them live on."""

    position: int
    beams: tuple[Beam, ...]
