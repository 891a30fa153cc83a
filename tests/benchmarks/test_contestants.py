"""Both benchmarks from end to end on a tiny model: the figures must add up, whatever the clock says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from benchmarks import overhead, speculative
from benchmarks.peer import Peer
from benchmarks.questions import CATEGORIES, Question, one_of_each, questions
from benchmarks.report import save, saved
from engines.models.causal import CausalModel
from playground.rounds import Spread

ASKED = [
    Question("repeat", "Summarisation", "abcabcabcabc"),
    Question("other", "Maths", "one two one two"),
]
LENGTH = 12


def test_there_are_enough_questions_in_every_category() -> None:
    counts = Counter(question.category for question in questions())
    assert set(counts) == set(CATEGORIES)
    assert counts.total() >= 24
    assert min(counts.values()) >= 4
    assert [question.category for question in one_of_each()] == list(CATEGORIES)


def test_the_peer_counts_its_passes(tiny_llama: CausalModel) -> None:
    prompt = tiny_llama.encode("abc")
    output, work = Peer(tiny_llama).generate(prompt, LENGTH)
    assert work.passes == len(output) == LENGTH
    assert work.read == len(prompt) + LENGTH - 1


def test_the_peer_owns_its_weights(tiny_llama: CausalModel) -> None:
    ours = {weight.data_ptr() for weight in tiny_llama.network.parameters()}
    theirs = {weight.data_ptr() for weight in Peer(tiny_llama)._network.parameters()}
    assert not ours & theirs


@pytest.fixture(scope="module")
def watched(tiny_llama: CausalModel) -> overhead.Overhead:
    return overhead.measure(tiny_llama, ASKED, rounds=2, max_new_tokens=LENGTH, quick=True)


def test_overhead_measures_everyone_equally_often(watched: overhead.Overhead) -> None:
    counts = Counter(sample.contestant for sample in watched.samples)
    assert counts == dict.fromkeys(overhead.CONTESTANTS, 2 * len(ASKED))
    assert watched.same_text == watched.prompts == len(ASKED)


def test_overhead_splits_all_of_the_time(watched: overhead.Overhead) -> None:
    for sample in watched.samples:
        parts = [sample.prompt_passes, sample.passes, sample.choosing, sample.keeping, sample.drawing]
        assert min(parts) >= 0
        # What is left is appending events to a list.
        assert sum(parts) <= sample.timing.seconds * 1.001
        assert sample.timing.tokens == LENGTH
        assert (sample.keeping > 0) == (sample.contestant in (overhead.DATABASE, overhead.PICTURES))
        assert (sample.drawing > 0) == (sample.contestant == overhead.PICTURES)


def test_overhead_compares_within_prompt_and_round(watched: overhead.Overhead) -> None:
    assert watched.ratio[overhead.PEER] == Spread(1.0, 1.0, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def guessed(tiny_llama: CausalModel) -> speculative.Speculation:
    return speculative.measure(tiny_llama, ASKED, rounds=1, max_new_tokens=LENGTH, quick=True)


def test_speculation_says_what_greedy_says(guessed: speculative.Speculation) -> None:
    assert [each for each in guessed.differences if not each.tie] == []


def test_speculation_counts_work(guessed: speculative.Speculation) -> None:
    for answer in guessed.answers:
        assert answer.timing.tokens <= LENGTH
        assert answer.passes <= answer.timing.tokens
        assert answer.read >= answer.passes
        if answer.contestant in (speculative.GREEDY, speculative.PEER):
            assert answer.passes == answer.read == answer.timing.tokens
        if answer.contestant in speculative.OURS:
            # Every pass yields its accepted guesses and one token of its own, but for guesses cut off by the limit.
            assert answer.timing.tokens <= answer.passes + (answer.accepted or 0)


def test_a_difference_is_a_tie_only_when_the_logits_are_close() -> None:
    difference = speculative.Difference(contestant="x", question="q", position=0, greedy="a", instead="b", gap=-5e-5)
    assert difference.tie
    assert not msgspec.structs.replace(difference, gap=2e-4).tie
    assert not msgspec.structs.replace(difference, gap=None).tie


def test_first_difference() -> None:
    assert speculative.first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert speculative.first_difference([1, 2], [1, 2, 3]) == 2


def test_every_contestant_is_in_the_tables(guessed: speculative.Speculation, watched: overhead.Overhead) -> None:
    shown = speculative.tables(guessed)
    for name in speculative.CONTESTANTS:
        assert shown.count(f"| {name} |") == 2
    assert shown.splitlines()[2].startswith("| greedy | 1.00 | 1.00 | **1.00** | 1.00 |")
    assert all(f"| {name} |" in overhead.tables(watched) for name in overhead.CONTESTANTS)


def test_results_survive_being_kept(
    guessed: speculative.Speculation, watched: overhead.Overhead, tmp_path: Path
) -> None:
    save(guessed, "speculative", tmp_path)
    save(watched, "overhead", tmp_path)
    assert saved(speculative.Speculation, "speculative", tmp_path) == guessed
    assert saved(overhead.Overhead, "overhead", tmp_path) == watched
