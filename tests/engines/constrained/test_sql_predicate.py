"""SQL against a real SQLite: no beginning of a good statement is refused, and none ends that it would not prepare."""

from __future__ import annotations

import random
import sqlite3

import pytest

from engines.constrained.predicates import Checked, checker_for
from engines.constrained.sql_predicate import KEYWORDS, SCHEMA, TABLES, Sql, complaint
from engines.errors import DecodingError
from engines.events import Trials
from engines.models.causal import CausalModel
from engines.runner import run
from tests.engines.laws import finished, only

GOOD = [
    "SELECT * FROM books;",
    "SELECT name, born FROM authors WHERE country = 'France' AND born >= 1900 ORDER BY born DESC LIMIT 10",
    "select count(*) from loans where returned is null;",
    "SELECT books.title, authors.name FROM books JOIN authors ON books.author_id = authors.id",
    "SELECT country, AVG(price) AS mean FROM books JOIN authors ON author_id = authors.id GROUP BY country"
    " HAVING mean > 12.5 ORDER BY mean",
    "SELECT DISTINCT title FROM books WHERE title LIKE '%sea%' OR (year BETWEEN 1990 AND 2000)",
    "SELECT title FROM books WHERE id IN (SELECT book_id FROM loans WHERE reader <> 'it;s -- fine')",
    "SELECT CASE WHEN pages > 300 THEN 'long' ELSE 'short' END FROM books UNION SELECT name FROM authors",
    "SELECT 1 + 2 * 3 - -4, 'a' || 'b', 5 != 6, 7 % 8",
    "SELECT upper(name)\nFROM authors\nLEFT JOIN books ON author_id = authors.id",
]


def real() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.executescript(SCHEMA)
    return database


@pytest.mark.parametrize("text", GOOD)
def test_every_beginning_of_a_good_statement_may_go_on_and_the_whole_may_end(text: str) -> None:
    judge = Sql()
    real().execute(text)
    assert [text[:end] for end in range(len(text) + 1) if not judge.begins(text[:end])] == []
    assert judge.accepts(text)


def test_the_tables_are_those_of_the_schema() -> None:
    database = real()
    for table, columns in TABLES.items():
        assert tuple(row[1] for row in database.execute(f"PRAGMA table_info({table})")) == columns


@pytest.mark.parametrize(
    "text",
    [
        "Here",
        "DROP",
        "SELECT nam ",
        "SELECT FROM",
        "SELECT nome",
        "SELECT name name name",
        "SELECT name FROM customers",
        "SELECT name FROM id",
        "SELECT name FROM b ",
        "SELECT books.name",
        "SELECT authors.title",
        "SELECT name,)",
        "SELECT (name FROM",
        "SELECT 12name",
        "SELECT name FROM authors;S",
        "SELECT name FROM books;",
        "SELECT name  ",
        "SELECT name -- ",
        'SELECT "name"',
        "SELECT name FROM authors WHERE WHERE",
        "SELECT load_extension(",
        "SELECT name AS from",
        "WITH a AS (SELECT",
        "SELECT ?",
        " SELECT",
    ],
)
def test_what_cannot_become_a_statement_of_the_language_is_refused(text: str) -> None:
    assert not Sql().begins(text)


@pytest.mark.parametrize(
    "text", ["", "SELECT", "SELECT name", "SELECT title FROM authors", "SELECT 'a", "SELECT sum()"]
)
def test_only_what_sqlite_prepares_may_end_though_it_may_go_on(text: str) -> None:
    assert Sql().begins(text)
    assert not Sql().accepts(text)
    with pytest.raises(sqlite3.Error):
        real().execute(text or "SELECT")


def test_names_that_as_introduces_may_be_used_behind_it() -> None:
    judge = Sql()
    assert judge.begins("SELECT born AS year_of_birth FROM authors ORDER BY year_of_birth")
    assert not judge.begins("SELECT born AS y FROM authors ORDER BY z")
    assert judge.accepts("SELECT name FROM authors AS a WHERE a.born > 1")
    assert not judge.begins("SELECT name FROM authors AS a WHERE a.zip")


def test_a_random_walk_over_allowed_words_never_ends_where_sqlite_objects() -> None:
    """And what the parser calls a mistake is never allowed: a token is appended only if SQLite has not seen one."""
    judge, database = Sql(), real()
    words = [*sorted(KEYWORDS), *TABLES, "id", "name", "title", "count", "*", ",", "(", ")", "=", "'x'", "7", ";", "."]
    ended = 0
    for seed in range(40):
        rng = random.Random(seed)
        begun = rng.choice(GOOD).split(" ")
        text = " ".join(begun[: rng.randint(1, len(begun))]).rstrip(";")
        for _ in range(6):
            options = [one for one in words if judge.begins(text + " " + one) and judge.begins(text + " " + one + " ")]
            options += [";"] * judge.begins(text + ";")
            if not options:
                break
            text += (" " if (word := rng.choice(options)) != ";" else "") + word
            said = complaint(text)
            assert "syntax error" not in said, text
            if judge.accepts(text):
                ended += 1
                database.execute(text)
            if word == ";":
                assert judge.accepts(text)
                break
    assert ended > 5


def test_nothing_is_ever_run_and_nothing_but_reading_is_prepared() -> None:
    assert complaint("SELECT load_extension('x')")
    assert not Sql().accepts("DELETE FROM books")
    assert "not authorized" in complaint("DELETE FROM books")
    for text in (
        "SELECT " + "(" * 1900,
        "SELECT '\0",
        "SELECT \ud800",
        "SELECT é",
        "SELECT " + "1 + " * 450,
        "x" * 9999,
    ):
        assert Sql().begins(text) in (True, False)


def test_a_run_under_awrs_writes_sql_only(smollm: CausalModel) -> None:
    params = {"predicate": "sql", "constraint": "none"}
    events = list(run(smollm, "awrs", "The titles of all books, in SQL:", params=params, max_new_tokens=8, seed=1))
    # Bytes that a character might begin with are waited for.
    text = finished(events).text.rstrip("\ufffd")
    assert text
    assert Sql().begins(text)
    assert only(events, Trials)


def test_it_has_no_mask_and_says_so(smollm: CausalModel) -> None:
    checker = checker_for("sql", "", "none", "", smollm)
    assert isinstance(checker, Checked)
    with pytest.raises(DecodingError, match="one token at a time"):
        checker.mask()
