"""Lessons: Markdown files in `assets/lessons/`, each step bound to a run.

    ---
    title: Guess, then check
    family: speculative
    minutes: 6
    order: 4
    about: Why several tokens can come out of one pass of the model.
    ---

    ## A tree of guesses

    ```show
    run: recorded-token-recycling
    step: first pass that accepted several
    picture: draft-tree
    ```

    One pass checks all {drafted} guesses.

    ```ask
    question: How many of them will survive?
    answer: accepted
    before: draft
    because: The model would have said so itself.
    ```

A heading begins a step. `show` binds it to a step of a recorded run, by number or by name, as in `step: first refused
guess` (`playground/moments.py`); `try` offers a run of the reader's own; `ask` is a question whose answer
`playground/answers.py` works out from the events. `{drafted}` in the text is worked out in the same way,
`{per-second: recorded-greedy}` from all of another run. The Markdown is paragraphs, lists, emphasis, code and links to
lessons; anything else, a misspelt field, or a name that does not exist is a `LessonError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from msgspec import Meta

from engines.errors import DecodingError
from engines.events import Beams, Commit, Draft, Event
from playground.answers import ANSWERS, Answer, Moment
from playground.moments import moment, named
from playground.setup import Params

__all__ = ["Ask", "Lesson", "LessonError", "Show", "Step", "Try", "answered", "explained", "load", "moment", "read"]

LESSONS = Path(__file__).parents[1] / "assets" / "lessons"

Runs = Callable[[str], Sequence[Event]]
"""Events of a run by its id."""
Node = str | dict[str, Any]
"""Text, or `{"tag", "children"}`; a link also has `lesson`, a lesson's id."""

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).disable(["image", "autolink", "html_inline", "html_block"])
_TAGS = {
    "paragraph": "p",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "strong": "strong",
    "em": "em",
}


class LessonError(DecodingError):
    """A lesson's file cannot be read as a lesson."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in a lesson's file."""


class Show(_Strict, frozen=True, kw_only=True):
    """The recorded run beside a step's text, the picture of it, and how far it has come."""

    run: str
    picture: str
    step: int | str = "last"
    """A number, or a name of `playground.moments`; in a lesson that was read it is a number or "last"."""
    numbers: bool = False
    """Whether the headline numbers are shown too."""


class Ask(_Strict, frozen=True, kw_only=True):
    """A question to be answered before the run goes on."""

    question: str
    answer: str
    because: str
    """Said after the answer, whichever it was."""
    before: Literal["", "step", "draft", "candidates"] = ""
    """What is shown until the answer is given: the run before the step, or the step up to its draft or candidates."""
    against: str | tuple[str, ...] = ()
    """Another recorded run, or several, for questions that compare."""
    within: float = 0.0
    """How far a number may be off and still be right."""
    unit: str = ""


