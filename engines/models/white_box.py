"""A network whose inside can be read, differentiated and changed, beside the one that everybody decodes with.

A `WhiteBox` copies the structure of a model's network and shares its weights. Hooks, rules and replaced attention live
in the copy alone, so that nothing done here can reach a run of somebody else. It is made in some 30 ms and holds no
memory worth mentioning until something is read.

Every pass is counted and timed, as in `State`; a backward pass is a pass of the lane `backward`. Only the passes over a
few tokens that try a network's plan, once for every network, are in nobody's account.

    sites     resid_pre[l]  input of layer l, (batch, tokens, width); resid_pre[layers] is what the final norm reads
              attn_out[l]   what the attention of layer l adds to the stream
              mlp_out[l]    what its MLP adds
              head[l]       the heads' outputs before the output projection, (batch, tokens, heads, head width)
    edits     what is put in place of a site's value while a pass runs
    chains    many short continuations of one text in one pass, each from another position on, see `Chains`
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from engines.errors import DecodingError
from engines.events import Event, Forward, Site
from engines.models.anatomy import Anatomy, find, fits, layers_only
from engines.models.rules import GRADIENT, Rules, attend, gated, with_half_rule, with_identity_rule, with_norm_rule

ATTENTION = "white_box"
SAME = 1e-3
"""Relative difference up to which two passes say the same."""
ROUNDING = 1e-6
"""Of the stream, what its sums may be off."""
TRIED = 6
"""Tokens by which a plan is tried."""
NEVER = -1e30

_doubts: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""By network, why its plan is not believed; empty where it is."""

Edit = Callable[[Tensor], Tensor]
Edits = Mapping[tuple[Site | str, int], Edit]
"""By site and layer; `("embedding", 0)` is the token embedding."""


class NotReadable(DecodingError):
    """This network's inside cannot be read."""


@dataclass(slots=True)
class Trace:
    """What one pass left behind."""

    logits: Tensor
    """After the last token, (batch, vocabulary)."""
    embedding: Tensor | None = None
    resid_pre: list[Tensor] = field(default_factory=list)
    attn_out: list[Tensor] = field(default_factory=list)
    mlp_out: list[Tensor] = field(default_factory=list)
    head: list[Tensor] = field(default_factory=list)
    projected: list[tuple[Tensor, ...]] = field(default_factory=list)
    """Outputs of the query, key and value projections, by layer."""
    mlp_in: list[Tensor] = field(default_factory=list)
    """What the MLP of a layer reads, normalised."""
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    patterns: list[Tensor] = field(default_factory=list)
    """Attention patterns (batch, heads, query, keys)."""

    def site(self, site: Site) -> list[Tensor]:
        """The tensors of one kind of place, by layer; without what the final norm reads."""
        return self.resid_pre[:-1] if site == "resid_pre" else getattr(self, site)


@dataclass(frozen=True, slots=True)
class Chains:
    """Continuations of one text in one pass: one from each of `roots` to the end of the text.

    A patch at position j changes nothing before j. So a patched run is the chain of positions j … n−1, and it sees the
    unpatched keys and values before j. All chains stand side by side in one sequence, under a mask.
    """

    roots: tuple[int, ...]
    length: int
    """Tokens of the text."""

    @property
    def positions(self) -> Tensor:
        return torch.cat([torch.arange(root, self.length) for root in self.roots])

    @property
    def starts(self) -> list[int]:
        """Where each chain begins in the sequence."""
        starts, at = [], 0
        for root in self.roots:
            starts.append(at)
            at += self.length - root
        return starts

    @property
    def ends(self) -> list[int]:
        """Where each chain's last token stands."""
        return [start + self.length - root - 1 for start, root in zip(self.starts, self.roots, strict=True)]

    def mask(self, window: int | None) -> Tensor:
        """(nodes, length + nodes), to be added to the scores: first the text's positions, then the nodes."""
        positions = self.positions
        lengths = torch.tensor([self.length - root for root in self.roots])
        owner = torch.arange(len(self.roots)).repeat_interleave(lengths)
        root = torch.tensor(self.roots)[owner]
        text = torch.arange(self.length)[None] < root[:, None]
        nodes = (owner[:, None] == owner[None]) & (positions[None] <= positions[:, None])
        allowed = torch.cat((text, nodes), dim=1)
        if window is not None:
            place = torch.cat((torch.arange(self.length), positions))
            allowed &= positions[:, None] - place[None] < window
        return torch.zeros(allowed.shape).masked_fill_(~allowed, NEVER)


