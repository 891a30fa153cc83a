"""Which components and edges of a circuit are worth showing, and what becomes of them under common names.

Selection by cumulative influence as in attribution graphs ("Circuit Tracing", Ameisen et al. 2025), pruning to a fixed
point as in "Have Faith in Faithfulness", Hanna et al., arXiv 2403.17806.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engines.events import Circuit, CircuitEdge, CircuitNode
from visuals.inside import known

NODE_INFLUENCE, EDGE_INFLUENCE = 0.8, 0.98
MOST_NODES, MOST_EDGES = 40, 120
"""Shown when nobody asks for another number."""


@dataclass(slots=True)
class Dot:
    """What is drawn as one node: a component, or several under one name."""

    key: str
    name: str
    kind: str
    score: float
    members: list[CircuitNode]
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True)
class Line:
    """What is drawn as one edge: all that one dot says to another."""

    source: str
    target: str
    score: float
    parts: list[CircuitEdge]


def chosen(
    circuit: Circuit,
    nodes: int | None = None,
    edges: int | None = None,
    pinned: Sequence[str] = (),
    grouped: Mapping[str, Sequence[str]] | None = None,
) -> tuple[list[CircuitNode], list[CircuitEdge]]:
    """The components and edges that are shown: exactly those whose faithfulness is worth measuring.

    Args:
        circuit: all that is known.
        nodes: how many heads and MLPs to begin with, strongest first; None: as many as hold `NODE_INFLUENCE`.
        edges: how many edges between them to begin with; None: as many as hold `EDGE_INFLUENCE`.
        pinned: ids of nodes that stay, however weak and lonely. Unknown ones are passed over.
        grouped: names of supernodes with the ids of their members, which stay as well.

    Returns:
        Nodes in the order of the circuit, edges strongest first. Embedding and logits do not count among the `nodes`;
        they are kept while an edge reaches them. Where the circuit knows no edge at all, nothing is dropped for
        having none.
    """
    stays = {*pinned, *(member for members in (grouped or {}).values() for member in members)}
    inner = [node for node in circuit.nodes if node.kind in ("head", "mlp")]
    ends = [node for node in circuit.nodes if node.kind not in ("head", "mlp")]
    inner.sort(key=lambda node: -strength(node.score))
    if nodes is None:
        weights = [strength(node.score) for node in inner]
        nodes = min(_enough(weights, NODE_INFLUENCE), max(0, MOST_NODES - len(ends)))
    kept = {node.id for node in (*inner[: max(0, nodes)], *ends)}
    kept |= {node.id for node in inner if node.id in stays}
    ways = [
        edge
        for edge in circuit.edges
        if edge.source in kept and edge.target in kept and edge.source != edge.target and strength(edge.score)
    ]
    ways.sort(key=lambda edge: -strength(edge.score))
    if edges is None:
        edges = min(_enough([strength(edge.score) for edge in ways], EDGE_INFLUENCE), MOST_EDGES)
    ways = ways[: max(0, edges)]
    if circuit.edges:
        kept, ways = _pruned(circuit, kept, ways, stays)
    return [node for node in circuit.nodes if node.id in kept], ways


def strength(score: float) -> float:
    """The size of a score; 0 of what is no number."""
    return abs(known(score) or 0.0)


def _enough(weights: Sequence[float], share: float) -> int:
    """How many of the falling weights it takes for their share of the sum."""
    due, total = share * math.fsum(weights), 0.0
    for count, weight in enumerate(weights):
        if weight <= 0 or total >= due * (1 - 1e-12):
            return count
        total += weight
    return len(weights)


def _pruned(
    circuit: Circuit, kept: set[str], ways: list[CircuitEdge], stays: set[str]
) -> tuple[set[str], list[CircuitEdge]]:
    """Drops what is on no way from the embedding to the logits, until nothing changes."""
    has_input = {node.id for node in circuit.nodes if node.kind == "embedding"} | stays
    has_output = {node.id for node in circuit.nodes if node.kind == "logits"} | stays
    while True:
        into = has_input | {edge.target for edge in ways}
        out = has_output | {edge.source for edge in ways}
        left = {id for id in kept if id in into and id in out}
        if left == kept:
            return kept, ways
        kept = left
        ways = [edge for edge in ways if edge.source in kept and edge.target in kept]


def merged(
    nodes: Sequence[CircuitNode], edges: Sequence[CircuitEdge], grouped: Mapping[str, Sequence[str]] | None = None
) -> tuple[list[Dot], list[Line]]:
    """Components under one name as one dot, their scores summed; edges between the same dots as one line."""
    name_of = {member: name for name, members in (grouped or {}).items() for member in members}
    dots: dict[str, Dot] = {}
    where: dict[str, str] = {}
    for node in nodes:
        group = name_of.get(node.id)
        # A name may be that of a component.
        key = node.id if group is None else f"\n{group}"
        where[node.id] = key
        dot = dots.get(key)
        if dot is None:
            kind = node.kind if group is None else "group"
            dot = dots[key] = Dot(key, node.id if group is None else group, kind, 0.0, [])
        dot.score += known(node.score) or 0.0
        dot.members.append(node)
    lines: dict[tuple[str, str], Line] = {}
    for edge in edges:
        source, target = where[edge.source], where[edge.target]
        if source != target:
            line = lines.setdefault((source, target), Line(source, target, 0.0, []))
            line.score += known(edge.score) or 0.0
            line.parts.append(edge)
    return list(dots.values()), list(lines.values())
