"""From logits to a token: penalties, temperature and filters, each a pure function, and the order they go in.

The order is the one transformers documents: penalties first, then temperature, top-k, top-p, min-p, typical,
epsilon, eta, then renormalisation. What transformers does not have is placed by its authors' definition:
frequency and presence penalties follow the repetition penalty, top-nσ precedes temperature (the set it keeps
does not depend on it), mirostat comes last.

Every `apply_*` takes logits (..., vocabulary) and returns logits of the same shape, removed tokens at -inf.

Sources: top-k "Hierarchical Neural Story Generation" arXiv 1805.04833; top-p "The Curious Case of Neural Text
Degeneration" 1904.09751; min-p "Turning Up the Heat" 2407.01082; typical "Locally Typical Sampling" 2202.00666;
epsilon and eta "Truncation Sampling as Language Model Desmoothing" 2210.15191; top-nσ "Top-nσ: Not All Logits
Are You Need" 2411.07641; mirostat 2007.14966; repetition penalty "CTRL" 1909.05858.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from engines.errors import DecodingError
from engines.events import Choice, Stage, Token

if TYPE_CHECKING:
    from engines.grammars.gate import Gate

NEVER = float("-inf")


ConstraintKind = Literal["none", "json schema", "regex", "grammar", "choices"]
Constraining = Annotated[ConstraintKind, Meta(description="What the text must keep to")]
GrammarText = Annotated[
    str,
    Meta(
        max_length=262144,
        description="The JSON Schema, regular expression or Lark grammar; or one choice per line",
        extra={"editor": "grammar"},
    ),
]


class Constrainable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of methods that can hold the text to a language."""

    constraint: Constraining = "none"
    grammar: GrammarText = ""


class Sampling(Constrainable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of `Sampler`. A method that samples inherits them, or repeats those it offers."""

    temperature: Annotated[
        float, Meta(ge=0, le=5, description="Flattens (above 1) or sharpens (below 1); 0 takes the most probable token")
    ] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1000, description="Keep the k most probable tokens; 0 keeps all")] = 0
    top_p: Annotated[
        float, Meta(ge=0.01, le=1, description="Keep the smallest set that holds this much probability")
    ] = 1.0
    min_p: Annotated[
        float, Meta(ge=0, le=1, description="Keep tokens at least this fraction as probable as the top one")
    ] = 0.0
    typical: Annotated[
        float, Meta(ge=0.01, le=1, description="Keep the tokens of most typical surprise that hold this much mass")
    ] = 1.0
    epsilon: Annotated[float, Meta(ge=0, le=0.5, description="Drop tokens less probable than this")] = 0.0
    eta: Annotated[float, Meta(ge=0, le=0.5, description="As epsilon, but lower where the model is unsure")] = 0.0
    top_n_sigma: Annotated[
        float, Meta(ge=0, le=10, description="Keep logits within n standard deviations of the top one; 0 is off")
    ] = 0.0
    mirostat_tau: Annotated[float, Meta(ge=0, le=10, description="Mirostat 2: target surprise in bits; 0 is off")] = 0.0
    mirostat_eta: Annotated[float, Meta(ge=0, le=1, description="Mirostat 2: learning rate")] = 0.1
    repetition_penalty: Annotated[
        float, Meta(ge=0.1, le=5, description="Divides logits of tokens already in the text; 1 is off")
    ] = 1.0
    frequency_penalty: Annotated[
        float, Meta(ge=-2, le=2, description="Lowers a logit by this for every time its token was generated")
    ] = 0.0
    presence_penalty: Annotated[
        float, Meta(ge=-2, le=2, description="Lowers a logit by this if its token was generated at all")
    ] = 0.0


class Choosing(Constrainable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a checked token is chosen. Methods that promise plain decoding's text inherit these settings."""

    temperature: Annotated[float, Meta(ge=0, le=5, description="0 takes the most probable token")] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=1000, description="Keep the k most probable tokens; 0 keeps all")] = 0
    top_p: Annotated[
        float, Meta(ge=0.01, le=1, description="Keep the smallest set that holds this much probability")
    ] = 1.0


