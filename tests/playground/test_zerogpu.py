"""Runs in a child process, through the very bridge of the package `spaces`; only the lending of GPUs is left out."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from engines.events import Event, committed
from engines.models.causal import CausalModel
from playground import zerogpu
from playground.setup import Setup
from playground.zerogpu import LONGEST_SECONDS, Refusal, RefusedByChild, events, seconds
from tests.browser.conftest import ROOT
from tests.fuzzing import any_event

SETUP = Setup(method="token-recycling", prompt="abcabc", max_new_tokens=8, raw=True)

BRIDGE = """
import os, sys, types
import torch
torch.set_num_threads(1)
import spaces.zero

# Stand-ins for what needs the hub: the service that lends GPUs, and moving weights onto one.
hardware = types.ModuleType("spaces.zero.torch")
for name in ("unpatch", "init", "move", "enter_mode"):
    setattr(hardware, name, lambda *_, **__: None)
hardware.size = lambda: 0
sys.modules["spaces.zero.torch"] = spaces.zero.torch = hardware
from spaces.zero import client, wrappers

asked = []
def schedule(**request):
    asked.append(request["duration"].total_seconds())
    return types.SimpleNamespace(allowToken="", nvidiaIndex=0, nvidiaUUID="", idle=True)
client.schedule, client.release, client.allow = schedule, lambda *_, **__: None, lambda *_: None
client.get_duration_seconds = lambda *_: 60

import json
from pathlib import Path
import msgspec
from engines.models import loading
from playground import zerogpu
from playground.setup import Setup
from playground.store import Store

def there(setup, name):
    Path(sys.argv[2], "child").write_text(str(os.getpid()))
    try:
        yield from zerogpu.there(setup, name)
    finally:
        Path(sys.argv[2], "closed").write_text(str(os.getpid()))

decode = wrappers.generator_function_wrapper(there, zerogpu.seconds, None)
model = loading.load_folder(sys.argv[1], name="tiny-llama")
setup = Setup(method="token-recycling", prompt="abcabc", max_new_tokens=8, raw=True)
folder = Path(sys.argv[2])
told = {"parent": os.getpid()}

def child():
    return int((folder / "child").read_text())

with Store.open(folder / "runs.sqlite") as store:
    recording = store.recording(zerogpu.events(setup, model, decode=decode), owner="somebody")
    got, here = list(recording), list(setup.begin(model))
    told["whole"] = {
        "child": child(),
        "status": store.run(recording.run_id).status,
        "kept": store.events(recording.run_id) == got,
        "kinds": [type(event).__name__ for event in got] == [type(event).__name__ for event in here],
        "tokens": [got[-1].token_ids, here[-1].token_ids],
        "asked": [asked[0], zerogpu.seconds(setup)],
    }
    long = Setup(method="greedy", prompt="abc", max_new_tokens=400, raw=True)
    with store.recording(zerogpu.events(long, model, decode=decode)) as recording:
        next(recording), next(recording)
    told["closed"] = {
        "child": child(),
        "ended": int((folder / "closed").read_text()),
        "status": store.run(recording.run_id).status,
        "events": len(store.events(recording.run_id)),
    }
    told["after"] = {"tokens": list(zerogpu.events(setup, model, decode=decode))[-1].token_ids, "child": child()}
try:
    list(zerogpu.events(msgspec.structs.replace(setup, method="nothing"), model, decode=decode))
except zerogpu.RefusedByChild as error:
    told["refused"] = str(error)
(folder / "told").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def across(tmp_path_factory: pytest.TempPathFactory, tiny_llama_folder: Path) -> dict[str, Any]:
    """What happened in a process that forks its children the way a ZeroGPU Space does."""
    folder = tmp_path_factory.mktemp("zerogpu")
    command = [sys.executable, "-c", BRIDGE, str(tiny_llama_folder), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads((folder / "told").read_text()))


def test_a_run_made_by_a_child_is_recorded_here(across: dict[str, Any]) -> None:
    whole = across["whole"]
    assert whole["child"] != across["parent"]
    assert whole["status"] == "finished"
    assert whole["kept"]


def test_the_child_decodes_what_this_process_would(across: dict[str, Any]) -> None:
    there, here = across["whole"]["tokens"]
    assert there == here
    assert across["whole"]["kinds"]


def test_the_gpu_is_asked_for_before_the_run(across: dict[str, Any]) -> None:
    asked, computed = across["whole"]["asked"]
    assert asked == computed == pytest.approx(10.4)


def test_closing_the_run_here_ends_the_childs(across: dict[str, Any]) -> None:
    closed = across["closed"]
    assert closed["ended"] == closed["child"] != across["parent"]
    assert closed["status"] == "stopped"
    assert closed["events"] == 2


def test_the_same_child_serves_the_next_run(across: dict[str, Any]) -> None:
    assert across["after"]["child"] == across["closed"]["child"]
    assert across["after"]["tokens"] == across["whole"]["tokens"][0]


def test_what_the_child_refuses_is_said_here(across: dict[str, Any]) -> None:
    assert across["refused"].startswith("There is no method called 'nothing'.")


def test_without_the_bridge_it_is_the_same_run(tiny_llama: CausalModel) -> None:
    assert committed(events(SETUP, tiny_llama)) == committed(SETUP.begin(tiny_llama))


def test_a_refusal_is_an_error_here(tiny_llama: CausalModel) -> None:
    with pytest.raises(RefusedByChild, match="no method called 'x'"):
        list(events(msgspec.structs.replace(SETUP, method="x"), tiny_llama))


@given(any_event())
@settings(max_examples=100, deadline=None)
def test_every_event_survives_the_journey(event: Event) -> None:
    assert pickle.loads(pickle.dumps(event)) == event


def test_a_setup_and_a_refusal_survive_the_journey() -> None:
    for sent in (SETUP, Refusal("No.")):
        assert pickle.loads(pickle.dumps(sent)) == sent


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"), [(1, None, 10.05), (100, None, 15.0), (4096, None, LONGEST_SECONDS), (4096, 3, 13)]
)
def test_the_gpu_is_asked_for_as_long_as_the_request_may_take(
    tokens: int, limit: float | None, expected: float
) -> None:
    setup = Setup(method="greedy", prompt="x", max_new_tokens=tokens, time_limit=limit)
    assert seconds(setup) == pytest.approx(expected)


def test_it_lends_only_on_such_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert not zerogpu.lends()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert zerogpu.lends() == (zerogpu.find_gpu() is not None)
