"""What a run that guesses can answer: of one pass, of one drawn guess, of what guessing cost, and of several runs.

The drawn guess is the one that the picture of draft against model shows (`visuals/overlap.py`): what a lesson says of
it is what the reader sees beside the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import fmean

from engines.events import Commit, Draft, Event, Forward, Judged, Note, Started, Verdict, committed
from engines.method import methods
from playground.answering import Answer, Moment, NoAnswer, answer, count, first, in_order, last, percent, totals
from visuals.overlap import chosen, token_of
from visuals.reading import Step, depths
from visuals.spelling import plain

# Of one step of guessing.


@answer
def accepted(moment: Moment) -> Answer:
    """How many guesses the model accepted; at most as many as the draft is deep."""
    draft = last(moment.step, Draft)
    deepest = max(depths(draft).values())
    return count(len(last(moment.step, Verdict).path), deepest)


@answer
def drafted(moment: Moment) -> Answer:
    """How many guesses there were."""
    return count(len(last(moment.step, Draft).nodes) - 1)


@answer
def tested(moment: Moment) -> Answer:
    """How many guesses the model had to look at: those on its way, and their siblings."""
    return count(sum(node.outcome != "untested" for node in last(moment.step, Verdict).nodes))


@answer
def extra(moment: Moment) -> Answer:
    """The token that the pass gave by itself."""
    token = last(moment.step, Verdict).extra
    if token is None:
        raise NoAnswer("Every guess of this step was right, and the pass had nothing to add.")
    return Answer(plain(token))


@answer
def gained(moment: Moment) -> Answer:
    """How many tokens the step wrote."""
    verdict = last(moment.step, Verdict)
    return count(len(last(moment.step, Commit).tokens), max(len(verdict.path) + 1, 4), least=1)


@answer
def origin(moment: Moment) -> Answer:
    """Whether the extra token is a bonus or a correction."""
    given = last(moment.step, Verdict).extra_origin
    if given is None:
        raise NoAnswer("This step gave no token beside its guesses.")
    return Answer(given, ("bonus", "correction"))


# Of one drawn guess.


@answer
def guess(moment: Moment) -> Answer:
    """The guessed token."""
    return Answer(plain(token_of(*_drawn(moment))))


@answer
def q(moment: Moment) -> Answer:
    """The draft's probability of it."""
    return _decimal(_drawn(moment)[1].q)


@answer
def p(moment: Moment) -> Answer:
    """The target's probability of it."""
    return _decimal(_drawn(moment)[1].p)


@answer
def chance(moment: Moment) -> Answer:
    """The chance that it is accepted, min(1, p / q), in percent."""
    return percent(_drawn(moment)[1].accept_probability)


@answer
def coin(moment: Moment) -> Answer:
    """The random number that the chance met."""
    return _decimal(_drawn(moment)[1].u)


@answer
def fate(moment: Moment) -> Answer:
    """What became of it."""
    accepted = _drawn(moment)[1].outcome == "accepted"
    return Answer("accepted" if accepted else "refused", ("accepted", "refused"))


@answer
def overlap(moment: Moment) -> Answer:
    """Σ min(p, q) at its place."""
    return _decimal(_drawn(moment)[1].overlap, 2)


@answer
def favourite(moment: Moment) -> Answer:
    """The most probable token of the residual behind a refused guess, among those that the picture shows."""
    judged = _refused(moment)
    names = [plain(judged.residual[0].token), *(plain(one.token) for one in judged.weighed)]
    return Answer(names[0], in_order(names))


@answer
def favourite_share(moment: Moment) -> Answer:
    """Its share of the residual, in percent."""
    return percent(_refused(moment).residual[0].p)


@answer
def mean_overlap(moment: Moment) -> Answer:
    """Mean of Σ min(p, q) over all tested guesses of the run."""
    known = [
        one.overlap
        for event in moment.events
        if isinstance(event, Verdict)
        for one in event.nodes
        if one.overlap is not None
    ]
    if not known:
        raise NoAnswer("No guess of this run was drawn.")
    return _decimal(fmean(known), 2)


# Of what guessing cost in a whole run.


@answer
def all_refused(moment: Moment) -> Answer:
    """Guesses refused."""
    return count(totals(moment.events).rejected)


@answer
def all_untested(moment: Moment) -> Answer:
    """Guesses never looked at, because one before them was refused."""
    return count(totals(moment.events).untested)


@answer
def draft_passes(moment: Moment) -> Answer:
    """Passes of the draft model."""
    return count(totals(moment.events).draft_passes)


@answer
def draft_pass_time(moment: Moment) -> Answer:
    """Milliseconds of an average draft pass."""
    return _milliseconds(_seconds(moment.events, "draft"))


@answer
def pass_time(moment: Moment) -> Answer:
    """Milliseconds of an average target pass after the prompt."""
    return _milliseconds(_seconds(moment.events, "target"))


@answer
def times_as_long(moment: Moment) -> Answer:
    """How many times as long as the other run's an average target pass of this run took."""
    ours, theirs = (fmean(_seconds(run, "target")) for run in (moment.events, *_others(moment, 1)))
    return Answer(f"{ours / theirs:.1f}", number=ours / theirs)


