"""How good the answers of exact extraction are, beside those of greedy decoding, on the shipped questions.

After "How Optimal is Greedy Decoding for Extractive Question Answering?", Castel et al., arXiv 2108.05857: F1 and exact
match as in SQuAD (small letters, no punctuation, no articles), and how often plain greedy decoding gives a span of the
passage at all. The questions stand in `assets/extract.json`; each holds its answer word for word in the passage.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engines.constrained.exact_extract import GREEDY_TOKENS, constrained, greedy, packed
from engines.constrained.passage import End, end_tokens, find_passage
from engines.constrained.spans import Ranking, best_cell, span_trie, unread
from engines.models.causal import CausalModel
from engines.runner import Run

FILE = Path(__file__).parents[2] / "assets" / "extract.json"


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A passage, a question, and the span of the passage that answers it."""

    id: str
    passage: str
    question: str
    answer: str

    @property
    def prompt(self) -> str:
        return f"Text: {self.passage}\nQuestion: {self.question}\nAnswer:"


@dataclass(frozen=True, slots=True)
class Answers:
    """What three ways of decoding say, without white space around it."""

    exact: str
    greedy: str
    constrained: str
    is_span: bool
    """Whether greedy decoding's words stand in the passage."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over questions, in shares of 1, by way of decoding."""

    questions: int
    f1: dict[str, float]
    exact_match: dict[str, float]
    extractive: float
    """Greedy outputs that are spans of their passage."""
    same: float
    """Greedy outputs that are the most probable span."""


def questions() -> tuple[Question, ...]:
    """The shipped ones."""
    return msgspec.json.decode(FILE.read_bytes(), type=tuple[Question, ...])


def answer(
    model: CausalModel, question: Question, *, cap: int = 12, end: End = "both", normalise: bool = False
) -> Answers:
    """One question, as a raw prompt."""
    run = Run(model, model.encode(question.prompt, raw=True))
    for _ in run.read_prompt():
        pass
    ends = end_tokens(run, end)
    passage = find_passage(run, frozenset(ends))
    trie = span_trie(passage, cap, frozenset(ends))
    logits = run.next_logits()
    plain = greedy(run, logits, ends, trie, GREEDY_TOKENS)
    scores = unread(trie, ends, logits)
    for _ in packed(run, scores):
        pass
    narrow = constrained(scores)
    at = best_cell(Ranking(normalise).matrix(scores))
    assert at is not None, "a passage has at least one span"
    best = model.decode(trie.text(trie.cells[at[0]][at[1] - 1]))
    free = model.decode(plain.tokens)
    return Answers(
        best.strip(),
        free.strip(),
        model.decode(narrow.tokens).strip() if narrow else "",
        bool(free.strip()) and free.strip() in question.passage,
    )


def quality(asked: Sequence[Question], given: Sequence[Answers]) -> Quality:
    """The means. At least one question must have been asked."""
    ways = {
        "exact": [one.exact for one in given],
        "greedy": [one.greedy for one in given],
        "constrained greedy": [one.constrained for one in given],
    }
    gold = [one.answer for one in asked]
    return Quality(
        len(gold),
        {way: _mean([f1(*pair) for pair in zip(said, gold, strict=True)]) for way, said in ways.items()},
        {
            way: _mean([float(words(a) == words(b)) for a, b in zip(said, gold, strict=True)])
            for way, said in ways.items()
        },
        _mean([float(one.is_span) for one in given]),
        _mean([float(one.greedy == one.exact) for one in given]),
    )


def words(text: str) -> list[str]:
    """The words that count, as in SQuAD: small, without punctuation and articles."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def f1(said: str, gold: str) -> float:
    """The harmonic mean of precision and recall of the words."""
    ours, theirs = words(said), words(gold)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else float(ours == theirs)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
