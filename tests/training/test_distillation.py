"""What the draft model learns from: conversations, and what counts in them."""

from __future__ import annotations

import pytest
import torch

from engines.models.causal import CausalModel
from training import conversations
from training.draft_model import answers, losses


def test_conversations_take_turns_and_keep_what_the_model_thought(
    smollm: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "ROWS", 2)
    monkeypatch.setattr(conversations, "LENGTH", 60)
    monkeypatch.setattr(conversations, "OWN_SHARE", 0.0)
    monkeypatch.setattr(conversations, "LONGEST_ANSWER", 12)
    batch = conversations.converse(smollm, seed=1)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "tokens": (2, 61),
        "top_ids": (2, 60, 64),
        "top_log_p": (2, 60, 64),
    }
    for row in batch["tokens"].tolist():
        text = smollm.decode(row)
        assert text.startswith("<|im_start|>system")
        assert text.index("<|im_start|>user") < text.index("<|im_start|>assistant")
    # Row 0 answers greedily: while it answers, every token is the model's first choice.
    inside = answers(batch["tokens"][:1, :-1].long(), smollm)[0]
    taken = batch["tokens"][0, 1:]
    chosen = [int(taken[i]) == int(batch["top_ids"][0, i, 0]) for i in range(60) if inside[i]]
    assert sum(chosen) >= len(chosen) - 2 > 5  # an answer that becomes too long is ended


def test_an_answer_begins_behind_its_header_and_includes_its_end(smollm: CausalModel) -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo!<|im_end|>\n<|im_start|>user\n"
    ids = smollm.encode(text, raw=True)
    mask = answers(torch.tensor([ids]), smollm)[0]
    counted = [ids[place + 1] for place in range(len(ids) - 1) if mask[place]]
    assert smollm.decode(counted) == "Ho!<|im_end|>"


def test_overlap_is_the_chance_that_a_drawn_guess_is_accepted() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    top = torch.tensor([[[0, 1, 2]]])
    loss, overlap = losses(q.log()[None, None], top, p.log()[None, None])
    assert float(overlap) == pytest.approx(0.7, abs=1e-3)
    assert float(loss) == pytest.approx(float(-(p * q.log()).sum()), abs=1e-3)
    # The second token cannot be guessed: what it would have added is lost.
    _, less = losses(q.log()[None, None], torch.tensor([[[0, -1, 2]]]), p.log()[None, None])
    assert float(less) == pytest.approx(0.4, abs=1e-3)
