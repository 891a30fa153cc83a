"""What answers come to, on answers made up for the purpose: every number below can be checked in the head."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.report import Setting
from benchmarks.rounds import Timing
from benchmarks.specbench_tables import (
    GREEDY,
    PEER,
    PEER_ASSISTED,
    PEER_LOOKUP,
    Answer,
    Difference,
    Effort,
    Speculation,
    goals,
    goals_table,
    misses,
    speeds_table,
    tables,
    work_table,
)
from engines.events import Curve

SETTING = Setting(
    created="2026-01-01T00:00", machine="2-core", processor="a processor", versions={}, model="a model",
    precision="float32", weights="w", max_new_tokens=96, rounds=1, quick=False,
)  # fmt: skip
CURVE = Curve(name="t(q)", x_name="new tokens", y_name="seconds", x=(1.0, 8.0), y=(0.02, 0.04))
COPY = "Code to copy and edit"

SPEEDS: dict[str, dict[str, float]] = {
    GREEDY: {"Summarisation": 10, "Maths": 10, COPY: 10},
    "one": {"Summarisation": 20, "Maths": 9, COPY: 15},
    "two": {"Summarisation": 10, "Maths": 9.5, COPY: 19},
    PEER: {"Summarisation": 5, "Maths": 5, COPY: 5},
    PEER_LOOKUP: {"Summarisation": 8, "Maths": 4, COPY: 20},
    PEER_ASSISTED: {"Summarisation": 6, "Maths": 9.5, COPY: 6},
}
"""Tokens per second. Greedy takes a second for ten tokens; so does everybody here for ten passes of two tokens."""


def answer(contestant: str, category: str, speed: float) -> Answer:
    """Sixty tokens: for greedy one per pass, for the others two."""
    passes = 60 if contestant in (GREEDY, PEER) else 30
    guesses = {} if contestant.startswith("transformers") else {"accepted": 60 - passes, "rejected": 60, "drafting": 0}
    if contestant == "one":
        guesses["drafting"] = 90
    return Answer(
        contestant=contestant, category=category, question=f"q {category}", timing=Timing(60, 60 / speed),
        passes=passes, read=120 if passes == 30 else 60, **guesses,
    )  # fmt: skip


def result(speeds: dict[str, dict[str, float]] = SPEEDS, differences: tuple[Difference, ...] = ()) -> Speculation:
    answers = [answer(name, category, speed) for name, by in speeds.items() for category, speed in by.items()]
    return Speculation(
        setting=SETTING, contestants=list(speeds), left_out={}, draft="a draft", curve=CURVE, answers=answers,
        differences=list(differences),
    )  # fmt: skip


def row(shown: str, name: str) -> list[str]:
    (line,) = (line for line in shown.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_speed_ups_are_over_our_greedy_and_the_best_of_each_column_is_bold() -> None:
    shown = speeds_table(result())
    head = ["summaries", "maths", "all", "all, total", "copy and edit", "all, over transformers greedy"]
    assert row(shown, "speed-up over our greedy") == head
    assert row(shown, GREEDY) == ["1.00", "1.00", "1.00", "1.00", "1.00", "2.00"]
    assert row(shown, "one") == ["**2.00**", "0.90", "**1.45**", "**1.24**", "1.50", "2.90"]
    assert row(shown, "two") == ["1.00", "**0.95**", "0.97", "0.97", "**1.90**", "1.95"]
    assert row(shown, PEER_LOOKUP) == ["0.80", "0.40", "0.60", "0.53", "2.00", "1.20"]
    assert row(shown, PEER_ASSISTED)[1] == "0.95"  # as fast as the best of ours, and not one of ours


def test_prompts_to_copy_count_in_no_overall_number() -> None:
    more = {name: by | {COPY: 1000.0} if name == "two" else by for name, by in SPEEDS.items()}
    assert row(speeds_table(result(more)), "two")[2:4] == ["0.97", "0.97"]
    assert row(work_table(result(more)), "two")[0] == row(work_table(result()), "two")[0]


def test_the_rounds_of_a_question_count_together() -> None:
    slow = answer("one", "Maths", 6)
    twice = msgspec.structs.replace(result(), answers=[*result().answers, msgspec.structs.replace(slow, round=1)])
    assert twice.timings("one", "Maths") == [Timing(120, 60 / 9 + 10)]


def test_work_is_counted_per_target_pass_and_per_token() -> None:
    shown = work_table(result())
    assert row(shown, GREEDY) == ["10.0", "1.00", "1.00", "1.0", "–", "0 %", "3 of 3", "0", "0"]
    assert row(shown, "one")[:6] == ["12.4", "2.00", "1.61", "2.0", "1.50", "33 %"]
    assert row(shown, "two")[4] == "–"
    assert row(shown, PEER_LOOKUP)[4:6] == ["–", "–"]


def test_tokens_per_pass_over_the_price_of_a_pass_is_the_total_speed_up() -> None:
    mine, plain = (Effort.of(result().of(name)) for name in ("one", GREEDY))
    price = mine.seconds_per_pass / plain.seconds_per_pass
    assert mine.tokens_per_pass / price == pytest.approx(result().total("one"))


def test_ties_and_differences_are_counted_apart_in_all_categories() -> None:
    tie = Difference(contestant="one", question="q Maths", position=3, greedy="a", instead="b", gap=5e-5)
    wrong = Difference(contestant="one", question=f"q {COPY}", position=3, greedy="a", instead="b", gap=0.2)
    shown = result(differences=(tie, wrong))
    assert row(work_table(shown), "one")[-3:] == ["1 of 3", "1", "1"]
    assert "* one, q Maths, token 3: 'b' instead of 'a', logits 5.0e-05 apart" in tables(shown)


@pytest.mark.parametrize(("gap", "tie"), [(-5e-5, True), (5e-5, True), (2e-4, False), (-2e-4, False), (None, False)])
def test_a_difference_is_a_tie_only_when_the_logits_are_close(gap: float | None, tie: bool) -> None:
    assert Difference(contestant="x", question="q", position=0, greedy="a", instead="b", gap=gap).tie is tie


def test_a_goal_names_its_weakest_category_and_by_how_much_it_was_missed() -> None:
    shown = goals_table(result())
    assert row(shown, "the best method in every category") == [
        "at least 1.00", "0.95", "maths: two", "**missed in 1 of 3**, by 0.05",
    ]  # fmt: skip
    assert row(shown, "summaries: the best method") == ["at least 2.00", "2.00", "one", "met"]
    assert row(shown, "copy and edit: the best method") == ["at least 2.00", "1.90", "two", "**missed**, by 0.10"]
    assert row(shown, "all: the best method") == ["at least 1.30", "1.45", "one", "met"]


def test_transformers_own_guessing_must_be_beaten_not_equalled() -> None:
    *_, against = goals(result())
    assert [(one.category, one.guesser, one.over) for one in against.reached] == [
        ("Summarisation", "one", PEER_LOOKUP), ("Maths", "two", PEER_ASSISTED), (COPY, "two", PEER_LOOKUP),
    ]  # fmt: skip
    assert [one.measured for one in against.reached] == pytest.approx([2.5, 1.0, 0.95])
    assert [one.category for one in against.missed] == ["Maths", COPY]


def test_a_miss_is_explained_by_tokens_per_pass_and_the_price_of_a_pass() -> None:
    said = misses(result(), goals(result()))
    assert said[0] == (
        "* the best method in every category, maths: missed by 0.05. two is 0.95 times as fast as greedy: "
        "2.00 tokens per target pass at 2.11 times the time of a plain pass."
    )
    assert said[-1].endswith(
        "copy and edit: missed by 0.05. two is 0.95 times as fast as transformers prompt lookup: 2.00 tokens per "
        "target pass at 1.05 times the time of a plain pass, against 2.00 tokens per target pass at 1.00 times the "
        "time of a plain pass."
    )
    assert said[1].startswith("* copy and edit: the best method: missed by 0.10. two is 1.90 times as fast as greedy")
    assert "missed by less than 0.01" in said[2]
    assert len(said) == 4


def test_greedy_is_no_guesser_and_cannot_meet_a_goal() -> None:
    slower = SPEEDS | {"one": dict.fromkeys(SPEEDS[GREEDY], 8.0), "two": dict.fromkeys(SPEEDS[GREEDY], 9.0)}
    (first, *_) = goals(result(slower))
    assert {(one.guesser, round(one.measured, 2)) for one in first.missed} == {("two", 0.9)}


def test_without_guessers_there_are_no_goals() -> None:
    alone = result({name: by for name, by in SPEEDS.items() if name not in ("one", "two")})
    assert goals(alone) == []
    assert goals_table(alone) == ""
    assert "goal" not in tables(alone)


def test_the_note_tells_the_questions_that_count_from_those_that_do_not() -> None:
    shown = tables(result())
    assert "Questions: 2, and 1 more to copy or edit, which count in no overall number. a model, float32" in shown
    assert "Where a draft model guesses, it is a draft." in shown
    assert "| milliseconds | 20.0 | 40.0 |" in shown
    assert "Left out" not in shown
    assert "* pearl: no second core" in tables(msgspec.structs.replace(result(), left_out={"pearl": "no second core"}))
