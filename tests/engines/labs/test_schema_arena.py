"""The Schema Arena: the set of schemas, the referee, the verdicts, the paper's measures, and a run."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from typing import Any

import jsonschema
import pytest
from jsonschema import FormatChecker

from engines.events import Compiled, Event, Matrix, Note, Score, Token
from engines.grammars import peers
from engines.grammars.peers import installed
from engines.grammars.trials import Fed, Report
from engines.labs import schema_arena
from engines.labs.schema_set import (
    CLASSES,
    TIERS,
    Clock,
    Texts,
    compliance_rate,
    declared_coverage,
    empirical_coverage,
    in_schema_order,
    is_valid,
    judged,
    percentile,
    samples,
    serialised,
    spoken,
    texts_of,
)
from engines.method import methods
from engines.models.causal import CausalModel
from engines.runner import run
from tests.engines.laws import check_stream, finished, only

every_sample = pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample.id)


# The set


def test_ten_tiers_of_six_schemas_with_six_texts_each() -> None:
    assert Counter(sample.tier for sample in samples()) == dict.fromkeys(TIERS, 6)
    assert len({sample.id for sample in samples()}) == 60
    assert all(len(sample.valid) == len(sample.invalid) == 3 for sample in samples())


@every_sample
def test_every_text_is_what_it_is_said_to_be(sample: Any) -> None:
    """By a validator of its own, not through the referee's function."""
    jsonschema.Draft202012Validator.check_schema(sample.schema)
    validator = jsonschema.Draft202012Validator(sample.schema, format_checker=FormatChecker(["ipv4", "ipv6", "uuid"]))
    for value in sample.valid:
        validator.validate(value)
        assert is_valid(sample.schema, serialised(value, "one space"))
    for value in sample.invalid:
        assert not validator.is_valid(value)
        assert not is_valid(sample.schema, serialised(value, "compact"))


@every_sample
def test_texts_in_the_schemas_order_say_the_same(sample: Any) -> None:
    for value in sample.valid:
        ordered = in_schema_order(value, sample.schema)
        assert ordered == value
        assert in_schema_order(ordered, sample.schema) == ordered
        assert json.dumps(ordered) == json.dumps(in_schema_order(ordered, sample.schema))


def test_the_referee_checks_formats_and_takes_only_json() -> None:
    assert is_valid({"format": "ipv4"}, '"192.0.2.7"')
    assert not is_valid({"format": "ipv4"}, '"192.0.2.700"')
    assert not is_valid({"format": "uuid"}, '"1"')
    assert not is_valid({}, "NaN")
    assert not is_valid({}, '{"a": 1')
    assert not is_valid({}, "[" * 100_000)


def test_properties_are_put_in_order_through_references_and_alternatives() -> None:
    schema = {
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/pair"}],
        "$defs": {
            "pair": {
                "type": "object",
                "properties": {"first": {}, "second": {"items": {"$ref": "#/$defs/pair"}}},
                "required": ["first"],
            }
        },
    }
    value = {"second": [{"second": [], "first": 1}], "other": 0, "first": 2}
    assert serialised(in_schema_order(value, schema), "compact") == (
        '{"first":2,"second":[{"first":1,"second":[]}],"other":0}'
    )


# Verdicts


def report(*accepted: bool, **more: Any) -> Report:
    return Report("ok", fed=tuple(Fed(one, -1 if one else 0) for one in accepted), **more)


@pytest.mark.parametrize(
    ("accepted", "kind"),
    [
        ((True, True, False), "right"),
        ((True, True, True), "under"),
        ((False, True, False), "over"),
        ((False, True, True), "both"),
    ],
)
def test_a_verdict_is_what_was_accepted_beside_what_is_valid(accepted: tuple[bool, ...], kind: str) -> None:
    assert judged(report(*accepted), Texts(("a", "b", "c"), 2, {})).kind == kind


@pytest.mark.parametrize(
    ("accepted", "kind", "over", "order"),
    [
        ((False, False, True), "order only", 0, 1),
        ((False, False, False), "over", 1, 0),
        ((False, True, True), "under", 0, 1),
        ((True, False, False), "right", 0, 0),
    ],
)
def test_a_text_that_is_taken_in_the_schemas_order_was_refused_for_its_order(
    accepted: tuple[bool, ...], kind: str, over: int, order: int
) -> None:
    found = judged(report(*accepted), Texts(("valid", "invalid", "reordered"), 1, {0: 2}))
    assert (found.kind, found.over, found.order) == (kind, over, order)


