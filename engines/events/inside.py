"""What the inside of a model was asked and answered: patches, circuits, attributions."""

from __future__ import annotations

from typing import Literal

import msgspec

from engines.events.stream import Choice, Event, Token


class Pair(msgspec.Struct, frozen=True):
    """Two prompts that differ in what decides between answer and foil."""

    clean: tuple[Token, ...]
    corrupted: tuple[Token, ...]
    """As long as `clean`; empty when there is only one prompt."""
    answer: Token
    foil: Token
    clean_difference: float
    """Logit of the answer minus logit of the foil, after the clean prompt."""
    corrupted_difference: float | None = None


class Contrast(Event, frozen=True, kw_only=True):
    """The question that the inside of a model is asked: why the answer and not the foil?"""

    task: str
    metric: str
    """What the effects of patches are measured in."""
    pairs: tuple[Pair, ...]
    """All of the same length."""
    first: int
    """The first position, from the start of the prompt, at which clean and corrupted differ in any pair."""
    clean: float
    """Mean logit difference over the pairs."""
    corrupted: float | None = None


Site = Literal["resid_pre", "attn_out", "mlp_out", "head"]
"""Where in a block: `resid_pre` its input, the residual stream; `attn_out` and `mlp_out` what attention and MLP add to
the stream; `head` the output of one attention head before the output projection."""


Direction = Literal["denoise", "noise"]


class Patch(Event, frozen=True, kw_only=True):
    """What it does to the metric to put the other run's activations into one layer, place by place."""

    site: Site
    layer: int
    how: str
    """`exact` when the model was run with the patch, otherwise the method that estimates it, e.g. `relp`."""
    effects: tuple[float | None, ...]
    """One per position of the prompt, or one per head; None where nothing was measured."""
    along: Literal["position", "head"] = "position"
    direction: Direction = "denoise"
    """`denoise`: clean activations into the corrupted run; `noise`: the other way round."""


class CircuitNode(msgspec.Struct, frozen=True):
    """A component of the model. Ids: `embed`, `a7.3` for head 3 of layer 7, `m7`, `logits`."""

    id: str
    kind: Literal["embedding", "head", "mlp", "logits"]
    layer: int
    """-1 for the embedding, the number of layers for the logits."""
    unit: int | None
    """The head."""
    score: float
    """The effect of patching it at all positions, as estimated; of the logits the whole difference."""
    by_position: tuple[float, ...] = ()
    exact: float | None = None


class CircuitEdge(msgspec.Struct, frozen=True):
    """What one component's output does to the metric through one reader."""

    source: str
    target: str
    into: Literal["q", "k", "v", "mlp", "logits"]
    score: float


class Circuit(Event, frozen=True, kw_only=True):
    """The components of a model and what they say to each other, scored."""

    how: str
    """The method that scored them."""
    nodes: tuple[CircuitNode, ...]
    edges: tuple[CircuitEdge, ...]
    """The strongest ones."""
    edge_count: int
    """How many there are in all."""
    direction: Direction = "denoise"


class Swap(msgspec.Struct, frozen=True):
    """A token of the context that was replaced to see what happens."""

    index: int
    """From the start of the context."""
    token: Token


class Attribution(Event, frozen=True, kw_only=True):
    """How much every token of the context mattered for one prediction."""

    how: str
    position: int
    """Of the predicted token."""
    target: Token
    foil: Token | None
    """What it is set against; None: the target alone is explained."""
    context: tuple[Token, ...]
    """All tokens before the target, at most the last 256."""
    scores: tuple[float, ...]
    """One per token of the context; whether they sum to something, `how` decides."""
    step: int = 0
    """Methods that improve their answer give it again and again."""
    swaps: tuple[Swap, ...] = ()
    before: float | None = None
    """The probability of the target on the context as it is."""
    after: float | None = None
    """Its probability with the swaps."""
    settled: int = 0
    """How many of the method's `probes` have met its stopping rule."""
    probes: int = 0


class Lens(Event, frozen=True, kw_only=True):
    """What the model would say if it ended after this layer, at every position."""

    layer: int
    """0: after the embedding; n: after layer n."""
    tokens: tuple[Choice, ...]
    """The most probable next token at every position of the prompt, from the first."""
    differences: tuple[float, ...] = ()
    """Logit of the answer minus logit of the foil, at every position."""
