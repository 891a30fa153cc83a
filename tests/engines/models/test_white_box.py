"""A network's inside, opened: nothing is said differently, nothing leaks, and every plan is what it is taken for."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator

import msgspec
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from engines.attribution import exact
from engines.attribution.circuit import Faithfulness, components, metric_of
from engines.attribution.estimate import compare, edge_matrix, estimate
from engines.attribution.relp import usable
from engines.events import Candidates, Commit, Event, Forward, Note, Patch, Site
from engines.models.causal import CausalModel
from engines.models.rules import ATTNLRP, GRADIENT, RELP, RELP_AH, Rules
from engines.models.white_box import Chains, Edits, NotReadable, WhiteBox
from engines.runner import run
from tests.conftest import byte_tokenizer
from tests.engines.models.tiny_networks import FIRST, KNOWN, LENGTH, UNKNOWN, asked, network

EVERY_RULE = [GRADIENT, RELP, RELP_AH, ATTNLRP, Rules(ln=True), Rules(identity=True), Rules(half=True)]
STREAM: tuple[Site, ...] = ("resid_pre", "attn_out", "mlp_out")


@pytest.fixture(params=KNOWN)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=UNKNOWN)
def unknown(request: pytest.FixtureRequest) -> str:
    return request.param


def own_logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids).logits[:, -1]


# What is said


@pytest.mark.parametrize("rules", EVERY_RULE, ids=str)
def test_it_says_what_the_network_says_under_every_rule(name: str, rules: Rules) -> None:
    ids = asked(name).clean
    said = WhiteBox(network(name)).read(ids, rules=rules, gradients=True).logits
    assert said.requires_grad
    assert (said - own_logits(network(name), ids)).abs().max() < 1e-4


def test_without_rules_what_flows_back_is_the_networks_own_derivative(name: str) -> None:
    model, ids = network(name), asked(name).clean
    embedding = model.get_input_embeddings()
    caught: list[Tensor] = []

    def catch(_: nn.Module, __: object, output: Tensor) -> Tensor:
        caught.append(output.detach().requires_grad_())
        return caught[-1]

    handle = embedding.register_forward_hook(catch)
    (expected,) = torch.autograd.grad(model(ids).logits[:, -1, 5].sum(), caught)
    handle.remove()
    box = WhiteBox(model)
    trace = box.read(ids, gradients=True)
    assert trace.embedding is not None
    (mine,) = box.backward(trace.logits[:, 5].sum(), [trace.embedding])
    assert (mine - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_stream_is_a_sum(name: str) -> None:
    trace = WhiteBox(network(name)).read(asked(name).clean)
    assert len(trace.resid_pre) == 4
    assert len(trace.attn_out) == len(trace.mlp_out) == len(trace.head) == 3
    for layer in range(3):
        added = trace.resid_pre[layer] + trace.attn_out[layer] + trace.mlp_out[layer]
        assert torch.allclose(added, trace.resid_pre[layer + 1], atol=1e-4)


def test_the_logits_are_read_off_the_end_of_the_stream(name: str) -> None:
    box, ids = WhiteBox(network(name)), asked(name).clean
    trace = box.read(ids)
    hidden = box.norm(trace.resid_pre[-1][:, -1])
    assert torch.allclose(box.logits(hidden), trace.logits, atol=1e-4)
    assert torch.allclose(
        box.logits(hidden, torch.tensor([[4, 9], [7, 4]])),
        trace.logits.gather(1, torch.tensor([[4, 9], [7, 4]])),
        atol=1e-4,
    )


def test_patterns_are_causal_and_keep_to_the_window(name: str) -> None:
    trace = WhiteBox(network(name)).read(asked(name).clean, keep=("patterns",))
    window = KNOWN[name][1].get("sliding_window")
    types = getattr(network(name).config, "layer_types", None) or ["sliding_attention" if window else ""] * 3
    for pattern, kind in zip(trace.patterns, types, strict=True):
        assert pattern.shape == (2, 4, LENGTH, LENGTH)
        assert torch.allclose(pattern.sum(-1), torch.ones(2, 4, LENGTH), atol=1e-5)
        assert not pattern.triu(1).any()
        assert bool(pattern[..., -1, 0].any()) == (kind != "sliding_attention")


def test_queries_keys_and_values_are_told_apart(name: str) -> None:
    box = WhiteBox(network(name))
    trace = box.read(asked(name).clean, keep=("readers", "keys"))
    for layer in range(3):
        parts = box.anatomy.split(trace.projected[layer])
        assert {part: tuple(of.shape[2:]) for part, of in parts.items()} == {
            "q": (4, box.anatomy.head_width),
            "k": (box.anatomy.key_heads, box.anatomy.head_width),
            "v": (box.anatomy.key_heads, box.anatomy.head_width),
        }
        assert torch.allclose(parts["v"].transpose(1, 2), trace.values[layer], atol=1e-5)
        if name not in ("qwen3", "gemma3"):  # These normalise their keys.
            # Rotation leaves the first position alone.
            assert torch.allclose(parts["k"][:, 0], trace.keys[layer][:, :, 0], atol=1e-5)


# What is known


def test_which_rules_a_network_can_keep_to(name: str) -> None:
    gates = name not in ("gpt2", "gpt_neox", "gpt_neox, sequential")
    assert WhiteBox(network(name)).rules_known == Rules(ln=True, identity=True, half=gates, ah=True, uniform=True)
    assert WhiteBox(network(name)).doubt == ""


@pytest.mark.parametrize("rule", Rules.__struct_fields__)
def test_every_rule_changes_what_flows_back(name: str, rule: str) -> None:
    box, ids = WhiteBox(network(name)), asked(name).clean

    def flowing(rules: Rules) -> Tensor:
        trace = box.read(ids, rules=rules, gradients=True)
        assert trace.embedding is not None
        return box.backward(trace.logits[:, 5].sum(), [trace.embedding])[0]

    difference = (flowing(Rules(**{rule: True})) - flowing(GRADIENT)).abs().max()
    assert (difference > 1e-3) == getattr(box.rules_known, rule)


# Patches


def patched_everywhere(name: str, direction: str) -> None:
    box, question = WhiteBox(network(name)), asked(name)
    runs = compare(box, question, direction, gradients=False, keep=("sites", "keys"))  # type: ignore[arg-type]
    rows = list(exact.maps(box, runs, STREAM))
    assert sorted((row.site, row.layer) for row in rows) == sorted(
        (site, layer) for site in STREAM for layer in range(3)
    )
    for row in rows:
        naive = [exact.naively(box, runs, row.site, row.layer, at) for at in range(LENGTH)]
        assert row.effects == pytest.approx(naive, abs=1e-4), (row.site, row.layer)
        assert row.effects[:FIRST] == (0.0,) * FIRST
    assert max(abs(effect or 0) for row in rows for effect in row.effects) > 0.1


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_chains_measure_what_whole_passes_measure(name: str, direction: str) -> None:
    patched_everywhere(name, direction)


def test_many_short_batches_measure_what_one_pass_measures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MOST_NODES", 12)
    patched_everywhere(name, "denoise")


def test_heads_and_nodes_measure_what_whole_passes_measure(name: str) -> None:
    box, question = WhiteBox(network(name)), asked(name)
    runs = compare(box, question, gradients=False, keep=("sites", "keys"))

    def whole(site: str, layer: int, head: int | None = None) -> float:
        def edit(value: Tensor) -> Tensor:
            there = (runs.other.resid_pre[0] if site == "resid_pre" else getattr(runs.other, site)[layer]).clone()
            if head is not None:
                mixed = value.clone()
                mixed[:, :, head] = there[:, :, head]
                return mixed
            return there

        logits = box.read(runs.base_ids, keep=(), edits={(site, layer): edit}).logits
        return float(runs.metric(question.difference(logits))) - runs.at_rest

    for patch in exact.heads(box, runs):
        expected = [whole("head", patch.layer, head) for head in range(4)]
        assert patch.effects == pytest.approx(expected, abs=1e-4)
        assert exact.node(box, runs, f"a{patch.layer}.1") == pytest.approx(expected[1], abs=1e-4)
    for layer in range(3):
        assert exact.node(box, runs, f"m{layer}") == pytest.approx(whole("mlp_out", layer), abs=1e-4)
    assert exact.node(box, runs, "embed") == pytest.approx(1, abs=1e-4) == whole("resid_pre", 0)
    for id in ("a3.0", "a0.4", "m3", "x", "a1", ""):
        with pytest.raises(KeyError):
            exact.node(box, runs, id)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("rules", [GRADIENT, RELP, RELP_AH, ATTNLRP], ids=str)
def test_what_leaves_a_writer_through_its_readers_is_its_score(name: str, rules: Rules, direction: str) -> None:
    box, question = WhiteBox(network(name)), asked(name)
    rules, _ = usable(box, rules)
    runs = compare(box, question, direction, rules, keep=("sites", "readers"))  # type: ignore[arg-type]
    base = runs.base
    tensors = [base.resid_pre[-1], *base.mlp_in, *(part for parts in base.projected for part in parts)]
    coefficients = box.backward(runs.metric(question.difference(base.logits)), tensors)
    writers, readers, scores = edge_matrix(box, runs, rules, coefficients)
    found = estimate(box, question, "", rules, direction)  # type: ignore[arg-type]
    assert writers == ["embed", *components(box)]
    for writer, row in zip(writers, scores, strict=True):
        assert float(row.nansum()) == pytest.approx(found.node(writer), abs=1e-4), writer
    # Nobody reads what is written later, and in parallel blocks an MLP does not read its own block's heads.
    order = {
        (writer, reader[0]): not scores[i, j].isnan()
        for i, writer in enumerate(writers)
        for j, reader in enumerate(readers)
    }
    assert order["a1.0", "m1"] == (name != "gpt_neox")
    assert order["m0", "a1.0"]
    assert not order["m1", "a1.0"]
    assert not order["a1.0", "a1.0"]
    assert order["m2", "logits"]


def test_the_estimate_of_a_small_patch_is_its_effect(name: str) -> None:
    """To first order: the derivative is the limit of effects, at every site."""
    box, question = WhiteBox(network(name)), asked(name)
    trace = box.read(question.corrupted, gradients=True)
    target = question.difference(trace.logits).mean()
    for site in box.sites:
        torch.manual_seed(2)
        step = 1e-2 * torch.randn_like(trace.site(site)[1])
        (slope,) = torch.autograd.grad(target, [trace.site(site)[1]], retain_graph=True)

        def moved(sign: int, site: Site = site, step: Tensor = step) -> float:
            edits: Edits = {(site, 1): lambda value: value + sign * step}
            return float(question.difference(box.read(question.corrupted, keep=(), edits=edits).logits).mean())

        assert (moved(1) - moved(-1)) / 2 == pytest.approx(float((slope * step).sum()), rel=0.05, abs=2e-4), site


def test_a_circuit_of_everything_is_the_model_and_of_nothing_its_corruption(name: str) -> None:
    box, question = WhiteBox(network(name)), asked(name)
    everything = set(components(box))
    runs = {way: compare(box, question, way, gradients=False, keep=("sites", "keys")) for way in ("denoise", "noise")}
    for way in runs.values():
        measured = Faithfulness(box, way)
        assert measured.whole == pytest.approx(1, abs=1e-4)
        # The last token is the same on both sides, so nothing of the clean prompt reaches the logits.
        assert measured.empty == pytest.approx(0, abs=1e-4)
        assert measured.of(everything) == pytest.approx(1, abs=1e-4)
        assert measured.of([]) == 0
        assert measured.completeness(everything) == 0
        assert measured.of(["embed", "logits", "nothing"]) == 0
        for id in ("a1.2", "m0"):
            without = metric_of(box, way, everything - {id}, "resample")
            assert without == pytest.approx(1 + exact.node(box, runs["noise"], id), abs=1e-4)


def test_chains_lie_where_they_say() -> None:
    chains = Chains((1, 3), 4)
    assert chains.positions.tolist() == [1, 2, 3, 3]
    assert chains.starts == [0, 3]
    assert chains.ends == [2, 3]
    seen = (chains.mask(None) == 0).long().tolist()
    assert seen == [
        [1, 0, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 0, 0, 1],
    ]
    seen = (chains.mask(2) == 0).long().tolist()
    assert seen == [
        [1, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 1, 0, 0, 0, 0, 1],
    ]


# Networks that are not known


def test_of_an_unknown_network_only_the_layers_inputs_are_read(unknown: str) -> None:
    box, ids = WhiteBox(network(unknown)), asked(unknown).clean
    assert box.sites == ("resid_pre",)
    assert box.rules_known == Rules()
    assert box.doubt
    trace = box.read(ids)
    assert (trace.logits - own_logits(network(unknown), ids)).abs().max() < 1e-4
    assert len(trace.site("resid_pre")) == box.layers == 3
    rules, why = usable(box, RELP)
    assert rules == GRADIENT
    assert "attribution patching" in why


def test_of_an_unknown_network_attribution_patching_is_the_derivative(unknown: str) -> None:
    box, question = WhiteBox(network(unknown)), asked(unknown)
    found = estimate(box, question, "attribution-patching", edges=True)
    assert set(found.sites) == {"resid_pre"}
    assert found.edges == []
    runs = compare(box, question, gradients=False)
    gap = float(runs.clean.mean() - runs.corrupted.mean())
    scores = found.sites["resid_pre"]
    assert scores.shape == (3, LENGTH)
    assert not scores[:, :FIRST].any()
    small = 1e-3
    for layer, at in ((0, FIRST), (2, LENGTH - 1)):

        def moved(sign: int, layer: int = layer, at: int = at) -> float:
            def edit(value: Tensor) -> Tensor:
                value = value.clone()
                value[:, at] += sign * small * (runs.other.resid_pre[layer] - runs.base.resid_pre[layer])[:, at]
                return value

            logits = box.read(question.corrupted, keep=(), edits={("resid_pre", layer): edit}).logits
            return float(question.difference(logits).mean())

        slope = (moved(1) - moved(-1)) / (2 * small * gap)
        assert float(scores[layer, at]) == pytest.approx(slope, rel=0.05, abs=2e-3)


def test_methods_say_what_they_can_do_with_an_unknown_network() -> None:
    torch.manual_seed(0)
    kind, options = UNKNOWN["opt"]
    model = CausalModel(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options | {"vocab_size": 257})),
        byte_tokenizer(),
        name="tiny-opt",
    )
    settings = {"task": "this prompt", "corrupted": "One dish"}
    events = list(run(model, "relp", "One fish", raw=True, params=settings))
    patches = [event for event in events if isinstance(event, Patch)]
    assert [(patch.site, patch.layer) for patch in patches] == [("resid_pre", layer) for layer in range(3)]
    said = " ".join(event.text for event in events if isinstance(event, Note))
    assert "examined by attribution patching, at the layers' inputs alone" in said
    assert "Estimated with no rule" in said
    with pytest.raises(NotReadable, match="Try attribution patching"):
        list(run(model, "activation-patching", "One fish", raw=True, params=settings))


def test_why_a_plan_is_not_believed() -> None:
    assert "names" in WhiteBox(network("opt")).doubt
    assert "blocks add" in WhiteBox(network("granite, scaled blocks")).doubt
    assert "logits" in WhiteBox(network("granite, scaled logits")).doubt
    assert "attention written out" in WhiteBox(network("gpt_oss, attention sinks")).doubt
    assert "laid out" in WhiteBox(network("gpt_bigcode")).doubt


def test_a_block_that_reads_something_else_is_not_believed() -> None:
    """GPT-NeoX's parallel blocks, taken for sequential ones."""
    model = copy.deepcopy(network("gpt_neox"))
    model.config.use_parallel_residual = False
    assert "norms before them" in WhiteBox(model).doubt


