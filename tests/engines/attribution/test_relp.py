"""Relevance patching, attribution patching and activation patching as methods: what they tell, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engines.attribution.relp import agreement, pearson
from engines.errors import NeedNotMet
from engines.events import Circuit, Contrast, Curve, Event, Finished, Forward, Note, Patch
from engines.models.causal import CausalModel
from engines.models.loading import load_folder
from engines.runner import run
from tests.engines.laws import untimed

CLEAN, CORRUPTED = "the cat sat on a mat", "the dog sat on a mat"
SMALL = {"task": "this prompt", "corrupted": CORRUPTED, "answer": "s", "foil": "e"}


@pytest.fixture(autouse=True)
def _any_difference_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights hardly tell a cat from a dog."""
    monkeypatch.setattr("engines.attribution.questions.LEAST_DIFFERENCE", 1e-3)


def told(model: CausalModel, method: str, **more: Any) -> list[Event]:
    return list(run(model, method, CLEAN, raw=True, params=SMALL | more))


def rows(events: list[Event], how: str, site: str) -> dict[int, tuple[float | None, ...]]:
    found = [event for event in events if isinstance(event, Patch) and (event.how, event.site) == (how, site)]
    return {event.layer: event.effects for event in found}


@pytest.mark.parametrize("method", ["relp", "attribution-patching"])
def test_the_estimate_comes_whole_before_anything_is_measured(tiny_llama: CausalModel, method: str) -> None:
    events = told(tiny_llama, method)
    kinds = [type(event) for event in events]
    assert kinds.index(Contrast) < kinds.index(Patch) < kinds.index(Circuit)
    measured = [event.seq for event in events if isinstance(event, Patch) and event.how == "exact"]
    guessed = [event.seq for event in events if isinstance(event, Patch) and event.how == method]
    estimate = next(event for event in events if isinstance(event, Circuit))
    assert max(guessed) < estimate.seq < min(measured)
    before = [event for event in events[: estimate.seq] if isinstance(event, Forward) and event.lane != "prompt"]
    assert sorted(event.lane for event in before) == ["backward", "target", "target"]


def test_each_row_that_is_measured_comes_with_the_agreement_so_far(tiny_llama: CausalModel) -> None:
    events = told(tiny_llama, "relp")
    for site in ("resid_pre", "attn_out", "mlp_out"):
        guessed, exact = rows(events, "relp", site), rows(events, "exact", site)
        points = [event for event in events if isinstance(event, Curve) and event.name == f"agreement, {site}"]
        assert [point.x for point in points] == [(1.0,), (2.0,)]
        both = torch.tensor([guessed[0], guessed[1]]), torch.tensor([exact[0], exact[1]])
        expected = torch.corrcoef(torch.stack([part.flatten() for part in both]))[0, 1]
        assert points[-1].y[0] == pytest.approx(float(expected), abs=1e-5)


def test_activation_patching_measures_what_the_others_estimate(tiny_llama: CausalModel) -> None:
    alone, beside = told(tiny_llama, "activation-patching"), told(tiny_llama, "relp")
    for site in ("resid_pre", "attn_out", "mlp_out"):
        assert rows(alone, "exact", site) == rows(beside, "exact", site)
    heads = rows(alone, "exact", "head")
    assert {layer: len(row) for layer, row in heads.items()} == {0: 4, 1: 4}


def test_with_all_rules_off_it_is_attribution_patching(tiny_llama: CausalModel) -> None:
    off = told(tiny_llama, "relp", ln=False, identity=False, half=False, exact=False, faithfulness=False)
    plain = told(tiny_llama, "attribution-patching", exact=False, faithfulness=False)
    for site in ("resid_pre", "attn_out", "mlp_out", "head"):
        assert rows(off, "relp", site) == rows(plain, "attribution-patching", site)
    ruled = told(tiny_llama, "relp", exact=False, faithfulness=False)
    assert rows(ruled, "relp", "mlp_out") != rows(off, "relp", "mlp_out")


def test_faithfulness_and_completeness_come_in_pairs(tiny_llama: CausalModel) -> None:
    events = told(tiny_llama, "relp", exact=False)
    curves = [event for event in events if isinstance(event, Curve)]
    assert [curve.name for curve in curves] == ["faithfulness", "completeness"] * (len(curves) // 2)
    assert [curve.x[0] for curve in curves if curve.name == "faithfulness"] == [5.0, 10.0]


def test_alone_it_shares_out_the_logit_difference_and_says_that_this_is_not_patching(tiny_llama: CausalModel) -> None:
    events = told(tiny_llama, "relp", alone=True, ah=True, corrupted="")
    shares = rows(events, "relevance", "resid_pre")
    assert sum(filter(None, shares[0])) == pytest.approx(1.0, abs=1e-3), "ah conserves relevance"
    contrast = next(event for event in events if isinstance(event, Contrast))
    assert contrast.corrupted is None
    assert any(isinstance(event, Note) and "not relevance patching" in event.text for event in events)


def test_it_stops_in_time_and_keeps_what_it_has(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "relp", CLEAN, raw=True, params=SMALL, time_limit=1e-6))
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reason == "time limit"
    assert any(isinstance(event, Circuit) for event in events)
    assert len(rows(events, "exact", "resid_pre")) <= 1


@pytest.mark.parametrize("method", ["relp", "attribution-patching", "activation-patching"])
def test_the_same_question_has_the_same_answer(tiny_llama: CausalModel, method: str) -> None:
    once, again = (told(tiny_llama, method) for _ in range(2))
    assert untimed(once) == untimed(again)


def test_another_text_is_told_at_which_token_it_parts(tiny_llama: CausalModel) -> None:
    contrast = next(event for event in told(tiny_llama, "relp", exact=False) if isinstance(event, Contrast))
    (pair,) = contrast.pairs
    differing = [i for i, (a, b) in enumerate(zip(pair.clean, pair.corrupted, strict=True)) if a != b]
    assert contrast.first == differing[0]


def test_flat_maps_agree_with_nothing() -> None:
    flat, steep = torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert pearson(flat, steep) == 0.0
    assert pearson(steep, 2 * steep + 1) == pytest.approx(1.0)
    assert pearson(steep, -steep) == pytest.approx(-1.0)
    assert agreement("head", steep, steep).x == (2.0,)


def test_smaller_weights_are_refused_and_float32_is_offered(tiny_llama_folder: Path) -> None:
    small = load_folder(tiny_llama_folder, name="small", precision="int8")
    with pytest.raises(NeedNotMet, match=r"needs gradients through float32 weights.*Load its float32 version"):
        run(small, "relp", CLEAN, raw=True, params=SMALL)
