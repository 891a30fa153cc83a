"""The learning curve of extraction: brute force, chunks, the cap, greedy beside the optimum, and what training does."""

from __future__ import annotations

import dataclasses
import math
import socket
from collections.abc import Sequence

import pytest
import torch

from engines.constrained.spans import NEVER
from engines.errors import ModelUnavailable
from engines.events import Curve, Event, Forward, Matrix, Note, Score
from engines.labs.extraction_curve import (
    BLANK,
    CARD,
    MARKER,
    SERIES,
    Answered,
    Said,
    answer,
    begin,
    constrained,
    form,
    greedy,
    marks,
    measured,
    place,
    verdict,
    weigh,
)
from engines.method import methods
from engines.models.causal import CausalModel
from engines.models.seq2seq import Seq2SeqModel
from engines.models.span_reader import (
    EXAMPLES,
    FOLDER,
    VARIANTS,
    Measured,
    Question,
    load_card,
    load_questions,
    load_reader,
)
from engines.runner import run
from tests.engines.laws import check_stream, finished, only, untimed
from tests.engines.toy import ToyState
from training.span_reader import readme

ASKED = load_questions()[:24]


@pytest.fixture(scope="module", params=[("A", 0), ("B", 1024)], ids=["A, untaught", "B, taught"])
def reader(request: pytest.FixtureRequest) -> Seq2SeqModel:
    return load_reader(*request.param)


def plainly(model: Seq2SeqModel, question: Question, spans: Sequence[Sequence[int]]) -> list[float]:
    """S of spans of one length, by transformers' own forward over encoder and decoder, without any cache."""
    text = f"Text: {question.passage}\nQuestion: {question.question}\nAnswer:{BLANK}."
    source = torch.tensor([model.encode(text)]).expand(len(spans), -1)
    target = torch.tensor([[*span, model.id(MARKER)] for span in spans])
    opening = torch.tensor([[0, model.id(BLANK)]]).expand(len(spans), -1)
    with torch.no_grad():
        decoder = torch.cat([opening, target[:, :-1]], 1)
        logits = model.network(input_ids=source, decoder_input_ids=decoder, use_cache=False).logits[:, 1:]
    return logits.double().log_softmax(-1).gather(-1, target[..., None])[..., 0].sum(-1).tolist()


def brute_force(model: Seq2SeqModel, question: Question, cap: int) -> dict[tuple[int, int], float]:
    """(start, length) → S of every span, each scored as a text of its own."""
    passage = form(model, question).passage
    found: dict[tuple[int, int], float] = {}
    for length in range(1, cap + 1):
        starts = range(len(passage) - length + 1)
        scores = plainly(model, question, [passage[start : start + length] for start in starts])
        found |= {(start, length): score for start, score in zip(starts, scores, strict=True)}
    return found


def answers(variant: str, examples: int, count: int = len(ASKED)) -> list[Answered]:
    return [answer(load_reader(variant, examples), one, cap=12, chunk=32) for one in ASKED[:count]]


@pytest.fixture(scope="module")
def untaught() -> list[Answered]:
    return answers("A", 0)


# The search


def test_every_span_is_scored_as_a_forward_pass_of_its_own_would(reader: Seq2SeqModel) -> None:
    for question in ASKED[:3]:
        expected = brute_force(reader, question, 5)
        spans = answer(reader, question, cap=5, chunk=7).spans
        found = {
            (start, column + 1): value
            for start, row in enumerate(spans.score.tolist())
            for column, value in enumerate(row)
            if value > NEVER
        }
        assert found.keys() == expected.keys()
        assert max(abs(found[cell] - expected[cell]) for cell in found) < 2e-3
        best = spans.best
        assert expected[best[0], best[1] + 1] >= max(expected.values()) - 2e-3


def test_spans_of_exactly_the_cap_take_the_end_behind_themselves(reader: Seq2SeqModel) -> None:
    """The published code takes the end of column 0 there."""
    for cap in (1, 2, 4):
        spans = answer(reader, ASKED[0], cap=cap, chunk=16).spans
        starts = range(len(spans.passage) - cap + 1)
        expected = plainly(reader, ASKED[0], [spans.passage[start : start + cap] for start in starts])
        assert spans.score[: len(expected), -1].tolist() == pytest.approx(expected, abs=2e-3)


def test_a_smaller_cap_takes_spans_away_and_changes_none(reader: Seq2SeqModel) -> None:
    wide, narrow = (answer(reader, ASKED[1], cap=cap, chunk=16).spans.score for cap in (9, 4))
    torch.testing.assert_close(narrow, wide[:, :4], atol=1e-3, rtol=0)


