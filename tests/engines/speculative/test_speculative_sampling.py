"""The chain: who guesses how far ahead, and that the text stays plain decoding's."""

from __future__ import annotations

import pytest

from engines.chi_square import Fit
from engines.events import Draft, Finished, Forward, Note, Verdict
from engines.goodness_of_fit import distribution_test
from engines.models.causal import CausalModel
from engines.models.twin import twin
from engines.runner import run
from engines.speculative import speculative_sampling
from engines.speculative.drafting import Reader

EXIT = {"draft": "early exit", "exit_layer": 1, "fallback": False}


def events(model: CausalModel, prompt: str = "abc", length: int = 24, seed: int = 0, **params: object) -> list:
    return list(run(model, "speculative-sampling", prompt, params=params, raw=True, seed=seed, max_new_tokens=length))


@pytest.mark.parametrize("gamma", [1, 2, 5, 8])
def test_greedy_text_is_plain_greedys_whatever_the_length_of_the_guesses(tiny_llama: CausalModel, gamma: int) -> None:
    for prompt in ("x", "hello hello hel", "3.14159"):
        for length in (1, 3, 30):
            plain = list(run(tiny_llama, "greedy", prompt, raw=True, max_new_tokens=length))[-1]
            ours = events(tiny_llama, prompt, length, gamma=gamma, **EXIT)[-1]
            assert isinstance(plain, Finished)
            assert ours.token_ids == plain.token_ids


def test_every_turn_yields_the_accepted_guesses_and_one_more(tiny_llama: CausalModel) -> None:
    seen = events(twin(), length=60, gamma=3, temperature=1.0, fallback=False)
    verdicts = [event for event in seen if isinstance(event, Verdict)]
    last = seen[-1]
    plain = sum(event.query == 1 and event.lane == "target" for event in seen if isinstance(event, Forward))
    # What follows an end of text is not written.
    written = sum(len(verdict.path) + 1 for verdict in verdicts) + plain
    assert written - 3 <= last.totals.tokens <= written
    assert {verdict.rule for verdict in verdicts} == {"with replacement"}


def test_a_verdict_shows_p_q_and_the_number_that_their_ratio_met() -> None:
    seen = [events(twin(), length=20, gamma=3, temperature=1.0, seed=seed) for seed in range(5)]
    judged = [node for run in seen for event in run if isinstance(event, Verdict) for node in event.nodes if node.u]
    assert {node.outcome for node in judged} == {"accepted", "rejected"}
    for node in judged:
        assert node.accept_probability == pytest.approx(min(1.0, node.p / node.q), rel=1e-5)
        assert (node.u < node.accept_probability) == (node.outcome == "accepted")
    drafted = [node for run in seen for event in run if isinstance(event, Draft) for node in event.nodes[1:]]
    assert all(node.q is not None and 0 < node.q <= 1 for node in drafted)


def test_nothing_is_guessed_behind_an_end_of_text() -> None:
    end = next(iter(twin().eos_ids))
    for seed in range(40):
        for event in events(twin(), length=20, gamma=4, temperature=1.5, seed=seed):
            if isinstance(event, Draft):
                assert end not in [node.token.id for node in event.nodes[1:-1]]


def test_sampled_text_has_the_targets_distribution() -> None:
    *_, fit = distribution_test("speculative-sampling", {"temperature": 0.8, "gamma": 2, "fallback": False}, draws=500)
    assert isinstance(fit, Fit)
    assert fit.p_value > 1e-3
    assert fit.accepted > 200


def test_a_draft_filtered_otherwise_than_the_target_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "distribution", lambda self, logits, path=(): logits.softmax(-1).sqrt())
    *_, fit = distribution_test("speculative-sampling", {"temperature": 0.8, "gamma": 2, "fallback": False}, draws=500)
    assert fit.p_value < 1e-6


def test_a_bad_draft_is_left_alone_for_a_while_and_the_run_says_so(
    tiny_llama: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speculative_sampling, "cost", lambda curve, query: 0.01 * query)
    seen = events(tiny_llama, "q", 60, draft="early exit", exit_layer=1)
    notes = [event.text for event in seen if isinstance(event, Note)]
    assert "the first 1 layers" in notes[0]
    assert any("does not pay" in text for text in notes)
    plain = events(tiny_llama, "q", 60, draft="early exit", exit_layer=1, fallback=False)
    assert plain[-1].token_ids == seen[-1].token_ids
    assert seen[-1].totals.drafted < plain[-1].totals.drafted


def test_the_first_turn_reads_the_prompt_with_the_draft_too(tiny_llama: CausalModel) -> None:
    first = next(
        e for e in events(tiny_llama, "abcdef", 4, gamma=2, **EXIT) if isinstance(e, Forward) and e.lane == "draft"
    )
    assert first.query == 6
