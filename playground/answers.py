"""What a run can answer: the questions of the lessons, and the numbers in their text, worked out from the events.

Nothing that a recording says is typed into a lesson. A lesson names a function of this page, of
`playground/answers_guessing.py`, `answers_constrained.py` or `answers_attribution.py`; it gets a `Moment`, the run as
far as it is shown, and gives an `Answer`. So a recording that is made anew changes the lesson's numbers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from engines.events import Beam, Beams, Candidates, Choice, Commit, Finished, Placed, committed
from playground import answers_attribution, answers_constrained, answers_guessing  # noqa: F401  (they enter the list)
from playground.answering import (
    ANSWERS,
    Answer,
    Moment,
    NoAnswer,
    answer,
    count,
    first,
    in_order,
    last,
    name,
    percent,
    totals,
)
from visuals.spelling import plain

__all__ = ["ANSWERS", "Answer", "Moment", "NoAnswer"]

OFFERED = 5
"""Candidates to choose from, when a question asks for a token."""

PARTS = ((1, "1"), (10, "2 to 10"), (100, "11 to 100"), (1000, "101 to 1,000"))
"""Parts of the model's list: the last place of each, and its name."""
BEYOND = "beyond 1,000"


# Of one step: what was wanted, and what was written.


@answer
def next_token(moment: Moment) -> Answer:
    """Which token was written, among the model's most probable ones."""
    placed = last(moment.step, Commit).tokens[0]
    return Answer(name(placed), _offered(last(moment.step, Candidates).raw, placed))


@answer
def probability(moment: Moment) -> Answer:
    """The model's own probability of the first token that was written, in percent."""
    return percent(last(moment.step, Commit).tokens[0].raw)


@answer
def final_probability(moment: Moment) -> Answer:
    """The same after temperature and filters."""
    return percent(last(moment.step, Commit).tokens[0].final)


@answer
def rank(moment: Moment) -> Answer:
    """Which choice of the model's the token was; 1 is its first."""
    rank = last(moment.step, Commit).tokens[0].rank
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
    return Answer(name(last(moment.step, Commit).tokens[0]))


@answer
def first_choice(moment: Moment) -> Answer:
    """The model's most probable token."""
    return Answer(plain(last(moment.step, Candidates).raw[0].token))


@answer
def runner_up(moment: Moment) -> Answer:
    """The model's second choice."""
    return Answer(plain(last(moment.step, Candidates).raw[1].token))


@answer
def runner_up_probability(moment: Moment) -> Answer:
    """The probability of the model's second choice, in percent."""
    return percent(last(moment.step, Candidates).raw[1].p)


@answer
def entropy(moment: Moment) -> Answer:
    """The entropy of the model's distribution, in nats."""
    entropy = last(moment.step, Candidates).entropy
    return Answer(f"{entropy:.1f}", number=entropy)


@answer
def kept(moment: Moment) -> Answer:
    """Tokens that were still possible after all filters."""
    stages = last(moment.step, Candidates).stages
    if not stages:
        raise NoAnswer("No filter was at work in this step.")
    return Answer(f"{stages[-1].kept:,}", number=stages[-1].kept)


@answer
def removed(moment: Moment) -> Answer:
    """The probability that all filters together took away, in percent."""
    stages = last(moment.step, Candidates).stages
    left = 1.0
    for stage in stages:
        left *= 1 - stage.removed_mass
    return percent(1 - left)


# Of beams.


@answer
def beams(moment: Moment) -> Answer:
    """How many texts live on."""
    return count(sum(beam.outcome == "live" for beam in last(moment.step, Beams).beams))


@answer
def considered(moment: Moment) -> Answer:
    """How many texts were looked at in this step."""
    return count(len(last(moment.step, Beams).beams))


@answer
def best_beam(moment: Moment) -> Answer:
    """The last token of the beam that leads."""
    return Answer(plain(last(moment.step, Beams).beams[0].token))


@answer
def winner(moment: Moment) -> Answer:
    """Which of the first tokens the finished text began with, the leader of the first step among them."""
    began = first(moment.events, Beams)
    text = committed(moment.events)
    if not text:
        raise NoAnswer("The search has not ended yet.")
    return Answer(name(text[0]), tuple(plain(beam.token) for beam in began.beams if beam.outcome == "live"))


@answer
def leader(moment: Moment) -> Answer:
    """The most probable first token."""
    return Answer(plain(first(moment.events, Beams).beams[0].token))


@answer
def leader_probability(moment: Moment) -> Answer:
    """The probability of the most probable first token, in percent."""
    return percent(_probability(first(moment.events, Beams).beams[0]))


@answer
def winner_probability(moment: Moment) -> Answer:
    """The probability of the token with which the finished text begins, in percent."""
    return percent(committed(moment.events)[0].raw)


# Of the whole run.


@answer
def tokens(moment: Moment) -> Answer:
    """Tokens written."""
    return count(totals(moment.events).tokens)


@answer
def passes(moment: Moment) -> Answer:
    """Passes of the model after the prompt."""
    return count(totals(moment.events).target_passes)


@answer
def per_pass(moment: Moment) -> Answer:
    """Tokens per target pass."""
    value = totals(moment.events).tokens_per_target_pass
    return Answer(f"{value:.2f}", number=value)


@answer
def per_second(moment: Moment) -> Answer:
    """Tokens per second on the machine of the recording."""
    value = totals(moment.events).tokens_per_second
    return Answer(f"{value:.0f}", number=value)


@answer
def read_per_pass(moment: Moment) -> Answer:
    """Tokens that the model read in an average pass, the prompt left out."""
    sums = totals(moment.events)
    value = (sums.drafted + sums.target_passes) / max(sums.target_passes, 1)
    return Answer(f"{value:.0f}", number=value)


@answer
def acceptance_rate(moment: Moment) -> Answer:
    """Accepted of the tested guesses, in percent."""
    return percent(totals(moment.events).acceptance_rate)


@answer
def all_drafted(moment: Moment) -> Answer:
    """Guesses made in the whole run."""
    return count(totals(moment.events).drafted)


@answer
def all_accepted(moment: Moment) -> Answer:
    """Guesses accepted in the whole run."""
    return count(totals(moment.events).accepted)


@answer
def text(moment: Moment) -> Answer:
    """The text of a finished run, in one line."""
    return Answer(" ".join(last(moment.events, Finished).text.split()))


def _offered(raw: Sequence[Choice], placed: Placed) -> tuple[str, ...]:
    """The most probable tokens and the written one."""
    names = [plain(choice.token) for choice in raw[:OFFERED]]
    if name(placed) not in names:
        names[-1] = name(placed)
    return in_order(names)


def _probability(beam: Beam) -> float:
    return exp(beam.log_probability)
