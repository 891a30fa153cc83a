"""The Sessions page: a person's own runs, to be found, named, starred, opened, held against each other, and deleted.

What the browser shows is a page of hits for the search that it sent; the server keeps nothing of it. Everything here
asks for the owner, and the store's own WHERE sees to it that other people's runs stay where they are.
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from engines.errors import DecodingError
from engines.events import Started
from playground import exchange
from playground.circuits import CIRCUIT_METHODS
from playground.search import MARKS, PAGE, Hit, asked, facets, search
from playground.store import StoredRun, Unwritable, is_owner
from playground.texts import Text, text
from playground.ui import atlas_table, run_panel, sql_box
from playground.ui.asked import ids_of, ticket_of, told_by
from playground.ui.house import House
from playground.ui.live import Live, encode, native
from playground.ui.play import PRIVATE, Play, reopened
from playground.ui.rail import Message, message
from playground.ui.shelf import RECORDED_RUN

MOST_SHOWN = 1000
"""Runs that are read again after a change; a longer list is cut, and continued on request."""
EXPORTS_KEPT = 600
"""Seconds that an exported file stays for its download."""
SHOWN_PROMPT, SHOWN_OUTPUT = 200, 160


class SessionList(Live):
    """Search, filters, the runs, and what can be done with those selected.

    `recorded` are the runs that come with the program. Triggers `ask` with a search, `alter` with what to do to
    which runs, `export` with ids or none for all, `show` with what to show of which runs, and `open` with a run.
    """

    def __init__(self, recorded: list[dict[str, str]], value: str = "", **props: Any) -> None:
        props |= {"marks": encode(MARKS), "recorded": encode(recorded)}
        super().__init__("sessions", value, events=("open", "ask", "alter", "export", "show"), **props)


def build(house: House, play: Play, page: Any) -> SessionList:
    """Lays out the page; opening a run shows it on the Play page."""
    with gr.Column(elem_classes=["page", "page-sessions"]):
        panel = run_panel.RunPanel()
        sessions = SessionList([_recorded(house, name) for name in house.shelf.recordings()])
        with gr.Row(elem_classes=["card", "exchange"]):
            bring = gr.UploadButton(
                native("sessions.import"), file_types=[".jsonl", ".gz"], elem_id="import", min_width=0
            )
            ExchangeNote("")
            told = Message()
        atlas_table.build(house, play.owner)
        sql_box.build(house, play.owner)
        file = gr.File(visible=False)

    def reopen(event: gr.EventData) -> list[Any]:
        return reopened(house, str(event._data["run"]))

    def ask(owner: str, event: gr.EventData) -> str:
        return found(house, owner, told_by(event))

    def alter(owner: str, event: gr.EventData) -> str:
        try:
            said: str | Text = altered(house, owner, told_by(event))
        except DecodingError as error:
            said = str(error)
        return found(house, owner, told_by(event) | {"after": ""}, said)

    def export(owner: str, event: gr.EventData) -> tuple[Any, str]:
        try:
            path, said = exported(
                house, owner, ids_of(told_by(event), MOST_SHOWN) if told_by(event).get("ids") else None
            )
        except DecodingError as error:
            return None, message(str(error), tone="problem")
        return str(path), message(said)

    def take(upload: str | None, owner: str) -> tuple[str, str]:
        try:
            said: str | Text = imported(house, owner, upload)
            tone = "calm"
        except DecodingError as error:
            said, tone = str(error), "problem"
        return message(said, tone=tone), found(house, owner, {"ticket": secrets.token_hex(4)})

    def owned(owner: str) -> str:
        return found(house, owner, {"ticket": secrets.token_hex(4)})

    # A page that opens here asks before it knows its owner.
    play.owner.change(owned, play.owner, sessions, queue=False, **PRIVATE)
    sessions.open(reopen, None, [*play.rail, *play.outputs], **PRIVATE)
    sessions.ask(ask, play.owner, sessions, trigger_mode="always_last", queue=False, **PRIVATE)
    sessions.alter(alter, play.owner, sessions, trigger_mode="multiple", queue=False, **PRIVATE)
    sessions.export(export, play.owner, [file, told], concurrency_limit=1, **PRIVATE).success(
        None, file, None, js="(file) => file && window.Playground.fetchFile(file)", **PRIVATE
    )
    bring.upload(take, [bring, play.owner], [told, sessions], concurrency_limit=1, **PRIVATE)
    run_panel.connect(house, panel, sessions, play, page)
    return sessions


class ExchangeNote(Live):
    """What can be imported, and what becomes of it; the button to export everything."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("exchange-note", value, **props)


def found(house: House, owner: str, told: dict[str, Any], said: str | Text = "") -> str:
    """The value of a `SessionList` for a search as the browser sends it: `search`, `after`, `shown`, `ticket`."""
    ticket, after = ticket_of(told), str(told.get("after") or "")[:80]
    echo = {"ticket": ticket, "append": bool(after), "problem": house.store.problem, "said": said}
    if not is_owner(owner):
        return encode(echo | {"runs": [], "total": 0, "more": "", "facets": {}})
    shown = told.get("shown")
    limit = min(max(shown, PAGE), MOST_SHOWN) if isinstance(shown, int) and not after else PAGE
    try:
        wanted = asked(told.get("search") or {})
        page = search(house.store, owner, wanted, limit=limit, after=after)
        values = facets(house.store, owner)
        parents = _parents(house, owner, [hit.run.id for hit in page.hits])
    except DecodingError as error:
        return encode(echo | {"runs": [], "total": 0, "more": "", "facets": {}, "problem": str(error)})
    categories = {prompt.prompt: prompt.category for prompt in house.prompts.values()}
    runs = [_entry(house, hit, categories, parents) for hit in page.hits]
    return encode(
        echo
        | {
            "runs": runs,
            "total": page.total,
            "more": page.more,
            "facets": values | {"method": {id: [_title(house, id), n] for id, n in values["method"].items()}},
            "own": sum(values["status"].values()),
        }
    )