def test_the_chunks_make_no_difference(reader: Seq2SeqModel) -> None:
    whole, *others = (answer(reader, ASKED[2], cap=8, chunk=chunk) for chunk in (128, 1, 5, 16))
    for one in others:
        torch.testing.assert_close(one.spans.score, whole.spans.score, atol=1e-3, rtol=0)
        assert (one.exact, one.constrained, one.greedy) == (whole.exact, whole.constrained, whole.greedy)


def test_what_goes_beyond_the_passage_is_no_span(reader: Seq2SeqModel) -> None:
    spans = answer(reader, ASKED[0], cap=64, chunk=32).spans
    n = len(spans.passage)
    assert spans.score.shape == (n, min(64, n))
    for start, row in enumerate(spans.score.tolist()):
        assert [value > NEVER for value in row] == [start + column < n for column in range(len(row))]


def test_the_same_text_at_two_places_scores_the_same(untaught: list[Answered]) -> None:
    twice = 0
    for one in untaught[:6]:
        spans = one.spans
        for start in range(len(spans.passage) - 1):
            first = place(spans.passage, spans.span(start, 1))
            if first is not None and first < start:
                twice += 1
                assert float(spans.score[first, 1]) == pytest.approx(float(spans.score[start, 1]), abs=1e-3)
    assert twice > 5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("examples", [0, 64])
def test_the_best_span_is_at_least_as_probable_as_greedys_and_equal_only_if_it_is_the_same(
    variant: str, examples: int
) -> None:
    spans = 0
    for one in answers(variant, examples):
        cell = one.spans.cell(one.greedy.tokens)
        assert one.is_span == (cell is not None and one.has_words)
        if cell is None:
            assert not one.is_best
            continue
        spans += 1
        best, ours = float(one.spans.score[one.spans.best]), float(one.spans.score[cell])
        assert best >= ours
        assert (best - ours < 1e-4) == one.is_best
    assert spans > 0


def test_greedy_is_what_transformers_generates(reader: Seq2SeqModel) -> None:
    for question in ASKED[:4]:
        text = form(reader, question)
        state, first = begin(reader, text.ids, [], lambda: 0.0)
        said = greedy(reader, state, first, reader.id(MARKER))
        tokens = [0, reader.id(BLANK)]
        for _ in range(len(said.tokens) + 1):
            with torch.no_grad():
                logits = reader.network(
                    input_ids=torch.tensor([text.ids]), decoder_input_ids=torch.tensor([tokens]), use_cache=False
                ).logits
            tokens.append(int(logits[0, -1].argmax()))
        assert tokens[2:-1] == said.tokens
        assert said.ended == (tokens[-1] == reader.id(MARKER))


WORDS = ("<start>", "the", "red", "fox", "saw", "dog", ".", "cat")
FOX = {
    "<start>": {"the": 0.30, "red": 0.05, "fox": 0.10, "saw": 0.02, "dog": 0.13, "cat": 0.40},
    "the": {"red": 0.5, "dog": 0.2, "cat": 0.3},
    "red": {"fox": 0.9, ".": 0.1},
    "fox": {".": 0.6, "saw": 0.4},
    "saw": {"the": 0.9, ".": 0.1},
    "dog": {".": 0.8, "saw": 0.2},
    "cat": {".": 1.0},
    ".": {".": 1.0},
}
PASSAGE = [WORDS.index(word) for word in ("the", "red", "fox", "saw", "the", "dog")]


class Fox(ToyState):
    """The next word depends on the last one only, so that every number can be worked out by hand."""

    def fork(self, count: int) -> Fox:
        twin = Fox(self._table, self._ledger)
        twin.rows = [list(row) for row in self.rows for _ in range(count)]
        return twin


@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_the_fox_and_the_dog(chunk: int) -> None:
    """Exact, greedy and constrained greedy give three different answers, and all numbers are known."""
    table = torch.tensor([[FOX[word].get(other, 0.0) for other in WORDS] for word in WORDS])
    state = Fox(table, [])
    first = state.extend([0])[-1]
    spans = weigh(state, first, PASSAGE, WORDS.index("."), 6, chunk)  # type: ignore[arg-type]
    known = {"dog": 0.1040, "the red fox": 0.0810, "fox": 0.0600, "the dog": 0.0480, "red fox": 0.0270}
    by_text = {
        " ".join(WORDS[id] for id in spans.span(start, column)): math.exp(value)
        for start, row in enumerate(spans.score.tolist())
        for column, value in enumerate(row)
        if value > NEVER
    }
    assert sorted(by_text, key=by_text.__getitem__, reverse=True)[:5] == list(known)
    for text, p in known.items():
        assert by_text[text] == pytest.approx(p, abs=5e-5)
    assert spans.best == (5, 0)
    assert WORDS[int(first.argmax())] == "cat"
    assert [WORDS[id] for id in constrained(spans)] == ["the", "red", "fox"]
    assert state.rows == [[0]]
    marked = [(mark.row, mark.column, mark.name) for mark in marks(spans, Said([WORDS.index("cat")], True))]
    assert marked == [(5, 0, "best"), (5, 0, "greedy outside")]
    walk = [(mark.row, mark.column, mark.name) for mark in marks(spans, Said(PASSAGE[:2], True))][1:]
    assert walk == [(0, 0, "greedy"), (0, 1, "greedy"), (0, 1, "greedy ends")]
    astray = [(mark.row, mark.column, mark.name) for mark in marks(spans, Said([*PASSAGE[:2], 5], True))][1:]
    assert astray[-1] == (0, 1, "greedy leaves")


