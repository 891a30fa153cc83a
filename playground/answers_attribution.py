"""What a look inside the model can answer: of guessed and measured maps, of circuits, and of the words that mattered.

Guess and truth are compared as in the picture of both (`visuals/patch_maps.py`), and a circuit is what its picture
shows (`visuals/circuit_choice.py`). A question that is asked before the truth is there is answered from the whole run
that the lesson names as the one to compare with; what its text says of the run beside it then needs that run's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import msgspec

from engines.events import Attribution, Candidates, Circuit, Contrast, Curve, Event, Patch, Score, Started, Token
from engines.method import methods
from playground.answering import ANSWERS, Answer, Moment, NoAnswer, answer, count, first, in_order, last, percent
from visuals import patch_maps
from visuals.circuit_choice import NODE_INFLUENCE, chosen, strength
from visuals.circuit_graph import COMPLETENESS, FAITHFULNESS, curves
from visuals.inside import EXACT
from visuals.spelling import plain

LOUD = 0.05
"""An effect that is a twentieth of the whole difference."""
MOST = 0.9
"""Of the behaviour, that a circuit should carry alone."""
SAME = 0.005
"""Correlations that look the same in print."""
MAPS = {"residual": "resid_pre", "attention": "attn_out", "mlp": "mlp_out"}
"""Maps by what they are called in the names of answers."""
WAYS = ("relp", "relp-ah", "attention", "leave-one-out", "reagent", "random")
"""Attributions to words, by what they are called in the names of answers."""
DISTANCE = "repo"
"""The distance between distributions that the scores go by."""


# Of the question.


@answer
def asked_pairs(moment: Moment) -> Answer:
    """How many pairs of prompts are asked at once."""
    return count(len(last(moment.events, Contrast).pairs))


@answer
def clean_prompt(moment: Moment) -> Answer:
    """The first clean prompt."""
    return Answer(_text(last(moment.events, Contrast).pairs[0].clean))


@answer
def corrupted_prompt(moment: Moment) -> Answer:
    """The first corrupted prompt."""
    return Answer(_text(last(moment.events, Contrast).pairs[0].corrupted))


@answer
def right_word(moment: Moment) -> Answer:
    """What is right after the first clean prompt."""
    return Answer(plain(last(moment.events, Contrast).pairs[0].answer))


@answer
def foil(moment: Moment) -> Answer:
    """What the explained word is set against."""
    for event in reversed(moment.events):
        if isinstance(event, Contrast):
            return Answer(plain(event.pairs[0].foil))
        if isinstance(event, Attribution) and event.foil is not None:
            return Answer(plain(event.foil))
    raise NoAnswer("Nothing is set against anything here.")


@answer
def clean_lead(moment: Moment) -> Answer:
    """The mean logit difference after the clean prompts."""
    return _number(last(moment.events, Contrast).clean)


@answer
def corrupted_lead(moment: Moment) -> Answer:
    """The mean logit difference after the corrupted prompts."""
    return _number(last(moment.events, Contrast).corrupted)


# Of guess and truth.


def _agreement(name: str, site: str, *, everywhere: bool) -> None:
    def ask(moment: Moment) -> Answer:
        """Pearson's correlation of guess and truth at one site."""
        return _number(_agreements(_whole(moment)[0], everywhere=everywhere)[site], 2)

    ANSWERS[f"agreement-{name}" + "-everywhere" * everywhere] = ask


for _name, _site in MAPS.items():
    _agreement(_name, _site, everywhere=False)
    _agreement(_name, _site, everywhere=True)


@answer
def worst_map(moment: Moment) -> Answer:
    """Which map of a guess the truth agrees with least."""
    found = _agreements(_whole(moment)[0], everywhere=False)
    return Answer(patch_maps.SITES[min(found, key=found.__getitem__)], tuple(patch_maps.SITES.values()))


@answer
def better_guess(moment: Moment) -> Answer:
    """Which of several runs guessed best what attention does."""
    runs = _whole(moment)
    values = {_called(run): _agreements(run, everywhere=False)["attn_out"] for run in runs}
    if len(values) != len(runs) or len(runs) < 2:
        raise NoAnswer("Guesses are compared here, and there is only one.")
    return Answer(max(values, key=values.__getitem__), tuple(sorted(values)))


@answer
def without_zeros(moment: Moment) -> Answer:
    """What the correlation in the residual stream does when the places where nothing can happen are left out."""
    run = _whole(moment)[0]
    change = _agreements(run, everywhere=False)["resid_pre"] - _agreements(run, everywhere=True)["resid_pre"]
    said = ("it falls", "it stays the same", "it rises")
    return Answer(said[1 if abs(change) < SAME else 2 if change > 0 else 0], said)


