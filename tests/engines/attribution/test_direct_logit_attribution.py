"""Direct logit attribution: a sum that is the logit difference, whatever the build of the network."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from engines.attribution.direct_logit_attribution import Direct, contributions, held
from engines.attribution.questions import BadQuestion, Question, of_task
from engines.events import Circuit, Commit, Contrast, Event, Note, Patch
from engines.models.causal import CausalModel
from engines.models.white_box import NotReadable, WhiteBox
from engines.runner import run
from tests.conftest import byte_tokenizer
from tests.engines.laws import check_stream, finished, only, untimed

TOKENIZER = byte_tokenizer()
TEXTS = ("the sea is wide", "a cat sat down.", "0123456789 abcd")


@pytest.fixture(scope="module")
def tiny_neox() -> CausalModel:
    torch.manual_seed(2)
    config = GPTNeoXConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=256,
        eos_token_id=256,
    )
    return CausalModel(GPTNeoXForCausalLM(config).eval(), byte_tokenizer(), name="neox", lean=False)


@pytest.fixture(scope="module")
def tiny_gemma() -> CausalModel:
    torch.manual_seed(4)
    config = Gemma2Config(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.3,
        final_logit_softcapping=None,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
    )
    return CausalModel(Gemma2ForCausalLM(config).eval(), byte_tokenizer(), name="gemma", lean=False)


def biased(model: CausalModel) -> CausalModel:
    """A copy in which every bias and every gain is something: fresh networks have zeros and ones there."""
    network = type(model.network)(copy.deepcopy(model.network.config))
    network.load_state_dict(model.network.state_dict())
    torch.manual_seed(9)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias") or parameter.dim() == 1:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return CausalModel(network.eval(), byte_tokenizer(), name="biased", lean=False)


@pytest.fixture(params=["tiny_llama", "tiny_gpt2", "tiny_neox", "tiny_gemma"])
def tiny(request: pytest.FixtureRequest) -> CausalModel:
    return biased(request.getfixturevalue(request.param))


def ask(*pairs: tuple[str, str]) -> Question:
    ids = torch.tensor([TOKENIZER(text)["input_ids"] for text in TEXTS])
    answers, foils = (
        torch.tensor([id for pair in pairs for id in TOKENIZER(pair[side])["input_ids"]]) for side in (0, 1)
    )
    return Question("bytes", ids, ids, answers, foils)


ASKED = ask(("a", "b"), ("c", "d"), (" ", "e"))


def taken_apart(model: CausalModel, asked: Question = ASKED) -> tuple[Direct, torch.Tensor]:
    """The contributions, and LD by the transformers network."""
    box = WhiteBox(model.network)
    found = contributions(box, model.network.get_output_embeddings(), box.read(asked.clean), asked)
    with torch.no_grad():
        return found, asked.difference(model.network(asked.clean).logits[:, -1])


def explain(model: CausalModel, prompt: str = TEXTS[0], **params: object) -> list[Event]:
    return list(run(model, "direct-logit-attribution", prompt, params={"task": "this prompt", **params}, raw=True))


def test_the_parts_sum_to_the_logit_difference_of_every_prompt(tiny: CausalModel) -> None:
    found, said = taken_apart(tiny)
    torch.testing.assert_close(found.whole, said, rtol=1e-3, atol=1e-3)
    assert float(said.abs().max()) > 0.3
    assert found.heads.shape == (2, 4, 3)


def test_heads_and_the_biases_behind_them_make_up_what_the_attention_adds(tiny: CausalModel) -> None:
    found, _ = taken_apart(tiny)
    left = found.attention - found.heads.sum(1)
    if not isinstance(tiny.network, GPT2LMHeadModel | GPTNeoXForCausalLM):
        torch.testing.assert_close(left, torch.zeros(2, 3), rtol=0, atol=1e-4)
        torch.testing.assert_close(found.biases, torch.zeros(3), rtol=0, atol=1e-3)
        return
    box = WhiteBox(tiny.network)
    stream = box.read(ASKED.clean).resid_pre[-1][:, -1]
    norm = box.anatomy.final_norm
    assert norm is not None
    rows = tiny.network.get_output_embeddings().weight
    d = rows[ASKED.answers] - rows[ASKED.foils]
    for layer, block in enumerate(box.anatomy.blocks):
        expected = (held(norm, stream)(block.out.bias) * d).sum(-1)
        torch.testing.assert_close(left[layer], expected.detach(), rtol=1e-3, atol=1e-3)
        assert float(expected.abs().max()) > 0.005


def test_a_heads_part_is_its_output_through_its_slice_of_the_matrix_read_by_the_head(tiny_llama: CausalModel) -> None:
    network = tiny_llama.network
    assert isinstance(network, LlamaForCausalLM)
    seen: dict[str, torch.Tensor] = {}
    handles = [
        network.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.update(z=args[0])),
        network.model.layers[1].mlp.register_forward_hook(lambda _, __, output: seen.update(mlp=output)),
        network.model.norm.register_forward_pre_hook(lambda _, args: seen.update(stream=args[0])),
    ]
    with torch.no_grad():
        network(ASKED.clean)
    for handle in handles:
        handle.remove()
    found, _ = taken_apart(tiny_llama)
    stream = seen["stream"][:, -1]
    scale = 1 / (stream.square().mean(-1, keepdim=True) + network.model.norm.variance_epsilon).sqrt()
    unembedding = network.lm_head.weight
    d = unembedding[ASKED.answers] - unembedding[ASKED.foils]
    matrix = network.model.layers[1].self_attn.o_proj.weight
    for head in range(4):
        written = seen["z"][:, -1, 16 * head : 16 * head + 16] @ matrix[:, 16 * head : 16 * head + 16].T
        expected = ((written * scale * network.model.norm.weight) * d).sum(-1)
        torch.testing.assert_close(found.heads[1, head], expected.detach(), rtol=1e-3, atol=1e-4)
    mlp = ((seen["mlp"][:, -1] * scale * network.model.norm.weight) * d).sum(-1)
    torch.testing.assert_close(found.mlps[1], mlp.detach(), rtol=1e-3, atol=1e-4)


def test_a_held_norm_is_linear_and_at_its_place_the_norm_itself(tiny: CausalModel) -> None:
    norm = WhiteBox(tiny.network).anatomy.final_norm
    assert norm is not None
    torch.manual_seed(0)
    at, one, other = torch.randn(3, 5, norm.weight.shape[0])
    read = held(norm, at)
    bias = getattr(norm, "bias", None)
    torch.testing.assert_close(read(at) + (0 if bias is None else bias), norm(at))
    torch.testing.assert_close(read(one + 2 * other), read(one) + 2 * read(other), rtol=1e-4, atol=1e-5)


def test_an_unknown_norm_is_refused_with_its_name() -> None:
    with pytest.raises(NotReadable, match="Identity"):
        held(torch.nn.Identity(), torch.ones(3))


def test_logits_that_are_capped_are_taken_apart_before_the_cap(tiny_gemma: CausalModel) -> None:
    network = biased(tiny_gemma).network
    network.config.final_logit_softcapping = 3.0
    model = CausalModel(network, byte_tokenizer(), name="capped", lean=False)
    found, said = taken_apart(model)
    with torch.no_grad():
        logits = 3.0 * torch.atanh((network(ASKED.clean).logits[:, -1] / 3.0).double().clamp(-1 + 1e-9, 1 - 1e-9))
    torch.testing.assert_close(found.whole.double(), ASKED.difference(logits), rtol=1e-2, atol=1e-2)
    assert float((found.whole - said).abs().max()) > 0.05


# The stream.


def told(model: CausalModel) -> list[Event]:
    """A question whose answer is clearly ahead."""
    order = ranked(model)
    return explain(model, answer=order[-1][1], foil=order[0][1])


def ranked(model: CausalModel) -> list[tuple[float, str]]:
    """Logits after the first text of the letters that can be named, lowest first."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    with torch.no_grad():
        logits = model.network(ASKED.clean[:1]).logits[0, -1, TOKENIZER(letters)["input_ids"]]
    return sorted(zip(logits.tolist(), letters, strict=True))


