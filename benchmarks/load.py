"""What many people at once get: 1, 5 and 20 of them, through the HTTP API of a real server.

    python -m benchmarks.load            measure; print the table; keep it in benchmarks/results
    python -m benchmarks.load --quick    one and three people, 8 tokens; keep nothing

Everybody calls `/run` at the same moment with a prompt of their own and as many tokens as the others, each as a
person of their own. Progress is what the stream of a run said at the moment when the first of them was done. Then
everybody runs once more, longer, and one of them stops in the middle: how long until the server counts one run less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from gradio_client import Client

import engines
from benchmarks.command import Benchmark
from benchmarks.questions import one_of_each
from benchmarks.report import Setting, table
from benchmarks.served import Server, served

CROWDS = (1, 5, 20)
LONG = 8
"""How many times as long the runs are of which one is stopped."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as whoever asked for it saw it. Times in seconds since everybody asked."""

    first_event: float
    first_token: float
    last: float
    progress: list[tuple[float, int]]
    """When the stream said how many tokens there were."""
    tokens: int


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """So many people at once."""

    people: int
    runs: list[Person]
    fairness: float
    """Tokens of the one who had least over tokens of the one who had most, when the first was done."""
    memory: float
    """The server's bytes in memory at their most."""
    idle_memory: float
    """The same before anybody came."""
    stop: float
    """Seconds from cancelling a run until it is over for the server."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement."""

    setting: Setting
    crowds: list[Crowd]


def measure(setting: Setting, crowds: Sequence[int], *, model: str, tokens: int) -> Load:
    """Every crowd on one server."""
    settings = {"DECODING_PLAYGROUND_MODEL": model, "DECODING_PLAYGROUND_PEOPLE_AT_ONCE": "0"}
    with served(settings) as server:
        # While the model is loaded and measured, and among twenty people, an answer may take longer than usual.
        patient = {"timeout": 120}
        clients = [Client(server.address, verbose=False, httpx_kwargs=patient) for _ in range(max(crowds))]
        clients[0].predict("Hello.", max_new_tokens=4, api_name="/run")  # waits for the model
        return Load(setting=setting, crowds=[_crowd(server, clients[:many], tokens) for many in crowds])


def _crowd(server: Server, clients: Sequence[Client], tokens: int) -> Crowd:
    print(f"{len(clients)} at once", file=sys.stderr)
    idle, peak, over = server.memory, [server.memory], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            peak.append(server.memory)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        together = threading.Barrier(len(clients))
        with ThreadPoolExecutor(len(clients)) as pool:
            runs = list(pool.map(lambda each: _run(each[0], each[1], tokens, together), enumerate(clients)))
        stop = _stopped(server, clients, tokens * LONG)
    finally:
        over.set()
        watcher.join()
    return Crowd(
        people=len(clients),
        runs=runs,
        fairness=fairness(runs),
        memory=max(peak),
        idle_memory=idle,
        stop=stop,
    )


def _run(number: int, client: Client, tokens: int, together: threading.Barrier) -> Person:
    prompts = one_of_each()
    prompt = f"{number + 1}. {prompts[number % len(prompts)].prompt[:200]}"
    together.wait()
    began = time.perf_counter()
    first: float | None = None
    progress: list[tuple[float, int]] = []
    job = client.submit(prompt, max_new_tokens=tokens, api_name="/run")
    answer: dict[str, Any] = {}
    for answer in job:
        now = time.perf_counter() - began
        first = now if first is None else first
        progress.append((now, int(answer.get("tokens", 0))))
    last = time.perf_counter() - began
    made = len(answer.get("token_ids") or [])
    progress[-1] = (last, made)
    begun = next((when for when, many in progress if many), last)
    return Person(first_event=first or last, first_token=begun, last=last, progress=progress, tokens=made)


def fairness(runs: Sequence[Person]) -> float:
    """Least over most progress when the first run was done; 1 for a single one."""
    end = min(run.last for run in runs)
    so_far = [max((many for when, many in run.progress if when <= end), default=0) for run in runs]
    return min(so_far) / max(so_far) if max(so_far) else 0.0


def _stopped(server: Server, clients: Sequence[Client], tokens: int) -> float:
    """Seconds from cancelling one of these clients' runs until the server's count of runs has gone down."""
    jobs = [client.submit("Tell me a long story.", max_new_tokens=tokens, api_name="/run") for client in clients]
    try:
        _until(lambda: all(job.outputs() for job in jobs))
        before = running(server)
        began = time.perf_counter()
        jobs[0].cancel()
        _until(lambda: running(server) < before)
        return time.perf_counter() - began
    finally:
        for job in jobs[1:]:
            job.cancel()
        _until(lambda: running(server) == 0)


def _until(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the server is not getting there")
        time.sleep(0.01)


def running(server: Server) -> int:
    """Runs in progress, as the header of the page asks for it."""
    config = json.load(urllib.request.urlopen(f"{server.address}config"))
    (header,) = (one["id"] for one in config["components"] if "status" in (one["props"].get("server_fns") or ()))
    body = json.dumps({"data": {}, "session_hash": "load", "component_id": header, "fn_name": "status"}).encode()
    request = urllib.request.Request(
        f"{server.address}gradio_api/component_server/", body, {"content-type": "application/json"}
    )
    return int(json.load(urllib.request.urlopen(request))["running"])


def tables(result: Load) -> str:
    """One row per crowd, in Markdown."""

    def of(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f} ({max(values):.2f})"

    rows = [
        [
            str(crowd.people),
            of([run.first_event for run in crowd.runs]),
            of([run.first_token for run in crowd.runs]),
            f"{sum(run.tokens for run in crowd.runs) / max(run.last for run in crowd.runs):.1f}",
            f"{crowd.fairness:.2f}",
            f"{crowd.memory / 1e6:,.0f} (+{(crowd.memory - crowd.idle_memory) / 1e6:,.0f})",
            f"{crowd.stop:.2f}",
        ]
        for crowd in result.crowds
    ]
    head = [
        "people at once",
        "s to the first event, median (worst)",
        "s to the first token, median (worst)",
        "tokens/s of all",
        "slowest / fastest",
        "MB (more than before)",
        "s to Stop",
    ]
    return (
        f"{table(head, rows)}\n\n"
        "Greedy decoding through the HTTP API, everybody at the same moment; times are the client's. "
        "Slowest / fastest: tokens when the first run was done. Stop: from cancelling one run until the server "
        f"counts one less, looked at every 10 ms. {result.setting.sentence()}"
    )


def _measured(chosen: argparse.Namespace) -> Load:
    tokens = min(chosen.max_new_tokens, 8) if chosen.quick else chosen.max_new_tokens
    model = engines.load(chosen.model)  # converts it, if need be, before the server starts
    setting = Setting.of(model, max_new_tokens=tokens, rounds=1, quick=chosen.quick)
    del model
    return measure(setting, (1, 3) if chosen.quick else CROWDS, model=chosen.model, tokens=tokens)


BENCHMARK = Benchmark(
    "load",
    __doc__ or "",
    Load,
    _measured,
    tables,
    quick="one and three people, 8 tokens",
    numbers={"max-new-tokens": (48, "")},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
