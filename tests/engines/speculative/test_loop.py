"""The shared loop on models that can do less, and where guessing stops."""

from __future__ import annotations

import pytest

from engines.events import Draft, Finished, Note
from engines.method import Need
from engines.models.causal import CausalModel
from engines.models.stock import StockNetwork
from engines.runner import Run
from engines.sampling import Speculating
from engines.speculative.loop import speculate
from engines.speculative.token_recycling import Recycler, likeliest_first


def decode(model: CausalModel, prompt: str, length: int = 30, **settings: object) -> tuple[Run, list]:
    run = Run(model, model.encode(prompt, raw=True), max_new_tokens=length)
    run.clock.start()
    list(run.read_prompt())
    params = Speculating(**({"fallback": False} | settings))  # type: ignore[arg-type]
    return run, list(speculate(run, Recycler(likeliest_first(4)[:10], 4, {}), params))


def test_a_model_that_cannot_read_a_tree_gets_a_chain_and_the_same_text(
    tiny_gpt2: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, _ = decode(tiny_gpt2, "hello hello")
    monkeypatch.setattr(tiny_gpt2._forward, "has", tiny_gpt2.has & ~Need.TREE_ATTENTION & ~Need.LOGITS)
    assert isinstance(tiny_gpt2._forward, StockNetwork)
    chain, events = decode(tiny_gpt2, "hello hello")
    assert chain.output == tree.output
    notes = [event.text for event in events if isinstance(event, Note)]
    assert [text for text in notes if "cannot read a tree" in text] == notes[:1]
    drafts = [event for event in events if isinstance(event, Draft)]
    assert drafts
    assert all(node.parent == node.id - 1 for draft in drafts for node in draft.nodes)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_budget_smaller_than_the_guesses_is_kept(tiny_llama: CausalModel, length: int) -> None:
    whole, _ = decode(tiny_llama, "abcabc", 12)
    short, events = decode(tiny_llama, "abcabc", length)
    assert short.output == whole.output[:length]
    assert all(node.parent < length for event in events if isinstance(event, Draft) for node in event.nodes[1:])
    assert not any(isinstance(event, Finished) for event in events)


def test_a_tree_without_guesses_is_plain_decoding(tiny_llama: CausalModel) -> None:
    run = Run(tiny_llama, tiny_llama.encode("abc", raw=True), max_new_tokens=8)
    run.clock.start()
    list(run.read_prompt())
    events = list(speculate(run, Recycler([], 4, {}), Speculating(fallback=False)))
    assert len(run.output) == 8
    assert not any(isinstance(event, Draft) for event in events)
