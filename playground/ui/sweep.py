"""The Sweep page: many prompts, several methods and seeds; a table and boxes that grow while it runs; pause and resume.

The work happens in the request's own generator, like every run of the page: a closed tab ends it, which is a pause,
because what is done stands in the database (`playground.sweep`). Every run goes through `House.record`.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from engines.errors import DecodingError, ModelUnavailable
from playground import prompt_set, sweep, sweep_report
from playground.executors import InProcess
from playground.prompt_set import PromptSet
from playground.store import is_owner
from playground.sweep_report import Line, Report, Result, Spread
from playground.texts import Text, text
from playground.turnstile import Stopped
from playground.ui import rail
from playground.ui.constraint import gallery, read
from playground.ui.house import House
from playground.ui.live import Live, LivePlot, Server, encode, plot_value
from playground.ui.play import DRAWING, PRIVATE, Play, reopened
from visuals.versus.spread import PICTURES, Group

INTERVAL = 0.4
"""Seconds between two updates of the progress."""
TABLE_INTERVAL = 1.5
"""Seconds between two updates of table and boxes."""
MOST_CELLS = 1500
"""Runs that the page lists one by one; the export has all."""
SHOWN_PROMPT = 90
FIRST_METHODS = ("greedy", "prompt-lookup", "token-recycling")


class SweepForm(Live):
    """What to sweep. Triggers `begin` with it; `check` tells what a set of prompts holds. Two more server functions
    read a grammar that is being typed, and tell the gallery."""

    def __init__(self, check: Server, value: str = "", **props: Any) -> None:
        super().__init__("sweep-form", value, events=("begin",), server=(check, read, gallery), **props)


class SweepBoard(Live):
    """A sweep and its results, and a list of earlier ones.

    Triggers `ask`, `open`, `go`, `pause` and `remove` with a sweep's id, `show` with a run's; `export` gives a file.
    """

    def __init__(self, export: Server, value: str = "", **props: Any) -> None:
        events = ("ask", "open", "go", "pause", "remove", "show")
        super().__init__("sweep-board", value, events=events, server=(export,), **props)


def build(house: House, play: Play, page: Any, header: Any) -> SweepBoard:
    """Lays out the page; a run of the table is opened on the Play page."""
    with gr.Column(elem_classes=["page", "page-sweep"]):
        form = SweepForm(check, form_value(house))
        board = SweepBoard(_server("export", export, house), encode({}))
        with gr.Row(elem_classes=["sweep-boxes"]):
            plots = [
                LivePlot(
                    one.id,
                    plot_value(one, None, run="", step=-1, order=order, relevant=False),
                    table=_server("table", boxes_table, house, measure),
                    narrate=_server("narrate", boxes_narrate, house, measure),
                    see=house.see,
                )
                for order, (measure, one) in enumerate(PICTURES.items())
            ]
    outputs = [board, *plots]
    owner = play.owner

    def begin(owner: str, page: str, event: gr.EventData) -> Iterator[list[Any]]:
        yield from begun(house, owner, page, event._data)

    def go(owner: str, page: str, event: gr.EventData) -> Iterator[list[Any]]:
        id = str(event._data.get("sweep", ""))[:64]
        if event._data.get("again") and is_owner(owner):
            sweep.try_again(house.store, owner, id)
        yield from worked(house, id, owner, page)

    def ask(owner: str, event: gr.EventData) -> list[Any]:
        return view(house, owner, str(event._data.get("sweep") or "")[:64], ticket=str(event._data.get("ticket"))[:64])

    def remove(owner: str, event: gr.EventData) -> list[Any]:
        try:
            gone = is_owner(owner) and sweep.delete(house.store, owner, str(event._data.get("sweep", ""))[:64])
        except DecodingError as error:
            return view(house, owner, said=str(error), tone="problem")
        return view(house, owner, said=text("sweep.removed") if gone else text("sweep.at-work"))

    def pause(page: str) -> None:
        house.stop(_page(page))

    def show(event: gr.EventData) -> list[Any]:
        return reopened(house, str(event._data.get("run", ""))[:64])

    def owned(owner: str) -> list[Any]:
        return view(house, owner, ticket=secrets.token_hex(4))

    # A page that opens here asks before it knows its owner.
    play.owner.change(owned, owner, outputs, queue=False, **DRAWING)
    working = {"concurrency_limit": 16, "concurrency_id": "sweep", "trigger_mode": "multiple"}
    form.begin(begin, [owner, page], outputs, **working, **DRAWING)
    board.go(go, [owner, page], outputs, **working, **DRAWING)
    board.ask(ask, owner, outputs, trigger_mode="always_last", queue=False, **DRAWING)
    board.open(ask, owner, outputs, trigger_mode="always_last", queue=False, **DRAWING)
    board.remove(remove, owner, outputs, queue=False, **DRAWING)
    board.pause(pause, page, None, queue=False, **PRIVATE)
    board.show(show, None, [*play.rail, *play.outputs], **PRIVATE)
    header.loaded(lambda: form_value(house, keep=True), None, form, queue=False, **PRIVATE)
    return board


def form_value(house: House, *, keep: bool = False) -> str:
    """The value of a `SweepForm`: what can be chosen. `keep` what the page has chosen already."""
    return encode(
        {
            "keep": keep,
            "categories": prompt_set.categories(),
            "methods": [
                {
                    "id": method.id,
                    "title": method.title,
                    "family": rail.family_title(method.family),
                    "blocked": rail.blocked(method, house.resident.has),
                    "settings": rail.own_settings(method),
                }
                for method in house.methods.values()
            ],
            "first": [id for id in FIRST_METHODS if id in house.methods],
            "limits": {"methods": sweep.MOST_METHODS, "bytes": prompt_set.MOST_BYTES},
        }
    )


def check(what: dict[str, Any]) -> dict[str, Any]:
    """What a set of prompts holds: how many, the first ones, the categories; or the problem."""
    try:
        chosen = _prompts(what)
    except DecodingError as error:
        return {"problem": str(error)}
    first = [" ".join(one.prompt.split())[:SHOWN_PROMPT] for one in chosen.prompts[:2]]
    return {"count": len(chosen.prompts), "first": first, "categories": len(chosen.categories)}


def _prompts(what: dict[str, Any]) -> PromptSet:
    match what.get("source"):
        case "pasted":
            return prompt_set.pasted(str(what.get("text", ""))[: prompt_set.MOST_BYTES])
        case "uploaded":
            try:
                content = base64.b64decode(str(what.get("content", "")), validate=True)
            except (binascii.Error, ValueError):
                raise prompt_set.NoPrompts(str(text("sweep.no-file"))) from None
            return prompt_set.uploaded(str(what.get("name", ""))[:200], content)
        case _:
            return prompt_set.shipped(str(what.get("category", ""))[:80])


def _asked(what: dict[str, Any]) -> sweep.Plan:
    """The plan that the form asks for. Raises `DecodingError`."""
    try:
        methods = [(str(one["method"]), dict(one.get("params") or {})) for one in list(what.get("methods") or [])]
        seeds = [int(part) for part in str(what.get("seeds", "0")).replace(" ", ",").split(",") if part]
        tokens = int(str(what.get("max_new_tokens", 64)))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise sweep.BadPlan(str(text("sweep.whole-numbers"))) from None
    return sweep.plan(_prompts(what), methods, seeds, tokens, raw=bool(what.get("raw")))


def begun(house: House, owner: str, page: str, what: dict[str, Any]) -> Iterator[list[Any]]:
    """A new sweep, worked on until it is done or paused, as values of the board and the boxes."""
    try:
        if not is_owner(owner):
            raise sweep.BadPlan(str(text("sweep.no-owner")))
        plan = _asked(what)
        for _, doing in house.resident.wait():
            yield view(house, owner, said=text("play.waiting-model", doing=doing))
        model = house.resident.model
        if model is None:
            raise ModelUnavailable(house.resident.problem or str(text("models.load-first")))
        names = {"model": model.name, "precision": model.precision, "weights": model.weights}
        id = sweep.begin(house.store, owner, plan, **names)
    except DecodingError as error:
        yield view(house, owner, said=str(error), tone="problem")
        return
    yield from worked(house, id, owner, page)


def worked(house: House, id: str, owner: str, page: str) -> Iterator[list[Any]]:
    """What is left of a sweep, worked on, as values of the board and the boxes."""
    if not is_owner(owner):
        return
    key = _page(page)
    flag = house.stopper(key)
    problem = ""
    try:
        for _, doing in house.resident.wait():
            yield view(house, owner, id, said=text("play.waiting-model", doing=doing))
            if flag.is_set():
                return
        executor = InProcess(lambda setup: house.record(setup, owner=owner, stop=flag))
        due = table_due = 0.0
        current: list[Any] = []
        with closing(sweep.drive(house.store, id, owner, executor, flag)) as steps:
            for progress in steps:
                now = time.monotonic()
                if now < due:
                    continue
                due = now + INTERVAL
                if now >= table_due:
                    current = view(house, owner, id, progress=progress)
                    table_due = time.monotonic() + TABLE_INTERVAL
                    yield current
                else:
                    yield [encode({"tick": _progress(progress)} | {"sweep": {"id": id}}), *current[1:]]
    except (DecodingError, Stopped) as error:
        problem = str(error)
    finally:
        house.forget(key, flag)
    yield view(house, owner, id, said=problem, tone="problem" if problem else "calm")


def view(
    house: House,
    owner: str,
    id: str = "",
    *,
    said: str | Text = "",
    tone: str = "calm",
    progress: sweep.Progress | None = None,
    ticket: str = "",
) -> list[Any]:
    """Values of the board and the boxes: the sweep `id`, the owner's newest without one."""
    told: dict[str, Any] = {"said": said, "tone": tone, "ticket": ticket, "earlier": [], "sweep": None}
    groups: dict[str, list[Group]] = {measure: [] for measure in PICTURES}
    if is_owner(owner):
        try:
            listed = sweep.sweeps(house.store, owner)
            told["earlier"] = [_entry(one) for one in listed]
            id = id or (listed[0].id if listed else "")
            if id in {one.id for one in listed}:
                whole = sweep_report.report(house.store, id)
                told["sweep"] = _shown(whole) | {"live": progress is not None}
                told["tick"] = _progress(progress) if progress else None
                groups = {measure: _groups(whole, measure) for measure in PICTURES}
        except DecodingError as error:
            told |= {"said": str(error), "tone": "problem"}
    return [encode(told), *_plots(id, groups)]


