"""The Learn page: lessons beside the live components of the Play page, the glossary, and the way back to the tour.

A lesson's step shows a recorded run, stopped at one of its steps, or before it while a question is open; or it runs
a method here and now. The words of all lessons travel once, with the page; only what stands beside them is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import gradio as gr
import msgspec

from engines.errors import DecodingError
from engines.events import Event, committed
from playground import glossary
from playground.lessons import (
    Lesson,
    LessonError,
    Step,
    Try,
    answered,
    asked_about,
    explained,
    is_right,
    load,
    moment,
    shown_before,
)
from playground.setup import Setup
from playground.turnstile import Stopped
from playground.ui.decoding import others, waiting
from playground.ui.drawing import Canvas
from playground.ui.house import House, owner_or_nobody
from playground.ui.live import Live, LivePlot, Numbers, Scrubber, Server, TokenStream, encode
from playground.ui.play import DRAWING, PRIVATE, Play, reopened
from playground.ui.rail import Message, family_title, message

Lessons = Mapping[str, Lesson]


class LessonView(Live):
    """The list of lessons, or one lesson's step with its question.

    Triggers `show` (lesson, step, answered), `run` (lesson, step, values), `halt`, and `open` (run).
    """

    def __init__(self, value: str = "", *, check: Server, **props: Any) -> None:
        super().__init__("lessons", value, events=("show", "run", "halt", "open"), server=(check,), **props)


class Glossary(Live):
    """Every word of the field with its meaning; its script links the words wherever they appear."""

    def __init__(self, value: str = "", **props: Any) -> None:
        super().__init__("glossary", value, **props)


def build(house: House, playing: Play, page: gr.Textbox) -> None:
    """Lays out the page. `page` carries the id by which a browser page is known."""
    lessons = known_lessons(house)

    def check(what: dict[str, Any]) -> dict[str, Any]:
        return checked(house, lessons, what)

    with gr.Column(elem_classes=["page", "page-learn"]):
        view = LessonView(encode([described(house, lesson) for lesson in lessons.values()]), check=check)
        with gr.Column(elem_classes=["stage", "lesson-stage"], min_width=0):
            told = Message()
            numbers, stream, scrubber = Numbers(), TokenStream(), Scrubber()
            # "lesson" is no picture's id: the panel shows whichever picture the step names.
            plot = LivePlot("lesson", table=house.table, narrate=house.narrate, see=house.see, pick=house.pick)
        Glossary(encode(glossary.load()))
    outputs = [told, numbers, stream, scrubber, plot]

    def show(event: gr.EventData) -> list[Any]:
        return shown(house, lessons, event._data)

    # The script sends along which picture the lesson shows.
    def step(event: gr.EventData) -> list[Any]:
        told = event._data
        return stepped(house, str(told["run"]), int(told["step"]), str(told["picture"]))

    def run(owner: str, page: str, event: gr.EventData) -> Iterator[list[Any]]:
        try:
            trial = one_step(lessons, event._data).try_
            if trial is None:
                raise LessonError("This step has nothing to run.")
            setup = setup_of(house, trial, event._data.get("values") or {})
        except DecodingError as error:
            yield said(str(error), tone="problem")
            return
        yield from decode(house, setup, trial.picture, owner=owner, page=page)

    def branch(owner: str, page: str, event: gr.EventData) -> Iterator[list[Any]]:
        told = event._data
        try:
            run, position, picture = str(told["run"]), int(told["position"]), str(told["picture"])
            events = house.shelf.events(run)
            given = [placed.token.id for placed in committed(events)[:position]]
            setup = msgspec.structs.replace(Setup.of(events), prefix=(*given, int(told["token"])))
        except DecodingError as error:
            yield said(str(error), tone="problem")
            return
        yield from decode(house, setup, picture, owner=owner, page=page, parent=(run, position))

    def reopen(event: gr.EventData) -> list[Any]:
        return reopened(house, str(event._data["run"]))

    decoding: dict[str, Any] = DRAWING | {"concurrency_limit": None, "concurrency_id": "decode"}
    view.show(show, None, outputs, trigger_mode="always_last", concurrency_limit=4, **DRAWING)
    view.run(run, [playing.owner, page], outputs, **decoding)
    view.halt(house.stop, page, None, queue=False, **PRIVATE)
    view.open(reopen, None, [*playing.rail, *playing.outputs], **PRIVATE)
    scrubber.step(step, None, outputs, trigger_mode="multiple", concurrency_limit=4, **DRAWING)
    stream.branch(branch, [playing.owner, page], outputs, **decoding)


def known_lessons(house: House) -> Lessons:
    """Every lesson; none when one of them is broken; the server's log says why."""
    try:
        return load(house.shelf.events)
    except DecodingError as error:
        warnings.warn(str(error), stacklevel=2)
        return {}


def described(house: House, lesson: Lesson) -> dict[str, Any]:
    """A lesson as the browser needs it: its words, what each step shows, and no answers."""
    return {
        "id": lesson.id,
        "title": lesson.front.title,
        "about": lesson.front.about,
        "minutes": lesson.front.minutes,
        "family": family_title(lesson.front.family),
        "steps": [_step(house, step) for step in lesson.steps],
    }


def _step(house: House, step: Step) -> dict[str, Any]:
    ask, trial, show = step.ask, step.try_, step.show
    return {
        "title": step.title,
        "body": step.body,
        "picture": show.picture if show else trial.picture if trial else "",
        "shown": show is not None,
        "numbers": trial is not None or bool(show and show.numbers),
        "ask": {"question": ask.question, "options": step.options, "unit": ask.unit} if ask else None,
        "try": {"prompt": _prompt(house, trial), "method": trial.method, "knobs": _knobs(house, trial)}
        if trial
        else None,
    }