# What is shipped


def test_the_questions_are_answered_by_spans_of_their_passages() -> None:
    model = load_reader("A", 0)
    card = load_card()
    assert len(load_questions()) == card.held_out
    for question in load_questions():
        text = form(model, question)
        whole = f"Text: {question.passage}\nQuestion: {question.question}\nAnswer:{BLANK}."
        assert text.ids == model.encode(whole)
        right = model.encode(" " + question.answer)
        assert place(text.passage, right) is not None
        assert len(right) <= card.cap


def test_what_a_run_measures_is_on_the_card() -> None:
    """One checkpoint over all held-out questions."""
    model = load_reader("B", 0)
    found = measured(model, "B", 0, [answer(model, one, cap=load_card().cap, chunk=64) for one in load_questions()])
    (told,) = [one for one in load_card().measured if (one.variant, one.examples) == ("B", 0)]
    for field in SERIES:
        assert getattr(found, field) == pytest.approx(getattr(told, field), abs=0.011), field


def test_what_the_card_claims_shows_again_on_a_few_questions() -> None:
    """Exact is ahead after a few questions, greedy catches up and learns to say spans; B is ahead of A."""
    few, many = (measured(load_reader("A", n), "A", n, answers("A", n)) for n in (64, 1024))
    assert few.exact - few.greedy > 0.08
    assert many.exact - many.greedy < (few.exact - few.greedy) / 2
    assert many.spans > few.spans + 0.1
    assert many.best > few.best + 0.1
    assert many.greedy > few.greedy + 0.2
    recurring = measured(load_reader("B", 64), "B", 64, answers("B", 64))
    assert recurring.greedy > few.greedy + 0.2


def test_untaught_nobody_is_ahead_and_that_is_said(untaught: list[Answered]) -> None:
    """The paper's first claim does not show at this scale."""
    before = measured(load_reader("A", 0), "A", 0, untaught)
    assert before.exact >= before.greedy
    assert before.exact < 0.1
    assert before.spans > 0.5, "pieces of the text that answer nothing"
    said = verdict([one for one in load_card().measured if one.variant == "A"])
    assert "not clearly ahead, unlike in the paper" in said
    assert "closes, as in the paper" in said
    assert "mean little" in said


def test_the_verdict_is_of_the_numbers() -> None:
    def point(examples: int, exact: float, greedy: float, spans: float) -> Measured:
        told = {"constrained": 0.0, "best": spans}
        return Measured(variant="A", examples=examples, exact=exact, greedy=greedy, spans=spans, **told)

    paper = verdict([point(0, 0.5, 0.3, 0.3), point(16, 0.6, 0.5, 0.7), point(1024, 0.8, 0.79, 0.95)])
    assert "At 0 questions exact is 20.0 points of F1 above greedy, ahead as in the paper." in paper
    assert "At 1,024 it is 1.0: it closes" in paper
    assert "30%, 70%, 95%" in paper
    assert "mean little" not in paper
    other = verdict([point(0, 0.5, 0.5, 0.3), point(1024, 0.8, 0.6, 0.95)])
    assert "not clearly ahead" in other
    assert "does not close" in other


def test_a_full_stop_is_no_answer() -> None:
    model = load_reader("A", 0)
    one = answer(model, ASKED[0], cap=2, chunk=64)
    stop = dataclasses.replace(one, greedy=Said(model.encode("."), True), has_words=False)
    assert place(one.spans.passage, stop.greedy.tokens) is not None
    assert not stop.is_span
    assert all(
        any(letter.isalnum() for letter in model.decode(o.greedy.tokens)) == o.has_words for o in answers("A", 0)
    )


