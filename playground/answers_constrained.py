"""What a constrained run can answer: of one mask, and of what all masks took from the model."""

from __future__ import annotations

import math
from collections import Counter

from engines.events import Choice, Commit, Mask, Particles, Score, Suggestions, Trials
from playground.answering import Answer, Moment, NoAnswer, answer, count, in_order, last, percent
from visuals.spelling import plain

OFFERED = 3
"""Tokens of each side to choose from."""
PARTS = ((1, "one"), (10, "2 to 10"), (1000, "11 to 1,000"))
"""How many tokens a mask leaves: up to how many, and its name."""
BEYOND = "more than 1,000"


@answer
def allowed(moment: Moment) -> Answer:
    """How many tokens the mask of this step left."""
    return count(last(moment.step, Mask).allowed)


@answer
def allowed_roughly(moment: Moment) -> Answer:
    """The same to choose from a row."""
    number = last(moment.step, Mask).allowed
    name = next((name for most, name in PARTS if number <= most), BEYOND)
    return Answer(name, (*(name for _, name in PARTS), BEYOND))


@answer
def vocabulary(moment: Moment) -> Answer:
    """How many tokens the model knows."""
    return count(last(moment.step, Mask).vocabulary)


@answer
def blocked(moment: Moment) -> Answer:
    """How much of the model's probability the mask of this step took away, in percent."""
    return percent(last(moment.step, Mask).blocked_mass)


@answer
def wish(moment: Moment) -> Answer:
    """The blocked token that the model wanted most, among what it wanted and could have."""
    mask = last(moment.step, Mask)
    if not mask.wanted:
        raise NoAnswer("Nothing that the model wanted was blocked in this step.")
    return Answer(plain(mask.wanted[0].token), _offered(mask.wanted, mask.permitted))


@answer
def wish_share(moment: Moment) -> Answer:
    """The model's probability of that token."""
    mask = last(moment.step, Mask)
    return percent(mask.wanted[0].p if mask.wanted else None)


@answer
def consolation(moment: Moment) -> Answer:
    """The token that was written in this step."""
    return Answer(plain(last(moment.step, Commit).tokens[0].token))


@answer
def consolation_share(moment: Moment) -> Answer:
    """The model's own probability of it, before the mask."""
    return percent(last(moment.step, Commit).tokens[0].raw)


@answer
def choices_left(moment: Moment) -> Answer:
    """The allowed tokens that the model finds most probable, in order."""
    tokens = [f"`{plain(choice.token)}`" for choice in last(moment.step, Mask).permitted]
    return Answer(", ".join(tokens))


@answer
def heavy_masks(moment: Moment) -> Answer:
    """In how many steps so far more than half of the probability was blocked."""
    return count(sum(mask.blocked_mass > 0.5 for mask in _masks(moment)))


@answer
def masks(moment: Moment) -> Answer:
    """How many masks there were so far."""
    return count(len(_masks(moment)))


@answer
def given_up(moment: Moment) -> Answer:
    """Log-probability that the masks have cost so far: -Σ ln(1 - blocked), in nats."""
    lost = -sum(math.log(max(1e-12, 1 - mask.blocked_mass)) for mask in _masks(moment))
    return Answer(f"{lost:.1f}", number=lost)


@answer
def longer_odds(moment: Moment) -> Answer:
    """How seldom the model would have kept to the language by itself as far as this: once in so many tries."""
    lost = -sum(math.log(max(1e-12, 1 - mask.blocked_mass)) for mask in _masks(moment))
    odds = math.exp(min(lost, 60.0))
    if odds < 1e6:
        return Answer(f"{odds:,.0f}", number=odds)
    return Answer(f"10^{round(math.log10(odds))}", number=odds)


@answer
def mask_time(moment: Moment) -> Answer:
    """Milliseconds that the mask of this step took."""
    seconds = last(moment.step, Mask).seconds
    return Answer(f"{1000 * seconds:.2f}", number=1000 * seconds)


# Of many texts drawn one after another (ASAp): one score for each, named by what it is worth.


@answer
def draws(moment: Moment) -> Answer:
    """How many texts were drawn, also those that came to nothing."""
    return count(len(_drawn(moment)))


@answer
def most_drawn(moment: Moment) -> Answer:
    """The text that came out most often, among all that did."""
    texts = _texts(moment)
    return Answer(texts.most_common(1)[0][0], tuple(sorted(texts)))


@answer
def most_drawn_share(moment: Moment) -> Answer:
    """Its share of all texts that came out, in percent."""
    texts = _texts(moment)
    return percent(texts.most_common(1)[0][1] / texts.total())