@answer
def zeros(moment: Moment) -> Answer:
    """The share of a map that stands before the first difference of the prompts, in percent."""
    found = _maps(moment.events)
    return percent(found.first / found.positions)


@answer
def first_difference(moment: Moment) -> Answer:
    """The first word at which the first pair's prompts differ."""
    asked = last(moment.events, Contrast)
    return Answer(plain(asked.pairs[0].clean[asked.first]))


@answer
def mlp_place(moment: Moment) -> Answer:
    """Where patching an MLP does most, as measured: its layer and the word."""
    layer, position, _, _ = _strongest_mlp(moment)
    return Answer(f"layer {layer}, at {plain(_maps(moment.events).tokens[position])}")


@answer
def mlp_effect(moment: Moment) -> Answer:
    """What patching that MLP does."""
    return _number(_strongest_mlp(moment)[2], 2)


@answer
def mlp_guess(moment: Moment) -> Answer:
    """What had been guessed of it."""
    return _number(_strongest_mlp(moment)[3], 2)


# Of the circuit.


@answer
def head_count(moment: Moment) -> Answer:
    """How many attention heads there are."""
    return count(len(_heads(moment)))


@answer
def layer_count(moment: Moment) -> Answer:
    """How many layers there are."""
    return count(1 + max(layer for layer, _ in _heads(moment)))


@answer
def loud_heads(moment: Moment) -> Answer:
    """How many heads have an effect of a twentieth of the difference, for or against."""
    return count(sum(abs(effect) >= LOUD for effect in _heads(moment).values()))


@answer
def loudest_head(moment: Moment) -> Answer:
    """The head of the greatest effect."""
    heads = _heads(moment)
    layer, unit = max(heads, key=lambda one: abs(heads[one]))
    return Answer(f"head {unit} of layer {layer}")


@answer
def loudest_head_effect(moment: Moment) -> Answer:
    """Its effect."""
    return _number(max(_heads(moment).values(), key=abs), 2)


@answer
def opposing_head(moment: Moment) -> Answer:
    """The head that works most against the answer."""
    heads = _heads(moment)
    layer, unit = min(heads, key=heads.__getitem__)
    if heads[layer, unit] >= 0:
        raise NoAnswer("No head works against the answer here.")
    return Answer(f"head {unit} of layer {layer}")


@answer
def component_count(moment: Moment) -> Answer:
    """How many heads and MLPs there are."""
    return count(len(_scores(moment)))


@answer
def influential(moment: Moment) -> Answer:
    """How many of them hold most of all influence: as many as the picture begins with."""
    sizes = sorted(map(strength, _scores(moment)), reverse=True)
    due = NODE_INFLUENCE * sum(sizes)
    return count(1 + sum(total < due for total in accumulate(sizes)))


@answer
def influence_share(moment: Moment) -> Answer:
    """The share of all influence that the picture begins with, in percent."""
    return percent(NODE_INFLUENCE)


@answer
def edge_count(moment: Moment) -> Answer:
    """How many edges there are in all."""
    return count(last(moment.events, Circuit).edge_count)


@answer
def shown_edges(moment: Moment) -> Answer:
    """How many edges are drawn."""
    return count(len(chosen(last(moment.events, Circuit))[1]))


@answer
def shown_components(moment: Moment) -> Answer:
    """How many heads and MLPs are drawn."""
    return count(_inner(last(moment.events, Circuit)))


@answer
def begun_with(moment: Moment) -> Answer:
    """How many heads and MLPs the picture had before those on no way to the answer were dropped."""
    return count(_inner(msgspec.structs.replace(last(moment.events, Circuit), edges=())))


@answer
def pruned(moment: Moment) -> Answer:
    """How many were dropped."""
    circuit = last(moment.events, Circuit)
    return count(_inner(msgspec.structs.replace(circuit, edges=())) - _inner(circuit))


@answer
def needed(moment: Moment) -> Answer:
    """How many of the strongest components carry most of the behaviour alone, among the sizes that were measured."""
    points = _curve(moment, FAITHFULNESS)
    enough = [size for size, value in points if value >= MOST]
    if not enough:
        raise NoAnswer("No circuit of this run carries the behaviour.")
    return Answer(f"{enough[0]:.0f}", tuple(f"{size:.0f}" for size, _ in points), enough[0])


@answer
def needed_carry(moment: Moment) -> Answer:
    """How much of the behaviour these carry, in percent."""
    return percent(dict(_curve(moment, FAITHFULNESS))[needed(moment).number or 0])


@answer
def smaller_carry(moment: Moment) -> Answer:
    """How much the next smaller circuit that was measured carries, in percent."""
    smaller = [value for size, value in _curve(moment, FAITHFULNESS) if size < (needed(moment).number or 0)]
    return percent(smaller[-1] if smaller else None)


