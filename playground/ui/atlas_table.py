"""The acceptance atlas as a table: a row per method and kind of prompt, a column per distance, shaded by rate.

A table rather than a drawing: every cell is a number to be read, and a screen reader reads it as one.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from engines.errors import DecodingError
from playground.atlas import Row, atlas, catch_up
from playground.store import is_owner
from playground.ui.asked import ticket_of, told_by
from playground.ui.house import House
from playground.ui.live import Live, encode
from playground.ui.play import PRIVATE
from visuals.palette import sure_level

MOST_COLUMNS = 12


class AtlasTable(Live):
    """A folded card. Triggers `ask` when it is opened."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("atlas", value, events=("ask",), **props)


def build(house: House, owner: gr.BrowserState) -> AtlasTable:
    """Adds the card to the page under way."""
    table = AtlasTable()

    def ask(owner: str, event: gr.EventData) -> str:
        told = told_by(event)
        return encode(shown(house, owner) | {"ticket": ticket_of(told)})

    table.ask(ask, owner, table, trigger_mode="always_last", concurrency_limit=2, **PRIVATE)
    return table


def shown(house: House, owner: str) -> dict[str, Any]:
    """The value of an `AtlasTable`."""
    if not is_owner(owner):
        return {"rows": [], "columns": 0, "left": 0}
    try:
        left = catch_up(house.store, owner)
        rows = atlas(house.store, owner, {prompt.prompt: prompt.category for prompt in house.prompts.values()})
    except DecodingError as error:
        return {"rows": [], "columns": 0, "left": 0, "problem": str(error)}
    columns = min(max((len(row.rates) for row in rows), default=0), MOST_COLUMNS)
    return {"rows": [_line(house, row, columns) for row in rows], "columns": columns, "left": left}


def _line(house: House, row: Row, columns: int) -> dict[str, Any]:
    known = house.methods.get(row.method)
    return {
        "method": known.title if known else row.method,
        "category": row.category,
        "runs": row.runs,
        "total": _cell(*row.total),
        "cells": [_cell(*rate) for rate in row.rates[:columns]],
    }


def _cell(accepted: int, tested: int) -> dict[str, Any] | None:
    if not tested:
        return None
    rate = accepted / tested
    return {"rate": rate, "accepted": accepted, "tested": tested, "level": sure_level(rate)}
