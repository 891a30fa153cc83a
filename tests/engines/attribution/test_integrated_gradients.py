"""Integrated gradients: exact where the network is straight, complete at the embeddings, the same as a loop by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from engines.attribution import exact
from engines.attribution.estimate import Estimate, Runs, compare, estimate
from engines.attribution.integrated_gradients import HOW, Rule, coefficients, gap, places, points, scored
from engines.attribution.questions import BadQuestion, Question, of_task
from engines.events import Circuit, Commit, Contrast, Curve, Direction, Event, Forward, Note, Patch
from engines.models.causal import CausalModel
from engines.models.white_box import WhiteBox
from engines.runner import run
from tests.conftest import byte_tokenizer
from tests.engines.laws import check_stream, finished, only, untimed

TOKENIZER = byte_tokenizer()
CLEAN, CORRUPTED = "the sea is wide", "the sky is wide"


@pytest.fixture(params=["llama", "gpt2"])
def tiny(request: pytest.FixtureRequest, tiny_llama: CausalModel, tiny_gpt2: CausalModel) -> CausalModel:
    return tiny_llama if request.param == "llama" else tiny_gpt2


def ask(clean: str = CLEAN, corrupted: str = CORRUPTED, answer: str = "g", foil: str = "z") -> Question:
    return Question(
        "bytes",
        *(torch.tensor([TOKENIZER(text)["input_ids"]]) for text in (clean, corrupted)),
        *(torch.tensor(TOKENIZER(letter)["input_ids"]) for letter in (answer, foil)),
    )


def integrate(
    box: WhiteBox, asked: Question, steps: int, rule: Rule = "midpoint", direction: Direction = "denoise"
) -> Estimate:
    runs = compare(box, asked, direction, gradients=False, keep=("sites", "keys"))
    each = [coefficients(box, runs, at) for at in points(steps, rule)]
    return scored(box, runs, [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)])


def explain(model: CausalModel, **params: object) -> list[Event]:
    settings = {"task": "this prompt", "corrupted": CORRUPTED, "answer": "g", "foil": "z", **params}
    return list(run(model, HOW, CLEAN, params=settings, raw=True))


def straight() -> CausalModel:
    """A GPT-2 without norms and bends, whose heads look at everything equally: a linear function of the embeddings."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=257, n_positions=32, n_embd=16, n_layer=2, n_head=4, bos_token_id=256, eos_token_id=256
    )
    network = GPT2LMHeadModel(config).eval()
    network.transformer.ln_f = nn.Identity()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
        for block in network.transformer.h:
            block.ln_1, block.ln_2, block.mlp.act = nn.Identity(), nn.Identity(), nn.Identity()
            block.attn.c_attn.weight[:, :16] = 0
            block.attn.c_attn.bias[:16] = 0
    return CausalModel(network, byte_tokenizer(), name="straight", lean=False)


def test_points_lie_in_the_middle_of_equal_parts_or_at_their_left_ends() -> None:
    assert points(4, "midpoint") == [0.125, 0.375, 0.625, 0.875]
    assert points(4, "left") == [0, 0.25, 0.5, 0.75]
    assert points(1, "left") == [0]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("rule", ["midpoint", "left"])
def test_where_the_network_is_straight_one_point_gives_the_exact_effects(rule: Rule, direction: Direction) -> None:
    box = WhiteBox(straight().network)
    found = integrate(box, ask(), 1, rule, direction)
    assert abs(gap(found)) < 1e-4
    for site, layer in places(box):
        if site == "head":
            continue
        measured = [exact.naively(box, found.runs, site, layer, place) for place in range(found.runs.question.length)]
        assert found.sites[site][layer].tolist() == pytest.approx(measured, abs=2e-4)
    for layer in range(2):
        for head in range(4):
            measured_head = exact.node(box, found.runs, f"a{layer}.{head}")
            assert float(found.sites["head"][layer, head].sum()) == pytest.approx(measured_head, abs=2e-4)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_one_point_by_the_left_rule_is_attribution_patching(tiny: CausalModel, direction: Direction) -> None:
    box = WhiteBox(tiny.network)
    one, plain = integrate(box, ask(), 1, "left", direction), estimate(box, ask(), "plain", direction=direction)
    assert one.sites.keys() == plain.sites.keys()
    for site, scores in plain.sites.items():
        torch.testing.assert_close(one.sites[site], scores, rtol=1e-3, atol=1e-5)
    assert one.logits == plain.logits


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_more_points_the_nearer_the_embeddings_come_to_the_whole_effect(
    tiny: CausalModel, direction: Direction
) -> None:
    box = WhiteBox(tiny.network)
    left = abs(gap(integrate(box, ask(), 1, "left", direction)))
    few, some, many = (abs(gap(integrate(box, ask(), steps, direction=direction))) for steps in (4, 16, 64))
    assert many < some < min(few, left)
    assert many < 2e-3