def _plots(id: str, groups: dict[str, list[Group]]) -> list[str]:
    values = []
    for order, (measure, one) in enumerate(PICTURES.items()):
        some = any(group.values for group in groups[measure])
        figure = one.draw(groups[measure]) if some else None
        narration = one.narrate(groups[measure]) if some else ""
        values.append(plot_value(one, figure, run=id, step=-1, order=order, relevant=some, narration=narration))
    return values


def _groups(whole: Report, measure: str) -> list[Group]:
    plan = whole.sweep.plan
    groups = []
    for index, contender in enumerate(plan.contenders):
        numbers = sweep_report.values(whole.results, index, measure)
        if measure == "speed_up" and (index == 0 or len(plan.contenders) == 1):
            numbers = []
        names = tuple(f"{plan.prompts.prompts[one.prompt].id}, seed {one.seed}" for one, _ in numbers)
        groups.append(Group(contender.label, tuple(value for _, value in numbers), names))
    return groups


def boxes_table(house: House, measure: str, what: dict[str, Any]) -> list[list[Any]]:
    """The numbers behind the boxes: a header row, then the rows."""
    rows = PICTURES[measure].table(_groups(sweep_report.report(house.store, str(what.get("run", ""))), measure))
    return [list(rows[0]), *(list(row.values()) for row in rows)] if rows else [["no data"]]


