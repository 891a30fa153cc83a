"""A circuit as a file: JSON with everything, GraphML with what is on screen for other programs to draw.

Names of groups and token texts are anybody's words. JSON says them as they are; XML has characters that it cannot
hold, and those become U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from engines.events import Circuit, CircuitNode, Contrast, Event, Started, Token
from playground.circuits import Marks, NotMeasurable, asked_in, circuit_in, label, on_screen

FORMAT, VERSION = "decoding-playground/circuit", 1
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(run: str, events: Sequence[Event], marks: Marks) -> str:
    """The question, all components and known edges with their scores, and what a person did to them.

    Raises `NotMeasurable` when the run holds no circuit.
    """
    asked, circuit = _found(events)
    header = next((event for event in events if isinstance(event, Started)), None)
    nodes, edges = on_screen(circuit, marks)
    seen, drawn = {node.id for node in nodes}, {id(edge) for edge in edges}
    group_of = {member: name for name, members in marks.groups.items() for member in members}
    told = {
        "format": FORMAT,
        "version": VERSION,
        "run": run,
        "model": header.model if header else "",
        "weights": header.weights if header else "",
        "question": _question(asked) if asked else None,
        "estimated_by": circuit.how,
        "direction": circuit.direction,
        "unit": asked.metric if asked else "",
        "nodes": [
            {
                "id": node.id,
                "label": label(node),
                "kind": node.kind,
                "layer": node.layer,
                "unit": node.unit,
                "score": node.score,
                "by_position": list(node.by_position),
                "measured": marks.measured.get(node.id, node.exact),
                "pinned": node.id in marks.pinned,
                "group": group_of.get(node.id),
                "shown": node.id in seen,
            }
            for node in circuit.nodes
        ],
        "edges": [
            {
                "source": edge.source,
                "target": edge.target,
                "into": edge.into,
                "score": edge.score,
                "shown": id(edge) in drawn,
            }
            for edge in circuit.edges
        ],
        "edges_in_all": circuit.edge_count,
        "groups": {name: list(members) for name, members in marks.groups.items()},
    }
    return msgspec.json.format(msgspec.json.encode(told), indent=1).decode()


def as_graphml(events: Sequence[Event], marks: Marks) -> str:
    """The components and edges that are shown; edges through several inputs are one, with a score for each.

    Raises `NotMeasurable` when the run holds no circuit.
    """
    import networkx

    _, circuit = _found(events)
    nodes, edges = on_screen(circuit, marks)
    group_of = {member: name for name, members in marks.groups.items() for member in members}
    graph = networkx.DiGraph(estimated_by=xml(circuit.how), direction=circuit.direction)
    for node in nodes:
        graph.add_node(node.id, **_attributes(node, marks, group_of.get(node.id, "")))
    for edge in edges:
        known = graph.get_edge_data(edge.source, edge.target) or {}
        score = known.get("score", 0.0) + edge.score
        graph.add_edge(edge.source, edge.target, **(known | {"score": score, edge.into: edge.score}))
    return "\n".join(networkx.generate_graphml(graph)) + "\n"


def xml(text: str) -> str:
    """The text without characters that no XML document may hold."""
    return _NOT_XML.sub("\ufffd", text)


def _attributes(node: CircuitNode, marks: Marks, group: str) -> dict[str, Any]:
    """GraphML knows no empty values: what is not there is left out."""
    measured = marks.measured.get(node.id, node.exact)
    return (
        {"label": label(node), "kind": node.kind, "layer": node.layer, "score": node.score}
        | ({"unit": node.unit} if node.unit is not None else {})
        | ({"measured": measured} if measured is not None else {})
        | ({"group": xml(group)} if group else {})
        | {"pinned": node.id in marks.pinned}
    )


def _question(asked: Contrast) -> dict[str, Any]:
    def told(token: Token) -> dict[str, Any]:
        return {"id": token.id, "text": token.text} | ({"hex": token.hex} if token.hex else {})

    return {
        "task": asked.task,
        "clean": asked.clean,
        "corrupted": asked.corrupted,
        "first_difference": asked.first,
        "pairs": [
            {
                "clean": [told(token) for token in pair.clean],
                "corrupted": [told(token) for token in pair.corrupted],
                "answer": told(pair.answer),
                "foil": told(pair.foil),
            }
            for pair in asked.pairs
        ],
    }


def _found(events: Sequence[Event]) -> tuple[Contrast | None, Circuit]:
    circuit = circuit_in(events)
    if circuit is None:
        raise NotMeasurable("This run holds no circuit.")
    return asked_in(events), circuit