def test_the_card_says_whether_the_claims_show() -> None:
    card = load_card()
    assert [(one.variant, one.examples) for one in card.measured] == [(v, n) for v in VARIANTS for n in EXAMPLES]
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert page == readme(card), "python -m training.span_reader writes it"
    for one in card.measured:
        assert f"| {one.variant} | {one.examples:,} | {one.exact:.3f} | {one.greedy:.3f} |" in page
    by_name = {(one.variant, one.examples): one for one in card.measured}
    higher = by_name["B", 0].greedy > by_name["A", 0].greedy
    assert ("which is higher, as in the paper" in page) == higher
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12_000_000


def test_a_reader_is_loaded_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_reader.cache_clear()
    assert load_reader("A", 16).vocabulary_size == load_card().vocabulary


def test_a_missing_reader_is_told_of() -> None:
    with pytest.raises(ModelUnavailable, match=r"training\.span_reader"):
        load_reader("A", 17)


# A run


@pytest.fixture(scope="module")
def whole(tiny_llama: CausalModel) -> list[Event]:
    return list(run(tiny_llama, "extraction-curve", "Hello", params={"questions": 4}))


def points(events: Sequence[Event], name: str) -> list[tuple[float, float]]:
    last = [curve for curve in only(events, Curve) if curve.name == name][-1]
    return list(zip(last.x, last.y, strict=True))


def test_a_run_measures_every_checkpoint(tiny_llama: CausalModel, whole: list[Event]) -> None:
    check_stream(tiny_llama, whole)
    assert (finished(whole).reason, finished(whole).text) == ("method done", "")
    for name, unit in SERIES.values():
        assert [x for x, _ in points(whole, name)] == list(EXAMPLES)
        assert [x for x, _ in points(whole, name + CARD)] == list(EXAMPLES)
        assert {curve.y_name for curve in only(whole, Curve) if curve.name in (name, name + CARD)} == {unit}
    assert points(whole, "exact, card") == [(one.examples, one.exact) for one in load_card().measured[:5]]
    (table,) = [matrix for matrix in only(whole, Matrix) if matrix.name == "learning curve"]
    assert [row[0] for row in table.values] == [y for _, y in points(whole, "exact")]


def test_the_map_is_of_a_question_and_its_list_is_the_maps_best(whole: list[Event]) -> None:
    (table,) = [matrix for matrix in only(whole, Matrix) if matrix.name == "spans"]
    assert whole.index(table) == max(index for index, event in enumerate(whole) if isinstance(event, Matrix))
    assert "".join(table.rows).strip() in {question.passage for question in ASKED}
    listed = [score for score in only(whole, Score) if score.name == "span"]
    assert [score.chosen for score in listed] == [True] + [False] * (len(listed) - 1)
    assert len({score.text for score in listed}) == len(listed) == 8
    best = next(mark for mark in table.marks if mark.name == "best")
    values = [value for row in table.values for value in row if value is not None]
    assert table.values[best.row][best.column] == listed[0].value == max(values)
    assert all(score.value == pytest.approx(sum(score.parts.values())) for score in listed)
    assert {mark.name for mark in table.marks} & {"greedy outside", "greedy leaves", "greedy ends"}


def test_every_pass_of_the_reader_is_counted(whole: list[Event]) -> None:
    passes = only(whole, Forward)
    encoders = [one for one in passes if one.lane == "prompt" and one.query > 20]
    assert len(encoders) == 4 * len(EXAMPLES)
    assert finished(whole).totals.target_passes == sum(one.lane == "target" for one in passes) > 3 * len(encoders)


def test_one_checkpoint_is_one_point(tiny_llama: CausalModel) -> None:
    events = list(
        run(tiny_llama, "extraction-curve", "Hello", params={"variant": "B", "examples": "64", "questions": 2})
    )
    assert [x for x, _ in points(events, "greedy")] == [64]
    assert points(events, "greedy, card") == [(one.examples, one.greedy) for one in load_card().measured[5:]]
    assert (
        untimed(events)[1:]
        == untimed(
            list(
                run(tiny_llama, "extraction-curve", "Hello", params={"variant": "B", "examples": "64", "questions": 2})
            )
        )[1:]
    )


def test_a_run_out_of_time_counts_no_half_measured_checkpoint(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "extraction-curve", "Hello", params={"questions": 100}, time_limit=0.3))
    assert finished(events).reason == "time limit"
    assert not [curve for curve in only(events, Curve) if not curve.name.endswith(CARD)]
    assert any("do not count" in note.text for note in only(events, Note))


def test_the_page_gets_its_controls() -> None:
    card = methods()["extraction-curve"]
    assert {setting.name: (setting.default, set(setting.choices)) for setting in card.settings()} == {
        "variant": ("A", {"A", "B"}),
        "examples": ("all", {"all", *map(str, EXAMPLES)}),
        "questions": (24, set()),
        "cap": (12, set()),
        "chunk": (16, set()),
    }
    assert card.pictures[0] == "learning-curve"