def test_an_engine_that_gives_up_in_a_text_has_failed_whatever_the_text_was() -> None:
    gave_up = Report("ok", fed=(Fed(True), Fed(False, 2, error="fuel is out")))
    assert judged(gave_up, Texts(("a", "b"), 1, {})).kind == "failed"
    for status in ("refused", "failed", "too slow"):
        assert judged(Report(status, "so"), Texts(("a",), 1, {})).kind == status  # type: ignore[arg-type]
    assert set(CLASSES) >= {"refused", "failed", "too slow"}


# The paper's measures


def test_coverage_of_ten_schemas_six_declared_five_valid() -> None:
    declared = [True] * 6 + [False] * 4
    valid = [True] * 5 + [False] * 5
    dc, ec, cr = declared_coverage(declared), empirical_coverage(valid), compliance_rate(declared, valid)
    assert (dc, ec) == (0.6, 0.5)
    assert cr == pytest.approx(0.8333, abs=1e-4)
    assert cr is not None
    assert ec == pytest.approx(cr * dc)
    assert ec <= dc
    assert compliance_rate([False], [False]) is None


def test_times_of_a_text_of_21_tokens() -> None:
    clock = Clock(start=0.10, compiled=0.25, first=0.40, end=2.40, tokens=21)
    assert clock.to_first == pytest.approx(0.30)
    assert clock.compilation == pytest.approx(0.15)
    assert clock.per_token == pytest.approx(100)
    assert clock.total == pytest.approx(2.30)
    assert Clock(0, 0, 1, 2, 1).per_token is None


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1)] == [50, 90, 99, 100]
    assert percentile([7.0], 0.5) == 7
    assert percentile([], 0.5) is None
    assert [spoken(seconds) for seconds in (2, 0.0021, 0.0000123)] == ["2 s", "2.1 ms", "12.3 µs"]


# A run


def arena(model: CausalModel, **params: object) -> list[Event]:
    return list(run(model, "schema-arena", "Hello", params=params, max_new_tokens=40))


@pytest.fixture(scope="module")
def hard(smollm: CausalModel) -> list[Event]:
    return arena(smollm, engines="llguidance + xgrammar", tier="hard")


def matrix(events: list[Event], name: str) -> dict[str, dict[str, float | None]]:
    found = next(event for event in only(events, Matrix) if event.name == name)
    return {
        row: dict(zip(found.columns, values, strict=True)) for row, values in zip(found.rows, found.values, strict=True)
    }


def test_a_run_without_tokens_keeps_the_laws_of_the_stream(smollm: CausalModel, hard: list[Event]) -> None:
    check_stream(smollm, hard)
    end = finished(hard)
    assert (end.reason, end.text, end.totals.tokens) == ("method done", "", 0)


def test_llguidance_is_never_silently_wrong_and_refuses_what_it_cannot_keep(smollm: CausalModel) -> None:
    events = arena(smollm, engines="llguidance", tier="all")
    compiled = only(events, Compiled)
    assert len(compiled) == 60
    assert not [event.subject for event in compiled if event.sizes.keys() & {"under", "both", "failed"}]
    refused = {event.subject for event in compiled if event.status == "refused"}
    assert {"hard/not-a-word", "hard/delivery", "hard/card", "newspaper/poll", "store/editor"} <= refused
    assert all("cannot enforce" in event.message for event in compiled if event.status == "refused")
    assert not any(event.sizes.get("mask and commit differ") for event in compiled)


def test_the_tables_add_up(hard: list[Event]) -> None:
    coverage, honesty = matrix(hard, "coverage"), matrix(hard, "honesty")
    for row, counts in honesty.items():
        engine, _, tier = row.partition(", ")
        compiled = [event for event in only(hard, Compiled) if event.engine == engine]
        assert sum(count or 0 for count in counts.values()) == len(compiled) == 6
        assert coverage[row]["DC declared"] == sum(event.status == "ok" for event in compiled) / 6
        assert coverage[row]["right"] == ((counts["right"] or 0) + (counts["order only"] or 0)) / 6
        assert coverage[row]["EC empirical"] is None
        assert tier == "hard"


