"""Lessons are read strictly, and everything that the shipped ones name exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest

from benchmarks.record import RUNS
from engines.events import Draft, Event, Verdict
from engines.method import methods
from playground.answers import ANSWERS, NoAnswer
from playground.glossary import load as load_glossary
from playground.lessons import (
    LESSONS,
    Ask,
    Lesson,
    LessonError,
    Node,
    Step,
    answered,
    asked_about,
    explained,
    is_right,
    load,
    moment,
    read,
    shown_before,
)
from playground.moments import named
from playground.ui.live import ASSETS
from playground.ui.shelf import RECORDED, RECORDED_RUN, read_recording, steps
from visuals.picture import pictures

HEAD = "---\ntitle: A title\nfamily: baselines\nabout: What it is about.\nminutes: 1\norder: 1\n---\n\n"
SEVERAL = "first pass that accepted several"
SHOWN = f"```show\nrun: recorded-token-recycling\nstep: {SEVERAL}\npicture: draft-tree\n```\n\n"
ASKED = "```ask\nquestion: How many?\nanswer: accepted\nbefore: draft\nbecause: It was {accepted} of {drafted}.\n```\n"


@cache
def runs(id: str) -> Sequence[Event]:
    """The shipped runs."""
    return read_recording(RECORDED, id.removeprefix(RECORDED_RUN))


@cache
def shipped() -> dict[str, Lesson]:
    return load(runs)


def lesson(body: str, head: str = HEAD) -> Lesson:
    return read(head + body, runs, id="example")


def words(nodes: Sequence[Node]) -> str:
    """All text below some nodes."""
    return "".join(node if isinstance(node, str) else words(node["children"]) for node in nodes)


# What a lesson's file says.


def test_a_heading_begins_a_step_and_blocks_bind_it() -> None:
    first, second = lesson(f"## One\n\n{SHOWN}Some *text*.\n\n{ASKED}\n## Two\n\nMore.\n").steps
    assert (first.title, second.title) == ("One", "Two")
    assert first.show is not None
    assert (first.show.run, first.show.picture) == ("recorded-token-recycling", "draft-tree")
    assert first.show.step == named(runs("token-recycling"), SEVERAL)
    assert first.body == ({"tag": "p", "children": ["Some ", {"tag": "em", "children": ["text"]}, "."]},)
    assert first.options[:3] == ("0", "1", "2")
    assert second.show is None


def test_numbers_in_the_text_are_worked_out_from_the_run() -> None:
    (step,) = lesson(f"## One\n\n{SHOWN}{{drafted}} guesses, {{passes: recorded-greedy}} passes.\n").steps
    drafted = next(
        event for event in reversed(moment(runs("token-recycling"), SEVERAL).step) if isinstance(event, Draft)
    )
    greedy = steps(runs("greedy"))
    assert words(step.body) == f"{len(drafted.nodes) - 1} guesses, {len(greedy) - 1} passes."


def test_a_token_that_looks_like_markdown_stays_text() -> None:
    star = next(
        index
        for index in range(1, len(steps(runs("token-recycling"))))
        if words([ANSWERS["token"](moment(runs("token-recycling"), index)).value]) == "␣*"
    )
    (step,) = lesson(f"## One\n\n{SHOWN.replace(SEVERAL, str(star))}Here *{{token}}* is.\n").steps
    assert step.body == ({"tag": "p", "children": ["Here ", {"tag": "em", "children": ["␣*"]}, " is."]},)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("No heading.\n", "begins with a heading"),
        ("## One\n\n<script>alert(1)</script>\n", None),
        ("## One\n\n![a](b.png)\n", "Links lead to lessons"),
        ("## One\n\n> quoted\n", "no blockquote"),
        ("## One\n\n### Deeper\n", "no heading"),
        ("## One\n\n[out](https://example.org)\n", "Links lead to lessons"),
        ("## One\n\n[out](javascript:alert(1))\n", None),
        ("## One\n\n```python\nprint()\n```\n", "at most one block"),
        (f"## One\n\n{SHOWN}{SHOWN}", "at most one block"),
        (f"## One\n\n{SHOWN.replace('picture:', 'pictures:')}", "pictures"),
        (f"## One\n\n{SHOWN.replace(SEVERAL, '2700')}", "no step 2700"),
        (f"## One\n\n{ASKED}", "needs a run"),
        (f"## One\n\n{SHOWN}{ASKED.replace('answer: accepted', 'answer: luck')}", "needs a run"),
        (f"## One\n\n{SHOWN}{ASKED.replace('{drafted}', '{luck}')}", "luck"),
        (f"## One\n\n{SHOWN.replace(SEVERAL, '1')}{ASKED}", "no Draft here"),
    ],
)
def test_anything_else_is_refused_or_shown_as_it_is(body: str, says: str | None) -> None:
    if says is None:
        (step,) = lesson(body).steps
        assert set(tags(step.body)) <= {"p"}
        return
    with pytest.raises(LessonError, match=says):
        lesson(body)


def tags(nodes: Sequence[Node]) -> Iterator[str]:
    for node in nodes:
        if not isinstance(node, str):
            yield node["tag"]
            yield from tags(node["children"])


def test_a_problem_names_the_lesson_and_the_line() -> None:
    with pytest.raises(LessonError, match=r"Lesson example, line 13"):
        lesson(f"## One\n\nText.\n\n{SHOWN.replace(SEVERAL, 'soon')}")


def test_a_moment_that_the_recording_lacks_names_the_lesson_and_the_line() -> None:
    with pytest.raises(LessonError, match=r"Lesson example, line 13: This run has no first refused guess"):
        lesson(
            f"## One\n\nText.\n\n{SHOWN.replace(SEVERAL, 'first refused guess').replace('token-recycling', 'greedy')}"
        )


def test_a_question_may_compare_several_runs() -> None:
    asked = ASKED.replace(
        "answer: accepted", "answer: most-per-pass\nagainst: [recorded-greedy, recorded-prompt-lookup]"
    )
    shown = SHOWN.replace(SEVERAL, "last")
    (step,) = lesson(f"## One\n\n{shown}{asked.replace('before: draft', '')}").steps
    assert step.options == ("Greedy", "Prompt lookup", "Token Recycling")
    assert step.show is not None
    assert step.ask is not None
    assert answered(step.ask, asked_about(step.show, step.ask, runs)).value == "Prompt lookup"


# Questions.


def test_a_question_about_a_draft_shows_the_draft_and_no_verdict() -> None:
    asked = moment(runs("token-recycling"), SEVERAL)
    before = shown_before(asked, "draft")
    assert isinstance(before[-1], Draft)
    assert not any(isinstance(event, Verdict) for event in before[len(asked.events) - len(asked.step) :])
    assert (
        shown_before(asked, "step")
        == asked.events[: steps(runs("token-recycling"))[named(runs("token-recycling"), SEVERAL) - 1]]
    )
    assert shown_before(asked, "") == asked.events


def test_an_answer_is_one_of_the_options_or_a_number_near_enough() -> None:
    asked = moment(runs("greedy"), 29)
    ask = Ask(question="?", answer="probability", because="", within=5)
    truth = answered(ask, asked)
    assert truth.number is not None
    for given, right in [(truth.number + 4, True), (truth.number - 6, False)]:
        assert is_right(ask, truth, f"{given}") == right
    assert is_right(ask, truth, f"{truth.number:.1f} %".replace(".", ","))
    assert not is_right(ask, truth, "much")
    assert not is_right(ask, truth, "nan")
    choice = Ask(question="?", answer="accepted", because="")
    truth = answered(choice, moment(runs("token-recycling"), SEVERAL))
    assert [option for option in truth.options if is_right(choice, truth, option)] == [truth.value]


def test_what_a_run_does_not_hold_cannot_be_asked() -> None:
    with pytest.raises(NoAnswer):
        ANSWERS["accepted"](moment(runs("greedy"), 3))


# The lessons that come along.


def shipped_steps() -> list[Any]:
    return [
        pytest.param(step, id=f"{lesson.id}-{index + 1}")
        for lesson in shipped().values()
        for index, step in enumerate(lesson.steps)
    ]


def test_there_is_a_lesson_for_every_family() -> None:
    # A lab is a lesson itself.
    families = {one.family for one in methods().values()} - {"labs"}
    assert {lesson.front.family for lesson in shipped().values()} == families
    assert len(list(LESSONS.glob("*.md"))) == len(shipped())


@pytest.mark.parametrize("step", shipped_steps())
def test_everything_that_a_step_names_exists(step: Step) -> None:
    if step.show:
        assert step.show.run.startswith(RECORDED_RUN)
        assert step.show.picture in pictures()
        at = moment(runs(step.show.run), step.show.step)
        assert pictures()[step.show.picture].draw(at.events) is not None
    if step.try_:
        method = methods()[step.try_.method]
        method.validate(step.try_.params)
        assert step.try_.picture in pictures()
        ranges = {setting.name: (setting.low, setting.high) for setting in method.settings()}
        assert all(None not in ranges[knob] for knob in step.try_.knobs)
        known = {prompt["id"] for prompt in json.loads((ASSETS / "prompts.json").read_text())}
        assert step.try_.prompt in known or " " in step.try_.prompt
    assert step.show or step.try_, "a step shows something"
    links = re.findall(r'"lesson": "([\w-]+)"', json.dumps(step.body))
    assert set(links) <= set(shipped())


@pytest.mark.parametrize("step", [one for one in shipped_steps() if one.values[0].ask])
def test_every_question_has_an_answer_and_keeps_it_to_itself(step: Step) -> None:
    assert step.show is not None
    assert step.ask is not None
    asked = asked_about(step.show, step.ask, runs)
    truth = answered(step.ask, asked)
    assert truth.value in step.options if step.options else truth.number is not None
    assert len(step.options) != 1
    assert len(words(explained(step.ask, asked, runs))) > 60
    if not step.options:
        # A number nobody could have known is no question: some room is given.
        assert step.ask.within > 0
    said = words(step.body) + step.title
    assert truth.value not in re.findall(r"[\d.]+ ?%?", said), "the text says the answer"


def truth_of(lesson: str, answer: str) -> str:
    """What is true of the first question of this kind in a lesson."""
    step = next(step for step in shipped()[lesson].steps if step.ask and step.ask.answer == answer)
    assert step.show is not None
    assert step.ask is not None
    return answered(step.ask, asked_about(step.show, step.ask, runs)).value


def test_the_wide_tree_is_the_slower_one() -> None:
    """The lesson says why. A machine on which it were otherwise should record another lesson."""
    assert truth_of("a-big-tree", "faster") == "12 guesses"


def test_a_wrong_guess_loses_nothing() -> None:
    """The lesson's words hold for no other answers."""
    assert truth_of("a-wrong-guess", "gained") == "1"
    assert truth_of("a-wrong-guess", "same-text") == "yes"