@answer
def smaller_circuit(moment: Moment) -> Answer:
    """How many components that one has."""
    smaller = [size for size, _ in _curve(moment, FAITHFULNESS) if size < (needed(moment).number or 0)]
    if not smaller:
        raise NoAnswer("The smallest circuit carries the behaviour already.")
    return count(int(smaller[-1]))


@answer
def few(moment: Moment) -> Answer:
    """The smallest circuit that was measured."""
    return count(int(_curve(moment, FAITHFULNESS)[0][0]))


@answer
def few_carry(moment: Moment) -> Answer:
    """How much of the behaviour it carries alone, in percent."""
    return percent(_curve(moment, FAITHFULNESS)[0][1])


@answer
def left_without_few(moment: Moment) -> Answer:
    """How much of the behaviour is left when it is taken away, in percent."""
    return percent(_curve(moment, COMPLETENESS)[0][1])


# Of words.


def _of_words(how: str) -> None:
    """Registers what can be asked of one attribution."""

    def top(moment: Moment) -> Answer:
        """The word that mattered most."""
        row = _row(moment, how)
        best = _top(row)
        return Answer(plain(row.context[best]), in_order([plain(token) for token in row.context]))

    def top_score(moment: Moment) -> Answer:
        """Its score."""
        row = _row(moment, how)
        return _number(row.scores[_top(row)])

    def total(moment: Moment) -> Answer:
        """The sum of all scores."""
        return _number(math.fsum(_row(moment, how).scores))

    def deleted(moment: Moment) -> Answer:
        """The target's probability without the word of the highest score, in percent."""
        for event in _whole(moment)[0]:
            if isinstance(event, Curve) and event.name == f"deletion, {how}":
                return percent(event.y[1])
        raise NoAnswer("No words were deleted in this run.")

    asks: dict[str, Callable[[Moment], Answer]] = {
        "top": top,
        "top-score": top_score,
        "total": total,
        "deleted": deleted,
    }
    for metric in ("Soft-NS", "Soft-NC"):
        asks |= _of_metric(metric, how)
    for name, ask in asks.items():
        ANSWERS[f"{name}-{how}"] = ask


def _of_metric(metric: str, how: str) -> dict[str, Callable[[Moment], Answer]]:
    """What a metric says of one attribution: against chance, and as it is."""

    def score(moment: Moment) -> Score:
        found = _metric(moment, metric)
        if how not in found:
            raise NoAnswer(f"{metric} of {how} was not measured here.")
        return found[how]

    return {
        metric.lower(): lambda moment: _number(score(moment).value, 2, sign=True),
        f"unscaled-{metric.lower()}": lambda moment: _number(score(moment).parts[DISTANCE], 2),
    }


for _how in WAYS:
    _of_words(_how)


@answer
def explained_word(moment: Moment) -> Answer:
    """The word that is explained."""
    return Answer(plain(last(moment.events, Attribution).target))


@answer
def explained_probability(moment: Moment) -> Answer:
    """Its probability, in percent."""
    return percent(last(moment.events, Attribution).before)


@answer
def attention_share(moment: Moment) -> Answer:
    """How much of its attention the last word gives to the word that gets most, in percent."""
    row = _row(moment, "attention")
    return percent(row.scores[_top(row)])


@answer
def effect_of_attended(moment: Moment) -> Answer:
    """What the lead of the explained word loses when the word that gets most attention is left out."""
    attended = _top(_row(moment, "attention"))
    return _number(_row(moment, "leave-one-out").scores[attended])


@answer
def lead(moment: Moment) -> Answer:
    """The logit difference of the explained word and its foil, from their probabilities."""
    row = next((one for one in moment.events if isinstance(one, Attribution) and one.foil is not None), None)
    if row is None or row.foil is None:
        raise NoAnswer("Nothing is set against anything here.")
    known = {choice.token.id: choice.p for choice in first(moment.events, Candidates).raw}
    p, q = known.get(row.target.id), known.get(row.foil.id)
    if not p or not q:
        raise NoAnswer("The foil's probability was not recorded.")
    return _number(math.log(p / q))


@answer
def ways(moment: Moment) -> Answer:
    """How many attributions were asked for, that of chance left out."""
    return count(len(_methods(moment, "Soft-NC")))


@answer
def best_comprehensive(moment: Moment) -> Answer:
    """Whose important words the model misses most."""
    return _best(moment, "Soft-NC")


@answer
def best_sufficient(moment: Moment) -> Answer:
    """Whose important words are enough for the model, more than anyone else's."""
    return _best(moment, "Soft-NS")


@answer
def worse_than_chance(moment: Moment) -> Answer:
    """How many attributions do worse than random colours, by what the model misses."""
    found = _methods(moment, "Soft-NC")
    return count(sum(one.value < 0 for one in found.values()), len(found))