def test_times_are_also_given_on_the_schemas_that_all_took(hard: list[Event]) -> None:
    if "xgrammar" not in installed():
        pytest.skip("xgrammar is not installed")
    times = matrix(hard, "time")
    taken = {
        engine: {event.subject for event in only(hard, Compiled) if (event.engine, event.status) == (engine, "ok")}
        for engine in ("llguidance", "xgrammar")
    }
    assert taken["llguidance"] < taken["xgrammar"]
    for engine, own in taken.items():
        assert f"{engine}, own {len(own)}" in times
        assert f"{engine}, shared {len(taken['llguidance'] & taken['xgrammar'])}" in times
    assert len(times) == 4
    assert all(0 < (value or 0) < 60 for row in times.values() for value in row.values())


def test_xgrammar_takes_what_it_does_not_keep(hard: list[Event]) -> None:
    if installed().get("xgrammar") != "0.2.8":
        pytest.skip("this was found in xgrammar 0.2.8")
    kinds = {event.subject: next(iter(event.sizes)) for event in only(hard, Compiled) if event.engine == "xgrammar"}
    assert kinds["hard/delivery"] == kinds["hard/card"] == kinds["hard/not-a-word"] == "under"
    assert kinds["hard/tree"] == "order only"


def sided(events: list[Event]) -> dict[int, Matrix]:
    """The matrices of mask differences, by place."""
    found = [event for event in only(events, Matrix) if event.name.startswith(f"{schema_arena.DIFFERENCES} ")]
    return {int(event.name.rpartition(" ")[2]): event for event in found}


def test_masks_are_laid_side_by_side_along_a_valid_text_and_every_difference_is_real_and_explained(
    smollm: CausalModel,
) -> None:
    if "xgrammar" not in installed():
        pytest.skip("xgrammar is not installed")
    events = arena(smollm, tier="easy", schemas=1, differences=1)
    check_stream(smollm, events)
    sample = next(one for one in samples() if one.tier == "easy")
    vocabulary = smollm.vocabulary
    text = serialised(in_schema_order(sample.valid[0], sample.schema), "one space")
    tokens = vocabulary.tokenise(text)
    sides = [
        peers.compile_with(engine, "json schema", json.dumps(sample.schema), vocabulary)
        for engine in ("llguidance", "xgrammar")
    ]
    matrices, differing, totals = sided(events), [], 0.0
    for place in range(len(tokens) + 1):
        masks = [vocabulary.flags(side.told() if isinstance(side, peers.Peer) else side.mask()) for side in sides]
        alone = [set((masks[row] & ~masks[1 - row]).nonzero()[0].tolist()) for row in (0, 1)]
        if any(alone):
            differing.append(place)
            matrix = matrices[place]
            assert [sum(row) for row in matrix.values] == [len(ids) for ids in alone]  # type: ignore[arg-type]
            assert matrix.row_name == vocabulary.decode(tokens[:place]).decode()
            assert matrix.column_name == (vocabulary.spell(tokens[place]).text if place < len(tokens) else "")
            assert matrix.rows == ("only llguidance", "only xgrammar")
            for mark in matrix.marks:
                spelled = {vocabulary.spell(id).text or f"⟦{vocabulary.spell(id).hex}⟧" for id in alone[mark.row]}
                assert mark.name in spelled
            assert all(": " in column for column in matrix.columns)
            totals += sum(map(len, alone))
        if place < len(tokens):
            assert all(side.commit(tokens[place]) for side in sides)
    assert list(matrices) == differing
    assert differing
    notes = [note.text for note in only(events, Note)]
    assert f"easy/{sample.id}: llguidance and xgrammar differ at {len(differing)} of {len(tokens) + 1} places." in notes
    counted = [int(note.split()[0]) for note in notes if re.match(r"\d+ tokens? that only ", note)]
    assert sum(counted) == totals


def test_masks_are_compared_only_where_two_engines_took_the_schema_and_only_when_asked(smollm: CausalModel) -> None:
    assert not sided(arena(smollm, tier="trivial", schemas=1))
    refused = arena(smollm, engines="llguidance + xgrammar", tier="hard", schemas=3, differences=3)
    assert not sided(refused)
    assert any("is taken by" in note.text for note in only(refused, Note))
    alone = arena(smollm, engines="llguidance", tier="trivial", schemas=1, differences=1)
    assert any("is taken by llguidance" in note.text for note in only(alone, Note))
    beyond = arena(smollm, engines="llguidance", tier="trivial", schemas=1, differences=2)
    assert not any("Masks are compared" in note.text for note in only(beyond, Note))