def boxes_narrate(house: House, measure: str, what: dict[str, Any]) -> str:
    """The boxes in words."""
    try:
        whole = sweep_report.report(house.store, str(what.get("run", "")))
    except DecodingError as error:
        return str(error)
    return PICTURES[measure].narrate(_groups(whole, measure))


def export(house: House, what: dict[str, Any]) -> dict[str, str]:
    """A sweep as a file; whoever has its id may have it, like a run."""
    try:
        whole = sweep_report.report(house.store, str(what.get("sweep", ""))[:64])
    except DecodingError as error:
        return {"problem": str(error)}
    kind = "json" if what.get("format") == "json" else "csv"
    content = sweep_report.as_json(whole) if kind == "json" else sweep_report.as_csv(whole)
    return {"name": f"sweep-{whole.sweep.created[:10]}.{kind}", "content": content}


def _server(name: str, function: Callable[..., Any], *first: Any) -> Server:
    """`function` as the browser calls it: by `name`, with one dict."""

    def call(what: dict[str, Any]) -> Any:
        return function(*first, what)

    call.__name__ = name
    return call


def _page(page: str) -> str:
    return f"sweep:{page}"


def _progress(progress: sweep.Progress) -> dict[str, Any]:
    left = progress.seconds_left
    return {
        "done": progress.done,
        "failed": progress.failed,
        "total": progress.total,
        "doing": progress.doing,
        "tokens": progress.tokens,
        "left": round(left) if left is not None else None,
    }