def test_the_shares_sum_to_one_with_what_the_note_says_of_biases(tiny: CausalModel) -> None:
    events = told(tiny)
    check_stream(tiny, events)
    assert not only(events, Commit)
    assert finished(events).reason == "method done"
    (asked,) = only(events, Contrast)
    (circuit,) = only(events, Circuit)
    scores = {node.id: node.score for node in circuit.nodes}
    assert list(scores) == [
        "embed",
        *(f"a0.{h}" for h in range(4)),
        "m0",
        *(f"a1.{h}" for h in range(4)),
        "m1",
        "logits",
    ]
    (note,) = [note.text for note in only(events, Note) if "is a sum" in note.text]
    said = asked.clean
    assert f"{said:.2f} is a sum" in note
    bias = float(note.partition("embedding, ")[2].partition(" from biases")[0])
    parts = sum(score for id, score in scores.items() if id != "logits")
    assert parts * said + bias == pytest.approx(said, abs=0.01)
    assert scores["logits"] == 1
    assert circuit.edges == ()


def test_rows_stand_at_the_last_position_and_agree_with_the_circuit(tiny: CausalModel) -> None:
    events = told(tiny)
    (circuit,) = only(events, Circuit)
    scores = {node.id: node.score for node in circuit.nodes}
    rows = {(patch.site, patch.layer): patch for patch in only(events, Patch)}
    assert {patch.how for patch in rows.values()} == {"direct"}
    assert set(rows) == {(site, layer) for site in ("attn_out", "mlp_out", "head") for layer in (0, 1)}
    for layer in (0, 1):
        assert rows["mlp_out", layer].effects == (*(0.0,) * (len(TEXTS[0]) - 1), scores[f"m{layer}"])
        assert rows["head", layer].along == "head"
        assert rows["head", layer].effects == tuple(scores[f"a{layer}.{head}"] for head in range(4))
        assert len(rows["attn_out", layer].effects) == len(TEXTS[0])
        assert not any(rows["attn_out", layer].effects[:-1])
    assert untimed(events) == untimed(told(tiny))


