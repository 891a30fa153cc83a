"""Relevance patching on the shipped model: its laws, its anchors, and how much better it guesses than the gradient.

The numbers of the last section are what was measured on prompts of our own, rounded towards the safe side.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import torch
from torch import Tensor

from engines.attribution import exact
from engines.attribution.circuit import Faithfulness, components, metric_of, strongest
from engines.attribution.estimate import (
    STREAM_SITES,
    Estimate,
    Runs,
    compare,
    edge_matrix,
    estimate,
)
from engines.attribution.questions import Question, of_task
from engines.attribution.relp import pearson
from engines.events import Candidates, Commit, Event, Site
from engines.models.causal import CausalModel
from engines.models.rules import ATTNLRP, GRADIENT, RELP, RELP_AH, Rules
from engines.models.white_box import WhiteBox
from engines.runner import run


@pytest.fixture(scope="module")
def box(smollm: CausalModel) -> WhiteBox:
    return WhiteBox(smollm.network)


@pytest.fixture(scope="module")
def asked(smollm: CausalModel) -> Question:
    """Four pairs of prompts about indirect objects, each in both orders."""
    return of_task(smollm, "ioi", 8)


@pytest.fixture(scope="module")
def runs(box: WhiteBox, asked: Question) -> Runs:
    return compare(box, asked, gradients=False, keep=("sites", "keys"))


@pytest.fixture(scope="module")
def relp(box: WhiteBox, asked: Question) -> Estimate:
    return estimate(box, asked, "relp", RELP)


@pytest.fixture(scope="module")
def gradient(box: WhiteBox, asked: Question) -> Estimate:
    return estimate(box, asked, "attribution-patching", GRADIENT)


@pytest.fixture(scope="module")
def measured(box: WhiteBox, runs: Runs, asked: Question) -> dict[str, Tensor]:
    """The exact maps, (layers, tokens) each."""
    maps: dict[str, Tensor] = {site: torch.zeros(box.layers, asked.length) for site in STREAM_SITES}
    for row in exact.maps(box, runs, STREAM_SITES):
        maps[row.site][row.layer] = torch.tensor(row.effects)
    return maps


# Laws


def test_the_plan_is_believed_and_every_rule_is_known(box: WhiteBox) -> None:
    assert box.anatomy.plan == "llama"
    assert box.rules_known == Rules(True, True, True, True, True)


@pytest.mark.parametrize("rules", [GRADIENT, RELP, RELP_AH, ATTNLRP], ids=str)
def test_rules_leave_what_is_said_alone(smollm: CausalModel, box: WhiteBox, asked: Question, rules: Rules) -> None:
    ids = asked.clean[:2]
    with torch.no_grad():
        own = smollm.network(ids).logits[:, -1]
    assert (box.read(ids, rules=rules, gradients=True).logits - own).abs().max() < 1e-4


def relevance(box: WhiteBox, question: Question, rules: Rules) -> tuple[float, float]:
    """Σ embedding · coefficient, and LD, of the first pair's corrupted prompt."""
    trace = box.read(question.corrupted[:1], rules=rules, gradients=True)
    difference = trace.logits[0, question.answers[0]] - trace.logits[0, question.foils[0]]
    assert trace.embedding is not None
    (coefficient,) = box.backward(difference, [trace.embedding])
    return float((trace.embedding.detach() * coefficient).sum()), float(difference.detach())


def test_with_constant_patterns_all_relevance_arrives_at_the_embeddings(box: WhiteBox, asked: Question) -> None:
    arrived, difference = relevance(box, asked, RELP_AH)
    assert arrived == pytest.approx(difference, abs=1e-3)
    assert abs(difference) > 1


@pytest.mark.parametrize("rules", [GRADIENT, RELP, ATTNLRP, Rules(ln=True, half=True, ah=True)], ids=str)
def test_without_them_it_does_not(box: WhiteBox, asked: Question, rules: Rules) -> None:
    arrived, difference = relevance(box, asked, rules)
    assert abs(arrived - difference) > 0.1


def test_nothing_before_the_first_token_that_differs_has_a_score(
    relp: Estimate, gradient: Estimate, asked: Question
) -> None:
    assert asked.first > 5
    for found in (relp, gradient):
        assert set(found.sites) == {*STREAM_SITES, "head"}
        for scores in found.sites.values():
            assert not scores[..., : asked.first].any()
            assert scores[..., asked.first].any()


def test_what_leaves_a_writer_through_its_readers_is_its_score(box: WhiteBox, smollm: CausalModel) -> None:
    question = of_task(smollm, "ioi", 2)
    for rules in (GRADIENT, RELP):
        runs = compare(box, question, "denoise", rules, keep=("sites", "readers"))
        base = runs.base
        tensors = [base.resid_pre[-1], *base.mlp_in, *(part for parts in base.projected for part in parts)]
        coefficients = box.backward(runs.metric(question.difference(base.logits)), tensors)
        writers, _, scores = edge_matrix(box, runs, rules, coefficients)
        found = estimate(box, question, "", rules)
        sums = scores.nan_to_num(0.0).sum(1)
        assert max(abs(float(total) - found.node(id)) for id, total in zip(writers, sums, strict=True)) < 1e-4


def test_pairs_in_both_orders_are_scored_alike_from_either_side(box: WhiteBox, relp: Estimate, asked: Question) -> None:
    noised = estimate(box, asked, "relp", RELP, "noise")
    for site, scores in relp.sites.items():
        assert torch.allclose(noised.sites[site], -scores, atol=1e-5), site
    assert strongest(noised, box, 100) == strongest(relp, box, 100)


