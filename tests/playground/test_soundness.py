"""What is taken for a run: every real one, and none with a number that cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

import engines
from engines.events import (
    Attribution,
    Choice,
    Circuit,
    CircuitEdge,
    CircuitNode,
    Contrast,
    Event,
    Forward,
    Lens,
    Pair,
    Patch,
    Store,
    StoredRow,
    Swap,
    Token,
    Verdict,
)
from engines.models.twin import twin
from playground.soundness import Soundness, Unsound

WORD = Token(1, "a")


def run(method: str = "speculative-sampling") -> list[Event]:
    params = {"temperature": 1.0, "fallback": False}
    return list(engines.run(twin(), method, "addddcadd", params=params, raw=True, seed=3, max_new_tokens=20))


def take(events: list[Event]) -> None:
    sound = Soundness()
    for event in events:
        sound.take(event)


@pytest.mark.parametrize("method", ["speculative-sampling", "token-recycling", "prompt-lookup"])
def test_a_real_run_is_sound(method: str) -> None:
    take(run(method))


def first_verdict(change: Callable[[Verdict], Verdict]) -> list[Event]:
    """The run with its first verdict that tested a drawn guess changed."""
    events = run()
    place = next(i for i, event in enumerate(events) if isinstance(event, Verdict) and event.nodes[0].weighed)
    verdict = events[place]
    assert isinstance(verdict, Verdict)
    return [*events[:place], change(verdict), *events[place + 1 :]]


def judged(**changes: object) -> Callable[[Verdict], Verdict]:
    return lambda verdict: replace(verdict, nodes=(replace(verdict.nodes[0], **changes), *verdict.nodes[1:]))


@pytest.mark.parametrize(
    "changes",
    [{"q": 1.5}, {"q": -0.1}, {"q": float("nan")}, {"overlap": 2.0}, {"u": float("inf")}],
    ids=str,
)
def test_a_share_that_cannot_be_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(Unsound, match="share"):
        take(first_verdict(judged(**changes)))


def test_too_many_weighed_tokens_are_refused() -> None:
    def crowded(verdict: Verdict) -> Verdict:
        return judged(weighed=verdict.nodes[0].weighed[:1] * 1000)(verdict)

    with pytest.raises(Unsound, match="weighs too many"):
        take(first_verdict(crowded))


@pytest.mark.parametrize(
    "store",
    [
        Store(table="t", rows=(StoredRow((WORD,), (), ()),) * 1000, changed=1, size=1),
        Store(table="t", rows=(), changed=-1, size=1),
        Store(table="t", rows=(StoredRow((), (), ()),), changed=1, size=1),
        Store(table="t", rows=(StoredRow((WORD,) * 99, (), ()),), changed=1, size=1),
        Store(table="t", rows=(StoredRow((WORD,), (), (Choice(WORD, 0.1),) * 1000),), changed=1, size=1),
        Store(table="t", rows=(StoredRow((WORD,), (), (Choice(WORD, float("nan")),)),), changed=1, size=1),
        Forward(lane="draft", batch=1, query=1, cached=0, seconds=0.1, began=-1.0),
        Forward(lane="draft", batch=1, query=1, cached=0, seconds=0.1, began=float("inf")),
    ],
    ids=lambda event: f"{type(event).__name__}",
)
def test_tables_and_passes_that_cannot_be_are_refused(store: Event) -> None:
    start, *_ = run()
    with pytest.raises(Unsound):
        take([start, replace(store, seq=1, time=start.time)])


NAN, INF = float("nan"), float("inf")
PAIR = Pair((WORD,) * 4, (WORD,) * 4, WORD, WORD, 2.0, -2.0)
CONTRAST = Contrast(task="ioi", metric="m", pairs=(PAIR,) * 2, first=2, clean=2.0, corrupted=-2.0)
PATCH = Patch(site="mlp_out", layer=3, how="relp", effects=(0.5, None, -1.5, 0.0))
NODES = (
    CircuitNode("embed", "embedding", -1, None, 0.5),
    CircuitNode("a0.1", "head", 0, 1, -0.5, (0.0, -0.5), -0.4),
    CircuitNode("logits", "logits", 1, None, 1.0),
)
CIRCUIT = Circuit(
    how="relp",
    nodes=NODES,
    edges=(CircuitEdge("embed", "a0.1", "v", 0.5), CircuitEdge("a0.1", "logits", "logits", -0.5)),
    edge_count=5,
)
ATTRIBUTION = Attribution(
    how="reagent",
    position=-1,
    target=WORD,
    foil=None,
    context=(WORD,) * 3,
    scores=(0.5, -0.25, 0.0),
    swaps=(Swap(2, WORD),),
    before=0.5,
    after=0.25,
    settled=3,
    probes=4,
)
LENS = Lens(layer=0, tokens=(Choice(WORD, 0.5),) * 4, differences=(0.5, -7.0, 0.0, 1.0))


@pytest.mark.parametrize(
    "event",
    [
        CONTRAST,
        replace(CONTRAST, first=4, pairs=(replace(PAIR, corrupted=(), corrupted_difference=None),), corrupted=None),
        PATCH,
        replace(PATCH, site="head", along="head"),
        CIRCUIT,
        replace(CIRCUIT, edges=()),
        ATTRIBUTION,
        replace(ATTRIBUTION, swaps=(), before=None, after=None, settled=0, probes=0),
        LENS,
        replace(LENS, differences=()),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_a_method_says_of_the_inside_is_sound(event: Event) -> None:
    start, *_ = run()
    take([start, replace(event, seq=1, time=start.time)])


def node(**changes: object) -> Circuit:
    return replace(CIRCUIT, nodes=(NODES[0], replace(NODES[1], **changes), NODES[2]))


def edge(**changes: object) -> Circuit:
    return replace(CIRCUIT, edges=(replace(CIRCUIT.edges[0], **changes),))


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (replace(CONTRAST, pairs=()), "asks nothing"),
        (replace(CONTRAST, pairs=(PAIR,) * 101), "too much"),
        (replace(CONTRAST, pairs=(replace(PAIR, clean=(WORD,) * 257, corrupted=()),)), "prompt"),
        (replace(CONTRAST, pairs=(PAIR, replace(PAIR, clean=(WORD,) * 5))), "unequal length"),
        (replace(CONTRAST, pairs=(replace(PAIR, corrupted=(WORD,) * 3),)), "unequal length"),
        (replace(CONTRAST, first=5), "prompt"),
        (replace(CONTRAST, first=-1), "prompt"),
        (replace(CONTRAST, clean=INF), "number"),
        (replace(CONTRAST, corrupted=NAN), "number"),
        (replace(CONTRAST, pairs=(replace(PAIR, clean_difference=NAN),)), "number"),
        (replace(CONTRAST, task="x" * 101), "name"),
        (replace(PATCH, layer=-1), "place"),
        (replace(PATCH, layer=1000), "place"),
        (replace(PATCH, effects=(0.0,) * 257), "place"),
        (replace(PATCH, effects=(NAN,)), "number"),
        (replace(PATCH, effects=(-1e6,)), "number"),
        (replace(PATCH, how="x" * 101), "name"),
        (replace(CIRCUIT, nodes=(), edges=()), "too large"),
        (replace(CIRCUIT, nodes=tuple(replace(NODES[1], id=f"a0.{i}") for i in range(2001)), edges=()), "too large"),
        (replace(CIRCUIT, edges=CIRCUIT.edges * 2501, edge_count=10_000), "too large"),
        (replace(CIRCUIT, edge_count=1), "fewer edges"),
        (replace(CIRCUIT, nodes=(*NODES, NODES[1])), "twice"),
        (node(id="x" * 101), "name"),
        (node(layer=-2), "layer"),
        (node(unit=256), "head"),
        (node(by_position=(0.0,) * 257), "positions"),
        (node(by_position=(NAN,)), "number"),
        (node(score=INF), "number"),
        (node(exact=NAN), "number"),
        (edge(source="a9.9"), "joins a component that is not there"),
        (edge(target="a9.9"), "joins a component that is not there"),
        (edge(target="embed"), "to itself"),
        (edge(score=NAN), "number"),
        (replace(ATTRIBUTION, context=(), scores=(), swaps=()), "other tokens"),
        (replace(ATTRIBUTION, context=(WORD,) * 257, scores=(0.0,) * 257), "other tokens"),
        (replace(ATTRIBUTION, scores=(0.5,)), "other tokens"),
        (replace(ATTRIBUTION, scores=(0.5, NAN, 0.0)), "number"),
        (replace(ATTRIBUTION, swaps=(Swap(3, WORD),)), "swaps"),
        (replace(ATTRIBUTION, swaps=(Swap(0, WORD),) * 4), "swaps"),
        (replace(ATTRIBUTION, after=1.5), "share"),
        (replace(ATTRIBUTION, before=NAN), "share"),
        (replace(ATTRIBUTION, settled=5), "number"),
        (replace(ATTRIBUTION, step=-1), "number"),
        (replace(LENS, layer=-1), "layer"),
        (replace(LENS, tokens=(), differences=()), "layer"),
        (replace(LENS, tokens=(Choice(WORD, 0.5),) * 257, differences=()), "layer"),
        (replace(LENS, tokens=(Choice(WORD, 1.5),) * 4), "share"),
        (replace(LENS, differences=(0.5,)), "unequal rows"),
        (replace(LENS, differences=(0.5, NAN, 0.0, 0.0)), "number"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else value,
)
def test_what_cannot_be_said_of_the_inside_is_refused(event: Event, why: str) -> None:
    start, *_ = run()
    with pytest.raises(Unsound, match=why):
        take([start, replace(event, seq=1, time=start.time)])
