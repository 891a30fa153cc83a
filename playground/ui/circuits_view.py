"""What the Circuits page shows, as values of its components: the form's choices, the question, pictures, tools."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from engines.attribution.questions import shipped
from engines.events import Circuit, Contrast, Curve, Event, Note, Patch, Started, committed
from engines.method import Method, Need
from engines.models.rules import ATTNLRP, RELP, RELP_AH, Rules
from playground import circuits
from playground.circuits import Marks
from playground.setup import Setup
from playground.texts import Text, text
from playground.ui import attention
from playground.ui.drawing import INTERVAL, SHARE, ending
from playground.ui.live import encode, plot_value
from playground.ui.rail import blocked
from visuals.circuit_choice import merged
from visuals.picture import Picture

OWN = "this prompt"
ESTIMATORS: dict[str, Rules | None] = {
    "attribution-patching": Rules(),
    "relp": RELP,
    "relp-ah": RELP_AH,
    "attnlrp": ATTNLRP,
}
"""By id, the rules that a backward pass keeps to."""
PICTURES = ("circuit-graph", "patch-maps", "head-map")
MOST_PAIRS = 24
SHOWN_PAIRS = 8


def form_value(
    methods: Mapping[str, Method], has: Need | None, *, asked: Mapping[str, Any] | None = None, example: str = ""
) -> str:
    """The value of a `CircuitForm`: what can be chosen, what to set it to if anything, and a run to show first."""
    tasks = [
        {
            "id": task.id,
            "title": task.title,
            "about": task.about,
            "pairs": len(task.pairs),
            "clean": task.pairs[0].clean,
            "corrupted": task.pairs[0].corrupted,
            "answer": task.pairs[0].answer,
            "foil": task.pairs[0].foil,
        }
        for task in shipped().values()
    ]
    method = methods.get("relp")
    return encode(
        {
            "example": example,
            "tasks": tasks,
            "estimators": {id: _switches(rules) for id, rules in ESTIMATORS.items() if rules is not None},
            "blocked": blocked(method, has) if method else text("circuits.no-method"),
            "ready": has is not None,
            "most_pairs": MOST_PAIRS,
            "asked": asked,
        }
    )


def _switches(rules: Rules) -> dict[str, bool]:
    return {name: bool(getattr(rules, name)) for name in Rules.__struct_fields__}


def asked_of(setup: Setup, events: Sequence[Event], parent: tuple[str, int] | None = None) -> dict[str, Any]:
    """What a form must be set to in order to ask what a run asked."""
    params = setup.params
    rules = {name: bool(params.get(name)) for name in Rules.__struct_fields__}
    given = [placed.token for placed in committed(events) if placed.origin == "given"]
    return {
        "task": params.get("task", "ioi"),
        "pairs": params.get("pairs", 8),
        "prompt": setup.prompt if params.get("task") == OWN else "",
        "corrupted": params.get("corrupted", ""),
        "answer": params.get("answer", ""),
        "foil": params.get("foil", ""),
        "raw": setup.raw,
        "rules": rules,
        "prefix": list(setup.prefix),
        "given": given[: len(setup.prefix)],
        "parent": list(parent) if parent else None,
    }


class Board:
    """The pictures of one run, as it grows; they are drawn when someone asks, and keep until something changes."""

    def __init__(self, pictures: Mapping[str, Picture], run: str) -> None:
        self.run = run
        self._pictures = {id: pictures[id] for id in PICTURES if id in pictures}
        self._due = 0.0
        self._graph = "", ""

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last drawing."""
        return time.perf_counter() >= self._due

    def draw(self, events: Sequence[Event], marks: Marks, *, live: bool = False) -> list[str]:
        """Values of the pictures, the graph first."""
        began = time.perf_counter()
        values = [self.graph(events, marks, live=live)]
        for order, (id, picture) in enumerate(self._pictures.items()):
            if id != PICTURES[0]:
                values.append(self._value(picture, events, order, live=live))
        ended = time.perf_counter()
        self._due = max(began + INTERVAL, ended + SHARE * (ended - began))
        return values

    def graph(self, events: Sequence[Event], marks: Marks, *, live: bool = False) -> str:
        """The value of the graph as the sliders, pins and groups have it."""
        picture = self._pictures[PICTURES[0]]
        told = circuits.with_measured(events, marks.measured)
        # While rows are being measured the graph stays as it is.
        key = encode([marks, live, sum(isinstance(event, Circuit | Curve) and not _agrees(event) for event in events)])
        if key != self._graph[0]:
            options = {"nodes": marks.nodes, "edges": marks.edges, "grouped": marks.groups, "pinned": marks.pinned}
            relevant = picture.relevant(told)
            figure = picture.draw(told, **options) if relevant else None
            circuit = circuits.circuit_in(told)
            if figure and circuit:
                # A click asks for a component: of a group, for its first one.
                dots, _ = merged(*circuits.on_screen(circuit, marks), marks.groups)
                for trace in figure["data"]:
                    if trace.get("ids"):
                        trace["ids"] = [dot.members[0].id for dot in dots]
            self._graph = key, self._as_value(picture, figure, told, 0, relevant, live)
        return self._graph[1]

    def _value(self, picture: Picture, events: Sequence[Event], order: int, *, live: bool) -> str:
        relevant = picture.relevant(events)
        return self._as_value(picture, picture.draw(events) if relevant else None, events, order, relevant, live)

    def _as_value(
        self, picture: Picture, figure: Any, events: Sequence[Event], order: int, relevant: bool, live: bool
    ) -> str:
        told = picture.narrate(events) if relevant and not live else ""
        return plot_value(picture, figure, run=self.run, step=-1, order=order, relevant=relevant, narration=told)


