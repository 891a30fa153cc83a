"""What the Sessions page answers to a browser, and what it answers to one that lies."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.errors import DecodingError
from engines.models.causal import CausalModel
from playground import schema
from playground.setup import Setup
from playground.store import Store
from playground.ui import atlas_table, run_panel, sessions, sql_box
from playground.ui.house import House
from tests.playground.stored_runs import whole_run

ME, YOU = "m" * 32, "y" * 32
FORGED: list[Any] = ["", "command line", "' OR 1=1 --", YOU[:-1], None, [YOU], {"owner": YOU}, 7, "y" * 31 + "\n"]


@pytest.fixture
def house(store: Store) -> House:
    return House(store)


@pytest.fixture
def both(house: House) -> tuple[str, str]:
    """Ids of one run of mine and one of somebody else's."""
    mine = house.store.recording(iter(whole_run(prompt="mine")), owner=ME)
    yours = house.store.recording(iter(whole_run(prompt="a secret")), owner=YOU)
    list(mine), list(yours)
    return mine.run_id or "", yours.run_id or ""


def listed(house: House, owner: Any, **told: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(sessions.found(house, owner, told))
    return answer


def test_the_list_shows_ones_own_runs(house: House, both: tuple[str, str]) -> None:
    answer = listed(house, ME, search={}, ticket="t1")
    (run,) = answer["runs"]
    assert (run["id"], run["prompt"], run["status"], run["imported"]) == (both[0], "mine", "finished", False)
    assert (answer["total"], answer["ticket"], answer["own"]) == (1, "t1", 1)


@pytest.mark.parametrize("owner", FORGED)
def test_a_forged_owner_gets_nothing_and_no_error(house: House, both: tuple[str, str], owner: Any) -> None:
    assert listed(house, owner)["runs"] == []
    for what in ("delete", "star", "rename"):
        sessions.altered(house, owner, {"what": what, "ids": list(both), "name": "x", "starred": True})
    assert [house.store.run(id).name for id in both] == [None, None]
    for ids in (None, list(both)):
        with pytest.raises(DecodingError, match="nothing to export"):
            sessions.exported(house, owner, ids)
    assert run_panel.branches(house, owner, both[1])["members"] == []
    assert atlas_table.shown(house, owner)["rows"] == []
    assert "no runs of yours" in sql_box.answered(house, owner, "SELECT * FROM runs")["problem"]
    with pytest.raises(DecodingError):
        list(run_panel.again(house, owner, "page", both[1]))


@pytest.mark.parametrize(
    "told",
    [
        {"search": "x"},
        {"search": {"words": ["x"]}},
        {"search": {"since": "x"}},
        {"search": {"order": "x"}, "after": {}},
        {"after": "x" * 1000, "shown": "many"},
        {"shown": 10**30, "ticket": ["x"]},
        {"shown": -5, "search": None},
        {"search": {"words": "\x00\ud800"}},
    ],
    ids=repr,
)
def test_a_malformed_question_gets_an_answer(house: House, both: tuple[str, str], told: dict[str, Any]) -> None:
    answer = listed(house, ME, **told)
    assert "a secret" not in str(answer)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"what": "delete"},
        {"what": "delete", "ids": "all"},
        {"what": "delete", "ids": [None, 7, {}, "' OR 1=1 --", "%"]},
        {"what": "rename", "ids": ["a", "b"]},
        {"what": "drop", "ids": ["a"]},
        {"what": ["delete"], "ids": []},
    ],
    ids=repr,
)
def test_a_malformed_change_changes_nothing(house: House, both: tuple[str, str], told: dict[str, Any]) -> None:
    sessions.altered(house, ME, told)
    assert len(house.store.runs()) == 2


