"""SQL about one's own runs, against the real reader process: what it answers, and all that it must not."""

from __future__ import annotations

import threading
import time

import pytest

from playground import query as queries
from playground.query import LONGEST_CELL, MOST_ROWS, QueryError, query
from playground.store import Store
from playground.ui.sql_box import EXAMPLES
from tests.playground.stored_runs import on_disk, started, whole_run

ME, YOU = "m" * 32, "y" * 32
NUMBERS = "SELECT a.seq FROM events AS a, events AS b, events AS c, events AS d"
ENDLESS = NUMBERS.replace("a.seq", "count(*)") + "".join(f", events e{index}" for index in range(8))


@pytest.fixture
def both(store: Store) -> Store:
    """A store with one run of mine and one of somebody else's."""
    list(store.recording(iter(whole_run(prompt="mine")), owner=ME))
    list(store.recording(iter(whole_run(prompt="a secret")), owner=YOU))
    return store


def test_a_select_is_answered(both: Store) -> None:
    answer = query(both, ME, "SELECT prompt, tokens, tokens_per_second, seed, name FROM runs;")
    assert answer.columns == ["prompt", "tokens", "tokens_per_second", "seed", "name"]
    assert answer.rows == [["mine", "5", "10.0", str(2**62), None]]
    assert answer.full


def test_events_are_there_with_their_json(both: Store) -> None:
    answer = query(
        both,
        ME,
        "SELECT kind, count(*), max(body ->> 'entropy') FROM events JOIN runs ON id = run GROUP BY kind ORDER BY kind",
    )
    assert answer.rows == [
        ["candidates", "5", "0.3"],
        ["commit", "5", None],
        ["finished", "1", None],
        ["started", "1", None],
    ]
    tokens = query(both, ME, "SELECT value ->> 'raw' FROM events, json_each(body, '$.tokens') WHERE kind = 'commit'")
    assert tokens.rows == [["0.9"]] * 5


@pytest.mark.parametrize("sql", EXAMPLES.values(), ids=EXAMPLES)
def test_every_example_works(both: Store, sql: str) -> None:
    assert query(both, ME, sql).rows


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM runs",
        "SELECT * FROM events",
        "SELECT * FROM runs WHERE 1 OR owner = 'x' UNION ALL SELECT * FROM runs",
        "SELECT prompt FROM temp.runs",
        "WITH r AS (SELECT * FROM runs) SELECT * FROM r AS a, r AS b",
        "SELECT group_concat(prompt) || group_concat(text) || group_concat(totals) FROM runs",
        "SELECT body FROM events WHERE kind = 'started'",
        f"SELECT (SELECT prompt FROM runs) FROM runs -- {YOU}",
    ],
)
def test_only_ones_own_rows_are_seen(both: Store, sql: str) -> None:
    try:
        said = str(query(both, ME, sql).rows)
    except QueryError as error:
        said = str(error)
    assert "secret" not in said
    assert YOU not in said
    assert "secret" in str(query(both, YOU, "SELECT prompt FROM runs").rows)


REFUSED = [
    "SELECT * FROM main.runs",
    "SELECT * FROM main.events",
    "WITH runs AS (SELECT * FROM main.runs) SELECT * FROM runs",
    "WITH runs AS (SELECT * FROM runs) SELECT * FROM runs",
    "SELECT owner FROM runs",
    "SELECT process FROM runs",
    "SELECT number FROM runs",
    "SELECT * FROM words",
    "SELECT count(*) FROM words",
    "SELECT * FROM words_content",
    "SELECT count(*) FROM words_content",
    "SELECT * FROM sqlite_master",
    "SELECT sql FROM sqlite_temp_schema",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_table_info('runs')",
    "SELECT * FROM dbstat",
    "PRAGMA database_list",
    "PRAGMA query_only = OFF",
    "PRAGMA user_version",
    "ATTACH ':memory:' AS other",
    "DETACH temp",
    "INSERT INTO runs (id) VALUES ('x')",
    "UPDATE runs SET name = 'x'",
    "UPDATE events SET body = ''",
    "DELETE FROM runs",
    "REPLACE INTO runs (id) VALUES ('x')",
    "DROP TABLE runs",
    "DROP VIEW runs",
    "CREATE TABLE x (a)",
    "CREATE TEMP TABLE x AS SELECT * FROM runs",
    "CREATE TEMP TRIGGER x INSTEAD OF INSERT ON runs BEGIN SELECT 1; END",
    "ALTER TABLE runs ADD COLUMN x",
    "VACUUM INTO '/tmp/stolen'",
    "REINDEX",
    "ANALYZE",
    "BEGIN",
    "COMMIT",
    "SAVEPOINT x",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE runs",
    "SELECT load_extension('x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT writefile('/tmp/x', 'y')",
    "SELECT edit('x')",
    "SELECT fts5('x')",
    "SELECT randomblob(1000000000)",
    "SELECT zeroblob(1000000000)",
    "SELECT sqlite_compileoption_get(1)",
    "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
    "SELECT ?",
    "SELECT :a",
    "SELEC 1",
    "SELECT",
    "nonsense",
    "-- only a comment",
    "",
    "   ",
    "SELECT '\x00'",
    "SELECT " + "(" * 2000 + "1" + ")" * 2000,
    "SELECT " + " + ".join(["1"] * 3000),
    "SELECT " + ", ".join(["1"] * 200),
    "SELECT 1 " + "UNION SELECT 1 " * 50,
    "x" * 20_000,
]