def altered(house: House, owner: str, told: dict[str, Any]) -> str | Text:
    """Does what the browser asks for, and says what was done. Raises `DecodingError` when it cannot be done."""
    store, ids = house.store, ids_of(told, MOST_SHOWN)
    if not is_owner(owner):
        return text("sessions.gone")
    match told.get("what"):
        case "rename" if len(ids) == 1:
            return "" if store.rename(owner, ids[0], str(told.get("name") or "")) else text("sessions.gone")
        case "star":
            return "" if store.star(owner, ids, bool(told.get("starred"))) else text("sessions.gone")
        case "delete":
            gone = store.delete(owner, ids)
            for id in gone:
                house.shelf.forget(id)
            if len(gone) < len(ids):
                return text("sessions.deleted-some", n=len(gone), left=len(ids) - len(gone))
            return text("sessions.deleted", n=len(gone))
    return ""


def exported(house: House, owner: str, ids: list[str] | None) -> tuple[Path, str | Text]:
    """A file with an owner's runs, those in `ids` or all, and a sentence about it. Raises `DecodingError`."""
    if not is_owner(owner):
        raise Unwritable(str(text("sessions.nothing-to-export")))
    folder = Path(get_upload_folder()) / "exports"
    place = folder / secrets.token_urlsafe(24)
    path = place / f"decoding-runs-{time.strftime('%Y-%m-%d')}.jsonl.gz"
    try:
        _sweep(folder)
        place.mkdir(parents=True)
        done = exchange.write_file(house.store, owner, path, ids)
    except OSError as error:
        raise Unwritable(f"The file could not be written: {error.strerror}.") from None
    if not done.runs:
        shutil.rmtree(place)
        raise Unwritable(str(text("sessions.nothing-to-export")))
    if done.left_out:
        return path, text("sessions.exported-some", n=done.runs, left=done.left_out)
    return path, text("sessions.exported", n=done.runs)


def imported(house: House, owner: str, upload: str | None) -> Text:
    """Keeps the runs of an uploaded file, and says how many. Raises `DecodingError`."""
    if not is_owner(owner) or not upload:
        return text("sessions.imported", n=0)
    path = Path(upload)
    try:
        return text("sessions.imported", n=len(exchange.import_runs(house.store, owner, path)))
    finally:
        path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    for old in folder.glob("*"):
        if time.time() - old.stat().st_mtime > EXPORTS_KEPT:
            shutil.rmtree(old, ignore_errors=True)


def _parents(house: House, owner: str, ids: list[str]) -> set[str]:
    """Those of the runs that others branch off."""
    rows = house.store.read(
        "SELECT DISTINCT parent_run FROM runs WHERE owner = ? AND parent_run IN (SELECT value FROM json_each(?))",
        [owner, encode(ids)],
    )
    return {row["parent_run"] for row in rows}


def _entry(house: House, hit: Hit, categories: dict[str, str], parents: set[str]) -> dict[str, Any]:
    run = hit.run
    return {
        "id": run.id,
        "created": run.created,
        "status": run.status,
        "error": (run.error or "")[:300],
        "method": _title(house, run.method),
        "circuit": run.method in CIRCUIT_METHODS,
        "model": run.model,
        "name": run.name or "",
        "starred": run.starred,
        "imported": bool(run.imported),
        "branches": bool(run.parent_run) or run.id in parents,
        "category": categories.get(run.prompt, ""),
        "prompt": " ".join(run.prompt[:SHOWN_PROMPT].split()),
        "output": " ".join((run.text or "")[:SHOWN_OUTPUT].split()),
        "found": hit.excerpt,
        "figures": _figures(run),
    }


def _figures(run: StoredRun) -> list[Text]:
    totals = run.totals
    if totals is None:
        return []
    said = [
        text("sessions.tokens", n=totals.tokens),
        text("sessions.per-second", n=f"{totals.tokens_per_second:.1f}"),
    ]
    if totals.acceptance_rate is not None:
        said.append(text("sessions.per-pass", n=f"{totals.tokens_per_target_pass:.2f}"))
        said.append(text("sessions.accepted", n=f"{100 * totals.acceptance_rate:.0f}"))
    return said


def _recorded(house: House, name: str) -> dict[str, str]:
    id = RECORDED_RUN + name
    header = house.shelf.events(id)[0]
    assert isinstance(header, Started)
    prompt = " ".join(header.prompt[:SHOWN_PROMPT].split())
    return {"id": id, "method": _title(house, header.method), "prompt": prompt, "model": header.model}


def _title(house: House, method: str) -> str:
    known = house.methods.get(method)
    return known.title if known else method
