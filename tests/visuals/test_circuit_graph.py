"""The circuit: the smallest set that holds enough influence, pruned to ways from start to end, and its drawing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import networkx as nx
import pytest
from attribution_streams import circuit as planted
from attribution_streams import circuits
from msgspec.structs import replace

from engines.events import Circuit, CircuitEdge, CircuitNode, Curve, Event
from visuals import circuit_graph
from visuals.circuit_choice import MOST_EDGES, MOST_NODES, chosen, merged
from visuals.palette import EFFECT, LIGHT

EMBED, LOGITS = CircuitNode("embed", "embedding", -1, None, 5.0), CircuitNode("logits", "logits", 9, None, 1.0)


def head(id: str, score: float, *by_position: float) -> CircuitNode:
    layer, unit = id.removeprefix("a").split(".")
    return CircuitNode(id, "head", int(layer), int(unit), score, by_position)


def edge(source: str, target: str, score: float = 1.0, into: Any = "v") -> CircuitEdge:
    return CircuitEdge(source, target, into, score)


def circuit(nodes: Sequence[CircuitNode], edges: Sequence[CircuitEdge]) -> Circuit:
    return Circuit(how="relp", nodes=(EMBED, *nodes, LOGITS), edges=tuple(edges), edge_count=99)


def wired(*nodes: CircuitNode) -> list[CircuitEdge]:
    """Every node on a way of its own from the embedding to the logits."""
    return [one for node in nodes for one in (edge("embed", node.id), edge(node.id, "logits"))]


def kept(found: Circuit, **more: Any) -> tuple[set[str], set[tuple[str, str]]]:
    nodes, edges = chosen(found, **more)
    return {node.id for node in nodes}, {(one.source, one.target) for one in edges}


def drawn(events: list[Event], **more: Any) -> dict[str, Any]:
    drawing = circuit_graph.draw(events, **more)
    assert drawing is not None
    return drawing


def nodes_of(drawing: dict[str, Any]) -> dict[str, Any]:
    (trace,) = [trace for trace in drawing["data"] if "ids" in trace]
    return trace


def lines_of(drawing: dict[str, Any]) -> list[dict[str, Any]]:
    return [trace for trace in drawing["data"] if trace["mode"] == "lines" and "xaxis" not in trace]


A, B, C, D = (head(id, score) for id, score in (("a0.0", 0.5), ("a1.0", -0.35), ("a2.0", 0.1), ("a3.0", 0.05)))


def test_the_smallest_set_of_nodes_that_holds_four_fifths_of_the_influence_is_kept() -> None:
    found = circuit([D, C, B, A], wired(A, B, C, D))
    assert kept(found)[0] == {"embed", "logits", "a0.0", "a1.0"}, "0.5 + 0.35 of 1.0"
    less = circuit([A, replace(B, score=0.3), C, D], wired(A, B, C, D))  # (0.5 + 0.3) / 0.95
    assert kept(less)[0] == {"embed", "logits", "a0.0", "a1.0"}
    more = circuit([A, replace(B, score=0.2), C, D], wired(A, B, C, D))  # 0.7 / 0.85 is enough as well
    assert kept(more)[0] == {"embed", "logits", "a0.0", "a1.0"}
    spread = circuit([replace(node, score=0.1) for node in (A, B, C, D)], wired(A, B, C, D))
    assert len(kept(spread)[0]) == 2 + 4, "three hold only 0.75"


def test_the_strongest_edges_that_hold_enough_are_kept() -> None:
    strong = [edge("embed", "a0.0", 0.5), edge("a0.0", "logits", -0.48)]
    weak = [edge("embed", "logits", 0.015), edge("embed", "logits", 0.005, "logits")]
    _, edges = chosen(circuit([A], [*weak, *strong]))
    assert edges == strong, "0.98 of 1.0"
    _, edges = chosen(circuit([A], [*weak, *strong]), edges=3)
    assert edges == [*strong, weak[0]]


def test_there_is_a_most_of_either_unless_someone_asks_for_more() -> None:
    many = [head(f"a{i % 9}.{i}", 0.1) for i in range(200)]
    found = circuit(many, wired(*many))
    nodes, edges = chosen(found)
    assert len(nodes) <= MOST_NODES
    assert len(edges) <= MOST_EDGES
    few = many[:18]
    dense = [*wired(*few), *(edge(one.id, other.id) for one, other in itertools.combinations(few, 2))]
    nodes, edges = chosen(circuit(few, dense))
    assert len(nodes) == 2 + 15
    assert len(edges) == MOST_EDGES
    nodes, edges = chosen(found, 150, 300)
    assert len(nodes) == 152
    assert len(edges) == 300
    assert kept(found, nodes=0, edges=50) == (set(), set())
    assert kept(found, nodes=-3, edges=-3) == (set(), set())


def test_what_is_on_no_way_is_dropped_until_nothing_changes() -> None:
    chain = [edge("embed", "a0.0"), edge("a0.0", "a1.0"), edge("a1.0", "logits")]
    dead_end = [edge("a0.0", "a2.0"), edge("a2.0", "a3.0")]
    found = circuit([A, B, C, D], [*chain, *dead_end])
    assert kept(found, nodes=4, edges=9)[0] == {"embed", "a0.0", "a1.0", "logits"}, "a3.0 goes first, then a2.0"
    no_start = [edge("a2.0", "a3.0"), edge("a3.0", "logits")]
    found = circuit([A, B, C, D], [*chain, *no_start])
    assert kept(found, nodes=4, edges=9) == (
        {"embed", "a0.0", "a1.0", "logits"},
        {("embed", "a0.0"), ("a0.0", "a1.0"), ("a1.0", "logits")},
    )


@pytest.mark.parametrize("seed", range(8))
def test_pruning_is_that_of_a_graph_library(seed: int) -> None:
    """Everything kept is reached from the embedding and reaches the logits; nothing else is dropped."""
    rng = random.Random(seed)
    found = planted(4, 3, 6, 60, seed)
    found = replace(found, edges=tuple(rng.sample(found.edges, 30)))
    nodes, edges = kept(found, nodes=99, edges=20)
    strongest = sorted(found.edges, key=lambda one: -abs(one.score))[:20]
    graph = nx.DiGraph([(one.source, one.target) for one in strongest])
    graph.add_nodes_from(["embed", "logits"])
    # The graph has no cycles: to have input and output all the way is to lie on a way.
    on_a_way = ({"embed"} | nx.descendants(graph, "embed")) & ({"logits"} | nx.ancestors(graph, "logits"))
    assert nodes == (on_a_way if len(on_a_way) > 1 else set())
    assert edges == {(a, b) for a, b in graph.edges if a in on_a_way and b in on_a_way}


def test_pinned_nodes_stay_however_weak_and_lonely_and_strangers_are_passed_over() -> None:
    found = circuit([A, D], wired(A))
    assert "a3.0" not in kept(found)[0]
    assert kept(found, pinned=["a3.0", "a99.9"])[0] == {"embed", "logits", "a0.0", "a3.0"}
    assert kept(found, grouped={"mine": ["a3.0"]})[0] == {"embed", "logits", "a0.0", "a3.0"}


def test_without_any_edges_told_of_nodes_are_kept_for_their_scores() -> None:
    assert kept(circuit([A, B], []))[0] == {"embed", "logits", "a0.0", "a1.0"}


def test_a_supernode_has_the_summed_scores_and_the_merged_edges() -> None:
    edges = [
        edge("embed", "a0.0", 0.25, "q"),
        edge("embed", "a1.0", 0.5, "k"),
        edge("a0.0", "a1.0", 0.125),
        edge("a1.0", "logits", -0.5),
    ]
    dots, lines = merged((EMBED, A, B, LOGITS), edges, {"pair": ["a0.0", "a1.0"]})
    assert [(dot.name, dot.kind) for dot in dots] == [("embed", "embedding"), ("pair", "group"), ("logits", "logits")]
    assert dots[1].score == pytest.approx(0.5 - 0.35)
    assert [line.score for line in lines] == [0.75, -0.5], "what members say to each other is inside"
    assert [len(line.parts) for line in lines] == [2, 1]


def test_a_supernode_stands_at_the_mean_place_and_may_bear_a_components_name() -> None:
    nodes = [head("a0.0", 0.5, 1, 0, 0), head("a4.0", 0.5, 0, 0, 1), head("a2.0", 0.5, 0, 1, 0)]
    found: list[Event] = [circuit(nodes, wired(*nodes))]
    plain, grouped = nodes_of(drawn(found)), nodes_of(drawn(found, grouped={"a2.0": ["a0.0", "a4.0"]}))
    at = dict(zip(plain["ids"], zip(plain["x"], plain["y"], strict=True), strict=True))
    assert grouped["ids"].count("a2.0") == 2
    place = grouped["marker"]["symbol"].index("hexagon")
    assert grouped["x"][place] == pytest.approx((at["a0.0"][0] + at["a4.0"][0]) / 2)
    assert grouped["y"][place] == pytest.approx(2)


def test_edges_into_different_readers_are_one_line_whose_label_tells_them_apart() -> None:
    both = [edge("embed", "a0.0", 0.5, "q"), edge("embed", "a0.0", -0.125, "v"), edge("a0.0", "logits", 1.0, "logits")]
    drawing = drawn([circuit([A], both)], edges=3)
    (spots,) = [trace for trace in drawing["data"] if trace["mode"] == "markers"]
    assert spots["marker"]["opacity"] == 0
    assert sorted(spots["customdata"]) == [
        "a0.0 → logits (logits), +1.000",
        "embed → a0.0, +0.375 in all<br>embed → a0.0 (q), +0.500<br>embed → a0.0 (v), −0.125",
    ]


def test_shape_size_colour_and_label_say_what_a_node_is() -> None:
    mlp = CircuitNode("m1", "mlp", 1, None, -0.5)
    trace = nodes_of(drawn([circuit([head("a0.0", 0.25), mlp], wired(head("a0.0", 0.25), mlp))]))
    marker = trace["marker"]
    assert trace["ids"] == ["embed", "a0.0", "m1", "logits"]
    assert marker["symbol"] == ["triangle-up", "circle", "square", "diamond"]
    assert marker["color"] == [EFFECT[6], EFFECT[6], EFFECT[0], EFFECT[6]]
    assert marker["size"][1] < marker["size"][2] == circuit_graph.LARGEST
    assert trace["text"] == ["embed<br>+5.00", "a0.0<br>+0.25", "m1<br>−0.50", "logits<br>+1.00"]


def test_pinned_nodes_are_outlined() -> None:
    line = nodes_of(drawn([circuit([A], wired(A))], pinned=["a0.0"]))["marker"]["line"]
    assert line["width"] == [1, 3, 1]
    assert line["color"][1] == LIGHT["ink"]


def test_lines_are_few_traces_and_against_is_dashed() -> None:
    drawing = drawn(circuits(20, 6, 12, 2000), edges=400, nodes=100)
    lines = lines_of(drawing)
    assert 4 <= len(lines) <= 10
    for trace in lines:
        assert (trace["line"]["dash"] == "solid") == (trace["line"]["color"] == EFFECT[6])
    assert len({trace["line"]["width"] for trace in lines}) <= 5


def test_nodes_stand_over_their_strongest_token_by_layer_and_never_on_each_other() -> None:
    events = circuits(30, 9, 14, 3000, 3, seed=3)
    drawing = drawn(events)
    trace, axis = nodes_of(drawing), drawing["layout"]["xaxis"]
    found = circuit_graph.latest(events)
    assert found is not None
    by_id = {node.id: node for node in found.nodes}
    columns: dict[int, list[float]] = {}
    for id, x, y in zip(trace["ids"], trace["x"], trace["y"], strict=True):
        node = by_id[id]
        assert y == node.layer + 0.5 * (node.kind == "mlp")
        if sizes := [abs(value) for value in node.by_position]:
            columns.setdefault(sizes.index(max(sizes)), []).append(x)
    assert len(columns) == 3
    spans = [(min(columns[position]), max(columns[position])) for position in sorted(columns)]
    assert all(left[1] < right[0] for left, right in itertools.pairwise(spans)), "columns overlap"
    assert axis["ticktext"] == [["␣John 10", "␣gave 11", "␣the 12", "␣bag 13"][at - 10] for at in sorted(columns)]
    assert all(low <= tick <= high for tick, (low, high) in zip(axis["tickvals"], spans, strict=True))
    places = list(zip(trace["x"], trace["y"], strict=True))
    pitch = 480 / 32
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[:i]:
            assert x != other_x or abs(y - other_y) * pitch >= circuit_graph.LABEL_HIGH - 0.1


def test_without_positions_heads_are_spread_by_their_number() -> None:
    nodes = [head("a0.0", 0.5), head("a0.3", 0.5), CircuitNode("m0", "mlp", 0, None, 0.5)]
    drawing = drawn([circuit(nodes, wired(*nodes))])
    trace = nodes_of(drawing)
    x = dict(zip(trace["ids"], trace["x"], strict=True))
    assert (x["a0.0"], x["a0.3"]) == (0, 3)
    assert x["m0"] > 3
    assert drawing["layout"]["xaxis"]["ticktext"] == []


def curve(name: str, x: Sequence[float], y: Sequence[float]) -> Curve:
    return Curve(name=name, x_name="nodes kept", y_name=name, x=tuple(x), y=tuple(y))


def test_the_line_below_gathers_points_told_one_by_one() -> None:
    events: list[Event] = [circuit([A], wired(A))]
    assert "xaxis2" not in drawn(events)["layout"]
    events += [
        curve("faithfulness", [5], [0.5]),
        curve("completeness", [5], [0.25]),
        curve("faithfulness", [10], [0.9]),
    ]
    events += [curve("faithfulness", [5], [0.6]), curve("agreement, mlp_out", [1], [0.1])]
    assert circuit_graph.curves(events) == {"faithfulness": [(5, 0.6), (10, 0.9)], "completeness": [(5, 0.25)]}
    drawing = drawn(events)
    below = [trace for trace in drawing["data"] if trace.get("xaxis") == "x2"]
    assert [trace["x"] for trace in below] == [[5, 10], [5], [1, 1]], "dotted where the picture is"
    assert below[0]["marker"]["symbol"] != below[1]["marker"]["symbol"]
    texts = " ".join(note["text"] for note in drawing["layout"]["annotations"])
    assert "faithfulness, should be 1: <b>0.90</b> with 10 nodes" in texts
    assert "completeness, should be 0: <b>0.25</b> with 5 nodes" in texts


def test_names_of_others_are_harmless() -> None:
    drawing = drawn([circuit([A], wired(A))], grouped={"<script>x</script>": ["a0.0"]})
    assert all("<" not in text.replace("<br>", "", 1) for text in nodes_of(drawing)["text"])


def test_words_and_table() -> None:
    found = circuit([A, B, C, D], [*wired(A, B), edge("a0.0", "a1.0", -3.0)])
    said = circuit_graph.narrate([found, curve("faithfulness", [2, 80], [0.5, 0.97])])
    assert said.startswith("2 of 4 heads and MLPs are shown, and 5 of 99 edges. The strongest are a0.0 (+0.50)")
    assert "The strongest edge goes from a0.0 to a1.0 (−3.00)." in said
    assert said.endswith("With 80 nodes kept the faithfulness is 0.97.")
    rows = circuit_graph.table([found])
    assert [row["id"] for row in rows if row["part"] == "node" and row["shown"]] == ["embed", "a0.0", "a1.0", "logits"]
    assert sum(row["part"] == "edge" for row in rows) == 5


def test_labels_side_by_side_do_not_touch() -> None:
    drawing = drawn(circuits(30, 9, 12, 600))
    (low, high), margin = drawing["layout"]["xaxis"]["range"], drawing["layout"]["margin"]
    pixels = (drawing["min_width"] - margin["l"] - margin["r"]) / (high - low)
    assert pixels >= 0.602 * 11 * len("a29.0"), "a lane is at least as wide as a name"
    for text in nodes_of(drawing)["text"]:
        assert max(map(len, text.split("<br>"))) <= 6, text
