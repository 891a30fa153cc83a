"""The store against real SQLite files: streams made by hand, faults made on purpose, processes really killed."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines.events import Candidates, Choice, Commit, Event, Finished, Placed, Started, Token, Totals
from playground import recording, schema
from playground.recording import is_alive, new_run_id, spelled, this_process
from playground.store import FILE_NAME, Store, UnknownRun, UnreadableRun, data_folder

WORDS = [Token(1, "Once"), Token(2, " upon"), Token(3, "", "f09f"), Token(4, "", "9880"), Token(5, "\x00<b>\n")]
TOTALS = Totals(
    tokens=5,
    seconds=0.5,
    time_to_first_token=0.1,
    target_passes=5,
    prompt_passes=1,
    draft_passes=0,
    tokens_processed=9,
    drafted=0,
    accepted=0,
    rejected=0,
    untested=0,
    tokens_per_second=10.0,
    tokens_per_target_pass=1.0,
    acceptance_rate=None,
)


def started(**changes: object) -> Started:
    fields: dict[str, object] = {
        "seq": 0,
        "model": "smollm2-135m",
        "weights": "abc123",
        "precision": "float32",
        "method": "greedy",
        "family": "baselines",
        "lossless": True,
        "params": {"width": 8, "name": "x", "rate": 0.5, "on": True, "none": None},
        "prompt": "Tell me\n<script>",
        "prompt_tokens": (Token(7, "Tell"),),
        "prompt_length": 1,
        "seed": 2**62,
        "max_new_tokens": 128,
        "raw_prompt": False,
        "versions": {"torch": "2.13.0"},
        "machine": "2-core",
    }
    return Started(**{**fields, **changes})  # type: ignore[arg-type]


def whole_run(words: list[Token] = WORDS, **changes: object) -> list[Event]:
    """Started, then candidates and a commit for every word, then Finished."""
    events: list[Event] = [started(**changes)]
    for position, word in enumerate(words):
        stamp = {"seq": len(events), "time": 0.1 * position}
        events.append(Candidates(position=position, raw=(Choice(word, 0.9),), entropy=0.3, **stamp))  # type: ignore[arg-type]
        stamp["seq"] += 1
        events.append(Commit(position=position, step=position, tokens=(Placed(word, "sampled", raw=0.9),), **stamp))  # type: ignore[arg-type]
    text = spelled(Placed(word, "sampled") for word in words)
    ids = tuple(word.id for word in words)
    events.append(Finished(seq=len(events), time=0.5, reason="end of text", text=text, token_ids=ids, totals=TOTALS))
    return events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "runs.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        assert store.problem is None
        yield store


def on_disk(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What another program sees in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


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


# Many at once


def test_twenty_threads_record_at_once(store: Store) -> None:
    ids: dict[int, str] = {}

    def record(number: int) -> None:
        kept = store.recording(iter(whole_run(prompt=str(number), words=WORDS * 20)))
        list(kept)
        ids[number] = kept.run_id or ""

    threads = [threading.Thread(target=record, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids.values())) == 20
    for number, id in ids.items():
        assert store.run(id).prompt == str(number)
        assert store.events(id) == whole_run(prompt=str(number), words=WORDS * 20)


def test_two_stores_share_a_file(store: Store, path: Path) -> None:
    kept = store.recording(iter(whole_run()))
    next(kept)
    with Store.open(path) as second:
        assert second.problem is None
        assert second.run(kept.run_id or "").status == "running", "a live run is left alone"
        other = second.recording(iter(whole_run()))
        list(other)
    list(kept)
    assert {run.status for run in store.runs()} == {"finished"}
    assert len(store.runs()) == 2


# A process that dies

CHILD = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
from test_store import whole_run
from playground.store import Store

def slowly():
    for event in whole_run():
        yield event
        time.sleep(0.3)

store = Store.open({path!r})
kept = store.recording(slowly(), owner="child")
for number, event in enumerate(kept):
    print(kept.run_id, number, flush=True)
"""


