"""What a person does with a circuit once it is found: weigh it, look into its parts, mark it, keep it, take it along.

A stored run of relevance or attribution patching holds a question (`Contrast`) and a `Circuit`. All that is asked
here starts from these events, so it can be asked of a run of last year as well as of one in progress. What needs the
model is a generator of steps of one to three passes, to be read through the turnstile:

    bench     read the question again: two passes, kept for the last two questions
    weigh     what exactly the shown components do alone, and what is left without them: two passes, and two more for
              the whole and the empty circuit, once
    attend    where a head looks, after the first clean prompt: one pass
    patch     the effect of a component, measured: one pass, from its layer on

Marks (pinned components, named groups, measured effects, what the sliders stand at) are kept in the table `circuits`,
a row per run. Names of groups are anybody's words: bounded, on one line, and never a component's name.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from sqlite_utils import Database

from engines.errors import DecodingError, shown
from engines.events import Circuit, CircuitEdge, CircuitNode, Contrast, Event, Started, Token
from playground.store import Store, UnreadableRun

if TYPE_CHECKING:
    from torch import Tensor

    from engines.attribution.circuit import Faithfulness
    from engines.attribution.estimate import Runs
    from engines.attribution.questions import Question
    from engines.models.causal import CausalModel
    from engines.models.white_box import WhiteBox

CIRCUIT_METHODS = ("relp", "attribution-patching", "activation-patching")
"""Whose runs are opened on the Circuits page."""
QUESTIONS = 2
"""Of which runs and network copies are kept in memory."""
LONGEST_NAME = 40
"""Characters of a group's name."""
MOST_PINNED, MOST_GROUPS, MOST_MEMBERS = 64, 24, 64
MOST_NODES, MOST_EDGES = 200, 600
"""Shown at most, as many as the picture draws."""
WEIGHED = 64
"""Sets of components per question whose faithfulness is remembered."""
NODE_ID = re.compile(r"a\d{1,3}\.\d{1,3}|m\d{1,3}|embed|logits")

Stage = Literal["reading", "weighing"]


class NotMeasurable(DecodingError):
    """The model cannot be asked about this run here and now."""


class BadMarks(DecodingError):
    """Marks that cannot be kept."""


class Marks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a person did to a circuit."""

    nodes: int | None = None
    """Heads and MLPs to begin with; None: as many as hold most of the influence."""
    edges: int | None = None
    pinned: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    """Names of supernodes with the ids of their members."""
    measured: dict[str, float] = {}
    """Effects of components that were patched for real, by id."""


@dataclass(frozen=True, slots=True)
class Weight:
    """How much of the behaviour the shown components carry."""

    faithfulness: float
    completeness: float
    components: int
    passes: int
    """That were made for it now."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Where a head looks: row by row, from each token of the first clean prompt to those before it."""

    layer: int
    head: int
    rows: tuple[tuple[float, ...], ...]
    """Row i has i + 1 shares, which sum to 1."""
    sharing: tuple[int, ...]
    """Heads that read the same keys and values, this one among them."""


def asked_in(events: Sequence[Event]) -> Contrast | None:
    """The question of a run."""
    return next((event for event in reversed(events) if isinstance(event, Contrast) and event.pairs), None)


def circuit_in(events: Sequence[Event]) -> Circuit | None:
    """The circuit of a run."""
    return next((event for event in reversed(events) if isinstance(event, Circuit) and event.nodes), None)


def is_component(node: CircuitNode) -> bool:
    """Whether it is a head or an MLP: what can be kept or left out, pinned and grouped."""
    return node.kind in ("head", "mlp")


# Marks


def marks_from(told: Mapping[str, Any], circuit: Circuit, measured: Mapping[str, float] | None = None) -> Marks:
    """What a browser says was marked; components that the circuit does not have are passed over.

    Raises `BadMarks` for a group whose name is empty, a component's, or taken.
    """
    known = {node.id for node in circuit.nodes if is_component(node)}
    groups: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    given = told.get("groups")
    for name, members in list(given.items())[:MOST_GROUPS] if isinstance(given, dict) else ():
        inside = [id for id in _ids(members, MOST_MEMBERS) if id in known and id not in taken]
        if not inside:
            continue
        said = group_name(name)
        if said in groups:
            raise BadMarks(f"There is a group called {shown(said)} already. Choose another name.")
        groups[said] = tuple(inside)
        taken.update(inside)
    return Marks(
        nodes=_count(told.get("nodes"), 1, MOST_NODES),
        edges=_count(told.get("edges"), 0, MOST_EDGES),
        pinned=tuple(id for id in _ids(told.get("pinned"), MOST_PINNED) if id in known),
        groups=groups,
        measured=dict(measured or {}),
    )