def _prompt(house: House, trial: Try) -> str:
    known = house.prompts.get(trial.prompt)
    return known.prompt if known else trial.prompt


def _knobs(house: House, trial: Try) -> list[dict[str, Any]]:
    settings = {setting.name: setting for setting in house.methods[trial.method].settings()}
    return [
        {
            "name": name,
            "help": settings[name].help,
            "value": trial.params.get(name, settings[name].default),
            "low": settings[name].low,
            "high": settings[name].high,
            "whole": settings[name].kind is int,
        }
        for name in trial.knobs
    ]


def setup_of(house: House, trial: Try, values: Mapping[str, Any]) -> Setup:
    """The run that a step offers, with the reader's `values` for its knobs. Raises `BadParameter` for a bad one."""
    chosen = {name: values[name] for name in trial.knobs if name in values}
    params = house.methods[trial.method].validate({**trial.params, **chosen})
    return Setup(
        method=trial.method,
        prompt=_prompt(house, trial),
        params=msgspec.to_builtins(params),
        seed=trial.seed,
        raw=trial.raw,
        max_new_tokens=trial.max_new_tokens,
    )


def one_step(lessons: Lessons, told: Mapping[str, Any]) -> Step:
    """The step that the browser means. Raises `LessonError` when there is none."""
    lesson, index = lessons.get(str(told.get("lesson"))), told.get("step")
    if lesson is None or not isinstance(index, int) or not 0 <= index < len(lesson.steps):
        raise LessonError("There is no such lesson, or it has no such step.")
    return lesson.steps[index]


def checked(house: House, lessons: Lessons, told: Mapping[str, Any]) -> dict[str, Any]:
    """Whether an answer is right, what is true, and why."""
    try:
        step = one_step(lessons, told)
        if step.ask is None or step.show is None:
            raise LessonError("Nothing is asked here.")
        runs = house.shelf.events
        asked = asked_about(step.show, step.ask, runs)
        truth = answered(step.ask, asked)
    except DecodingError as error:
        return {"problem": str(error)}
    given = str(told.get("given", ""))[:40]
    because = explained(step.ask, asked, runs)
    return {"right": is_right(step.ask, truth, given), "answer": truth.value, "because": because}


def shown(house: House, lessons: Lessons, told: Mapping[str, Any]) -> list[Any]:
    """What stands beside a step: its run up to there, or less while its question is open."""
    try:
        step = one_step(lessons, told)
        if step.show is None:
            return said("")
        run, picture = step.show.run, step.show.picture
        events = house.shelf.events(run)
        if step.ask is None or not step.ask.before or told.get("answered"):
            at = step.show.step if isinstance(step.show.step, int) else None  # a name is a number by now, but "last"
            return _beside(house, run, events, at, picture)
        return _beside(house, run, shown_before(moment(events, step.show.step), step.ask.before), None, picture)
    except DecodingError as error:
        return said(str(error), tone="problem")


def stepped(house: House, run: str, step: int, picture: str) -> list[Any]:
    """The run beside a lesson, after another step."""
    try:
        return _beside(house, run, house.shelf.events(run), step, picture)
    except DecodingError as error:
        return said(str(error), tone="problem")


def _beside(house: House, run: str, events: Sequence[Event], step: int | None, picture: str) -> list[Any]:
    view = _canvas(house, run, picture).at(events, step, keep=False, status="recorded")
    return [message(), *view.outputs([picture])]


def _canvas(house: House, run: str, picture: str) -> Canvas:
    if picture not in house.panels:
        raise LessonError("There is no such picture.")
    # Whatever a lesson shows is relevant, even where the run has nothing for it yet.
    return Canvas({picture: replace(house.pictures[picture], relevant=lambda _: True)}, house.methods, run)


def decode(
    house: House, setup: Setup, picture: str, *, owner: str, page: str, parent: tuple[str, int] | None = None
) -> Iterator[list[Any]]:
    """A run beside a lesson, drawn while it is decoded."""
    owner = owner_or_nobody(owner)
    flag = house.stopper(page, owner)
    events: list[Event] = []
    try:
        with house.places.take(owner) as place:
            for told in waiting(house, place, flag):
                yield [told, *[gr.skip()] * 4]
            yield said("")
            if flag.is_set():
                return
            with closing(house.record(setup, owner=owner, parent=parent, stop=flag)) as recording, suppress(Stopped):
                for event in recording:
                    events.append(event)
                    if len(events) == 1:
                        canvas = _canvas(house, house.shelf.put(events, recording.run_id or ""), picture)
                    if canvas.due:
                        told = message(others(house, owner))
                        yield [told, *canvas.live(events, {picture}).outputs([picture])]
                    if flag.is_set():
                        break
        if events:
            yield [message(), *canvas.at(events, keep=False).outputs([picture])]
    except DecodingError as error:
        problem = str(error)
        if events:
            yield [message(problem, tone="problem"), *canvas.at(events, keep=False).outputs([picture])]
        else:
            yield said(problem, tone="problem")
    finally:
        house.forget(page, flag)


def said(words: str, *, tone: str = "calm", fraction: float | None = None) -> list[Any]:
    """An update that changes nothing but the message."""
    return [message(words, tone=tone, fraction=fraction), *[gr.skip()] * 4]
