"""The logit lens: the last layer is what the model says, the others are its streams read by its own head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM

from engines.attribution.logit_lens import kept_from, seen
from engines.attribution.questions import of_task
from engines.events import Commit, Contrast, Event, Lens, Note
from engines.models.causal import CausalModel
from engines.models.white_box import NotReadable, WhiteBox
from engines.runner import run
from tests.conftest import byte_tokenizer
from tests.engines.laws import check_stream, finished, only, untimed

PROMPT = "What is the sea?"
TOKENIZER = byte_tokenizer()


@pytest.fixture(params=["llama", "gpt2"])
def tiny(request: pytest.FixtureRequest, tiny_llama: CausalModel, tiny_gpt2: CausalModel) -> CausalModel:
    return tiny_llama if request.param == "llama" else tiny_gpt2


def read(model: CausalModel, prompt: str = PROMPT, **params: object) -> list[Event]:
    return list(run(model, "logit-lens", prompt, params=params, raw=True))


@torch.no_grad()
def by_hand(model: CausalModel, ids: list[int]) -> list[Tensor]:
    """Logits (tokens, vocabulary) after every layer, by the transformers network and its own modules."""
    network = model.network
    output = network(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    norm = network.transformer.ln_f if hasattr(network, "transformer") else network.model.norm
    # The last hidden state that is handed out is normalised already.
    return [*(network.lm_head(norm(hidden))[0] for hidden in output.hidden_states[:-1]), output.logits[0]]


def check_lens(model: CausalModel, events: list[Event], ids: list[int], answer: int, foil: int) -> None:
    lenses, expected = only(events, Lens), by_hand(model, ids)
    assert [lens.layer for lens in lenses] == list(range(len(expected)))
    for lens, logits in zip(lenses, expected, strict=True):
        assert [choice.token.id for choice in lens.tokens] == logits.argmax(-1).tolist()
        p = logits.softmax(-1).max(-1).values.tolist()
        assert [choice.p for choice in lens.tokens] == pytest.approx(p, rel=1e-3)
        differences = (logits[:, answer] - logits[:, foil]).tolist()
        assert list(lens.differences) == pytest.approx(differences, rel=1e-3, abs=1e-3)


def test_every_layer_is_its_stream_read_by_norm_and_head_and_the_last_the_models_own_word(tiny: CausalModel) -> None:
    x, y = TOKENIZER("xy")["input_ids"]
    check_lens(tiny, read(tiny, answer="x", foil="y"), TOKENIZER(PROMPT)["input_ids"], x, y)


def test_layer_0_knows_one_token_and_nothing_before_it(tiny_llama: CausalModel) -> None:
    network = tiny_llama.network
    with torch.no_grad():
        expected = network.lm_head(
            network.model.norm(network.model.embed_tokens(torch.tensor(TOKENIZER(PROMPT)["input_ids"])))
        )
    lens = only(read(tiny_llama, answer="x", foil="y"), Lens)[0]
    assert [choice.token.id for choice in lens.tokens] == expected.argmax(-1).tolist()
    # Equal letters at different positions are the same there.
    places = [place for place, letter in enumerate(PROMPT) if letter == "s"]
    assert len({lens.differences[place] for place in places}) == 1
    later = only(read(tiny_llama, answer="x", foil="y"), Lens)[1]
    assert len({later.differences[place] for place in places}) == len(places)


def test_the_answer_and_its_foil_are_the_models_first_and_second_choice_when_not_named(tiny: CausalModel) -> None:
    events = read(tiny)
    top = by_hand(tiny, TOKENIZER(PROMPT)["input_ids"])[-1][-1].topk(2).indices.tolist()
    (asked,) = only(events, Contrast)
    (pair,) = asked.pairs
    assert [pair.answer.id, pair.foil.id] == top
    assert (pair.corrupted, pair.corrupted_difference, asked.corrupted) == ((), None, None)
    last = only(events, Lens)[-1]
    assert last.differences[-1] == pytest.approx(pair.clean_difference, rel=1e-3)
    assert last.tokens[-1].token.id == top[0]


def test_the_stream_keeps_its_laws_and_writes_no_text(tiny: CausalModel) -> None:
    events = read(tiny)
    check_stream(tiny, events)
    assert not only(events, Commit)
    assert finished(events).reason == "method done"
    assert {len(lens.tokens) for lens in only(events, Lens)} == {len(PROMPT)}
    assert untimed(events) == untimed(read(tiny))


def test_the_note_says_from_where_on_the_answer_is_the_most_probable_word(tiny: CausalModel) -> None:
    expected = [int(logits[-1].argmax()) for logits in by_hand(tiny, TOKENIZER(PROMPT)["input_ids"])]
    first = next(layer for layer in range(len(expected)) if set(expected[layer:]) == {expected[-1]})
    assert f"From layer {first} of 2 on" in only(read(tiny), Note)[-1].text
    never = next(letter for letter in "~|^" if TOKENIZER(letter)["input_ids"] != expected[-1:])
    text = only(read(tiny, answer=never), Note)[-1].text
    assert text == "The answer is not the most probable word, even in the end."


def test_an_answer_that_comes_and_goes_counts_from_when_it_stays() -> None:
    assert kept_from([5, 1, 5, 2, 5, 5], 5) == 4
    assert kept_from([1, 2, 5], 5) == 2
    assert kept_from([5, 5], 5) == 0
    assert kept_from([5, 5, 1], 5) is None


def test_a_network_whose_last_norm_is_not_known_is_refused_with_a_sentence() -> None:
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
    with pytest.raises(NotReadable, match="last norm"):
        read(model)


def test_the_embedded_model_is_read_on_a_prompt_and_on_a_task(smollm: CausalModel) -> None:
    prompt = "The capital of France is"
    ids = smollm.encode(prompt, raw=True)
    paris, london = (smollm.tokenizer(word)["input_ids"][0] for word in (" Paris", " London"))
    check_lens(smollm, read(smollm, prompt, answer=" Paris", foil=" London"), ids, paris, london)
    events = read(smollm, "Anything", task="agreement")
    asked = of_task(smollm, "agreement", 1)
    (shown,) = only(events, Contrast)
    assert [token.id for token in shown.pairs[0].clean] == asked.clean[0].tolist()
    assert len(only(events, Lens)) == 31
    assert len(only(events, Lens)[7].tokens) == asked.length
    trace = WhiteBox(smollm.network).read(asked.clean)
    torch.testing.assert_close(seen(WhiteBox(smollm.network), trace.resid_pre[-1][:, -1]), trace.logits)
