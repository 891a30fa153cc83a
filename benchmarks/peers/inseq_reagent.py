r"""ReAGent beside inseq's: the same numbers drawn, the same scores at every step.

inseq (inseq-team/inseq, Apache-2.0) pins versions that the playground does not share, so it gets an environment of its
own, to which the few packages are added that `engines` imports:

    python -m venv /tmp/venv-inseq
    /tmp/venv-inseq/bin/pip install inseq==0.7.1 torch==2.13.0 msgspec llguidance jsonschema lark networkx gguf psutil \
        platformdirs httpx accelerate
    PYTHONPATH=. /tmp/venv-inseq/bin/python -m benchmarks.peers.inseq_reagent

Compared are S of every probe after every step, which steps settle which probe, and the mean over the settled ones, on a
tiny random Llama and on the embedded model. inseq draws from torch's global generator and ours from its own, in the
same order; its tagger, which downloads what it knows, gives way to our substitutes. The context has no special token,
as inseq would replace those too. Leaves with 1 when the largest difference is above `CLOSE`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import torch
from inseq.attr.feat.ops.reagent_core import importance_score_evaluator as scoring
from inseq.attr.feat.ops.reagent_core import rationalizer, stopping_condition_evaluator, token_replacer, token_sampler
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import engines
from engines.attribution.reagent import Params, answer, search
from engines.attribution.substitutes import OwnModel, Substitutes, Uniform

CLOSE = 1e-4
"""Largest difference of a score S that both may have; scores differ by several units."""


class Injected(token_sampler.TokenSampler):
    """inseq's sampler, with our substitutes."""

    def __init__(self, substitutes: Substitutes) -> None:
        self._substitutes = substitutes

    def __call__(self, input_ids: Tensor, **_: object) -> Tensor:
        return self._substitutes(torch.rand(input_ids.shape))


class Watched(scoring.DeltaProbImportanceScoreEvaluator):
    """inseq's evaluator, which keeps S as it stood before every step."""

    def update_importance_score(self, S: Tensor, *rest: object) -> Tensor:  # type: ignore[override]
        self.before.append(S.clone())
        return super().update_importance_score(S, *rest)


class Stops(stopping_condition_evaluator.TopKStoppingConditionEvaluator):
    """inseq's stopping rule, which keeps what it said."""

    def __call__(self, *arguments: object, **options: object) -> Tensor:
        hit = super().__call__(*arguments, **options)
        self.said.append(hit)
        return hit


@dataclass
class Case:
    name: str
    network: PreTrainedModel
    context: Tensor
    target: int
    substitutes: Substitutes
    params: Params


def next_logits(network: PreTrainedModel, texts: Tensor) -> Tensor:
    with torch.no_grad():
        return network(texts).logits[:, -1]


def inseqs(case: Case, seed: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """S before every step, which probes are settled after every step, and the mean."""
    params, sampler = case.params, Injected(case.substitutes)
    stops = Stops(case.network, sampler, params.top_k, params.keep)
    stops.said = []
    replacer = token_replacer.UniformTokenReplacer(sampler, params.rho)
    watched = Watched(case.network, None, replacer, stops, params.max_steps)
    watched.tokenizer = type("Silent", (), {"decode": staticmethod(lambda ids: "")})()
    watched.before = []
    whole = rationalizer.AggregateRationalizer(watched, params.probes, 0, True, params.keep)
    torch.manual_seed(seed)
    whole(case.context[None], torch.tensor([case.target]))
    settled = torch.stack(stops.said).int().cumsum(0) > 0
    return watched.before, settled, whole.mean_importance_score


def compare(case: Case, seed: int) -> float:
    """The largest difference of a score. Prints a line."""
    theirs, settled, mean = inseqs(case, seed)
    logits = next_logits(case.network, case.context[None])
    p0 = float(logits.softmax(-1)[0, case.target])
    fixed = torch.zeros(len(case.context), dtype=torch.bool)
    rng = torch.Generator().manual_seed(seed)
    found = search(
        lambda texts: next_logits(case.network, texts),
        case.context,
        fixed,
        case.target,
        p0,
        case.substitutes,
        rng,
        case.params,
    )
    ours = [step for step in found if step.tested]
    same_stops = len(ours) - 1 == len(settled) and all(
        torch.equal(step.settled, row) for step, row in zip(ours[1:], settled, strict=True)
    )
    worst = max(float((step.S - S).abs().max()) for step, S in zip(ours, theirs, strict=False))
    spread = float(ours[-1].S.std())
    # Where no probe settled inseq divides by none.
    off = float((answer(ours[-1]) - mean).abs().max()) if settled[-1].any() else 0.0
    print(
        f"{case.name}, seed {seed}: {len(ours) - 1} steps, {int(settled[-1].sum())} of {case.params.probes} settled, "
        f"the same ones: {same_stops}; S differs by at most {worst:.1e} (spread {spread:.1f}), the mean by {off:.1e}"
    )
    return max(worst, off) if same_stops else float("inf")


def tiny() -> Case:
    """A random Llama, whose predictions hang on everything."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=257, initializer_range=0.3, **shape)).eval()
    context = torch.randint(0, 256, (24,))
    target = int(next_logits(network, context[None]).argmax())
    params = Params(max_steps=60, probes=6, top_k=2)
    return Case("tiny Llama, uniform", network, context, target, Uniform(context, torch.arange(256)), params)


def embedded(prompt: str) -> Case:
    """The embedded model with its own predictions as substitutes."""
    model = engines.load()
    context = torch.tensor(model.vocabulary.tokenise(prompt))
    with torch.no_grad():
        logits = model.network(context[None]).logits[0]
    ids = torch.from_numpy(model.vocabulary.text_ids).sort().values
    before = torch.cat((torch.zeros_like(logits[:1]), logits[:-1]))
    substitutes = OwnModel(before, context, ids)
    params = Params(max_steps=12, probes=3)
    return Case("SmolLM2, own model", model.network, context, int(logits[-1].argmax()), substitutes, params)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompt", default="When Mary and John went to the store, John gave a drink to")
    arguments = parser.parse_args()
    worst = max(compare(tiny(), seed) for seed in range(arguments.seeds))
    worst = max(worst, compare(embedded(arguments.prompt), 0))
    print(f"Largest difference: {worst:.1e}; allowed: {CLOSE:.0e}")
    return int(worst > CLOSE)


if __name__ == "__main__":
    sys.exit(main())
