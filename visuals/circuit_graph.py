"""The circuit: the few components that carry the answer, and what they say to each other.

From below to above is from the first layer to the last, from left to right are the tokens: a component stands over the
token at which it matters most. Circles are attention heads, squares MLPs, the triangle is the embedding, the diamond
the logits. Size is the strength of a score; blue and solid lines push towards the answer, orange and dashed ones away.

Of hundreds of components and thousands of edges few are shown: the smallest set of nodes that holds 0.8 of all
influence (the sum of absolute scores), of the edges between them the smallest set that holds 0.98, and of those only
what is on a way from the embedding to the logits: a node that nothing kept speaks to, or that speaks to nothing kept,
is dropped, until none is left. Below, where measured, the line that says how far to trust such a picture:
*faithfulness*, how much of the behaviour is left when only the kept nodes work, should come to 1, and *completeness*,
how much is left when only the others work, to 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.events import Circuit, CircuitEdge, CircuitNode, Curve, Event, Token
from visuals.canvas import SMALL, Points, axis, drawing, label, text_font
from visuals.circuit_choice import Dot, Line, chosen, merged, strength
from visuals.inside import known, place_name, place_told, prompt, signed
from visuals.palette import EFFECT, LIGHT, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.spelling import plain, safe

FAR_TOO_MANY, FAR_TOO_MANY_EDGES = 200, 600
"""Never drawn, whoever asks."""
WIDTHS = ((0.5, 4.5, 0.85), (0.25, 3.2, 0.75), (0.1, 2.2, 0.65), (0.04, 1.4, 0.55), (0.0, 0.8, 0.45))
"""From which share of the strongest edge on a line has which width and how much of its colour."""
SYMBOLS = {"head": "circle", "mlp": "square", "embedding": "triangle-up", "logits": "diamond", "group": "hexagon"}
SMALLEST, LARGEST = 9, 26
"""Pixels of a node."""
LANE, LABEL_HIGH = 42, 50
"""Pixels that a node and its label need, across and upwards."""
HEAD, CURVE_HIGH = 82, 84
LEVEL, SLANTED = 30, 62
"""Pixels of the words below."""
FOR, AGAINST = EFFECT[-1], EFFECT[0]
FAITHFULNESS, COMPLETENESS = "faithfulness", "completeness"
LONGEST_NAME = 16
BEND = tuple(step / 8 for step in range(9))
_HALO = ", ".join(["0px 0px 2px " + LIGHT["panel"]] * 6)
"""Around labels, so that edges do not cross them."""


@dataclass(slots=True)
class Column:
    """The nodes over one token, side by side where they would lie on each other."""

    position: int
    left: float
    right: float


def latest(events: Sequence[Event]) -> Circuit | None:
    """The last circuit that has nodes."""
    return next((event for event in reversed(events) if isinstance(event, Circuit) and event.nodes), None)


def relevant(events: Sequence[Event]) -> bool:
    """Whether a circuit was found."""
    return latest(events) is not None


def curves(events: Sequence[Event]) -> dict[str, list[tuple[float, float]]]:
    """Faithfulness and completeness by the number of nodes kept; of points told twice the last one."""
    points: dict[str, dict[float, float]] = {}
    for event in events:
        if isinstance(event, Curve) and event.name in (FAITHFULNESS, COMPLETENESS):
            for x, y in zip(event.x, event.y, strict=False):
                if known(x) is not None and known(y) is not None:
                    points.setdefault(event.name, {})[x] = y
    return {name: sorted(points[name].items()) for name in (FAITHFULNESS, COMPLETENESS) if name in points}


def table(events: Sequence[Event]) -> list[Row]:
    """One row per node, then one per edge."""
    circuit = latest(events)
    if circuit is None:
        return []
    nodes, edges = chosen(circuit)
    shown, drawn = {node.id for node in nodes}, {(edge.source, edge.target, edge.into) for edge in edges}
    rows: list[Row] = [
        {
            "part": "node",
            "id": node.id,
            "kind": node.kind,
            "layer": node.layer,
            "source": "",
            "target": "",
            "score": known(node.score),
            "exact": known(node.exact),
            "shown": node.id in shown,
        }
        for node in circuit.nodes
    ]
    rows += [
        {
            "part": "edge",
            "id": f"{edge.source} to {edge.target}",
            "kind": edge.into,
            "layer": None,
            "source": edge.source,
            "target": edge.target,
            "score": known(edge.score),
            "exact": None,
            "shown": (edge.source, edge.target, edge.into) in drawn,
        }
        for edge in circuit.edges
    ]
    return rows


def narrate(events: Sequence[Event]) -> str:
    """The strongest components and edge, how much is shown, and how far it is to be trusted."""
    circuit = latest(events)
    if circuit is None:
        return "No circuit has been found yet."
    nodes, edges = chosen(circuit)
    inner = [node for node in nodes if node.kind in ("head", "mlp")]
    components = sum(node.kind in ("head", "mlp") for node in circuit.nodes)
    said = [
        f"{len(inner)} of {components} heads and MLPs are shown, and {len(edges):,} of"
        f" {max(circuit.edge_count, len(circuit.edges)):,} edges."
    ]
    if inner:
        best = sorted(inner, key=lambda node: -strength(node.score))[:3]
        said.append(
            "The strongest are " + ", ".join(f"{_plain(node.id)} ({signed(known(node.score))})" for node in best) + "."
        )
        place = _place(best[0])
        if place is not None:
            said.append(f"{_plain(best[0].id)} does most of its work at {place_told(prompt(events), place)}.")
    if edges:
        top = edges[0]
        said.append(
            f"The strongest edge goes from {_plain(top.source)} to {_plain(top.target)} ({signed(known(top.score))})."
        )
    found = curves(events)
    if points := found.get(FAITHFULNESS):
        kept, value = max(points)
        said.append(f"With {kept:.0f} nodes kept the faithfulness is {value:.2f}.")
    return " ".join(said)


@picture(
    "circuit-graph",
    title="Circuit",
    explains="The parts of the model that carry the answer, over the tokens where they work, and what they tell whom.",
    empty="A few heads and MLPs, wired together, often do the work of the whole model. Try relevance patching.",
    relevant=relevant,
    table=table,
    narrate=narrate,
    families=("attribution",),
)
def draw(
    events: Sequence[Event],
    *,
    nodes: int | None = None,
    edges: int | None = None,
    grouped: Mapping[str, Sequence[str]] | None = None,
    pinned: Sequence[str] = (),
) -> Drawing | None:
    """The graph, and faithfulness and completeness below it.

    Args:
        events: any prefix of a stream.
        nodes: how many heads and MLPs, None for the default; see `chosen`.
        edges: how many edges.
        grouped: names of supernodes with the ids of their members, drawn as one node at their mean place.
        pinned: ids of nodes that stay.
    """
    circuit = latest(events)
    if circuit is None:
        return None
    nodes = None if nodes is None else min(nodes, FAR_TOO_MANY)
    edges = None if edges is None else min(edges, FAR_TOO_MANY_EDGES)
    kept, ways = chosen(circuit, nodes, edges, pinned, grouped)
    dots, lines = merged(kept, ways, grouped)
    layers = 1 + max((node.layer for node in circuit.nodes if node.kind in ("head", "mlp")), default=0)
    pitch = max(7.0, min(60.0, 480 / (layers + 2)))
    wide, columns = _lay_out(dots, kept, layers, LABEL_HIGH / pitch)
    graph_high = max(200.0, pitch * (layers + 2.7) + 16)
    found = curves(events)
    low = CURVE_HIGH + 89 if found else 0
    roomy = all(column.right > column.left for column in columns)
    inner = graph_high + ((LEVEL if roomy else SLANTED) if columns else 8) + low
    tokens = prompt(events)
    notes = _headline(circuit, kept, ways)
    layout: dict[str, Any] = {
        "xaxis": axis(
            "",
            domain=[0, 1],
            anchor="y",
            range=[-0.7, wide - 0.3],
            tickvals=[(column.left + column.right) / 2 for column in columns],
            ticktext=[place_name(tokens, column.position, 9) for column in columns],
            tickangle=0 if roomy else -30,
            ticks="",
            automargin=False,
            showgrid=False,
            showline=False,
            fixedrange=True,
        ),
        "yaxis": axis(
            "layer",
            domain=[1 - graph_high / inner, 1],
            anchor="x",
            range=[-1 - 46 / pitch, layers + 0.7],
            tickvals=list(range(0, layers, next((step for step in (1, 2, 5, 10, 20) if layers <= 8 * step), 50))),
            showgrid=True,
            fixedrange=True,
        ),
    }
    data = [*_lines(lines, {dot.key: dot for dot in dots}), _nodes(dots, pinned, tokens)]
    if found:
        count = sum(node.kind in ("head", "mlp") for node in kept)
        data += _curves(found, count)
        notes += [
            label(line, 0, (CURVE_HIGH + 47) / inner, yshift=-15 * place, font={"size": SMALL, "color": LIGHT["soft"]})
            for place, line in enumerate(_trust(found))
        ]
        layout |= _curve_axes(found, inner, count)
    return drawing(
        [trace for trace in data if trace["x"]],
        height=round(HEAD + inner + 8),
        min_width=round(min(2000, max(340, 60 + LANE * wide))),
        margin={"t": HEAD, "l": 44, "r": 12, "b": 8},
        hoverdistance=14,
        annotations=notes,
        shapes=[_border((one.right + other.left) / 2) for one, other in itertools.pairwise(columns)],
        **layout,
    )


def _place(node: CircuitNode) -> int | None:
    """The position at which a node matters most."""
    values = [strength(value) for value in node.by_position]
    return values.index(max(values)) if any(values) else None


def _lay_out(dots: Sequence[Dot], kept: Sequence[CircuitNode], layers: int, gap: float) -> tuple[float, list[Column]]:
    """Puts the dots in place, in lanes and layers; returns the number of lanes, and the columns of tokens."""
    height = {node.id: _height(node, layers) for node in kept}
    places = {node.id: place for node in kept if (place := _place(node)) is not None}
    across: dict[str, float] = {}
    columns: list[Column] = []
    if places:
        wide = 0.0
        ends = (min(places.values()), max(places.values()))
        for node in kept:
            places.setdefault(node.id, ends[node.kind != "embedding"])
        for position in sorted(set(places.values())):
            lanes = _lanes([node for node in kept if places[node.id] == position], height, gap)
            across |= {id: wide + lane for id, lane in lanes.items()}
            columns.append(Column(position, wide, wide + max(lanes.values())))
            wide += 1 + max(lanes.values())
    else:
        heads = 1 + max((node.unit or 0 for node in kept), default=0)
        mlps = _lanes([node for node in kept if node.kind == "mlp"], height, gap)
        wide = heads + 1.0 + max(mlps.values(), default=0)
        for node in kept:
            middle = (heads - 1) / 2
            across[node.id] = heads + mlps[node.id] if node.id in mlps else middle if node.unit is None else node.unit
    for dot in dots:
        dot.x = math.fsum(across[node.id] for node in dot.members) / len(dot.members)
        dot.y = math.fsum(height[node.id] for node in dot.members) / len(dot.members)
    return wide, columns


def _lanes(nodes: Sequence[CircuitNode], height: Mapping[str, float], gap: float) -> dict[str, int]:
    """Side by side what would lie on each other: within a lane, nodes are at least `gap` apart."""
    lanes: dict[str, int] = {}
    tops: list[float] = []
    for node in sorted(nodes, key=lambda node: height[node.id]):
        lane = next((lane for lane, top in enumerate(tops) if height[node.id] - top >= gap), len(tops))
        tops[lane : lane + 1] = [height[node.id]]
        lanes[node.id] = lane
    return lanes


def _height(node: CircuitNode, layers: int) -> float:
    """A layer's MLP comes after its heads."""
    if node.kind in ("embedding", "logits"):
        return -1.0 if node.kind == "embedding" else layers
    return node.layer + 0.5 * (node.kind == "mlp")