@answer
def drafting_share(moment: Moment) -> Answer:
    """The draft model's share of the time that draft and target took together, the prompt left out, in percent."""
    draft, target = (sum(_seconds(moment.events, lane)) for lane in ("draft", "target"))
    return percent(draft / (draft + target))


@answer
def most_guesses(moment: Moment) -> Answer:
    """Guesses of the largest draft."""
    return count(_largest(moment.events))


@answer
def budget(moment: Moment) -> Answer:
    """Guesses per pass that the method chose for this machine, as it says itself."""
    for event in moment.events:
        if isinstance(event, Note) and (said := re.match(r"On this machine (\d+) guess", event.text)):
            return count(int(said[1]))
    raise NoAnswer("This run did not choose its number of guesses.")


@answer
def plain_passes(moment: Moment) -> Answer:
    """Passes that read one token, without a guess."""
    return count(
        sum(isinstance(event, Forward) and event.lane == "target" and event.query == 1 for event in moment.events)
    )


@answer
def pace(moment: Moment) -> Answer:
    """Tokens per second once the first tokens are there: the prompt is left out."""
    value = _pace(moment.events)
    return Answer(f"{value:.0f}", number=value)


# Of several runs.


@answer
def faster(moment: Moment) -> Answer:
    """Which of some runs wrote its tokens fastest, the prompt left out."""
    return _best(moment, _pace)


@answer
def most_per_pass(moment: Moment) -> Answer:
    """Which of some runs wrote most tokens per target pass."""
    return _best(moment, lambda run: totals(run).tokens_per_target_pass)


@answer
def same_text(moment: Moment) -> Answer:
    """Whether two runs wrote the same, as far as the shorter one goes."""
    ours, theirs = ([placed.token.id for placed in committed(run)] for run in (moment.events, *_others(moment, 1)))
    short = min(len(ours), len(theirs))
    return Answer("yes" if ours[:short] == theirs[:short] else "no", ("yes", "no"))


def _best(moment: Moment, value: Callable[[Sequence[Event]], float]) -> Answer:
    """Which run has the highest value; of equals, the one that needed fewer guesses for it."""
    runs = (moment.events, *_others(moment))
    names = called(runs)
    best = max(range(len(runs)), key=lambda one: (value(runs[one]), -totals(runs[one]).drafted))
    return Answer(names[best], tuple(sorted(names)))


def called(runs: Sequence[Sequence[Event]]) -> list[str]:
    """What tells some runs apart: their methods, else how many guesses they made, else a setting."""
    headers = [first(run, Started) for run in runs]
    titles = [methods()[header.method].title for header in headers]
    if len(set(titles)) == len(runs):
        return titles
    guesses = [f"{_largest(run)} guesses" for run in runs]
    if len(set(guesses)) == len(runs):
        return guesses
    differing = [key for key in headers[0].params if len({repr(header.params.get(key)) for header in headers}) > 1]
    return [", ".join(_setting(key, header.params.get(key)) for key in differing) for header in headers]


def _setting(name: str, value: object) -> str:
    words = name.replace("_", " ")
    return f"{'with' if value else 'without'} {words}" if isinstance(value, bool) else f"{words} {value}"


def _largest(events: Sequence[Event]) -> int:
    return max((len(event.nodes) - 1 for event in events if isinstance(event, Draft)), default=0)


def _pace(events: Sequence[Event]) -> float:
    commits = [event for event in events if isinstance(event, Commit)]
    if len(commits) < 2:
        raise NoAnswer("This run is too short for a pace.")
    return sum(len(event.tokens) for event in commits[1:]) / (commits[-1].time - commits[0].time)


def _seconds(events: Sequence[Event], lane: str) -> list[float]:
    """Seconds of every pass of one lane. Raises `NoAnswer` when there is none."""
    found = [event.seconds for event in events if isinstance(event, Forward) and event.lane == lane]
    if not found:
        raise NoAnswer(f"There is no {lane} pass here.")
    return found


def _milliseconds(seconds: Sequence[float]) -> Answer:
    value = 1000 * fmean(seconds)
    return Answer(f"{value:.0f}" if value >= 10 else f"{value:.1f}", number=value)


def _decimal(value: float | None, digits: int = 3) -> Answer:
    if value is None:
        raise NoAnswer("This number was not recorded.")
    return Answer(f"{value:.{digits}f}", number=value)


def _drawn(moment: Moment) -> tuple[Step, Judged]:
    found = chosen(moment.events, None)
    if found is None:
        raise NoAnswer("No drawn guess was tested here.")
    return found


def _refused(moment: Moment) -> Judged:
    judged = _drawn(moment)[1]
    if not judged.residual:
        raise NoAnswer("This guess was not refused.")
    return judged


def _others(moment: Moment, wanted: int | None = None) -> tuple[Sequence[Event], ...]:
    """The runs to compare with. Raises `NoAnswer` when there is none, or when there are not as many as wanted."""
    if not moment.others or wanted not in (None, len(moment.others)):
        raise NoAnswer("There is no run to compare with." if not moment.others else "Two runs are compared here.")
    return moment.others
