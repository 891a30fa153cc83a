"""Recorded runs: steps, numbers and pictures of every prefix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import engines
from engines.errors import DecodingError
from engines.events import Candidates, Commit, Event, Finished, Forward, Placed, Started, Token, committed
from engines.tally import Tally
from playground.store import Store
from playground.ui.decoding import branched
from playground.ui.drawing import Canvas, commit_steps
from playground.ui.house import House
from playground.ui.numbers import headline
from playground.ui.shelf import RECORDED, Shelf, read_recording, steps
from visuals.picture import pictures

NAMES = sorted(file.name.split(".")[0] for file in RECORDED.glob("*.jsonl*"))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(Store.open(tmp_path / "runs.sqlite"))


def forward(lane: str = "target") -> Forward:
    return Forward(lane=lane, batch=1, query=1, cached=0, seconds=0.1)  # type: ignore[arg-type]


def commit(step: int) -> Commit:
    return Commit(position=step, step=step, tokens=(Placed(Token(1, "a"), "sampled"),))


def test_a_step_ends_with_its_commit() -> None:
    note = Candidates(position=0, raw=(), entropy=0.0)
    events: list[Event] = [note, forward("prompt"), forward(), note, commit(0), forward(), commit(1), note]
    assert steps(events) == [1, 5, 8]
    assert commit_steps(events, steps(events)) == [1, 2]


def test_without_commits_a_step_is_a_pass() -> None:
    note = Candidates(position=0, raw=(), entropy=0.0)
    events: list[Event] = [note, forward(), note, forward(), note, forward(), note, commit(0)]
    assert steps(events) == [1, 3, 5, 8]


def test_nothing_has_one_empty_step() -> None:
    assert steps([]) == [0]


@pytest.mark.parametrize("name", NAMES)
def test_headline_numbers_are_the_totals_of_the_run(name: str) -> None:
    events = read_recording(RECORDED, name)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    totals = events[-1].totals
    tally = Tally().count(events)
    shown = {number["meaning"]["key"]: number for number in json.loads(headline(tally, 96))}
    wrote = totals.tokens > 0
    assert shown["numbers.per-pass"]["value"] == (f"{totals.tokens_per_target_pass:.2f}" if wrote else "–")
    assert shown["numbers.per-second"]["value"] == (f"{totals.tokens_per_second:.1f}" if wrote else "–")
    if totals.drafted:
        said = {"accepted": totals.accepted, "tested": totals.accepted + totals.rejected, "drafted": totals.drafted}
        assert shown["numbers.accepted"]["meaning"]["args"] == said


@pytest.mark.parametrize("name", NAMES)
def test_every_step_can_be_drawn(name: str) -> None:
    events = read_recording(RECORDED, name)
    canvas = Canvas(pictures(), engines.methods(), "run")
    last = len(steps(events)) - 1
    for step in {0, 1, last // 2, last}:
        view = canvas.at(events, step)
        shown = [json.loads(token) for token in view.stream["tokens"]]
        assert len(shown) == len(committed(events[: steps(events)[step]]))
        assert set(view.plots) == set(pictures()) - {"token-stream"}
    assert [token["id"] for token in shown][: len(shown)] == [placed.token.id for placed in committed(events)][
        : len(shown)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_live_updates_end_where_the_finished_view_is(name: str) -> None:
    events = read_recording(RECORDED, name)
    canvas, seen = Canvas(pictures(), engines.methods(), "run"), set(pictures())
    for end in range(1, len(events) + 1, 7):
        view = canvas.live(events[:end], seen)
    assert (
        canvas.live(events, seen).stream["tokens"]
        == Canvas(pictures(), engines.methods(), "run").at(events).stream["tokens"]
    )
    assert json.loads(view.scrubber)["live"] is True


def test_what_nobody_sees_is_not_drawn() -> None:
    events = read_recording(RECORDED, NAMES[0])
    canvas = Canvas(pictures(), engines.methods(), "run")
    first = canvas.live(events[:40], set()).plots
    assert canvas.live(events[:60], set()).plots == first


def test_shelf_finds_recorded_live_and_stored_runs(shelf: Shelf) -> None:
    events = read_recording(RECORDED, NAMES[0])
    assert shelf.events(f"recorded-{NAMES[0]}") == events
    assert shelf.events(shelf.put(events)) == events
    recording = shelf.store.recording(iter(events), owner="me")
    list(recording)
    assert recording.run_id
    assert shelf.events(recording.run_id) == events
    for unknown in ("nothing", "recorded-nothing", "recorded-../../x", ""):
        with pytest.raises(DecodingError):
            shelf.events(unknown)


def test_a_branch_keeps_the_prompt_and_the_tokens_before(tmp_path: Path) -> None:
    house = House(Store.open(tmp_path / "runs.sqlite"))
    events = read_recording(RECORDED, NAMES[0])
    run = house.shelf.put(events)
    told = {"run": run, "position": 3, "token": 42}
    request = branched(house, told, "greedy", {"raw": True}, "me", "page")
    ids = [placed.token.id for placed in committed(events)]
    assert request.prefix == (*ids[:3], 42)
    assert isinstance(events[0], Started)
    assert (request.prompt, request.settings["raw"]) == (events[0].prompt, events[0].raw_prompt)
    assert request.parent == (run, 3)
