"""Moments of a run by name, so that a lesson need not know the number of the step at which something happened.

    last                              the whole run
    first refused guess               the first step whose verdict refused a guess
    second close call                 and so on: first, second, third or last, and one of `HAPPENINGS`

A recording that is made anew moves its steps. What happened first in it is found again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engines.errors import DecodingError
from engines.events import Attribution, Circuit, Commit, Draft, Event, Judged, Mask, Note, Patch, Suggestions, Verdict
from playground.answering import Moment
from playground.ui.shelf import steps
from visuals.overlap import chosen, token_of

PLACES = {"first": 0, "second": 1, "third": 2, "last": -1}

FAIR = (0.1, 0.9)
"""Chances of a guess that neither side can be sure of."""
HEAVY, LIGHT = 0.9, 0.05
"""Blocked probability that is nearly all, and nearly nothing."""
NARROW = 8
"""Tokens that one can take in at a glance."""
READABLE = 0.05
"""What can be told apart in a picture by eye."""

Happening = Callable[[Sequence[Event]], bool]
"""Whether something happened in a step, from its events."""


class NoSuchMoment(DecodingError):
    """The run has no such step, or nothing of the kind happened in it."""


def moment(events: Sequence[Event], step: int | str = "last", *others: Sequence[Event]) -> Moment:
    """A run up to the end of a step, given by number or name, beside other runs. Raises `NoSuchMoment`."""
    ends = steps(events)
    index = len(ends) - 1 if step == "last" else named(events, step) if isinstance(step, str) else step
    if not 0 <= index < len(ends):
        raise NoSuchMoment(f"This run has {len(ends) - 1} steps, so there is no step {index}.")
    whole = tuple(other for other in others if other)
    return Moment(events[: ends[index]], events[ends[index - 1] if index else 0 : ends[index]], whole)


def named(events: Sequence[Event], name: str) -> int:
    """The number of the step that `name` means."""
    place, _, happening = name.partition(" ")
    if place not in PLACES or happening not in HAPPENINGS:
        raise NoSuchMoment(
            f"There is no moment called {name[:60]!r}. Say the number of a step, last, or one of "
            f"{', '.join(PLACES)} with one of {', '.join(HAPPENINGS)}."
        )
    ends = steps(events)
    found = [step for step in range(1, len(ends)) if HAPPENINGS[happening](events[ends[step - 1] : ends[step]])]
    wanted = PLACES[place]
    if len(found) <= wanted or not found:
        raise NoSuchMoment(f"This run has no {name}: it happens {len(found)} times.")
    return found[wanted]


def _accepted_some(step: Sequence[Event]) -> bool:
    return any(verdict.path for verdict in _verdicts(step))


def _accepted_several(step: Sequence[Event]) -> bool:
    return any(len(verdict.path) > 1 for verdict in _verdicts(step))


def _accepted_all(step: Sequence[Event]) -> bool:
    return any(verdict.nodes and len(verdict.path) == len(verdict.nodes) for verdict in _verdicts(step))


def _accepted_none(step: Sequence[Event]) -> bool:
    return any(verdict.nodes and not verdict.path for verdict in _verdicts(step))


def _refused_some(step: Sequence[Event]) -> bool:
    return any(one.outcome == "rejected" for verdict in _verdicts(step) for one in verdict.nodes)


def _close_call(step: Sequence[Event]) -> bool:
    """The guess is a word, only the coin decided, and it was not a matter of the third digit."""
    judged = _shown(step)
    if judged is None or judged.accept_probability is None or judged.u is None or judged.q is None:
        return False
    chance = judged.accept_probability
    fair = FAIR[0] <= chance <= FAIR[1] and abs(judged.u - chance) >= READABLE
    return fair and judged.q >= READABLE and _is_word(step)


def _clear_replacement(step: Sequence[Event]) -> bool:
    """A word was refused, and the picture shows which token the residual favours."""
    judged = _shown(step)
    if judged is None or judged.outcome != "rejected" or (judged.q or 0) < READABLE:
        return False
    excess = sorted((one.p - one.q for one in judged.weighed), reverse=True)
    favoured = max(judged.weighed, key=lambda one: one.p - one.q).token.id
    clear = len(excess) > 3 and excess[0] - excess[1] >= READABLE
    return clear and _is_word(step) and bool(judged.residual) and judged.residual[0].token.id == favoured


def _paused(step: Sequence[Event]) -> bool:
    """Guessing was given up for a while: the step has the note of it, and no guess."""
    noted = any(isinstance(event, Note) and event.text.startswith("Guessing does not pay") for event in step)
    return noted and not any(isinstance(event, Draft) for event in step)


def _heavy_mask(step: Sequence[Event]) -> bool:
    """Most of what the model wanted was blocked."""
    return any(mask.blocked_mass > HEAVY for mask in _masks(step))


def _light_mask(step: Sequence[Event]) -> bool:
    """Nearly everything that the model wanted was allowed, though not everything was."""
    return any(mask.blocked_mass < LIGHT and mask.allowed < mask.vocabulary for mask in _masks(step))


def _open_mask(step: Sequence[Event]) -> bool:
    """Most of the vocabulary was allowed."""
    return any(mask.allowed > mask.vocabulary / 2 for mask in _masks(step))


def _narrow_mask(step: Sequence[Event]) -> bool:
    """A handful of tokens was allowed, more than one."""
    return any(1 < mask.allowed <= NARROW for mask in _masks(step))


def _lone_mask(step: Sequence[Event]) -> bool:
    """One token was allowed."""
    return any(mask.allowed == 1 for mask in _masks(step))


def _suggestion(step: Sequence[Event]) -> bool:
    """An analyser was asked and had an answer."""
    return any(isinstance(event, Suggestions) and event.state == "asked" and event.count for event in step)


def _masks(step: Sequence[Event]) -> list[Mask]:
    written = any(isinstance(event, Commit) for event in step)
    return [event for event in step if isinstance(event, Mask)] if written else []


def _verdicts(step: Sequence[Event]) -> list[Verdict]:
    return [event for event in step if isinstance(event, Verdict)]


def _estimate(step: Sequence[Event]) -> bool:
    """All parts of the model were scored at once."""
    return any(isinstance(event, Circuit) for event in step)


def _measured(step: Sequence[Event]) -> bool:
    """A row of a map was measured by exact patching."""
    return any(isinstance(event, Patch) and event.how == "exact" for event in step)


def _attended(step: Sequence[Event]) -> bool:
    """The words were coloured by attention."""
    return _coloured(step, "attention")


def _left_out(step: Sequence[Event]) -> bool:
    """The words were coloured by what happens without each of them."""
    return _coloured(step, "leave-one-out")


def _coloured(step: Sequence[Event], how: str) -> bool:
    return any(isinstance(event, Attribution) and event.how == how for event in step)


def _is_word(step: Sequence[Event]) -> bool:
    """Whether the shown guess has a letter: a dot or a line break is hard to speak of."""
    found = chosen(step, None)
    return found is not None and any(letter.isalpha() for letter in token_of(*found).text)


def _shown(step: Sequence[Event]) -> Judged | None:
    """The drawn guess of this step that the picture of draft and model shows."""
    found = chosen(step, None) if any(isinstance(event, Commit) for event in step) else None
    return found[1] if found else None


HAPPENINGS: dict[str, Happening] = {
    "accepted guess": _accepted_some,
    "pass that accepted several": _accepted_several,
    "pass that accepted all": _accepted_all,
    "pass without a right guess": _accepted_none,
    "refused guess": _refused_some,
    "close call": _close_call,
    "clear replacement": _clear_replacement,
    "pause": _paused,
    "heavy mask": _heavy_mask,
    "light mask": _light_mask,
    "open mask": _open_mask,
    "narrow mask": _narrow_mask,
    "lone mask": _lone_mask,
    "suggestion": _suggestion,
    "estimate": _estimate,
    "measured row": _measured,
    "attention row": _attended,
    "leave-one-out row": _left_out,
}
"""What can happen in a step, by name."""
