"""The learning curve of extraction: how fast a model that may say anything learns to answer with spans.

After "How Optimal is Greedy Decoding for Extractive Question Answering?", Castel et al., arXiv 2108.05857. This is no
decoder of the text above: it asks held-out questions of a tiny encoder-decoder (`engines.models.span_reader`) that was
taught 0 to 1,024 questions, and decodes each in three ways. Passage tokens x_1 … x_n, conditioning c, end marker E:

    1. c ← one pass of the encoder over `Text: …⏎Question: …⏎Answer:<extra_id_0>.`, and of the decoder over its start
       token and <extra_id_0>; E is <extra_id_1>
    2. the decoder reads the suffixes x_i …, `chunk` of them side by side, each as far as `cap` tokens and beyond the
       end of the passage round to its beginning, so that all rows are equally long
    3. l(i, k) ← log P(x_{i+k} | c, x_i … x_{i+k-1}), L(i, k) ← l(i, 0) + … + l(i, k);
       e(i, k) ← log P(E | c, x_i … x_{i+k}), read one step later than l(i, k)
    4. S(i, k) ← L(i, k) + e(i, k), and -∞ where i + k is beyond the passage (the paper's loss is +∞ there)
    5. exact: the span of greatest S. Greedy: the most probable tokens up to a marker. Constrained greedy: the most
       probable of E and of the tokens that go on with a span
    6. F1 of the three against the answers, and how many greedy outputs are spans, and the best span, over the number of
       questions that the model was taught

The paper's claims: exact beats greedy without training data; the gap closes as greedy decoding learns to say spans by
itself, within few examples; with recurring span selection (variant B) it starts higher. Here a model of half a million
numbers is asked about a made-up world in place of the paper's T5 and eight data sets, so the claims are about
directions, not sizes. On the card: the gap is there at 16 and 64 questions and closes at 256 for variant A, and B is
better than A at every number. At 0 questions there is no gap, unlike in the paper: before this model has seen what an
answer looks like, its most probable spans answer as little as what it says greedily. The curves on the card were
measured by the recipe; those of a run are measured anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from engines.constrained.extractiveness import f1
from engines.constrained.spans import NEVER, best_cell
from engines.events import Curve, Event, Mark, Matrix, Note, Score
from engines.method import Paper, method
from engines.models.seq2seq import DecoderState, Seq2SeqModel
from engines.models.span_reader import EXAMPLES, Measured, Question, load_card, load_questions, load_reader
from engines.runner import Run

BLANK, MARKER = "<extra_id_0>", "<extra_id_1>"
"""What stands for the answer in the text, and E."""
GREEDY_TOKENS = 24
"""Greedy decoding is followed so far."""
TOP = 8
"""Spans that are listed."""
X_NAME = "training questions"
SERIES = {
    "exact": ("exact", "F1"),
    "greedy": ("greedy", "F1"),
    "constrained": ("constrained greedy", "F1"),
    "spans": ("greedy is a span", "share"),
    "best": ("greedy is the best span", "share"),
}
"""Field of `Measured` → name and unit of its curve."""
AHEAD = 1.0
"""Points of F1 from which on a gap is called one."""
CARD = ", card"
"""Ends the name of a curve that was measured when the models were trained."""


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    variant: Annotated[
        Literal["A", "B"],
        Meta(description="How the model was pretrained; A: span corruption, B: recurring span selection"),
    ] = "A"
    examples: Annotated[
        Literal["all", "0", "16", "64", "256", "1024"], Meta(description="How many questions it was then taught")
    ] = "all"
    questions: Annotated[int, Meta(ge=1, le=100, description="Held-out questions that are asked")] = 24
    cap: Annotated[int, Meta(ge=1, le=64, description="Tokens of a span at most")] = 12
    chunk: Annotated[int, Meta(ge=1, le=128, description="Suffixes of the passage in one pass")] = 16


@dataclass(frozen=True, slots=True)
class Form:
    """A question as the encoder reads it, and its passage, as token ids."""

    ids: list[int]
    passage: list[int]


def form(model: Seq2SeqModel, question: Question) -> Form:
    """The paper's pattern. Spans begin and end at the tokens that the passage has in it."""
    passage = model.encode(f" {question.passage}")
    behind = model.encode(f"\nQuestion: {question.question}\nAnswer:{BLANK}.")
    return Form([*model.encode("Text:"), *passage, *behind], passage)


