"""Event streams of attribution runs, made by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal

from stream_parts import WORDS, choices, finished, stamped, started, token

from engines.events import (
    Attribution,
    Choice,
    Circuit,
    CircuitEdge,
    CircuitNode,
    Contrast,
    Curve,
    Event,
    Forward,
    Lens,
    Note,
    Pair,
    Patch,
    Score,
    Swap,
    Token,
)

SENTENCE = (
    "<|s|>",
    "When",
    "John",
    "and",
    "Mary",
    "went",
    "to",
    "the",
    "shop",
    ",",
    "John",
    "gave",
    "the",
    "bag",
    "to",
)
Reader = Literal["q", "k", "v", "mlp", "logits"]
SITES = ("resid_pre", "attn_out", "mlp_out")


def prompt(length: int) -> tuple[Token, ...]:
    """The sentence about John and Mary, or as many words as asked for."""
    words = [*SENTENCE, *(WORDS[i % len(WORDS)].strip() or "x" for i in range(length))][:length]
    return tuple(token(" " + word) for word in words)


def contrast(length: int, pairs: int = 2) -> Contrast:
    """Who gets the bag? The prompts differ from the second name on."""
    clean = prompt(length)
    first = min(10, length - 1)
    corrupted = (*clean[:first], token(" Mary"), *clean[first + 1 :])
    one = Pair(clean, corrupted, token(" Mary"), token(" John"), 4.7, -4.7)
    return Contrast(
        task="ioi", metric="normalised logit difference", pairs=(one,) * pairs, first=first, clean=4.7, corrupted=-4.7
    )


def truth(site: str, layer: int, layers: int, length: int, first: int, rng: random.Random) -> tuple[float, ...]:
    """Effects as a model has them: at the swapped word early, at the last one late, nothing before."""
    depth = layer / max(1, layers - 1)
    effects = [0.0] * length
    for position in range(first, length):
        effects[position] = rng.gauss(0, 0.02)
    if site == "resid_pre":
        effects[first] += 1 / (1 + math.exp(14 * (depth - 0.6)))
        effects[-1] += 1.02 / (1 + math.exp(-14 * (depth - 0.65)))
    elif site == "attn_out":
        effects[-1] += 0.8 * math.exp(-(((depth - 0.75) * 12) ** 2)) - 0.3 * math.exp(-(((depth - 0.95) * 15) ** 2))
    else:
        effects[first] += 1.0 if layer == 0 else 0.1 * rng.random()
        effects[-1] -= 0.25 * math.exp(-(((depth - 0.7) * 10) ** 2))
    return tuple(effects)


def circuit(
    layers: int, heads: int, length: int, edges: int, seed: int = 11, first: int = 0, how: str = "relp"
) -> Circuit:
    """Heads and MLPs with scores that few of them share, and the strongest edges between them."""
    rng = random.Random(seed)

    def places(score: float) -> tuple[float, ...]:
        strongest = rng.choice((first, length - 1, length - 1, min(first + 1, length - 1)))
        return tuple(score * (0.8 if place == strongest else 0.2 / length) for place in range(length))

    nodes = [CircuitNode("embed", "embedding", -1, None, 0.9, tuple(0.9 * (p == first) for p in range(length)))]
    for layer in range(layers):
        for head in range(heads):
            score = rng.choice((1, 1, -1)) * 0.5 * rng.random() ** 8 * (0.3 + layer / layers)
            nodes.append(CircuitNode(f"a{layer}.{head}", "head", layer, head, score, places(score)))
        score = rng.choice((1, -1)) * 0.4 * rng.random() ** 4
        nodes.append(CircuitNode(f"m{layer}", "mlp", layer, None, score, places(score), score * 0.9))
    nodes.append(CircuitNode("logits", "logits", layers, None, 1.0))
    order = {node.id: (node.layer, node.kind == "mlp") for node in nodes}
    weight = {node.id: abs(node.score) for node in nodes}
    ways = [
        (source.id, target.id, target.kind)
        for source in nodes
        for target in nodes
        if order[source.id] < order[target.id]
    ]
    ways.sort(key=lambda way: -weight[way[0]] * weight[way[1]])
    told = []
    for source, target, kind in ways[:edges]:
        into: Reader = rng.choice(("q", "k", "v")) if kind == "head" else "mlp" if kind == "mlp" else "logits"
        told.append(CircuitEdge(source, target, into, rng.choice((1, 1, -1)) * weight[source] * rng.random()))
    return Circuit(how=how, nodes=tuple(nodes), edges=tuple(told), edge_count=len(ways))


def circuits(
    layers: int = 3,
    heads: int = 2,
    length: int = 12,
    edges: int = 40,
    measured: int = 2,
    estimators: Sequence[tuple[str, float]] = (("relp", 0.01),),
    seed: int = 12,
) -> list[Event]:
    """A circuit method: the question, guesses by one or two estimators, the circuit, and the truth, as far as measured.

    An estimator comes with the size of its error.
    """
    rng = random.Random(seed)
    asked = contrast(length)
    first = asked.first
    real = {(site, layer): truth(site, layer, layers, length, first, rng) for site in SITES for layer in range(layers)}
    events: list[Event] = [
        started("relp", "attribution", "When John and Mary went to the shop , John gave the bag to"),
        asked,
        Forward(lane="prompt", batch=2, query=length, cached=0, seconds=0.1),
        Forward(lane="prompt", batch=2, query=length, cached=0, seconds=0.1),
        Forward(lane="backward", batch=2, query=length, cached=0, seconds=0.2),
    ]
    for how, error in estimators:
        for site in SITES:
            for layer in range(layers):
                values = [
                    value + rng.gauss(0, error) * (place >= first) for place, value in enumerate(real[site, layer])
                ]
                if site == "mlp_out":
                    values = [value + 8 * rng.gauss(0, error) * (place >= first) for place, value in enumerate(values)]
                events.append(Patch(site=site, layer=layer, how=how, effects=tuple(values)))  # type: ignore[arg-type]
        found = circuit(layers, heads, length, edges, seed, first, how)
        scores = {node.id: node.score for node in found.nodes}
        for layer in range(layers):
            row = tuple(scores[f"a{layer}.{head}"] for head in range(heads))
            events.append(Patch(site="head", layer=layer, how=how, effects=row, along="head"))
        events.append(found)
    events.append(Note(text="The guess is made; the truth is being measured."))
    for layer in range(min(measured, layers)):
        for site in SITES:
            events.append(Forward(lane="target", batch=length, query=length - first, cached=first, seconds=0.05))
            events.append(Patch(site=site, layer=layer, how="exact", effects=real[site, layer]))  # type: ignore[arg-type]
            events.append(
                Curve(
                    name=f"agreement, {site}",
                    x_name="rows measured",
                    y_name="Pearson correlation",
                    x=(layer + 1.0,),
                    y=(0.9,),
                )
            )
    kept = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)
    for name, y in (
        ("faithfulness", (0.0, 0.05, 0.18, 0.32, 0.51, 0.975)),
        ("completeness", (1.0, 0.4, 0.001, 0.0, -0.02, 0.0)),
    ):
        events.append(Curve(name=name, x_name="nodes kept", y_name=name, x=kept, y=y))
    return stamped([*events, finished()])


def importance(
    steps: int = 4, length: int = 9, methods: Sequence[str] = ("gradient-x-input", "relp"), seed: int = 13
) -> list[Event]:
    """ReAGent gives its answer again and again, beside methods that give theirs once."""
    rng = random.Random(seed)
    context = prompt(length)
    target = token(" Mary")
    events: list[Event] = [started("reagent", "attribution", "When John and Mary went to the shop")]
    for how in methods:
        scores = tuple(rng.gauss(0, 0.3) for _ in context)
        events.append(
            Attribution(how=how, position=0, target=target, foil=token(" John"), context=context, scores=scores)
        )
    for step in range(steps):
        weights = [1 + step * (2.0 if place in (4, length - 2) else 0.1) + rng.random() for place in range(length)]
        swapped = sorted(rng.sample(range(length), max(1, length // 4)))
        events += [
            Forward(lane="target", batch=8, query=length, cached=0, seconds=0.1),
            Attribution(
                how="reagent",
                position=0,
                target=target,
                foil=None,
                context=context,
                scores=tuple(weight / sum(weights) for weight in weights),
                step=step,
                swaps=tuple(Swap(place, token(rng.choice(WORDS))) for place in swapped),
                before=0.62,
                after=0.62 * rng.random(),
                settled=min(4, step),
                probes=4,
            ),
        ]
    for how in ("reagent", *methods, "random"):
        events.append(Score(name="Soft-NS", value=rng.random(), text=how))
        events.append(Score(name="Soft-NC", value=rng.random(), text=how))
    scores = tuple(rng.random() for _ in context)
    events.append(Attribution(how="random", position=0, target=target, foil=None, context=context, scores=scores))
    return stamped([*events, finished()])


def deleted(length: int = 9, methods: Sequence[str] = ("relp", "attention", "reagent"), seed: int = 15) -> list[Event]:
    """Words deleted in the order of several methods, each a little worse than the one before; random is in between."""
    rng = random.Random(seed)
    context = prompt(length)
    scores = tuple(rng.random() for _ in context)
    events: list[Event] = [started("token-attribution", "attribution", "When John and Mary went to the shop")]
    for how in (*methods, "random"):
        events.append(
            Attribution(how=how, position=0, target=token(" Mary"), foil=None, context=context, scores=scores)
        )
    xs = tuple(float(count) for count in range(length + 1))
    for place, how in enumerate((*methods, "random")):
        half = 1.5 if how == "random" else 0.5 + 1.5 * place
        ys = tuple(0.62 * math.exp(-x / half) for x in xs)
        events.append(
            Curve(name=f"deletion, {how}", x_name="tokens deleted", y_name="probability of the target", x=xs, y=ys)
        )
    return stamped([*events, finished()])


def lens(layers: int = 4, length: int = 7, seed: int = 14) -> list[Event]:
    """What the model would say after every layer; the answer comes up in the second half."""
    rng = random.Random(seed)
    events: list[Event] = [started("logit-lens", "attribution", "When John and Mary went"), contrast(length)]
    answer = token(" Mary")
    for layer in range(layers + 1):
        depth = layer / layers
        words = [choices(rng, token(rng.choice(WORDS)), 2)[0] for _ in range(length)]
        if depth > 0.6:
            words[-1] = Choice(answer, min(0.99, depth * 0.9))
        told = tuple(rng.gauss(0, 0.3) + 5 / (1 + math.exp(-14 * (depth - 0.65))) for _ in range(length))
        events.append(Lens(layer=layer, tokens=tuple(words), differences=told))
    return stamped([*events, finished()])


def hostile_inside(bad: Token, other: Token, position: int) -> list[Event]:
    """Events of attribution, filled with a text that tries to break out."""
    pair = Pair((bad, other), (other, bad), bad, other, float("inf"), None)
    node = CircuitNode(bad.text, "head", 0, position, 0.5, (0.5, float("nan")), float("inf"))
    return [
        Contrast(task="<u>t</u>", metric=bad.text, pairs=(pair,), first=1, clean=float("nan")),
        Patch(site="mlp_out", layer=position, how=bad.text, effects=(0.5, float("inf"))),
        Patch(site="mlp_out", layer=position, how="exact", effects=(-2.5, None)),
        Patch(site="head", layer=position, how="<i>h</i>", effects=(0.5, float("nan")), along="head"),
        Circuit(
            how="<u>h</u>",
            nodes=(
                CircuitNode("embed", "embedding", -1, None, 0.2),
                node,
                CircuitNode("<i>l</i>", "logits", 1, None, 1.0),
            ),
            edges=(
                CircuitEdge("embed", bad.text, "q", float("inf")),
                CircuitEdge(bad.text, "<i>l</i>", "logits", -0.5),
                CircuitEdge(bad.text, "nowhere", "v", -0.5),
            ),
            edge_count=3,
        ),
        Attribution(
            how="<u>h</u> %{x}",
            position=position,
            target=bad,
            foil=other,
            context=(bad, other, bad),
            scores=(0.5, float("nan"), -0.5),
            swaps=(Swap(0, other), Swap(99, bad)),
            before=float("nan"),
            after=2.0,
            settled=3,
            probes=1,
        ),
        Score(name="Soft-NS", value=float("inf"), text=bad.text),
        Curve(name=f"deletion, {bad.text}", x_name="<x>", y_name="<y>", x=(0.0, 1.0, 2.0), y=(0.9, 0.1, float("inf"))),
        Lens(layer=position, tokens=(Choice(bad, 0.5), Choice(other, float("nan"))), differences=(0.5, float("inf"))),
    ]


ATTRIBUTION = {
    "circuits": circuits,
    "importance": importance,
    "deleted": deleted,
    "lens": lens,
}
