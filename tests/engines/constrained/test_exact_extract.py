"""Exact extraction: a toy with every number written out, brute force, ties, the cap, and the model that is shipped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from engines import run
from engines.constrained import exact_extract as method_file
from engines.constrained.exact_extract import Params, chunked, extract, extract_greedily, greedy, lazy, packed
from engines.constrained.extractiveness import Answers, Question, answer, f1, quality, questions
from engines.constrained.passage import NoPassage, Passage, end_tokens, find_passage
from engines.constrained.spans import Ranking, Scores, best_cell, span_trie, unread
from engines.errors import BadParameter
from engines.events import Candidates, Commit, Event, Finished, Forward, Mask, Matrix, Note, Score, committed
from engines.grammars.vocabulary import Vocabulary
from engines.models.causal import CausalModel
from engines.runner import Run
from tests.engines.laws import check_stream, finished, only, untimed
from tests.engines.toy import ToyModel, ToyState, toy_run

WORDS = ["Text:", "the", "red", "fox", "saw", "dog", "\nQuestion:", "?", ".", "cat"]
PROMPT = ["Text:", "the", "red", "fox", "saw", "the", "dog", "\nQuestion:", "?"]
FOX: dict[str, dict[str, float]] = {
    "?": {"the": 0.30, "red": 0.05, "fox": 0.10, "saw": 0.02, "dog": 0.13, "cat": 0.40},
    "the": {"red": 0.5, "dog": 0.2, "cat": 0.3},
    "red": {"fox": 0.9, ".": 0.1},
    "fox": {".": 0.6, "saw": 0.4},
    "saw": {"the": 0.9, ".": 0.1},
    "dog": {".": 0.8, "saw": 0.2},
    "cat": {".": 1.0},
}
QUESTION = "Text: The river Arno flows through Florence and Pisa.\nQuestion: Which river flows through Pisa?\nAnswer:"


class ForkingState(ToyState):
    """A toy state that can be copied, which the passes of the paper's kind need."""

    def fork(self, count: int) -> ForkingState:
        twin = ForkingState(self._table, self._ledger)
        twin.rows = [list(row) for row in self.rows for _ in range(count)]
        return twin


class WordModel(ToyModel):
    """A toy whose tokens are words, with the bytes that a constraint reads."""

    def __init__(self, words: Sequence[str], after: dict[str, dict[str, float]]) -> None:
        table = [[after.get(word, {}).get(other, 0.0) for other in words] for word in words]
        super().__init__(words, table)  # type: ignore[arg-type]
        self.vocabulary = Vocabulary(
            [word.encode() if word != "." else b"" for word in words], (), self.eos_ids, lambda text: [], self.token
        )

    def start(self, ledger: list[Event], now: object = None) -> ForkingState:
        return ForkingState(self.table, ledger)


@pytest.fixture
def fox() -> Run:
    return toy_run(WordModel(WORDS, FOX), PROMPT)  # type: ignore[arg-type]


def toy(job: Run, **params: Any) -> list[Event]:
    settings = Params(end="end of text", space="kept", **params)
    work = extract if settings.decode == "exact" else extract_greedily
    return list(work(job, settings))


def said(events: Sequence[Event]) -> str:
    return " ".join(placed.token.text for placed in committed(events))


def spans(events: Sequence[Event]) -> dict[str, float]:
    return {score.text: math.exp(score.value) for score in only(events, Score) if score.name == "span"}


def notes(events: Sequence[Event]) -> str:
    return " ".join(note.text for note in only(events, Note))


def search(job: Run, passage: Passage, cap: int, ends: Sequence[int], how: str, **options: Any) -> Scores:
    """All that one way of searching finds out; the cache is left as it was."""
    ranking = options.get("ranking", Ranking(False))
    scores = unread(span_trie(passage, cap, frozenset(ends)), ends, job.next_logits())
    before = job.state.length
    passes: dict[str, Iterator[int]] = {
        "packed": packed(job, scores),
        "lazy": lazy(job, scores, ranking, options.get("chunk", 4)),
        "chunked": chunked(job, scores, options.get("chunk", 4)),
    }
    assert all(read > 0 for read in passes[how])
    assert job.state.length == before
    job.state.rollback(1)
    return scores


