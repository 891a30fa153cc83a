"""The loop around every method: requests checked at the call, limits, the stamp, the totals."""

from __future__ import annotations

import gc
import importlib
import inspect
import time
import weakref
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch

from engines.errors import BadParameter, DecodingError, EmptyPrompt, NeedNotMet, PromptTooLong, UnknownMethod
from engines.events import Candidates, Commit, Draft, Event, Forward, Match, Note, Placed, Started
from engines.method import Need, find, method
from engines.models.causal import CausalModel, State
from engines.runner import PROMPT_CHUNK, Run, Stopwatch, check_needs, run
from engines.tally import Tally
from tests.engines.laws import check_stream, finished, only, untimed


def decode(model: CausalModel, name: str = "greedy", prompt: str = "Hello", **request: Any) -> list[Event]:
    return list(run(model, name, prompt, **{"max_new_tokens": 8, **request}))


def test_a_stream_starts_with_its_header_and_ends_with_totals(tiny_llama: CausalModel) -> None:
    events = decode(tiny_llama, seed=3)
    check_stream(tiny_llama, events)
    header = events[0]
    assert isinstance(header, Started)
    assert (header.model, header.method, header.family, header.lossless) == ("tiny-llama", "greedy", "baselines", True)
    assert (header.prompt, header.prompt_length, header.seed, header.max_new_tokens) == ("Hello", 5, 3, 8)
    assert "".join(token.text for token in header.prompt_tokens) == "Hello"
    assert {"torch", "transformers", "python"} <= set(header.versions)
    assert "core" in header.machine


def test_params_in_the_header_include_the_defaults(tiny_llama: CausalModel) -> None:
    header = decode(tiny_llama, "beam-search", params={"num_beams": 2})[0]
    assert isinstance(header, Started)
    assert header.params == {
        "num_beams": 2,
        "length_penalty": 1.0,
        "early_stopping": "false",
        "constraint": "none",
        "grammar": "",
    }


def test_the_work_happens_while_the_events_are_read(tiny_llama: CausalModel) -> None:
    events = run(tiny_llama, "greedy", "Hello", max_new_tokens=8)
    assert isinstance(next(events), Started)
    later = [type(event) for event in (next(events), next(events))]
    assert later[0] is Forward


def test_long_prompts_are_read_in_pieces(smollm: CausalModel) -> None:
    events = decode(smollm, prompt=" sea" * (PROMPT_CHUNK + 20), raw=True, max_new_tokens=1)
    prompt_passes = [forward for forward in only(events, Forward) if forward.lane == "prompt"]
    assert [forward.query for forward in prompt_passes] == [PROMPT_CHUNK, 19]
    assert finished(events).totals.prompt_passes == 2
    assert finished(events).totals.target_passes == 1


def test_a_prompt_of_one_token_works(tiny_llama: CausalModel) -> None:
    check_stream(tiny_llama, decode(tiny_llama, prompt="x"))


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        ({"prompt": ""}, EmptyPrompt, "empty"),
        ({"prompt": " \n\t"}, EmptyPrompt, "empty"),
        ({"prompt": "x" * 1_000_000}, PromptTooLong, "1,000,000 characters"),
        ({"prompt": "x" * 600}, PromptTooLong, "600 tokens"),
        ({"prefix": [1] * 510}, PromptTooLong, "515 tokens"),
        ({"prefix": [257]}, BadParameter, "257"),
        ({"prefix": [-1]}, BadParameter, "-1"),
        ({"max_new_tokens": 0}, BadParameter, "1 to 4,096"),
        ({"max_new_tokens": 1e3}, BadParameter, "whole number"),
        ({"max_new_tokens": True}, BadParameter, "whole number"),
        ({"seed": -1}, BadParameter, "seed"),
        ({"seed": 2**70}, BadParameter, "seed"),
        ({"time_limit": 0}, BadParameter, "positive"),
        ({"time_limit": float("nan")}, BadParameter, "positive"),
        ({"time_limit": float("inf")}, BadParameter, "positive"),
        ({"name": "gready"}, UnknownMethod, "greedy"),
        ({"params": {"temperature": 1}}, BadParameter, "temperature"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_at_the_call(
    tiny_llama: CausalModel, request_: dict[str, Any], error: type[DecodingError], words: str
) -> None:
    request = {"name": "greedy", "prompt": "Hello", **request_}
    with pytest.raises(error) as caught:
        run(tiny_llama, request.pop("name"), request.pop("prompt"), **request)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "prompt", ["\ud800 lone", "\x00\x1b[31m", "مرحبا \u202e", "🌊👩‍👩‍👧", "<script>alert(1)</script>"]
)
def test_odd_prompts_are_decoded_like_any_other(tiny_llama: CausalModel, prompt: str) -> None:
    check_stream(tiny_llama, decode(tiny_llama, prompt=prompt))


