"""The questions: 36 in the six categories of Spec-Bench (Xia et al. 2024, arXiv 2401.07851), and six to copy or edit.

Their order and number are fixed in `specbench_mini.json`, so that results can be compared. Those given by their id
alone are example prompts of the page. A conversation of several turns is written into one prompt.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

FILE = Path(__file__).parent / "specbench_mini.json"
PAGE = Path(__file__).parent.parent / "assets" / "prompts.json"

CATEGORIES = {
    "Multi-turn chat": "multi-turn",
    "Translation": "translation",
    "Summarisation": "summaries",
    "Questions": "questions",
    "Maths": "maths",
    "Retrieval": "retrieval",
}
"""The page's names, in Spec-Bench's order, and what the tables call them."""

COPYING = {"Code to copy and edit": "copy and edit"}
"""A category that Spec-Bench lacks: answers that are nearly their input. Its questions count in no overall number."""


class Question(msgspec.Struct, frozen=True):
    """A prompt; the category is one of `CATEGORIES` or `COPYING`."""

    id: str
    category: str
    prompt: str


def questions() -> list[Question]:
    """All questions, category by category; those to copy or edit come last."""
    example = {one.id: one for one in msgspec.json.decode(PAGE.read_bytes(), type=list[Question])}
    listed = msgspec.json.decode(FILE.read_bytes(), type=list[dict[str, str]])
    return [msgspec.convert(one, Question) if "prompt" in one else example[one["id"]] for one in listed]


def one_of_each() -> list[Question]:
    """The first question of each of the six categories."""
    first: dict[str, Question] = {}
    for question in questions():
        first.setdefault(question.category, question)
    return [first[category] for category in CATEGORIES]
