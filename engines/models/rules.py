"""What a backward pass sees instead of a derivative: the rules of layer-wise relevance propagation.

"RelP: Faithful and Efficient Circuit Discovery via Relevance Patching", Rezaei Jafari et al., arXiv 2508.21258, and,
for the uniform rule, "AttnLRP", Achtibat et al., arXiv 2402.05602. A rule changes what flows back, never the value:

    ln        y = γ · (x − mean) / std: the standard deviation counts as a constant
    identity  y = f(x): y / x takes the place of f'(x)
    half      y = a · b, a gate and what passes through it: half of the derivative to either
    ah        z = softmax(q k) v: the pattern counts as a constant, so that relevance flows through v alone
    uniform   the derivative by q and k is divided by 4, that by v by 2

Each is a factor frozen by `detach`, so that plain automatic differentiation computes the coefficient. f(x) / x has a
closed form for the usual activations (SiLU: σ(x), GELU: Φ(x)) and needs no division.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rules(msgspec.Struct, frozen=True):
    """Which rules hold. None of them: the true derivative."""

    ln: bool = False
    identity: bool = False
    half: bool = False
    ah: bool = False
    uniform: bool = False

    def __str__(self) -> str:
        return " + ".join(name for name in self.__struct_fields__ if getattr(self, name)) or "no rule"


GRADIENT = Rules()
RELP = Rules(ln=True, identity=True, half=True)
RELP_AH = Rules(ln=True, identity=True, half=True, ah=True)
ATTNLRP = Rules(ln=True, identity=True, half=True, uniform=True)

NEAR_ZERO = 1e-6


def norm_factors(module: Any) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]] | None:
    """For a norm module: x → (centred x, 1 / std, bias), with the gain left out; None where its kind is not known."""
    kind = type(module).__name__
    if getattr(module, "weight", None) is None:
        return None
    if isinstance(module, nn.LayerNorm):

        def layer_norm(x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            centred = x - x.mean(-1, keepdim=True)
            return centred, torch.rsqrt(centred.square().mean(-1, keepdim=True) + module.eps), module.bias

        return layer_norm
    if kind.endswith("RMSNorm"):
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if epsilon is None:
            return None

        def rms_norm(x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            return x, torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon), None

        return rms_norm
    return None


def gain(module: Any) -> Tensor:
    """What a norm multiplies with; Gemma stores it less 1."""
    return module.weight + 1 if type(module).__name__.startswith("Gemma") else module.weight


def with_norm_rule(module: nn.Module, rules: Callable[[], Rules]) -> Callable[[Tensor], Tensor] | None:
    """A forward for a norm that keeps to the ln rule when it holds; None where the module's kind is not known.

    A kind is told by its name, and tried: what the rule makes of a vector has to be what the module makes of it.
    """
    factors = norm_factors(module)
    if factors is None:
        return None
    original: Callable[[Tensor], Tensor] = module.forward

    def forward(x: Tensor) -> Tensor:
        if not rules().ln:
            return original(x)
        centred, scale, bias = factors(x)
        return scaled(centred, scale.detach(), bias)

    def scaled(centred: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        y = gain(module) * (centred * scale)
        return y if bias is None else y + bias

    with torch.no_grad():
        weight = gain(module)
        x = torch.linspace(-1, 2, weight.shape[-1], device=weight.device).expand(weight.shape)
        believed = torch.allclose(scaled(*factors(x)), original(x), atol=1e-4)
    return forward if believed else None


def with_identity_rule(
    activation: Callable[[Tensor], Tensor], rules: Callable[[], Rules]
) -> Callable[[Tensor], Tensor]:
    """An activation that keeps to the identity rule when it holds."""
    kind = type(activation).__name__

    def share(x: Tensor) -> Tensor:
        """f(x) / x."""
        if kind in ("SiLU", "SiLUActivation"):
            return torch.sigmoid(x)
        if kind == "ReLU":
            return (x > 0).to(x.dtype)
        if kind == "GELUActivation" or (kind == "GELU" and getattr(activation, "approximate", "none") == "none"):
            return 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        if kind in ("NewGELUActivation", "PytorchGELUTanh", "GELUTanh", "GELU"):
            return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        safe = torch.where(x.abs() < NEAR_ZERO, torch.full_like(x, NEAR_ZERO), x)
        return activation(safe) / safe

    def forward(x: Tensor) -> Tensor:
        return x * share(x).detach() if rules().identity else activation(x)

    return forward


def gated(mlp: Any) -> bool:
    """Whether an MLP multiplies two projections of its input."""
    return all(hasattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn"))


def with_half_rule(mlp: Any, rules: Callable[[], Rules]) -> Callable[[Tensor], Tensor]:
    """A forward for a gated MLP that keeps to the half rule when it holds."""

    def forward(x: Tensor) -> Tensor:
        product = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
        if rules().half:
            product = product / 2 + (product / 2).detach()
        return mlp.down_proj(product)

    return forward


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, softcap: float | None, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Attention, written out. Shapes (batch, heads, query, width), (batch, key heads, keys, width); the mask is added.

    Returns:
        (batch, query, heads, width) and the pattern (batch, heads, query, keys).
    """
    if rules.uniform:
        query, key, value = _divided(query, 4), _divided(key, 4), _divided(value, 2)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    pattern = F.softmax(scores, dim=-1)
    if rules.ah:
        pattern = pattern.detach()
    return (pattern @ value).transpose(1, 2), pattern


def _divided(x: Tensor, by: int) -> Tensor:
    """x, of whose derivative a part flows back."""
    return x / by + (x * (1 - 1 / by)).detach()
