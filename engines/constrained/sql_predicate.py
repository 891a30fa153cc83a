"""SQL that SQLite can prepare against a shipped schema, as a condition on every beginning of it.

A small library is shipped: authors, books, loans. The language is one SELECT statement of `KEYWORDS`, functions of
`FUNCTIONS`, numbers, texts in single quotes, and names; a name is a table, a column, or one that AS has introduced
before it. One space or line break stands between words; there are no comments, quoted names or parameters. A beginning
may go on when

    1. every complete word is one of those; behind FROM and JOIN it is a table, behind `table.` one of its columns
    2. SQLite's own parser, given all but the last token, with that token as it is or grown into a word that it may
       become, meets the end of the text before any mistake: its grammar is LALR, so what it has read so far is the
       beginning of some statement
    3. behind the semicolon nothing follows

and the text may end when SQLite prepares it, so that all names stand for something that there is. What 2 cannot see is
what only a whole statement tells: that a column belongs to the tables of its FROM, that a function has its number of
arguments. Such beginnings are allowed and may lead nowhere; none that has a continuation in the language is refused.
Statements are prepared by EXPLAIN and never run, behind an authoriser that permits reading alone.
"""

from __future__ import annotations

import re
import sqlite3
from functools import lru_cache
from itertools import pairwise
from threading import Lock

TABLES: dict[str, tuple[str, ...]] = {
    "authors": ("id", "name", "country", "born"),
    "books": ("id", "title", "author_id", "year", "pages", "price"),
    "loans": ("id", "book_id", "reader", "lent", "returned"),
}
"""The shipped schema: tables and their columns."""
SCHEMA = """
CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT, country TEXT, born INTEGER);
CREATE TABLE books (
    id INTEGER PRIMARY KEY, title TEXT, author_id INTEGER REFERENCES authors, year INTEGER, pages INTEGER, price REAL
);
CREATE TABLE loans (id INTEGER PRIMARY KEY, book_id INTEGER REFERENCES books, reader TEXT, lent TEXT, returned TEXT);
"""
KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        "all and as asc between by case cross desc distinct else end except exists from group having in inner "
        "intersect is join left like limit not null offset on or order outer select then union using when where",
    )
)
FUNCTIONS = frozenset(re.findall(r"\w+", "abs avg coalesce count length lower max min round substr sum trim upper"))
COLUMNS = frozenset(column for columns in TABLES.values() for column in columns)
OPERATORS = ("<=", ">=", "<>", "!=", "==", "||", "<", ">", "=", "+", "-", "*", "/", "%", ",", "(", ")", ".", ";")
MOST_CHARACTERS = 2_000
LONGEST_NAME = 24
_TOKEN = re.compile(
    r"(?P<space>[ \n])|(?P<word>[A-Za-z_][A-Za-z_0-9]*)|(?P<number>\d+(?:\.\d*)?)|(?P<text>'[^'\0]*')"
    r"|(?P<open>'[^'\0]*\Z)|(?P<operator><=|>=|<>|!=|==|\|\||[-<>=+*/%,().;]|[!|]\Z)"
)


class Sql:
    """A statement that SQLite can prepare against the shipped schema."""

    name = "sql"
    local = False

    def begins(self, text: str) -> bool:
        """Whether this may still become one; see the three conditions."""
        tokens = scanned(text)
        if tokens is None:
            return False
        if not tokens or tokens[-1][0] == "space":
            return named(tokens, grows=False) and parses(text)
        kind, last = tokens[-1]
        head = text[: len(text) - len(last)]
        if last == ";":
            return self.accepts(text)
        if kind == "word":
            return any(parses(head + word) for word in sorted(words_here(tokens[:-1], last))) and named(
                tokens, grows=True
            )
        if not named(tokens, grows=False):
            return False
        match kind:
            case "open":
                return parses(head + "''")
            case "text":
                return parses(text)
            case "number":
                return parses(head + last.rstrip(".") + " ")
        return any(parses(head + operator) for operator in OPERATORS if operator.startswith(last))

    def accepts(self, text: str) -> bool:
        """Whether SQLite prepares it."""
        tokens = scanned(text)
        return bool(tokens) and named(tokens or [], grows=False) and complaint(text) == ""


Tokens = list[tuple[str, str]]
"""Kind and text of each."""


def scanned(text: str) -> Tokens | None:
    """The tokens; None when there is something that the language has not."""
    tokens: Tokens = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None or len(text) > MOST_CHARACTERS:
            return None
        kind = str(found.lastgroup)
        before = tokens[-1] if tokens else ("", "")
        if (kind == "space" and before[0] in ("space", "")) or before[1] == ";":
            return None
        if before[1] == found[0] == "-":
            return None  # a comment
        if before[0] == kind == "text" or (before[0] == "text" and kind == "open"):
            return None  # a doubled quote
        tokens.append((kind, found[0]))
        place = found.end()
    first = next((word for kind, word in tokens if kind != "space"), "select").lower()
    return tokens if "select".startswith(first) and (first == "select" or len(tokens) == 1) else None


def named(tokens: Tokens, *, grows: bool) -> bool:
    """Condition 1; with `grows` the last token is a word that may grow."""
    for place, (kind, word) in enumerate(tokens):
        if kind == "word":
            known = words_here(tokens[:place], word)
            if not known or not (word.lower() in known or (grows and place == len(tokens) - 1)):
                return False
    return True


def words_here(before: Tokens, begun: str) -> set[str]:
    """The words that `begun` is, or may become, behind these tokens; in small letters."""
    begun = begun.lower()
    tight = [word.lower() for _, word in before[-2:]]
    spaced = [word.lower() for kind, word in before if kind != "space"]
    last = spaced[-1] if spaced else ""
    introduced = aliases(before)
    if last == "as":
        fits = len(begun) <= LONGEST_NAME and begun not in KEYWORDS | FUNCTIONS
        return {begun} if fits else set()
    if tight[-1:] == ["."]:
        whose = spaced[-2] if len(spaced) > 1 else ""
        here = set(TABLES[whose]) if whose in TABLES else set(COLUMNS) if whose in introduced else set()
    elif last in ("from", "join"):
        here = set(TABLES)
    else:
        here = {*KEYWORDS, *FUNCTIONS, *COLUMNS, *TABLES, *introduced}
    return {word for word in here if word.startswith(begun)}


def aliases(tokens: Tokens) -> set[str]:
    """The names that AS has introduced."""
    words = [word.lower() for kind, word in tokens if kind != "space"]
    return {word for before, word in pairwise(words) if before == "as" and word.isidentifier()}


def parses(text: str) -> bool:
    """Whether the parser meets the end of this before a mistake."""
    said = complaint(text)
    return "syntax error" not in said and "unrecognized token" not in said


@lru_cache(maxsize=65536)
def complaint(text: str) -> str:
    """What SQLite says against a statement; empty when it can be prepared."""
    if not text.strip():
        return "incomplete input"
    with _lock:
        try:
            _database().execute("EXPLAIN " + text).close()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            return str(error) or type(error).__name__
    return ""


_lock = Lock()


@lru_cache(maxsize=1)
def _database() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.executescript(SCHEMA)
    database.set_authorizer(_authorised)
    return database


def _authorised(action: int, _: str | None, function: str | None, *__: str | None) -> int:
    known = str(function).lower() in FUNCTIONS | {"like"}
    reads = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ) or (action == sqlite3.SQLITE_FUNCTION and known)
    return sqlite3.SQLITE_OK if reads else sqlite3.SQLITE_DENY