@answer
def unscaled_chance(moment: Moment) -> Answer:
    """The mean Soft-NC of random scores as it is, to which all others are compared."""
    parts = _metric(moment, "Soft-NC")["random"].parts
    return _number(parts[DISTANCE] / math.exp(parts[f"{DISTANCE}, log ratio"]), 2)


def _number(value: float | None, digits: int = 1, *, sign: bool = False) -> Answer:
    if value is None:
        raise NoAnswer("This was not measured.")
    text = f"{value:{'+' * sign}.{digits}f}"
    return Answer(text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-"), number=value)


def _text(tokens: Sequence[Token]) -> str:
    """A prompt without its special tokens, in one line."""
    return " ".join("".join(token.text for token in tokens if not token.text.startswith("<|")).split())


def _whole(moment: Moment) -> tuple[Sequence[Event], ...]:
    """The runs that are compared, or else the one that is shown."""
    return moment.others or (moment.events,)


def _called(run: Sequence[Event]) -> str:
    header = first(run, Started)
    title = methods()[header.method].title
    return f"{title}, attention frozen" if header.params.get("ah") else title


def _maps(run: Sequence[Event]) -> patch_maps.Known:
    found = patch_maps.latest(run)
    if found is None:
        raise NoAnswer("No place of the model was patched here.")
    return found


def _agreements(run: Sequence[Event], *, everywhere: bool) -> dict[str, float]:
    """Correlation of the latest guess with the truth by site, from the first difference on or over all positions."""
    found = _maps(run)
    if not found.estimates or not found.exact:
        raise NoAnswer("This run does not hold both a guess and the truth.")
    values = {maps.site: found.agreement(maps, found.estimates[-1])[not everywhere] for maps in found.sites}
    known = {site: value for site, value in values.items() if value is not None}
    if set(known) != set(patch_maps.SITES):
        raise NoAnswer("Not every map was measured in this run.")
    return known


def _strongest_mlp(moment: Moment) -> tuple[int, int, float, float]:
    """Layer and position of the greatest measured effect of an MLP, the effect, and what was guessed."""
    found = _maps(moment.events)
    grids = next((maps.grids for maps in found.sites if maps.site == "mlp_out"), {})
    cells = [
        (layer, position, effect)
        for layer, effects in grids.get(EXACT, {}).items()
        for position, effect in enumerate(effects)
        if effect is not None
    ]
    if not cells or not found.estimates:
        raise NoAnswer("No MLP was measured here.")
    layer, position, effect = max(cells, key=lambda cell: abs(cell[2]))
    return layer, position, effect, grids[found.estimates[-1]][layer][position] or 0.0


def _heads(moment: Moment) -> dict[tuple[int, int], float]:
    """Guessed effects by layer and head."""
    found = {
        (event.layer, unit): effect
        for event in moment.events
        if isinstance(event, Patch) and event.along == "head" and event.how != EXACT
        for unit, effect in enumerate(event.effects)
        if effect is not None
    }
    if not found:
        raise NoAnswer("No head was patched here.")
    return found


def _scores(moment: Moment) -> list[float]:
    """Scores of all heads and MLPs."""
    return [node.score for node in last(moment.events, Circuit).nodes if node.kind in ("head", "mlp")]


def _inner(circuit: Circuit) -> int:
    return sum(node.kind in ("head", "mlp") for node in chosen(circuit)[0])


def _curve(moment: Moment, name: str) -> list[tuple[float, float]]:
    """Points by size of the circuit."""
    points = curves(_whole(moment)[0]).get(name)
    if not points:
        raise NoAnswer(f"The {name} of no circuit was measured here.")
    return points


def _row(moment: Moment, how: str) -> Attribution:
    """The latest answer of a method."""
    for event in reversed(_whole(moment)[0]):
        if isinstance(event, Attribution) and event.how == how:
            return event
    raise NoAnswer(f"The words were not scored by {how} here.")


def _top(row: Attribution) -> int:
    return max(range(len(row.scores)), key=lambda index: abs(row.scores[index]))


def _metric(moment: Moment, name: str) -> dict[str, Score]:
    """A metric by method."""
    found = {event.text: event for event in _whole(moment)[0] if isinstance(event, Score) and event.name == name}
    if not found:
        raise NoAnswer("No attribution was put to the test here.")
    return found


def _methods(moment: Moment, name: str) -> dict[str, Score]:
    return {how: score for how, score in _metric(moment, name).items() if how != "random"}


def _best(moment: Moment, name: str) -> Answer:
    found = _metric(moment, name)
    names = {how: how.replace("-", " ") for how in found}
    return Answer(names[max(found, key=lambda how: found[how].value)], tuple(sorted(names.values())))
