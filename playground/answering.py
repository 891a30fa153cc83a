"""What an answer is: the `Moment` of a run that is asked about, the `Answer`, and the list of all that can be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engines.errors import DecodingError
from engines.events import Event, Placed, Totals
from engines.tally import Tally
from visuals.spelling import plain


class NoAnswer(DecodingError):
    """The run does not hold what a question asks for."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A run as far as it is shown."""

    events: Sequence[Event]
    """Everything up to the end of the step."""
    step: Sequence[Event]
    """The events of this step alone."""
    others: tuple[Sequence[Event], ...] = ()
    """Whole runs to compare with, when the lesson names any."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is true, and what one could have thought."""

    value: str
    """The answer as it is said."""
    options: tuple[str, ...] = ()
    """All answers to choose from, the right one among them; empty: a number is asked for."""
    number: float | None = None
    """The answer as a number, when one is asked for."""


Asked = Callable[[Moment], Answer]
ANSWERS: dict[str, Asked] = {}
"""Every question by name."""


def answer(ask: Asked) -> Asked:
    """Registers a function under its name."""
    ANSWERS[ask.__name__.replace("_", "-")] = ask
    return ask


Kind = TypeVar("Kind", bound=Event)


def last(events: Sequence[Event], kind: type[Kind]) -> Kind:
    """The last event of a kind. Raises `NoAnswer` when there is none."""
    return first(list(reversed(events)), kind)


def first(events: Sequence[Event], kind: type[Kind]) -> Kind:
    """The first event of a kind. Raises `NoAnswer` when there is none."""
    for event in events:
        if isinstance(event, kind):
            return event
    raise NoAnswer(f"There is no {kind.__name__} here.")


def name(placed: Placed) -> str:
    """How a token of the text is written."""
    return plain(placed.token)


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Tokens to choose from, in an order that gives nothing away."""
    return tuple(sorted(set(names), key=lambda name: (name.strip("␣").lower(), name)))


def percent(p: float | None) -> Answer:
    """A probability or a share."""
    if p is None:
        raise NoAnswer("This probability was not recorded.")
    return Answer(f"{p:.0%}".replace("%", " %") if p >= 0.01 else "less than 1 %", number=100 * p)


def count(number: int, most: int | None = None, *, least: int = 0) -> Answer:
    """A whole number; with `most`, one to choose from a row."""
    return Answer(f"{number:,}", tuple(str(n) for n in range(least, most + 1)) if most is not None else (), number)


def totals(events: Sequence[Event]) -> Totals:
    """The sums of a run as far as it is shown."""
    return Tally().count(events).totals