def test_a_copy_is_the_best_guess_at_a_copy() -> None:
    assert truth_of("which-method-when", "most-per-pass") in ("Prompt lookup", "CopySpec")


def test_lessons_about_guessing_name_their_moments() -> None:
    """Their recordings are made anew whenever the draft model is, and that moves the steps."""
    for one in shipped().values():
        if one.front.family == "speculative":
            assert not re.findall(r"^step: \d+", (LESSONS / f"{one.id}.md").read_text(), re.MULTILINE), one.id


def test_every_recording_has_its_recipe() -> None:
    assert {file.name.split(".")[0] for file in RECORDED.glob("*.jsonl*")} == set(RUNS)


def test_lessons_are_short_and_use_words_that_the_glossary_explains() -> None:
    forms = {form.lower() for word in load_glossary() for form in (word.word, *word.also)}
    for one in shipped().values():
        text = " ".join(words(step.body) for step in one.steps).lower()
        assert sum(re.search(rf"\b{re.escape(form)}\b", text) is not None for form in forms) >= 5
        for step in one.steps:
            assert len(words(step.body).split()) <= 150, step.title
            # The items of a list follow each other without a space.
            sentences = re.split(r"[.!?:](?= |[A-Z])", words(step.body))
            assert max(len(sentence.split()) for sentence in sentences) <= 40, step.title
