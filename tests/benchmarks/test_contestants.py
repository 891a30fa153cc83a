"""Both benchmarks from end to end on a tiny model: the figures must add up, whatever the clock says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import overhead, specbench_mini, specbench_tables
from benchmarks.peer import Peer, assistant
from benchmarks.questions import CATEGORIES, COPYING, Question, one_of_each, questions
from benchmarks.report import save, saved
from benchmarks.specbench_mini import Bench
from benchmarks.specbench_tables import GREEDY, PEER, PEER_ASSISTED, PEER_LOOKUP
from engines.errors import BadParameter
from engines.method import Need, methods
from engines.models.causal import CausalModel
from engines.models.draft import DraftCard, load_draft
from engines.speculative.drafting import Drafted, draft_for
from playground.rounds import Spread
from training.draft_model import Draft
from training.draft_model import save as save_draft

ASKED = [
    Question("repeat", "Summarisation", "abcabcabcabc"),
    Question("other", "Maths", "one two one two"),
]
LENGTH = 12


def test_there_are_six_questions_in_every_category_and_six_to_copy_or_edit() -> None:
    asked = questions()
    assert Counter(question.category for question in asked) == dict.fromkeys(CATEGORIES | COPYING, 6)
    assert list(dict.fromkeys(question.category for question in asked)) == [*CATEGORIES, *COPYING]
    assert len({question.id for question in asked}) == len({question.prompt for question in asked}) == 42
    assert [question.category for question in one_of_each()] == list(CATEGORIES)


def test_no_question_is_too_long_for_two_cores(smollm: CausalModel) -> None:
    assert max(len(smollm.encode(question.prompt)) for question in questions()) <= 400


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


# transformers, assisted


@pytest.fixture(scope="module")
def trained(tiny_llama: CausalModel, tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    """A draft that can guess only every third token, as `python -m training.draft_model` leaves it."""
    folder = tmp_path_factory.mktemp("draft")
    spoken = torch.arange(0, 257, 3)
    figures = {"parameters": 1, "tokens": 1, "steps": 1, "seed": 0, "held_out_overlap": 0.5, "step_cost": 0.1}
    card = DraftCard(layers=(0,), spoken=len(spoken), data="none", target_weights=tiny_llama.weights, **figures)  # type: ignore[arg-type]
    save_draft(Draft(tiny_llama, (0,), spoken), card, folder)
    return load_draft(tiny_llama, folder)


def early(tiny_llama: CausalModel) -> CausalModel:
    return draft_for(tiny_llama, Drafted(draft="early exit", exit_layer=1))


def test_the_assistant_says_what_our_draft_says(tiny_llama: CausalModel, trained: CausalModel) -> None:
    ids = tiny_llama.encode("abc abc")
    for draft in (early(tiny_llama), trained):
        with torch.inference_mode():
            theirs = assistant(draft)(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(theirs, draft.start().extend(ids), atol=1e-4, rtol=1e-4)


def test_the_assistant_owns_its_weights(tiny_llama: CausalModel, trained: CausalModel) -> None:
    for draft in (early(tiny_llama), trained):
        theirs = {weight.data_ptr() for weight in assistant(draft).parameters()}
        assert not theirs & {weight.data_ptr() for weight in draft.network.parameters()}


def test_assisted_generation_says_what_greedy_says_in_no_more_passes(
    tiny_llama: CausalModel, trained: CausalModel
) -> None:
    peer, prompt = Peer(tiny_llama), tiny_llama.encode("abcabcabc")
    plain, _ = peer.generate(prompt, LENGTH)
    for draft in (early(tiny_llama), trained):
        output, work = peer.generate(prompt, LENGTH, assistant_model=assistant(draft))
        assert output == plain
        assert work.passes <= LENGTH
        assert work.read > len(prompt) + LENGTH - 1  # some guesses were read


# specbench-mini


@pytest.fixture(scope="module")
def guessed(tiny_llama: CausalModel) -> specbench_tables.Speculation:
    return specbench_mini.measure(tiny_llama, ASKED, rounds=1, max_new_tokens=LENGTH, quick=True)


def test_every_lossless_guessing_method_takes_part_by_itself(
    tiny_llama: CausalModel, guessed: specbench_tables.Speculation
) -> None:
    assert guessed.contestants[0] == GREEDY
    assert guessed.contestants[-3:] == [PEER, PEER_LOOKUP, PEER_ASSISTED]
    ours = {name.partition(", ")[0] for name in guessed.guessers}
    assert ours == {id for id, one in methods().items() if one.family == "speculative" and one.lossless}
    assert guessed.left_out == {}
    assert Counter(answer.contestant for answer in guessed.answers) == dict.fromkeys(guessed.contestants, len(ASKED))
    assert guessed.draft == "the first 1 layers of tiny-llama"


def test_methods_with_a_memory_are_measured_cold_and_hot(guessed: specbench_tables.Speculation) -> None:
    with_memory = [id for id, one in methods().items() if "memory" in {setting.name for setting in one.settings()}]
    assert "token-recycling" in with_memory
    for id in with_memory:
        assert [name for name in guessed.contestants if name.startswith(id)] == [f"{id}, cold", f"{id}, hot"]


def test_a_method_that_the_model_cannot_run_does_not_take_part(tiny_llama: CausalModel) -> None:
    class Chained(CausalModel):
        has = Need.ROLLBACK | Need.LOGITS

    chained = Chained(tiny_llama.network, tiny_llama.tokenizer, name="chained")
    assert "prompt-lookup" in specbench_mini.ours(chained)
    assert not any(name.startswith("token-recycling") for name in specbench_mini.ours(chained))


def test_some_methods_can_be_asked_for(tiny_llama: CausalModel) -> None:
    chosen = specbench_mini.ours(tiny_llama, ["token-recycling", "copyspec"])
    assert list(chosen) == [GREEDY, "copyspec", "token-recycling, cold", "token-recycling, hot"]
    with pytest.raises(BadParameter, match=r"beam-search is none of the methods that guess here: .*copyspec"):
        specbench_mini.ours(tiny_llama, ["beam-search"])


def test_who_cannot_run_is_left_out_and_it_is_said_why(tiny_llama: CausalModel) -> None:
    bench = Bench(tiny_llama, LENGTH, ["copyspec"])
    bench.ours["copyspec"] = ("copyspec", {"gamma": "none"})
    bench.warm_up()
    assert bench.contestants == [GREEDY, PEER, PEER_LOOKUP, PEER_ASSISTED]
    assert "gamma" in bench.left_out["copyspec"]


def test_a_hot_memory_starts_every_round_empty_and_keeps_what_it_read(tiny_llama: CausalModel) -> None:
    bench = Bench(tiny_llama, LENGTH, ["token-recycling"])
    bench.round(0, [ASKED[0], ASKED[0]])
    bench.round(1, [ASKED[0]])
    first, again, later = (one for one in bench.answers if one.contestant == "token-recycling, hot")
    assert again.passes < first.passes
    assert (later.passes, later.read) == (first.passes, first.read)


def test_speculation_says_what_greedy_says(guessed: specbench_tables.Speculation) -> None:
    assert [each for each in guessed.differences if not each.tie] == []


def test_speculation_counts_work(guessed: specbench_tables.Speculation) -> None:
    for answer in guessed.answers:
        assert answer.timing.tokens <= LENGTH
        assert answer.passes <= answer.timing.tokens
        assert answer.read >= answer.passes
        if answer.contestant in (GREEDY, PEER):
            assert answer.passes == answer.read == answer.timing.tokens
        if answer.contestant in (GREEDY, *guessed.guessers):
            # Every pass yields its accepted guesses and one token of its own, but for guesses cut off by the limit.
            assert answer.timing.tokens <= answer.passes + (answer.accepted or 0)
    drafting = {one.contestant for one in guessed.answers if one.drafting}
    assert "speculative-sampling" in drafting
    assert not drafting & {GREEDY, "prompt-lookup", PEER_ASSISTED}


def test_first_difference() -> None:
    assert specbench_mini.first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert specbench_mini.first_difference([1, 2], [1, 2, 3]) == 2


def test_every_contestant_is_in_the_tables(guessed: specbench_tables.Speculation, watched: overhead.Overhead) -> None:
    shown = specbench_tables.tables(guessed)
    for name in guessed.contestants:
        assert shown.count(f"| {name} |") >= 2
    assert shown.splitlines()[2].startswith("| greedy | 1.00 | 1.00 | 1.00 | 1.00 |")
    assert all(f"| {name} |" in overhead.tables(watched) for name in overhead.CONTESTANTS)


def test_results_survive_being_kept(
    guessed: specbench_tables.Speculation, watched: overhead.Overhead, tmp_path: Path
) -> None:
    save(guessed, "specbench-mini", tmp_path)
    save(watched, "overhead", tmp_path)
    assert saved(specbench_tables.Speculation, "specbench-mini", tmp_path) == guessed
    assert saved(overhead.Overhead, "overhead", tmp_path) == watched