def test_a_plan_is_tried_once_and_is_in_nobodys_account(monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(network("llama"))
    tried: list[object] = []
    plain = WhiteBox._tried

    def watched(box: WhiteBox, own: object) -> str:
        tried.append(own)
        return plain(box, own)

    monkeypatch.setattr(WhiteBox, "_tried", watched)
    ledger: list[Event] = []
    for _ in range(2):
        WhiteBox(model, ledger)
    assert tried == [model]
    assert ledger == []
    forgotten = weakref.ref(model)
    del model
    tried.clear()
    gc.collect()
    assert forgotten() is None, "that it was tried does not keep it in memory"


def test_a_network_without_layers_is_refused() -> None:
    model = copy.deepcopy(network("bloom"))
    model.transformer.h = nn.Sequential(*model.transformer.h)
    with pytest.raises(NotReadable, match="no list of 3 layers"):
        WhiteBox(model)


# Nothing leaks


def state_of(model: PreTrainedModel) -> list[object]:
    """All that a white box might leave behind: modules, their attributes and hooks, weights, configuration."""
    found: list[object] = [model.config.to_dict(), model.config._attn_implementation]
    for path, module in model.named_modules():
        found.append((path, type(module), sorted(vars(module)), module.training))
        found.append(
            [len(getattr(module, hooks)) for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        )
    found += [
        (path, id(weight), weight.requires_grad, weight.grad, weight.clone().numpy(force=True).tobytes())
        for path, weight in model.named_parameters()
    ]
    return found


def said_and_derived(model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    logits = model(ids).logits
    weights = list(model.parameters())
    return [logits, *torch.autograd.grad(logits[:, -1, 5].sum(), weights)]


def test_nothing_done_in_a_white_box_reaches_the_network(name: str) -> None:
    model, question = network(name), asked(name)
    before, told = state_of(model), said_and_derived(model, question.clean)
    box = WhiteBox(model)
    trace = box.read(question.clean, rules=RELP_AH, gradients=True, keep=("sites", "readers", "keys", "patterns"))
    box.rules = RELP_AH
    during = said_and_derived(model, question.clean)
    box.backward(trace.logits[:, 5].sum(), trace.mlp_out)
    with pytest.raises(RuntimeError, match="broken edit"):
        box.read(question.clean, rules=RELP, edits={("mlp_out", 1): broken})
    runs = compare(box, question, gradients=False, keep=("sites", "keys"))
    list(exact.maps(box, runs, STREAM))
    after = said_and_derived(model, question.clean)
    assert state_of(model) == before
    for one, two, three in zip(told, during, after, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def broken(_: Tensor) -> Tensor:
    raise RuntimeError("broken edit")


def test_after_a_pass_that_failed_the_white_box_says_what_it_said_before(name: str) -> None:
    box, question = WhiteBox(network(name)), asked(name)
    text = box.read(question.clean, keep=("sites", "keys"))
    end, normalised = text.resid_pre[-1], box.norm(text.resid_pre[-1])
    edits: Edits = {("mlp_out", 1): broken, ("resid_pre", 3): torch.zeros_like}
    with pytest.raises(RuntimeError, match="broken edit"):
        box.read(question.clean, rules=RELP, gradients=True, edits=edits)
    assert box.rules == GRADIENT
    assert torch.equal(box.norm(end), normalised)
    with pytest.raises(RuntimeError, match="broken edit"):
        box.read_chains(text, Chains((2,), LENGTH), 1, text.resid_pre[1][:, 2:], edits)
    assert torch.equal(box.norm(end), normalised)
    assert torch.equal(box.read(question.clean).logits, text.logits)


def test_a_white_box_holds_no_weights_of_its_own(name: str) -> None:
    model = network(name)
    shared = {weight.data_ptr() for weight in [*model.parameters(), *model.buffers()]}
    box = WhiteBox(model)
    assert {weight.data_ptr() for weight in box.parameters()} <= shared
    assert not any(weight.requires_grad for weight in box.parameters())


def test_a_decode_beside_a_relevance_run_writes_what_it_writes_alone(tiny_llama: CausalModel) -> None:
    def decode() -> Iterator[Event]:
        return run(tiny_llama, "greedy", "The quick brown fox", raw=True, max_new_tokens=24)

    alone = [unstamped(event) for event in decode() if isinstance(event, (Commit, Candidates))]
    settings = {"task": "this prompt", "corrupted": "Two birds fly", "answer": "a", "foil": "b"}
    relevance = run(tiny_llama, "relp", "One fish swim", params=settings | {"ah": True}, raw=True)
    beside: list[Event] = []
    patches = 0
    for event in decode():
        # The relevance run is in the middle of its work at every step of the decode.
        patches += isinstance(next(relevance, None), Patch)
        if isinstance(event, (Commit, Candidates)):
            beside.append(unstamped(event))
    assert patches > 5
    assert beside == alone
    assert len(alone) > 20


def unstamped(event: Event) -> Event:
    return msgspec.structs.replace(event, seq=0, time=0.0)


# What is refused, what is counted


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_smaller_formats_are_refused_with_a_way_out(kind: torch.dtype) -> None:
    with pytest.raises(NotReadable, match="Load its float32 version"):
        WhiteBox(copy.deepcopy(network("llama")).to(kind))


def test_quantised_weights_are_refused() -> None:
    model = copy.deepcopy(network("llama"))
    layer = model.model.layers[1].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(NotReadable, match="Load its float32 version"):
        WhiteBox(model)
    marked = copy.deepcopy(network("llama"))
    marked.is_quantized = True
    with pytest.raises(NotReadable, match="Load its float32 version"):
        WhiteBox(marked)


def test_every_pass_is_counted() -> None:
    ledger: list[Event] = []
    box, question = WhiteBox(network("llama"), ledger), asked("llama")
    estimate(box, question, "relp", RELP)
    text = box.read(question.clean, keep=("sites", "keys"))
    box.read_chains(text, Chains((2, 5), LENGTH), 3, text.resid_pre[3][:, Chains((2, 5), LENGTH).positions])
    passes = [event for event in ledger if isinstance(event, Forward)]
    assert len(passes) == len(ledger)
    assert [(one.lane, one.batch, one.query, one.cached) for one in passes] == [
        ("target", 2, LENGTH, 0),
        ("target", 2, LENGTH, 0),
        ("backward", 2, LENGTH, 0),
        ("target", 2, LENGTH, 0),
        ("target", 2, 7 + 4, LENGTH),
    ]
    assert all(one.seconds > 0 for one in passes)
