"""Contrastive search on a toy whose hidden states are one-hot: similarity is 1 to a token already in the text."""

from __future__ import annotations

import pytest

from engines.baselines.contrastive_search import Params, contrastive_search
from engines.events import Commit, Event, Forward, Score
from engines.models.causal import CausalModel
from engines.runner import run
from tests.engines.laws import finished, only
from tests.engines.toy import ToyModel, toy_run

# Left alone, this model says "ababab…".
LOOP = ToyModel(
    "abc.",
    [[0, 0.7, 0.3, 0], [0.6, 0, 0.4, 0], [0.2, 0.2, 0, 0.6], [0, 0, 0, 1]],
)


def search(prompt: str = "a", length: int = 4, **params: object) -> list[Event]:
    return list(contrastive_search(toy_run(LOOP, prompt, max_new_tokens=length), Params(**params)))  # type: ignore[arg-type]


def text(events: list[Event]) -> str:
    return "".join(placed.token.text for commit in only(events, Commit) for placed in commit.tokens)


def test_the_worked_example() -> None:
    # a → b (.4 · .7 = .28, new); then a would give .4 · .6 - .6 = -.36 and c gives .4 · .4 = .16.
    events = search(penalty_alpha=0.6, top_k=2)
    assert text(events) == "bc."
    second = [score for score in only(events, Score) if score.position == 1]
    assert [(score.token.text if score.token else "", score.chosen) for score in second] == [("a", False), ("c", True)]
    assert [score.value for score in second] == pytest.approx([-0.36, 0.16], abs=1e-6)
    assert second[0].parts == pytest.approx({"confidence": 0.24, "degeneration penalty": -0.6})


def test_without_a_penalty_it_is_greedy_and_loops() -> None:
    assert text(search(penalty_alpha=0.0)) == "baba"
    assert text(search(penalty_alpha=0.9, top_k=1)) == "baba"


def test_the_prompt_counts_as_context() -> None:
    assert text(search("a", length=1, penalty_alpha=0.6, top_k=2)) == "b"
    assert text(search("ba", length=1, penalty_alpha=0.6, top_k=2)) == "c"


def test_parts_add_up_to_the_score_and_one_is_chosen(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "contrastive-search", "Hello", params={"top_k": 5}, max_new_tokens=6))
    ids = finished(events).token_ids
    for position, token in enumerate(ids):
        scores = [score for score in only(events, Score) if score.position == position]
        assert len(scores) == 5
        for score in scores:
            assert score.value == pytest.approx(sum(score.parts.values()), abs=1e-5)
        best = max(scores, key=lambda score: score.value)
        assert best.chosen
        assert [score.token.id for score in scores if score.chosen and score.token] == [token]


def test_all_candidates_are_read_in_one_pass_that_also_serves_the_next_step(tiny_llama: CausalModel) -> None:
    events = list(run(tiny_llama, "contrastive-search", "Hello", params={"top_k": 4}, max_new_tokens=6))
    queries = [forward.query for forward in only(events, Forward) if forward.lane == "target"]
    assert queries == [1] + [4] * len(finished(events).token_ids)


@pytest.mark.parametrize("length", [1, 2, 520])
def test_prompts_of_any_length_are_context_as_a_whole(smollm: CausalModel, length: int) -> None:
    prompt = " sea" * length
    events = list(run(smollm, "contrastive-search", prompt, params={"top_k": 2}, raw=True, max_new_tokens=1))
    ids = smollm.encode(prompt, raw=True)
    state = smollm.start()
    state.extend(ids, last=True)
    assert state.hidden is not None
    context = state.hidden / state.hidden.norm(dim=-1, keepdim=True)
    for score in only(events, Score):
        assert score.token is not None
        fresh = smollm.start()
        fresh.extend([*ids, score.token.id], last=True)
        assert fresh.hidden is not None
        direction = fresh.hidden[-1] / fresh.hidden[-1].norm()
        assert score.parts["degeneration penalty"] == pytest.approx(-0.6 * float((context @ direction).max()), abs=1e-4)
