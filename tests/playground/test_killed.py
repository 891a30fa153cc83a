"""Fifty times SIGKILL in mid-run, a real model decoding into a real file: what was finished stays, all of it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from engines.events import Finished, Started, committed, to_json
from playground.recording import spelled
from playground.search import Search, search
from playground.store import Store
from tests.playground.stored_runs import on_disk

KILLS = 50
OWNER = "k" * 32
ROOT = Path(__file__).parents[2]

# One process loads the model once and forks for every kill: loading it fifty times would take minutes.
NURSERY = """
import os, sys, time
import torch
torch.set_num_threads(1)
import engines
from engines.models import loading
from playground.store import Store

model = loading.load_folder(FOLDER, name="tiny-llama")
for _ in engines.run(model, "token-recycling", "warm up", max_new_tokens=8): pass

def work():
    with Store.open(PATH) as store:
        number = 0
        while True:
            # Two short runs, and one that is long enough to be hit in the middle.
            method, tokens = (("greedy", 16), ("token-recycling", 16), ("sampling", 400))[number % 3]
            prompt = f"run {number} of {os.getpid()}"
            events = engines.run(model, method, prompt, seed=number, max_new_tokens=tokens)
            kept = store.recording(events, owner="k" * 32)
            for event in kept: pass
            assert store.problem is None, store.problem
            # Said only when the last event has passed: from now on this run must never be lost.
            print("finished", kept.run_id, flush=True)
            number += 1

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    print("child", child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_fifty_kills_lose_no_finished_run(tiny_llama_folder: Path, path: Path) -> None:
    rng = random.Random(7)
    code = NURSERY.replace("FOLDER", repr(str(tiny_llama_folder))).replace("PATH", repr(str(path)))
    nursery = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    finished: set[str] = set()
    try:
        for _ in range(KILLS):
            print("go", file=nursery.stdin, flush=True)
            word, pid = nursery.stdout.readline().split()
            assert word == "child"
            time.sleep(rng.uniform(0.02, 0.6))
            os.kill(int(pid), signal.SIGKILL)
            while (line := nursery.stdout.readline().split()) != ["gone"]:
                assert line[0] == "finished"
                finished.add(line[1])
            assert on_disk(path, "PRAGMA integrity_check") == [("ok",)] if path.exists() else True
    finally:
        nursery.kill()
        nursery.communicate()
    check(path, finished)


def check(path: Path, finished: set[str]) -> None:
    """Every run that was said to be finished is whole; every other one is interrupted, with the events it had."""
    assert len(finished) > 10, "the kills came so early that nothing was tested"
    before = dict(on_disk(path, "SELECT run, count(*) FROM events GROUP BY run"))
    with Store.open(path) as store:
        assert store.problem is None
        runs = {run.id: run for run in store.runs(OWNER, limit=10_000)}
        assert finished <= set(runs)
        statuses = {run.status for run in runs.values()}
        assert statuses == {"finished", "interrupted"}
        for id, run in runs.items():
            events = store.events(id)
            assert len(events) == before[id]
            assert isinstance(events[0], Started)
            assert [event.seq for event in events] == list(range(len(events)))
            if run.status == "finished":
                assert isinstance(events[-1], Finished)
                assert run.text == events[-1].text
            else:
                assert id not in finished
                assert not isinstance(events[-1], Finished)
                assert run.text == spelled(committed(events))
        interrupted = [run for run in runs.values() if run.status == "interrupted"]
        assert any(len(store.events(run.id)) > 5 for run in interrupted), "no run was killed in the middle"
        found = search(store, OWNER, Search(words="run", status="interrupted"), limit=1000)
        assert found.total == len(interrupted), "the words of interrupted runs can be searched"
    assert on_disk(path, "PRAGMA integrity_check") == [("ok",)]
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        ((kept,),) = connection.execute("SELECT count(*) FROM words").fetchall()
    connection.close()
    assert kept == len(runs)
    assert all(to_json(event) for event in events)
