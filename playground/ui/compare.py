"""The Compare page: two to four methods on one prompt and seed, side by side, in alternating rounds.

Their texts grow while they run; then come the results, the outputs token by token, the pictures, and a replay of all
lanes together on the real clock. A comparison has an address of its own, `?view=compare&comparison=<id>`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from threading import Event
from typing import Any

import gradio as gr

from engines.errors import BadParameter, DecodingError
from engines.method import Method, Need
from playground.comparison import MOST, MOST_ROUNDS, Comparison, Contestant, Runs, Start, race
from playground.kept_comparisons import keep, kept, latest
from playground.recording import Recording, new_run_id
from playground.setup import Setup
from playground.texts import Text, text
from playground.ui import rail
from playground.ui.compare_view import (
    FASTER,
    Contest,
    Contests,
    Lanes,
    Options,
    nothing,
    options,
    pictures,
    reread,
    result,
)
from playground.ui.decoding import arguments, waiting
from playground.ui.drawing import INTERVAL
from playground.ui.house import House, owner_or_nobody
from playground.ui.live import Live, LivePlot, encode, native
from playground.ui.play import DRAWING, PRIVATE, Play, reopened
from playground.ui.rail import message, selected
from visuals.versus import VERSUS
from visuals.versus.lanes import AXES

FIRST = ("greedy", "prompt-lookup", "token-recycling", "")
"""What a new page compares; an empty place is not taken."""
FIRST_PROMPT = "sum-copy"
NOBODY = "nobody"
"""The choice of a place that is not taken."""
PICTURES_EVERY = 0.5
"""Seconds between two drawings of a race under way."""

SETTINGS: tuple[dict[str, Any], ...] = (
    {"name": "max_new_tokens", "kind": "int", "low": 1, "high": 512, "default": 64},
    {
        "name": "rounds",
        "kind": "int",
        "low": 1,
        "high": MOST_ROUNDS,
        "default": 3,
        "label": text("compare.rounds"),
        "help": text("compare.rounds-why"),
    },
    {"name": "seed", "kind": "int", "low": 0, "default": 0, "more": True, "summary": True},
    {"name": "raw", "kind": "bool", "default": False, "more": True},
)


class Race(Live):
    """The lanes: live, then with results and replay. Triggers `open` (comparison) and `play` (run)."""

    def __init__(self, value: Any = None, **props: Any) -> None:
        super().__init__("race", value or nothing(), events=("open", "play"), **props)


class Choice(Live):
    """What progress is measured against (`clock`), or how much cheaper a draft is thought (`cheaper`); its value.

    Triggers `choose` with the comparison that is shown.
    """

    def __init__(self, value: str, *, choice: str, **props: Any) -> None:
        props |= {"choice": choice, "clocks": encode(list(AXES)), "faster": encode(list(FASTER))}
        super().__init__("versus-choice", value, events=("choose",), **props)


class Earlier(Live):
    """Comparisons made before. Triggers `open` with one."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("earlier-comparisons", value, events=("open",), **props)


