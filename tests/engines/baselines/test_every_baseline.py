"""What every classic decoder does: keeps the laws of the stream, its limits, its seed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from engines.events import Candidates, Commit, Event, Finished, Note, Started, committed
from engines.method import methods
from engines.models.causal import CausalModel
from engines.runner import run
from tests.engines.laws import check_stream, finished, only, untimed

BASELINES = ("greedy", "sampling", "beam-search", "diverse-beam-search", "contrastive-search", "best-of-n")
PROMPT = "What is the sea? "


@pytest.fixture(params=["lean", "stock"])
def tiny(request: pytest.FixtureRequest, tiny_llama: CausalModel, tiny_gpt2: CausalModel) -> CausalModel:
    return tiny_llama if request.param == "lean" else tiny_gpt2


def decode(model: CausalModel, method: str, **request: object) -> list[Event]:
    return list(run(model, method, PROMPT, **{"max_new_tokens": 12, **request}))  # type: ignore[arg-type]


def text_without_end(model: CausalModel, method: str) -> tuple[int, list[int]]:
    """A seed with which the method's first tokens contain no end of text, and these tokens."""
    for seed in range(50):
        ids = list(finished(decode(model, method, seed=seed)).token_ids)
        if not set(ids) & model.eos_ids and len(ids) == 12:
            return seed, ids
    raise AssertionError("every text ended early")


def test_all_of_them_are_registered() -> None:
    assert {name for name, method in methods().items() if method.family == "baselines"} == set(BASELINES)


@pytest.mark.parametrize("method", BASELINES)
def test_committed_tokens_spell_the_returned_text(tiny: CausalModel, method: str) -> None:
    events = decode(tiny, method)
    check_stream(tiny, events)
    assert finished(events).reason in ("token limit", "end of text")


@pytest.mark.parametrize("method", BASELINES)
def test_every_position_of_the_output_shows_what_the_model_wanted(tiny: CausalModel, method: str) -> None:
    events = decode(tiny, method)
    shown = {event.position: event for event in only(events, Candidates) if event.sequence == 0}
    for position, placed in enumerate(committed(events)):
        assert placed.raw is not None
        assert placed.rank is not None
        if placed.rank < len(shown[position].raw):
            choice = shown[position].raw[placed.rank]
            assert choice.p == pytest.approx(placed.raw, rel=1e-4)


@pytest.mark.parametrize("method", BASELINES)
def test_the_same_seed_gives_the_same_events(tiny: CausalModel, method: str) -> None:
    assert untimed(decode(tiny, method, seed=7)) == untimed(decode(tiny, method, seed=7))


@pytest.mark.parametrize("method", ["sampling", "best-of-n"])
def test_another_seed_gives_another_text(tiny: CausalModel, method: str) -> None:
    assert len({finished(decode(tiny, method, seed=seed)).token_ids for seed in range(4)}) > 1


@pytest.mark.parametrize("method", BASELINES)
def test_a_budget_of_one_token_gives_one_token(tiny: CausalModel, method: str) -> None:
    events = decode(tiny, method, max_new_tokens=1)
    check_stream(tiny, events)
    assert len(finished(events).token_ids) == 1


@pytest.mark.parametrize("method", BASELINES)
def test_text_ends_with_the_stop_string(tiny_llama: CausalModel, method: str) -> None:
    seed, ids = text_without_end(tiny_llama, method)
    stop = tiny_llama.decode(ids[3:5])
    events = decode(tiny_llama, method, seed=seed, stop=["never in the text", stop])
    check_stream(tiny_llama, events)
    end = finished(events)
    assert end.reason == "stop string"
    assert end.text.endswith(stop)
    assert stop not in end.text[:-1]


