"""Against a real server in a process of its own: `openai_server`, over the tiny Llama."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

import engines
from engines.errors import DecodingError, ModelUnavailable, NeedNotMet
from engines.events import Candidates, Event, Finished, Forward, Note, Started, committed
from engines.method import Need, methods
from engines.models import loading, remote
from engines.models.address import checked
from engines.models.causal import CausalModel
from engines.models.remote import NotContinuable, RemoteModel, _read
from playground.ui.rail import blocked
from tests.engines.models.openai_server import KEY, ascii_log_p

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def address(tiny_llama_folder: Path) -> Iterator[str]:
    """Where the server is, without `/v1`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.engines.models.openai_server", str(tiny_llama_folder), str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    base = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 150
        while time.monotonic() < end and process.poll() is None:
            try:
                httpx.get(f"{base}/v1/models", timeout=1)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield base
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def model(address: str) -> RemoteModel:
    return remote.connect(f"{address}/v1")


def decode(model: CausalModel, method: str = "greedy", prompt: str = "once upon", **request: object) -> list[Event]:
    request = {"raw": True, "max_new_tokens": 12} | request
    return list(engines.run(model, method, prompt, **request))  # type: ignore[arg-type]


def text(events: list[Event]) -> str:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.text


def expected(tiny: CausalModel, prompt: str, count: int) -> str:
    """What greedy decoding writes over there, computed here."""
    ids = tiny.encode(prompt, raw=True)
    before = len(ids)
    for _ in range(count):
        ids.append(int(ascii_log_p(tiny, ids).argmax()))
    return tiny.decode(ids[before:])


def test_greedy_writes_what_the_model_behind_the_server_would(model: RemoteModel, tiny_llama: CausalModel) -> None:
    assert text(decode(model)) == expected(tiny_llama, "once upon", 12)


def test_probabilities_are_the_models_own_though_only_some_are_told(
    model: RemoteModel, tiny_llama: CausalModel
) -> None:
    events = decode(model, max_new_tokens=1)
    log_p = ascii_log_p(tiny_llama, tiny_llama.encode("once upon", raw=True))
    shown = next(event for event in events if isinstance(event, Candidates))
    assert [choice.p for choice in shown.raw] == pytest.approx(log_p.exp().topk(10).values.tolist(), rel=1e-4)
    (placed,) = committed(events)
    assert placed.raw == pytest.approx(float(log_p.max().exp()), rel=1e-4)
    assert placed.rank == 0


def test_every_token_is_a_timed_pass_of_the_target_and_the_prompt_counts_as_one(model: RemoteModel) -> None:
    events = decode(model, max_new_tokens=5)
    passes = [event for event in events if isinstance(event, Forward)]
    assert [(one.lane, one.query, one.cached) for one in passes] == [("target", 1, n) for n in range(5)]
    assert all(one.seconds > 0 for one in passes)
    started = events[0]
    assert isinstance(started, Started)
    assert (started.prompt_length, started.precision) == (1, "remote")
    assert started.prompt_tokens[0].text == "once upon"
    assert any(isinstance(event, Note) and "counts as one token" in event.text for event in events)


def test_sampling_departs_from_the_servers_own_text_and_stays_on_named_tokens(
    model: RemoteModel, tiny_llama: CausalModel
) -> None:
    params = {"temperature": 3.0, "top_k": 4}
    first, again = (decode(model, "sampling", params=params, seed=3) for _ in range(2))
    assert text(first) == text(again) != expected(tiny_llama, "once upon", 12)
    ids = tiny_llama.encode("once upon", raw=True)
    for placed in committed(first):
        log_p = ascii_log_p(tiny_llama, ids)
        token = tiny_llama.encode(placed.token.text, raw=True)[0]
        assert int((log_p > log_p[token]).sum()) == placed.rank
        assert placed.rank is not None
        assert placed.rank < 4
        assert placed.raw == pytest.approx(float(log_p[token].exp()), rel=1e-4)
        ids.append(token)


def test_a_run_can_branch_off_another_ones_token(model: RemoteModel, tiny_llama: CausalModel) -> None:
    prefix = [placed.token.id for placed in committed(decode(model, max_new_tokens=4))]
    events = decode(model, prefix=prefix, max_new_tokens=4)
    assert text(events) == expected(tiny_llama, "once upon", 8)


def test_a_chat_prompt_goes_to_chat_and_ends_where_the_server_ends_it(address: str, tiny_llama: CausalModel) -> None:
    events = decode(remote.connect(f"{address}/short/v1"), raw=False, max_new_tokens=50)
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, len(last.token_ids)) == ("end of text", 12)
    assert last.text == expected(tiny_llama, "once upon", 12)


def test_a_chat_that_departs_from_the_server_is_refused_in_words(model: RemoteModel) -> None:
    with pytest.raises(NotContinuable, match="raw"):
        decode(model, "sampling", raw=False, params={"temperature": 5.0}, max_new_tokens=30)


