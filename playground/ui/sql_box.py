"""The SQL box of the Sessions page: one SELECT over one's own runs, examples to click, the result as a table."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engines.errors import DecodingError
from playground.query import COLUMNS, MOST_ROWS, query
from playground.texts import text
from playground.ui.asked import ticket_of, told_by
from playground.ui.house import House
from playground.ui.live import Live, encode
from playground.ui.play import PRIVATE

EXAMPLES = {
    "by-method": (
        "SELECT method, count(*) AS runs, round(avg(tokens_per_second), 1) AS speed,\n"
        "  round(avg(tokens_per_target_pass), 2) AS per_pass, round(avg(acceptance_rate), 2) AS accepted\n"
        "FROM runs WHERE status = 'finished' GROUP BY method ORDER BY per_pass DESC"
    ),
    "longest": "SELECT created, method, tokens, substr(text, 1, 60) AS text FROM runs ORDER BY tokens DESC LIMIT 10",
    "events": (
        "SELECT kind, count(*) AS events, round(sum(length(body)) / 1e3) AS kilobytes\n"
        "FROM events GROUP BY kind ORDER BY kilobytes DESC"
    ),
    "doubts": (
        "SELECT e.run, e.body ->> 'position' AS position, round(e.body ->> 'entropy', 2) AS entropy,\n"
        "  e.body ->> '$.raw[0].token.text' AS first, e.body ->> '$.raw[1].token.text' AS second\n"
        "FROM events AS e WHERE e.kind = 'candidates' ORDER BY entropy DESC LIMIT 20"
    ),
}


class SqlBox(Live):
    """A folded card with a text box. Triggers `ask` with the query."""

    def __init__(self, value: str = "", **props: Any) -> None:
        props |= {
            "examples": encode([{"title": text(f"sessions.example-{id}"), "sql": sql} for id, sql in EXAMPLES.items()]),
            "columns": encode(COLUMNS),
            "most": MOST_ROWS,
        }
        super().__init__("sql", value, events=("ask",), **props)


def build(house: House, owner: gr.BrowserState) -> SqlBox:
    """Adds the card to the page under way."""
    box = SqlBox()

    def ask(owner: str, event: gr.EventData) -> str:
        told = told_by(event)
        ticket = ticket_of(told)
        return encode(answered(house, owner, str(told.get("sql", ""))) | {"ticket": ticket})

    box.ask(ask, owner, box, concurrency_limit=4, **PRIVATE)
    return box


def answered(house: House, owner: str, sql: str) -> dict[str, Any]:
    """The value of a `SqlBox`."""
    try:
        answer = query(house.store, owner, sql)
    except DecodingError as error:
        return {"problem": str(error)}
    return {"columns": answer.columns, "rows": answer.rows, "full": answer.full}