def test_another_persons_run_is_neither_changed_nor_spoken_of(house: House, both: tuple[str, str]) -> None:
    unknown = str(sessions.altered(house, ME, {"what": "star", "ids": ["unknown"], "starred": True}))
    assert str(sessions.altered(house, ME, {"what": "star", "ids": [both[1]], "starred": True})) == unknown
    sessions.altered(house, ME, {"what": "delete", "ids": list(both)})
    assert [run.prompt for run in house.store.runs()] == ["a secret"]


def test_a_deleted_run_is_not_kept_in_memory_either(house: House, both: tuple[str, str]) -> None:
    house.shelf.events(both[0])
    sessions.altered(house, ME, {"what": "delete", "ids": [both[0]]})
    with pytest.raises(DecodingError, match="There is no run called"):
        house.shelf.events(both[0])


def test_an_export_is_a_file_with_an_unguessable_place(
    house: House, both: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    first, said = sessions.exported(house, ME, None)
    second, _ = sessions.exported(house, ME, [both[0]])
    assert str(said) == "Exported: 1."
    assert first.parent != second.parent
    assert len(first.parent.name) == 32
    monkeypatch.setattr(sessions, "EXPORTS_KEPT", -1)
    third, _ = sessions.exported(house, ME, None)
    assert not first.exists()
    assert third.exists()


@pytest.mark.parametrize("ids", [("unknown", "x"), ("", "")])
def test_unknown_runs_cannot_be_laid_side_by_side(house: House, ids: tuple[str, str]) -> None:
    with pytest.raises(DecodingError, match="There is no run called"):
        run_panel.beside(house, *ids)


# A newer database


@pytest.fixture
def newer(path: Path) -> Iterator[House]:
    """A database that a newer version of this program has changed."""
    with Store.open(path) as store:
        list(store.recording(iter(whole_run(prompt="mine")), owner=ME))
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {schema.latest() + 1}")
        connection.execute("ALTER TABLE runs ADD COLUMN mood TEXT")
        connection.execute("DROP TRIGGER runs_said")
        connection.execute("DROP TABLE words")
    connection.close()
    with Store.open(path) as store:
        yield House(store)


def test_a_newer_database_is_read_with_a_message_and_never_written(newer: House, path: Path) -> None:
    before = path.read_bytes()
    answer = listed(newer, ME, search={"words": "mine"})
    assert [run["prompt"] for run in answer["runs"]] == ["mine"]
    assert "newer version" in answer["problem"]
    (id,) = [run["id"] for run in answer["runs"]]
    for what in ("rename", "star", "delete"):
        with pytest.raises(DecodingError, match="newer version"):
            sessions.altered(newer, ME, {"what": what, "ids": [id], "name": "x"})
    assert sql_box.answered(newer, ME, "SELECT prompt FROM runs")["rows"] == [["mine"]]
    assert atlas_table.shown(newer, ME)["rows"] == []
    assert path.read_bytes() == before


# Again


def test_a_repeated_run_is_kept_and_compared(house: House, tiny_llama: CausalModel) -> None:
    house.resident.model = tiny_llama
    kept = house.record(Setup(method="greedy", prompt="again", max_new_tokens=12), owner=ME)
    list(kept)
    *busy, last = run_panel.again(house, ME, "page", kept.run_id or "")
    assert {one["kind"] for one in busy} == {"busy"}
    assert (last["kind"], last["identical"], last["shared"]) == ("rerun", True, 12)
    old, new = (run["id"] for run in last["runs"])
    assert old == kept.run_id
    assert house.store.run(new).owner == ME
    assert not house.busy("page again")


def test_stop_ends_a_repeated_run(house: House, tiny_llama: CausalModel) -> None:
    house.resident.model = tiny_llama
    kept = house.record(Setup(method="greedy", prompt="again", max_new_tokens=200), owner=ME)
    list(kept)
    going = run_panel.again(house, ME, "page", kept.run_id or "")
    for _ in range(2):
        next(going)
    house.stop("page again")
    *_, last = going
    assert last["cut"]
    assert last["identical"]
    assert {run.status for run in house.store.runs(ME)} == {"finished", "stopped"}