def brute_force(
    model: CausalModel, prompt: Sequence[int], passage: Sequence[int], cap: int, ends: Sequence[int]
) -> Any:
    """S of every span, each by a pass of its own over prompt and span."""
    out: list[list[float]] = []
    for start in range(len(passage)):
        out.append([])
        for length in range(1, min(cap, len(passage) - start) + 1):
            span = list(passage[start : start + length])
            if set(span) & set(ends):
                break
            rows = model.start().extend([*prompt, *span]).double().log_softmax(-1)[len(prompt) - 1 :]
            path = sum(float(row[token]) for row, token in zip(rows, span, strict=False))
            out[-1].append(path + float(rows[-1][list(ends)].logsumexp(0)))
    return out


def flat(matrix: Sequence[Sequence[float | None]]) -> list[float]:
    return [value for row in matrix for value in row if value is not None]


def text_run(model: CausalModel, prompt: str = QUESTION, **limits: Any) -> Run:
    job = Run(model, model.encode(prompt, raw=True), **limits)
    list(job.read_prompt())
    return job


@pytest.mark.parametrize("how", ["packed", "lazy", "chunked"])
def test_the_fox_and_the_dog(fox: Run, how: str) -> None:
    """Exact, greedy and constrained greedy give three different answers, and all numbers are known."""
    events = toy(fox, search=how)
    assert said(events) == "dog ."
    expected = {"dog": 0.1040, "theredfox": 0.0810, "fox": 0.0600, "thedog": 0.0480, "redfox": 0.0270}
    found = spans(events)
    for text, p in expected.items():
        if how != "lazy" or text in found:
            assert found[text] == pytest.approx(p, abs=5e-5)
    assert next(iter(found)) == "dog"
    assert "Greedy decoding says “cat” with -0.916: that is no span" in notes(events)
    if how != "lazy":
        assert list(found)[:5] == list(expected)
        gap = math.log(0.1040 / 0.0810)
        assert f"Constrained greedy says “theredfox” with {math.log(0.081):.3f}: a span, {gap:.3f} below" in notes(
            events
        )


def test_lazy_search_looks_at_fewer_beginnings_and_says_so(fox: Run) -> None:
    events = toy(fox, search="lazy", chunk=1)
    assert said(events) == "dog ."
    # the (.30), red fox is behind the .135 of “the red” and fox's .12; dog's own .104 rules out all others.
    assert "looked at 4 of 20 beginnings; 16 were ruled out by their bound" in notes(events)


@pytest.mark.parametrize("how", ["packed", "lazy", "chunked"])
def test_normalised_a_long_span_that_begins_badly_can_still_win(how: str) -> None:
    """ln .01 over 6 is above ln .15 over 2, though ln .02 over 2 is below: no bound may take that for granted."""
    after: dict[str, dict[str, float]] = {
        "?": {"the": 0.02, "dog": 0.30, "cat": 0.68},
        "the": {"red": 1.0},
        "red": {"fox": 1.0},
        "fox": {"saw": 1.0},
        "saw": {"dog": 1.0},
        "dog": {".": 0.5, "cat": 0.5},
        "cat": {".": 1.0},
    }
    prompt = ["Text:", "the", "red", "fox", "saw", "dog", "\nQuestion:", "?"]
    jobs = [toy_run(WordModel(WORDS, after), prompt) for _ in range(2)]  # type: ignore[arg-type]
    assert said(toy(jobs[0], search=how, chunk=1)) == "dog ."
    events = toy(jobs[1], search=how, chunk=1, normalise=True)
    assert said(events) == "the red fox saw dog ."
    best = max(score.value for score in only(events, Score) if score.name == "span")
    assert best == pytest.approx(math.log(0.01) / 6)


def test_constrained_greedy_says_the_red_fox(fox: Run) -> None:
    events = toy(fox, decode="constrained greedy")
    assert said(events) == "the red fox ."
    first = only([*events, *fox.settle()], Mask)[0]
    assert first.blocked_mass == pytest.approx(0.4)