def build(house: House, playing: Play, page: gr.Textbox, header: Live) -> None:
    """Lays out the page. `page` carries the id by which a browser page is known; `header` says that a model came."""
    contests = Contests()

    def table(what: dict[str, Any]) -> list[list[Any]]:
        rows = _pictured(house, contests, what, "table")
        return [list(rows[0]), *(list(row.values()) for row in rows)] if rows else [["no data"]]

    def narrate(what: dict[str, Any]) -> str:
        return str(_pictured(house, contests, what, "narrate") or "")

    pickers, controls = [], []
    with gr.Row(elem_classes=["page", "page-compare"], equal_height=False):
        with gr.Column(elem_classes=["rail"], min_width=0):
            with gr.Column(elem_classes=["rail-scroll"], min_width=0):
                with gr.Column(elem_classes=["card", "contestants"], min_width=0):
                    for place, id in enumerate(FIRST):
                        with gr.Column(elem_classes=["contestant"], min_width=0, elem_id=f"contestant-{place}"):
                            pickers.append(rail.Picker(picker(house.methods, place, id)))
                            controls.append(rail.Controls(_controls(house, place, id)))
                with gr.Column(elem_classes=["card", "prompt-card"], min_width=0):
                    prompt = gr.Textbox(
                        _first_prompt(house),
                        label=native("play.prompt"),
                        lines=2,
                        max_lines=6,
                        elem_id="compare-prompt",
                    )
                    with gr.Row(elem_classes=["prompt-tools"]):
                        examples = rail.Picker(rail.prompt_picker(house.prompts), elem_id="compare-examples")
                with gr.Column(elem_classes=["card"], min_width=0):
                    settings = rail.Controls(rail.run_controls(SETTINGS, prefix="compare"))
            with gr.Column(elem_classes=["actions"], min_width=0):
                told = rail.Message()
                with gr.Row():
                    run = gr.Button(native("play.run"), variant="primary", elem_id="compare-run", min_width=0)
                    stop = gr.Button(native("play.stop"), elem_id="compare-stop", min_width=0)
        with gr.Column(elem_classes=["stage"], min_width=0):
            racing = Race()
            with gr.Column(elem_classes=["versus"], min_width=0):
                plots = []
                for id, value in zip(VERSUS, pictures(None), strict=True):
                    with gr.Column(elem_classes=["versus-panel", id], min_width=0):
                        plots.append(LivePlot(id, value, table=table, narrate=narrate, see=house.see))
                        if id == "versus-progress":
                            clock = Choice("target", choice="clock")
                        elif id == "versus-theory":
                            cheaper = Choice("1", choice="cheaper")
            earlier = Earlier()
    outputs = [told, racing, *plots]
    choices = [clock, cheaper]
    asked = [*pickers, *controls, prompt, settings]

    def start(*values: str) -> Iterator[list[Any]]:
        *chosen, clock, cheaper, owner, page = values
        try:
            comparison = requested(chosen)
        except DecodingError as error:
            yield say(str(error), tone="problem")
            return
        yield from compete(house, contests, comparison, options(clock, cheaper), owner, page)

    def open_comparison(clock: str, cheaper: str, event: gr.EventData) -> list[Any]:
        return opened(house, contests, str(event._data.get("comparison", "")), options(clock, cheaper))

    def redraw(clock: str, cheaper: str, event: gr.EventData) -> list[Any]:
        try:
            contest = _found(house, contests, str(event._data.get("comparison", "")))
        except DecodingError:
            contest = None
        return pictures(contest, options(clock, cheaper)) if contest else [gr.skip()] * len(plots)

    def list_earlier(owner: str) -> str:
        return encode(latest(house.store, owner))

    def play_run(event: gr.EventData) -> list[Any]:
        return reopened(house, str(event._data["run"]))

    racing_options: dict[str, Any] = DRAWING | {"concurrency_limit": None, "concurrency_id": "decode"}
    ran = gr.on([run.click, prompt.submit], start, [*asked, *choices, playing.owner, page], outputs, **racing_options)
    ran.then(list_earlier, playing.owner, earlier, queue=False, **PRIVATE)
    playing.owner.change(list_earlier, playing.owner, earlier, queue=False, **PRIVATE)
    stop.click(house.stop, page, None, queue=False, **PRIVATE)
    for opener in (racing, earlier):
        opener.open(open_comparison, choices, [*outputs, *asked], queue=False, **PRIVATE)
    racing.play(play_run, None, [*playing.rail, *playing.outputs], **PRIVATE)
    for choice in choices:
        choice.choose(redraw, choices, plots, trigger_mode="always_last", concurrency_limit=4, **DRAWING)

    for place, (one, its) in enumerate(zip(pickers, controls, strict=True)):

        def pick(value: str, place: int = place) -> str:
            return _controls(house, place, selected(value))

        one.pick(pick, one, its, queue=False, **PRIVATE)

    def pick_prompt(event: gr.EventData) -> str:
        return house.prompts[event._data["id"]].prompt

    examples.pick(pick_prompt, None, prompt, queue=False, **PRIVATE)

    def model_changed(*values: str) -> list[str]:
        has = house.resident.has
        return [picker(house.methods, place, selected(one), has, keep=True) for place, one in enumerate(values)]

    header.loaded(model_changed, pickers, pickers, queue=False, **PRIVATE)


def requested(values: Sequence[str]) -> Comparison:
    """The comparison that pickers, controls, prompt and settings ask for. Raises `DecodingError`."""
    pickers, controls, (prompt, settings) = values[:MOST], values[MOST : 2 * MOST], values[2 * MOST :]
    shared = json.loads(settings)["values"]
    said = str(shared.pop("rounds", 3)).strip()
    if not said.isdecimal() or len(said) > 3:
        raise BadParameter(f"Rounds must be a whole number, not {said[:40]!r}.")
    contestants = []
    for picked, chosen in zip(pickers, controls, strict=True):
        id = selected(picked)
        if id not in ("", NOBODY):
            setup = Setup(method=id, prompt=prompt, **arguments(json.loads(chosen)["values"] | shared))
            contestants.append(Contestant.of(setup))
    return Comparison(new_run_id(), tuple(contestants), int(said))


def compete(
    house: House, contests: Contests, comparison: Comparison, chosen: Options, owner: str, page: str
) -> Iterator[list[Any]]:
    """A comparison from request to result, as updates of the page's outputs."""
    owner = owner_or_nobody(owner)
    flag = house.stopper(page, owner)
    try:
        with house.places.take(owner) as place:
            for told in waiting(house, place, flag):
                yield [told, *say("")[1:]]
            if flag.is_set():
                yield say("")
                return
            model = house.resident.model
            contest = Contest(Runs(comparison), model.cost_curve() if model else None)

            def start(setup: Setup, name: str) -> Recording:
                return house.record(setup, owner=owner, name=name)

            yield from _raced(house, contest, chosen, start, flag)
            contest.settle()
            if contest.runs.whole_rounds:
                contest.kept = keep(house.store, owner, comparison, contest.runs.ids, contest.curve)
            contests.put(contest)
            yield [message(_ended(contest)), result(contest, house.methods), *pictures(contest, chosen)]
    except DecodingError as error:
        yield say(str(error), tone="problem")
    finally:
        house.forget(page, flag)


