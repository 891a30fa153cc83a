"""Rules change what flows back and leave what is said alone; their coefficients are those of worked examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from engines.models.rules import (
    ATTNLRP,
    GRADIENT,
    RELP,
    RELP_AH,
    Rules,
    attend,
    gated,
    with_half_rule,
    with_identity_rule,
    with_norm_rule,
)

LN, IDENTITY, HALF = Rules(ln=True), Rules(identity=True), Rules(half=True)
CORRUPTED, CLEAN = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.5])


def toy(rules: Rules) -> Callable[[Tensor], Tensor]:
    """n = RMSNorm(x), y = SiLU(n₁ + n₂) · (n₁ − n₂), of the modules that a Llama has."""
    norm = LlamaRMSNorm(2, eps=0.0)
    mlp = LlamaMLP(LlamaConfig(hidden_size=2, intermediate_size=1, num_attention_heads=1))
    mlp.gate_proj.weight.data = torch.tensor([[1.0, 1.0]])
    mlp.up_proj.weight.data = torch.tensor([[1.0, -1.0]])
    mlp.down_proj.weight.data = torch.tensor([[1.0], [0.0]])
    mlp.act_fn = _module(with_identity_rule(mlp.act_fn, lambda: rules))
    normalised, gate = with_norm_rule(norm, lambda: rules), with_half_rule(mlp, lambda: rules)
    assert normalised
    return lambda x: gate(normalised(x))[..., 0]


def holding(rules: Rules) -> Callable[[], Rules]:
    return lambda: rules


def coefficient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (c,) = torch.autograd.grad(f(x).sum(), x)
    return c


def test_the_toy_has_the_gradient_of_its_formula_without_rules() -> None:
    f = toy(GRADIENT)
    assert f(CORRUPTED).item() == pytest.approx(-1.04351, abs=5e-6)
    c = coefficient(f, CORRUPTED)
    assert c.tolist() == pytest.approx([1.07865, -0.53933], abs=5e-6)
    assert float(c @ CORRUPTED) == pytest.approx(0, abs=1e-6), "a norm makes what is behind it independent of scale"
    assert (c * (CLEAN - CORRUPTED)).tolist() == pytest.approx([2.15731, -0.26966], abs=1e-5)


def test_the_toy_has_the_worked_out_coefficients_of_relevance_patching() -> None:
    f = toy(RELP)
    assert f(CORRUPTED).item() == pytest.approx(-1.04351, abs=5e-6)
    c = coefficient(f, CORRUPTED)
    assert c.tolist() == pytest.approx([0.34784, -0.69567], abs=5e-6)
    assert float(c @ CORRUPTED) == pytest.approx(-1.04351, abs=5e-6), "relevance is conserved"
    assert (c * (CLEAN - CORRUPTED)).tolist() == pytest.approx([0.69567, -0.34784], abs=1e-5)


def test_what_single_patches_do_to_the_toy() -> None:
    f = toy(RELP)
    for place, effect in enumerate((1.71786, -0.20598)):
        patched = CORRUPTED.clone()
        patched[place] = CLEAN[place]
        assert (f(patched) - f(CORRUPTED)).item() == pytest.approx(effect, abs=1e-5)


@pytest.mark.parametrize(
    ("activation", "shares", "derivatives"),
    [
        ("silu", [0.1192, 0.2689, 0.7311, 0.8808], [-0.0908, 0.0723, 0.9277, 1.0908]),
        ("gelu", [0.0228, 0.1587, 0.8413, 0.9772], [-0.0852, -0.0833, 1.0833, 1.0852]),
    ],
)
def test_identity_puts_the_quotient_in_the_place_of_the_derivative(
    activation: str, shares: list[float], derivatives: list[float]
) -> None:
    x = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    for rules, expected in ((IDENTITY, shares), (GRADIENT, derivatives)):
        f = with_identity_rule(ACT2FN[activation], holding(rules))
        assert coefficient(f, x).tolist() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    "activation",
    ["silu", "relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "gelu_python", "mish", "tanh"],
)
def test_identity_leaves_the_value_and_conserves_it(activation: str) -> None:
    x = torch.cat((torch.linspace(-6, 6, 241), torch.tensor([0.0, 1e-9, -1e-9, 1e-4])))
    plain = ACT2FN[activation]
    f = with_identity_rule(plain, lambda: IDENTITY)
    assert torch.allclose(f(x), plain(x), atol=2e-6)
    assert torch.allclose(coefficient(f, x) * x, plain(x), atol=2e-6)


@pytest.mark.parametrize("module", [nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU()], ids=repr)
def test_torchs_own_activations_are_told_apart(module: nn.Module) -> None:
    x = torch.linspace(-4, 4, 81)
    assert torch.allclose(with_identity_rule(module, lambda: IDENTITY)(x), module(x), atol=2e-6)


@pytest.fixture(params=["rms", "gemma", "layer"])
def norm(request: pytest.FixtureRequest) -> Iterator[nn.Module]:
    torch.manual_seed(0)
    module: nn.Module = {
        "rms": lambda: LlamaRMSNorm(8),
        "gemma": lambda: Gemma2RMSNorm(8),
        "layer": lambda: nn.LayerNorm(8),
    }[request.param]()
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter)
    return module


def test_a_norm_says_the_same_and_its_scale_counts_as_a_constant(norm: nn.Module) -> None:
    torch.manual_seed(1)
    x, g = torch.randn(3, 8), torch.randn(3, 8)
    gamma = norm.weight + 1 if isinstance(norm, Gemma2RMSNorm) else norm.weight
    centred = x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
    std = centred.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    flowing = g * gamma / std
    expected = flowing - flowing.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else flowing
    plain = norm.forward
    kept, off = with_norm_rule(norm, lambda: LN), with_norm_rule(norm, lambda: GRADIENT)
    assert kept
    assert off
    assert torch.allclose(kept(x), plain(x), atol=1e-5)
    assert torch.allclose(coefficient(lambda x: kept(x) * g, x), expected, atol=1e-4)
    assert torch.equal(off(x), plain(x))
    true = coefficient(lambda x: plain(x) * g, x)
    assert torch.equal(coefficient(lambda x: off(x) * g, x), true)
    assert not torch.allclose(true, expected, atol=1e-2), "else this test could not tell"


def test_a_norm_that_only_bears_the_name_is_not_known() -> None:
    class OddRMSNorm(LlamaRMSNorm):
        """Scales by the root of the sum."""

        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) * 8**-0.5

    class Norm(nn.Module):
        weight = torch.ones(8)

    assert with_norm_rule(OddRMSNorm(8), lambda: LN) is None
    assert with_norm_rule(Norm(), lambda: LN) is None
    assert with_norm_rule(nn.LayerNorm(8, elementwise_affine=False), lambda: LN) is None


def test_half_gives_each_factor_half_of_its_derivative() -> None:
    torch.manual_seed(0)
    mlp = LlamaMLP(LlamaConfig(hidden_size=3, intermediate_size=3, num_attention_heads=1))
    mlp.act_fn = nn.Identity()
    for projection in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        projection.weight.data = torch.eye(3)
    a, b = torch.randn(3), torch.randn(3)
    # y = (x + a) · (x + b): the gate is one factor, what passes through it the other.
    mlp.gate_proj.bias, mlp.up_proj.bias = nn.Parameter(a), nn.Parameter(b)
    x = torch.zeros(3)
    for rules, share in ((HALF, 0.5), (GRADIENT, 1.0)):
        y = with_half_rule(mlp, holding(rules))(x)
        assert torch.allclose(y, a * b)
        by_a, by_b = torch.autograd.grad(y.sum(), (mlp.gate_proj.bias, mlp.up_proj.bias))
        assert torch.allclose(by_a, share * b)
        assert torch.allclose(by_b, share * a)


def test_half_is_for_gates() -> None:
    assert gated(LlamaMLP(LlamaConfig(hidden_size=3, intermediate_size=3, num_attention_heads=1)))
    assert not gated(GPT2MLP(12, GPT2Config(n_embd=3, n_head=1)))


@pytest.fixture(params=[4, 2, 1], ids=lambda heads: f"{heads} key heads")
def qkv(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    heads = request.param
    return torch.randn(2, 4, 5, 3), torch.randn(2, heads, 5, 3), torch.randn(2, heads, 5, 3)


MASK = torch.full((5, 5), -torch.inf).triu(1)


@pytest.mark.parametrize("rules", [GRADIENT, RELP, RELP_AH, ATTNLRP], ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_written_out_is_attention(
    qkv: tuple[Tensor, Tensor, Tensor], rules: Rules, softcap: float | None
) -> None:
    query, key, value = qkv
    output, pattern = attend(query, key, value, MASK, 0.7, softcap, rules)
    assert output.shape == (2, 5, 4, 3)
    assert pattern.shape == (2, 4, 5, 5)
    group = 4 // key.shape[1]
    for head in range(4):
        for at in range(5):
            scores = (key[:, head // group] @ query[:, head, at, :, None])[..., 0] * 0.7
            scores = scores if softcap is None else softcap * (scores / softcap).tanh()
            weights = scores[:, : at + 1].softmax(-1)
            said = (weights[..., None] * value[:, head // group, : at + 1]).sum(1)
            assert torch.allclose(output[:, at, head], said, atol=1e-5)
            assert torch.allclose(pattern[:, head, at, : at + 1], weights, atol=1e-5)


def flowing(qkv: tuple[Tensor, Tensor, Tensor], rules: Rules) -> list[Tensor | None]:
    """Coefficients of a fixed sum of what the attention gives."""
    leaves = [part.clone().requires_grad_() for part in qkv]
    output, _ = attend(leaves[0], leaves[1], leaves[2], MASK, 0.7, None, rules)
    torch.manual_seed(1)
    return list(torch.autograd.grad((output * torch.randn_like(output)).sum(), leaves, allow_unused=True))


def test_with_a_constant_pattern_relevance_flows_through_the_values_alone(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    by_query, by_key, by_value = flowing(qkv, RELP_AH)
    assert by_query is None
    assert by_key is None
    *_, true = flowing(qkv, GRADIENT)
    assert by_value is not None
    assert true is not None
    assert torch.allclose(by_value, true)
    output, _ = attend(*qkv, MASK, 0.7, None, GRADIENT)
    torch.manual_seed(1)
    assert float((by_value * qkv[2]).sum()) == pytest.approx(float((output * torch.randn_like(output)).sum()), abs=1e-4)


def test_the_uniform_rule_gives_queries_and_keys_a_quarter_and_values_a_half(
    qkv: tuple[Tensor, Tensor, Tensor],
) -> None:
    for share, mine, true in zip((0.25, 0.25, 0.5), flowing(qkv, ATTNLRP), flowing(qkv, GRADIENT), strict=True):
        assert mine is not None
        assert true is not None
        assert torch.allclose(mine, share * true, atol=1e-6)


def test_relevance_patching_leaves_the_attentions_derivative_alone(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    for mine, true in zip(flowing(qkv, RELP), flowing(qkv, GRADIENT), strict=True):
        assert mine is not None
        assert true is not None
        assert torch.equal(mine, true)


def test_rules_are_named() -> None:
    assert [str(rules) for rules in (GRADIENT, RELP, RELP_AH, ATTNLRP)] == [
        "no rule",
        "ln + identity + half",
        "ln + identity + half + ah",
        "ln + identity + half + uniform",
    ]


def _module(function: Callable[[Tensor], Tensor]) -> nn.Module:
    class Called(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return Called()
