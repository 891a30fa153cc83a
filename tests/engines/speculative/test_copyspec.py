"""CopySpec: what it copies, when it waits, and what that costs."""

from __future__ import annotations

import time

import pytest

from engines.events import Draft, Event, Finished, Match
from engines.models.causal import CausalModel
from engines.runner import run
from engines.speculative.copying import NgramIndex


def decode(model: CausalModel, prompt: str, **request: object) -> list[Event]:
    return list(run(model, "copyspec", prompt, raw=True, **request))  # type: ignore[arg-type]


def finished(events: list[Event]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def test_the_worked_example_of_the_specification() -> None:
    index = NgramIndex(3, 3, "first")
    text = [*b"ABCDEFABCD"]
    assert index.find(text) == (4, 3)  # BCD stood at 1, so what follows it begins at 4
    assert bytes(text[4:14]) == b"EFABCD"
    text += b"EFG"  # E, F accepted, G the correction
    assert index.find(text) is None  # EFG is the text's own ending
    assert index.find([*text, *b"HBCD"]) == (4, 3)


def test_nothing_is_copied_before_gamma_tokens_match(tiny_llama: CausalModel) -> None:
    for gamma in (2, 4):
        events = decode(tiny_llama, "abcab xabcabc", params={"gamma": gamma, "block": 6}, max_new_tokens=60)
        for event in events:
            if isinstance(event, Match):
                assert event.source[1] - event.source[0] == gamma


def test_a_gamma_longer_than_the_text_is_plain_decoding(tiny_llama: CausalModel) -> None:
    events = decode(tiny_llama, "abab", params={"gamma": 10, "block": 4}, max_new_tokens=4)
    assert not any(isinstance(event, Draft) for event in events)
    assert finished(events).totals.target_passes == 4


def test_a_block_is_an_earlier_slice_of_the_text(tiny_llama: CausalModel) -> None:
    events = decode(tiny_llama, "abcabcabc abcabc", params={"block": 5}, max_new_tokens=80)
    text = [*tiny_llama.encode("abcabcabc abcabc", raw=True), *finished(events).token_ids]
    zero = len(text) - len(finished(events).token_ids)
    matches = [event for event in events if isinstance(event, Match)]
    assert matches
    for match in matches:
        (a, b), (c, d), (e, f) = match.source, match.target, match.copied
        assert text[zero + a : zero + b] == text[zero + c : zero + d]
        assert e == b
        assert 1 <= f - e <= 5


def test_the_first_occurrence_and_the_latest_can_differ() -> None:
    text = [*b"aXYb aXYc aXY"]
    assert NgramIndex(3, 3, "first").find(text) == (3, 3)
    assert NgramIndex(3, 3, "latest").find(text) == (8, 3)


def test_copying_costs_fewer_passes_than_tokens(smollm: CausalModel) -> None:
    code = "Repeat this code exactly:\n```python\ndef add(a, b):\n    result = a + b\n    return result\n```"
    last = list(run(smollm, "copyspec", code, max_new_tokens=40))[-1]
    assert isinstance(last, Finished)
    assert last.totals.tokens_per_target_pass > 1.4


@pytest.mark.parametrize("which", ["first", "latest"])
def test_a_long_text_full_of_repeats_is_looked_up_quickly(which: str) -> None:
    index, text = NgramIndex(3, 3, which), [1, 2, 3, 4] * 2500  # type: ignore[arg-type]
    began = time.perf_counter()
    for stop in range(9000, 10_000):
        assert index.find(text[:stop]) is not None
    assert time.perf_counter() - began < 2
