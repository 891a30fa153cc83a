"""Acceptance by distance, method and kind of prompt: counted once per run, and the same as counting all events."""

from __future__ import annotations

from pathlib import Path

import pytest

import engines
from engines.events import Draft, DraftNode, Event, Judged, Outcome, Token, Verdict
from engines.models.causal import CausalModel
from playground.acceptance import FARTHEST, Acceptance
from playground.atlas import Row, atlas, catch_up
from playground.exchange import import_runs, write_file
from playground.store import Store
from playground.ui.rail import load_prompts
from tests.playground.stored_runs import on_disk, started, whole_run
from visuals.acceptance import passes, rates

ME, YOU = "m" * 32, "y" * 32


def guesses(*judged: tuple[int, Outcome]) -> list[Event]:
    """A draft of guesses below each other or below node 0, and what became of them: (parent, outcome) each."""
    token = Token(1, "x")
    nodes = [DraftNode(0, -1, token, None, "root")]
    nodes += [DraftNode(id, parent, token, None, "s") for id, (parent, _) in enumerate(judged, 1)]
    verdict = Verdict(
        position=0,
        rule="greedy",
        path=(),
        nodes=tuple(Judged(id, outcome) for id, (_, outcome) in enumerate(judged, 1)),
        extra=token,
        extra_origin="bonus",
    )
    return [Draft(position=0, nodes=tuple(nodes)), verdict]


def kept(store: Store, events: list[Event], *, owner: str = ME, **header: object) -> str:
    run = [started(**header), *events, whole_run()[-1]]
    recording = store.recording(iter(run), owner=owner)
    list(recording)
    return recording.run_id or ""


# One run


def test_guesses_are_counted_by_how_far_ahead_they_were() -> None:
    #  0 ─ 1 ─ 2 ─ 3      1 and 2 came true, 3 did not; 4 beside 1 did not; 5 below 4 was never tested
    #  └── 4 ─ 5
    counted = Acceptance().count(
        guesses((0, "accepted"), (1, "accepted"), (2, "rejected"), (0, "rejected"), (4, "untested"))
    )
    assert counted.by_distance == [[1, 2], [1, 1], [0, 1]]


def test_a_distance_where_nothing_was_tested_is_there_with_zero() -> None:
    assert Acceptance().count(guesses((0, "untested"), (1, "accepted"))).by_distance == [[0, 0], [1, 1]]


def test_guesses_very_far_ahead_are_counted_together() -> None:
    chain = guesses(*((place, "accepted") for place in range(FARTHEST + 5)))
    assert Acceptance().count(chain).by_distance[-1] == [6, 6]


def test_it_agrees_with_the_picture_of_a_real_run(tiny_llama: CausalModel) -> None:
    events = list(engines.run(tiny_llama, "token-recycling", "abab", max_new_tokens=64, params={"nodes": 12}))
    by_distance, _ = rates(passes(events))
    counted = Acceptance().count(events).by_distance
    assert {place: tuple(rate) for place, rate in enumerate(counted, 1) if rate[1]} == by_distance
    assert sum(tested for _, tested in by_distance.values()) > 10


# All runs


def test_the_atlas_adds_up_by_method_and_kind_of_prompt(store: Store) -> None:
    categories = {prompt.prompt: prompt.category for prompt in load_prompts().values()}
    asked = next(iter(categories))
    kept(store, guesses((0, "accepted"), (1, "rejected")), method="lookup", prompt=asked)
    kept(store, guesses((0, "rejected"), (1, "untested")), method="lookup", prompt=asked)
    kept(store, guesses((0, "accepted")), method="lookup", prompt="my own words")
    kept(store, guesses((0, "accepted")), method="recycling", prompt=asked)
    kept(store, [], method="greedy", prompt=asked)
    kept(store, guesses((0, "accepted")), method="lookup", prompt=asked, owner=YOU)
    assert atlas(store, ME, categories) == [
        Row("lookup", categories[asked], 2, ((1, 2), (0, 1))),
        Row("lookup", "", 1, ((1, 1),)),
        Row("recycling", categories[asked], 1, ((1, 1),)),
    ]


def test_every_example_prompt_is_known_as_one(store: Store) -> None:
    prompts = load_prompts().values()
    for prompt in prompts:
        kept(store, guesses((0, "accepted")), method=prompt.id, prompt=prompt.prompt)
    found = {row.method: row.category for row in atlas(store, ME, {one.prompt: one.category for one in prompts})}
    assert found == {prompt.id: prompt.category for prompt in prompts}


def test_it_is_counted_when_the_run_ends(store: Store, path: Path) -> None:
    id = kept(store, guesses((0, "accepted")))
    assert on_disk(path, f"SELECT acceptance FROM runs WHERE id = '{id}'") == [("[[1,1]]",)]
    stopped = store.recording(iter([started(), *guesses((0, "rejected"))]), owner=ME)
    with stopped:
        for _ in range(3):
            next(stopped)
    assert on_disk(path, f"SELECT acceptance FROM runs WHERE id = '{stopped.run_id}'") == [("[[0,1]]",)]


def test_runs_that_nobody_counted_are_counted_when_asked_for(store: Store) -> None:
    for _ in range(3):
        kept(store, guesses((0, "accepted")))
    kept(store, guesses((0, "accepted")), owner=YOU)
    store.write(lambda db: db.execute("UPDATE runs SET acceptance = NULL"))
    assert atlas(store, ME, {}) == []
    assert catch_up(store, ME, seconds=0) == 3
    assert catch_up(store, ME) == 0
    (row,) = atlas(store, ME, {})
    assert row.total == (3, 3)
    assert catch_up(store, YOU, seconds=0) == 1


@pytest.mark.parametrize("body", ["nonsense", "{}", '{"kind":"note","text":"x"}'])
def test_events_that_cannot_be_read_do_not_stop_the_count(store: Store, body: str) -> None:
    kept(store, guesses((0, "accepted")))
    store.write(lambda db: db.execute("UPDATE events SET body = ? WHERE kind = 'draft'", [body]))
    store.write(lambda db: db.execute("UPDATE runs SET acceptance = NULL"))
    assert catch_up(store, ME) == 0
    assert atlas(store, ME, {}) == []


def test_imported_runs_do_not_count(store: Store, tmp_path: Path) -> None:
    prompt = store.recording(iter(whole_run()), owner=YOU)
    list(prompt)
    write_file(store, YOU, tmp_path / "runs.jsonl.gz")
    (id,) = import_runs(store, ME, tmp_path / "runs.jsonl.gz")
    store.write(lambda db: db.execute("UPDATE runs SET acceptance = '[[5,5]]' WHERE id = ?", [id]))
    assert atlas(store, ME, {}) == []