@pytest.fixture
def child(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a recorded run: it has passed on three events and sleeps."""
    code = CHILD.format(tests=str(Path(__file__).parent), root=str(Path(__file__).parents[2]), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def passed(process: subprocess.Popen[str], count: int) -> str:
    assert process.stdout is not None
    for _ in range(count):
        line = process.stdout.readline()
    return line.split()[0]


def test_a_killed_process_leaves_an_interrupted_run_with_its_events(child: subprocess.Popen[str], path: Path) -> None:
    id = passed(child, 5)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert on_disk(path, "SELECT status FROM runs") == [("running",)]
    with Store.open(path) as store:
        assert store.problem is None
        run = store.run(id)
        assert (run.status, run.text, run.owner) == ("interrupted", "Once upon", "child")
        assert store.events(id) == whole_run()[:5]


def test_a_second_process_leaves_a_live_run_alone(child: subprocess.Popen[str], path: Path) -> None:
    id = passed(child, 2)
    with Store.open(path) as store:
        assert store.run(id).status == "running"
        list(store.recording(iter(whole_run())))
        child.wait(timeout=30)
        assert store.run(id).status == "finished"
        assert store.events(id) == whole_run()


def test_a_process_is_known_by_its_id_and_its_start() -> None:
    pid, since = this_process()
    assert is_alive(pid, since)
    assert not is_alive(pid, since - 60), "the id was given to a new process"
    assert not is_alive(2**22 + 5, since)


# A database that cannot be written


def goes_on(store: Store, expected: str) -> None:
    """Decoding goes on, and the store says why nothing is kept."""
    events = whole_run()
    assert list(store.recording(iter(events))) == events
    assert store.problem is not None
    assert store.problem.startswith("Sessions are not kept: ")
    assert expected in store.problem
    assert "\n" not in store.problem
    assert len(store.problem) < 160


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anything, so the tests step down for a moment when they run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def recorded(path: Path) -> str:
    """A database with one finished run, closed again; its id."""
    with Store.open(path) as store:
        kept = store.recording(iter(whole_run()))
        list(kept)
    return kept.run_id or ""


@pytest.fixture
def locked_away() -> Iterator[Path]:
    """A folder that everybody may read and nobody may write, with a database of one run in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Store.open(folder / FILE_NAME) as store:
            list(store.recording(iter(whole_run())))
        (folder / FILE_NAME).chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_read_only_file(locked_away: Path) -> None:
    with unprivileged(), Store.open(locked_away / FILE_NAME) as store:
        goes_on(store, "read-only")
        (run,) = store.runs()
        assert run.status == "finished", "what is there can still be read"
        assert store.events(run.id) == whole_run()


def test_folder_that_may_not_be_written(locked_away: Path) -> None:
    with unprivileged():
        for path in (locked_away / "new.sqlite", locked_away / "deeper" / FILE_NAME):
            with Store.open(path) as store:
                goes_on(store, "cannot be")
                assert store.runs() == []
                with pytest.raises(UnreadableRun):
                    store.run("x")


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with Store.open(tmp_path / "data" / "runs.sqlite") as store:
        goes_on(store, "folder cannot be used")


def test_path_that_is_a_folder(path: Path) -> None:
    path.mkdir(parents=True)
    with Store.open(path) as store:
        goes_on(store, "cannot be opened")


@pytest.mark.parametrize("content", [b"This is no database. " * 500, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_file_that_is_no_database(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with Store.open(path) as store:
        goes_on(store, "damaged")
        assert store.runs() == []
    assert path.read_bytes() == content, "somebody may still rescue it"


def test_database_with_damaged_pages(path: Path, recorded: str) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    with Store.open(path) as store:
        goes_on(store, "damaged")
        with pytest.raises(UnreadableRun):
            store.run(recorded)
        assert store.runs() == []


def test_newer_database_is_read_but_not_touched(path: Path, recorded: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {schema.latest() + 1}")
        connection.execute("ALTER TABLE runs ADD COLUMN mood TEXT")
    connection.close()
    before = path.read_bytes()
    with Store.open(path) as store:
        goes_on(store, "newer version")
        assert store.run(recorded).text == "Once upon😀\x00<b>\n"
    assert path.read_bytes() == before


def test_full_disk_in_mid_run_and_room_again(store: Store) -> None:
    assert store._writer is not None
    kept = store.recording(iter(whole_run()))
    next(kept)
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    big = whole_run(words=[Token(1, "x" * 5000)] * 20)
    assert list(store.recording(iter(big))) == big
    assert store.problem == "Sessions are not kept: the disk is full."
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert len(list(kept)) == len(whole_run()) - 1
    assert store.problem is None
    assert store.events(kept.run_id or "") == whole_run(), "events wait for room"
    assert store.run(kept.run_id or "").status == "finished"


def test_a_run_that_ended_while_the_disk_was_full_does_not_run_for_ever(store: Store) -> None:
    assert store._writer is not None
    kept = store.recording(iter(whole_run(words=[Token(1, "x" * 5000)] * 20)))
    next(kept)
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    list(kept)
    id = kept.run_id or ""
    assert kept.problem == "Sessions are not kept: the disk is full."
    assert store.run(id).status == "running"
    store._writer.execute("PRAGMA max_page_count = 1000000")
    list(store.recording(iter(whole_run())))
    run = store.run(id)
    assert (run.status, run.error) == ("interrupted", "41 events could not be kept.")
    assert run.text == "x" * 100_000
    assert len(store.events(id)) == 1


def test_locked_database_is_waited_for_without_holding_up_the_run(store: Store, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    kept = store.recording(iter(whole_run()))
    began = time.monotonic()
    for _ in range(6):
        next(kept)
    assert time.monotonic() - began < 1
    assert store.problem == "Sessions are not kept: another program has locked the database."
    other.execute("ROLLBACK")
    other.close()
    list(kept)
    assert store.problem is None
    assert store.events(kept.run_id or "") == whole_run()


def test_database_locked_while_opening_is_used_later(path: Path, recorded: str) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    store = Store.open(path)
    goes_on(store, "locked")
    other.execute("ROLLBACK")
    other.close()
    kept = store.recording(iter(whole_run()))
    list(kept)
    assert store.problem is None
    assert store.run(kept.run_id or "").status == "finished"
    store.close()


def test_dropped_events_are_owned_up_to(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_WAITING", 3)
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0.0)
    kept = store.recording(iter(whole_run()))
    next(kept)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    kept._next_batch = 0.0
    for _ in range(4):
        next(kept)
    other.execute("ROLLBACK")
    other.close()
    list(kept)
    run = store.run(kept.run_id or "")
    assert run.status == "interrupted"
    assert run.error == "3 events could not be kept."
    assert run.text == "Once upon😀\x00<b>\n", "the result itself is whole"
    assert [event.seq for event in store.events(run.id)] == [0, *range(4, len(whole_run()))]


def test_an_event_that_cannot_be_written_does_not_end_the_run(store: Store) -> None:
    goes_on_events = whole_run(prompt="half a pair: \ud800")
    assert list(store.recording(iter(goes_on_events))) == goes_on_events
    assert store.problem is not None


def test_a_closed_store_keeps_nothing_and_breaks_nothing(path: Path) -> None:
    store = Store.open(path)
    store.close()
    goes_on(store, "closed")


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