def test_a_method_that_asks_too_much_of_a_model_is_refused_with_a_reason(tiny_llama: CausalModel) -> None:
    class Bare:
        has = Need.NOTHING
        title = "Some model"

    with pytest.raises(NeedNotMet, match="several sequences side by side, which Some model does not have"):
        check_needs(find("beam-search"), Bare())  # type: ignore[arg-type]
    check_needs(find("greedy"), Bare())  # type: ignore[arg-type]
    check_needs(find("contrastive-search"), tiny_llama)


def test_the_token_limit_counts_new_tokens_only(tiny_llama: CausalModel) -> None:
    end = finished(decode(tiny_llama, prefix=[65, 66], max_new_tokens=3))
    assert (len(end.token_ids), end.totals.tokens, end.reason) == (5, 3, "token limit")


def test_a_prefix_is_read_and_not_generated(tiny_llama: CausalModel) -> None:
    whole = finished(decode(tiny_llama, max_new_tokens=12)).token_ids
    events = decode(tiny_llama, prefix=whole[:5], max_new_tokens=7)
    assert finished(events).token_ids == whole
    first = only(events, Commit)[0]
    assert [placed.origin for placed in first.tokens] == ["given"] * 5
    assert (first.position, first.step) == (0, 0)
    assert finished(events).totals.time_to_first_token > first.time


def test_a_stop_string_across_tokens_ends_the_run_and_one_in_the_prefix_does_not(tiny_llama: CausalModel) -> None:
    whole = finished(decode(tiny_llama, max_new_tokens=12))
    stop = tiny_llama.decode(whole.token_ids[4:7])
    end = finished(decode(tiny_llama, max_new_tokens=12, stop=[stop, ""]))
    assert end.reason == "stop string"
    assert end.token_ids == whole.token_ids[: len(end.token_ids)]
    assert end.text.endswith(stop)
    given = finished(decode(tiny_llama, prefix=whole.token_ids[:7], max_new_tokens=1, stop=[stop]))
    assert given.reason != "stop string" or stop in tiny_llama.decode(given.token_ids[7:])


def test_commit_takes_tokens_up_to_the_one_that_ends_the_run(tiny_llama: CausalModel) -> None:
    (end,) = tiny_llama.eos_ids
    job = Run(tiny_llama, [1, 2], max_new_tokens=9)
    taken: list[int] = []

    def commit() -> Iterator[Event]:
        taken.append((yield from job.commit(*(Placed(tiny_llama.token(id), "drafted") for id in (5, end, 6)))))
        taken.append((yield from job.commit(Placed(tiny_llama.token(7), "drafted"))))

    (event,) = commit()
    assert isinstance(event, Commit)
    assert (taken, job.output, job.reason) == ([2, 0], [5, end], "end of text")
    assert job.text() == tiny_llama.decode([5])


def test_ends_tells_of_any_text_what_commit_would(tiny_llama: CausalModel) -> None:
    (end,) = tiny_llama.eos_ids
    job = Run(tiny_llama, [1] * 500, max_new_tokens=8, stop=["ab"])
    ids = tiny_llama.encode("cab")
    assert job.ends(ids[:2]) is None
    assert job.ends(ids) == "stop string"
    assert job.ends([end]) == "end of text"
    assert job.ends([0] * 8) == "token limit"
    job.max_new_tokens = 100
    assert job.ends([0] * 12) == "context full"
    assert job.remaining == 12


def test_time_runs_only_while_the_method_works(tiny_llama: CausalModel) -> None:
    events: list[Event] = []
    for event in run(tiny_llama, "greedy", "Hello", max_new_tokens=4, time_limit=5.0):
        events.append(event)
        time.sleep(0.05)
    check_stream(tiny_llama, events)
    assert finished(events).totals.seconds < 0.05 * len(events)


def test_a_stopwatch_adds_up_what_it_measured() -> None:
    watch = Stopwatch()
    assert watch.seconds == 0
    watch.start()
    time.sleep(0.02)
    watch.stop()
    first = watch.seconds
    time.sleep(0.02)
    assert watch.seconds == first >= 0.02


