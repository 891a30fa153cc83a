"""What must hold for the event stream of any method, and small readers of streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from engines.events import (
    Commit,
    Compiled,
    Event,
    Finished,
    Forward,
    Mask,
    Started,
    Suggestions,
    committed,
    from_json,
    to_json,
)
from engines.models.causal import CausalModel

Kind = TypeVar("Kind", bound=Event)


def only(events: Sequence[Event], kind: type[Kind]) -> list[Kind]:
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]


def finished(events: Sequence[Event]) -> Finished:
    """The last event."""
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def untimed(events: Sequence[Event]) -> list[Event]:
    """The events with everything that depends on the clock set to zero."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, Forward):
            event = msgspec.structs.replace(event, seconds=0.0, began=0.0)
        if isinstance(event, Mask | Compiled | Suggestions):
            event = msgspec.structs.replace(event, seconds=0.0)
        if isinstance(event, Finished):
            totals = msgspec.structs.replace(event.totals, seconds=0.0, time_to_first_token=0.0, tokens_per_second=0.0)
            event = msgspec.structs.replace(event, totals=totals)
        out.append(msgspec.structs.replace(event, time=0.0))
    return out


def check_stream(model: CausalModel, events: Sequence[Event]) -> None:
    """The laws of an unbroken stream."""
    assert isinstance(events[0], Started)
    assert [event.seq for event in events] == list(range(len(events)))
    times = [event.time for event in events]
    assert times == sorted(times)
    end = finished(events)
    tokens = [placed.token.id for placed in committed(events)]
    assert tokens == list(end.token_ids)
    spelled = tokens[:-1] if tokens and tokens[-1] in model.eos_ids else tokens
    assert model.decode(spelled) == end.text
    position, step = 0, 0
    for commit in only(events, Commit):
        assert (commit.position, commit.step) == (position, step)
        position, step = position + len(commit.tokens), step + 1
    generated = [placed for placed in committed(events) if placed.origin != "given"]
    assert end.totals.tokens == len(generated)
    for placed in generated:
        assert placed.raw is None or 0 <= placed.raw <= 1 + 1e-6
        assert placed.rank is None or 0 <= placed.rank < model.vocabulary_size
    assert end.totals.target_passes == sum(forward.lane == "target" for forward in only(events, Forward))
    assert all(from_json(to_json(event)) == event for event in events)
