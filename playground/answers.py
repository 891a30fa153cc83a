"""What a run can answer: the questions of the lessons, and the numbers in their text, worked out from the events.

Nothing that a recording says is typed into a lesson. A lesson names a function of this page; it gets a `Moment`, the
run as far as it is shown, and gives an `Answer`. So a recording that is made anew changes the lesson's numbers too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import TypeVar

from engines.errors import DecodingError
from engines.events import (
    Beam,
    Beams,
    Candidates,
    Choice,
    Commit,
    Draft,
    Event,
    Finished,
    Placed,
    Totals,
    Verdict,
    committed,
)
from engines.tally import Tally
from visuals.reading import depths
from visuals.spelling import plain

OFFERED = 5
"""Candidates to choose from, when a question asks for a token."""

PARTS = ((1, "1"), (10, "2 to 10"), (100, "11 to 100"), (1000, "101 to 1,000"))
"""Parts of the model's list: the last place of each, and its name."""
BEYOND = "beyond 1,000"


class NoAnswer(DecodingError):
    """The run does not hold what a question asks for."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A run as far as it is shown."""

    events: Sequence[Event]
    """Everything up to the end of the step."""
    step: Sequence[Event]
    """The events of this step alone."""
    other: Sequence[Event] = ()
    """A whole run to compare with, when the lesson names one."""


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


# Of one step: what was wanted, and what was written.


@answer
def next_token(moment: Moment) -> Answer:
    """Which token was written, among the model's most probable ones."""
    placed = _last(moment.step, Commit).tokens[0]
    return Answer(_token(placed), _offered(_last(moment.step, Candidates).raw, placed))


@answer
def probability(moment: Moment) -> Answer:
    """The model's own probability of the first token that was written, in percent."""
    return _percent(_last(moment.step, Commit).tokens[0].raw)


@answer
def final_probability(moment: Moment) -> Answer:
    """The same after temperature and filters."""
    return _percent(_last(moment.step, Commit).tokens[0].final)


@answer
def rank(moment: Moment) -> Answer:
    """Which choice of the model's the token was; 1 is its first."""
    rank = _last(moment.step, Commit).tokens[0].rank
    if rank is None:
        raise NoAnswer("This token's rank was not recorded.")
    return Answer(f"{rank + 1:,}", number=rank + 1)


@answer
def depth(moment: Moment) -> Answer:
    """The same roughly: from which part of the model's list the token came."""
    place = rank(moment).number or 0
    within = next((name for most, name in PARTS if place <= most), BEYOND)
    return Answer(within, (*(name for _, name in PARTS), BEYOND))


@answer
def token(moment: Moment) -> Answer:
    """The first token that was written."""
    return Answer(_token(_last(moment.step, Commit).tokens[0]))


@answer
def first_choice(moment: Moment) -> Answer:
    """The model's most probable token."""
    return Answer(plain(_last(moment.step, Candidates).raw[0].token))


@answer
def runner_up(moment: Moment) -> Answer:
    """The model's second choice."""
    return Answer(plain(_last(moment.step, Candidates).raw[1].token))


@answer
def runner_up_probability(moment: Moment) -> Answer:
    """The probability of the model's second choice, in percent."""
    return _percent(_last(moment.step, Candidates).raw[1].p)


@answer
def entropy(moment: Moment) -> Answer:
    """The entropy of the model's distribution, in nats."""
    entropy = _last(moment.step, Candidates).entropy
    return Answer(f"{entropy:.1f}", number=entropy)


@answer
def kept(moment: Moment) -> Answer:
    """Tokens that were still possible after all filters."""
    stages = _last(moment.step, Candidates).stages
    if not stages:
        raise NoAnswer("No filter was at work in this step.")
    return Answer(f"{stages[-1].kept:,}", number=stages[-1].kept)


@answer
def removed(moment: Moment) -> Answer:
    """The probability that all filters together took away, in percent."""
    stages = _last(moment.step, Candidates).stages
    left = 1.0
    for stage in stages:
        left *= 1 - stage.removed_mass
    return _percent(1 - left)


# Of one step of guessing.


@answer
def accepted(moment: Moment) -> Answer:
    """How many guesses the model accepted; at most as many as the draft is deep."""
    draft = _last(moment.step, Draft)
    deepest = max(depths(draft).values())
    return _count(len(_last(moment.step, Verdict).path), deepest)


@answer
def drafted(moment: Moment) -> Answer:
    """How many guesses there were."""
    return _count(len(_last(moment.step, Draft).nodes) - 1)


@answer
def tested(moment: Moment) -> Answer:
    """How many guesses the model had to look at: those on its way, and their siblings."""
    return _count(sum(node.outcome != "untested" for node in _last(moment.step, Verdict).nodes))


@answer
def extra(moment: Moment) -> Answer:
    """The token that the pass gave by itself."""
    return Answer(plain(_last(moment.step, Verdict).extra))


@answer
def gained(moment: Moment) -> Answer:
    """How many tokens the step wrote."""
    verdict = _last(moment.step, Verdict)
    return _count(len(_last(moment.step, Commit).tokens), max(len(verdict.path) + 1, 4), least=1)


@answer
def origin(moment: Moment) -> Answer:
    """Whether the extra token is a bonus or a correction."""
    return Answer(_last(moment.step, Verdict).extra_origin, ("bonus", "correction"))


# Of beams.


@answer
def beams(moment: Moment) -> Answer:
    """How many texts live on."""
    return _count(sum(beam.outcome == "live" for beam in _last(moment.step, Beams).beams))