class Try(_Strict, frozen=True, kw_only=True):
    """A run that the reader starts: a set-up, and the parameters that may be changed."""

    method: str
    prompt: str
    picture: str
    params: Params = {}
    knobs: tuple[str, ...] = ()
    raw: bool = False
    """The prompt as it stands, without a chat template."""
    seed: int = 0
    max_new_tokens: Annotated[int, Meta(ge=1, le=128)] = 48


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One idea: a heading, text, and what is shown beside it."""

    title: str
    body: tuple[Node, ...]
    show: Show | None = None
    ask: Ask | None = None
    try_: Try | None = msgspec.field(default=None, name="try")
    options: tuple[str, ...] = ()
    """What can be answered to `ask`; empty when a number is asked for."""


class Front(_Strict, frozen=True, kw_only=True):
    """What a lesson says of itself, between the lines `---`."""

    title: str
    family: str
    about: str
    minutes: int
    order: int


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """A lesson, ready to be shown."""

    id: str
    front: Front
    steps: tuple[Step, ...]


def load(runs: Runs, folder: Path = LESSONS) -> dict[str, Lesson]:
    """Every lesson by id, in order. Raises `LessonError`, or what `runs` raises, for a file that is not right."""
    lessons = [read(file.read_text(encoding="utf-8"), runs, id=file.stem) for file in folder.glob("*.md")]
    lessons.sort(key=lambda lesson: (lesson.front.order, lesson.id))
    return {lesson.id: lesson for lesson in lessons}


def read(source: str, runs: Runs, *, id: str) -> Lesson:
    """A lesson from its Markdown. Raises `LessonError` with the file and the line."""
    found = re.match(r"---\n(.*?)\n---\n", source, re.DOTALL)
    if found is None:
        raise LessonError(f"The lesson {id} has to begin with a title, a family and so on between two lines ---.")
    front = _fields(found[1], Front, id, 1)
    first_line = source[: found.end()].count("\n")
    made: list[Step] = []
    parts: list[SyntaxTreeNode] = []
    for node in SyntaxTreeNode(_MARKDOWN.parse(source[found.end() :])).children:
        if node.type == "heading" and node.tag == "h2":
            if parts:
                made.append(_step(parts, runs, id, first_line))
            parts = [node]
        elif parts:
            parts.append(node)
        else:
            raise LessonError(f"{_place(id, node, first_line)}: a lesson's text begins with a heading, ## like this.")
    if not parts:
        raise LessonError(f"The lesson {id} has no steps. A heading, ## like this, begins one.")
    made.append(_step(parts, runs, id, first_line))
    return Lesson(id=id, front=front, steps=tuple(made))


def asked_about(show: Show, ask: Ask | None, runs: Runs) -> Moment:
    """What a step shows, beside the runs that its question compares it with."""
    against = ask.against if ask else ()
    return moment(
        runs(show.run), show.step, *map(runs, (against,) if isinstance(against, str) and against else against)
    )


def shown_before(asked: Moment, before: str) -> Sequence[Event]:
    """The events that are shown until a question is answered."""
    start = len(asked.events) - len(asked.step)
    if before == "":
        return asked.events
    if before == "step":
        return asked.events[:start]
    decision = (Commit, Beams) if before == "candidates" else Draft
    for index, event in enumerate(asked.step):
        if isinstance(event, decision):
            return asked.events[: start + index + (before == "draft")]
    raise LessonError(f"There is nothing to show before: this step has no {before}.")


def answered(ask: Ask, asked: Moment) -> Answer:
    """What is true. Raises `NoAnswer` when the run does not hold it."""
    return ANSWERS[ask.answer](asked)


def is_right(ask: Ask, truth: Answer, given: str) -> bool:
    """Whether `given`, one of the options or a number, is the answer."""
    if truth.options:
        return given == truth.value
    try:
        number = float(given.replace(",", ".").rstrip("% "))
    except ValueError:
        return False
    return truth.number is not None and abs(number - truth.number) <= ask.within


def explained(ask: Ask, asked: Moment, runs: Runs) -> tuple[Node, ...]:
    """The words that follow an answer."""
    (paragraph,) = SyntaxTreeNode(_MARKDOWN.parse(ask.because)).children
    node = _block(paragraph, lambda text: _filled(text, asked, runs))
    return tuple(node["children"]) if isinstance(node, dict) else (node,)


_FIELDS = TypeVar("_FIELDS", bound=_Strict)


def _fields(text: str, kind: type[_FIELDS], id: str, line: int) -> _FIELDS:
    try:
        return msgspec.yaml.decode(text.encode(), type=kind)
    except msgspec.DecodeError as error:  # ValidationError is one, too
        raise LessonError(f"Lesson {id}, line {line}: {error}") from None


def _place(id: str, node: SyntaxTreeNode, first_line: int) -> str:
    return f"Lesson {id}, line {first_line + node.map[0] + 1 if node.map else first_line + 1}"


def _step(nodes: Sequence[SyntaxTreeNode], runs: Runs, id: str, first_line: int) -> Step:
    """One step from its heading and what follows."""
    kinds: dict[str, type[_Strict]] = {"show": Show, "ask": Ask, "try": Try}
    given: dict[str, Any] = {}
    for node in nodes:
        if node.type != "fence":
            continue
        where, word = _place(id, node, first_line), node.info.strip()
        if word not in kinds or word in given:
            raise LessonError(f"{where}: a step has at most one block each of ```show, ```ask and ```try.")
        given[word] = _fields(node.content, kinds[word], id, first_line + (node.map[0] if node.map else 0) + 1)
        if word == "show":
            given[word] = _placed(given[word], runs, where)
    show, ask = given.get("show"), given.get("ask")
    where = _place(id, nodes[0], first_line)
    if ask is not None and (show is None or ask.answer not in ANSWERS):
        raise LessonError(f"{where}: a question needs a run to ask about, and an answer that is known.")
    try:
        asked = asked_about(show, ask, runs) if show else None
        options = answered(ask, asked).options if ask and asked else ()
        if ask and asked:
            shown_before(asked, ask.before)
            explained(ask, asked, runs)
        texts = [node for node in nodes[1:] if node.type != "fence"]
        body = tuple(_block(node, lambda text: _filled(text, asked, runs)) for node in texts)
        title = "".join(child.content for child in nodes[0].children[0].children)
    except DecodingError as error:
        raise LessonError(f"{where}: {error}") from None
    return Step(title=title, body=body, show=show, ask=ask, try_=given.get("try"), options=options)


def _placed(show: Show, runs: Runs, where: str) -> Show:
    """`show` with the number of the step that it names. Raises `LessonError` when the run has no such moment."""
    if isinstance(show.step, int) or show.step == "last":
        return show
    try:
        return msgspec.structs.replace(show, step=named(runs(show.run), show.step))
    except DecodingError as error:
        raise LessonError(f"{where}: {error}") from None


def _filled(text: str, asked: Moment | None, runs: Runs) -> str:
    """`text` with `{name}` and `{name: run}` replaced by what the runs say."""

    def value(found: re.Match[str]) -> str:
        name, _, run = (part.strip() for part in found[1].partition(":"))
        about = moment(runs(run)) if run else asked
        if name not in ANSWERS or about is None:
            raise LessonError(f"{{{found[1]}}} is not known here.")
        return ANSWERS[name](about).value

    return re.sub(r"\{([\w-]+(?:: *[\w-]+)?)\}", value, text)


def _block(node: SyntaxTreeNode, fill: Callable[[str], str]) -> Node:
    """A node of the strict subset. Its text is filled in after parsing, for a token may look like Markdown."""
    if node.type == "text":
        return fill(node.content)
    if node.type in ("softbreak", "hardbreak"):
        return " "
    if node.type == "code_inline":
        return {"tag": "code", "children": [fill(node.content)]}
    children = [_block(child, fill) for child in node.children]
    if node.type == "inline":
        return {"tag": "span", "children": children}
    if node.type == "link":
        target = str(node.attrs.get("href", ""))
        if not re.fullmatch(r"lesson:[\w-]+", target):
            raise LessonError(f"Links lead to lessons, as in [this](lesson:beams), not to {target[:60]!r}.")
        return {"tag": "a", "children": children, "lesson": target.removeprefix("lesson:")}
    if node.type not in _TAGS:
        raise LessonError(f"A lesson's text holds paragraphs, lists, emphasis, code and links, but no {node.type}.")
    return {"tag": _TAGS[node.type], "children": _flat(children)}


def _flat(nodes: Sequence[Node]) -> list[Node]:
    """`nodes` with the spans, which hold nothing but a line's parts, opened."""
    flat: list[Node] = []
    for node in nodes:
        flat += node["children"] if isinstance(node, dict) and node["tag"] == "span" else [node]
    return flat
