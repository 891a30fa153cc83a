"""The event vocabulary: everything a method can say about what it did.

A run is a stream of these structs. Pictures are functions of the stream, the database stores it,
the command line prints it. One class per kind of thing that can happen; fields are plain numbers
and strings, never figures, markup or colours.

Conventions, the same everywhere:

* *Positions* count from the first generated token: 0 is the first new token, -1 the last prompt token.
* *Probabilities* say whose they are: `raw` is the model's own softmax at temperature 1, `final` is
  what is left after penalties, temperature and filters, `q` is the draft's, `p` the target's after filters.
* *Times* are seconds. `time` on an event is decode time since the run began; time during which the
  generator was suspended (drawing, database, other people's turns) does not count.
* `seq`, `time` and `at` are stamped by the runner, never by a method.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engines.events.constraints import (
    Compiled,
    Growth,
    Mask,
    Particle,
    Particles,
    Place,
    Suggestion,
    Suggestions,
    Trials,
    Tried,
)
from engines.events.guessing import Draft, DraftNode, Judged, Match, Outcome, Store, StoredRow, Verdict, Weighed
from engines.events.inside import (
    Attribution,
    Circuit,
    CircuitEdge,
    CircuitNode,
    Contrast,
    Direction,
    Lens,
    Pair,
    Patch,
    Site,
    Swap,
)
from engines.events.search import Beam, Beams
from engines.events.stream import (
    Cache,
    Candidates,
    Choice,
    Commit,
    Curve,
    Event,
    Finished,
    Forward,
    Mark,
    Matrix,
    Note,
    Origin,
    Placed,
    Reason,
    Score,
    Stage,
    Started,
    Token,
    Totals,
)

__all__ = [
    "EVENTS",
    "AnyEvent",
    "Attribution",
    "Beam",
    "Beams",
    "Cache",
    "Candidates",
    "Choice",
    "Circuit",
    "CircuitEdge",
    "CircuitNode",
    "Commit",
    "Compiled",
    "Contrast",
    "Curve",
    "Direction",
    "Draft",
    "DraftNode",
    "Event",
    "Finished",
    "Forward",
    "Growth",
    "Judged",
    "Lens",
    "Mark",
    "Mask",
    "Match",
    "Matrix",
    "Note",
    "Origin",
    "Outcome",
    "Pair",
    "Particle",
    "Particles",
    "Patch",
    "Place",
    "Placed",
    "Reason",
    "Score",
    "Site",
    "Stage",
    "Started",
    "Store",
    "StoredRow",
    "Suggestion",
    "Suggestions",
    "Swap",
    "Token",
    "Totals",
    "Trials",
    "Tried",
    "Verdict",
    "Weighed",
    "committed",
    "from_json",
    "to_json",
]

AnyEvent = (
    Started
    | Candidates
    | Commit
    | Draft
    | Verdict
    | Match
    | Store
    | Mask
    | Compiled
    | Trials
    | Particles
    | Growth
    | Suggestions
    | Matrix
    | Contrast
    | Patch
    | Circuit
    | Attribution
    | Lens
    | Beams
    | Score
    | Forward
    | Cache
    | Curve
    | Note
    | Finished
)

EVENTS: tuple[type[Event], ...] = AnyEvent.__args__
"""Every kind of event, in the order of this page."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)


def to_json(event: Event) -> bytes:
    """One event as one line of JSON; `kind` names its class in lower case."""
    return _encoder.encode(event)


def from_json(line: bytes | str) -> Event:
    """The inverse of `to_json`. Raises `msgspec.MsgspecError` when the line is not an event."""
    try:
        return _decoder.decode(line)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"not UTF-8 text: {error.reason}") from None
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None


def committed(events: Iterable[Event]) -> list[Placed]:
    """The output so far: every token of every `Commit`, in order."""
    return [placed for event in events if isinstance(event, Commit) for placed in event.tokens]
