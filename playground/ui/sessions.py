"""The Sessions page: a person's own runs, newest first, each to be opened again."""

from __future__ import annotations

from typing import Any

import gradio as gr

from playground.store import StoredRun
from playground.ui.house import House
from playground.ui.live import Live, encode
from playground.ui.play import PRIVATE, Play, show

MOST = 100


class SessionList(Live):
    """Runs as a list of links. Triggers `open` with the run's id."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("sessions", value, events=("open",), **props)


def build(house: House, play: Play) -> SessionList:
    """Lays out the page; opening a run shows it on the Play page."""
    with gr.Column(elem_classes=["page", "page-sessions"]):
        sessions = SessionList()

    def reopen(event: gr.EventData) -> list[Any]:
        return show(house, str(event._data["run"]))

    sessions.open(reopen, None, play.outputs, **PRIVATE)
    return sessions


def listing(house: House, owner: str) -> str:
    """The value of a `SessionList`."""
    runs = house.store.runs(owner, limit=MOST) if owner else []
    note = house.store.problem or (
        "Only this browser sees them. A link to a run can be opened by anyone who has it."
        if runs
        else "Nothing yet: every run you make is kept here."
    )
    return encode({"note": note, "runs": [_entry(house, run) for run in runs]})


def _entry(house: House, run: StoredRun) -> dict[str, str]:
    method = house.methods.get(run.method)
    facts = [run.created[:16].replace("T", " "), run.status, run.model]
    if run.totals:
        facts += [f"{run.totals.tokens} tokens", f"{run.totals.tokens_per_second:.1f} tokens/s"]
    return {
        "id": run.id,
        "method": method.title if method else run.method,
        "prompt": " ".join(run.prompt[:160].split()),
        "facts": " · ".join(facts),
    }