@answer
def valid_share(moment: Moment) -> Answer:
    """The model's own probability of a valid text, P(L): once in so many tries."""
    share = _part(_drawn(moment)[0], "P(L)")
    return Answer(f"{1 / share:,.0f}", number=1 / share)


@answer
def distance_first(moment: Moment) -> Answer:
    """How far the law of the first text was from the model's own among valid texts, in percent."""
    return percent(_part(_drawn(moment)[0], "distance before"))


@answer
def distance_last(moment: Moment) -> Answer:
    """How far the law of the next text would be from it."""
    return percent(_part(_drawn(moment)[-1], "distance after"))


# Of an analyser that watches code.


@answer
def offered(moment: Moment) -> Answer:
    """The names that the analyser gave at the last trigger."""
    return Answer(", ".join(f"`{one.name}`" for one in _asked(moment).suggestions))


@answer
def offered_count(moment: Moment) -> Answer:
    """How many these were."""
    return count(_asked(moment).count)


@answer
def offered_best(moment: Moment) -> Answer:
    """The one among them that the model finds most probable."""
    names = _asked(moment).suggestions
    best = max(names, key=lambda one: one.p or 0.0)
    return Answer(best.name, tuple(sorted(one.name for one in names)))


@answer
def written_name(moment: Moment) -> Answer:
    """The name that was written at the first trigger that was finished."""
    for event in moment.events:
        if isinstance(event, Suggestions) and event.state == "finished":
            return Answer(event.trigger.rpartition(".")[2])
    raise NoAnswer("No name was finished in this run.")


def _asked(moment: Moment) -> Suggestions:
    found = [event for event in moment.events if isinstance(event, Suggestions) and event.state == "asked"]
    if not found or not found[-1].suggestions:
        raise NoAnswer("No analyser was asked here.")
    return found[-1]


# Of weighted texts side by side (AWRS).


@answer
def particles(moment: Moment) -> Answer:
    """How many texts there are."""
    return count(len(last(moment.events, Particles).particles))


@answer
def tests_made(moment: Moment) -> Answer:
    """How many tokens were tested so far, by all texts."""
    return count(sum(trial.tests for trial in _trials(moment)))


@answer
def tests_per_choice(moment: Moment) -> Answer:
    """How many tokens were tested for one choice, on average."""
    found = _trials(moment)
    mean = sum(trial.tests for trial in found) / len(found)
    return Answer(f"{mean:.1f}", number=mean)


@answer
def evidence(moment: Moment) -> Answer:
    """The mean weight, an estimate of P(L): once in so many tries."""
    value = next((one.value for one in reversed(_scores(moment)) if one.name == "log evidence"), None)
    if value is None:
        raise NoAnswer("This run made no estimate.")
    return Answer(f"{math.exp(-value):,.0f}", number=math.exp(-value))


@answer
def heaviest(moment: Moment) -> Answer:
    """The text with the greatest share of the weight."""
    shares = {one.text: one.value for one in _scores(moment) if one.name == "posterior"}
    if not shares:
        raise NoAnswer("No text of this run has a weight.")
    return Answer(max(shares, key=shares.__getitem__), tuple(sorted(shares)))


@answer
def heaviest_share(moment: Moment) -> Answer:
    """Its share."""
    shares = [one.value for one in _scores(moment) if one.name == "posterior"]
    return percent(max(shares, default=None))


def _trials(moment: Moment) -> list[Trials]:
    found = [event for event in moment.events if isinstance(event, Trials)]
    if not found:
        raise NoAnswer("No token of this run was tested by itself.")
    return found


def _scores(moment: Moment) -> list[Score]:
    return [event for event in moment.events if isinstance(event, Score)]


def _drawn(moment: Moment) -> list[Score]:
    found = [
        event for event in moment.events if isinstance(event, Score) and not event.chosen and "output" in event.parts
    ]
    if not found:
        raise NoAnswer("No texts were drawn one after another in this run.")
    return found


def _texts(moment: Moment) -> Counter[str]:
    return Counter(score.text for score in _drawn(moment) if score.parts["output"])


def _part(score: Score, name: str) -> float:
    if name not in score.parts:
        raise NoAnswer("This language is too large to know its exact law.")
    return score.parts[name]


def _masks(moment: Moment) -> list[Mask]:
    found = [event for event in moment.events if isinstance(event, Mask)]
    if not found:
        raise NoAnswer("Nothing was masked in this run.")
    return found


def _offered(*rows: tuple[Choice, ...]) -> tuple[str, ...]:
    return in_order([plain(choice.token) for row in rows for choice in row[:OFFERED]])
