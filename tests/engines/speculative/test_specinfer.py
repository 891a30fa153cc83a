"""SpecInfer: the shape of its trees, what they cost, and what they do to the text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engines.errors import BadParameter
from engines.events import Curve, Draft, Event, Finished, Forward, Note, Verdict
from engines.goodness_of_fit import PROMPT, distribution_test
from engines.method import find
from engines.models.causal import CausalModel
from engines.models.twin import twin
from engines.runner import Run, run
from engines.speculative.specinfer import Expansion, Params, best_depth, drafting, path
from engines.speculative.tree import TokenTree
from engines.speculative.verify import Verification
from tests.conftest import byte_tokenizer

HOT: dict[str, Any] = {"temperature": 1.0, "fallback": False}
EXIT: dict[str, Any] = {"draft": "early exit", "exit_layer": 1, "fallback": False, "adapt": False}


def decode(params: dict[str, Any], seed: int = 0, model: CausalModel | None = None, **limits: int) -> list[Event]:
    model = model or twin()
    return list(run(model, "specinfer", PROMPT, params=params, raw=True, seed=seed, **{"max_new_tokens": 8, **limits}))


def drafts(events: list[Event]) -> list[Draft]:
    return [event for event in events if isinstance(event, Draft)]


def depths(draft: Draft) -> list[int]:
    deep = [0]
    for node in draft.nodes[1:]:
        deep.append(deep[node.parent] + 1)
    return deep


def trees(params: Params, count: int) -> list[TokenTree]:
    """Trees for the prompt, drawn one after the other."""
    job = Run(twin(), twin().encode(PROMPT, raw=True), max_new_tokens=20)
    return [proposed(Expansion(job, params), job) for _ in range(count)]


def proposed(expansion: Expansion, job: Run) -> TokenTree:
    with pytest.raises(StopIteration) as stop:
        next(expansion.propose(job))
    tree: TokenTree = stop.value.value
    return tree


@pytest.mark.parametrize("branching", ["", "0", "5", "2-", "-2", "2-2-2-2-2", "2,2", "2-2\n", "٢"])
def test_a_shape_is_one_to_four_numbers_from_1_to_4(branching: str) -> None:
    with pytest.raises(BadParameter, match="branching"):
        find("specinfer").validate({"branching": branching})


def test_every_guess_gets_as_many_draws_as_its_level_says() -> None:
    end = twin().eos_ids
    for tree in trees(Params(temperature=1.0, branching="3-2-1"), 40):
        for node in range(len(tree)):
            due = 0 if tree.tokens[node] in end else (3, 2, 1, 0)[tree.depths[node]]
            assert len(tree.children[node]) == due, "a token drawn twice counts twice"
            assert len({tree.tokens[child] for child in tree.children[node]}) == len(set(tree.children[node]))


def test_draws_repeat_themselves() -> None:
    grown = trees(Params(temperature=1.0, branching="4"), 40)
    assert sum(len(tree) < 5 for tree in grown) > 10


def test_one_child_per_guess_is_chain_sampling() -> None:
    """The first guess has the draft's law, and each further one the draft's law after it."""
    grown = trees(Params(temperature=1.0, branching="1-1-1"), 300)
    assert all(tree.is_chain for tree in grown)
    q = grown[0].distributions[0]
    seen = Counter(tree.tokens[1] for tree in grown)
    assert all(abs(seen[token] / 300 - float(q[token])) < 4 * (0.25 / 300) ** 0.5 for token in range(len(q)))
    second = {(tree.tokens[1], round(float(tree.distributions[1].max()), 5)) for tree in grown if len(tree) > 2}
    assert len(second) == len({token for token, _ in second}) > 3, "q depends on the guess before, and only on it"


def test_nothing_is_guessed_below_an_end_of_text() -> None:
    ends = 0
    for event in drafts(decode({**HOT, "branching": "4-4-2"}, max_new_tokens=20)):
        parents = {node.parent for node in event.nodes}
        for node in event.nodes[1:]:
            if node.token.id in twin().eos_ids:
                ends += 1
                assert node.id not in parents
    assert ends > 0


@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_no_guess_is_deeper_than_the_run_can_take(left: int) -> None:
    deepest = [max(depths(draft)) for draft in drafts(decode({**HOT, "branching": "2-2-2-2"}, max_new_tokens=left))]
    assert all(depth < left for depth in deepest)
    assert bool(deepest) == (left > 1)


def test_where_no_guess_fits_the_draft_reads_nothing() -> None:
    events = decode(HOT, max_new_tokens=1)
    assert not any(isinstance(event, Forward) and event.lane == "draft" for event in events)


def test_a_full_context_ends_the_run_and_nothing_else() -> None:
    reasons = Counter()
    for seed in range(20):
        last = list(run(twin(), "specinfer", "ad" * 60, params=HOT, raw=True, seed=seed, max_new_tokens=50))[-1]
        assert isinstance(last, Finished)
        reasons[last.reason] += 1
    assert set(reasons) <= {"context full", "end of text"}
    assert reasons["context full"] > 1


def test_every_guess_is_followed_by_what_the_draft_says_after_it() -> None:
    model, prompt = twin().companion, twin().encode(PROMPT, raw=True)
    assert model is not None
    for tree in trees(Params(temperature=1.0, branching="3-3-2"), 5):
        for node, q in tree.distributions.items():
            text = [*prompt, *path(tree, node)]
            assert torch.allclose(q, model.start().extend(text, last=True)[-1].softmax(-1), atol=1e-5)


def test_at_temperature_0_the_guesses_are_the_drafts_best() -> None:
    model = twin()
    events = decode({"branching": "3", "fallback": False})
    for draft in drafts(events)[:1]:
        assert model.companion is not None
        logits = model.companion.start().extend(model.encode(PROMPT, raw=True), last=True)[-1]
        best = [token for token in logits.topk(3).indices.tolist() if token not in model.eos_ids]
        assert [node.token.id for node in draft.nodes[1:]] == best
        q = logits.softmax(-1)
        assert [node.q for node in draft.nodes[1:]] == pytest.approx([float(q[token]) for token in best], rel=1e-4)
    assert any(isinstance(event, Note) and "temperature 0" in event.text for event in events)
    assert {event.rule for event in events if isinstance(event, Verdict)} == {"greedy"}


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize("prompt", ["The sea", "abcabc", "12", "{}"])
def test_greedy_output_is_plain_greedys(tiny_llama: CausalModel, prompt: str, length: int) -> None:
    ours = list(run(tiny_llama, "specinfer", prompt, params=EXIT, raw=True, max_new_tokens=length))[-1]
    plain = list(run(tiny_llama, "greedy", prompt, raw=True, max_new_tokens=length))[-1]
    assert isinstance(ours, Finished)
    assert isinstance(plain, Finished)
    assert ours.token_ids == plain.token_ids


def test_sampled_output_has_the_targets_law() -> None:
    fit = list(distribution_test("specinfer", HOT, 600, length=3))[-1]
    assert fit.consistent
    assert fit.accepted > fit.tested / 4
    assert fit.accepted < fit.tested


def test_filters_apply_to_the_draft_too() -> None:
    fit = list(distribution_test("specinfer", {**HOT, "temperature": 0.8, "top_k": 3}, 400, length=3))[-1]
    assert fit.consistent
    for tree in trees(Params(temperature=0.8, top_k=3), 5):
        assert all(int((q > 0).sum()) <= 3 for q in tree.distributions.values())


def test_every_level_is_one_pass_of_the_draft_over_the_guesses_above_it(tiny_llama: CausalModel) -> None:
    events = decode({**EXIT, "branching": "2-2-1"}, model=tiny_llama)
    passes = [event.query for event in events if isinstance(event, Forward) and event.lane == "draft"]
    first = drafts(events)[0]
    sizes = [Counter(depths(first))[level] for level in (1, 2, 3)]
    assert sizes == [2, 4, 4]
    assert passes[1:3] == [2, 6]


def curve(slope: float) -> Curve:
    """t(q) = 1 + slope · (q - 1)."""
    sizes = (1.0, 64.0)
    return Curve(name="t", x_name="q", y_name="s", x=sizes, y=tuple(1 + slope * (size - 1) for size in sizes))


def test_drafting_is_priced_as_it_is_done() -> None:
    """Levels of 2, 4 and 4 guesses: passes over 1, 2 and 6 tokens."""
    assert drafting(curve(1.0), [2, 4, 4]) == pytest.approx(1 + 2 + 6)
    assert drafting(curve(1.0), []) == 0


def test_guessing_goes_as_deep_as_passes_are_cheap() -> None:
    """Levels of 2, 4 and 4 guesses, each passed with a chance of 0.6: 1.6, 1.96 and 2.176 tokens."""
    sizes, free = [2, 4, 4], Curve(name="t", x_name="q", y_name="s", x=(1.0, 64.0), y=(0.0, 0.0))
    assert best_depth(curve(0.0), free, sizes, 0.6) == 3
    assert best_depth(curve(0.1), free, sizes, 0.6) == 1  # 1.6 / 1.2 > 1.96 / 1.6 > 2.176 / 2.0
    assert best_depth(curve(0.04), free, sizes, 0.6) == 2  # 1.6 / 1.08 < 1.96 / 1.24 > 2.176 / 1.4
    assert best_depth(curve(0.0), curve(0.0), sizes, 0.6) == 1  # the draft costs as much as the target
    assert best_depth(curve(0.1), free, sizes, 1.0) == 3


def test_levels_that_fail_are_left_out_where_they_cost() -> None:
    """The twin's curve is flat but for the draft's tenth per level: what is hardly ever right does not pay even so."""
    job = Run(twin(), twin().encode(PROMPT, raw=True), max_new_tokens=60)
    expansion = Expansion(job, Params(temperature=1.0, branching="1-1-1-1"))
    wrong, refused = TokenTree(job.root), Verification("point")
    wrong.add(0, 0, "")
    for _ in range(60):
        expansion.observe(wrong, torch.zeros(2, 10), refused)
    assert max(proposed(expansion, job).depths) == 1


def test_a_draft_that_cannot_read_trees_is_refused_with_a_reason() -> None:
    config = LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    target = CausalModel(LlamaForCausalLM(config), byte_tokenizer(), name="target")
    config = LlamaConfig(**{**config.to_dict(), "attn_implementation": "eager"})
    target.companion = CausalModel(LlamaForCausalLM(config), byte_tokenizer(), name="eager", lean=False)
    with pytest.raises(BadParameter, match="eager cannot read a tree"):
        list(run(target, "specinfer", "abc", raw=True))