def group_name(name: object) -> str:
    """The name of a group: one line of at most `LONGEST_NAME` characters. Raises `BadMarks` when none is left."""
    text = name.encode(errors="replace").decode() if isinstance(name, str) else ""
    said = " ".join("".join(char if char.isprintable() else " " for char in text[:1000]).split())
    said = said[:LONGEST_NAME].strip()
    if not said:
        raise BadMarks("A group needs a name.")
    if NODE_ID.fullmatch(said):
        raise BadMarks(f"{shown(said)} is what a component is called. Choose another name for the group.")
    return said


def _ids(value: object, most: int) -> list[str]:
    """Component ids, each once."""
    given = value if isinstance(value, list | tuple) else []
    named = [id for id in given[: 4 * most] if isinstance(id, str) and NODE_ID.fullmatch(id)]
    return list(dict.fromkeys(named))[:most]


def _count(value: object, least: int, most: int) -> int | None:
    return max(least, min(most, value)) if isinstance(value, int) and not isinstance(value, bool) else None


def keep(store: Store, owner: str, run: str, marks: Marks) -> bool:
    """Keeps the marks of a run for its owner; whether that could be done. Marks of strangers are not kept."""
    body = msgspec.json.encode(marks).decode()
    kept = False

    def change(db: Database) -> None:
        nonlocal kept
        mine = db.execute("SELECT 1 FROM runs WHERE id = ? AND owner = ?", [run, owner]).fetchone()
        kept = mine is not None
        if kept:
            db.execute(
                "INSERT INTO circuits (run, marks) VALUES (:run, :marks)"
                " ON CONFLICT (run) DO UPDATE SET marks = :marks",
                {"run": run, "marks": body},
            )

    return store.write(change, patient=True) and kept


def kept(store: Store, run: str) -> Marks:
    """The marks of a run; none when nobody made any, or they cannot be read."""
    try:
        rows = store.read("SELECT marks FROM circuits WHERE run = ?", [run])
        return msgspec.json.decode(rows[0]["marks"], type=Marks) if rows else Marks()
    except (UnreadableRun, msgspec.MsgspecError):
        return Marks()


def with_measured(events: Sequence[Event], measured: Mapping[str, float]) -> Sequence[Event]:
    """The same events, the components of the circuit with their measured effects."""
    circuit = circuit_in(events)
    if circuit is None or not measured:
        return events
    nodes = tuple(
        msgspec.structs.replace(node, exact=measured[node.id]) if node.id in measured else node
        for node in circuit.nodes
    )
    changed = msgspec.structs.replace(circuit, nodes=nodes)
    return [changed if event is circuit else event for event in events]


# What is shown, and what is known of one component


def beginning(circuit: Circuit) -> tuple[int, int]:
    """How many nodes and edges are shown when nobody chose a number."""
    from engines.attribution.circuit import influential
    from visuals import circuit_choice

    inner = sorted(filter(is_component, circuit.nodes), key=lambda node: -abs(node.score))
    ends = len(circuit.nodes) - len(inner)
    most = max(0, circuit_choice.MOST_NODES - ends)
    nodes = min(influential([node.score for node in inner], circuit_choice.NODE_INFLUENCE), most)
    kept = {node.id for node in inner[:nodes]} | {node.id for node in circuit.nodes if not is_component(node)}
    between = [edge.score for edge in circuit.edges if edge.source in kept and edge.target in kept]
    return nodes, min(influential(between, circuit_choice.EDGE_INFLUENCE), circuit_choice.MOST_EDGES)


def on_screen(circuit: Circuit, marks: Marks) -> tuple[list[CircuitNode], list[CircuitEdge]]:
    """The components and edges that the picture shows."""
    from visuals.circuit_choice import chosen

    return chosen(circuit, marks.nodes, marks.edges, marks.pinned, marks.groups)


