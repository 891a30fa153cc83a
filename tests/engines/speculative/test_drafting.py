"""Which model guesses, and that its cache keeps in step with the text."""

from __future__ import annotations

import pytest
import torch

from engines.errors import BadParameter, ModelUnavailable
from engines.events import Forward
from engines.models.causal import CausalModel
from engines.models.early_exit import early_exit
from engines.models.translated import Translated
from engines.models.twin import twin
from engines.runner import Run
from engines.sampling import Sampler
from engines.speculative.drafting import Drafted, Reader, draft_for
from engines.speculative.tree import TokenTree


def reader(run: Run, draft: CausalModel, **settings: float) -> Reader:
    return Reader(run, draft, Sampler(Drafted(**settings), run.model.token))  # type: ignore[arg-type]


def test_auto_takes_the_early_exit_where_no_draft_was_trained(tiny_llama: CausalModel) -> None:
    assert all(draft_for(twin(), Drafted(draft=name)) is twin().companion for name in ("auto", "trained", "early exit"))
    exit = draft_for(tiny_llama, Drafted(exit_layer=6))
    assert exit.name.endswith("layers 1-1"), "one layer fewer than the model has"
    assert draft_for(tiny_llama, Drafted(exit_layer=6)) is exit, "made once"


def test_what_is_asked_for_by_name_must_be_there(tiny_llama: CausalModel) -> None:
    with pytest.raises(ModelUnavailable, match=r"training\.draft_model|another model"):
        draft_for(tiny_llama, Drafted(draft="trained"))
    with pytest.raises(BadParameter, match="2 layers"):
        draft_for(tiny_llama, Drafted(draft="early exit", exit_layer=2))
    with pytest.raises(ModelUnavailable):
        draft_for(tiny_llama, Drafted(draft="no-such-model"))


def test_a_draft_with_another_vocabulary_is_translated(tiny_llama: CausalModel, smollm: CausalModel) -> None:
    draft = draft_for(tiny_llama, Drafted(draft=smollm.name))
    assert isinstance(draft, Translated)
    assert draft.own is smollm


def test_an_early_exit_shares_the_weights_and_stops_early(tiny_llama: CausalModel) -> None:
    before = tiny_llama.start().extend([1, 2, 3])
    exit = early_exit(tiny_llama, 1)
    shared = {weight.data_ptr() for weight in tiny_llama.network.parameters()}
    assert {weight.data_ptr() for weight in exit.network.parameters()} <= shared
    assert torch.equal(tiny_llama.start().extend([1, 2, 3]), before)
    hidden = tiny_llama.network(torch.tensor([[1, 2, 3]]), output_hidden_states=True).hidden_states[1]
    expected = tiny_llama.network.lm_head(tiny_llama.network.model.norm(hidden))[0]
    torch.testing.assert_close(exit.start().extend([1, 2, 3]), expected, atol=1e-4, rtol=1e-4)


def test_refused_guesses_are_forgotten_and_the_new_text_is_read(tiny_llama: CausalModel) -> None:
    run, draft = Run(tiny_llama, [1, 2, 3]), early_exit(tiny_llama, 1)
    following = reader(run, draft)
    following.catch_up()
    for token in (10, 11, 12):
        following.read(token)
    for kept in ([10, 11, 99], [10, 11, 99, 5, 6]):  # two guesses accepted, then tokens it never saw
        run.output = kept
        fresh = draft.start().extend(run.sequence, last=True)[-1]
        torch.testing.assert_close(following.catch_up(), fresh, atol=1e-5, rtol=1e-4)


def test_it_reads_only_what_is_new(tiny_llama: CausalModel) -> None:
    run = Run(tiny_llama, [1, 2, 3])
    following = reader(run, early_exit(tiny_llama, 1))
    following.catch_up()
    following.read(10)
    run.output = [10, 11]
    following.catch_up()
    passes = [event for event in run.ledger if isinstance(event, Forward)]
    assert [(event.lane, event.cached, event.query) for event in passes] == [
        ("draft", 0, 3),
        ("draft", 3, 1),
        ("draft", 4, 1),
    ]


def test_a_tree_is_read_as_so_many_texts(tiny_llama: CausalModel) -> None:
    run, draft = Run(tiny_llama, [1, 2, 3]), early_exit(tiny_llama, 1)
    following = reader(run, draft)
    following.catch_up()
    tree = TokenTree(3)
    one, two = tree.add(0, 7, ""), tree.add(0, 8, "")
    tree.add(one, 9, "")
    tree.add(two, 9, "")
    logits = following.read_tree(tree)
    for row, path in enumerate(([7], [8], [7, 9], [8, 9])):
        fresh = draft.start().extend([1, 2, 3, *path], last=True)[-1]
        torch.testing.assert_close(logits[row], fresh, atol=1e-5, rtol=1e-4)
    assert torch.allclose(following.catch_up(), draft.start().extend([1, 2, 3])[-1], atol=1e-5)


def test_guesses_stop_where_the_drafts_context_does(tiny_llama: CausalModel) -> None:
    draft = early_exit(tiny_llama, 1)
    draft.context_length = 10
    assert reader(Run(tiny_llama, [1] * 8), draft).room() == 2
    assert reader(Run(tiny_llama, [1] * 12), draft).room() == 0
    assert reader(Run(tiny_llama, [1] * 3, max_new_tokens=3), draft).room() == 2


def test_a_full_context_is_said_once(tiny_llama: CausalModel) -> None:
    draft = early_exit(tiny_llama, 1)
    draft.context_length = 10
    following = reader(Run(tiny_llama, [1] * 12), draft)
    note = following.full()
    assert note is not None
    assert "at most 10 tokens" in note.text
    assert following.full() is None
    assert reader(Run(tiny_llama, [1] * 3), draft).full() is None
    assert reader(Run(tiny_llama, [1] * 12, max_new_tokens=1), draft).full() is None, "there is nothing to guess anyway"


def test_the_draft_is_filtered_as_the_target_is(tiny_llama: CausalModel) -> None:
    logits = torch.arange(257.0) / 10
    run = Run(tiny_llama, [1])
    q = reader(run, tiny_llama, temperature=0.5, top_k=3).distribution(logits)
    assert int((q > 0).sum()) == 3
    torch.testing.assert_close(q[-3:], (logits[-3:] / 0.5).softmax(-1))
    torch.testing.assert_close(reader(run, tiny_llama).distribution(logits), logits.softmax(-1))