def test_the_matrix_is_a_triangle_with_the_best_marked(fox: Run) -> None:
    (matrix,) = only(toy(fox), Matrix)
    assert matrix.rows == ("the", "red", "fox", "saw", "the", "dog")
    assert matrix.columns == ("1", "2", "3", "4", "5", "6")
    widths = [sum(value is not None for value in row) for row in matrix.values]
    known = {(m.row, m.column, m.name) for m in matrix.marks}
    assert (5, 0, "best") in known
    assert (5, 0, "greedy outside") in known
    assert widths[:3] == [5, 5, 4] or widths[0] <= 6
    assert math.exp(matrix.values[0][2] or 0) == pytest.approx(0.0810)
    assert math.exp(matrix.values[4][1] or 0) == pytest.approx(0.0480)


def test_equal_texts_score_equally_and_both_are_marked(fox: Run) -> None:
    fox.model.table[WORDS.index("?")] *= 0  # type: ignore[attr-defined]
    fox.model.table[WORDS.index("?"), WORDS.index("the")] = 1.0  # type: ignore[attr-defined]
    fox.model.table[WORDS.index("the")] *= 0.1  # type: ignore[attr-defined]
    fox.model.table[WORDS.index("the"), WORDS.index(".")] = 0.9  # type: ignore[attr-defined]
    events = toy(fox)
    (matrix,) = only(events, Matrix)
    assert matrix.values[0][0] == matrix.values[4][0] == pytest.approx(math.log(0.9))
    assert {(m.row, m.column) for m in matrix.marks if m.name == "best"} == {(0, 0)}
    assert {(m.row, m.column) for m in matrix.marks if m.name == "duplicate"} == {(4, 0)}
    assert {(m.row, m.column) for m in matrix.marks if m.name == "greedy ends"} == {(0, 0)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("which", ["tiny_llama", "tiny_gpt2"])
def test_all_searches_agree_with_brute_force(which: str, seed: int, request: pytest.FixtureRequest) -> None:
    model: CausalModel = request.getfixturevalue(which)
    draw = torch.Generator().manual_seed(seed)
    passage = torch.randint(97, 101, (14,), generator=draw).tolist()
    prompt = torch.randint(0, 256, (9,), generator=draw).tolist()
    ends, cap = [10, 256], 5
    job = Run(model, prompt)
    list(job.read_prompt())
    truth = brute_force(model, prompt, passage, cap, ends)
    here = Passage(passage, [[token] for token in passage])
    for how in ("packed", "chunked"):
        scores = search(job, here, cap, ends, how)
        assert flat(Ranking(False).matrix(scores)) == pytest.approx(flat(truth), abs=2e-4)
        assert best_cell(Ranking(False).matrix(scores)) == best_cell(truth)
    for normalise in (False, True):
        ranking = Ranking(normalise)
        full = ranking.matrix(search(job, here, cap, ends, "packed"))
        if normalise:
            assert full[2][3] == pytest.approx(truth[2][3] / 5, abs=1e-4)
        for chunk in (1, 3, 64):
            scores = search(job, here, cap, ends, "lazy", chunk=chunk, ranking=ranking)
            at = best_cell(ranking.matrix(scores))
            assert at == best_cell(full)
            for ours, theirs in zip(ranking.matrix(scores), full, strict=True):
                assert all(a is None or a == pytest.approx(b, abs=2e-4) for a, b in zip(ours, theirs, strict=True))


def test_the_result_does_not_depend_on_the_chunk_size(tiny_llama: CausalModel) -> None:
    job = text_run(tiny_llama)
    ends = end_tokens(job, "both")
    passage = find_passage(job, frozenset(ends))
    found = [search(job, passage, 6, ends, "chunked", chunk=chunk) for chunk in (1, 2, 7, 64)]
    first, *others = [flat(Ranking(False).matrix(scores)) for scores in found]
    for other in others:
        assert other == pytest.approx(first, abs=2e-4)


@pytest.mark.parametrize("most", [1, 5, 17])
def test_a_trie_read_in_many_passes_is_read_as_in_one(
    tiny_llama: CausalModel, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = text_run(tiny_llama)
    ends = end_tokens(job, "both")
    passage = find_passage(job, frozenset(ends))
    whole = search(job, passage, 4, ends, "packed")
    monkeypatch.setattr(method_file, "MOST_NODES", most)
    before = len(job.ledger)
    parts = search(job, passage, 4, ends, "packed")
    passes = [event for event in job.ledger[before:] if isinstance(event, Forward)]
    assert max(event.query for event in passes) <= max(most, 4)
    assert len(passes) > 5
    assert flat(Ranking(False).matrix(parts)) == pytest.approx(flat(Ranking(False).matrix(whole)), abs=2e-4)


def test_spans_of_exactly_the_cap_are_right_and_wrong_as_published(tiny_llama: CausalModel) -> None:
    job = text_run(tiny_llama)
    ends, cap = end_tokens(job, "both"), 3
    tokens = find_passage(job, frozenset(ends)).tokens
    passage = Passage(tokens, [[token] for token in tokens])
    truth = brute_force(tiny_llama, job.prompt, passage.tokens, cap, ends)
    scores = search(job, passage, cap, ends, "packed")
    right, wrong = Ranking(False).matrix(scores), Ranking(False, roll=cap).matrix(scores)
    start = job.next_logits().log_softmax(-1)[ends].logsumexp(0)
    for ours, published, row in zip(right, wrong, truth, strict=True):
        assert ours == pytest.approx(row, abs=2e-4)
        assert published[: cap - 1] == pytest.approx(row[: cap - 1], abs=2e-4)
        if len(row) == cap:
            assert published[cap - 1] != pytest.approx(row[cap - 1], abs=1e-2)
    path = scores.paths[scores.trie.cells[0][cap - 1]]
    assert path is not None
    assert wrong[0][cap - 1] == pytest.approx(path + float(start), abs=2e-4)


def test_the_published_error_needs_a_cap_below_the_passage(fox: Run) -> None:
    right = toy(fox, as_published=True, cap=12)
    assert said(right) == "dog ."
    plain = toy(toy_run(fox.model, PROMPT), cap=12)  # type: ignore[arg-type]
    assert only(right, Matrix)[0].values == only(plain, Matrix)[0].values
    job = toy_run(fox.model, PROMPT)  # type: ignore[arg-type]
    wrong = toy(job, as_published=True, cap=1)
    # P(end) right after the prompt is 0, so not one span of one token is left.
    assert said(wrong) == ""
    assert "No span has a probability above 0" in notes(wrong)


@pytest.mark.parametrize("seed", range(6))
def test_the_best_span_is_never_below_greedy_decodings(seed: int) -> None:
    """On random tables; wherever greedy decoding gives a span, it is at most as good, and equal only if the same."""
    draw = torch.Generator().manual_seed(seed)
    table = torch.rand((len(WORDS), len(WORDS)), generator=draw).pow(4)
    after = {
        word: {other: float(p) for other, p in zip([*WORDS[1:6], "."], row[:6] / row[:6].sum(), strict=True)}
        for word, row in zip(WORDS, table, strict=True)
    }
    job = toy_run(WordModel(WORDS, after), PROMPT)  # type: ignore[arg-type]
    ends = end_tokens(job, "end of text")
    passage = find_passage(job, frozenset(ends), "kept")
    scores = search(job, passage, 6, ends, "packed")
    followed = greedy(job, job.next_logits(), ends, scores.trie, 12)
    at = best_cell(Ranking(False).matrix(scores))
    assert at is not None
    best = Ranking(False).cell(scores, *at)
    assert best is not None
    if followed.node is not None:
        assert best >= followed.total - 1e-6
    narrow = method_file.constrained(scores)
    if narrow is not None and narrow.end is not None:
        assert best >= narrow.total - 1e-6


def test_constrained_greedy_read_off_the_trie_is_the_one_that_the_gate_leads_to(tiny_llama: CausalModel) -> None:
    for text in (QUESTION, QUESTION.replace("Arno", "Po"), QUESTION.replace("river", "old stream")):
        job = text_run(tiny_llama, text, max_new_tokens=40)
        ends = end_tokens(job, "both")
        scores = search(job, find_passage(job, frozenset(ends)), 30, ends, "packed")
        narrow = method_file.constrained(scores)
        params = {"decode": "constrained greedy", "space": "kept"}
        events = list(run(tiny_llama, "exact-extract", text, params=params, raw=True, max_new_tokens=40))
        written = list(finished(events).token_ids)
        assert narrow is not None
        assert written[: len(narrow.tokens)] == narrow.tokens
        if narrow.end is not None:
            assert len(written) == len(narrow.tokens) + 1
            assert written[-1] in ends


@pytest.mark.parametrize(("how", "raw"), [("packed", False), ("lazy", True), ("chunked", True)])
def test_the_answer_is_a_span_of_the_passage(smollm: CausalModel, how: str, raw: bool) -> None:
    params = {"search": how, "cap": 4}
    events = list(run(smollm, "exact-extract", QUESTION, params=params, raw=raw, max_new_tokens=20))
    check_stream(smollm, events)
    end = finished(events)
    assert end.text.strip() in "The river Arno flows through Florence and Pisa."
    assert end.text.strip()
    assert [event.position for event in only(events, Candidates)] == list(range(len(end.token_ids)))
    for placed, shown in zip(committed(events), only(events, Candidates), strict=True):
        if placed.rank is not None and placed.rank < len(shown.raw):
            assert shown.raw[placed.rank].p == pytest.approx(placed.raw, rel=1e-4)
    chosen = [score for score in only(events, Score) if score.chosen]
    assert [score.text for score in chosen] == [smollm.decode(end.token_ids[:-1])]
    log_p = sum(math.log(placed.raw or 1) for placed in committed(events)[:-1])
    assert log_p == pytest.approx(chosen[0].parts["span"], abs=1e-3)


def test_an_answer_in_a_chat_begins_without_the_space_before_its_word(smollm: CausalModel) -> None:
    for raw, dropped in ((True, False), (False, True)):
        job = Run(smollm, smollm.encode(QUESTION, raw=raw))
        automatic = find_passage(job, frozenset())
        assert automatic == find_passage(job, frozenset(), "dropped" if dropped else "kept")
        assert automatic.start_differs == dropped
        for token, first in zip(automatic.tokens, automatic.firsts, strict=True):
            assert smollm.decode(first) == smollm.decode([token]).removeprefix(" " if dropped else "")
    events = list(run(smollm, "exact-extract", QUESTION, params={"cap": 2, "compare": False}))
    assert not finished(events).text.startswith(" ")


def test_gustave_eiffel_is_the_best_span_as_a_separate_pass_scores_it(smollm: CausalModel) -> None:
    """Not the passage of the published measurement (−2.324 and −6.074), which is not known word for word."""
    prompt = (
        "Text: The Eiffel Tower in Paris was designed by the engineer Gustave Eiffel and opened in 1889.\n"
        "Question: Who built the Eiffel Tower?\nAnswer:"
    )
    events = list(
        run(smollm, "exact-extract", prompt, params={"end": "newline", "cap": 6}, raw=True, max_new_tokens=20)
    )
    assert finished(events).text == " Gustave Eiffel\n"
    top = {score.text: score.value for score in only(events, Score) if score.name == "span"}
    assert list(top)[:2] == [" Gustave Eiffel", " Eiffel Tower"]
    assert top[" Gustave Eiffel"] == pytest.approx(-2.32, abs=0.05)
    passage = find_passage(Run(smollm, smollm.encode(prompt, raw=True)), frozenset()).tokens

    def tokens_of(text: str) -> list[int]:
        """In the passage's own cut."""
        pairs = ((start, stop) for start in range(len(passage)) for stop in range(start, len(passage) + 1))
        return next(passage[a:b] for a, b in pairs if smollm.decode(passage[a:b]) == text)

    newlines = [id for id, piece in enumerate(smollm.vocabulary.bytes_of) if piece.startswith(b"\n")]
    for text, value in list(top.items())[:4]:
        base, span = smollm.encode(prompt, raw=True), tokens_of(text)
        rows = smollm.start().extend([*base, *span]).log_softmax(-1)[len(base) - 1 :]
        path = sum(float(row[token]) for row, token in zip(rows, span, strict=False))
        assert value == pytest.approx(path + float(rows[-1][newlines].logsumexp(0)), abs=1e-3)


@pytest.mark.parametrize("how", ["packed", "lazy", "chunked"])
def test_the_cache_holds_all_but_the_last_token_afterwards(tiny_llama: CausalModel, how: str) -> None:
    for limit in (1, 2, 4, 30):
        job = text_run(tiny_llama, max_new_tokens=limit)
        list(extract(job, Params(search=how, cap=3)))  # type: ignore[arg-type]
        assert job.output
        assert job.state.length == len(job.sequence) - 1
        assert len(job.output) <= limit
        ledger = [event for event in job.ledger if isinstance(event, Forward)]
        assert all(event.cached >= len(job.prompt) - 1 for event in ledger if event.lane == "target")


def test_to_compare_changes_no_score_and_no_answer(tiny_llama: CausalModel) -> None:
    with_, without = (
        list(run(tiny_llama, "exact-extract", QUESTION, params={"compare": compare, "cap": 4}, raw=True))
        for compare in (True, False)
    )
    assert only(with_, Matrix)[0].values == only(without, Matrix)[0].values
    assert finished(with_).token_ids == finished(without).token_ids
    assert len(only(with_, Forward)) > len(only(without, Forward))


def test_the_same_request_gives_the_same_events(tiny_llama: CausalModel) -> None:
    twice = [list(run(tiny_llama, "exact-extract", QUESTION, params={"search": "lazy"}, raw=True)) for _ in range(2)]
    assert untimed(twice[0]) == untimed(twice[1])
    check_stream(tiny_llama, twice[0])


def test_no_span_reaches_across_a_line_when_lines_end_answers(tiny_llama: CausalModel) -> None:
    job = text_run(tiny_llama, "Text: ab\ncd\nQuestion: x?\nAnswer:")
    for end, across in (("both", False), ("end of text", True)):
        ends = end_tokens(job, end)  # type: ignore[arg-type]
        trie = span_trie(find_passage(job, frozenset(ends)), 12, frozenset(ends))
        texts = {tiny_llama.decode(trie.text(node)) for node in range(len(trie.tokens))}
        assert ("b\nc" in texts) == across
        assert "cd" in texts


@pytest.mark.parametrize("how", ["packed", "lazy", "chunked"])
def test_white_space_alone_is_no_answer(tiny_llama: CausalModel, how: str) -> None:
    job = text_run(tiny_llama, "Text: a  b \nc\nQuestion: x?\nAnswer:")
    ends = end_tokens(job, "both")
    passage = find_passage(job, frozenset(ends))
    assert tiny_llama.decode(passage.tokens) == "a  b \nc"
    values = Ranking(False).matrix(search(job, passage, 2, ends, how, chunk=64))
    texts = [
        tiny_llama.decode(passage.tokens[start : start + length])
        for start, row in enumerate(values)
        for length, value in enumerate(row, 1)
        if value is not None
    ]
    assert not [text for text in texts if not text.strip()]
    if how != "lazy":
        assert texts == ["a", "a ", " b", "b", "b ", "c"]


@pytest.mark.parametrize(
    ("prompt", "passage"),
    [
        ("Text: A b.\nQuestion: c?\nAnswer:", " A b."),
        ("Read this.\nPassage:\nA b.\nC d.\n\nQuestion: c?", "A b.\nC d."),
        ("Text: old\nQuestion: o?\nAnswer: o\n\nContext: new\nQuestion: n?\nAnswer:", " new"),
        (
            "Answer from the text.\n\nDocument 1: A b.\nDocument 2: C.\n\nQuestion: c?",
            "Document 1: A b.\nDocument 2: C.",
        ),
        ("Text: In this Text: a colon.\nQuestion: c?\nAnswer:", " In this Text: a colon."),
        ("Text: naïve 日本語 👩‍👩‍👧.\nQuestion: c?\nAnswer:", " naïve 日本語 👩‍👩‍👧."),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_the_passage_is_found(smollm: CausalModel, prompt: str, passage: str, raw: bool) -> None:
    job = Run(smollm, smollm.encode(prompt, raw=raw))
    ends = frozenset(end_tokens(job, "both"))
    found = find_passage(job, ends, "kept")
    assert smollm.decode(found.tokens) == passage
    assert found.firsts == [[token] for token in found.tokens]


@pytest.mark.parametrize(
    "prompt", ["What is the sea? ", "Question: what?", "Text:\nQuestion: what?\nAnswer:", "\n\nQ: x"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_a_prompt_without_a_passage_is_refused_with_advice(smollm: CausalModel, prompt: str, raw: bool) -> None:
    with pytest.raises(NoPassage, match="Write the passage behind “Text:”"):
        list(run(smollm, "exact-extract", prompt, raw=raw))


def test_too_many_spans_are_refused_before_any_is_read(
    tiny_llama: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_file, "MOST_CELLS", 30)
    with pytest.raises(NoPassage, match="smaller cap"):
        list(run(tiny_llama, "exact-extract", QUESTION, params={"cap": 4}, raw=True))


def test_a_time_limit_keeps_the_best_of_what_was_read(tiny_llama: CausalModel) -> None:
    events = list(
        run(tiny_llama, "exact-extract", QUESTION, params={"search": "lazy", "chunk": 1}, raw=True, time_limit=1e-6)
    )
    assert "The time limit came" in notes(events)
    assert isinstance(events[-1], Finished)
    assert len(only(events, Commit)) <= 1


def test_a_cap_of_nought_is_refused(tiny_llama: CausalModel) -> None:
    with pytest.raises(BadParameter, match="cap"):
        run(tiny_llama, "exact-extract", QUESTION, params={"cap": 0})


def test_the_measure_of_answers_is_that_of_squad() -> None:
    assert f1("The red fox!", "a red fox") == 1.0
    assert f1("red fox saw", "the red dog") == pytest.approx(2 * 1 / (3 + 2))
    assert f1("cat", "dog") == 0.0
    assert f1("", "dog") == 0.0
    asked = [Question(id="a", passage="the red fox", question="?", answer="red fox"), questions()[0]]
    given = [Answers("red fox", "the red fox", "red", True), Answers("Mary", "no", "Mary Alder", False)]
    measured = quality(asked, given)
    assert measured.questions == 2
    assert measured.f1["exact"] == pytest.approx((1 + 2 / 3) / 2)
    assert measured.exact_match == {"exact": 0.5, "greedy": 0.5, "constrained greedy": 0.5}
    assert (measured.extractive, measured.same) == (0.5, 0.0)


def test_every_shipped_answer_stands_in_its_passage() -> None:
    asked = questions()
    assert len(asked) == len({one.id for one in asked}) == 30
    for one in asked:
        assert one.answer in one.passage, one.id
        assert one.answer == one.answer.strip() != ""
        assert "\n" not in one.passage + one.question
        assert one.question.endswith("?")
        assert len(one.passage) < 200


def test_a_question_is_answered_in_three_ways(tiny_llama: CausalModel) -> None:
    said = answer(tiny_llama, questions()[0], cap=4)
    assert said.exact in questions()[0].passage
    assert said.constrained in questions()[0].passage
    assert said.is_span == (said.greedy != "" and said.greedy in questions()[0].passage)


def test_preorder_visits_parents_first_and_everything_once() -> None:
    trie = span_trie(Passage([1, 2, 1, 3, 1, 2], [[t] for t in (1, 2, 1, 3, 1, 2)]), 3, frozenset())
    order = trie.preorder()
    assert sorted(order) == list(range(len(trie.tokens)))
    seen = {-1}
    for node in order:
        assert trie.parents[node] in seen
        seen.add(node)
    assert all(len(trie.path(b)) <= len(trie.path(a)) + 1 for a, b in pairwise(order))
