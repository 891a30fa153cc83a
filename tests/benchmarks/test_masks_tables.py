"""What masks cost, on measurements made up for the purpose; the suite's classes and its ratchet."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from benchmarks import suite
from benchmarks.masks import cost, paced
from benchmarks.masks_tables import PLAIN, Cost, Masks, Pace, Probes, Store, overhead, shared, tables
from benchmarks.report import Setting
from benchmarks.suite import Counts, Outcome, classified, counted, groups_of, read_ratchet, steps_back
from engines.grammars.constraint import BadGrammar, Constraint
from engines.grammars.guidance import compile_guidance
from engines.grammars.trials import Examiner, Fed, Report
from engines.models.causal import CausalModel

SETTING = Setting(
    created="2026-01-01T00:00", machine="2-core", processor="a processor", versions={}, model="a model",
    precision="float32", weights="w", max_new_tokens=48, rounds=2, quick=False,
)  # fmt: skip


def costs() -> list[Cost]:
    """One engine takes both schemas and is slow with the second; the other refuses that one."""
    return [
        Cost(engine="thorough", subject="easy", status="ok", compile_seconds=0.002, first_seconds=0.001,
             token_seconds=(0.00001, 0.00003), accepted=3, texts=3),
        Cost(engine="thorough", subject="hard", status="ok", compile_seconds=0.2, first_seconds=0.1,
             token_seconds=(0.5,), accepted=2, texts=3, disagreements=4),
        Cost(engine="picky", subject="easy", status="ok", compile_seconds=0.004, first_seconds=0.002,
             token_seconds=(0.00002, 0.00004), accepted=3, texts=3),
        Cost(engine="picky", subject="hard", status="refused", message="cannot"),
        Cost(engine="ours", subject="grammar: sums", status="ok", compile_seconds=1.5),
    ]  # fmt: skip


def paces() -> list[Pace]:
    """10 ms alone; 11 and 12 with masks in the first round, 10.5 and 20 in the second, where alone takes 10 and 16."""
    seconds = {
        (PLAIN, "a"): (0.010, 0.010), (PLAIN, "b"): (0.010, 0.016),
        ("x", "a"): (0.011, 0.0105), ("x", "b"): (0.012, 0.020),
    }  # fmt: skip
    return [
        Pace(
            engine=engine,
            subject=subject,
            round=number,
            seconds=value,
            masking=0 if engine == PLAIN else value / 11,
            tokens=7,
        )
        for (engine, subject), values in seconds.items()
        for number, value in enumerate(values)
    ]


def result() -> Masks:
    return Masks(
        setting=SETTING, engines={"thorough": "1", "picky": "2"}, whitespace="compact", costs=costs(), paces=paces(),
        stores=[Store(grammar="sums", lookahead=1, entries=200, seconds=0.0625, bytes=1_230_000)],
        tests=[Probes(task="person", tests=(1, 3, 8), vocabulary=1000)],
    )  # fmt: skip


def row(text: str, name: str, number: int = 0) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in lines[number].strip("|").split("|")]


def test_the_shared_set_holds_what_everyone_compiled() -> None:
    assert shared(costs()[:4]) == {"easy"}
    assert shared([]) == set()


def test_who_refuses_the_hard_ones_gains_nothing_on_the_shared_set() -> None:
    text = tables(result())
    assert row(text, "thorough") == [
        "thorough", "2 of 2", "2 ms", "200 ms", "1 ms", "30 µs", "500 ms", "5 of 6", "4",
    ]  # fmt: skip
    assert row(text, "thorough", 1) == ["thorough", "1 of 1", "2 ms", "2 ms", "1 ms", "10 µs", "30 µs", "3 of 3", "0"]
    assert row(text, "picky")[:3] == ["picky", "1 of 2", "4 ms"]
    assert row(text, "picky", 1)[:3] == ["picky", "1 of 1", "4 ms"]
    assert row(text, "ours")[:3] == ["ours", "1 of 1", "1.5 s"]


def test_overhead_is_per_cent_of_the_same_text_in_the_same_round() -> None:
    spread = overhead(paces(), "x")
    assert spread is not None
    # 10, 5, 20 and 25 per cent.
    assert (spread.median, spread.minimum, spread.maximum) == pytest.approx((15, 5, 25))
    assert overhead(paces(), "nobody") is None
    assert row(tables(result()), "x")[1:] == ["11.50", "10.00", "+15.0 (+8.7 to +21.2)"]


def test_stores_and_tests_have_their_lines() -> None:
    text = tables(result())
    assert row(text, "sums, lookahead 1")[1:] == ["200", "62.5 ms", "1.23"]
    assert row(text, "person")[1:] == ["3", "4.0", "8", "0.400"]


def test_costs_are_measured_on_texts_that_are_valid(tiny_llama: CausalModel) -> None:
    def make() -> Constraint:
        return compile_guidance("regex", "[0-9]{2,3}", tiny_llama.vocabulary)

    texts = [tiny_llama.vocabulary.tokenise(text) for text in ("12", "123", "1")]
    found = cost("llguidance", "digits", make, texts, 2)
    assert (found.status, found.accepted, found.texts, found.disagreements) == ("ok", 2, 3, 0)
    assert len(found.token_seconds) == 2 * (2 + 3 + 1)
    assert found.compile_seconds is not None
    assert found.compile_seconds > 0

    def refuse() -> Constraint:
        raise BadGrammar("no")

    assert cost("x", "y", refuse, texts).status == "refused"


def test_a_pace_reads_the_same_text_with_and_without_a_mask(tiny_llama: CausalModel) -> None:
    text = tiny_llama.vocabulary.tokenise("123")
    constraint = compile_guidance("regex", "[0-9]{3}", tiny_llama.vocabulary)
    seconds, masking = paced(tiny_llama, text, None)
    assert seconds > masking == 0
    seconds, masking = paced(tiny_llama, text, constraint)
    assert seconds > masking > 0
    with pytest.raises(Exception, match="does not fit"):
        paced(
            tiny_llama,
            tiny_llama.vocabulary.tokenise("1a3"),
            compile_guidance("regex", "[0-9]{3}", tiny_llama.vocabulary),
        )


# The suite


@pytest.mark.parametrize(
    ("accepted", "kind"),
    [((True, False), "pass"), ((True, True), "under"), ((False, False), "over"), ((False, True), "both")],
)
def test_a_group_passes_when_every_instance_is_classified(accepted: tuple[bool, bool], kind: str) -> None:
    report = Report("ok", fed=tuple(Fed(one) for one in accepted))
    assert classified(report, [True, False]) == kind


def test_refusals_crashes_and_errors_are_classes_of_their_own() -> None:
    assert classified(Report("refused"), []) == "refused"
    assert classified(Report("failed"), []) == classified(Report("too slow"), []) == "failed"
    assert classified(Report("ok", fed=(Fed(False, 0, error="fuel"),)), [False]) == "failed"
    counts = counted([Outcome("f", "a", "pass"), Outcome("f", "b", "pass"), Outcome("f", "c", "under")])
    assert counts == {"pass": 2, "refused": 0, "under": 1, "over": 0, "both": 0, "failed": 0}


def held(**counts: int) -> dict[str, Counts]:
    return {"x": Counts("1", {kind: counts.get(kind, 0) for kind in suite.CLASSES})}


def test_the_ratchet_lets_results_improve_only() -> None:
    before = held(**{"pass": 10, "under": 2, "refused": 5})
    assert steps_back(before, held(**{"pass": 10, "under": 2, "refused": 5})) == []
    assert steps_back(before, held(**{"pass": 12, "under": 0, "refused": 9})) == []
    assert "passes 9 groups, 10 before" in steps_back(before, held(**{"pass": 9, "under": 2}))[0]
    assert "accepts invalid instances in 3 groups, 2 before" in steps_back(before, held(**{"pass": 10, "both": 3}))[0]
    assert steps_back({}, held(**{"pass": 0})) == []


def test_what_is_held_is_what_the_engines_came_to() -> None:
    ratchet = read_ratchet()
    assert ratchet["llguidance"].counts["pass"] >= 142
    assert ratchet["llguidance"].counts["under"] == ratchet["llguidance"].counts["both"] == 0
    assert all(sum(one.counts.values()) == 368 for one in ratchet.values())


def archive(folder: Path) -> Path:
    """A source archive as jsonschema's is laid out: one file of the draft, an optional one, one of another draft."""
    group = [
        {
            "description": "digits",
            "schema": {"type": "integer"},
            "tests": [{"description": "", "data": 1, "valid": True}, {"description": "", "data": "a", "valid": False}],
        },
        {
            "description": "no words",
            "schema": {"not": {"type": "string"}},
            "tests": [{"description": "", "data": "a", "valid": False}],
        },
    ]
    path = folder / "jsonschema.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("draft2020-12/type.json", "draft2020-12/optional/more.json", "draft7/type.json"):
            data = json.dumps(group).encode()
            info = tarfile.TarInfo(f"jsonschema-4.26.0/json/tests/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_the_groups_are_those_of_the_draft_itself(tmp_path: Path) -> None:
    groups = list(groups_of(archive(tmp_path)))
    assert [(group.file, group.name) for group in groups] == [("type", "digits"), ("type", "no words")]
    assert groups[0].instances == ((1, True), ("a", False))


def test_an_engine_is_run_over_the_groups(tmp_path: Path, tiny_llama: CausalModel) -> None:
    groups = list(groups_of(archive(tmp_path)))
    with Examiner(tiny_llama.vocabulary) as examiner:
        outcomes = suite.run("llguidance", groups, tiny_llama.vocabulary, examiner)
        assert examiner.starts == 0
    assert [outcome.kind for outcome in outcomes] == ["pass", "refused"]