def test_a_time_limit_is_told_in_a_sentence(tiny_llama: CausalModel) -> None:
    events = decode(tiny_llama, max_new_tokens=400, time_limit=0.02)
    assert finished(events).reason == "time limit"
    assert isinstance(events[-2], Note)


def test_runs_do_not_share_their_states(tiny_llama: CausalModel) -> None:
    alone = untimed(decode(tiny_llama, "sampling", seed=1))
    one = run(tiny_llama, "sampling", "Hello", seed=1, max_new_tokens=8)
    two = run(tiny_llama, "sampling", "Other words", seed=2, max_new_tokens=8)
    woven: list[Event] = []
    for event in one:
        woven.append(event)
        next(two, None)
    assert untimed(woven) == alone


def test_the_global_random_state_is_neither_used_nor_moved(tiny_llama: CausalModel) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = untimed(decode(tiny_llama, "sampling", seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert untimed(decode(tiny_llama, "sampling", seed=1)) == first


def test_an_error_inside_a_method_reaches_the_reader_and_closes_the_run(tiny_llama: CausalModel) -> None:
    closed: list[bool] = []

    @method("breaks-for-a-test", title="Breaks", family="tests", idea="Fails after one token.")
    def breaks(job: Run, params: Any) -> Iterator[Event]:
        try:
            logits = job.next_logits()
            yield job.candidates(logits)
            raise DecodingError("It broke.")
        finally:
            closed.append(True)

    try:
        events = run(tiny_llama, "breaks-for-a-test", "Hello")
        with pytest.raises(DecodingError, match="It broke"):
            list(events)
        assert closed == [True]
    finally:
        from engines import method as registry

        registry._registry.pop("breaks-for-a-test")


def test_candidates_are_the_models_own_probabilities(tiny_llama: CausalModel) -> None:
    logits = tiny_llama.start().extend(tiny_llama.encode("Hello"), last=True)[-1]
    first = only(decode(tiny_llama, "sampling", params={"temperature": 0.3}), Candidates)[0]
    p = logits.softmax(-1)
    assert [choice.p for choice in first.raw] == pytest.approx(p.topk(10).values.tolist(), abs=1e-6)
    assert first.entropy == pytest.approx(float(torch.distributions.Categorical(logits=logits).entropy()), abs=1e-4)


def test_totals_keep_the_vocabulary_of_numbers() -> None:
    lanes: tuple[Literal["prompt", "target", "draft"], ...] = ("prompt", "target", "target", "draft")
    tally = Tally().count(Forward(lane=lane, batch=2, query=3, cached=0, seconds=0.1) for lane in lanes)
    tally.tokens, tally.seconds = 6, 2.0
    totals = tally.totals
    assert (totals.prompt_passes, totals.target_passes, totals.draft_passes) == (1, 2, 1)
    assert totals.tokens_processed == 24
    assert totals.tokens_per_target_pass == 3
    assert totals.tokens_per_second == 3
    assert totals.acceptance_rate is None


def test_every_event_of_a_method_says_which_line_had_been_reached(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "prompt-lookup", "abcabcabcabc", raw=True, max_new_tokens=6))
    started = events[0]
    assert isinstance(started, Started)
    assert started.at == ""
    assert len(started.code) == 12
    modules = {event.at.split(":")[0] for event in events if isinstance(event, (Draft, Match, Commit))}
    assert modules == {"engines.speculative.loop", "engines.speculative.copying"}
    for event in events:
        if isinstance(event, Match):
            module, _, line = event.at.partition(":")
            source = inspect.getsource(importlib.import_module(module)).splitlines()
            assert "yield Match(" in source[int(line) - 1]


@pytest.mark.parametrize("method_id", ["greedy", "token-recycling", "speculative-sampling", "pearl", "rsd-s", "aded"])
def test_the_memory_of_a_run_is_freed_when_nobody_holds_it(tiny_llama: CausalModel, method_id: str) -> None:
    """By reference counts alone: nobody waits for the garbage collector."""
    before = {id(one) for one in gc.get_objects() if isinstance(one, State)}
    gc.disable()
    try:
        events = run(tiny_llama, method_id, "abc", max_new_tokens=50)
        for _ in range(12):
            next(events)
        states = [one for one in gc.get_objects() if isinstance(one, State) and id(one) not in before]
        freed = [weakref.ref(state) for state in states]
        assert freed
        del states
        events.close()
        del events
        assert [state for state in freed if state() is not None] == []
    finally:
        gc.enable()
