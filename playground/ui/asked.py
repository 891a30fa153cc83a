"""What a browser sends with an event, made safe to look into: it may have been written by anybody."""

from __future__ import annotations

from typing import Any

import gradio as gr


def told_by(event: gr.EventData) -> dict[str, Any]:
    """The object that came with an event; anything else is an empty one."""
    return event._data if isinstance(event._data, dict) else {}


def ticket_of(told: dict[str, Any]) -> str:
    """What the browser numbered its question with, to know the answer by."""
    return str(told.get("ticket", "")).encode(errors="replace").decode()[:64]


def ids_of(told: dict[str, Any], most: int) -> list[str]:
    """The runs that it is about, `most` at most."""
    ids = told.get("ids")
    return [str(id)[:64] for id in ids[:most]] if isinstance(ids, list) else []