def _lines(lines: Sequence[Line], dots: Mapping[str, Dot]) -> list[dict[str, Any]]:
    """Edges in at most ten traces, and an invisible point on the middle of each."""
    strongest = max((abs(line.score) for line in lines), default=0.0)
    groups: dict[tuple[int, bool], tuple[Points, Points]] = {}
    spots: list[tuple[float, float, str]] = []
    for line in lines:
        share = abs(line.score) / strongest if strongest else 0.0
        level = next(level for level, (bound, _, _) in enumerate(WIDTHS) if share >= bound)
        xs, ys = groups.setdefault((level, line.score < 0), ([], []))
        (x0, y0), (x1, y1) = ((dots[key].x, dots[key].y) for key in (line.source, line.target))
        # A straight way up would run through the nodes between.
        bow = 0.3 if abs(x1 - x0) < 0.5 and y1 - y0 > 2 else 0.0
        way = [(x0 + (x1 - x0) * t * t * (3 - 2 * t) + bow * math.sin(math.pi * t), y0 + (y1 - y0) * t) for t in BEND]
        xs += [*(round(x, 3) for x, _ in way), None]
        ys += [*(round(y, 3) for _, y in way), None]
        spots.append((*way[len(way) // 2], _line_told(line, dots)))
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": xs,
            "y": ys,
            "opacity": WIDTHS[level][2],
            "line": {
                "color": AGAINST if against else FOR,
                "width": WIDTHS[level][1],
                "dash": "6px,3px" if against else "solid",
            },
            "hoverinfo": "skip",
        }
        for (level, against), (xs, ys) in sorted(groups.items(), reverse=True)
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [round(x, 3) for x, _, _ in spots],
            "y": [round(y, 3) for _, y, _ in spots],
            "marker": {"size": 10, "opacity": 0},
            "customdata": [told for _, _, told in spots],
            "hovertemplate": "%{customdata}<extra></extra>",
        }
    )
    return traces