def _raced(house: House, contest: Contest, chosen: Options, start: Start, flag: Event) -> Iterator[list[Any]]:
    lanes, shown = Lanes(len(contest.comparison.contestants)), pictures(None)
    due = drawn = 0.0
    whole = contest.comparison.rounds * len(contest.comparison.contestants)
    with closing(race(contest.comparison, start)) as racing:
        for entry in racing:
            contest.runs.take(entry)
            now = time.perf_counter()
            if now >= due or entry.whole:
                if now - drawn > PICTURES_EVERY and contest.runs.whole_rounds == 0:
                    shown = pictures(contest.settle(), chosen)
                    drawn = now
                done = sum(one.whole for entries in contest.runs.entries for one in entries)
                said = text("compare.round-of", round=entry.round + 1, rounds=contest.comparison.rounds)
                live = lanes.live(contest, entry, house.methods)
                yield [message(said, fraction=done / whole), live, *shown]
                due = time.perf_counter() + INTERVAL
            if flag.is_set():
                return


def _ended(contest: Contest) -> str | Text:
    whole = contest.runs.whole_rounds
    if whole == contest.comparison.rounds:
        return "" if contest.kept else text("compare.not-kept")
    return text("compare.stopped", whole=whole) if whole else text("compare.stopped-early")


def opened(house: House, contests: Contests, id: str, chosen: Options) -> list[Any]:
    """A comparison brought back by its id: outputs, then what the rail was set to."""
    nothing_asked = [gr.skip()] * (2 * MOST + 2)
    try:
        contest = _found(house, contests, id)
        if contest is None:
            return [*say(""), *nothing_asked]
    except DecodingError as error:
        return [*say(str(error), tone="problem"), *nothing_asked]
    comparison = contest.comparison
    setups = [one.setup for one in comparison.contestants]
    methods = [setup.method for setup in setups] + [NOBODY] * (MOST - len(setups))
    has, first = house.resident.has, setups[0]
    shared = {"max_new_tokens": first.max_new_tokens, "seed": first.seed, "raw": first.raw, "rounds": comparison.rounds}
    return [
        message(text("compare.missing", n=contest.missing) if contest.missing else ""),
        result(contest, house.methods),
        *pictures(contest, chosen),
        *(picker(house.methods, place, id, has) for place, id in enumerate(methods)),
        *(
            _controls(house, place, id, setups[place].params if place < len(setups) else {})
            for place, id in enumerate(methods)
        ),
        first.prompt,
        rail.run_controls(SETTINGS, shared, prefix="compare"),
    ]


def _found(house: House, contests: Contests, id: str) -> Contest | None:
    """A comparison at hand or in the database; None for no id. Raises `UnknownComparison`."""
    if not id:
        return None
    contest = contests.get(id)
    if contest is None:
        contest = reread(kept(house.store, id[:64]), house.shelf)
        contests.put(contest)
    return contest


def _pictured(house: House, contests: Contests, what: Mapping[str, Any], part: str) -> Any:
    """Table or narration of a picture; None when there is no such comparison."""
    picture = VERSUS.get(str(what.get("picture")))
    try:
        contest = _found(house, contests, str(what.get("run", "")).split(" ")[0])
    except DecodingError:
        return None
    if contest is None or picture is None:
        return None
    options = {"curve": contest.curve} if picture.id == "versus-theory" else {}
    return getattr(picture, part)(contest.lanes, **options)


def picker(
    methods: Mapping[str, Method], place: int, chosen: str, has: Need | None = None, *, keep: bool = False
) -> str:
    """The value of the picker of one place; from the third on a place can stay empty."""
    value = json.loads(rail.method_picker(methods, chosen or NOBODY, has, keep=keep))
    if place >= 2:
        nobody = {"id": NOBODY, "title": "–", "note": text("compare.nobody"), "blocked": ""}
        value["groups"].insert(0, {"title": text("compare.empty-place"), "options": [nobody]})
    label = text(("compare.baseline", "compare.contestant", "compare.one-more", "compare.one-more")[place])
    return encode(value | {"kind": "contestant", "label": label})


def say(said: str | Text, *, tone: str = "calm", fraction: float | None = None) -> list[Any]:
    """An update that changes nothing but the message."""
    return [message(said, tone=tone, fraction=fraction), *[gr.skip()] * (1 + len(VERSUS))]


def _controls(house: House, place: int, id: str, values: Mapping[str, Any] | None = None) -> str:
    prefix = f"contestant-{place}"
    method = house.methods.get(id)
    return rail.own_controls(method, values, prefix=prefix) if method else rail.run_controls((), prefix=prefix)


def _first_prompt(house: House) -> str:
    prompt = house.prompts.get(FIRST_PROMPT) or next(iter(house.prompts.values()))
    return prompt.prompt
