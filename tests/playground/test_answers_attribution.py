"""What lessons say about a model's inside, checked on streams whose numbers can be worked out by hand."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from engines.events import (
    Attribution,
    Candidates,
    Choice,
    Circuit,
    CircuitEdge,
    CircuitNode,
    Contrast,
    Curve,
    Event,
    Pair,
    Patch,
    Score,
    Token,
)
from playground.answers import ANSWERS, Answer, NoAnswer
from playground.lessons import Step, answered, asked_about, load
from playground.moments import moment, named
from playground.ui.shelf import RECORDED, RECORDED_RUN, read_recording
from tests.playground.guessed_runs import A, B, started

BOS, C = Token(9, "<|s|>"), Token(2, "C")
SITES = ("resid_pre", "attn_out", "mlp_out")


def value(name: str, events: list[Event], *others: list[Event], step: str | int = "last") -> str:
    return ANSWERS[name](moment(events, step, *others)).value


def contrast(first: int = 2) -> Contrast:
    pairs = (Pair((BOS, A, B, C), (BOS, A, C, C), B, C, 3.0, -1.0),) * 2
    return Contrast(task="t", metric="m", pairs=pairs, first=first, clean=3.04, corrupted=-1.0)


def rows(how: str, *layers: tuple[float, ...]) -> list[Event]:
    return [
        Patch(site=site, layer=layer, how=how, effects=effects)  # type: ignore[arg-type]
        for site in SITES
        for layer, effects in enumerate(layers)
    ]


GUESS = ((0.0, 0.0, 0.5, 0.2), (0.0, 0.0, 0.1, 0.6))
TRUTH = ((0.0, 0.0, 0.9, 0.1), (0.0, 0.0, -0.3, 0.4))


def inside(method: str = "relp", guess: tuple[tuple[float, ...], ...] = GUESS, **params: bool) -> list[Event]:
    """A guess, with its circuit, and the truth."""
    heads = [Patch(site="head", layer=layer, how="relp", effects=(0.5, -0.3, 0.04), along="head") for layer in (0, 1)]
    return [
        started(method, **params),
        contrast(),
        *rows("relp", *guess),
        *heads,
        circuit(),
        *rows("exact", *TRUTH),
    ]


def circuit(*edges: CircuitEdge) -> Circuit:
    """Four heads: the first two hold 0.7 of all influence, three of them 0.9."""
    scores = {"a0.0": 0.4, "a0.1": -0.3, "a1.0": 0.2, "a1.1": 0.1}
    nodes = [CircuitNode(id, "head", int(id[1]), int(id[3]), score) for id, score in scores.items()]
    ends = [CircuitNode("embed", "embedding", -1, None, 0.9), CircuitNode("logits", "logits", 2, None, 1.0)]
    return Circuit(how="relp", nodes=(*nodes, *ends), edges=edges, edge_count=1234)


def correlation(guess: Any, truth: Any, first: int) -> str:
    one, other = (np.asarray(one)[:, first:].ravel() for one in (guess, truth))
    return f"{np.corrcoef(one, other)[0, 1]:.2f}"


def test_the_question_is_told_without_special_tokens() -> None:
    run = inside()
    names = ("asked-pairs", "clean-prompt", "corrupted-prompt", "right-word", "foil", "clean-lead", "corrupted-lead")
    assert [value(name, run) for name in names] == ["2", "ABC", "ACC", "B", "C", "3.0", "−1.0"]
    assert (value("first-difference", run), value("zeros", run)) == ("B", "50 %")


@pytest.mark.parametrize("name", ["residual", "attention", "mlp"])
def test_agreement_is_pearsons_with_and_without_the_places_where_nothing_can_happen(name: str) -> None:
    with_zeros, without = correlation(GUESS, TRUTH, 0), correlation(GUESS, TRUTH, 2)
    assert with_zeros != without
    assert value(f"agreement-{name}-everywhere", inside()) == with_zeros
    assert value(f"agreement-{name}", inside()) == without


def test_leaving_out_the_zeros_lowers_raises_or_keeps_the_number() -> None:
    vague = ((0.0, 0.0, 0.4, 0.6), (0.0, 0.0, 0.3, 0.1))
    assert value("without-zeros", inside()) == "it rises"
    assert value("without-zeros", inside(guess=vague)) == "it falls"
    assert value("without-zeros", inside(guess=TRUTH)) == "it stays the same"
    assert value("without-zeros", inside(), inside(guess=vague)) == "it falls"


def spoilt(run: list[Event], site: str) -> list[Event]:
    """The run with one map guessed the wrong way round."""
    return [
        msgspec.structs.replace(event, effects=tuple(-one for one in TRUTH[event.layer]))
        if isinstance(event, Patch) and (event.site, event.how) == (site, "relp")
        else event
        for event in run
    ]


def test_the_worst_map_is_that_of_the_run_to_compare_with() -> None:
    run = inside()
    asked = ANSWERS["worst-map"](moment(run, "first estimate", spoilt(run, "mlp_out")))
    assert asked == Answer("MLP", ("residual stream", "attention", "MLP"))
    with pytest.raises(NoAnswer, match="both a guess and the truth"):
        value("worst-map", run, step="first estimate")


def test_the_better_guess_is_told_by_method_and_rule() -> None:
    good, frozen = inside(guess=TRUTH), inside(ah=True)
    asked = ANSWERS["better-guess"](moment(good, "first estimate", frozen, good))
    assert asked == Answer("Relevance patching", ("Relevance patching", "Relevance patching, attention frozen"))
    assert ANSWERS["better-guess"](moment(good, "last", frozen, spoilt(good, "mlp_out"))) == asked
    bad, better = inside("attribution-patching", guess=TRUTH), inside()
    assert ANSWERS["better-guess"](moment(good, "last", better, bad)).value == "Attribution patching"
    with pytest.raises(NoAnswer, match="only one"):
        value("better-guess", good)


def test_the_strongest_mlp_is_found_in_the_truth() -> None:
    assert [value(name, inside()) for name in ("mlp-place", "mlp-effect", "mlp-guess")] == [
        "layer 0, at B",
        "0.90",
        "0.50",
    ]


def test_heads_are_counted_by_the_size_of_their_effect() -> None:
    run = inside()
    names = ("head-count", "layer-count", "loud-heads", "loudest-head", "loudest-head-effect", "opposing-head")
    assert [value(name, run) for name in names] == [
        "6",
        "2",
        "4",
        "head 0 of layer 0",
        "0.50",
        "head 1 of layer 0",
    ]


def test_the_circuit_is_the_one_that_is_drawn() -> None:
    edges = (
        CircuitEdge("embed", "a0.0", "q", 0.5),
        CircuitEdge("a0.0", "logits", "logits", 0.5),
        CircuitEdge("a0.1", "logits", "logits", 0.4),  # nothing speaks to it
        CircuitEdge("embed", "a1.0", "q", 0.3),
        CircuitEdge("a1.0", "logits", "logits", 0.3),
    )
    run: list[Event] = [started("relp"), contrast(), circuit(*edges)]
    names = ("component-count", "influential", "begun-with", "shown-components", "pruned", "shown-edges", "edge-count")
    assert [value(name, run) for name in names] == ["4", "3", "3", "2", "1", "4", "1,234"]


def curve(name: str, *points: tuple[float, float]) -> list[Event]:
    return [Curve(name=name, x_name="nodes kept", y_name=name, x=(x,), y=(y,)) for x, y in points]


def test_a_circuit_carries_the_behaviour_from_some_size_on() -> None:
    run: list[Event] = [started("relp"), circuit(), *curve("faithfulness", (5, 0.2), (10, 0.6), (20, 0.9), (40, 0.95))]
    run += curve("completeness", (5, 0.3), (10, 0.0))
    asked = ANSWERS["needed"](moment(run, "last"))
    assert (asked.value, asked.options) == ("20", ("5", "10", "20", "40"))
    names = ("needed-carry", "smaller-circuit", "smaller-carry", "few", "few-carry", "left-without-few")
    assert [value(name, run) for name in names] == ["90 %", "10", "60 %", "5", "20 %", "30 %"]
    with pytest.raises(NoAnswer, match="No circuit"):
        value("needed", [started("relp"), circuit(), *curve("faithfulness", (5, 0.2)), *curve("completeness", (5, 0))])


def coloured(how: str, scores: tuple[float, ...], foil: Token | None = C) -> Attribution:
    return Attribution(how=how, position=3, target=B, foil=foil, context=(A, B, C), scores=scores, before=0.6)


def judged(how: str, value: float, plain: float, metric: str = "Soft-NC") -> Score:
    return Score(name=metric, value=value, parts={"repo": plain, "repo, log ratio": value}, text=how)


def words() -> list[Event]:
    ranked = (Choice(B, 0.6), Choice(A, 0.2), Choice(C, 0.1))
    return [
        started("token-attribution"),
        Candidates(position=3, raw=ranked, entropy=1.0),
        coloured("relp-ah", (0.5, -2.0, 0.25)),
        coloured("attention", (0.75, 0.15, 0.1), None),
        coloured("leave-one-out", (-0.5, 1.5, 0.2)),
        coloured("random", (0.2, 0.3, 0.5), None),
        judged("relp-ah", -0.2, 0.3),
        judged("attention", -0.7, 0.2),
        judged("leave-one-out", 0.6, 0.8),
        judged("random", math.log(0.5), 0.2),
        judged("relp-ah", 0.3, 0.1, "Soft-NS"),
        judged("attention", 0.1, 0.1, "Soft-NS"),
        Curve(name="deletion, attention", x_name="x", y_name="y", x=(0.0, 1.0, 2.0), y=(0.6, 0.4, 0.1)),
    ]


def test_words_are_ranked_by_the_size_of_their_score() -> None:
    run = words()
    assert ANSWERS["top-relp-ah"](moment(run, "last")) == Answer("B", ("A", "B", "C"))
    names = ("top-score-relp-ah", "total-relp-ah", "top-attention", "attention-share", "effect-of-attended")
    assert [value(name, run) for name in names] == ["−2.0", "−1.2", "A", "75 %", "−0.5"]
    assert (value("explained-word", run), value("explained-probability", run), value("foil", run)) == ("B", "60 %", "C")
    assert value("lead", run) == f"{math.log(6):.1f}"
    assert value("deleted-attention", run) == "40 %"


def test_another_foil_is_asked_of_the_other_run() -> None:
    other = [started("token-attribution"), coloured("leave-one-out", (0.1, 0.2, 3.0), A)]
    assert value("top-leave-one-out", words(), other) == "C"
    assert value("top-leave-one-out", words()) == "B"


def test_attributions_are_judged_against_chance() -> None:
    run = words()
    assert ANSWERS["worse-than-chance"](moment(run, "last")) == Answer("2", ("0", "1", "2", "3"), 2)
    assert value("ways", run) == "3"
    assert value("best-comprehensive", run) == "leave one out"
    assert value("best-sufficient", run) == "relp ah"
    assert (value("soft-nc-attention", run), value("soft-nc-leave-one-out", run)) == ("−0.70", "+0.60")
    assert (value("unscaled-soft-nc-relp-ah", run), value("unscaled-chance", run)) == ("0.30", "0.40")


@pytest.mark.parametrize("name", ["top-reagent", "soft-nc-reagent", "deleted-reagent", "mlp-place", "needed", "zeros"])
def test_what_was_not_asked_has_no_answer(name: str) -> None:
    with pytest.raises(NoAnswer):
        value(name, words())


def test_moments_inside_a_model_are_found_by_name() -> None:
    run = inside()
    names = ("first estimate", "last estimate", "first measured row", "last measured row")
    assert [named(run, name) for name in names] == [1, 1, 2, 7]
    assert (named(words(), "first attention row"), named(words(), "first leave-one-out row")) == (2, 3)


# The lessons' words, which hold for these answers and no others.


@cache
def runs(id: str) -> list[Event]:
    return read_recording(RECORDED, id.removeprefix(RECORDED_RUN))


@cache
def questions(lesson: str) -> list[Step]:
    return [step for step in load(runs)[lesson].steps if step.ask]


def truths(lesson: str) -> list[Answer]:
    return [
        answered(step.ask, asked_about(step.show, step.ask, runs))
        for step in questions(lesson)
        if step.ask and step.show
    ]


def told(name: str, run: str) -> float:
    number = ANSWERS[name](moment(runs(run), "last")).number
    assert number is not None
    return number


def test_attention_goes_to_the_first_token_and_explains_nothing() -> None:
    looked, needed, deleted = truths("attention-is-not-explanation")
    first = next(event for event in runs("why-capital") if isinstance(event, Attribution)).context[0]
    assert (looked.value, needed.value) == (first.text, "␣France")
    assert told("effect-of-attended", "why-capital") < 0 < told("soft-nc-leave-one-out", "why-capital")
    assert told("soft-nc-attention", "why-capital") < 0
    assert (deleted.number or 0) < told("deleted-relp", "why-capital") < told("deleted-attention", "why-capital")


def test_the_rules_mend_the_map_of_the_mlps() -> None:
    worst, mended = truths("the-guess-and-the-truth")
    assert worst.value == "MLP"
    assert (mended.number or 0) > told("agreement-mlp", "atp-ioi") + 0.2
    assert told("mlp-effect", "atp-ioi") > 2 * told("mlp-guess", "relp-ioi") > 4 * told("mlp-guess", "atp-ioi")
    assert told("agreement-attention", "relp-ioi") > told("agreement-attention", "atp-ioi") > 0.8


def test_circuits_of_a_wrong_estimate_are_larger() -> None:
    loud, needed, left = truths("from-heatmap-to-circuit")
    assert (loud.number or 0) < told("head-count", "relp-ioi") / 20
    assert (needed.number or 0) < told("needed", "atp-ioi")
    assert told("left-without-few", "relp-ioi") < 5 < told("few-carry", "relp-ioi") < 50 < (left.number or 0)
    assert told("pruned", "relp-ioi") > 1


def test_what_flatters_an_attribution() -> None:
    zeros, frozen, foil, chance = truths("how-to-lie-with-attributions")
    assert (zeros.value, frozen.value, foil.value) == ("it falls", "Relevance patching", "␣city")
    assert abs(told("total-relp-ah", "why-capital") - told("lead", "why-capital")) < 0.1
    assert abs(told("total-relp", "why-capital") - told("lead", "why-capital")) > 0.5
    assert (chance.number or 0) > 1
    assert told("unscaled-soft-nc-relp", "why-capital") < told("unscaled-chance", "why-capital")