def _entry(one: sweep.Sweep) -> dict[str, Any]:
    return {
        "id": one.id,
        "created": one.created,
        "prompts": one.plan.prompts.title,
        "methods": [contender.label for contender in one.plan.contenders],
        "model": one.model,
        "done": one.done,
        "failed": one.failed,
        "total": one.plan.count,
        "at_work": one.at_work,
    }


def _shown(whole: Report) -> dict[str, Any]:
    plan = whole.sweep.plan
    listed = whole.results[:MOST_CELLS]
    return _entry(whole.sweep) | {
        "precision": whole.sweep.precision,
        "tokens": plan.max_new_tokens,
        "seeds": list(plan.seeds),
        "lines": [_line(line) for line in whole.lines],
        "categories": [_line(line) for line in whole.by_category],
        "cells": _matrix(whole, listed),
        "cut": len(whole.results) - len(listed),
    }


def _matrix(whole: Report, listed: list[Result]) -> list[dict[str, Any]]:
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    plan = whole.sweep.plan
    for one in listed:
        asked = plan.prompts.prompts[one.prompt]
        row = rows.setdefault(
            (one.seed, one.prompt),
            {
                "prompt": asked.id,
                "title": " ".join(asked.prompt.split())[:SHOWN_PROMPT],
                "seed": one.seed,
                "runs": [None] * len(plan.contenders),
            },
        )
        if one.totals or one.error:
            speed = f"{one.totals.tokens_per_second:.1f}" if one.totals else ""
            row["runs"][one.contender] = {"run": one.run, "speed": speed, "error": one.error[:300]}
    return list(rows.values())


def _line(line: Line) -> dict[str, Any]:
    return {
        "label": line.label,
        "category": line.category,
        "done": line.done,
        "failed": line.failed,
        "mean": _number(line.mean, 1),
        "median": _number(line.speed.median, 1) if line.speed else "–",
        "per_pass": _number(line.per_pass, 2),
        "acceptance": f"{100 * line.acceptance:.0f} %" if line.acceptance is not None else "–",
        "speed_up": _number(line.speed_up.median, 2) if line.speed_up else "–",
        "slower": bool(line.speed_up and line.speed_up.median < 1),
        "quartiles": _quartiles(line.speed_up),
        "same": line.same,
        "compared": line.compared,
    }


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _quartiles(spread: Spread | None) -> str:
    return f"{spread.low:.2f} – {spread.high:.2f}" if spread else ""