def test_samples_of_a_long_list_come_from_all_over_it() -> None:
    tokens = [Token(id, str(id)) for id in range(49_000)]
    shown = [token.id for token in schema_arena.spread(tokens, 8)]
    assert (len(shown), shown[0]) == (8, 0)
    assert shown[-1] > 40_000
    assert schema_arena.spread(tokens[:3], 8) == tokens[:3]
    assert schema_arena.spread([], 8) == []


def test_who_is_not_installed_is_named_and_left_out(smollm: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("xgrammar", "outlines-core", "lm-format-enforcer"):
        monkeypatch.setitem(peers.MODULES, engine, "a_module_that_is_nowhere")
    events = arena(smollm, engines="all installed", tier="trivial", schemas=1)
    assert {event.engine for event in only(events, Compiled)} == {"llguidance"}
    notes = [note.text for note in only(events, Note) if "pip install" in note.text]
    assert [note.partition(" ")[0] for note in notes] == ["xgrammar", "outlines-core", "lm-format-enforcer"]


def test_written_texts_are_greedy_bounded_and_judged_by_the_referee(smollm: CausalModel) -> None:
    params = {"engines": "llguidance", "tier": "trivial", "schemas": 2, "write": True}
    events = list(run(smollm, "schema-arena", "Hello", params=params, max_new_tokens=12))
    scores = only(events, Score)
    assert [score.text.partition(",")[0] for score in scores] == ["llguidance", "no constraint"] * 2
    by_id = {sample.id: sample for sample in samples()}
    for score in scores:
        name, schema, rest = score.text.split(", ", 2)
        outcome, _, text = rest.partition(": ")
        assert score.parts["tokens"] <= 12
        assert score.value == is_valid(by_id[schema].schema, text) or outcome == "cut off"
        if name == "llguidance" and outcome != "cut off":
            assert outcome == "valid"
    coverage = matrix(events, "coverage")["llguidance, trivial"]
    wrote = [score.value for score in scores if score.text.startswith("llguidance")]
    assert coverage["EC empirical"] == sum(wrote) / 2
    assert coverage["EC empirical"] == pytest.approx((coverage["CR compliance"] or 0) * (coverage["DC declared"] or 0))
    writing = matrix(events, "writing")
    assert set(writing) == {"llguidance", "no constraint"}
    assert finished(events).totals.tokens == 0


def test_a_time_limit_ends_the_arena_with_the_tables_so_far(
    tiny_llama: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = schema_arena.examine

    def slow(*arguments: Any) -> Report:
        time.sleep(0.5)
        return original(*arguments)

    monkeypatch.setattr(schema_arena, "examine", slow)
    params = {"engines": "llguidance", "tier": "all"}
    events = list(run(tiny_llama, "schema-arena", "Hello", params=params, time_limit=2))
    assert finished(events).reason == "time limit"
    assert 0 < len(only(events, Compiled)) < 10
    assert only(events, Matrix)


def test_foreign_engines_stay_outside_and_their_process_ends_with_the_run(
    smollm: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "xgrammar" not in installed():
        pytest.skip("xgrammar is not installed")
    made: list[Any] = []
    original = schema_arena.Examiner

    def kept(*arguments: Any) -> Any:
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(schema_arena, "Examiner", kept)
    events = run(smollm, "schema-arena", "Hello", params={"engines": "llguidance + xgrammar", "tier": "trivial"})
    for event in events:
        if isinstance(event, Compiled) and event.engine == "xgrammar":
            break
    process = made[0]._worker._process
    assert process.poll() is None
    events.close()  # type: ignore[attr-defined]
    assert process.poll() is not None


def test_the_card_is_complete() -> None:
    card = methods()["schema-arena"]
    assert card.family == "labs"
    assert len(card.title.split()) <= 3
    for setting in card.settings():
        assert setting.help != setting.name
        assert setting.choices or setting.kind is bool or setting.low is not None


def test_the_texts_that_are_fed_are_those_of_the_set() -> None:
    sample = next(one for one in samples() if one.id == "point")
    texts = texts_of(sample, "compact")
    assert texts.texts[:3] == ('{"x":1,"y":2}', '{"x":-0.5,"y":3.25}', '{"y":4,"x":0}')
    assert texts.texts[texts.reordered[2]] == '{"x":0,"y":4}'
    assert (texts.valid, len(texts.texts)) == (3, 7)