def _agrees(event: Event) -> bool:
    """Whether an event only says how well an estimate agrees with what was measured."""
    return isinstance(event, Curve) and event.name.startswith("agreement")


def about(events: Sequence[Event], run: str, *, live: bool, title: str = "") -> str:
    """The value of a `CircuitAbout`: what was asked, and how far the measuring is."""
    asked = circuits.asked_in(events)
    header = next((event for event in events if isinstance(event, Started)), None)
    rows = {(event.site, event.layer) for event in events if isinstance(event, Patch) and event.how == "exact"}
    guessed = {
        (event.site, event.layer)
        for event in events
        if isinstance(event, Patch) and event.how != "exact" and event.along == "position"
    }
    exact = bool(header and header.params.get("exact", True))
    return encode(
        {
            "run": run,
            "live": live,
            "title": title,
            "question": _question(asked) if asked else None,
            "rules": [name for name in Rules.__struct_fields__ if header and header.params.get(name)],
            "notes": [event.text for event in events if isinstance(event, Note)][:4],
            "measured": len(rows) if exact else None,
            "rows": len(guessed),
            "ended": "" if live else ending(events),
        }
    )


def _question(asked: Contrast) -> dict[str, Any]:
    return {
        "task": asked.task,
        "clean": asked.clean,
        "corrupted": asked.corrupted,
        "first": asked.first,
        "count": len(asked.pairs),
        "pairs": [
            {
                "clean": pair.clean,
                "corrupted": pair.corrupted,
                "answer": pair.answer,
                "foil": pair.foil,
                "up": pair.clean_difference,
                "down": pair.corrupted_difference,
            }
            for pair in asked.pairs[:SHOWN_PAIRS]
        ],
    }