class Speculating(Choosing, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that all methods share which guess and check."""

    fallback: Annotated[bool, Meta(description="Decode plainly for a while when guesses do not pay")] = True


def apply_repetition_penalty(logits: Tensor, penalty: float, context: Sequence[int]) -> Tensor:
    """Divides positive logits of tokens in `context` (prompt and output) by the penalty, multiplies negative ones."""
    seen = torch.tensor(sorted(set(context)), dtype=torch.long, device=logits.device)
    out = logits.clone()
    score = out[..., seen]
    out[..., seen] = torch.where(score < 0, score * penalty, score / penalty)
    return out


def apply_count_penalties(logits: Tensor, frequency: float, presence: float, generated: Sequence[int]) -> Tensor:
    """Subtracts `frequency` × count and `presence` once from the tokens in `generated` (output only)."""
    counts = Counter(generated)
    seen = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
    out = logits.clone()
    out[..., seen] -= frequency * logits.new_tensor(list(counts.values())) + presence
    return out


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divides by the temperature, which must be positive."""
    # Below the floor the quotients would overflow and leave no distribution.
    return logits / max(temperature, 1e-30)


def apply_top_n_sigma(logits: Tensor, n: float) -> Tensor:
    """Keeps logits ≥ max - n·σ, σ the standard deviation over the tokens still possible."""
    possible = logits.isfinite()
    count = possible.sum(-1, keepdim=True)
    mean = logits.where(possible, 0.0).sum(-1, keepdim=True) / count
    spread = ((logits - mean).where(possible, 0.0).square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - n * spread, NEVER)


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps logits ≥ the k-th largest; ties are kept."""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, NEVER)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Drops the ascending tail whose cumulative probability is ≤ 1 - p; at least one token is kept."""
    probabilities = logits.softmax(-1)
    for size in _sizes(logits):
        top, order = probabilities.topk(size)
        rest = 1 - top.sum(-1, keepdim=True) if size < logits.shape[-1] else torch.zeros_like(top[..., :1])
        if (rest <= 1 - p).all():
            break
    # The mass of a token and of all that are less probable.
    tail = rest + top.flip(-1).cumsum(-1).flip(-1)
    keep = tail > 1 - p
    keep[..., 0] = True
    return logits.masked_fill(~torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, keep), NEVER)


def apply_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Keeps tokens with probability ≥ min_p times that of the most probable one."""
    p = logits.softmax(-1)
    return logits.masked_fill(p < min_p * p.amax(-1, keepdim=True), NEVER)


def apply_typical(logits: Tensor, mass: float) -> Tensor:
    """Keeps the tokens whose surprise is closest to the entropy, until they hold `mass` (ties kept)."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).nansum(-1, keepdim=True)
    oddity = (-log_p - entropy).abs()
    for size in _sizes(logits):
        ordered, order = oddity.topk(size, largest=False)
        cumulative = p.gather(-1, order).cumsum(-1)
        if (cumulative[..., -1] >= mass).all():
            break
    last = (cumulative < mass).sum(-1, keepdim=True).clamp(max=size - 1)
    return logits.masked_fill(oddity > ordered.gather(-1, last), NEVER)


def apply_epsilon(logits: Tensor, epsilon: float) -> Tensor:
    """Keeps tokens with probability ≥ epsilon, and always the most probable one."""
    return _keep_probable(logits, logits.new_tensor(epsilon))


def apply_eta(logits: Tensor, epsilon: float) -> Tensor:
    """Keeps tokens with probability ≥ min(ε, √ε · e^-H), and always the most probable one."""
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).nansum(-1, keepdim=True)
    return _keep_probable(logits, (math.sqrt(epsilon) * (-entropy).exp()).clamp(max=epsilon))