def _line_told(line: Line, dots: Mapping[str, Dot]) -> str:
    source, target = (_safe(dots[key].name) for key in (line.source, line.target))
    if len(line.parts) == 1:
        return f"{source} → {target} ({line.parts[0].into}), {signed(line.score, 3)}"
    parts = [
        f"{_safe(part.source)} → {_safe(part.target)} ({part.into}), {signed(known(part.score), 3)}"
        for part in line.parts[:6]
    ]
    more = [f"and {len(line.parts) - 6} more"] if len(line.parts) > 6 else []
    return "<br>".join([f"{source} → {target}, {signed(line.score, 3)} in all", *parts, *more])


def _nodes(dots: Sequence[Dot], pinned: Sequence[str], tokens: Sequence[Token]) -> dict[str, Any]:
    """All nodes with their labels: the sign stands there, too."""
    strongest = max((abs(dot.score) for dot in dots if dot.kind not in ("embedding", "logits")), default=0.0) or 1.0
    held = [any(node.id in pinned for node in dot.members) for dot in dots]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [round(dot.x, 3) for dot in dots],
        "y": [round(dot.y, 3) for dot in dots],
        "ids": [_safe(dot.name) for dot in dots],
        "text": [f"{_safe(dot.name)}<br>{signed(dot.score)}" for dot in dots],
        "textposition": "bottom center",
        "textfont": text_font(size=SMALL, shadow=_HALO),
        "cliponaxis": False,
        "marker": {
            "symbol": [SYMBOLS[dot.kind] for dot in dots],
            "size": [
                round(SMALLEST + (LARGEST - SMALLEST) * math.sqrt(min(1.0, abs(dot.score) / strongest)), 1)
                for dot in dots
            ],
            "opacity": 1,
            "color": [FOR if dot.score >= 0 else AGAINST for dot in dots],
            "line": {
                "color": [LIGHT["ink"] if pin else LIGHT["panel"] for pin in held],
                "width": [3 if pin else 1 for pin in held],
            },
        },
        "customdata": [_node_told(dot, pin, tokens) for dot, pin in zip(dots, held, strict=True)],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _node_told(dot: Dot, pin: bool, tokens: Sequence[Token]) -> str:
    name = _safe(dot.name)
    if dot.kind == "group":
        members = ", ".join(_safe(node.id) for node in dot.members[:8])
        lines = [f"{name}: {len(dot.members)} components", members + ("…" if len(dot.members) > 8 else "")]
    else:
        node = dot.members[0]
        what = {"head": f"head {node.unit} of layer {node.layer}", "mlp": f"MLP of layer {node.layer}"}
        lines = [f"{name}: {what.get(node.kind, node.kind)}"]
        if (place := _place(node)) is not None:
            lines.append(f"strongest at {place_name(tokens, place)}")
        if (exact := known(node.exact)) is not None:
            lines.append(f"patched for real {signed(exact, 3)}")
    lines.insert(1, f"score {signed(dot.score, 3)}")
    return "<br>".join([*lines, "pinned"] if pin else lines)


