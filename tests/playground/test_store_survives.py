"""The store when things go wrong: many writers, processes really killed, faults made on purpose."""

from __future__ import annotations

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

from engines.events import Token
from playground import recording, schema
from playground.recording import is_alive, this_process
from playground.store import FILE_NAME, Store, UnreadableRun
from tests.playground.stored_runs import WORDS, goes_on, on_disk, whole_run

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
