"""Every kind of event survives JSON, and nothing else passes for an event."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.events import (
    EVENTS,
    AnyEvent,
    Attribution,
    Beam,
    Beams,
    Cache,
    Candidates,
    Choice,
    Circuit,
    CircuitEdge,
    CircuitNode,
    Commit,
    Compiled,
    Contrast,
    Curve,
    Draft,
    DraftNode,
    Event,
    Finished,
    Forward,
    Growth,
    Judged,
    Lens,
    Mark,
    Mask,
    Match,
    Matrix,
    Note,
    Pair,
    Particle,
    Particles,
    Patch,
    Place,
    Placed,
    Score,
    Stage,
    Started,
    Store,
    StoredRow,
    Suggestion,
    Suggestions,
    Swap,
    Token,
    Totals,
    Trials,
    Tried,
    Verdict,
    committed,
    from_json,
    to_json,
)

SEA = Token(7, " sea")
BYTE = Token(8, "", "f0")
CHOICES = (Choice(SEA, 0.75), Choice(BYTE, 0.25))

EXAMPLES: tuple[Event, ...] = (
    Started(
        model="m",
        weights="ab12",
        precision="float32",
        method="sampling",
        family="baselines",
        lossless=False,
        params={"temperature": 0.7, "top_k": 5, "flag": True, "name": "x", "none": None},
        prompt="<script>\u202e\x00 🌊",
        prompt_tokens=(SEA, BYTE),
        prompt_length=2,
        seed=2**63 - 1,
        max_new_tokens=4,
        raw_prompt=True,
        versions={"torch": "2"},
        machine="2-core",
    ),
    Candidates(position=0, raw=CHOICES, entropy=0.56, stages=(Stage("top-k", 1, 0.25, CHOICES[1:], CHOICES[:1]),)),
    Commit(position=0, step=0, tokens=(Placed(SEA, "sampled", 0.75, 1.0, 0), Placed(BYTE, "given"))),
    Draft(position=1, nodes=(DraftNode(0, -1, SEA, None, "root"), DraftNode(1, 0, BYTE, 0.5, "recycled"))),
    Verdict(
        position=1,
        rule="greedy",
        path=(1,),
        nodes=(Judged(1, "accepted", 0.5, 0.5, 0.1), Judged(2, "untested")),
        extra=SEA,
        extra_origin="bonus",
        residual=CHOICES,
    ),
    Match(source=(-9, -7), target=(3, 5), copied=(-7, -3)),
    Store(table="successors", rows=(StoredRow((SEA,), (), (Choice(BYTE, 0.5),), "rejected"),), changed=1, size=4),
    Mask(
        position=1,
        engine="llguidance",
        allowed=2,
        vocabulary=9,
        blocked_mass=0.25,
        wanted=CHOICES[1:],
        permitted=CHOICES[:1],
        cells="0950",
        end_allowed=True,
        state={"what may follow": "“}”"},
        seconds=1e-4,
    ),
    Compiled(engine="llguidance", subject="json schema", status="ok", seconds=0.002, sizes={"states": 4.0}),
    Trials(
        position=1,
        particle=0,
        tried=(Tried(SEA, 0.75, False), Tried(BYTE, 1.0, True, 1)),
        tests=2,
        weight=0.25,
        estimator="recursive",
        refused_mass=0.75,
        exact_mass=0.25,
    ),
    Particles(
        step=2,
        particles=(Particle(0, 0, " sea", -0.7, "alive"), Particle(1, 0, "", None, "dead")),
        effective=1.0,
        resampled=False,
    ),
    Growth(
        tree="trie", sample=0, places=(Place(0, -1, None, None, 0.5), Place(1, 0, SEA, 0.75, 0.5, 1, "open")), size=2
    ),
    Suggestions(
        position=3,
        state="asked",
        monitor="members",
        trigger="box.",
        suggestions=(Suggestion("width", 0.5, "width"),),
        count=1,
        seconds=0.02,
    ),
    Matrix(
        name="spans",
        rows=("the", "sea"),
        columns=("1", "2"),
        values=((-1.0, -2.5), (-3.0, None)),
        marks=(Mark(0, 0, "best"),),
    ),
    Contrast(
        task="ioi",
        metric="normalised logit difference",
        pairs=(Pair((SEA, BYTE), (BYTE, BYTE), SEA, BYTE, 3.5, -3.5), Pair((SEA, SEA), (), SEA, BYTE, 0.5)),
        first=0,
        clean=2.0,
        corrupted=-3.5,
    ),
    Patch(site="mlp_out", layer=3, how="exact", effects=(0.5, None, -1.25), along="position", direction="noise"),
    Circuit(
        how="relp",
        nodes=(
            CircuitNode("embed", "embedding", -1, None, 0.5),
            CircuitNode("a7.3", "head", 7, 3, -0.5, (0.0, -0.5), -0.4),
            CircuitNode("m7", "mlp", 7, None, 0.25),
            CircuitNode("logits", "logits", 8, None, 1.0),
        ),
        edges=(CircuitEdge("embed", "a7.3", "q", 0.5), CircuitEdge("m7", "logits", "logits", -0.5)),
        edge_count=90,
    ),
    Attribution(
        how="reagent",
        position=2,
        target=SEA,
        foil=None,
        context=(SEA, BYTE),
        scores=(0.75, 0.25),
        step=4,
        swaps=(Swap(1, SEA),),
        before=0.5,
        after=0.25,
        settled=3,
        probes=4,
    ),
    Lens(layer=8, tokens=CHOICES, differences=(0.5, -1.5)),
    Beams(position=0, beams=(Beam(0, -1, SEA, -0.3, -0.3, "live"), Beam(1, -1, BYTE, -1.4, -1.4, "pruned", 2))),
    Score(name="reward", value=0.5, parts={"a": 0.2, "b": 0.3}, chosen=True, sequence=1, text="sea"),
    Forward(lane="target", batch=2, query=3, cached=4, seconds=0.01),
    Cache(kept=4, removed=2),
    Curve(name="t(q)", x_name="q", y_name="s", x=(1.0, 2.0), y=(0.1, 0.2)),
    Note(text="One plain sentence."),
    Finished(
        reason="end of text",
        text=" sea",
        token_ids=(7, 2),
        totals=Totals(2, 0.1, 0.05, 2, 1, 0, 12, 0, 0, 0, 0, 20.0, 1.0, None),
    ),
)


def test_there_is_an_example_of_every_kind() -> None:
    assert {type(event) for event in EXAMPLES} == set(EVENTS)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_survives_json(event: Event) -> None:
    stamped = msgspec.structs.replace(event, seq=3, time=0.5)
    line = to_json(stamped)
    assert b"\n" not in line
    assert from_json(line) == stamped
    assert msgspec.json.decode(line)["kind"] == type(event).__name__.lower()


@given(text=st.text(st.characters(exclude_categories=["Cs"])), value=st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None)
def test_any_text_and_number_survive_json(text: str, value: float) -> None:
    event = Score(name=text, value=value, text=text, token=Token(1, text))
    assert from_json(to_json(event)) == event


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_events_are_immutable(event: Event) -> None:
    with pytest.raises(AttributeError):
        event.seq = 5  # type: ignore[misc]


@pytest.mark.parametrize("line", ["", "{}", '{"kind":"unheard"}', '{"kind":"note"}', '{"kind":"note","text":3}', "[1]"])
def test_what_is_not_an_event_is_refused(line: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        from_json(line)


def test_committed_reads_the_output_off_a_stream() -> None:
    assert committed([*EXAMPLES, *EXAMPLES]) == [Placed(SEA, "sampled", 0.75, 1.0, 0), Placed(BYTE, "given")] * 2


def test_every_kind_and_field_has_a_plain_type() -> None:
    schema = msgspec.json.schema(AnyEvent)
    assert set(schema["$defs"]) >= {kind.__name__ for kind in EVENTS}
    assert all(kind.__doc__ for kind in EVENTS)