class WhiteBox:
    """A copy of a model's network whose inside is open.

    Args:
        network: of a `CausalModel`; float32, it is left as it is.
        ledger: passes are entered here.
        now: says when they began.

    Raises:
        NotReadable: the network is not one of float32 weights, or it has no layers that can be found.
    """

    def __init__(
        self, network: nn.Module, ledger: list[Event] | None = None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._ledger: list[Event] = []
        self._now = now
        self._rules = GRADIENT
        self._trace: Trace | None = None
        self._keep: frozenset[str] = frozenset()
        self._edits: Edits = {}
        self._start = 0
        self._chains: tuple[Chains, Trace, int] | None = None
        self._gradients = False
        self._masks: dict[int | None, Tensor] = {}
        self._open(network, plan=not _doubts.get(network))
        if self.anatomy.plan and network not in _doubts:
            _doubts[network] = self._tried(network)
            if _doubts[network]:
                self._open(network, plan=False)
        self.doubt: str = _doubts.get(network) or (
            "" if self.anatomy.plan else "its modules have names of no known plan"
        )
        """Why only the layers of this network are known; empty where its plan is."""
        if ledger is not None:
            self._ledger = ledger

    def _open(self, network: nn.Module, *, plan: bool) -> None:
        self._network = _twin(network)
        self._body: Any = self._network.base_model
        self._head: Any = self._network.get_output_embeddings()
        config = self._network.config.get_text_config(decoder=True)
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)
        self.device = self._head.weight.device
        self.width: int = self._head.weight.shape[1]
        try:
            found = find(self._network)
        except ValueError as error:
            raise NotReadable(f"The inside of this model cannot be read: {error}.") from None
        self.anatomy: Anatomy = found if plan else layers_only(found)
        self._hook_stream()
        self.rules_known = Rules()
        if self.anatomy.plan:
            self._network.config._attn_implementation = ATTENTION
            self._hook_blocks()
            self.rules_known = self._install_rules()

    @torch.no_grad()
    def _tried(self, network: Any) -> str:
        """Why the plan is not to be believed, found by a pass over a few tokens; empty when it is."""
        ids = torch.arange(TRIED, device=self.device)[None] % self._head.weight.shape[0]
        own = network(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        trace = self.read(ids, keep=("sites", "readers"))
        if not _same(trace.logits, own):
            return "with its attention written out it says something else"
        for layer, block in enumerate(self.anatomy.blocks):
            before, after = trace.resid_pre[layer], trace.resid_pre[layer + 1]
            attention, mlp = trace.attn_out[layer], trace.mlp_out[layer]
            if not _same(after - before, attention + mlp, ROUNDING * float(after.norm())):
                return "what its blocks add to the stream is not what their attention and their MLP give"
            middle = before if self.anatomy.parallel else before + attention
            seen = block.projections[0](block.attention_norm(before)), block.mlp_norm(middle)
            if not (_same(trace.projected[layer][0], seen[0]) and _same(trace.mlp_in[layer], seen[1])):
                return "what its attention and its MLP read is not what the norms before them give"
            if not fits(self.anatomy, trace.projected[layer]):
                return "its queries, keys and values are not laid out as the plan has it"
        if not _same(self.logits(self.norm(trace.resid_pre[-1][:, -1])), own):
            return "its logits are not what its last norm and its vocabulary's matrix give"
        return ""

    @property
    def layers(self) -> int:
        return len(self.anatomy.layers)

    @property
    def heads(self) -> int:
        return self.anatomy.heads

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights, which are the model's own."""
        return self._network.parameters()

    @property
    def sites(self) -> tuple[Site, ...]:
        """What can be read and changed."""
        return ("resid_pre", "attn_out", "mlp_out", "head") if self.anatomy.plan else ("resid_pre",)

    def read(
        self,
        ids: Tensor,
        *,
        keep: Sequence[str] = ("sites",),
        rules: Rules = GRADIENT,
        gradients: bool = False,
        edits: Edits | None = None,
    ) -> Trace:
        """One pass over token ids (batch, tokens).

        Args:
            keep: of `sites`, `readers` (projections and the MLPs' inputs), `keys` (and values), `patterns`.
            rules: what a backward pass is to see.
            gradients: keep the graph, from the embedding on.
            edits: what is put in the place of values.
        """
        began, start = self._now(), time.perf_counter()
        trace = Trace(logits=torch.empty(0))
        self._trace, self._keep, self._rules = trace, frozenset(keep), rules
        self._edits, self._gradients = edits or {}, gradients
        try:
            with torch.set_grad_enabled(gradients):
                trace.logits = self._network(ids.to(self.device), use_cache=False, logits_to_keep=1).logits[:, -1]
        finally:
            self._rest()
        self._count("target", ids.shape[0], ids.shape[1], 0, began, start)
        return trace

    def backward(self, value: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The coefficients of `value`, a single number, by `tensors` of a trace; zeros where nothing flows."""
        began, start = self._now(), time.perf_counter()
        grads = torch.autograd.grad(value, list(tensors), allow_unused=True)
        batch, query = tensors[0].shape[:2]
        self._count("backward", batch, query, 0, began, start)
        return [torch.zeros_like(tensor) if grad is None else grad for grad, tensor in zip(grads, tensors, strict=True)]

    @torch.no_grad()
    def read_chains(
        self, text: Trace, chains: Chains, start: int, stream: Tensor, edits: Edits | None = None
    ) -> Tensor:
        """Patched continuations of a text, from layer `start` on, in one pass.

        Args:
            text: of the unpatched text, with its keys and values kept.
            chains: where patches begin.
            start: the first layer that is run; 0 … layers, the last of which runs the final norm alone.
            stream: what layer `start` reads, (rows, nodes, width); rows are a multiple of the text's batch.
            edits: as in `read`.

        Returns:
            The normalised stream after every chain's last token, (rows, chains, width), see `logits`.
        """
        began, clock = self._now(), time.perf_counter()
        self._start, self._chains, self._edits = start, (chains, text, stream.shape[0]), edits or {}
        self._masks = {}
        self._rules = GRADIENT
        if start == self.layers:
            try:
                hidden = self.norm(stream)
            finally:
                self._rest()
        else:
            blocks = self.anatomy.blocks
            replaced = [block.layer for block in blocks[:start]]
            for layer in replaced:
                layer.forward = _pass_on
            handle = blocks[start].layer.register_forward_pre_hook(_replacing(stream), with_kwargs=True)
            try:
                hidden = self._body(
                    inputs_embeds=torch.zeros_like(stream),
                    position_ids=chains.positions.to(self.device)[None].expand(stream.shape[0], -1),
                    use_cache=False,
                )[0]
            finally:
                handle.remove()
                for layer in replaced:
                    del layer.forward
                self._rest()
        self._count("target", stream.shape[0], stream.shape[1], chains.length, began, clock)
        return hidden[:, chains.ends]

    def logits(self, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits of all tokens (…, vocabulary), or of `ids` (…, n), for normalised streams (…, width)."""
        if ids is None:
            found = self._head(hidden)
        else:
            found = (self._head.weight[ids] * hidden[..., None, :]).sum(-1)
            if self._head.bias is not None:
                found = found + self._head.bias[ids]
        return found if self._cap is None else self._cap * torch.tanh(found / self._cap)

    def norm(self, stream: Tensor) -> Tensor:
        """A stream (…, width) as the final norm makes it."""
        assert self.anatomy.final_norm is not None
        return self.anatomy.final_norm(stream)

    @property
    def rules(self) -> Rules:
        """What norms outside a pass keep to, see `under`."""
        return self._rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._rules = rules

    def _rest(self) -> None:
        """Nothing of a pass remains."""
        self._trace, self._keep, self._edits, self._chains, self._start = None, frozenset(), {}, None, 0
        self._rules, self._gradients = GRADIENT, False

    def _count(self, lane: str, batch: int, query: int, cached: int, began: float, start: float) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - start
        work = {"batch": batch, "query": query, "cached": cached}
        self._ledger.append(Forward(lane=lane, **work, seconds=seconds, began=began))  # type: ignore[arg-type]

    def _at(self, site: str, layer: int, value: Tensor) -> Tensor:
        """A value on its way: changed if an edit says so, and kept."""
        if edit := self._edits.get((site, layer)):
            value = edit(value)
        trace = self._trace
        if trace is not None and "sites" in self._keep:
            if site == "embedding":
                trace.embedding = value
            else:
                getattr(trace, site).append(value)
        return value

    def _hook_stream(self) -> None:
        def embedded(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            if self._trace is None:
                return output
            if self._gradients:
                output = output.detach().requires_grad_()
            return self._at("embedding", 0, output)

        self._network.get_input_embeddings().register_forward_hook(embedded)
        for index, layer in enumerate(self.anatomy.layers):
            layer.register_forward_pre_hook(self._entering(index), with_kwargs=True)
        if self.anatomy.final_norm is not None:
            self.anatomy.final_norm.register_forward_pre_hook(self._entering(self.layers), with_kwargs=True)
        else:
            self.anatomy.layers[-1].register_forward_hook(self._writing("resid_pre", self.layers))

    def _entering(self, index: int) -> Callable[..., Any]:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if index < self._start:
                return None
            before = args[0] if args else next(iter(kwargs.values()))
            value = self._at("resid_pre", index, before)
            return None if value is before else _with_first(value, args, kwargs)

        return enter

    def _hook_blocks(self) -> None:
        for index, block in enumerate(self.anatomy.blocks):
            block.attention.white_box, block.attention.white_box_layer = _Way(self), index
            block.attention_writer.register_forward_hook(self._writing("attn_out", index))
            block.mlp_writer.register_forward_hook(self._writing("mlp_out", index))
            block.out.register_forward_pre_hook(self._heads_leaving(index))
            block.mlp.register_forward_pre_hook(self._mlp_reading)
            for place, module in enumerate(block.projections):
                module.register_forward_hook(self._projecting(place))

    def _writing(self, site: str, index: int) -> Callable[..., Any]:
        def write(_: nn.Module, __: Any, output: Any) -> Any:
            if index < self._start:
                return None
            value = output[0] if isinstance(output, tuple) else output
            changed = self._at(site, index, value)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return write

    def _heads_leaving(self, index: int) -> Callable[..., Any]:
        def leave(_: nn.Module, args: tuple[Any, ...]) -> Any:
            if index < self._start:
                return None
            value = self._at("head", index, args[0].unflatten(-1, (self.heads, -1)))
            return (value.flatten(-2), *args[1:])

        return leave

    def _mlp_reading(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        if self._trace is not None and "readers" in self._keep:
            self._trace.mlp_in.append(args[0])

    def _projecting(self, place: int) -> Callable[..., Any]:
        def project(_: nn.Module, __: Any, output: Tensor) -> None:
            if self._trace is not None and "readers" in self._keep:
                if place == 0:
                    self._trace.projected.append(())
                self._trace.projected[-1] += (output,)

        return project

    def _attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        softcap: float | None,
        window: int | None,
    ) -> Tensor:
        if self._chains is not None:
            chains, text, rows = self._chains
            if window not in self._masks:
                self._masks[window] = chains.mask(window).to(self.device)
            mask = self._masks[window]
            times = rows // text.keys[layer].shape[0]
            key = torch.cat((text.keys[layer].repeat(times, 1, 1, 1), key), dim=2)
            value = torch.cat((text.values[layer].repeat(times, 1, 1, 1), value), dim=2)
        elif self._trace is not None and "keys" in self._keep:
            self._trace.keys.append(key)
            self._trace.values.append(value)
        output, pattern = attend(query, key, value, mask, scaling, softcap, self._rules)
        if self._trace is not None and "patterns" in self._keep:
            self._trace.patterns.append(pattern)
        return output

    def _install_rules(self) -> Rules:
        """Makes the copy keep to rules; returns those that it can keep to."""

        def current() -> Rules:
            return self._rules

        norms = activations = gates = 0
        unknown = False
        for module in self._network.modules():
            if type(module).__name__.endswith(("Norm", "LayerNorm")):
                if (forward := with_norm_rule(module, current)) is not None:
                    module.forward = forward
                    norms += 1
                else:
                    unknown = True
        for block in self.anatomy.blocks:
            mlp: Any = block.mlp
            name = next((name for name in ("act_fn", "act") if hasattr(mlp, name)), None)
            if name:
                setattr(mlp, name, _Activation(with_identity_rule(getattr(mlp, name), current)))
                activations += 1
            if gated(mlp):
                mlp.forward = with_half_rule(mlp, current)
                gates += 1
        whole = self.layers
        return Rules(
            ln=norms > 0 and not unknown,
            identity=activations == whole,
            half=gates == whole,
            ah=True,
            uniform=True,
        )


class _Activation(nn.Module):
    """An activation where a network expects a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class _Way:
    """Leads from an attention module to its white box."""

    def __init__(self, box: WhiteBox) -> None:
        self.box = box


def _white_box_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    box = module.white_box.box
    layer = module.white_box_layer
    return box._attend(layer, query, key, value, attention_mask, scale, softcap, sliding_window), None


AttentionInterface.register(ATTENTION, _white_box_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)


def _twin(network: Any) -> Any:
    """The same structure over the same weights, which need no gradients there."""
    kinds = {weight.dtype for weight in network.parameters()}
    kinds |= {buffer.dtype for buffer in network.buffers() if buffer.is_floating_point()}
    if kinds != {torch.float32} or getattr(network, "is_quantized", False):
        raise NotReadable(
            "The inside of a model is read in float32, and this one's weights are in a smaller format, whose rounding "
            "would drown the effects. Load its float32 version."
        )
    shared: dict[int, Any] = {id(buffer): buffer for buffer in network.buffers()}
    for parameter in network.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(network, shared).eval()


def _same(one: Tensor, other: Tensor, besides: float = 0.0) -> bool:
    return float((one - other).norm()) <= SAME * float(other.norm()) + besides


def _pass_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """A layer that does nothing."""
    return hidden_states


def _replacing(stream: Tensor) -> Callable[..., Any]:
    return lambda _, args, kwargs: _with_first(stream, args, kwargs)


def _with_first(value: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments with another first one, however that was given."""
    return ((value, *args[1:]), kwargs) if args else (args, kwargs | {next(iter(kwargs)): value})
