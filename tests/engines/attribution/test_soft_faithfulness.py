"""Soft sufficiency and comprehensiveness: numbers by hand, a network that copies, and what chance scores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engines.attribution.soft_faithfulness import (
    ROWS,
    Distance,
    Predict,
    deletion_curve,
    distance,
    in_pieces,
    log_ratio,
    normalised_comprehensiveness,
    normalised_sufficiency,
    random_scores,
    shares,
    soft_faithfulness,
    softly_masked,
)
from engines.models.causal import CausalModel
from tests.engines.attribution.planted import copying_model

TEXT = "abcdefghijklmnop"
SOURCE = 5


def predictor(model: CausalModel) -> Predict:
    """The transformers network, from embeddings."""

    @torch.inference_mode()
    def predict(embeddings: Tensor) -> Tensor:
        return model.network(inputs_embeds=embeddings).logits[:, -1].softmax(-1)

    return predict


def embedded(model: CausalModel, text: str) -> Tensor:
    return model.network.get_input_embeddings().weight.detach()[model.encode(text, raw=True)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_both_distances_by_hand() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    assert float(distance(p, q, "repo")) == pytest.approx(0.03114, abs=5e-6)
    assert float(distance(p, q, "Hellinger")) == pytest.approx(0.14840, abs=5e-6)


@pytest.mark.parametrize(("kind", "most"), [("repo", math.sqrt(2)), ("Hellinger", 1.0)])
def test_a_distance_goes_from_equal_to_disjoint(kind: Distance, most: float) -> None:
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert float(distance(p, p, kind)) == 0
    assert float(distance(p, q, kind)) == pytest.approx(most)


def test_the_metrics_by_hand() -> None:
    q, masked = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.6, 0.2, 0.2])
    empty, left = torch.full((3,), 1 / 3), torch.tensor([0.4, 0.3, 0.3])
    assert 1 - float(distance(masked, q, "repo")) == pytest.approx(0.96558, abs=5e-6)
    assert 1 - float(distance(empty, q, "repo")) == pytest.approx(0.83248, abs=5e-6)
    assert float(normalised_sufficiency(q, masked, empty, "repo")) == pytest.approx(0.79454, abs=2e-5)
    assert float(normalised_comprehensiveness(q, left, empty, "repo")) == pytest.approx(0.74210, abs=2e-5)


def test_sufficiency_is_never_negative() -> None:
    q, empty, worse = torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.9])
    assert float(normalised_sufficiency(q, worse, empty, "repo")) == 0
    assert float(normalised_comprehensiveness(q, worse, empty, "repo")) > 1


@pytest.mark.parametrize("kind", ["repo", "Hellinger"])
def test_all_is_sufficient_and_nothing_is_not(tiny_llama: CausalModel, kind: Distance) -> None:
    predict, embeddings = predictor(tiny_llama), embedded(tiny_llama, TEXT)
    everything = soft_faithfulness(predict, embeddings, torch.ones(len(TEXT)), rng())[kind]
    nothing = soft_faithfulness(predict, embeddings, torch.zeros(len(TEXT)), rng())[kind]
    assert everything.sufficiency == pytest.approx(1, abs=1e-3)
    assert everything.comprehensiveness == pytest.approx(1, abs=1e-3)
    assert nothing.sufficiency == pytest.approx(0, abs=1e-3)
    assert nothing.comprehensiveness == pytest.approx(0, abs=1e-3)
    assert everything.tokens == len(TEXT)


def test_the_metrics_are_those_of_the_masked_inputs(tiny_llama: CausalModel) -> None:
    predict, embeddings = predictor(tiny_llama), embedded(tiny_llama, TEXT)
    scores = random_scores(len(TEXT), rng(3))
    found = soft_faithfulness(predict, embeddings, scores, rng(4), draws=3)
    again = rng(4)
    kept = embeddings * (torch.rand((3, *embeddings.shape), generator=again) < scores[:, None])
    left = embeddings * (torch.rand((3, *embeddings.shape), generator=again) < 1 - scores[:, None])
    q, empty = predict(embeddings[None]), predict(0 * embeddings[None])
    for kind in ("repo", "Hellinger"):
        d = lambda p, kind=kind: distance(p, q, kind)  # noqa: E731
        sufficiency = ((d(empty) - d(predict(kept))) / d(empty)).clamp(min=0).mean()
        assert found[kind].sufficiency == pytest.approx(float(sufficiency), abs=1e-4)
        assert found[kind].comprehensiveness == pytest.approx(float((d(predict(left)) / d(empty)).mean()), abs=1e-4)


def test_coordinates_are_kept_one_by_one_with_the_tokens_chance() -> None:
    keep = torch.tensor([0.0, 0.2, 0.7, 1.0])
    masked = softly_masked(torch.full((4, 500), 3.0), keep, 40, rng())
    assert set(masked.unique().tolist()) == {0.0, 3.0}
    torch.testing.assert_close((masked > 0).float().mean((0, 2)), keep, atol=0.02, rtol=0)
    # Independent of each other: the tokens of a draw do not come and go as a whole, nor do the draws repeat.
    assert float((masked[:, 1] > 0).float().mean(1).std()) < 0.05
    assert not torch.equal(masked[0], masked[1])


@pytest.mark.parametrize("chance", [-0.1, 1.1, math.nan])
def test_a_chance_must_be_one(chance: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        softly_masked(torch.ones(2, 3), torch.tensor([0.5, chance]), 1, rng())


def test_the_true_source_scores_better_than_chance_and_the_last_token_does_not() -> None:
    model = copying_model(SOURCE)
    predict, embeddings = predictor(model), embedded(model, TEXT)
    one = torch.eye(len(TEXT))

    def measured(scores: Tensor) -> dict[Distance, tuple[float, float]]:
        found = soft_faithfulness(predict, embeddings, scores, rng(), draws=64)
        return {kind: (value.sufficiency, value.comprehensiveness) for kind, value in found.items()}

    truth, wrong = measured(one[SOURCE]), measured(one[SOURCE + 1])
    chance = [measured(random_scores(len(TEXT), rng(seed))) for seed in range(4)]
    for kind in ("repo", "Hellinger"):
        for metric in (0, 1):
            random = [value[kind][metric] for value in chance]
            assert truth[kind][metric] > 0.95
            assert wrong[kind][metric] < 0.05
            assert log_ratio([truth[kind][metric]], random) > 0
            assert not log_ratio([wrong[kind][metric]], random) > 0


def test_deletion_takes_the_most_important_tokens_away_first() -> None:
    model = copying_model(SOURCE)
    predict, embeddings = predictor(model), embedded(model, TEXT)
    target = model.encode(TEXT, raw=True)[SOURCE]
    scores = torch.arange(float(len(TEXT)))
    scores[SOURCE] = 100
    early = deletion_curve(predict, embeddings, scores, target)
    late = deletion_curve(predict, embeddings, -scores, target)
    assert len(early) == len(late) == len(TEXT) + 1
    assert early[0] == late[0] > 0.9
    assert max(early[1:]) < 0.1
    assert min(late[:-1]) > 0.9
    assert late[-1] == pytest.approx(early[-1])


def test_deletion_is_what_zeroed_embeddings_do(tiny_llama: CausalModel) -> None:
    predict, embeddings = predictor(tiny_llama), embedded(tiny_llama, TEXT)
    scores = random_scores(len(TEXT), rng(9))
    gone, expected = embeddings.clone(), [float(predict(embeddings[None])[0, 65])]
    for place in sorted(range(len(TEXT)), key=scores.tolist().__getitem__, reverse=True):
        gone[place] = 0
        expected.append(float(predict(gone[None])[0, 65]))
    assert deletion_curve(predict, embeddings, scores, 65) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_a_deletion_curve_of_chosen_counts_is_a_part_of_the_whole(tiny_llama: CausalModel) -> None:
    predict, embeddings = predictor(tiny_llama), embedded(tiny_llama, TEXT)
    scores = random_scores(len(TEXT), rng(9))
    whole = deletion_curve(predict, embeddings, scores, 65)
    counts = [0, 2, 3, len(TEXT)]
    part = deletion_curve(predict, embeddings, scores, 65, counts)
    assert part == pytest.approx([whole[count] for count in counts], rel=1e-3, abs=1e-7)
    assert len(set(part)) == len(part)


def test_of_equally_important_tokens_the_first_is_deleted_first() -> None:
    rows: list[Tensor] = []

    def record(embeddings: Tensor) -> Tensor:
        rows.extend(embeddings[:, :, 0])
        return torch.ones(len(embeddings), 2)

    deletion_curve(record, torch.ones(3, 1), torch.tensor([1.0, 2.0, 1.0]), 0)
    assert [row.tolist() for row in rows] == [[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_no_pass_holds_more_rows_than_it_should() -> None:
    sizes: list[int] = []

    def record(embeddings: Tensor) -> Tensor:
        sizes.append(len(embeddings))
        return embeddings[:, 0]

    inputs = torch.rand(2 * ROWS + 3, 2, 4)
    assert torch.equal(in_pieces(record, inputs), inputs[:, 0])
    assert sizes == [ROWS, ROWS, 3]


def test_random_scores_are_the_softmax_of_uniform_numbers() -> None:
    scores = random_scores(1000, rng())
    assert float(scores.sum()) == pytest.approx(1)
    assert 0.9 < float((scores.max() / scores.min()).log()) <= 1
    assert torch.equal(scores, random_scores(1000, rng()))


def test_signed_scores_become_shares_by_size() -> None:
    torch.testing.assert_close(shares(torch.tensor([-3.0, 1.0, 0.0])), torch.tensor([0.75, 0.25, 0.0]))
    assert shares(torch.zeros(4)).tolist() == [0.25] * 4


def test_the_logarithm_of_the_ratio_is_positive_above_chance() -> None:
    assert log_ratio([0.2, 0.6], [0.1, 0.3]) == pytest.approx(math.log(2))
    assert log_ratio([0.1], [0.4]) == pytest.approx(-math.log(4))
    assert log_ratio([0.0], [0.4]) == -math.inf
    assert log_ratio([0.3], [0.0]) == math.inf
    assert math.isnan(log_ratio([0.0], [0.0]))
    assert math.isnan(log_ratio([math.nan], [0.3]))
    assert log_ratio([0.2, math.nan], [0.1]) == pytest.approx(math.log(2))


def test_where_the_input_does_not_matter_nothing_can_be_said() -> None:
    found = soft_faithfulness(lambda e: torch.full((len(e), 4), 0.25), torch.ones(3, 2), torch.ones(3) / 3, rng())
    assert math.isnan(found["repo"].sufficiency)
    assert math.isnan(found["repo"].comprehensiveness)


def test_the_masks_are_drawn_from_the_given_generator_alone(tiny_llama: CausalModel) -> None:
    predict, embeddings = predictor(tiny_llama), embedded(tiny_llama, TEXT)
    scores, before = shares(torch.arange(1.0, len(TEXT) + 1)), torch.get_rng_state()
    one = soft_faithfulness(predict, embeddings, scores, rng(5))
    assert soft_faithfulness(predict, embeddings, scores, rng(5)) == one
    assert soft_faithfulness(predict, embeddings, scores, rng(6)) != one
    assert torch.equal(torch.get_rng_state(), before)
