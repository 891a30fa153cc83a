"""What masks cost, as measured, and as tables.

Times on an engine's own set flatter whoever refuses the hard schemas, so percentiles are also given on the shared set:
the subjects that every engine compiled.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.report import Setting, table
from engines.labs.schema_set import percentile, spoken
from playground.rounds import Spread

PLAIN = "no constraint"


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """One schema or grammar with one engine."""

    engine: str
    subject: str
    status: str
    message: str = ""
    compile_seconds: float | None = None
    """Cold, without the first mask."""
    first_seconds: float | None = None
    """The first mask."""
    token_seconds: tuple[float, ...] = ()
    """Mask and commit, per token."""
    accepted: int = 0
    """Of the texts that were fed; all are valid."""
    texts: int = 0
    disagreements: int = 0
    """Tokens whose bit in the mask said another thing than commit."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """One round: seconds per token of the same text, read by the model token by token, with or without masks."""

    engine: str
    subject: str
    round: int
    seconds: float
    masking: float = 0.0
    """Of it, on computing, applying and committing masks."""
    tokens: int


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """SynCode's table for one grammar."""

    grammar: str
    lookahead: int
    entries: int
    seconds: float
    bytes: int


class Probes(msgspec.Struct, frozen=True, kw_only=True):
    """AWRS: tokens tested per step."""

    task: str
    tests: tuple[int, ...]
    vocabulary: int


class Masks(msgspec.Struct, frozen=True, kw_only=True):
    """The whole result."""

    setting: Setting
    engines: dict[str, str]
    """Name → version."""
    whitespace: str
    costs: list[Cost]
    paces: list[Pace]
    stores: list[Store] = []
    tests: list[Probes] = []


def shared(costs: Sequence[Cost]) -> set[str]:
    """The subjects that every engine in `costs` compiled."""
    engines = {cost.engine for cost in costs}
    taken = [{cost.subject for cost in costs if cost.engine == engine and cost.status == "ok"} for engine in engines]
    return set.intersection(*taken) if taken else set()


def overhead(paces: Sequence[Pace], engine: str) -> Spread | None:
    """How much longer a token takes than without masks, in per cent; one value per subject and round."""
    plain = {(pace.subject, pace.round): pace.seconds for pace in paces if pace.engine == PLAIN}
    found = [
        100 * (pace.seconds / plain[key] - 1)
        for pace in paces
        if pace.engine == engine and (key := (pace.subject, pace.round)) in plain
    ]
    return Spread.of(found) if found else None


def _time(values: Sequence[float], share: float) -> str:
    found = percentile(values, share)
    return "–" if found is None else spoken(found)


def costs_table(costs: Sequence[Cost], names: Sequence[str], only: set[str] | None = None) -> str:
    """Compilation, first mask and masks, engine by engine; `only` these subjects."""
    rows = []
    for name in names:
        own = [cost for cost in costs if cost.engine == name and (only is None or cost.subject in only)]
        ok = [cost for cost in own if cost.status == "ok"]
        each = [seconds for cost in ok for seconds in cost.token_seconds]
        compiling = [cost.compile_seconds for cost in ok if cost.compile_seconds is not None]
        first = [cost.first_seconds for cost in ok if cost.first_seconds is not None]
        rows.append(
            [
                name,
                f"{len(ok)} of {len(own)}",
                _time(compiling, 0.5),
                _time(compiling, 0.99),
                _time(first, 0.5),
                _time(each, 0.5),
                _time(each, 0.99),
                f"{sum(cost.accepted for cost in ok)} of {sum(cost.texts for cost in ok)}",
                str(sum(cost.disagreements for cost in ok)),
            ]
        )
    head = ["engine", "compiled", "compile p50", "p99", "first mask p50", "per token p50", "p99", "valid taken"]
    return table([*head, "mask ≠ commit"], rows)


def masking(paces: Sequence[Pace], engine: str) -> Spread | None:
    """Seconds spent on masks, in per cent of the rest of the same token's time."""
    found = [100 * pace.masking / (pace.seconds - pace.masking) for pace in paces if pace.engine == engine]
    return Spread.of(found) if found else None


def overhead_table(paces: Sequence[Pace], names: Sequence[str]) -> str:
    """Milliseconds per token, and what masks add, in per cent of a pass."""
    rows = []
    for name in (PLAIN, *names):
        own = [pace.seconds for pace in paces if pace.engine == name]
        if not own:
            continue
        spread, share = overhead(paces, name), masking(paces, name)
        extra = ["", ""]
        if name != PLAIN and spread and share:
            extra = [f"{share.median:.2f}", f"{spread.median:+.1f} ({spread.low:+.1f} to {spread.high:+.1f})"]
        rows.append([name, f"{1000 * Spread.of(own).median:.2f}", *extra])
    return table(["engine", "ms per token", "masks, per cent of a pass", "longer by per cent (quartiles)"], rows)


def tables(result: Masks) -> str:
    """All of it."""
    schemas = [cost for cost in result.costs if not cost.subject.startswith("grammar: ")]
    grammars = [cost for cost in result.costs if cost.subject.startswith("grammar: ")]
    names = list(dict.fromkeys(cost.engine for cost in schemas))
    both = shared(schemas)
    parts = [
        f"Schemas, whitespace: {result.whitespace}. Every engine's own set.",
        costs_table(schemas, names),
        f"The {len(both)} schemas that all of them compiled.",
        costs_table(schemas, names, both),
    ]
    if grammars:
        parts += ["Grammars.", costs_table(grammars, list(dict.fromkeys(cost.engine for cost in grammars)))]
    if result.paces:
        subjects = list(dict.fromkeys(pace.subject for pace in result.paces))
        parts += [
            f"A token of {result.setting.model} with and without masks, the same texts ({', '.join(subjects)}).",
            overhead_table(result.paces, list(dict.fromkeys(p.engine for p in result.paces if p.engine != PLAIN))),
        ]
    if result.stores:
        rows = [
            [
                f"{one.grammar}, lookahead {one.lookahead}",
                str(one.entries),
                spoken(one.seconds),
                f"{one.bytes / 1e6:.2f}",
            ]
            for one in result.stores
        ]
        parts += ["SynCode's store.", table(["grammar", "entries", "made in", "MB"], rows)]
    if result.tests:
        rows = [
            [
                one.task,
                str(len(one.tests)),
                f"{sum(one.tests) / max(1, len(one.tests)):.1f}",
                str(max(one.tests, default=0)),
                f"{100 * sum(one.tests) / max(1, len(one.tests)) / one.vocabulary:.3f}",
            ]
            for one in result.tests
        ]
        parts += ["AWRS: tokens tested per step.", table(["task", "steps", "mean", "most", "per cent of all"], rows)]
    versions = ", ".join(f"{name} {number}" for name, number in result.engines.items())
    return "\n\n".join([*parts, f"{versions}. {result.setting.sentence()}"])
