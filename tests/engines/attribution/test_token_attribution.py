"""Attributions side by side: each by hand, the planted source found, and judged by the same measure."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from engines.attribution import token_attribution
from engines.attribution.questions import BadQuestion
from engines.attribution.reagent import Context
from engines.attribution.relp import usable
from engines.attribution.soft_faithfulness import Distance, Faithfulness, deletion_curve
from engines.attribution.token_attribution import KINDS, LEAST, Prompt, against_chance, counted, judged
from engines.events import Attribution, Candidates, Commit, Curve, Event, Note, Score
from engines.method import methods
from engines.models.causal import CausalModel
from engines.models.rules import RELP, RELP_AH
from engines.models.white_box import WhiteBox
from engines.runner import Run, run
from tests.conftest import byte_tokenizer
from tests.engines.attribution.planted import copying_model
from tests.engines.laws import check_stream, finished, only, untimed

TEXT = "the sea is wide"
TOKENIZER = byte_tokenizer()
SWITCHES = ("gradient", "integrated", "relp", "relp_ah", "attention", "leave_one_out", "reagent")
QUICK = {"samples": 2, "reagent": False}


@pytest.fixture(params=["llama", "gpt2"])
def tiny(request: pytest.FixtureRequest, tiny_llama: CausalModel, tiny_gpt2: CausalModel) -> CausalModel:
    return tiny_llama if request.param == "llama" else tiny_gpt2


def explain(model: CausalModel, prompt: str = TEXT, *, seed: int = 0, **params: object) -> list[Event]:
    return list(run(model, "token-attribution", prompt, raw=True, params={**QUICK, **params}, seed=seed))


def alone(*wanted: str) -> dict[str, Any]:
    """Settings under which only these methods are asked."""
    return {switch: switch in wanted for switch in SWITCHES}


def rows(events: list[Event]) -> dict[str, Attribution]:
    return {event.how: event for event in only(events, Attribution)}


def opened(model: CausalModel, text: str = TEXT, target: str = "g", foil: str = "z") -> tuple[Prompt, int, int]:
    """The prompt as the method sees it, and the ids of target and foil."""
    job = Run(model, TOKENIZER(text)["input_ids"])
    list(job.read_prompt())
    free = (~Context(job).fixed).nonzero()[:, 0]
    ids = TOKENIZER(target + foil)["input_ids"]
    return Prompt(job, WhiteBox(model.network), free, ids[0], ids[1]), ids[0], ids[1]


def gradient(model: CausalModel, at: Tensor, target: int, foil: int) -> Tensor:
    """∂LD/∂e at embeddings (tokens, width), by the transformers network."""
    at = at.detach().clone().requires_grad_()
    logits = model.network(inputs_embeds=at[None]).logits[0, -1]
    return torch.autograd.grad(logits[target] - logits[foil], at)[0]


def embedded(model: CausalModel, text: str = TEXT) -> Tensor:
    return model.network.get_input_embeddings()(torch.tensor(TOKENIZER(text)["input_ids"])).detach()


def lead(model: CausalModel, ids: list[int], target: int, foil: int) -> float:
    with torch.no_grad():
        logits = model.network(torch.tensor([ids])).logits[0, -1]
    return float(logits[target] - logits[foil])


# Each method by hand.


def test_gradient_x_input_is_the_networks_own_gradient_times_the_embedding(tiny: CausalModel) -> None:
    row = rows(explain(tiny, target="g", foil="z", **alone("gradient")))["gradient-x-input"]
    e = embedded(tiny)
    g, z = TOKENIZER("gz")["input_ids"]
    expected = (e * gradient(tiny, e, g, z)).sum(-1).tolist()
    assert list(row.scores) == pytest.approx(expected, rel=2e-3, abs=1e-4)
    assert (row.target.text, row.foil and row.foil.text) == ("g", "z")
    assert "".join(token.text for token in row.context) == TEXT


def test_integrated_gradients_go_from_an_empty_input_to_the_prompt(tiny: CausalModel) -> None:
    row = rows(explain(tiny, target="g", foil="z", steps=11, **alone("integrated")))["integrated-gradients"]
    e = embedded(tiny)
    g, z = TOKENIZER("gz")["input_ids"]
    mean = torch.stack([gradient(tiny, (k + 0.5) / 11 * e, g, z) for k in range(11)]).mean(0)
    assert list(row.scores) == pytest.approx((e * mean).sum(-1).tolist(), rel=2e-3, abs=1e-4)


def test_relevance_with_frozen_patterns_sums_to_the_logit_difference(tiny_llama: CausalModel) -> None:
    found = rows(explain(tiny_llama, target="g", foil="z", **alone("relp", "relp_ah")))
    g, z = TOKENIZER("gz")["input_ids"]
    said = lead(tiny_llama, TOKENIZER(TEXT)["input_ids"], g, z)
    assert sum(found["relp-ah"].scores) == pytest.approx(said, abs=1e-3)
    assert sum(found["relp"].scores) != pytest.approx(said, abs=1e-1)


def test_relevance_is_embedding_times_coefficient_under_the_rules_of_relp(tiny: CausalModel) -> None:
    found = rows(explain(tiny, target="g", foil="z", **alone("relp", "gradient")))
    box = WhiteBox(tiny.network)
    g, z = TOKENIZER("gz")["input_ids"]
    trace = box.read(torch.tensor([TOKENIZER(TEXT)["input_ids"]]), rules=usable(box, RELP)[0], gradients=True)
    assert trace.embedding is not None
    (coefficient,) = box.backward(trace.logits[0, g] - trace.logits[0, z], [trace.embedding])
    expected = (embedded(tiny) * coefficient[0]).sum(-1).tolist()
    assert list(found["relp"].scores) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert list(found["relp"].scores) != pytest.approx(found["gradient-x-input"].scores, rel=0.1)


def test_attention_is_the_mean_row_of_the_last_token(tiny_gpt2: CausalModel, tiny_gpt2_folder: Path) -> None:
    eager = GPT2LMHeadModel.from_pretrained(tiny_gpt2_folder, attn_implementation="eager")
    with torch.no_grad():
        patterns = eager(torch.tensor([TOKENIZER(TEXT)["input_ids"]]), output_attentions=True).attentions
    expected = torch.cat(patterns)[:, :, -1].mean((0, 1)).tolist()
    row = rows(explain(tiny_gpt2, **alone("attention")))["attention"]
    assert list(row.scores) == pytest.approx(expected, rel=1e-3)
    assert sum(row.scores) == pytest.approx(1, abs=1e-5)
    assert row.foil is None


def test_leave_one_out_is_the_text_without_the_token(tiny: CausalModel) -> None:
    row = rows(explain(tiny, target="g", foil="z", **alone("leave_one_out")))["leave-one-out"]
    ids = TOKENIZER(TEXT)["input_ids"]
    g, z = TOKENIZER("gz")["input_ids"]
    whole = lead(tiny, ids, g, z)
    expected = [whole - lead(tiny, ids[:place] + ids[place + 1 :], g, z) for place in range(len(ids))]
    assert list(row.scores) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_without_target_and_foil_the_models_first_and_second_choice_are_set_against_each_other(
    tiny: CausalModel,
) -> None:
    events = explain(tiny, **alone("gradient"))
    with torch.no_grad():
        logits = tiny.network(torch.tensor([TOKENIZER(TEXT)["input_ids"]])).logits[0, -1]
    first, second = logits.topk(2).indices.tolist()
    row = rows(events)["gradient-x-input"]
    assert (row.target.id, row.foil and row.foil.id) == (first, second)
    assert row.before == pytest.approx(float(logits.softmax(-1)[first]), rel=1e-3)
    (wanted,) = only(events, Candidates)
    assert wanted.raw[0].token.id == first


# A planted source.

LETTERS = "kdjfhgqpwoeirutynbvm"


@pytest.mark.parametrize("how", ["relp", "relp_ah", "attention", "gradient", "reagent"])
def test_the_source_of_a_copied_token_is_found(how: str) -> None:
    for source in (3, 11):
        events = explain(copying_model(source, seed=source), LETTERS, **alone(how))
        row = rows(events)[{"gradient": "gradient-x-input", "relp_ah": "relp-ah"}.get(how, how)]
        assert row.target.text == LETTERS[source]
        assert max(range(len(LETTERS)), key=row.scores.__getitem__) == source


def test_leaving_out_the_source_changes_most_and_what_stands_behind_it_nothing() -> None:
    # The source is a place, so that a token left out before it moves another token there.
    row = rows(explain(copying_model(0), LETTERS, **alone("leave_one_out")))["leave-one-out"]
    assert row.scores[0] > 1
    assert all(abs(score) < 1e-2 for score in row.scores[1:-1])


def test_who_finds_the_source_is_judged_better_than_chance_and_deletes_it_first() -> None:
    events = explain(copying_model(5), LETTERS, samples=32, **alone("relp", "attention"))
    scores = {(score.text, score.name): score for score in only(events, Score)}
    for how in ("relp", "attention"):
        for name in ("Soft-NS", "Soft-NC"):
            assert scores[how, name].value > 0.3
            assert scores[how, name].parts["Hellinger, log ratio"] > 0.3
    curves = {curve.name: curve for curve in only(events, Curve)}
    assert curves["deletion, relp"].y[0] > 0.8
    assert max(curves["deletion, relp"].y[1:]) < 0.2


# Judging.


def test_chance_is_judged_as_chance(tiny: CausalModel) -> None:
    values: dict[str, list[float]] = {"Soft-NS": [], "Soft-NC": []}
    for seed in range(6):
        for score in only(explain(tiny, seed=seed, samples=12, **alone()), Score):
            assert score.text == "random"
            values[score.name].append(score.value)
    # Of the tiny Llama nothing but the whole input is sufficient, so that most of its Soft-NS are 0.
    for found in values.values() if isinstance(tiny.network, GPT2LMHeadModel) else [values["Soft-NC"]]:
        assert len(found) == 6
        assert abs(sum(found) / 6) < 0.25
        assert len(set(found)) == 6


def test_both_distances_and_the_raw_values_are_told(tiny_gpt2: CausalModel) -> None:
    for score in only(explain(tiny_gpt2, samples=8, **alone("relp")), Score):
        assert list(score.parts) == ["repo", "repo, log ratio", "Hellinger", "Hellinger, log ratio"]
        assert score.value == score.parts["repo, log ratio"]
        assert score.parts["repo"] != score.parts["Hellinger"]
        assert all(map(math.isfinite, score.parts.values()))


def test_a_metric_near_0_is_no_infinite_logarithm() -> None:
    assert against_chance(0.4, [0.1, 0.3]) == pytest.approx(math.log(2))
    assert against_chance(0.0, [0.1, 0.3]) == pytest.approx(math.log(LEAST / 0.2))
    assert against_chance(0.0, [0.0, 0.0]) == 0
    assert against_chance(0.5, [0.0]) == pytest.approx(math.log(0.5 / LEAST))
    assert math.isnan(against_chance(math.nan, [0.1]))


def test_where_a_metric_is_undefined_no_score_is_given() -> None:
    good: dict[Distance, Faithfulness] = {kind: Faithfulness(0.2, 0.4, 5) for kind in KINDS}
    none: dict[Distance, Faithfulness] = {kind: Faithfulness(math.nan, math.nan, 5) for kind in KINDS}
    assert [score.name for score in judged("relp", good, [good])] == ["Soft-NS", "Soft-NC"]
    assert list(judged("relp", none, [none])) == []
    assert list(judged("relp", none, [good])) == []


def test_a_deletion_curve_goes_from_the_whole_prompt_to_none_of_its_words(tiny: CausalModel) -> None:
    events = explain(tiny, target="g", **alone("relp", "attention"))
    prompt, _, _ = opened(tiny)
    bare = float(prompt.predict(torch.zeros_like(prompt.embeddings)[None])[0, prompt.target])
    for how in ("relp", "attention", "random"):
        (curve,) = [curve for curve in only(events, Curve) if curve.name == f"deletion, {how}"]
        assert list(curve.x) == list(range(len(TEXT) + 1))
        assert curve.y[0] == pytest.approx(rows(events)[how].before, rel=1e-3)
        assert curve.y[-1] == pytest.approx(bare, rel=1e-3)
        scores = torch.tensor(rows(events)[how].scores)
        expected = deletion_curve(prompt.predict, prompt.embeddings, scores, prompt.target)
        assert list(curve.y) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_a_long_text_has_a_curve_of_few_points(tiny_gpt2: CausalModel) -> None:
    assert counted(3) == [0, 1, 2, 3]
    assert counted(16) == list(range(17))
    long = counted(100)
    assert (long[0], long[-1], len(long)) == (0, 100, 17)
    assert long == sorted(set(long))
    events = explain(tiny_gpt2, TEXT * 3, target="g", **alone("relp"))
    prompt, _, _ = opened(tiny_gpt2, TEXT * 3)
    for how in ("relp", "random"):
        (curve,) = [curve for curve in only(events, Curve) if curve.name == f"deletion, {how}"]
        assert list(curve.x) == counted(45)
        scores = torch.tensor(rows(events)[how].scores)
        every = deletion_curve(prompt.predict, prompt.embeddings, scores, prompt.target)
        assert list(curve.y) == pytest.approx([every[count] for count in counted(45)], rel=1e-3, abs=1e-6)


def test_special_tokens_have_no_score_and_always_stay(tiny_gpt2: CausalModel) -> None:
    text = f"<|end|>{TEXT}<|end|>:"
    events = explain(tiny_gpt2, text, target="g", foil="z", **alone(*SWITCHES))
    ids = TOKENIZER(text)["input_ids"]
    special = [place for place, id in enumerate(ids) if id == 256]
    assert len(special) == 2
    assert set(rows(events)) == {
        "gradient-x-input",
        "integrated-gradients",
        "relp",
        "relp-ah",
        "attention",
        "leave-one-out",
        "reagent",
        "random",
    }
    for row in rows(events).values():
        assert len(row.scores) == len(ids)
        assert [row.scores[place] for place in special] == [0, 0]
        assert sum(score != 0 for score in row.scores) == len(ids) - 2
    g, z = TOKENIZER("gz")["input_ids"]
    left = [
        lead(tiny_gpt2, ids, g, z) - lead(tiny_gpt2, ids[:place] + ids[place + 1 :], g, z)
        for place in range(len(ids))
        if place not in special
    ]
    told = [score for place, score in enumerate(rows(events)["leave-one-out"].scores) if place not in special]
    assert told == pytest.approx(left, rel=2e-3, abs=2e-3)
    # With nothing but the special tokens left, the curve ends at what they predict.
    kept = embedded(tiny_gpt2, text)
    kept[[place for place in range(len(ids)) if place not in special]] = 0
    with torch.no_grad():
        bare = float(tiny_gpt2.network(inputs_embeds=kept[None]).logits[0, -1].softmax(-1)[g])
    for curve in only(events, Curve):
        assert curve.y[-1] == pytest.approx(bare, rel=1e-3)
    e = embedded(tiny_gpt2, text)
    start = e.clone()
    start[[place for place in range(len(ids)) if place not in special]] = 0
    mean = torch.stack([gradient(tiny_gpt2, start + (k + 0.5) / 10 * (e - start), g, z) for k in range(10)]).mean(0)
    expected = ((e - start) * mean).sum(-1).tolist()
    assert list(rows(events)["integrated-gradients"].scores) == pytest.approx(expected, rel=2e-3, abs=1e-4)


# The stream.


def test_the_stream_keeps_its_laws_and_writes_no_text(tiny: CausalModel) -> None:
    events = explain(tiny, relp_ah=True, reagent=True)
    check_stream(tiny, events)
    assert not only(events, Commit)
    assert (finished(events).reason, finished(events).text) == ("method done", "")
    asked = list(rows(events))
    assert asked[-1] == "random"
    assert len(asked) == 8
    assert [score.text for score in only(events, Score)] == [how for how in asked for _ in (0, 1)]
    assert [curve.name for curve in only(events, Curve)] == [f"deletion, {how}" for how in asked]
    assert any(f"over {len(TEXT)} tokens" in note.text for note in only(events, Note))


def test_the_seed_decides_about_all_that_is_drawn(tiny_llama: CausalModel) -> None:
    one = explain(tiny_llama, seed=4, reagent=True)
    assert untimed(explain(tiny_llama, seed=4, reagent=True)) == untimed(one)
    other = explain(tiny_llama, seed=5, reagent=True)
    assert rows(other)["random"].scores != rows(one)["random"].scores
    assert rows(other)["reagent"].scores != rows(one)["reagent"].scores
    assert rows(other)["relp"].scores == rows(one)["relp"].scores
    # The masks are drawn as well, not only what stands for chance.
    raw = [
        [score.parts["repo"] for score in only(events, Score) if score.text == "attention"] for events in (one, other)
    ]
    assert raw[0][1] != raw[1][1]


def test_a_methods_numbers_do_not_depend_on_which_others_are_asked(tiny_llama: CausalModel) -> None:
    def numbers(events: list[Event]) -> list[object]:
        return [
            event
            for event in untimed(events)
            if (isinstance(event, Score) and event.text == "relp")
            or (isinstance(event, Curve) and event.name.endswith("relp"))
        ]

    few, many = explain(tiny_llama, **alone("relp")), explain(tiny_llama, reagent=True)
    strip = [vars_of(event) for event in numbers(few)], [vars_of(event) for event in numbers(many)]
    assert strip[0] == strip[1]
    assert len(strip[0]) == 3
    assert rows(few)["random"].scores == rows(many)["random"].scores


def vars_of(event: object) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__ if name not in ("seq", "at", "time")}  # type: ignore[attr-defined]


def test_the_global_generator_is_left_alone(tiny_llama: CausalModel) -> None:
    before = torch.get_rng_state()
    explain(tiny_llama, reagent=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_time_limit_ends_the_work(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "token-attribution", TEXT, raw=True, time_limit=1e-6))
    assert finished(events).reason == "time limit"
    assert len(only(events, Attribution)) == 1
    assert not only(events, Score)


def test_a_token_in_the_middle_of_a_text_is_explained_from_all_before_it(tiny_llama: CausalModel) -> None:
    ids = TOKENIZER(TEXT)["input_ids"]
    settings = {**QUICK, **alone("gradient", "leave_one_out"), "target": "g", "foil": "z"}
    begun = list(
        run(tiny_llama, "token-attribution", TEXT[:6], raw=True, params=settings, prefix=ids[6:], max_new_tokens=4)
    )
    whole = rows(explain(tiny_llama, target="g", foil="z", **alone("gradient", "leave_one_out")))
    for how, row in rows(begun).items():
        assert row.position == len(ids) - 6
        assert row.context == whole[how].context
        assert row.scores == pytest.approx(whole[how].scores, rel=1e-3, abs=1e-4)


def test_a_text_of_one_token_cannot_be_left_without_it(tiny_llama: CausalModel) -> None:
    events = explain(tiny_llama, "x", **alone("leave_one_out", "relp"))
    check_stream(tiny_llama, events)
    assert list(rows(events)) == ["relp", "random"]
    assert any(note.text.startswith("Leave one out is left out") for note in only(events, Note))


def test_the_only_word_behind_a_special_token_can_be_left_out(tiny_gpt2: CausalModel) -> None:
    row = rows(explain(tiny_gpt2, "<|end|>x", target="g", foil="z", **alone("leave_one_out")))["leave-one-out"]
    end, x, g, z = TOKENIZER("<|end|>xgz")["input_ids"]
    assert row.scores[0] == 0
    assert row.scores[1] == pytest.approx(
        lead(tiny_gpt2, [end, x], g, z) - lead(tiny_gpt2, [end], g, z), rel=1e-3, abs=1e-4
    )


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"target": "g", "foil": "g"}, "same token, 'g'"),
        ({"target": "gh"}, "target 'gh' is 2 tokens"),
        ({"foil": "gh"}, "foil 'gh' is 2 tokens"),
    ],
)
def test_tokens_that_cannot_be_set_against_each_other_are_refused(
    tiny_llama: CausalModel, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadQuestion, match=words):
        explain(tiny_llama, **params)


def test_a_named_foil_that_is_the_first_choice_is_set_against_the_second() -> None:
    model = copying_model(3)
    with torch.no_grad():
        best = model.network(torch.tensor([TOKENIZER(LETTERS)["input_ids"]])).logits[0, -1].topk(2).indices.tolist()
    row = rows(explain(model, LETTERS, foil=LETTERS[3], **alone("gradient")))["gradient-x-input"]
    assert (row.foil and row.foil.id, row.target.id) == tuple(best)
    # A named target has the first choice for its foil, too.
    row = rows(explain(model, LETTERS, target="Z", **alone("gradient")))["gradient-x-input"]
    assert (row.target.text, row.foil and row.foil.id) == ("Z", best[0])


def test_a_text_that_is_too_long_is_refused(tiny_llama: CausalModel) -> None:
    with pytest.raises(BadQuestion, match="257 tokens"):
        explain(tiny_llama, "x" * 257)


def test_of_an_unknown_network_only_what_needs_no_plan_is_asked() -> None:
    config = OPTConfig(
        vocab_size=257,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        init_std=0.3,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=1,
    )
    model = CausalModel(OPTForCausalLM(config).eval(), byte_tokenizer(), name="opt", lean=False)
    events = explain(model)
    assert list(rows(events)) == ["gradient-x-input", "integrated-gradients", "leave-one-out", "random"]
    assert [note.text.partition(" is left out")[0] for note in only(events, Note)][:2] == ["Relp", "Attention"]


def test_a_card_is_complete() -> None:
    card = methods()["token-attribution"]
    prompts = {prompt["id"] for prompt in json.loads(Path("assets/prompts.json").read_text("utf-8"))}
    assert prompts >= {*card.shines, *card.loses}
    for setting in card.settings():
        assert setting.help != setting.name.replace("_", " ")


def test_the_embedded_model_names_the_country(smollm: CausalModel) -> None:
    events = explain(
        smollm,
        "The capital of France is",
        target=" Paris",
        foil=" London",
        samples=1,
        **alone("gradient", "relp_ah", "leave_one_out"),
    )
    check_stream(smollm, events)
    found = rows(events)
    left = found["leave-one-out"]
    assert left.context[max(range(5), key=left.scores.__getitem__)].text == " France"
    ids = smollm.encode("The capital of France is", raw=True)
    paris, london = (smollm.tokenizer(word)["input_ids"][0] for word in (" Paris", " London"))
    assert sum(found["relp-ah"].scores) == pytest.approx(lead(smollm, ids, paris, london), abs=1e-2)


def test_rules_of_the_white_box_reach_nobody_else(tiny_llama: CausalModel) -> None:
    before = copy.deepcopy(tiny_llama.network.state_dict())
    prompt, target, foil = opened(tiny_llama)
    said = lead(tiny_llama, TOKENIZER(TEXT)["input_ids"], target, foil)
    prompt.relevance(RELP_AH)
    assert lead(tiny_llama, TOKENIZER(TEXT)["input_ids"], target, foil) == said
    assert all(torch.equal(value, before[name]) for name, value in tiny_llama.network.state_dict().items())
    assert token_attribution.CHANCE == "random"