def test_a_server_without_completions_chats(address: str) -> None:
    chatting = remote.connect(f"{address}/chat-only/v1#tiny")
    assert text(decode(chatting, raw=False, max_new_tokens=3))
    with pytest.raises(ModelUnavailable, match="only chat"):
        decode(chatting, max_new_tokens=3)


def test_a_server_that_names_few_tokens_is_asked_for_fewer(address: str) -> None:
    assert remote.connect(f"{address}/few/v1").top == 5


def test_methods_that_need_more_are_refused_with_the_reason(model: RemoteModel) -> None:
    able = [method.id for method in methods().values() if not method.needs & ~model.has]
    assert able == ["greedy", "sampling"]
    with pytest.raises(NeedNotMet, match="Prompt lookup needs a cache"):
        decode(model, "prompt-lookup")
    assert "side by side" in blocked(methods()["best-of-n"], model.has)
    assert Need.LOGITS not in model.has


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/locked/v1", "asks for a key"),
        ("/no-logprobs/v1", "without log-probabilities"),
        ("/elsewhere/v1", "not followed"),
        ("/broken/v1", "does not list models"),
        ("/v1#huge", "no model called 'huge'. It has: tiny"),
    ],
)
def test_what_a_server_lacks_is_said_in_one_sentence(address: str, path: str, said: str) -> None:
    with pytest.raises(ModelUnavailable) as refused:
        remote.connect(f"{address}{path}")
    assert said in str(refused.value)


def test_a_server_that_breaks_off_is_no_end_of_text(address: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"broke off|cannot be reached"):
        decode(remote.connect(f"{address}/crashing/v1"))


def test_a_server_that_is_not_there_cannot_be_reached() -> None:
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        remote.connect("http://127.0.0.1:9/v1")


def test_a_key_goes_to_listed_servers_only_and_shows_nowhere(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECODING_PLAYGROUND_REMOTE_KEY", "MY_SERVERS_KEY")
    monkeypatch.setenv("MY_SERVERS_KEY", KEY)
    with pytest.raises(ModelUnavailable, match="asks for a key"):
        remote.connect(f"{address}/locked/v1")
    assert KEY not in httpx.get(f"{address}/seen").text
    monkeypatch.setenv("DECODING_PLAYGROUND_REMOTE", f"https://example.org/v1 {address}/locked/v1/")
    events = decode(remote.connect(f"{address}/locked/v1"), max_new_tokens=2)
    assert KEY not in repr(events)


def test_an_unlisted_server_is_never_asked_on_a_public_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/space")
    monkeypatch.setenv("DECODING_PLAYGROUND_REMOTE", "http://10.0.0.5:8000/v1")
    assert checked("http://10.0.0.5:8000/v1#m") == ("http://10.0.0.5:8000/v1", "m")
    for name in ("http://10.0.0.5:8000/v2", "http://169.254.169.254/latest", "http://10.0.0.5:8000/v1/../admin"):
        with pytest.raises(ModelUnavailable, match="public host"):
            loading.load(name)


@pytest.mark.parametrize(
    "name",
    [
        "http://",
        "http:///v1",
        "https://user:secret@host/v1",
        "http://host:99999/v1",
        "http://ho st/v1",
        "http://h/?q=1",
    ],
)
def test_what_is_no_plain_address_is_refused(name: str) -> None:
    with pytest.raises(ModelUnavailable) as refused:
        checked(name)
    assert "secret" not in str(refused.value)


def test_a_model_is_connected_by_its_address(address: str) -> None:
    model = engines.load(f"{address}/v1#tiny", precision="float32")
    assert (model.name, model.precision) == (f"{address}/v1#tiny", "remote")
    loading.forget(model.name, "remote")


def test_closing_a_run_ends_the_servers_answer(address: str) -> None:
    running = engines.run(remote.connect(f"{address}/slow/v1"), "greedy", "once", raw=True, max_new_tokens=200)
    for event in running:
        if isinstance(event, Candidates):
            break
    began = time.monotonic()
    running.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 1


def test_pieces_of_characters_come_as_bytes_in_both_shapes() -> None:
    piece = "bytes:\\xe2\\x80"
    (place,) = _read({"tokens": [piece], "token_logprobs": [-0.5], "top_logprobs": [{piece: -0.5, "a": -1}]})
    assert (place.token, place.log_p) == (b"\xe2\x80", {b"\xe2\x80": -0.5, b"a": -1.0})
    entry = {"token": "�", "bytes": [0xE2, 0x80], "logprob": -0.5}
    (place,) = _read({"content": [entry | {"top_logprobs": [entry]}]})
    assert place.token == b"\xe2\x80"


def test_a_shape_that_is_not_known_is_said() -> None:
    with pytest.raises(DecodingError, match="shape"):
        list(_read({"tokens": ["a"]}))


def test_untold_tokens_are_impossible_to_draw(model: RemoteModel) -> None:
    logits = model.start().extend(model.encode("once", raw=True), last=True)[-1]
    assert int(logits.isfinite().sum()) == model.top
    assert float(logits.exp().sum()) < 1
    assert bool(torch.isinf(logits[: remote.PROMPTS]).all())
