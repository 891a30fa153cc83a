"""One state, two forward passes: whatever is done to a cache, the next logits are those of a fresh sequence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from engines.errors import NeedNotMet
from engines.events import Cache, Event, Forward, Note
from engines.method import Need
from engines.models.causal import QUERY_SIZES, CausalModel, State, ancestors
from engines.runner import run
from tests.conftest import byte_tokenizer
from tests.engines.laws import check_stream, finished

PROMPT = [72, 101, 108, 108, 111, 44, 32]
TREE = ([10, 20, 30, 40, 50, 60], [-1, 0, 0, 1, 1, 2])
TINY: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
    "eos_token_id": 256,
    "pad_token_id": 256,
    "bos_token_id": 256,
}
ALL = Need.ROLLBACK | Need.TREE_ATTENTION | Need.BATCH | Need.HIDDEN_STATES | Need.LOGITS | Need.GRADIENTS


def wrapped(network: PreTrainedModel, *, lean: bool = True) -> CausalModel:
    return CausalModel(network, byte_tokenizer(), name="tiny", lean=lean)


@pytest.fixture(scope="module", params=["lean llama", "stock llama", "stock gpt2"])
def model(request: pytest.FixtureRequest, tiny_llama: CausalModel, tiny_gpt2: CausalModel) -> CausalModel:
    if request.param == "stock llama":
        assert isinstance(tiny_llama.network, LlamaForCausalLM)
        return wrapped(copy.deepcopy(tiny_llama.network), lean=False)
    return tiny_llama if request.param == "lean llama" else tiny_gpt2


def fresh(model: CausalModel, ids: Sequence[int]) -> Tensor:
    """Logits of the last token by the network itself, without a cache."""
    with torch.inference_mode():
        return model.network(torch.tensor([list(ids)])).logits[0, -1].float()


def close(a: Tensor, b: Tensor) -> None:
    assert torch.allclose(a, b, atol=1e-4), float((a - b).abs().max())


def started(model: CausalModel, ids: Sequence[int] = PROMPT) -> State:
    state = model.start()
    state.extend(ids, last=True)
    return state


def test_the_paths_are_what_they_claim_to_be(tiny_llama: CausalModel, tiny_gpt2: CausalModel) -> None:
    assert tiny_llama.lean
    assert not tiny_gpt2.lean
    assert isinstance(tiny_gpt2.network, GPT2LMHeadModel)
    assert tiny_llama.has == tiny_gpt2.has == ALL


def test_logits_of_every_token_are_those_of_the_network(model: CausalModel) -> None:
    logits = model.start().extend(PROMPT)
    with torch.inference_mode():
        close(logits, model.network(torch.tensor([PROMPT])).logits[0].float())


def test_a_sequence_read_in_pieces_is_the_same_sequence(model: CausalModel) -> None:
    state = model.start()
    for piece in (PROMPT[:3], PROMPT[3:4], PROMPT[4:]):
        logits = state.extend(piece)
    close(logits[-1], fresh(model, PROMPT))
    assert state.length == len(PROMPT)


def test_last_gives_the_last_logits_and_all_hidden_states(model: CausalModel) -> None:
    everything, last = model.start(), model.start()
    close(last.extend(PROMPT, last=True), everything.extend(PROMPT)[-1:])
    assert last.hidden is not None
    assert everything.hidden is not None
    assert last.hidden.shape == (len(PROMPT), model.network.config.hidden_size)
    close(last.hidden, everything.hidden)


def test_hidden_states_are_those_of_the_network(model: CausalModel) -> None:
    state = started(model)
    state.extend([5, 6])
    with torch.inference_mode():
        hidden = model.network(torch.tensor([[*PROMPT, 5, 6]]), output_hidden_states=True).hidden_states[-1][0, -2:]
    assert state.hidden is not None
    close(state.hidden, hidden)


def test_a_tree_gives_every_node_the_logits_of_its_own_path(model: CausalModel) -> None:
    tokens, parents = TREE
    logits = started(model).extend(tokens, parents)
    for node in range(len(tokens)):
        path, step = [], node
        while step >= 0:
            path.append(tokens[step])
            step = parents[step]
        close(logits[node], fresh(model, [*PROMPT, *path[::-1]]))


@pytest.mark.parametrize("path", [[0], [0, 1], [0, 2, 5], [0, 1, 4], [], [1]])
def test_keeping_a_path_forgets_the_other_nodes(model: CausalModel, path: list[int]) -> None:
    if path == [1]:
        tokens, parents = [10, 20], [-1, -1]
    else:
        tokens, parents = TREE
    state = started(model)
    state.extend(tokens, parents)
    state.keep(path)
    assert state.length == len(PROMPT) + len(path)
    close(state.extend([7])[-1], fresh(model, [*PROMPT, *(tokens[node] for node in path), 7]))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_rollback_forgets_the_last_tokens(model: CausalModel, count: int) -> None:
    state = started(model)
    state.rollback(count)
    kept = PROMPT[: len(PROMPT) - count]
    assert state.length == len(kept)
    close(state.extend([7])[-1], fresh(model, [*kept, 7]))


def test_a_fork_leaves_the_original_as_it_was(model: CausalModel) -> None:
    state = started(model)
    twins = state.fork(3)
    logits = twins.extend([[1], [2], [3]])
    assert logits.shape == (3, 1, model.vocabulary_size)
    for row, token in enumerate([1, 2, 3]):
        close(logits[row, 0], fresh(model, [*PROMPT, token]))
    assert (state.batch, state.length) == (1, len(PROMPT))
    close(state.extend([9])[-1], fresh(model, [*PROMPT, 9]))


@pytest.mark.parametrize("rows", [[2, 0], [0, 0, 1], [1, 2, 0], [2], [0, 1, 2], [1, 1, 1, 2, 0]])
def test_select_reorders_repeats_and_drops_rows(model: CausalModel, rows: list[int]) -> None:
    state = started(model).fork(3)
    state.extend([[1], [2], [3]])
    state.select(rows)
    assert state.batch == len(rows)
    logits = state.extend([[7, 8 + index] for index in range(len(rows))], last=True)
    for index, row in enumerate(rows):
        close(logits[index, -1], fresh(model, [*PROMPT, row + 1, 7, 8 + index]))


def test_a_batch_reads_trees_too(model: CausalModel) -> None:
    state = started(model).fork(2)
    tokens, parents = TREE
    logits = state.extend([tokens, [token + 1 for token in tokens]], parents)
    close(logits[0, 5], fresh(model, [*PROMPT, 10, 30, 60]))
    close(logits[1, 4], fresh(model, [*PROMPT, 11, 21, 51]))


def test_an_emptied_cache_can_be_forked(model: CausalModel) -> None:
    state = model.start()
    state.extend([1, 2, 3])
    state.rollback(3)
    again = state.fork(2).extend([[4, 5], [6, 7]])
    assert torch.allclose(again[1], model.start().extend([6, 7]), atol=1e-4)


def test_a_cache_outgrows_its_first_allocation_whatever_is_done_to_it(model: CausalModel) -> None:
    ids = [(7 * index) % 250 for index in range(300)]
    state = started(model, ids)
    state.extend([10, 20, 30], [-1, 0, 0])
    state.keep([0, 2])
    close(state.extend([7])[-1], fresh(model, [*ids, 10, 30, 7]))
    state.rollback(1)
    state.select([0, 0])
    state.extend([[1], [2]])
    state.select([1, 0])
    close(state.extend([[3], [3]])[0, -1], fresh(model, [*ids, 10, 30, 2, 3]))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), st.integers(1, 4)),
        st.tuples(st.just("rollback"), st.integers(0, 3)),
        st.tuples(st.just("tree"), st.sampled_from([[0], [0, 1], [0, 2, 5], [0, 1, 3]])),
    ),
    min_size=1,
    max_size=8,
)


@given(steps=steps)
@settings(max_examples=25, deadline=None)
def test_any_order_of_operations_leaves_a_plain_sequence(
    tiny_llama: CausalModel, tiny_gpt2: CausalModel, steps: list[tuple[str, int | list[int]]]
) -> None:
    for model in (tiny_llama, tiny_gpt2):
        ids, state = list(PROMPT), started(model)
        for index, (operation, value) in enumerate(steps):
            if operation == "tree" and isinstance(value, list):
                state.extend(*TREE)
                state.keep(value)
                ids += [TREE[0][node] for node in value]
            elif operation == "rollback" and isinstance(value, int):
                state.rollback(value)
                ids = ids[: len(ids) - value] if value < len(ids) else ids
            elif isinstance(value, int):
                new = [(31 * index + offset) % 256 for offset in range(value)]
                state.extend(new)
                ids += new
            if len(ids) < 4:
                return
        close(state.extend([9])[-1], fresh(model, [*ids, 9]))


def test_every_pass_and_every_removal_is_in_the_ledger(model: CausalModel) -> None:
    ledger: list[Event] = []
    state = model.start(ledger)
    state.extend(PROMPT, last=True, lane="prompt")
    state.extend(*TREE)
    state.keep([0, 2])
    state.rollback(1)
    state.rollback(0)
    state.fork(2).extend([[1], [2]])
    kinds = [(type(event).__name__, *_shape(event)) for event in ledger]
    assert kinds == [
        ("Forward", "prompt", 1, 7, 0),
        ("Forward", "target", 1, 6, 7),
        ("Cache", 9, 4),
        ("Cache", 8, 1),
        ("Forward", "target", 2, 1, 8),
    ]
    assert all(event.seconds > 0 for event in ledger if isinstance(event, Forward))


def _shape(event: Event) -> tuple[object, ...]:
    if isinstance(event, Forward):
        return event.lane, event.batch, event.query, event.cached
    assert isinstance(event, Cache)
    return event.kept, event.removed


def test_ancestors_by_hand() -> None:
    mask, depths = ancestors([-1, 0, 0, 2])
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    assert depths.tolist() == [0, 1, 1, 2]


def test_lean_and_stock_agree_on_the_embedded_model(smollm: CausalModel) -> None:
    stock = CausalModel(smollm.network, smollm.tokenizer, name="stock", lean=False)
    assert smollm.lean
    ids = smollm.encode("What is the sea?")
    tokens, parents = TREE
    lean_state, stock_state = smollm.start(), stock.start()
    close_wide(lean_state.extend(ids), stock_state.extend(ids))
    close_wide(lean_state.extend(tokens, parents), stock_state.extend(tokens, parents))
    lean_state.keep([0, 2, 5])
    stock_state.keep([0, 2, 5])
    close_wide(lean_state.extend([5]), stock_state.extend([5]))
    lean_twins, stock_twins = lean_state.fork(3), stock_state.fork(3)
    close_wide(lean_twins.extend([[1], [2], [3]]), stock_twins.extend([[1], [2], [3]]))


def close_wide(a: Tensor, b: Tensor) -> None:
    assert torch.allclose(a, b, atol=1e-3), float((a - b).abs().max())


def tiny_mistral() -> CausalModel:
    """Sees eight tokens back, in every layer."""
    torch.manual_seed(0)
    config = MistralConfig(**TINY, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, sliding_window=8)
    return wrapped(MistralForCausalLM(config))


def tiny_mamba() -> CausalModel:
    """A recurrent state and nothing else; transformers drops it in a pass of several tokens."""
    torch.manual_seed(0)
    return wrapped(MambaForCausalLM(MambaConfig(**TINY, state_size=4)))


def tiny_lfm2() -> CausalModel:
    """A layer of convolutions, which is a state, and one of attention."""
    torch.manual_seed(0)
    layers = ["conv", "full_attention"]
    config = Lfm2Config(**TINY, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, layer_types=layers)
    return wrapped(Lfm2ForCausalLM(config))


def tiny_gemma3() -> CausalModel:
    """A layer that sees eight tokens back, and one that sees all."""
    torch.manual_seed(0)
    layers = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        **TINY, intermediate_size=64, num_attention_heads=4, head_dim=8, layer_types=layers, sliding_window=8
    )
    return wrapped(Gemma3ForCausalLM(config))


def tiny_bamba() -> CausalModel:
    """A recurrent layer before one of attention: transformers counts positions by the first."""
    torch.manual_seed(0)
    mamba = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 4}
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_layer_indices": [1]}
    config = BambaConfig(**TINY, **mamba, **attention, intermediate_size=64)
    return wrapped(BambaForCausalLM(config))


def tiny_recurrent_gemma() -> CausalModel:
    """A network that keeps its state to itself, where no copy of a cache reaches it."""
    torch.manual_seed(0)
    shape = TINY | {"num_hidden_layers": 3, "intermediate_size": 64, "num_attention_heads": 4}
    config = RecurrentGemmaConfig(**shape, attention_window_size=8)
    return wrapped(RecurrentGemmaForCausalLM(config))


Made = Callable[[], CausalModel]
WINDOWS = [tiny_mistral, tiny_gemma3]
STATES = [tiny_mamba, tiny_lfm2, tiny_bamba]
LONG = [(31 * index * index + 7) % 256 for index in range(60)]


def test_what_a_cache_is_made_of_says_what_a_model_can_do() -> None:
    for make in WINDOWS:
        model = make()
        assert model.has == ALL & ~Need.TREE_ATTENTION
        assert not model.rereads
    for make in STATES:
        model = make()
        assert model.has == ALL & ~(Need.TREE_ATTENTION | Need.BATCH)
        assert model.rereads
        assert model.stepwise == (make is tiny_mamba)
    assert tiny_recurrent_gemma().has == Need.HIDDEN_STATES | Need.LOGITS | Need.GRADIENTS


@pytest.mark.parametrize("make", WINDOWS)
def test_a_window_at_full_length_is_still_a_window(make: Made) -> None:
    model = make()
    state, theirs = model.start(), DynamicCache(config=model.network.config)
    for stop in (20, 21, 22, 30, 60):
        piece = LONG[state.length : stop]
        with torch.inference_mode():
            expected = model.network(torch.tensor([piece]), past_key_values=theirs).logits[0].float()
        close(state.extend(piece), expected)


@pytest.mark.parametrize("make", WINDOWS)
@pytest.mark.parametrize("count", [1, 5, 30])
def test_what_has_left_the_window_is_there_again_after_a_rollback(make: Made, count: int) -> None:
    model = make()
    state = started(model, LONG)
    state.rollback(count)
    kept = LONG[: len(LONG) - count]
    close(state.extend([7, 8])[-1], fresh(model, [*kept, 7, 8]))
    twins = state.fork(2)
    twins.extend([[1], [2]])
    twins.select([1, 1])
    close(twins.extend([[3], [4]])[1, -1], fresh(model, [*kept, 7, 8, 2, 4]))


@pytest.mark.parametrize("make", STATES)
def test_several_tokens_behind_a_state_are_read_as_one_by_one(make: Made) -> None:
    model = make()
    state = started(model, LONG[:20])
    for stop in (24, 25, 30):
        close(state.extend(LONG[state.length : stop])[-1], fresh(model, LONG[:stop]))
    with torch.inference_mode():
        close(started(model, LONG[:20]).extend(LONG[20:30]), model.network(torch.tensor([LONG[:30]])).logits[0, 20:])


@pytest.mark.parametrize("make", STATES)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_rollback_of_a_state_reads_the_kept_tokens_again(make: Made, count: int) -> None:
    model = make()
    ledger: list[Event] = []
    state = model.start(ledger)
    state.extend(LONG[:20], last=True, lane="prompt")
    logits = state.extend(LONG[20:25])
    hidden = state.hidden
    before = len(ledger)
    state.rollback(count)
    left = 5 - count
    assert state.length == 20 + left
    assert state.hidden is hidden, "the hidden states stay those of the pass that was asked for"
    passes = [event for event in ledger[before:] if isinstance(event, Forward)]
    assert sum(event.query for event in passes) == left
    assert {event.lane for event in passes} <= {"target"}
    assert [(event.kept, event.removed) for event in ledger if isinstance(event, Cache)] == [(20, 5)]
    notes = [event.text for event in ledger if isinstance(event, Note) and "cannot forget single tokens" in event.text]
    assert len(notes) == (left > 0)
    kept = LONG[: 20 + left]
    close(state.extend([7])[-1], fresh(model, [*kept, 7]))
    close(logits[-1], fresh(model, LONG[:25]))


@pytest.mark.parametrize("make", STATES)
def test_a_second_rollback_reads_again_and_says_no_more(make: Made) -> None:
    model = make()
    ledger: list[Event] = []
    state = model.start(ledger)
    state.extend(LONG[:20], last=True)
    for stop in (25, 27):
        state.extend(LONG[state.length : stop])
        state.rollback(2)
    assert state.length == 25
    close(state.extend([7])[-1], fresh(model, [*LONG[:25], 7]))
    assert sum(isinstance(event, Note) and "cannot forget" in event.text for event in ledger) == 1


def test_a_state_goes_back_no_further_than_its_last_pass() -> None:
    state = started(tiny_lfm2(), LONG[:20])
    state.extend([1, 2, 3])
    with pytest.raises(AssertionError, match="cannot forget 4 of the 3 tokens of the last pass"):
        state.rollback(4)
    state.extend([4])
    with pytest.raises(AssertionError, match="the last pass had one token"):
        state.rollback(1)


def test_the_cost_of_a_pass_can_be_measured_with_a_state() -> None:
    curve = tiny_lfm2().cost_curve(cached=8, repeats=1)
    assert curve.x == QUERY_SIZES
    assert min(curve.y) > 0


@pytest.mark.parametrize("make", [*WINDOWS, *STATES])
def test_plain_decoding_is_the_networks_own_also_behind_a_long_prompt(make: Made) -> None:
    model = make()
    prompt = "Hello, how are you? " * 15  # more than one piece of a prompt
    greedy = finished(list(run(model, "greedy", prompt, raw=True, max_new_tokens=6))).token_ids
    ids = model.encode(prompt, raw=True)
    for token in greedy:
        assert token == int(fresh(model, ids).argmax())
        ids.append(token)
    for method in ("greedy", "sampling"):
        check_stream(model, list(run(model, method, "Hello", max_new_tokens=20)))


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (tiny_mistral, "contrastive-search"),
        (tiny_mamba, "contrastive-search"),
        (tiny_mamba, "beam-search"),
        (tiny_recurrent_gemma, "token-recycling"),
        (tiny_recurrent_gemma, "beam-search"),
    ],
)
def test_what_a_cache_cannot_do_is_refused_with_a_reason(make: Made, method: str) -> None:
    with pytest.raises(NeedNotMet, match=r"needs .*, which tiny does not have. Try greedy or sampling."):
        run(make(), method, "Hello")


def test_a_llama_that_differs_in_architecture_takes_the_general_path(tiny_llama: CausalModel) -> None:
    config = copy.deepcopy(tiny_llama.network.config)
    config.attention_bias = True
    assert not wrapped(LlamaForCausalLM(config)).lean
    config = copy.deepcopy(tiny_llama.network.config)
    config.hidden_act = "gelu"
    assert not wrapped(LlamaForCausalLM(config)).lean


def test_the_cost_curve_is_measured_once(tiny_llama: CausalModel) -> None:
    curve = tiny_llama.cost_curve(cached=16, repeats=1)
    assert curve.x == QUERY_SIZES
    assert all(seconds > 0 for seconds in curve.y)
    assert tiny_llama.cost_curve() is curve