@pytest.mark.parametrize("sql", REFUSED, ids=lambda sql: sql[:40].encode("unicode_escape").decode())
def test_everything_else_is_refused_in_one_sentence(both: Store, sql: str) -> None:
    with pytest.raises(QueryError) as refused:
        query(both, ME, sql)
    assert "secret" not in str(refused.value)
    assert len(str(refused.value)) < 300
    assert on_disk(both.path, "SELECT count(*) FROM runs") == [(2,)]


def test_sqlites_own_words_are_passed_on(both: Store) -> None:
    with pytest.raises(QueryError, match=r'^SQLite says: near "SELEC": syntax error\.$'):
        query(both, ME, "SELEC 1")
    with pytest.raises(QueryError, match=r"^SQLite says: no such column: mood\.$"):
        query(both, ME, "SELECT mood FROM runs")
    with pytest.raises(QueryError, match="Only SELECT on runs and events is allowed"):
        query(both, ME, "DELETE FROM runs")


@pytest.mark.parametrize("owner", ["", "command line", "' OR 1=1 --", YOU[:-1], YOU + "y", None, ["y"], "y" * 31 + "'"])
def test_a_forged_owner_gets_nothing(both: Store, owner: object) -> None:
    with pytest.raises(QueryError, match="no runs of yours"):
        query(both, owner, "SELECT * FROM runs")  # type: ignore[arg-type]


def test_rows_and_cells_are_bounded(both: Store) -> None:
    answer = query(both, ME, NUMBERS)
    assert (len(answer.rows), answer.full) == (MOST_ROWS, False)
    long = query(both, ME, "SELECT printf('%.*c', 100000, 'x'), substr(body, 1, 5) FROM events LIMIT 3")
    assert [len(row[0] or "") for row in long.rows] == [LONGEST_CELL + 1] * 3
    cells = ", ".join(["printf('%.2000c', 'x')"] * 90)
    wide = query(both, ME, f"SELECT {cells} FROM events a, events b, events c")
    assert len(wide.rows) < 20
    assert not wide.full


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS,
        "SELECT instr(printf('%.*c', 8000000, 'a'), printf('%.*c', 4000000, 'a') || 'b')",
        ENDLESS.replace("count(*)", "a.body || b.body || c.body") + " ORDER BY random() || a.body",
        "SELECT length(group_concat(printf('%.*c', 4000000, 'x'))) FROM events a, events b",
        NUMBERS.replace("a.seq", "count(DISTINCT a.body || b.body || c.body || d.body || e.body)") + ", events e",
    ],
    ids=["loops", "one long step", "sorting", "length", "distinct"],
)
def test_time_and_room_are_bounded(both: Store, sql: str) -> None:
    began = time.monotonic()
    with pytest.raises(QueryError):
        query(both, ME, sql, seconds=0.5)
    assert time.monotonic() - began < 5


def test_a_long_query_delays_no_run(both: Store) -> None:
    def ask() -> None:
        with pytest.raises(QueryError):
            query(both, ME, ENDLESS, seconds=1.5)

    slow = threading.Thread(target=ask)
    slow.start()
    time.sleep(0.3)
    began = time.monotonic()
    list(both.recording(iter(whole_run()), owner=ME))
    took = time.monotonic() - began
    assert slow.is_alive()
    assert took < 1
    slow.join()


def test_few_queries_run_at_once_and_the_next_is_told_so(both: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "PATIENCE", 0.1)
    taken = [queries._turns.acquire(blocking=False) for _ in range(queries.AT_ONCE)]
    assert all(taken)
    try:
        with pytest.raises(QueryError, match="Try again"):
            query(both, ME, "SELECT 1")
    finally:
        for _ in taken:
            queries._turns.release()
    assert query(both, ME, "SELECT 1").rows == [["1"]]


def test_text_that_is_no_text_is_shown(both: Store) -> None:
    assert query(both, ME, "SELECT x'00ff', cast(x'ff41' AS TEXT), 1e999, '<b>'").rows == [
        ["x'00ff'", "\ufffdA", "inf", "<b>"]
    ]


def test_a_run_under_way_can_be_asked_about(store: Store) -> None:
    kept = store.recording(iter([started(prompt="under way"), *whole_run()[1:]]), owner=ME)
    next(kept)
    assert query(store, ME, "SELECT prompt, status FROM runs").rows == [["under way", "running"]]
    kept.close()