def apply_mirostat(logits: Tensor, mu: float) -> Tensor:
    """Mirostat 2: drops tokens whose surprise exceeds μ bits, never the most probable one."""
    # μ below 0, where the update drives it when even the top token surprises more than τ, asks no more than 0 does.
    return _keep_probable(logits, logits.new_tensor(2.0 ** -max(mu, 0.0)))


def _sizes(logits: Tensor) -> tuple[int, ...]:
    """How many tokens to put in order: as many as mostly suffice, ten times faster, before the whole vocabulary."""
    size = logits.shape[-1]
    return (1024, size) if size > 1024 else (size,)


def _keep_probable(logits: Tensor, threshold: Tensor) -> Tensor:
    drop = (logits.softmax(-1) < threshold) & (logits < logits.amax(-1, keepdim=True))
    return logits.masked_fill(drop, NEVER)


@dataclass(slots=True)
class Distribution:
    """What a token is drawn from at one place: `probabilities` (vocabulary,), and how they came about."""

    probabilities: Tensor
    stages: tuple[Stage, ...]


class Sampler:
    """Penalties, temperature and filters of one run, in the documented order.

    Args:
        settings: a `Sampling`, or any struct with some of its fields; missing ones are off.
        spell: id → Token, for the events.
        gate: holds the text to a constraint.
    """

    def __init__(self, settings: Any, spell: Callable[[int], Token], gate: Gate | None = None) -> None:
        defaults = Sampling()
        self.settings = Sampling(
            **{name: getattr(settings, name, getattr(defaults, name)) for name in Sampling.__struct_fields__}
        )
        self.spell, self.gate = spell, gate
        self._mu = 2 * self.settings.mirostat_tau

    @property
    def greedy(self) -> bool:
        """At temperature 0 the most probable token is taken; filters then change nothing."""
        return self.settings.temperature == 0

    @property
    def plain(self) -> bool:
        """Nothing is applied at all: the distribution is the model's own."""
        untouched = Sampling(
            temperature=self.settings.temperature,
            constraint=self.settings.constraint,
            grammar=self.settings.grammar,
        )
        return self.gate is None and self.settings == untouched and self.settings.temperature in (0, 1)

    def twin(self) -> Sampler:
        """A sampler with the same settings for a draft, which may look ahead on its own."""
        return Sampler(self.settings, self.spell, self.gate and self.gate.twin())

    def _steps(self, prompt: Sequence[int], output: Sequence[int]) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
        s = self.settings
        counted = bool(s.frequency_penalty or s.presence_penalty)
        gate = self.gate
        steps: list[tuple[bool, str, Callable[[Tensor], Tensor]]] = [
            (gate is not None, "constraint", lambda x: gate.filtered(x, output) if gate else x),
            (
                s.repetition_penalty != 1,
                "repetition penalty",
                lambda x: apply_repetition_penalty(x, s.repetition_penalty, [*prompt, *output]),
            ),
            (
                counted,
                "frequency and presence penalty",
                lambda x: apply_count_penalties(x, s.frequency_penalty, s.presence_penalty, output),
            ),
        ]
        if not self.greedy:
            steps += [
                (s.top_n_sigma > 0, "top-nσ", lambda x: apply_top_n_sigma(x, s.top_n_sigma)),
                (s.temperature != 1, "temperature", lambda x: apply_temperature(x, s.temperature)),
                (s.top_k > 0, "top-k", lambda x: apply_top_k(x, s.top_k)),
                (s.top_p < 1, "top-p", lambda x: apply_top_p(x, s.top_p)),
                (s.min_p > 0, "min-p", lambda x: apply_min_p(x, s.min_p)),
                (s.typical < 1, "typical", lambda x: apply_typical(x, s.typical)),
                (s.epsilon > 0, "epsilon", lambda x: apply_epsilon(x, s.epsilon)),
                (s.eta > 0, "eta", lambda x: apply_eta(x, s.eta)),
                (s.mirostat_tau > 0, "mirostat", lambda x: apply_mirostat(x, self._mu)),
            ]
        return [(name, apply) for active, name, apply in steps if active]

    def warp(self, logits: Tensor, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
        """Logits (..., vocabulary) after every active stage, for the place that follows `prompt` and `output`."""
        for _, apply in self._steps(prompt, output):
            logits = apply(logits)
        return logits

    def distribution(self, logits: Tensor, prompt: Sequence[int], output: Sequence[int]) -> Distribution:
        """The distribution to draw from, and what every stage did to it. At temperature 0 it is one-hot."""
        stages = []
        before = logits.softmax(-1)
        for name, apply in self._steps(prompt, output):
            logits = apply(logits)
            after = logits.softmax(-1)
            stages.append(self._stage(name, before, after, logits > NEVER))
            before = after
        if self.greedy:
            before = torch.zeros_like(before).scatter_(-1, before.argmax(-1, keepdim=True), 1.0)
        return Distribution(before, tuple(stages))

    def draw(self, probabilities: Tensor, rng: torch.Generator) -> int:
        """One token id from (vocabulary,) probabilities. Raises `DecodingError` if they are not numbers."""
        return int(draw(probabilities, rng))

    def learn(self, token: int, logits: Tensor) -> None:
        """Mirostat's feedback after a token was drawn: μ moves by η times how far its surprise missed τ.

        The surprise, in bits, is that under the model's own distribution, `logits` (vocabulary,) untouched, as in
        the paper: the text as a whole then surprises the model by τ bits per token. (llama.cpp takes the truncated,
        renormalised distribution instead, which reports less surprise and so lets more tokens through.)
        """
        if self.settings.mirostat_tau > 0:
            surprise = float(logits.logsumexp(-1) - logits[token]) / math.log(2)
            self._mu -= self.settings.mirostat_eta * (surprise - self.settings.mirostat_tau)

    def _stage(self, name: str, before: Tensor, after: Tensor, possible: Tensor) -> Stage:
        gone = before.masked_fill(possible, 0.0)
        return Stage(
            name=name,
            kept=int(possible.sum()),
            removed_mass=float(gone.sum()),
            removed=tuple(choice for choice in self.top(gone, 5) if choice.p > 0),
            top=self.top(after, 8),
        )

    def top(self, probabilities: Tensor, count: int) -> tuple[Choice, ...]:
        """The most probable tokens of (vocabulary,), most probable first."""
        return top_choices(probabilities, count, self.spell)


def draw(probabilities: Tensor, rng: torch.Generator) -> Tensor:
    """Token ids (...,) drawn from (..., vocabulary) probabilities, which need not add up to 1.

    One random number per row, looked up in the cumulative distribution: for a large vocabulary several times
    faster than `torch.multinomial`, which draws one per token.

    Raises:
        DecodingError: they are not numbers.
    """
    cumulative = probabilities.double().cumsum(-1)
    total = cumulative[..., -1:]
    if not (total.isfinite() & (total > 0)).all():
        raise DecodingError(
            "The model's output is not a probability distribution: its numbers overflowed. "
            "Load it in float32 and run again."
        )
    u = torch.rand(total.shape, generator=rng, device=total.device, dtype=total.dtype)
    # The first token whose cumulative probability exceeds u, which an impossible one never is. The product may
    # round up to the total, which none exceeds.
    below = torch.minimum(u * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, below, right=True)[..., 0]


def top_choices(probabilities: Tensor, count: int, spell: Callable[[int], Token]) -> tuple[Choice, ...]:
    """The `count` most probable tokens of (vocabulary,) probabilities, most probable first."""
    values, ids = probabilities.topk(min(count, probabilities.shape[-1]))
    return tuple(Choice(spell(id), p) for id, p in zip(ids.tolist(), values.tolist(), strict=True))