def test_an_answer_that_is_hardly_ahead_is_refused(tiny_llama: CausalModel) -> None:
    below, above = min(itertools.pairwise(ranked(tiny_llama)), key=lambda pair: pair[1][0] - pair[0][0])
    assert above[0] - below[0] < 0.4
    with pytest.raises(BadQuestion, match="logits apart"):
        explain(tiny_llama, answer=above[1], foil=below[1])


def test_a_network_of_unknown_build_is_refused_with_a_way_out() -> None:
    config = OPTConfig(
        vocab_size=257,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=1,
    )
    model = CausalModel(OPTForCausalLM(config).eval(), byte_tokenizer(), name="opt", lean=False)
    with pytest.raises(NotReadable, match="attribution patching"):
        explain(model)


def test_on_the_embedded_model_a_name_mover_writes_most_of_the_indirect_object(smollm: CausalModel) -> None:
    asked = of_task(smollm, "ioi", 4)
    found, said = taken_apart(smollm, asked)
    torch.testing.assert_close(found.whole, said, rtol=1e-3, atol=1e-3)
    best = int(found.heads.mean(-1).argmax())
    assert divmod(best, 9) == (23, 3)
    events = explain(smollm, "Anything", task="ioi", pairs=4)
    rows = {patch.layer: patch.effects for patch in only(events, Patch) if patch.site == "head"}
    assert max((effect, layer) for layer, effects in rows.items() for effect in effects if effect is not None)[1] == 23
