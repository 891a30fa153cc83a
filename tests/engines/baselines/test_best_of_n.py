"""Best-of-n: rewards by hand, the batch that shrinks, the draw that follows the model."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from engines.baselines.best_of_n import Params, best_of_n, reward_parts
from engines.events import Beams, Commit, Event, Forward, Score
from engines.models.causal import CausalModel
from engines.runner import run
from tests.engines.laws import finished, only
from tests.engines.toy import ToyModel, toy_run

COIN = ToyModel("^ab.", [[0, 0.6, 0.4, 0], [0, 0.3, 0.2, 0.5], [0, 0, 0.8, 0.2], [0, 0, 0, 1]])


def draw(seed: int = 0, **params: object) -> list[Event]:
    job = toy_run(COIN, "^", seed=seed, max_new_tokens=12)
    return list(best_of_n(job, Params(**{"top_p": 1.0, **params})))  # type: ignore[arg-type]


def test_rewards_by_hand() -> None:
    assert reward_parts("log-probability", [1, 2, 3], -6.0)[0] == -6.0
    assert reward_parts("mean log-probability", [1, 2, 3], -6.0) == (-2.0, {"log-probability": -6.0, "tokens": 3.0})
    assert reward_parts("distinct bigrams", [1, 2, 1, 2, 3], -6.0)[0] == 3 / 4
    assert reward_parts("distinct bigrams", [1], -6.0)[0] == 0.0


def test_ties_go_to_the_first_text() -> None:
    for seed in range(30):
        scores = only(draw(seed, reward="distinct bigrams"), Score)
        best = max(score.value for score in scores)
        chosen = [score.chosen for score in scores]
        assert chosen.index(True) == [score.value for score in scores].index(best)
        assert sum(chosen) == 1


def test_the_winner_is_committed_and_its_log_probability_is_the_models_own() -> None:
    events = draw(3, n=5, temperature=0.5)
    (winner,) = [score for score in only(events, Score) if score.chosen]
    (commit,) = only(events, Commit)
    text = "".join(placed.token.text for placed in commit.tokens)
    assert text == winner.text
    probability = math.prod(
        float(COIN.table[COIN.letters.index(a), COIN.letters.index(b)]) for a, b in zip("^" + text, text, strict=False)
    )
    assert winner.parts["log-probability"] == pytest.approx(math.log(probability), abs=1e-5)


def test_finished_texts_leave_the_batch() -> None:
    for seed in range(5):
        events = draw(seed, n=6)
        batches = [forward.batch for forward in only(events, Forward) if forward.lane == "target"][1:]
        steps = only(events, Beams)[:-1]
        assert batches == [sum(beam.outcome == "live" for beam in step.beams) for step in steps[: len(batches)]]
        assert not any(beam.outcome == "live" for beam in steps[-1].beams) or len(steps) == 12


def test_lines_of_the_tree_are_the_texts() -> None:
    events = draw(1, n=4)
    beams = {beam.id: beam for step in only(events, Beams) for beam in step.beams}
    ends = {beam.group: beam for beam in beams.values() if beam.outcome in ("finished", "chosen")}
    for score in only(events, Score):
        assert score.sequence is not None
        line, beam = "", ends[score.sequence]
        while True:
            line = beam.token.text + line
            if beam.parent == -1:
                break
            beam = beams[beam.parent]
        assert line == score.text


def test_texts_are_independent_draws_from_the_model() -> None:
    texts = Counter(score.text for seed in range(250) for score in only(draw(seed, n=16), Score))
    total = sum(texts.values())
    for text, p in {"a.": 0.3, "b.": 0.08, "aa.": 0.09}.items():
        spread = math.sqrt(p * (1 - p) / total)
        assert texts[text] / total == pytest.approx(p, abs=4 * spread)


def test_one_text_is_sampling_with_the_same_seed(tiny_llama: CausalModel) -> None:
    settings = {"temperature": 0.9, "top_p": 0.9}
    one = list(run(tiny_llama, "best-of-n", "Hello", params={"n": 1, **settings}, seed=4, max_new_tokens=15))
    plain = list(run(tiny_llama, "sampling", "Hello", params=settings, seed=4, max_new_tokens=15))
    assert finished(one).token_ids == finished(plain).token_ids
