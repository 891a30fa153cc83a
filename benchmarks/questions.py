"""The questions: the page's own example prompts that fall into the six categories of Spec-Bench
(Xia et al. 2024, arXiv 2401.07851). A conversation of several turns is written into one prompt.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

FILE = Path(__file__).parent.parent / "assets" / "prompts.json"

CATEGORIES = {
    "Multi-turn chat": "multi-turn",
    "Translation": "translation",
    "Summarisation": "summaries",
    "Questions": "questions",
    "Maths": "maths",
    "Retrieval": "retrieval",
}
"""The page's names, in Spec-Bench's order, and what the tables call them."""


class Question(msgspec.Struct, frozen=True):
    """An example prompt; the category is one of `CATEGORIES`."""

    id: str
    category: str
    prompt: str


def questions() -> list[Question]:
    """All questions, category by category."""
    prompts = msgspec.json.decode(FILE.read_bytes(), type=list[Question])
    return [prompt for category in CATEGORIES for prompt in prompts if prompt.category == category]


def one_of_each() -> list[Question]:
    """The first question of every category."""
    first: dict[str, Question] = {}
    for question in questions():
        first.setdefault(question.category, question)
    return list(first.values())