def tools(
    events: Sequence[Event],
    run: str,
    marks: Marks,
    *,
    ticket: str = "",
    state: str = "",
    weight: circuits.Weight | None = None,
    said: str | Text = "",
    saved: bool | None = None,
) -> str:
    """The value of a `CircuitTools`: sliders, the line about what is on screen, pins and groups."""
    circuit = circuits.circuit_in(events)
    if circuit is None:
        return encode({"run": run, "nothing": True, "ticket": ticket})
    nodes, edges = circuits.on_screen(circuit, marks)
    first_nodes, first_edges = circuits.beginning(circuit)
    inner = sorted(filter(circuits.is_component, nodes), key=lambda node: -abs(node.score))
    return encode(
        {
            "run": run,
            "ticket": ticket,
            "at": {
                "nodes": first_nodes if marks.nodes is None else marks.nodes,
                "edges": first_edges if marks.edges is None else marks.edges,
            },
            "most": {
                "nodes": min(circuits.MOST_NODES, sum(map(circuits.is_component, circuit.nodes))),
                "edges": min(circuits.MOST_EDGES, len(circuit.edges)),
            },
            "shown": [{"id": node.id, "score": node.score, "label": circuits.label(node)} for node in inner],
            "drawn": len(edges),
            "loose": max(0, (first_nodes if marks.nodes is None else marks.nodes) - len(inner)),
            "components": sum(map(circuits.is_component, circuit.nodes)),
            "edge_count": max(circuit.edge_count, len(circuit.edges)),
            "pinned": marks.pinned,
            "groups": marks.groups,
            "state": state,
            "faithfulness": weight.faithfulness if weight else None,
            "completeness": weight.completeness if weight else None,
            "passes": weight.passes if weight else None,
            "weighed": weight.components if weight else None,
            "said": said,
            "saved": saved,
        }
    )


def detail(
    events: Sequence[Event],
    run: str,
    id: str,
    marks: Marks,
    *,
    ticket: str = "",
    sharing: Sequence[int] = (),
    state: str = "",
    said: str | Text = "",
) -> str:
    """The value of a `CircuitNode`: one component, or a group, and what it has to do with the others."""
    circuit = circuits.circuit_in(events)
    node = next((one for one in circuit.nodes if one.id == id), None) if circuit else None
    if circuit is None or node is None:
        return encode({"run": run, "ticket": ticket, "id": "", "said": said})
    into, out = circuits.neighbours(circuit, id, sharing)
    asked = circuits.asked_in(events)
    places = [abs(value) for value in node.by_position]
    strongest = places.index(max(places)) if any(places) else None
    token = asked.pairs[0].clean[strongest] if asked and strongest is not None else None
    return encode(
        {
            "run": run,
            "ticket": ticket,
            "id": id,
            "label": circuits.label(node),
            "kind": node.kind,
            "layer": node.layer,
            "unit": node.unit,
            "score": node.score,
            "measured": marks.measured.get(id, node.exact),
            "how": circuit.how,
            "sharing": [unit for unit in sharing if unit != node.unit],
            "strongest": {"place": strongest, "token": token} if token else None,
            "incoming": [{"id": edge.source, "into": edge.into, "score": edge.score} for edge in into],
            "outgoing": [{"id": edge.target, "into": edge.into, "score": edge.score} for edge in out],
            "pinned": id in marks.pinned,
            "group": next((name for name, members in marks.groups.items() if id in members), ""),
            "groups": list(marks.groups),
            "state": state,
            "said": said,
        }
    )


class Patterns:
    """The attention patterns that were looked at last, for the picture's table and words."""

    def __init__(self, most: int = 24) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[circuits.Pattern, Sequence[Any]]] = OrderedDict()

    def put(self, run: str, id: str, found: circuits.Pattern, events: Sequence[Event]) -> None:
        asked = circuits.asked_in(events)
        self._kept[f"{run} {id}"] = found, asked.pairs[0].clean if asked else ()
        self._kept.move_to_end(f"{run} {id}")
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def value(self, run: str = "", id: str = "") -> str:
        """The value of the picture."""
        key = f"{run} {id}"
        found = self._kept.get(key)
        figure = attention.draw(*found) if found else None
        told = attention.narrate(*found) if found else ""
        shown = attention.PICTURE
        return plot_value(shown, figure, run=key, step=-1, order=0, relevant=found is not None, narration=told)

    def table(self, key: str) -> list[dict[str, Any]]:
        found = self._kept.get(key)
        return attention.table(*found) if found else []

    def narrate(self, key: str) -> str:
        found = self._kept.get(key)
        return attention.narrate(*found) if found else attention.narrate(None)
