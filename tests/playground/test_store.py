"""The store against real SQLite files: what is kept of a run, how it is found, and where."""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.events import Event
from playground import recording, schema
from playground.recording import new_run_id
from playground.store import FILE_NAME, Store, UnknownRun, UnreadableRun, data_folder
from tests.playground.stored_runs import TOTALS, goes_on, on_disk, whole_run

# A run that goes well


def test_every_event_passes_unchanged_and_is_kept(store: Store) -> None:
    events = whole_run()
    kept = store.recording(iter(events), owner="me")
    assert list(kept) == events
    assert kept.run_id is not None
    assert store.events(kept.run_id) == events


def test_a_finished_run_has_its_row(store: Store) -> None:
    kept = store.recording(iter(whole_run()), owner="me", parent=("earlier", 3), name="first try")
    list(kept)
    run = store.run(kept.run_id or "")
    assert (run.status, run.reason, run.text, run.totals) == ("finished", "end of text", "Once upon😀\x00<b>\n", TOTALS)
    assert (run.owner, run.parent_run, run.parent_position, run.name) == ("me", "earlier", 3, "first try")
    assert (run.model, run.method, run.lossless, run.raw) == ("smollm2-135m", "greedy", True, False)
    assert run.params == {"width": 8, "name": "x", "rate": 0.5, "on": True, "none": None}
    assert (run.prompt, run.seed, run.starred, run.error) == ("Tell me\n<script>", 2**62, False, None)
    assert run.created.endswith("+00:00")


def test_the_run_is_in_the_file_as_soon_as_it_has_an_id(store: Store, path: Path) -> None:
    kept = store.recording(iter(whole_run()))
    assert kept.run_id is None
    next(kept)
    assert on_disk(path, "SELECT id, status FROM runs") == [(kept.run_id, "running")]
    assert on_disk(path, "SELECT kind FROM events") == [("started",)]
    kept.close()


def test_it_is_marked_finished_with_its_last_event_even_if_nobody_reads_on(store: Store) -> None:
    events = whole_run()
    kept = store.recording(iter(events))
    for _ in events:
        next(kept)
    assert store.run(kept.run_id or "").status == "finished"


def test_the_header_column_leaves_the_prompts_tokens_to_the_event(store: Store, path: Path) -> None:
    list(store.recording(iter(whole_run())))
    ((header,),) = on_disk(path, "SELECT header FROM runs")
    assert '"prompt_tokens":[]' in str(header)


def test_events_lag_at_most_a_batch(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BATCH_SECONDS", 0.5)
    kept = store.recording(iter(whole_run()))
    next(kept), next(kept)
    assert on_disk(path, "SELECT count(*) FROM events") == [(1,)], "the second event waits for its batch"
    time.sleep(0.55)
    next(kept)
    assert on_disk(path, "SELECT count(*) FROM events") == [(3,)]
    kept.close()


def test_many_events_make_a_batch_before_its_time(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BATCH_SECONDS", 1e9)
    monkeypatch.setattr(recording, "BATCH_EVENTS", 4)
    kept = store.recording(iter(whole_run()))
    for _ in range(5):
        next(kept)
    assert on_disk(path, "SELECT count(*) FROM events") == [(5,)]
    kept.close()


# A run that ends otherwise


def test_closing_marks_it_stopped_with_the_text_so_far(store: Store) -> None:
    closed = []

    def events() -> Iterator[Event]:
        try:
            yield from whole_run()
        finally:
            closed.append(True)

    kept = store.recording(events())
    with kept:
        for _ in range(5):
            next(kept)
    run = store.run(kept.run_id or "")
    assert (run.status, run.text, run.totals, run.reason) == ("stopped", "Once upon", None, None)
    assert closed == [True], "the run's own generator is closed as well"
    assert store.events(run.id) == whole_run()[:5]


def test_closing_a_finished_run_changes_nothing(store: Store) -> None:
    kept = store.recording(iter(whole_run()))
    list(kept)
    kept.close()
    assert store.run(kept.run_id or "").status == "finished"


def test_closing_before_the_first_event_keeps_nothing(store: Store) -> None:
    store.recording(iter(whole_run())).close()
    assert store.runs() == []


def test_a_forgotten_recording_is_a_stopped_run(store: Store) -> None:
    kept = store.recording(iter(whole_run()))
    next(kept)
    id = kept.run_id or ""
    del kept
    gc.collect()
    assert store.run(id).status == "stopped"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("no memory left"), "failed", "no memory left"),
        (KeyError(), "failed", "KeyError"),
        (KeyboardInterrupt(), "stopped", None),
        (GeneratorExit(), "stopped", None),
    ],
)
def test_an_exception_passes_on_and_is_noted(
    store: Store, error: BaseException, status: str, message: str | None
) -> None:
    def events() -> Iterator[Event]:
        yield from whole_run()[:3]
        raise error

    kept = store.recording(events())
    with pytest.raises(type(error)):
        list(kept)
    run = store.run(kept.run_id or "")
    assert (run.status, run.error, run.text) == (status, message, "Once")
    assert len(store.events(run.id)) == 3