@pytest.mark.parametrize("method", BASELINES)
def test_end_of_text_ends_the_run_and_spells_nothing(
    tiny_llama: CausalModel, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed, ids = text_without_end(tiny_llama, method)
    monkeypatch.setattr(tiny_llama, "eos_ids", frozenset({ids[2]}))
    # Beams need not end at the first chance; this penalty makes them.
    params = {"length_penalty": -5} if "beam" in method else {}
    events = decode(tiny_llama, method, seed=seed, params=params)
    check_stream(tiny_llama, events)
    end = finished(events)
    assert end.reason == "end of text"
    assert end.token_ids[-1] == ids[2]
    assert end.text == tiny_llama.decode(end.token_ids[:-1])


@pytest.mark.parametrize("method", BASELINES)
def test_a_time_limit_ends_the_run_with_what_there_is(tiny_llama: CausalModel, method: str) -> None:
    events = decode(tiny_llama, method, max_new_tokens=400, time_limit=0.05)
    end = finished(events)
    assert end.reason in ("time limit", "end of text")
    assert end.totals.seconds < 5
    assert len(end.token_ids) < 400
    assert [placed.token.id for placed in committed(events)] == list(end.token_ids)
    if end.reason == "time limit":
        assert any("time limit" in note.text for note in only(events, Note))


def test_searches_commit_their_best_text_when_time_runs_out(tiny_llama: CausalModel) -> None:
    for method in ("beam-search", "diverse-beam-search", "best-of-n"):
        end = finished(decode(tiny_llama, method, max_new_tokens=400, time_limit=1e-6))
        assert len(end.token_ids) == 1
        assert end.reason in ("time limit", "end of text")


@pytest.mark.parametrize("method", BASELINES)
def test_a_run_branches_off_given_tokens(tiny: CausalModel, method: str) -> None:
    given = [65, 66, 67]
    events = decode(tiny, method, prefix=given, max_new_tokens=5)
    check_stream(tiny, events)
    end = finished(events)
    assert list(end.token_ids[:3]) == given
    assert [placed.origin for placed in committed(events)][:3] == ["given"] * 3
    assert 1 <= end.totals.tokens <= 5


@pytest.mark.parametrize("method", ["greedy", "beam-search", "diverse-beam-search", "contrastive-search"])
def test_a_deterministic_method_branched_at_its_own_token_goes_on_as_before(tiny: CausalModel, method: str) -> None:
    params = {"beam-search": {"num_beams": 1}, "diverse-beam-search": {"num_beam_groups": 1}}.get(method, {})
    whole = finished(decode(tiny, method, params=params)).token_ids
    branch = finished(decode(tiny, method, params=params, prefix=whole[:4], max_new_tokens=8)).token_ids
    assert branch == whole


@pytest.mark.parametrize("method", BASELINES)
def test_closing_the_generator_stops_the_work(tiny_llama: CausalModel, method: str) -> None:
    events = run(tiny_llama, method, PROMPT, max_new_tokens=400)
    for event in events:
        if not isinstance(event, Started):
            break
    events.close()  # type: ignore[attr-defined]
    assert next(events, None) is None


@pytest.mark.parametrize("method", BASELINES)
def test_a_full_context_ends_the_run(tiny_llama: CausalModel, method: str) -> None:
    prompt = "x" * (tiny_llama.context_length - 5)
    end = finished(list(run(tiny_llama, method, prompt, max_new_tokens=100)))
    assert end.reason in ("context full", "end of text")
    assert len(end.token_ids) <= 5


@pytest.mark.parametrize("method", BASELINES)
def test_suspended_time_is_not_decode_time(tiny_llama: CausalModel, method: str) -> None:
    last: Event | None = None
    slept = 0.0
    for event in run(tiny_llama, method, PROMPT, max_new_tokens=3):
        if isinstance(event, Commit | Candidates):
            time.sleep(0.2)
            slept += 0.2
        last = event
    assert isinstance(last, Finished)
    assert last.totals.seconds < slept


@pytest.mark.parametrize("method", BASELINES)
def test_a_card_is_complete(method: str) -> None:
    card = methods()[method]
    prompts = {prompt["id"] for prompt in json.loads(Path("assets/prompts.json").read_text("utf-8"))}
    assert prompts >= {*card.shines, *card.loses}
    assert card.idea.endswith(".")
    assert card.look_at.endswith(".")
    assert card.shines
    assert card.loses
    assert card.pictures
    assert card.lossless == (method == "greedy")
    for setting in card.settings():
        assert setting.help != setting.name.replace("_", " "), f"{setting.name} has no help"
        bounded = setting.low is not None and setting.high is not None
        assert setting.choices or bounded or setting.editor, setting.name