def test_one_sided_pairs_are_not(box: WhiteBox, asked: Question) -> None:
    sided = Question("ioi", asked.clean[::2], asked.corrupted[::2], asked.answers[::2], asked.foils[::2])
    one, other = (estimate(box, sided, "relp", RELP, direction) for direction in ("denoise", "noise"))
    assert not torch.allclose(one.sites["mlp_out"], -other.sites["mlp_out"], atol=1e-2)


def test_a_decode_beside_a_relevance_run_writes_what_it_writes_alone(smollm: CausalModel) -> None:
    def decode() -> Iterator[Event]:
        return run(smollm, "greedy", "Name a colour.", max_new_tokens=6)

    def told(event: Event) -> Event:
        return msgspec.structs.replace(event, seq=0, time=0.0)

    alone = [told(event) for event in decode() if isinstance(event, (Commit, Candidates))]
    settings = {"task": "ioi", "pairs": 1, "ah": True, "edges": False, "faithfulness": False}
    relevance = run(smollm, "relp", "-", params=settings)
    beside = []
    for event in decode():
        assert next(relevance, None) is not None
        if isinstance(event, (Commit, Candidates)):
            beside.append(told(event))
    assert beside == alone


# Anchors


@pytest.mark.parametrize("layer", [0, 11, 29])
def test_the_whole_stream_of_the_other_run_is_the_other_run(box: WhiteBox, runs: Runs, layer: int) -> None:
    there = runs.other.resid_pre[layer]
    logits = box.read(runs.base_ids, keep=(), edits={("resid_pre", layer): lambda _: there}).logits
    assert float(runs.metric(runs.question.difference(logits))) == pytest.approx(1, abs=1e-4)


def test_no_patch_has_no_effect(box: WhiteBox, runs: Runs) -> None:
    logits = box.read(runs.base_ids, keep=(), edits={}).logits
    assert float(runs.metric(runs.question.difference(logits))) == pytest.approx(0, abs=1e-5)


def test_the_swapped_name_enters_through_the_first_mlp(measured: dict[str, Tensor], asked: Question) -> None:
    assert float(measured["mlp_out"][0, asked.first]) == pytest.approx(1, abs=0.02)
    assert float(measured["resid_pre"][0, asked.first]) == pytest.approx(1, abs=1e-4)


def test_the_exact_maps_are_what_whole_passes_measure(
    box: WhiteBox, runs: Runs, measured: dict[str, Tensor], asked: Question
) -> None:
    last = asked.length - 1
    for site, layer, at in (("resid_pre", 17, asked.first), ("attn_out", 23, last), ("mlp_out", 29, last)):
        naive = exact.naively(box, runs, site, layer, at)
        assert float(measured[site][layer, at]) == pytest.approx(naive, abs=1e-4)
        assert abs(naive) > 0.01


def test_a_circuit_of_everything_is_the_model_and_of_nothing_its_corruption(box: WhiteBox, runs: Runs) -> None:
    measured = Faithfulness(box, runs)
    assert measured.of(components(box)) == pytest.approx(1, abs=1e-5)
    assert measured.of([]) == pytest.approx(0, abs=1e-5)
    # The last token is the same on both sides, so nothing of the clean prompt reaches the logits.
    assert metric_of(box, runs, frozenset(), "resample") == pytest.approx(0, abs=1e-4)


# How good the guesses are


def test_relevance_patching_agrees_with_the_exact_maps(relp: Estimate, measured: dict[str, Tensor]) -> None:
    for site, least in (("resid_pre", 0.90), ("attn_out", 0.96), ("mlp_out", 0.88)):
        assert pearson(relp.sites[site], measured[site]) >= least, site  # type: ignore[index]


def test_the_gradient_does_not_where_mlps_are_gated(gradient: Estimate, measured: dict[str, Tensor]) -> None:
    assert pearson(gradient.sites["mlp_out"], measured["mlp_out"]) <= 0.60


def test_most_of_the_gain_is_the_half_rules_and_constant_patterns_cost_some(
    box: WhiteBox, asked: Question, relp: Estimate, gradient: Estimate, measured: dict[str, Tensor]
) -> None:
    def agreement(found: Estimate, site: Site = "mlp_out") -> float:
        return pearson(found.sites[site], measured[site])

    halved = estimate(box, asked, "", Rules(ln=True, half=True))
    unhalved = estimate(box, asked, "", Rules(ln=True, identity=True))
    constant = estimate(box, asked, "", RELP_AH)
    assert agreement(gradient) < agreement(unhalved) < agreement(halved) < agreement(relp)
    assert agreement(constant, "attn_out") < 0.9 < agreement(relp, "attn_out")


def test_eighty_nodes_do_the_models_work(box: WhiteBox, smollm: CausalModel) -> None:
    """Of 300, chosen by relevance on all shipped pairs; chosen by the gradient they do less of it."""
    question = of_task(smollm, "ioi", 20)
    by_relevance, by_gradient = (estimate(box, question, "", rules) for rules in (RELP, GRADIENT))
    measured = Faithfulness(box, by_relevance.runs)
    kept = strongest(by_relevance, box, 80)
    assert measured.of(kept) >= 0.95
    assert measured.of(strongest(by_gradient, box, 80)) < 0.92
    assert abs(measured.completeness(kept)) < 0.02