def label(node: CircuitNode) -> str:
    """A component in words."""
    names = {"head": f"head {node.unit} of layer {node.layer}", "mlp": f"MLP of layer {node.layer}"}
    return names.get(node.kind, node.kind)


def neighbours(
    circuit: Circuit, id: str, sharing: Sequence[int] = (), most: int = 6
) -> tuple[list[CircuitEdge], list[CircuitEdge]]:
    """The strongest edges into a component and out of it.

    Keys and values that several heads share are told by the first of them: `sharing` are the units that share with
    this one.
    """
    layer = id.partition(".")[0]
    first = f"{layer}.{min(sharing)}" if sharing else id

    def leads_here(edge: CircuitEdge) -> bool:
        return edge.target == id or (edge.target == first and edge.into in ("k", "v"))

    def strongest(edges: list[CircuitEdge]) -> list[CircuitEdge]:
        return sorted(edges, key=lambda edge: -abs(edge.score))[:most]

    return strongest(list(filter(leads_here, circuit.edges))), strongest([e for e in circuit.edges if e.source == id])


def why(events: Sequence[Event], position: int) -> tuple[Started, tuple[int, ...], Token, Token | None]:
    """What to ask about a token of a run: its header, the output before the token, the token, and the runner-up.

    Raises `NotMeasurable` when there is no such token.
    """
    from engines.events import Candidates, committed

    header = next((event for event in events if isinstance(event, Started)), None)
    placed = committed(events)
    if header is None or not 0 <= position < len(placed):
        raise NotMeasurable("This token is not in the run.")
    token = placed[position].token
    found = [event for event in events if isinstance(event, Candidates) and event.position == position]
    others = [choice.token for event in reversed(found) for choice in event.raw if choice.token.id != token.id]
    return header, tuple(one.token.id for one in placed[:position]), token, others[0] if others else None


# The model


def question_of(asked: Contrast) -> Question:
    """The question as tokens. Raises `NotMeasurable` when it was asked without corrupted prompts."""
    import torch

    from engines.attribution.questions import Question

    if not all(pair.corrupted for pair in asked.pairs):
        raise NotMeasurable("This run had no corrupted prompt, so there is nothing to patch with.")
    clean, corrupted = (
        torch.tensor([[token.id for token in getattr(pair, side)] for pair in asked.pairs])
        for side in ("clean", "corrupted")
    )
    answers, foils = (torch.tensor([getattr(pair, name).id for pair in asked.pairs]) for name in ("answer", "foil"))
    return Question(asked.task, clean, corrupted, answers, foils)


