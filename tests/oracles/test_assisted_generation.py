"""Speculative sampling against transformers' assisted generation: the same target, the same draft, the same text."""

from __future__ import annotations

import pytest

from benchmarks.peer import Peer, assistant
from engines.events import Finished
from engines.models.causal import CausalModel
from engines.models.draft import load_draft
from engines.runner import run
from engines.speculative.drafting import Drafted, draft_for


def ours(model: CausalModel, prompt: str, length: int, **params: object) -> Finished:
    settings = {"gamma": 5, "fallback": False, **params}
    last = list(run(model, "speculative-sampling", prompt, params=settings, max_new_tokens=length))[-1]
    assert isinstance(last, Finished)
    return last


@pytest.mark.parametrize("prompt", ["Why is the sky blue?", "Repeat this: one, two, three, one, two, three."])
def test_with_the_trained_draft_both_write_the_same(smollm: CausalModel, prompt: str) -> None:
    draft = assistant(load_draft(smollm))
    text, work = Peer(smollm).generate(
        smollm.encode(prompt), 40, assistant_model=draft, num_assistant_tokens=5, assistant_confidence_threshold=0.0
    )
    mine = ours(smollm, prompt, 40, draft="trained")
    assert list(mine.token_ids) == text
    assert mine.totals.accepted > 0
    # The same guesses, checked by as many passes; transformers' first pass reads the prompt as well.
    assert abs(mine.totals.target_passes - work.passes) <= 1


def test_with_an_early_exit_both_write_the_same(tiny_llama: CausalModel) -> None:
    draft = assistant(draft_for(tiny_llama, Drafted(draft="early exit", exit_layer=1)))
    for prompt in ("abcabc", "hello, hello", "x"):
        text, _ = Peer(tiny_llama).generate(tiny_llama.encode(prompt), 30, assistant_model=draft)
        assert list(ours(tiny_llama, prompt, 30, draft="early exit", exit_layer=1).token_ids) == text