def test_an_error_before_the_first_event_leaves_no_run(store: Store) -> None:
    def events() -> Iterator[Event]:
        raise RuntimeError
        yield

    with pytest.raises(RuntimeError):
        next(store.recording(events()))
    assert store.runs() == []


def test_a_stream_that_just_ends_has_failed(store: Store) -> None:
    kept = store.recording(iter(whole_run()[:-1]))
    list(kept)
    run = store.run(kept.run_id or "")
    assert run.status == "failed"
    assert run.error


# Finding runs


def test_the_newest_runs_of_an_owner_come_first(store: Store) -> None:
    ids = []
    for number in range(6):
        kept = store.recording(iter(whole_run(prompt=str(number))), owner="odd" if number % 2 else "even")
        list(kept)
        ids.append(kept.run_id)
    assert [run.prompt for run in store.runs("odd")] == ["5", "3", "1"]
    assert [run.prompt for run in store.runs("even", limit=1, offset=1)] == ["2"]
    assert [run.id for run in store.runs()] == ids[::-1]
    assert store.runs("nobody") == []


@pytest.mark.parametrize("id", ["", "nope", "' OR 1=1 --", "../x", "\x00", "x" * 10_000])
def test_an_unknown_id_is_a_clear_error(store: Store, id: str) -> None:
    list(store.recording(iter(whole_run())))
    for ask in (store.run, store.events):
        with pytest.raises(UnknownRun, match="There is no run called") as caught:
            ask(id)
        assert len(str(caught.value)) < 120


def test_ids_are_unguessable_and_safe_in_links_and_commands() -> None:
    ids = {new_run_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(len(id) == 16 and id[0].isalnum() and id.replace("-", "").replace("_", "").isalnum() for id in ids)


def test_events_that_are_no_events_are_a_clear_error(store: Store, path: Path) -> None:
    kept = store.recording(iter(whole_run()))
    list(kept)
    with sqlite3.connect(path) as connection:
        connection.execute('UPDATE events SET body = \'{"kind":"nonsense"}\' WHERE seq = 2')
    connection.close()
    with pytest.raises(UnreadableRun, match="cannot be read"):
        store.events(kept.run_id or "")


# Where and how


def test_the_data_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECODING_PLAYGROUND_DATA", str(tmp_path / "a b?c#%20"))
    assert data_folder() == tmp_path / "a b?c#%20"
    with Store.open() as store:
        list(store.recording(iter(whole_run())))
        assert store.problem is None
        assert len(store.runs()) == 1
    assert (tmp_path / "a b?c#%20" / FILE_NAME).exists()
    monkeypatch.delenv("DECODING_PLAYGROUND_DATA")
    assert data_folder().name == "decoding-playground"


def test_write_ahead_log_on_a_local_disk(store: Store, path: Path) -> None:
    assert on_disk(path, "PRAGMA journal_mode") == [("wal",)]


def test_rollback_journal_and_one_connection_on_a_bucket(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECODING_PLAYGROUND_JOURNAL", "delete")
    with Store.open(path) as store:
        kept = store.recording(iter(whole_run()))
        list(kept)
        assert store.problem is None
        assert store.events(kept.run_id or "") == whole_run()
        assert store._reader is store._writer
        assert sorted(file.name for file in path.parent.iterdir()) in (
            [path.name],
            [path.name, f"{path.name}-journal"],
        )
        with Store.open(path) as second:
            goes_on(second, "locked")
    assert on_disk(path, "PRAGMA journal_mode") == [("delete",)]


def test_opening_twice_migrates_once(path: Path, recorded: str) -> None:
    assert on_disk(path, "PRAGMA user_version") == [(schema.latest(),)]
    with Store.open(path) as store:
        assert store.problem is None
        assert len(store.runs()) == 1


def test_an_old_database_takes_the_missing_steps(path: Path, recorded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_mood(db: schema.Database) -> None:
        db.table("runs").add_column("mood", str)

    monkeypatch.setattr(schema, "_steps", [*schema._steps, add_mood])
    with Store.open(path) as store:
        assert store.problem is None
        assert store.run(recorded).status == "finished"
    assert on_disk(path, "PRAGMA user_version") == [(schema.latest(),)]
    assert on_disk(path, "SELECT mood FROM runs") == [(None,)]


def test_a_step_that_fails_changes_nothing(path: Path, recorded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_a_step(db: schema.Database) -> None:
        db.table("runs").add_column("mood", str)
        raise sqlite3.OperationalError("no such table: moods")

    monkeypatch.setattr(schema, "_steps", [*schema._steps, half_a_step])
    with Store.open(path) as store:
        goes_on(store, "no such table")
    monkeypatch.undo()
    assert not on_disk(path, "SELECT * FROM pragma_table_info('runs') WHERE name = 'mood'")
    assert on_disk(path, "PRAGMA user_version") == [(schema.latest(),)]
    with Store.open(path) as store:
        assert store.problem is None
        assert store.run(recorded).status == "finished"
