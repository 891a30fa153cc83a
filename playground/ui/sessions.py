"""The Sessions page: a person's own runs, newest first, each to be opened again."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engines.events import Started
from playground.store import StoredRun
from playground.ui.house import House
from playground.ui.live import Live, encode
from playground.ui.play import PRIVATE, Play, reopened
from playground.ui.shelf import RECORDED_RUN

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
        return reopened(house, str(event._data["run"]))

    sessions.open(reopen, None, [*play.rail, *play.outputs], **PRIVATE)
    return sessions


def listing(house: House, owner: str) -> str:
    """The value of a `SessionList`."""
    runs = house.store.runs(owner, limit=MOST) if owner else []
    note = house.store.problem or (
        "Only this browser sees them. A link to a run can be opened by anyone who has it."
        if runs
        else "Nothing yet: every run you make is kept here."
    )
    shipped = [_recorded(house, name) for name in house.shelf.recordings()]
    return encode({"note": note, "runs": [_entry(house, run) for run in runs], "recorded": shipped})


def _entry(house: House, run: StoredRun) -> dict[str, str]:
    facts = [run.created[:16].replace("T", " "), run.status, run.model]
    if run.totals:
        facts += [f"{run.totals.tokens} tokens", f"{run.totals.tokens_per_second:.1f} tokens/s"]
    return _line(house, run.id, run.method, run.prompt, facts)


def _recorded(house: House, name: str) -> dict[str, str]:
    id = RECORDED_RUN + name
    header = house.shelf.events(id)[0]
    assert isinstance(header, Started)
    return _line(house, id, header.method, header.prompt, ["shipped with the program", header.model, header.machine])


def _line(house: House, id: str, method: str, prompt: str, facts: list[str]) -> dict[str, str]:
    known = house.methods.get(method)
    title = known.title if known else method
    return {"id": id, "method": title, "prompt": " ".join(prompt[:160].split()), "facts": " · ".join(facts)}