def _headline(circuit: Circuit, kept: Sequence[CircuitNode], ways: Sequence[CircuitEdge]) -> list[dict[str, Any]]:
    components = sum(node.kind in ("head", "mlp") for node in circuit.nodes)
    shown = sum(node.kind in ("head", "mlp") for node in kept)
    sides = ("for the answer", "against it") if circuit.direction == "denoise" else ("answer gained", "answer lost")
    all_edges = max(circuit.edge_count, len(circuit.edges))
    return [
        label(
            f"<b>{shown}</b> of {components:,} components, <b>{len(ways):,}</b> of {all_edges:,} edges",
            0,
            1,
            yshift=56,
            font={"size": 13, "color": LIGHT["ink"]},
        ),
        label(f"by {safe(circuit.how[:22].replace('-', ' '))}; larger: stronger", 0, 1, yshift=38),
        label("● head  ■ MLP  ▲ embedding  ◆ logits".replace("  ", "\u2003"), 0, 1, yshift=20),
        label(f"── {sides[0]} \u2003╌╌ {sides[1]}", 0, 1, yshift=2),
    ]


def _trust(found: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    words = {FAITHFULNESS: "● faithfulness, should be 1", COMPLETENESS: "■ completeness, should be 0"}
    return [
        f"{words[name]}: <b>{signed(points[-1][1]).removeprefix('+')}</b> with {points[-1][0]:.0f} nodes"
        for name, points in found.items()
    ]


def _curves(found: Mapping[str, Sequence[tuple[float, float]]], count: int) -> list[dict[str, Any]]:
    looks = {
        FAITHFULNESS: (LIGHT["accent"], "circle", "solid"),
        COMPLETENESS: (ROLES["copied"].ink, "square", "4px,3px"),
    }
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "xaxis": "x2",
            "yaxis": "y2",
            "x": [x for x, _ in points],
            "y": [round(y, 4) for _, y in points],
            "line": {"color": looks[name][0], "width": 2, "dash": looks[name][2]},
            "marker": {"size": 7, "symbol": looks[name][1], "color": looks[name][0], "opacity": 1},
            "hovertemplate": f"{name} %{{y:.3f}}<br>with %{{x}} nodes<extra></extra>",
        }
        for name, points in found.items()
    ] + [
        {
            "type": "scatter",
            "mode": "lines",
            "xaxis": "x2",
            "yaxis": "y2",
            "x": [count, count],
            "y": [-9, 9],
            "line": {"color": LIGHT["soft"], "width": 1, "dash": "2px,3px"},
            "hoverinfo": "skip",
        }
    ]


