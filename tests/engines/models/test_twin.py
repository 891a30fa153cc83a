"""The twin keeps the model contract, on every machine with the same numbers."""

from __future__ import annotations

import pytest
import torch

from engines.method import Need
from engines.models.twin import Twin, twin
from engines.runner import run


def test_it_has_what_methods_ask_for() -> None:
    model = twin()
    guessing = Need.ROLLBACK | Need.TREE_ATTENTION | Need.BATCH
    assert model.has == guessing | Need.HIDDEN_STATES | Need.LOGITS | Need.GRADIENTS
    assert 8 <= model.vocabulary_size <= 16
    assert len(model.eos_ids) == 1


def test_one_letter_is_one_token() -> None:
    model = twin()
    ids = model.encode("abcab", raw=True)
    assert ids == [0, 1, 2, 0, 1]
    assert "".join(model.token(id).text for id in ids) == model.decode(ids) == "abcab"


def test_its_numbers_do_not_depend_on_chance_and_leave_chance_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = Twin(companion=Twin()).start().extend([0, 3, 3], last=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Twin(companion=Twin()).start().extend([0, 3, 3], last=True), first)
    # Written down, so that a new version of a library that changes them is noticed.
    assert first[-1].softmax(-1).tolist() == pytest.approx(EXPECTED, abs=1e-4)


EXPECTED = [0.0242, 0.0127, 0.0512, 0.7966, 0.0128, 0.0345, 0.0294, 0.0068, 0.0058, 0.0261]


def test_a_tree_is_read_as_its_branches_are() -> None:
    model = twin()
    prompt = model.encode("addddca", raw=True)
    state = model.start()
    state.extend(prompt[:-1])
    tokens, parents = [prompt[-1], 3, 2, 3, 4], [-1, 0, 0, 1, 2]
    tree = state.extend(tokens, parents)
    for node, path in enumerate([[], [3], [2], [3, 3], [2, 4]]):
        alone = model.start().extend([*prompt, *path], last=True)[-1]
        assert torch.allclose(tree[node], alone, atol=1e-5), node
    state.keep([0, 2, 4])
    assert state.length == len(prompt) + 2
    after = state.extend([5])[-1]
    assert torch.allclose(after, model.start().extend([*prompt, 2, 4, 5], last=True)[-1], atol=1e-5)
    state.rollback(2)
    again = state.extend([1])[-1]
    assert torch.allclose(again, model.start().extend([*prompt, 2, 1], last=True)[-1], atol=1e-5)


def test_it_decodes_like_any_model() -> None:
    events = list(run(twin(), "greedy", "abc", raw=True, max_new_tokens=5))
    assert type(events[0]).__name__ == "Started"
    assert 1 <= len(events[-1].token_ids) <= 5  # type: ignore[attr-defined]


def test_methods_guess_as_much_as_they_ever_would() -> None:
    assert set(twin().cost_curve().y) == {0.001}
