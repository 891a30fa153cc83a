"""What may stand in for a token: the right distribution, never the token itself, never a special one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engines.attribution.substitutes import NEIGHBOURS, OwnModel, Uniform, UnigramBucket, look, near
from engines.models.causal import CausalModel

GRID = ((torch.arange(20_000) + 0.5) / 20_000)[:, None]
"""Numbers that stand for all chances, evenly."""
EXTREMES = torch.tensor([[0.0], [1 - 2**-24]])


def share(drawn: Tensor, size: int) -> Tensor:
    """How often each id was drawn, in one column (draws,)."""
    return torch.bincount(drawn, minlength=size) / len(drawn)


def test_the_models_own_substitutes_follow_its_distribution_without_the_token_itself() -> None:
    p = torch.tensor([[0.5, 0.1, 0.1, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4, 0.0]])
    # Token 4 is no substitute for anything; it is what stands at the second place.
    own = OwnModel(p.log(), torch.tensor([0, 4]), torch.tensor([0, 1, 2, 3]))
    drawn = own(GRID.expand(-1, 2))
    torch.testing.assert_close(share(drawn[:, 0], 5), torch.tensor([0, 0.25, 0.25, 0.5, 0]), atol=2e-4, rtol=0)
    torch.testing.assert_close(share(drawn[:, 1], 5), torch.tensor([0.1, 0.2, 0.3, 0.4, 0]), atol=2e-4, rtol=0)


def test_a_certain_model_still_finds_a_substitute() -> None:
    logits = torch.tensor([[200.0, 3.0, 0.0, -300.0]])
    drawn = OwnModel(logits, torch.tensor([0]), torch.arange(4))(torch.cat((GRID, EXTREMES)))[:, 0]
    assert set(drawn.tolist()) == {1, 2}
    assert float(share(drawn, 4)[1]) == pytest.approx(1 / (1 + 2.718281828**-3), abs=1e-3)


@pytest.mark.parametrize("size", [2, 3, 5, 257, 32_769, 49_134, 65_536])
def test_the_extremes_of_chance_give_a_substitute(size: int) -> None:
    context, ids = torch.tensor([0, size - 1]), torch.arange(size)
    for source in (Uniform(context, ids), OwnModel(torch.zeros(2, size), context, ids)):
        drawn = source(EXTREMES.expand(-1, 2))
        assert bool(((drawn >= 0) & (drawn < size) & (drawn != context)).all())


def test_rounding_leaves_no_chance_without_a_substitute() -> None:
    logits = torch.randn(200, 1000, generator=torch.Generator().manual_seed(0))
    own = OwnModel(logits, torch.zeros(200, dtype=torch.long), torch.arange(1000))
    assert bool((own(EXTREMES.expand(-1, 200)) > 0).all())


def test_uniform_substitutes_are_all_tokens_but_the_token_itself() -> None:
    ids = torch.tensor([2, 3, 5, 9])
    drawn = Uniform(torch.tensor([2, 5, 9, 4]), ids)(GRID.expand(-1, 4))
    for column, expected in enumerate([{3, 5, 9}, {2, 3, 9}, {2, 3, 5}, {2, 3, 5, 9}]):
        assert set(drawn[:, column].tolist()) == expected
        counts = share(drawn[:, column], 10)[list(expected)]
        torch.testing.assert_close(counts, torch.full_like(counts, 1 / len(expected)), atol=2e-4, rtol=0)


def test_a_bucket_holds_the_nearest_tokens_of_the_same_look() -> None:
    spelled = [b" cat", b"dog", b" Dog", b" cow", b" 12", b" owl", b"!", b" hen"]
    drawn = UnigramBucket(torch.tensor([3, 6]), range(8), spelled)(GRID.expand(-1, 2))
    assert set(drawn[:, 0].tolist()) == {0, 5, 7}
    # Nothing looks like the only sign: then any token will do.
    assert set(drawn[:, 1].tolist()) == {0, 1, 2, 3, 4, 5, 7}


def test_only_ranks_near_by_are_in_a_bucket() -> None:
    ids = range(0, 2000, 2)
    assert near(ids, 1000) == [id for id in range(1000 - 2 * NEIGHBOURS, 1001 + 2 * NEIGHBOURS, 2) if id != 1000]
    assert near(ids, 0) == list(range(2, 2 * NEIGHBOURS + 1, 2))
    assert len(near(ids, 1998)) == NEIGHBOURS


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        (b" the", (True, "small")),
        (b"the", (False, "small")),
        (b" The", (True, "capital first")),
        (b" I", (True, "capital first")),
        (b"USA", (False, "capitals")),
        (b" 12", (True, "digits")),
        (b"?!", (False, "signs")),
        (b"\n\n", (False, "blank")),
        ("猫".encode(), (False, "letters")),
        ("é".encode(), (False, "small")),
        (b"\xe7", (False, "signs")),
    ],
)
def test_tokens_are_sorted_by_their_look(spelled: bytes, expected: tuple[bool, str]) -> None:
    assert look(spelled) == expected


def test_words_of_the_embedded_model_are_replaced_by_words_like_them(smollm: CausalModel) -> None:
    vocabulary = smollm.vocabulary
    ids = sorted(vocabulary.text_ids.tolist())
    context = torch.tensor(vocabulary.tokenise(" Paris is big in 2024!"))
    drawn = UnigramBucket(context, ids, vocabulary.bytes_of)(torch.rand(50, len(context)))
    for place, token in enumerate(context.tolist()):
        kinds = {look(vocabulary.bytes_of[id]) for id in drawn[:, place].tolist()}
        assert kinds == {look(vocabulary.bytes_of[token])}
        assert token not in drawn[:, place]