def _curve_axes(found: Mapping[str, Sequence[tuple[float, float]]], inner: float, count: int) -> dict[str, Any]:
    values = [y for points in found.values() for _, y in points]
    most = max(count, *(x for points in found.values() for x, _ in points))
    return {
        "xaxis2": axis(
            "nodes kept (dotted: on screen)",
            domain=[0, 1],
            anchor="y2",
            range=[0, most * 1.04 or 1],
            automargin=False,
            showgrid=False,
            fixedrange=True,
        ),
        "yaxis2": axis(
            "",
            domain=[44 / inner, (44 + CURVE_HIGH - 16) / inner],
            anchor="x2",
            range=[max(-1.0, min(-0.1, *values)), min(2.0, max(1.1, *values))],
            tickvals=[0, 1],
            fixedrange=True,
        ),
    }


def _border(x: float) -> dict[str, Any]:
    """Between the columns of two tokens."""
    return {
        "type": "line",
        "xref": "x",
        "yref": "y domain",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "line": {"color": LIGHT["line"], "width": 1},
        "layer": "below",
    }


def _safe(name: str) -> str:
    """The name of a node or group for a drawing."""
    return safe(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…")


def _plain(name: str) -> str:
    """The same for a sentence."""
    return plain(Token(-1, name or " "), LONGEST_NAME).replace("␣", " ")
