"""What came of a sweep: a row per method, the same by category, and the numbers of every run.

Speed-ups are paired: a run over the first method's run of the same prompt and seed, so that a hard prompt weighs on
both. The middle is the median, the spread its quartiles. Acceptance is pooled over guesses, not averaged over runs.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engines.events import Totals
from playground.store import Store
from playground.sweep import Plan, Sweep, sweep


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One cell. Without totals it is not done, or failed with `error`."""

    place: int
    seed: int
    prompt: int
    contender: int
    run: str = ""
    error: str = ""
    output: str = ""
    totals: Totals | None = None
    speed_up: float | None = None
    """Over the first method, on the same prompt and seed."""


class Spread(msgspec.Struct, frozen=True):
    """Median and quartiles of some numbers, and how many there were."""

    median: float
    low: float
    high: float
    count: int


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What one method did, over all prompts or over those of one category."""

    contender: int
    label: str
    category: str
    done: int
    failed: int
    mean: float | None
    """Tokens per second, averaged over runs."""
    speed: Spread | None
    """Tokens per second."""
    per_pass: float | None
    """Tokens per target pass: all tokens over all passes."""
    acceptance: float | None
    speed_up: Spread | None
    same: int
    """Runs with the same output as the first method's, where both must be plain greedy decoding's."""
    compared: int
    """Runs for which that can be said; 0 when the method promises nothing."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep with its results."""

    sweep: Sweep
    lines: list[Line]
    by_category: list[Line]
    results: list[Result]


def report(store: Store, id: str) -> Report:
    """The results so far. Raises `UnknownSweep`."""
    mine = sweep(store, id)
    results = _results(store, mine)
    everything = range(len(mine.plan.contenders))
    categories = mine.plan.prompts.categories
    kinds = {index: one.category for index, one in enumerate(mine.plan.prompts.prompts)}
    return Report(
        sweep=mine,
        lines=[_line(mine.plan, results, index) for index in everything],
        by_category=[
            _line(mine.plan, [one for one in results if kinds[one.prompt] == category], index, category)
            for category in categories
            for index in everything
        ]
        if len(categories) > 1
        else [],
        results=results,
    )


def values(results: Sequence[Result], contender: int, measure: str) -> list[tuple[Result, float]]:
    """One method's numbers for a box: `tokens_per_second`, `tokens_per_target_pass` or `speed_up`."""
    read: Callable[[Result], float | None]
    if measure == "speed_up":
        read = lambda one: one.speed_up  # noqa: E731
    else:
        read = lambda one: getattr(one.totals, measure) if one.totals else None  # noqa: E731
    return [(one, value) for one in results if one.contender == contender and (value := read(one)) is not None]


COLUMNS = (
    "method", "settings", "prompt", "category", "seed", "run", "error", "tokens", "seconds", "tokens_per_second",
    "time_to_first_token", "target_passes", "tokens_per_target_pass", "drafted", "accepted", "rejected",
    "acceptance_rate", "speed_up", "output",
)  # fmt: skip


def rows(whole: Report) -> list[dict[str, Any]]:
    """Every cell as one flat row with the keys `COLUMNS`."""
    plan = whole.sweep.plan
    made = []
    for one in whole.results:
        contender, asked = plan.contenders[one.contender], plan.prompts.prompts[one.prompt]
        totals = msgspec.to_builtins(one.totals) if one.totals else {}
        told = {
            "method": contender.method,
            "settings": msgspec.json.encode(contender.params).decode(),
            "prompt": asked.id,
            "category": asked.category,
            "seed": one.seed,
            "run": one.run,
            "error": one.error,
            "speed_up": one.speed_up,
            "output": one.output,
        }
        made.append({name: (told | totals).get(name) for name in COLUMNS} | told)
    return made


def as_csv(whole: Report) -> str:
    """Every cell as a line of CSV. A text that a spreadsheet would take for a formula gets a quote in front."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(whole):
        writer.writerow({name: _calm(value) for name, value in row.items()})
    return out.getvalue()


def as_json(whole: Report) -> str:
    """The sweep with its plan, the table and every cell."""
    head = {name: getattr(whole.sweep, name) for name in ("id", "created", "model", "precision", "weights", "plan")}
    told = head | {"methods": whole.lines, "categories": whole.by_category, "runs": rows(whole)}
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


def _calm(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _results(store: Store, mine: Sweep) -> list[Result]:
    found = store.read(
        "SELECT place, sweep_runs.seed, sweep_runs.prompt, contender, runs.id AS run, sweep_runs.error, output, totals"
        " FROM sweep_runs LEFT JOIN runs ON runs.id = sweep_runs.run WHERE sweep = ? ORDER BY place",
        [mine.id],
    )
    decode = msgspec.json.Decoder(Totals).decode
    all = [
        Result(
            **{name: row[name] for name in ("place", "seed", "prompt", "contender")},
            run=row["run"] or "",
            error=row["error"] or "",
            output=(row["output"] or "") if row["run"] else "",
            totals=decode(row["totals"]) if row["totals"] else None,
        )
        for row in found
    ]
    first = {(one.seed, one.prompt): one.totals for one in all if one.contender == 0}
    return [msgspec.structs.replace(one, speed_up=_ratio(one.totals, first.get((one.seed, one.prompt)))) for one in all]


def _ratio(mine: Totals | None, theirs: Totals | None) -> float | None:
    if mine is None or theirs is None or not theirs.tokens_per_second or not mine.tokens_per_second:
        return None
    return mine.tokens_per_second / theirs.tokens_per_second


def _line(plan: Plan, results: Sequence[Result], index: int, category: str = "") -> Line:
    mine = [one for one in results if one.contender == index]
    totals = [one.totals for one in mine if one.totals]
    speeds = [one.tokens_per_second for one in totals]
    tested = sum(one.accepted + one.rejected for one in totals)
    passes = sum(one.target_passes for one in totals)
    first = {(one.seed, one.prompt): one.output for one in results if one.contender == 0 and one.output}
    promised = index > 0 and plan.contenders[0].exact and plan.contenders[index].exact
    pairs = [
        one.output == first[one.seed, one.prompt]
        for one in mine
        if promised and one.output and (one.seed, one.prompt) in first
    ]
    ratios = [one.speed_up for one in mine if one.speed_up is not None]
    return Line(
        contender=index,
        label=plan.contenders[index].label,
        category=category,
        done=len(totals),
        failed=sum(bool(one.error) for one in mine),
        mean=statistics.fmean(speeds) if speeds else None,
        speed=spread(speeds),
        per_pass=sum(one.tokens for one in totals) / passes if passes else None,
        acceptance=sum(one.accepted for one in totals) / tested if tested else None,
        speed_up=spread(ratios) if index else None,
        same=sum(pairs),
        compared=len(pairs),
    )


def spread(numbers: Sequence[float]) -> Spread | None:
    """Median and quartiles (the inclusive method); None of nothing."""
    if not numbers:
        return None
    if len(numbers) == 1:
        return Spread(numbers[0], numbers[0], numbers[0], 1)
    low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return Spread(median, low, high, len(numbers))
