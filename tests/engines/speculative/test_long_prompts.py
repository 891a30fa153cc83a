"""A prompt of 7,000 tokens that says the same again and again: the right text, and work that does not grow with it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engines.events import Draft, Match, StoredRow, to_json
from engines.models.causal import CausalModel
from engines.runner import run
from engines.speculative.aded import Trigrams
from engines.speculative.aggressive_decoding import Places
from engines.speculative.copying import NgramIndex
from tests.engines.laws import check_stream, finished, only
from tests.engines.models.test_causal import wrapped

TIMES = 700
PROMPTS = {"one sentence": "The sea. \n" * TIMES, "one letter": "a" * 10 * TIMES}
COPYING: list[tuple[str, dict[str, object]]] = [
    ("prompt-lookup", {}),
    ("prompt-lookup", {"max_ngram": 8, "which": "first"}),
    ("copyspec", {}),
    ("aggressive-decoding", {}),
    ("token-recycling", {"nodes": 12, "recycle_prompt": True}),
    ("aded", {"choices": 16}),
]


@pytest.fixture(scope="module")
def model() -> CausalModel:
    """As random as the tiny Llama, with room for 8,192 tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        initializer_range=0.3,
    )
    return wrapped(LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def plain(model: CausalModel) -> dict[str, tuple[int, ...]]:
    return {
        name: finished(list(run(model, "greedy", prompt, raw=True, max_new_tokens=32))).token_ids
        for name, prompt in PROMPTS.items()
    }


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(("method", "params"), COPYING, ids=lambda value: value if isinstance(value, str) else "")
def test_a_long_prompt_of_repeats_is_answered_as_plainly(
    model: CausalModel, plain: dict[str, tuple[int, ...]], method: str, params: dict[str, object], prompt: str
) -> None:
    settings = {"fallback": False, **params}
    events = list(run(model, method, PROMPTS[prompt], params=settings, raw=True, max_new_tokens=32))
    check_stream(model, events)
    assert finished(events).token_ids == plain[prompt]
    for match in only(events, Match):
        assert -10 * TIMES <= match.source[0] <= match.source[1] <= match.target[1]
    assert all(len(draft.nodes) <= 129 for draft in only(events, Draft))
    # The prompt itself is in the first event, at most 4,096 tokens of it; no other one grows with it.
    assert max(len(to_json(event)) for event in events[1:]) < 40_000


def test_the_longest_prompt_leaves_room_for_one_token_and_no_guess(model: CausalModel) -> None:
    for method in ("prompt-lookup", "aded"):
        events = list(run(model, method, "ab" * 4095 + "a", params={"fallback": False}, raw=True))
        assert finished(events).reason == "context full"
        assert len(finished(events).token_ids) == 1
        assert not only(events, Draft)


class Counted(list[int]):
    """A text that counts how many of its tokens are looked at."""

    read = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.read += len(found) if isinstance(found, list) else 1
        return found


def text(length: int) -> Counted:
    return Counted(PROMPTS["one sentence"].encode()[:length])


@pytest.mark.parametrize("which", ["latest", "first"])
def test_an_index_reads_a_prompt_once_and_then_only_what_is_new(which: Any) -> None:
    first, steps = [], []
    for length in (700, 7000):
        grown, index = text(length), NgramIndex(1, 3, which)
        assert index.find(grown) is not None
        first.append(grown.read)
        for token in b"and the sea. \nThe":
            grown.append(token)
            before = grown.read
            index.find(grown)
            steps.append(grown.read - before)
    assert first[1] < 10.1 * first[0]
    assert max(steps) <= 2 * (1 + 2 + 3)


def test_a_place_in_the_input_is_found_by_the_answers_last_tokens_alone() -> None:
    places = Places(text(7000), 3)
    answers = [text(length) for length in (10, 700, 7000)]
    assert [places.find(answer) for answer in answers] == [None] * 3
    assert {answer.read for answer in answers} <= {1, 3, 6}


def test_trigrams_of_a_long_text_are_as_many_as_are_different() -> None:
    table = Trigrams()
    table.count(text(7000))
    assert len(table.rows) == len({tuple(pair) for pair in pairwise(text(7000))}) == 10
    window = text(7000)[-16:]
    assert len(table.adapt(window, 0.04)) <= 14


def test_the_rows_shown_of_a_long_prompt_are_few(model: CausalModel) -> None:
    prompt = "".join(chr(33 + place * place % 89) for place in range(7000))
    for method in ("aded", "token-recycling"):
        params: dict[str, object] = {"fallback": False}
        if method == "token-recycling":
            params["recycle_prompt"] = True
        events = list(run(model, method, prompt, params=params, raw=True, max_new_tokens=2))
        rows: list[StoredRow] = [row for event in events for row in getattr(event, "rows", ())]
        assert 0 < len(rows) <= 16 * len([event for event in events if hasattr(event, "rows")])
