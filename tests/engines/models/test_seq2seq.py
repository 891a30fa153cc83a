"""The encoder-decoder: whatever way its tokens are read, they mean what a plain pass over all of them says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from engines.events import Cache, Event, Forward
from engines.models.seq2seq import DecoderState, Seq2SeqModel
from tests.conftest import byte_tokenizer

SOURCE = [72, 101, 108, 108, 111, 32, 119, 111]
START = 256


@pytest.fixture(scope="module")
def tiny_t5() -> Seq2SeqModel:
    """A T5 of random weights, sharp enough to have opinions."""
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=257, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0, pad_token_id=START,
        decoder_start_token_id=START, eos_token_id=START, initializer_factor=3.0,
    )  # fmt: skip
    tokenizer: PreTrainedTokenizerFast = byte_tokenizer()
    return Seq2SeqModel(T5ForConditionalGeneration(config), tokenizer, name="tiny-t5")


def plainly(model: Seq2SeqModel, tokens: list[int], source: list[int] = SOURCE) -> Tensor:
    """Logits (tokens, vocabulary) by one pass of transformers over everything."""
    with torch.no_grad():
        return model.network(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([tokens]), use_cache=False
        ).logits[0]


def test_tokens_read_in_pieces_are_tokens_read_at_once(tiny_t5: Seq2SeqModel) -> None:
    tokens = [START, 65, 66, 67, 65, 66, 200, 3]
    expected = plainly(tiny_t5, tokens)
    for cuts in ([8], [1] * 8, [2, 1, 4, 1]):
        state = tiny_t5.read(SOURCE)
        pieces = torch.tensor(tokens).split(cuts)
        found = torch.cat([state.extend(piece.tolist()) for piece in pieces])
        assert state.length == 8
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_what_the_encoder_read_matters(tiny_t5: Seq2SeqModel) -> None:
    ours = tiny_t5.read(SOURCE).extend([START, 65])
    other = tiny_t5.read(SOURCE[::-1]).extend([START, 65])
    assert (ours - other).abs().max() > 0.1


def test_the_rows_of_a_fork_go_different_ways_and_leave_the_original_alone(tiny_t5: Seq2SeqModel) -> None:
    state = tiny_t5.read(SOURCE)
    state.extend([START, 65])
    fork = state.fork(3)
    rows = [[66, 67], [1, 2], [66, 2]]
    found = fork.extend(rows)
    more = fork.extend([[9], [9], [10]])
    for row, logits, last, behind in zip(rows, found, more, (9, 9, 10), strict=True):
        torch.testing.assert_close(logits, plainly(tiny_t5, [START, 65, *row])[2:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(last, plainly(tiny_t5, [START, 65, *row, behind])[-1:], atol=1e-4, rtol=1e-4)
    assert (state.length, fork.length) == (2, 5)
    torch.testing.assert_close(state.extend([90])[0], plainly(tiny_t5, [START, 65, 90])[-1], atol=1e-4, rtol=1e-4)


def test_what_was_rolled_back_is_forgotten(tiny_t5: Seq2SeqModel) -> None:
    state = tiny_t5.read(SOURCE)
    state.extend([START, 65, 66, 67])
    state.rollback(2)
    assert state.length == 2
    torch.testing.assert_close(state.extend([70])[0], plainly(tiny_t5, [START, 65, 70])[-1], atol=1e-4, rtol=1e-4)


def test_every_pass_is_in_the_ledger_the_encoders_once(tiny_t5: Seq2SeqModel) -> None:
    ledger: list[Event] = []
    state = tiny_t5.read(SOURCE, ledger, lambda: 2.5)
    assert state.extend([START, 65], last=True).shape == (1, 257)
    state.fork(4).extend([[1, 2, 3]] * 4)
    state.rollback(1)
    told = [
        (event.lane, event.batch, event.query, event.cached) if isinstance(event, Forward) else event.removed
        for event in ledger
        if isinstance(event, Forward | Cache)
    ]
    assert told == [("prompt", 1, 8, 0), ("target", 1, 2, 0), ("target", 4, 3, 2), 1]
    assert all(event.began == 2.5 and event.seconds > 0 for event in ledger if isinstance(event, Forward))


def test_a_decoder_that_has_read_nothing_cannot_be_copied(tiny_t5: Seq2SeqModel) -> None:
    state: DecoderState = tiny_t5.read(SOURCE)
    with pytest.raises(AssertionError, match="read nothing"):
        state.fork(2)


def test_a_marker_that_the_vocabulary_lacks_is_named(tiny_t5: Seq2SeqModel) -> None:
    with pytest.raises(KeyError, match="<extra_id_7>"):
        tiny_t5.id("<extra_id_7>")
    assert tiny_t5.id("<|end|>") == START