def by_hand(model: CausalModel, asked: Question, steps: int) -> tuple[Tensor, Tensor]:
    """Scores of the embeddings (tokens,) and the MLPs (layers, tokens), without a white box."""
    network = copy.deepcopy(model.network)
    written: list[Tensor] = []
    for name, module in network.named_modules():
        if name.endswith(".mlp"):
            module.register_forward_hook(lambda _, __, output: written.append(output))

    def read(embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        written.clear()
        logits = network(inputs_embeds=embedding, use_cache=False).logits[0, -1]
        return logits[asked.answers[0]] - logits[asked.foils[0]], list(written)

    table = network.get_input_embeddings()
    here, there = table(asked.corrupted).detach(), table(asked.clean).detach()
    low, base = read(here)
    high, other = read(there)
    total = [torch.zeros_like(part) for part in (here, *base)]
    for k in range(steps):
        embedding = (here + (k + 0.5) / steps * (there - here)).requires_grad_()
        difference, mlps = read(embedding)
        gradients = torch.autograd.grad(difference / (high - low).detach(), [embedding, *mlps])
        total = [sum_ + gradient for sum_, gradient in zip(total, gradients, strict=True)]
    deltas = [there - here, *(b - a for a, b in zip(base, other, strict=True))]
    scores = [(delta * sum_ / steps).sum(-1)[0].detach() for delta, sum_ in zip(deltas, total, strict=True)]
    return scores[0], torch.stack(scores[1:])


def check_by_hand(model: CausalModel, asked: Question, steps: int) -> None:
    embedding, mlps = by_hand(model, asked, steps)
    found = integrate(WhiteBox(model.network), asked, steps)
    torch.testing.assert_close(found.sites["resid_pre"][0], embedding, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(found.sites["mlp_out"], mlps, rtol=2e-3, atol=1e-4)


def test_the_scores_are_those_of_a_loop_with_the_network_itself(tiny: CausalModel) -> None:
    check_by_hand(tiny, ask(), 5)


def test_nothing_before_the_first_difference_has_a_score(tiny: CausalModel) -> None:
    found = integrate(WhiteBox(tiny.network), ask(), 3)
    first = found.runs.question.first
    assert first == CLEAN.index("ea")
    for scores in found.sites.values():
        assert not scores[..., :first].any()
        assert scores[..., first:].any()


# The stream.


def test_the_stream_asks_estimates_measures_and_writes_no_text(tiny: CausalModel) -> None:
    events = explain(tiny, steps=3)
    check_stream(tiny, events)
    assert not only(events, Commit)
    assert finished(events).reason == "method done"
    kinds = [type(event) for event in events if isinstance(event, Contrast | Patch | Circuit | Curve)]
    assert kinds[0] is Contrast
    estimated = [patch for patch in only(events, Patch) if patch.how == HOW]
    assert [patch.site for patch in estimated] == [
        site for site in ("resid_pre", "attn_out", "mlp_out", "head") for _ in (0, 1)
    ]
    assert {len(patch.effects) for patch in estimated if patch.along == "position"} == {len(CLEAN)}
    (circuit,) = only(events, Circuit)
    assert (circuit.how, circuit.edges) == (HOW, ())
    assert len([patch for patch in only(events, Patch) if patch.how == "exact"]) == 6
    assert {"agreement, mlp_out", "faithfulness", "completeness"} <= {curve.name for curve in only(events, Curve)}
    assert sum(forward.lane == "backward" for forward in only(events, Forward)) == 3


def test_the_note_says_the_gap(tiny_llama: CausalModel) -> None:
    events = explain(tiny_llama, steps=2, exact=False, faithfulness=False)
    found = integrate(WhiteBox(tiny_llama.network), ask(), 2)
    (note,) = [note.text for note in only(events, Note) if "sum to" in note.text]
    assert f"sum to {1 + gap(found):.3f}" in note
    assert f"gap of {abs(gap(found)):.3f}" in note
    assert "2 points" in note
    assert not [patch for patch in only(events, Patch) if patch.how == "exact"]
    assert not only(events, Curve)


def test_the_other_direction_sums_to_less_one(tiny_llama: CausalModel) -> None:
    events = explain(tiny_llama, steps=30, direction="noise", exact=False, faithfulness=False)
    (circuit,) = only(events, Circuit)
    scores = {node.id: node.score for node in circuit.nodes}
    assert scores["logits"] == -1
    assert scores["embed"] < -0.5
    assert circuit.direction == "noise"


def test_the_same_settings_give_the_same_events(tiny_llama: CausalModel) -> None:
    assert untimed(explain(tiny_llama, steps=2)) == untimed(explain(tiny_llama, steps=2))


def test_a_time_limit_ends_the_work_between_two_points(tiny_llama: CausalModel) -> None:
    settings = {"task": "this prompt", "corrupted": CORRUPTED, "answer": "g", "foil": "z", "steps": 30}
    events = list(run(tiny_llama, HOW, CLEAN, params=settings, raw=True, time_limit=1e-6))
    assert finished(events).reason == "time limit"
    assert sum(forward.lane == "backward" for forward in only(events, Forward)) == 1
    assert not only(events, Patch)


def test_prompts_of_unequal_length_are_refused(tiny_llama: CausalModel) -> None:
    with pytest.raises(BadQuestion, match="corrupted one 16"):
        explain(tiny_llama, corrupted=CORRUPTED + "r")


def test_of_an_unknown_network_the_stream_alone_is_scored() -> None:
    torch.manual_seed(5)
    config = OPTConfig(
        vocab_size=257,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        init_std=0.5,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=1,
    )
    model = CausalModel(OPTForCausalLM(config).eval(), byte_tokenizer(), name="opt", lean=False)
    events = explain(model, steps=2)
    assert {patch.site for patch in only(events, Patch)} == {"resid_pre"}
    assert {patch.how for patch in only(events, Patch)} == {HOW}
    assert not only(events, Circuit)


def test_on_the_embedded_model_it_is_the_loop_and_nearer_to_the_whole_effect_than_one_gradient(
    smollm: CausalModel,
) -> None:
    asked = of_task(smollm, "agreement", 1)
    check_by_hand(smollm, asked, 2)
    box = WhiteBox(smollm.network)
    runs: Runs = compare(box, asked, gradients=False)
    assert runs.base.embedding is not None
    one, some = integrate(box, asked, 1, "left"), integrate(box, asked, 8)
    assert abs(gap(some)) < 0.5 * abs(gap(one))