@dataclass
class Bench:
    """One question, read: a network whose inside is open, and both runs in it."""

    box: WhiteBox
    runs: Runs
    faithfulness: Faithfulness | None = None
    weighed: OrderedDict[frozenset[str], tuple[float, float]] = field(default_factory=OrderedDict)

    @property
    def sharing(self) -> int:
        """Heads per group of keys and values."""
        anatomy = self.box.anatomy
        return max(1, anatomy.heads // max(1, anatomy.key_heads))


class Benches:
    """The last questions that were measured. What it makes belongs to one model; others are let go."""

    def __init__(self, most: int = QUESTIONS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._benches: OrderedDict[object, Bench] = OrderedDict()

    def forget_others(self, model: CausalModel | None) -> None:
        """Lets go of what another model than this one holds in memory."""
        with self._lock:
            for key in [key for key in self._benches if key[0] is not model]:  # type: ignore[index]
                del self._benches[key]

    def holds(self, model: CausalModel | None, events: Sequence[Event]) -> bool:
        """Whether the question of a run need not be read again."""
        circuit, asked = circuit_in(events), asked_in(events)
        return bool(circuit and asked and self._key(model, asked, circuit.direction) in self._benches)

    def reading(self, model: CausalModel | None, events: Sequence[Event]) -> Generator[Stage, None, Bench]:
        """The bench of a run's question; says `reading` before it is read again. Raises `NotMeasurable`."""
        from engines.attribution.estimate import compare
        from engines.models.white_box import WhiteBox

        asked, circuit = asked_in(events), circuit_in(events)
        if asked is None or circuit is None:
            raise NotMeasurable("This run holds no circuit.")
        fits(model, events)
        assert model is not None
        self.forget_others(model)
        key = self._key(model, asked, circuit.direction)
        with self._lock:
            found = self._benches.get(key)
        if found is None:
            question = question_of(asked)
            yield "reading"
            box = WhiteBox(model.network)
            found = Bench(box, compare(box, question, circuit.direction, gradients=False, keep=("sites", "keys")))
        with self._lock:
            self._benches[key] = found
            self._benches.move_to_end(key)
            while len(self._benches) > self._most:
                self._benches.popitem(last=False)
        return found

    def weigh(
        self, model: CausalModel | None, events: Sequence[Event], kept: Collection[str]
    ) -> Iterator[Stage | Weight]:
        """Faithfulness and completeness of the heads and MLPs in `kept`; stages first."""
        from engines.attribution.circuit import Faithfulness, components

        bench = yield from self.reading(model, events)
        chosen = frozenset(kept) & frozenset(components(bench.box))
        passes = 0
        if bench.faithfulness is None:
            yield "weighing"
            bench.faithfulness = Faithfulness(bench.box, bench.runs)
            passes += 2
        found = bench.weighed.get(chosen)
        if found is None:
            yield "weighing"
            found = bench.faithfulness.of(chosen), bench.faithfulness.completeness(chosen)
            passes += 2
            bench.weighed[chosen] = found
            while len(bench.weighed) > WEIGHED:
                bench.weighed.popitem(last=False)
        yield Weight(*found, components=len(chosen), passes=passes)

    def attend(self, model: CausalModel | None, events: Sequence[Event], id: str) -> Iterator[Stage | Pattern]:
        """Where a head looks, after the first clean prompt. Raises `NotMeasurable` for what is no head."""
        bench = yield from self.reading(model, events)
        layer, head = _head(bench, id)
        yield "weighing"
        trace = bench.box.read(bench.runs.question.clean[:1], keep=("patterns",))
        yield pattern(trace.patterns[layer][0, head], layer, head, bench.sharing)

    def patch(self, model: CausalModel | None, events: Sequence[Event], id: str) -> Iterator[Stage | float]:
        """The exact effect of one component. Raises `NotMeasurable` for what is none."""
        from engines.attribution import exact

        bench = yield from self.reading(model, events)
        yield "weighing"
        try:
            yield exact.node(bench.box, bench.runs, id)
        except KeyError:
            raise NotMeasurable(f"{shown(id)} is no part of this model.") from None

    @staticmethod
    def _key(model: object, asked: Contrast, direction: str) -> tuple[object, ...]:
        ids = tuple(
            (tuple(token.id for token in (*pair.clean, *pair.corrupted)), pair.answer.id, pair.foil.id)
            for pair in asked.pairs
        )
        return model, direction, ids


def fits(model: CausalModel | None, events: Sequence[Event]) -> None:
    """Raises `NotMeasurable` unless `model` is the one that made the run."""
    header = next((event for event in events if isinstance(event, Started)), None)
    if model is None:
        raise NotMeasurable("No model is loaded yet. What was estimated is shown, nothing can be measured.")
    if header is None or (model.weights, model.precision) != (header.weights, header.precision):
        made = f"{header.model} {header.precision}" if header else "another model"
        raise NotMeasurable(f"This run was made with {made}, which is not loaded, so nothing can be measured now.")


def pattern(shares: Tensor, layer: int, head: int, size: int) -> Pattern:
    """The pattern (tokens, tokens) of a head; `size` heads share keys and values."""
    rows = tuple(tuple(row[: place + 1]) for place, row in enumerate(shares.tolist()))
    first = head - head % size
    return Pattern(layer, head, rows, tuple(range(first, first + size)))


def _head(bench: Bench, id: str) -> tuple[int, int]:
    found = re.fullmatch(r"a(\d{1,3})\.(\d{1,3})", id)
    if found is None or int(found[1]) >= bench.box.layers or int(found[2]) >= bench.box.heads:
        raise NotMeasurable(f"{shown(id)} is no attention head of this model.")
    return int(found[1]), int(found[2])
