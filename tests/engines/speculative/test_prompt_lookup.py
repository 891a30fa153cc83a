"""Prompt lookup: where guesses are found, and what they do to a run."""

from __future__ import annotations

import pytest

from engines.events import Draft, Event, Finished, Match, Verdict
from engines.models.causal import CausalModel
from engines.runner import run


def events_of(model: CausalModel, prompt: str, **options: object) -> list[Event]:
    return list(run(model, "prompt-lookup", prompt, **options))  # type: ignore[arg-type]


def test_matches_point_at_equal_text_and_drafts_copy_what_follows(tiny_llama: CausalModel) -> None:
    events = events_of(tiny_llama, "abcabcabc abcabc", raw=True, max_new_tokens=80)
    last = events[-1]
    assert isinstance(last, Finished)
    prompt = tiny_llama.encode("abcabcabc abcabc", raw=True)
    text = [*prompt, *last.token_ids]
    zero = len(prompt)
    matches = [event for event in events if isinstance(event, Match)]
    assert matches
    for match in matches:
        source, target = (text[zero + a : zero + b] for a, b in (match.source, match.target))
        assert source == target
    drafts = [event for event in events if isinstance(event, Draft)]
    first, draft = matches[0], drafts[0]
    copied = text[zero + first.copied[0] : zero + first.copied[1]]
    assert [node.token.id for node in draft.nodes[1:]] == copied[: len(draft.nodes) - 1]


def test_copying_costs_fewer_passes_than_tokens(smollm: CausalModel) -> None:
    code = "Repeat this code exactly:\n```python\ndef add(a, b):\n    result = a + b\n    return result\n```"
    last = events_of(smollm, code, max_new_tokens=40)[-1]
    assert isinstance(last, Finished)
    assert last.totals.tokens_per_target_pass > 1.5


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_no_guess_reaches_beyond_the_token_limit(tiny_llama: CausalModel, budget: int) -> None:
    events = events_of(tiny_llama, "abababab", raw=True, max_new_tokens=budget)
    last = events[-1]
    assert isinstance(last, Finished)
    assert len(last.token_ids) == budget
    for event in events:
        if isinstance(event, Verdict):
            assert event.position + len(event.path) + 1 <= budget


def test_a_model_on_the_general_path_decodes_the_same_way(tiny_gpt2: CausalModel) -> None:
    greedy = list(run(tiny_gpt2, "greedy", "abc", max_new_tokens=100))[-1]
    lookup = events_of(tiny_gpt2, "abc", max_new_tokens=100)[-1]
    assert isinstance(greedy, Finished)
    assert isinstance(lookup, Finished)
    assert lookup.token_ids == greedy.token_ids