@dataclass(frozen=True, slots=True)
class Weighed:
    """All spans of a passage: l, e and S, each (starts, length - 1)."""

    passage: list[int]
    each: Tensor
    end: Tensor
    score: Tensor

    def span(self, start: int, column: int) -> list[int]:
        return self.passage[start : start + column + 1]

    @property
    def best(self) -> tuple[int, int]:
        """(start, column) of the greatest S, the first one in reading order."""
        at = best_cell(self.score.tolist())
        assert at is not None, "a passage has a token"
        return at[0], at[1] - 1

    def cell(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """Where a span stands for the first time, if it is one within the cap."""
        start = place(self.passage, tokens)
        return None if start is None or len(tokens) > self.score.shape[1] else (start, len(tokens) - 1)


def place(passage: Sequence[int], tokens: Sequence[int]) -> int | None:
    """The first start at which tokens stand in a passage; None where they do not, and for no tokens."""
    size = len(tokens)
    starts = range(len(passage) - size + 1) if size else ()
    return next((start for start in starts if list(passage[start : start + size]) == list(tokens)), None)


def begin(
    model: Seq2SeqModel, ids: Sequence[int], ledger: list[Event], now: Callable[[], float]
) -> tuple[DecoderState, Tensor]:
    """Step 1: the decoder before the answer, and the logits (vocabulary,) of the answer's first token."""
    state = model.read(ids, ledger, now)
    return state, state.extend([model.start_id, model.id(BLANK)], last=True)[-1]


def weigh(state: DecoderState, first: Tensor, passage: Sequence[int], marker: int, cap: int, chunk: int) -> Weighed:
    """Steps 2 to 4. `first` are the logits (vocabulary,) of the first token; the state stays as it was."""
    n = len(passage)
    cap = min(cap, n)
    rolled = torch.tensor([[passage[(start + k) % n] for k in range(cap)] for start in range(n)])
    each, end = torch.empty(n, cap), torch.empty(n, cap)
    each[:, 0] = first.log_softmax(-1)[rolled[:, 0]]
    for at in range(0, n, chunk):
        rows = rolled[at : at + chunk]
        log_p = state.fork(len(rows)).extend(rows.tolist()).log_softmax(-1)
        each[at : at + chunk, 1:] = log_p[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
        end[at : at + chunk] = log_p[:, :, marker]
    score = each.cumsum(-1) + end
    wrapped = torch.arange(n)[:, None] + torch.arange(cap) >= n
    return Weighed(list(passage), each, end, score.masked_fill(wrapped, NEVER))


@dataclass(frozen=True, slots=True)
class Said:
    """What greedy decoding says, and whether the marker E, and no other special token or the limit, ended it."""

    tokens: list[int]
    ended: bool


def greedy(model: Seq2SeqModel, state: DecoderState, first: Tensor, marker: int) -> Said:
    """Greedy decoding up to a special token, from the logits of the first token. The state goes along."""
    special = {marker, model.start_id, model.end_id, model.id(BLANK)}
    tokens: list[int] = []
    token = int(first.argmax())
    while token not in special and len(tokens) < GREEDY_TOKENS:
        tokens.append(token)
        token = int(state.extend([token])[-1].argmax())
    return Said(tokens, token == marker)


def constrained(spans: Weighed) -> list[int]:
    """Greedy choices between E and what goes on with a span, read off l and e."""
    tokens: list[int] = []
    starts = list(range(len(spans.passage)))
    for k in range(spans.each.shape[1]):
        behind: dict[int, list[int]] = {}
        for start in starts:
            if start + k < len(spans.passage):
                behind.setdefault(spans.passage[start + k], []).append(start)
        worth = {token: float(spans.each[those[0], k]) for token, those in behind.items()}
        token = max(worth, key=worth.__getitem__, default=None)
        if token is None or (k and float(spans.end[starts[0], k - 1]) >= worth[token]):
            break
        tokens.append(token)
        starts = behind[token]
    return tokens


@dataclass(frozen=True, slots=True)
class Answered:
    """One question in three ways."""

    question: Question
    spans: Weighed
    exact: list[int]
    greedy: Said
    constrained: list[int]
    has_words: bool
    """Whether greedy decoding says a word at all, and not only punctuation."""

    @property
    def is_span(self) -> bool:
        """Whether the greedy answer stands in the passage. A full stop would, but is no answer."""
        return self.has_words and place(self.spans.passage, self.greedy.tokens) is not None

    @property
    def is_best(self) -> bool:
        return self.greedy.tokens == self.exact


def answer(
    model: Seq2SeqModel,
    question: Question,
    *,
    cap: int,
    chunk: int,
    ledger: list[Event] | None = None,
    now: Callable[[], float] = lambda: 0.0,
) -> Answered:
    """Steps 1 to 5 for one question."""
    text = form(model, question)
    marker = model.id(MARKER)
    state, first = begin(model, text.ids, [] if ledger is None else ledger, now)
    spans = weigh(state, first, text.passage, marker, cap, chunk)
    said = greedy(model, state, first, marker)
    has_words = any(letter.isalnum() for letter in model.decode(said.tokens))
    return Answered(question, spans, spans.span(*spans.best), said, constrained(spans), has_words)


def measured(model: Seq2SeqModel, variant: str, examples: int, answers: Sequence[Answered]) -> Measured:
    """Step 6 for one checkpoint. At least one question must have been answered."""

    def quality(said: Callable[[Answered], Sequence[int]]) -> float:
        return sum(f1(model.decode(said(one)), one.question.answer) for one in answers) / len(answers)

    return Measured(
        variant=variant,
        examples=examples,
        exact=quality(lambda one: one.exact),
        greedy=quality(lambda one: one.greedy.tokens),
        constrained=quality(lambda one: one.constrained),
        spans=sum(one.is_span for one in answers) / len(answers),
        best=sum(one.is_best for one in answers) / len(answers),
    )


@method(
    "extraction-curve",
    title="Extraction Curve",
    family="labs",
    paper=Paper(
        "How Optimal is Greedy Decoding for Extractive Question Answering?", "Castel et al.", 2022, "2108.05857"
    ),
    params=Params,
    idea="A tiny model was taught to answer with pieces of a text, from none to a thousand questions. See how far its "
    "greedy answers are from the best ones, and how they come nearer.",
    look_at="The gap between exact and greedy on the left of the learning curve, and what is left of it on the right.",
    pictures=("learning-curve", "span-matrix", "scores", "budget"),
)
def extraction_curve(run: Run, params: Params) -> Iterator[Event]:
    card, asked = load_card(), load_questions()[: params.questions]
    yield Note(
        text=f"Asked is not the model above but the span reader {params.variant}, an encoder-decoder of "
        f"{card.parameters:,} numbers, with {len(asked)} held-out questions of its own made-up world."
    )
    yield from curves([one for one in card.measured if one.variant == params.variant], CARD)
    numbers = EXAMPLES if params.examples == "all" else (int(params.examples),)
    found: list[Measured] = []
    shown: tuple[Seq2SeqModel, Answered] | None = None
    for examples in numbers:
        with run.aside():
            model = load_reader(params.variant, examples)
        answers: list[Answered] = []
        for question in asked:
            if run.finished:
                break
            one = answer(model, question, cap=params.cap, chunk=params.chunk, ledger=run.ledger, now=run.clock.now)
            yield from run.settle()
            answers.append(one)
            if shown is None or (shown[1].is_best and not one.is_best):
                shown = model, one
        if len(answers) < len(asked):
            yield Note(text=f"The run ended in the questions of {model.title}, so these do not count.")
            break
        found.append(measured(model, params.variant, examples, answers))
        yield from curves(found)
        yield Note(text=told(found[-1], len(answers)))
    if len(found) > 1:
        yield Note(text=verdict(found))
    if found:
        yield table(found)
    if shown:
        yield from map_of(*shown)


def curves(found: Sequence[Measured], ending: str = "") -> Iterator[Curve]:
    """The measures over the number of training questions."""
    for field, (name, unit) in SERIES.items():
        yield Curve(
            name=name + ending,
            x_name=X_NAME,
            y_name=unit,
            x=tuple(float(one.examples) for one in found),
            y=tuple(getattr(one, field) for one in found),
        )


def told(one: Measured, count: int) -> str:
    """A checkpoint in words."""
    return (
        f"Taught {one.examples:,} questions, F1 over {count}: exact {one.exact:.2f}, greedy {one.greedy:.2f}, "
        f"constrained greedy {one.constrained:.2f}. Of the greedy answers {one.spans:.0%} are spans, {one.best:.0%} "
        "the most probable one."
    )


def verdict(found: Sequence[Measured]) -> str:
    """What became of the paper's claims in what was measured, at least two checkpoints."""
    first, last = found[0], found[-1]
    gaps = {one.examples: 100 * (one.exact - one.greedy) for one in found}
    widest = max(gaps, key=gaps.__getitem__)
    before, after = gaps[first.examples], gaps[last.examples]
    ahead = "ahead as in the paper" if before >= AHEAD else "not clearly ahead, unlike in the paper"
    closes = "closes, as in the paper" if max(AHEAD, 2 * after) <= gaps[widest] else "does not close"
    sentences = [
        f"At {first.examples:,} questions exact is {before:.1f} points of F1 above greedy, {ahead}.",
        f"The gap is widest at {widest:,}: {gaps[widest]:.1f} points.",
        f"At {last.examples:,} it is {after:.1f}: it {closes}.",
        "Greedy answers that are spans, from few to many questions: "
        + ", ".join(f"{one.spans:.0%}" for one in found)
        + "; that are the best span: "
        + ", ".join(f"{one.best:.0%}" for one in found)
        + ".",
    ]
    if first.spans > 0.5 and first.greedy < 0.1:
        sentences.append(
            f"The first {first.spans:.0%} mean little: before it is taught the form of an answer, the model repeats "
            "pieces of its text that answer nothing, and so does the best span."
        )
    return " ".join(sentences)


def table(found: Sequence[Measured]) -> Matrix:
    """All measures, a row per checkpoint."""
    return Matrix(
        name="learning curve",
        rows=tuple(f"{one.variant}, {one.examples:,}" for one in found),
        columns=tuple(name for name, _ in SERIES.values()),
        values=tuple(tuple(getattr(one, field) for field in SERIES) for one in found),
        row_name="variant, training questions",
        value_name="F1 or share",
    )


def map_of(model: Seq2SeqModel, one: Answered) -> Iterator[Event]:
    """One question: its best spans, and all of them as a map with the way of greedy decoding."""
    asked = f"“{one.question.question}” Right: “{one.question.answer}”"
    if one.is_best:
        text = f"Every greedy answer is the best span. The map is of {model.title} and {asked}."
    else:
        said = model.decode(one.greedy.tokens).strip()
        text = f"The map is of {model.title}, where greedy decoding misses the best span: {asked}. Greedy: “{said}”."
    yield Note(text=text)
    spans, best = one.spans, one.spans.best
    values = spans.score.tolist()
    distinct: dict[tuple[int, ...], tuple[int, int]] = {}
    for start, row in enumerate(values):
        for column, value in enumerate(row):
            if math.isfinite(value):
                distinct.setdefault(tuple(spans.span(start, column)), (start, column))
    ranked = sorted(distinct.values(), key=lambda at: (-values[at[0]][at[1]], at))
    for rank, at in enumerate(ranked[:TOP]):
        end = float(spans.end[at])
        yield Score(
            name="span",
            value=values[at[0]][at[1]],
            parts={"span": values[at[0]][at[1]] - end, "end": end},
            chosen=at == best,
            sequence=rank,
            text=model.decode(spans.span(*at)),
        )
    yield Matrix(
        name="spans",
        rows=tuple(model.token(id).text for id in spans.passage),
        columns=tuple(str(length) for length in range(1, spans.score.shape[1] + 1)),
        values=tuple(tuple(value if math.isfinite(value) else None for value in row) for row in values),
        row_name="first token",
        column_name="tokens",
        value_name="log-probability",
        marks=tuple(marks(spans, one.greedy)),
    )


def marks(spans: Weighed, said: Said) -> Iterator[Mark]:
    """The best span, others of the same text, and the way of greedy decoding, as in `exact-extract`'s map."""
    best = spans.best
    yield Mark(*best, "best")
    for start in range(len(spans.passage)):
        if start != best[0] and spans.span(start, best[1]) == spans.span(*best):
            yield Mark(start, best[1], "duplicate")
    path: list[tuple[int, int]] = []
    for length in range(1, len(said.tokens) + 1):
        at = spans.cell(said.tokens[:length])
        if at is None:
            break
        path.append(at)
    if not path:
        yield Mark(best[0], 0, "greedy outside")
        return
    yield from (Mark(*at, "greedy") for at in path)
    yield Mark(*path[-1], "greedy ends" if len(path) == len(said.tokens) and said.ended else "greedy leaves")
