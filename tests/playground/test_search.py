"""Finding runs among one's own, and doing things to them, in a real database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from engines.errors import DecodingError
from engines.events import Token
from playground import schema
from playground.search import MARKS, Search, asked, facets, search
from playground.store import Store, is_owner
from tests.playground.stored_runs import on_disk, started, whole_run

ME, YOU = "m" * 32, "y" * 32


def keep(store: Store, prompt: str, says: str = "Hello", *, owner: str = ME, **more: object) -> str:
    kept = store.recording(iter(whole_run([Token(1, says)], prompt=prompt, **more)), owner=owner)
    list(kept)
    return kept.run_id or ""


def prompts(store: Store, words: str = "", *, owner: str = ME, **filters: object) -> list[str]:
    return [hit.run.prompt for hit in search(store, owner, Search(words=words, **filters)).hits]  # type: ignore[arg-type]


@pytest.fixture
def three(store: Store) -> list[str]:
    return [
        keep(store, "Why is the leaf green?", "Because of chlorophyll.", method="greedy"),
        keep(store, "Name three rivers.", "Rhine, Rhône, Po", method="sampling", family="sampling"),
        keep(store, "What is a Blatt?", "A leaf, in German.", method="sampling", model="other"),
    ]


# Words


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", ["What is a Blatt?", "Name three rivers.", "Why is the leaf green?"]),
        ("leaf", ["What is a Blatt?", "Why is the leaf green?"]),
        ("LEAF green", ["Why is the leaf green?"]),
        ("green leaf", ["Why is the leaf green?"]),
        ("chloro", ["Why is the leaf green?"]),
        ("rhone", ["Name three rivers."]),
        ("rive", ["Name three rivers."]),
        ("ivers", ["Name three rivers."]),
        ("green?", ["Why is the leaf green?"]),
        ("leaf river", []),
    ],
)
def test_every_word_must_occur_in_a_run(store: Store, three: list[str], words: str, found: list[str]) -> None:
    assert prompts(store, words) == found


def test_names_are_searched_as_soon_as_they_are_given(store: Store, three: list[str]) -> None:
    assert store.rename(ME, three[0], "photosynthesis, first try")
    (hit,) = search(store, ME, Search(words="photosyn")).hits
    assert hit.run.id == three[0]
    assert f"{MARKS[0]}photosynthesis{MARKS[1]}" in hit.excerpt, "found by the index, not by reading every run"
    assert store.rename(ME, three[0], "")
    assert prompts(store, "photosyn") == []


def test_languages_that_do_not_separate_words_can_be_searched(store: Store) -> None:
    keep(store, "光合作用是什么？")
    assert prompts(store, "作用") == ["光合作用是什么？"]


@pytest.mark.parametrize(
    "words",
    [
        *(
            '"',
            '"leaf',
            "leaf*",
            "*",
            "leaf AND",
            "NEAR(",
            "name:leaf",
            "-leaf",
            "^leaf",
            "(leaf",
            "{a b}: c",
            "a OR b",
        ),
        *("' OR 1=1 --", "'; DROP TABLE runs; --", "%", "_", "\x00", "\ud800", "x" * 100_000, "a " * 10_000, "𓀀", "\\"),
    ],
    ids=repr,
)
def test_no_words_are_an_error(store: Store, three: list[str], words: str) -> None:
    search(store, ME, Search(words=words))
    search(store, ME, Search(words=words, order="best"))
    assert len(prompts(store)) == 3


def test_the_best_match_comes_first_when_asked_for(store: Store) -> None:
    keep(store, "sea", "A long story about many things, among them the sea, told at length and without an end.")
    keep(store, "A long question about many things, of which the sea is one and others are others, and so on")
    assert prompts(store, "sea", order="best")[0] == "sea"
    assert prompts(store, "sea")[0].startswith("A long question")


def test_the_words_are_shown_where_they_occur(store: Store, three: list[str]) -> None:
    (hit,) = search(store, ME, Search(words="chlorophyll")).hits
    assert hit.excerpt == f"Because of {MARKS[0]}chlorophyll{MARKS[1]}."


# Filters


def test_filters_narrow_and_combine(store: Store, three: list[str]) -> None:
    assert prompts(store, method="sampling") == ["What is a Blatt?", "Name three rivers."]
    assert prompts(store, method="sampling", model="other") == ["What is a Blatt?"]
    assert prompts(store, "leaf", method="greedy") == ["Why is the leaf green?"]
    assert prompts(store, family="sampling") == ["Name three rivers."]
    assert prompts(store, status="stopped") == []
    store.star(ME, [three[1]], True)
    assert prompts(store, starred=True) == ["Name three rivers."]


def test_dates_bound_what_is_found(store: Store, three: list[str], path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE runs SET created = '2026-03-01T10:00:00.000000+00:00' WHERE id = ?", [three[0]])
        connection.execute("UPDATE runs SET created = '2026-03-02T10:00:00.000000+00:00' WHERE id = ?", [three[1]])
    connection.close()
    assert prompts(store, since="2026-03-02T00:00:00.000Z", until="2026-03-03T00:00:00.000Z") == ["Name three rivers."]
    assert prompts(store, until="2026-03-02") == ["Why is the leaf green?"]


@pytest.mark.parametrize(
    "sent",
    [
        {"since": "yesterday"},
        {"since": "2026-03-01' OR 1"},
        {"order": "worst"},
        {"words": 5},
        {"starred": "y"},
        [],
        "x",
    ],
)
def test_a_search_that_is_none_is_a_clear_error(store: Store, sent: object) -> None:
    with pytest.raises(DecodingError):
        search(store, ME, asked(sent))


def test_facets_count_what_there_is(store: Store, three: list[str]) -> None:
    keep(store, "not mine", owner=YOU, method="beam-search")
    found = facets(store, ME)
    assert found["method"] == {"greedy": 1, "sampling": 2}
    assert found["model"] == {"other": 1, "smollm2-135m": 2}
    assert found["status"] == {"finished": 3}


# Pages


def test_pages_follow_each_other_while_new_runs_come_in(store: Store) -> None:
    for number in range(7):
        keep(store, f"prompt {number}")
    first = search(store, ME, Search(), limit=3)
    keep(store, "a new one")
    second = search(store, ME, Search(), limit=3, after=first.more)
    third = search(store, ME, Search(), limit=3, after=second.more)
    shown = [hit.run.prompt for page in (first, second, third) for hit in page.hits]
    assert shown == [f"prompt {number}" for number in (6, 5, 4, 3, 2, 1, 0)]
    assert (first.total, third.more) == (7, "")


def test_pages_of_best_matches_follow_each_other(store: Store) -> None:
    for number in range(5):
        keep(store, f"sea {number}")
    first = search(store, ME, Search(words="sea", order="best"), limit=3)
    second = search(store, ME, Search(words="sea", order="best"), limit=3, after=first.more)
    assert {hit.run.prompt for page in (first, second) for hit in page.hits} == {f"sea {n}" for n in range(5)}
    assert second.more == ""


@pytest.mark.parametrize("after", ["x", "-1", "9" * 80, "' OR 1", "\x00"])
def test_a_forged_page_is_only_a_page(store: Store, three: list[str], after: str) -> None:
    for order in ("newest", "best"):
        search(store, ME, Search(words="leaf", order=order), after=after)  # type: ignore[arg-type]


# Whose runs


def test_other_peoples_runs_are_never_found(store: Store) -> None:
    keep(store, "a secret", owner=YOU)
    keep(store, "from the terminal", owner="command line")
    assert prompts(store, "secret") == []
    assert prompts(store) == []
    assert search(store, "' OR 1=1 --", Search()).hits == []


@pytest.mark.parametrize("owner", [YOU, "", "command line", "' OR 1=1 --", "%"])
def test_nobody_changes_the_run_of_another(store: Store, owner: str) -> None:
    id = keep(store, "mine")
    assert not store.rename(owner, id, "yours")
    assert store.star(owner, [id], True) == 0
    assert store.delete(owner, [id]) == []
    run = store.run(id)
    assert (run.name, run.starred) == (None, False)


@pytest.mark.parametrize(
    ("token", "is_one"),
    [
        *(("a" * 32, True), ("aB-_" * 8, True), ("", False), ("command line", False), ("a" * 31, False)),
        *(("a" * 33, False), ("a" * 31 + "'", False), ("a" * 32 + "\n", False), (None, False), (["a"] * 32, False)),
        ("ä" * 32, False),
    ],
)
def test_an_owner_is_a_token_of_32_characters(token: object, is_one: bool) -> None:
    assert is_owner(token) is is_one


# Deleting


def test_a_deleted_run_is_gone_with_its_events_and_words(store: Store, three: list[str], path: Path) -> None:
    assert store.delete(ME, [three[0], "unknown", three[0]]) == [three[0]]
    assert on_disk(path, f"SELECT count(*) FROM events WHERE run = '{three[0]}'") == [(0,)]
    assert prompts(store, "chlorophyll") == []
    assert prompts(store, "leaf") == ["What is a Blatt?"]
    assert on_disk(path, "SELECT count(*) FROM words") == [(2,)]


def test_a_branch_outlives_the_run_that_it_came_from(store: Store) -> None:
    parent = keep(store, "root")
    kept = store.recording(iter(whole_run()), owner=ME, parent=(parent, 2))
    list(kept)
    store.delete(ME, [parent])
    assert store.events(kept.run_id or "") == whole_run()


def test_a_run_under_way_is_not_deleted(store: Store) -> None:
    kept = store.recording(iter(whole_run()), owner=ME)
    next(kept)
    assert store.delete(ME, [kept.run_id or ""]) == []
    list(kept)
    assert store.events(kept.run_id or "") == whole_run()


def test_names_are_one_line_of_bounded_length(store: Store) -> None:
    id = keep(store, "x")
    store.rename(ME, id, "  two\n lines \ud800 " + "n" * 1000)
    name = store.run(id).name or ""
    assert name.startswith("two lines ? n")
    assert len(name) <= 120


# Older databases


def older(path: Path, steps: int, rows: Sequence[str]) -> None:
    """A database as an earlier version left it."""
    from sqlite_utils import Database

    path.parent.mkdir(parents=True)
    db = Database(sqlite3.connect(path))
    for step in schema._steps[:steps]:
        step(db)
    db.execute(f"PRAGMA user_version = {steps}")
    for id in rows:
        row = {"id": id, "created": id, "status": "finished", "owner": ME, "prompt": f"old {id}", "text": ""}
        db["runs"].insert(row)
    db.conn.commit()
    db.close()


def test_runs_of_an_older_database_are_found(path: Path) -> None:
    older(path, 1, ["2025-01-01", "2025-01-02"])
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE runs SET model='m', weights='', precision='', method='greedy', family='baselines', lossless=1,"
            " params='{}', raw=0, seed=0, max_new_tokens=1"
        )
    connection.close()
    with Store.open(path) as store:
        assert store.problem is None
        assert prompts(store, "old") == ["old 2025-01-02", "old 2025-01-01"]
        keep(store, "new")
        assert prompts(store, "new") == ["new"]


def test_without_full_text_index_runs_are_read_one_by_one(store: Store, three: list[str]) -> None:
    def drop(db: object) -> None:
        for name in ("runs_said", "runs_deleted", "runs_numbered"):
            db.execute(f"DROP TRIGGER {name}")  # type: ignore[attr-defined]
        db.execute("DROP TABLE words")  # type: ignore[attr-defined]

    assert store.write(drop)
    assert prompts(store, "leaf") == ["What is a Blatt?", "Why is the leaf green?"]
    assert prompts(store, "leaf", order="best") == ["What is a Blatt?", "Why is the leaf green?"]
    keep(store, "one more leaf")
    assert len(prompts(store, "leaf")) == 3


def test_vacuum_does_not_mix_up_the_words(store: Store, three: list[str], path: Path) -> None:
    store.delete(ME, [three[0]])
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("VACUUM")
    connection.close()
    store.rename(ME, three[2], "renamed")
    assert prompts(store, "renamed") == ["What is a Blatt?"]
    assert prompts(store, "rivers") == ["Name three rivers."]


def test_a_run_is_searchable_while_it_runs(store: Store) -> None:
    kept = store.recording(iter([started(prompt="under way"), *whole_run()[1:]]), owner=ME)
    next(kept)
    assert prompts(store, "under way") == ["under way"]
    kept.close()