@answer
def considered(moment: Moment) -> Answer:
    """How many texts were looked at in this step."""
    return _count(len(_last(moment.step, Beams).beams))


@answer
def best_beam(moment: Moment) -> Answer:
    """The last token of the beam that leads."""
    return Answer(plain(_last(moment.step, Beams).beams[0].token))


@answer
def winner(moment: Moment) -> Answer:
    """Which of the first tokens the finished text began with, the leader of the first step among them."""
    first = _first(moment.events, Beams)
    text = committed(moment.events)
    if not text:
        raise NoAnswer("The search has not ended yet.")
    return Answer(_token(text[0]), tuple(plain(beam.token) for beam in first.beams if beam.outcome == "live"))


@answer
def leader(moment: Moment) -> Answer:
    """The most probable first token."""
    return Answer(plain(_first(moment.events, Beams).beams[0].token))


@answer
def leader_probability(moment: Moment) -> Answer:
    """The probability of the most probable first token, in percent."""
    return _percent(_probability(_first(moment.events, Beams).beams[0]))


@answer
def winner_probability(moment: Moment) -> Answer:
    """The probability of the token with which the finished text begins, in percent."""
    return _percent(committed(moment.events)[0].raw)


# Of the whole run.


@answer
def tokens(moment: Moment) -> Answer:
    """Tokens written."""
    return _count(_totals(moment.events).tokens)


@answer
def passes(moment: Moment) -> Answer:
    """Passes of the model after the prompt."""
    return _count(_totals(moment.events).target_passes)


@answer
def per_pass(moment: Moment) -> Answer:
    """Tokens per target pass."""
    value = _totals(moment.events).tokens_per_target_pass
    return Answer(f"{value:.2f}", number=value)


@answer
def per_second(moment: Moment) -> Answer:
    """Tokens per second on the machine of the recording."""
    value = _totals(moment.events).tokens_per_second
    return Answer(f"{value:.0f}", number=value)


@answer
def read_per_pass(moment: Moment) -> Answer:
    """Tokens that the model read in an average pass, the prompt left out."""
    totals = _totals(moment.events)
    value = (totals.drafted + totals.target_passes) / max(totals.target_passes, 1)
    return Answer(f"{value:.0f}", number=value)


@answer
def acceptance_rate(moment: Moment) -> Answer:
    """Accepted of the tested guesses, in percent."""
    return _percent(_totals(moment.events).acceptance_rate)


@answer
def all_drafted(moment: Moment) -> Answer:
    """Guesses made in the whole run."""
    return _count(_totals(moment.events).drafted)


@answer
def all_accepted(moment: Moment) -> Answer:
    """Guesses accepted in the whole run."""
    return _count(_totals(moment.events).accepted)


@answer
def text(moment: Moment) -> Answer:
    """The text of a finished run, in one line."""
    return Answer(" ".join(_last(moment.events, Finished).text.split()))


@answer
def faster(moment: Moment) -> Answer:
    """Which of two runs wrote more tokens per second: this one or the other."""
    ours, theirs = _totals(moment.events), _totals(moment.other)
    this, that = _guesses(moment.events), _guesses(moment.other)
    return Answer(this if ours.tokens_per_second > theirs.tokens_per_second else that, tuple(sorted((this, that))))


@answer
def same_text(moment: Moment) -> Answer:
    """Whether two runs wrote the same."""
    ours, theirs = ([placed.token.id for placed in committed(run)] for run in (moment.events, moment.other))
    short = min(len(ours), len(theirs))
    return Answer("yes" if ours[:short] == theirs[:short] else "no", ("yes", "no"))


def _guesses(events: Sequence[Event]) -> str:
    return f"{max(len(event.nodes) - 1 for event in events if isinstance(event, Draft))} guesses"


Kind = TypeVar("Kind", bound=Event)


def _last(events: Sequence[Event], kind: type[Kind]) -> Kind:
    """The last event of a kind. Raises `NoAnswer` when there is none."""
    for event in reversed(events):
        if isinstance(event, kind):
            return event
    raise NoAnswer(f"There is no {kind.__name__} here.")


def _first(events: Sequence[Event], kind: type[Kind]) -> Kind:
    for event in events:
        if isinstance(event, kind):
            return event
    raise NoAnswer(f"There is no {kind.__name__} here.")


def _token(placed: Placed) -> str:
    return plain(placed.token)


def _offered(raw: Sequence[Choice], placed: Placed) -> tuple[str, ...]:
    """The most probable tokens and the written one, in an order that gives nothing away."""
    names = [plain(choice.token) for choice in raw[:OFFERED]]
    if _token(placed) not in names:
        names[-1] = _token(placed)
    return tuple(sorted(set(names), key=lambda name: name.strip("␣").lower()))


def _percent(p: float | None) -> Answer:
    if p is None:
        raise NoAnswer("This probability was not recorded.")
    return Answer(f"{p:.0%}".replace("%", " %") if p >= 0.01 else "less than 1 %", number=100 * p)


def _count(number: int, most: int | None = None, *, least: int = 0) -> Answer:
    """A whole number; with `most`, one to choose from a row."""
    return Answer(f"{number:,}", tuple(str(n) for n in range(least, most + 1)) if most is not None else (), number)


def _probability(beam: Beam) -> float:
    return exp(beam.log_probability)


def _totals(events: Sequence[Event]) -> Totals:
    return Tally().count(events).totals
