"""A sweep: every prompt of a set, with every method, from every seed. What is to be done stands in the database.

`begin` writes the plan, `drive` works through what is left of it, and both may be in different processes: a sweep that
was paused, whose page was closed or whose process was killed goes on where it was. A cell is done when it has a
finished run, so what was under way is done again. Runs are runs like any other; who makes them, here or on other
machines, is the executor's business (`playground.executors`).

    1. order: seed by seed, prompt by prompt, all methods in a row, each row beginning with another method, so that
       what a machine does meanwhile hits all methods alike
    2. a cell whose run fails keeps its error, and the next cell begins
    3. what would fail for every cell, such as a model that is gone, ends the work instead: resume when it is back
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from statistics import fmean
from threading import Event as Flag
from typing import Any

import msgspec
from sqlite_utils import Database

from engines.errors import DecodingError, shown
from engines.events import Commit, Finished, Started
from engines.method import find
from engines.runner import MAX_NEW_TOKENS, check_number
from playground.executors import Cell, Executor, Failed, Passed
from playground.prompt_set import PromptSet
from playground.recording import is_alive, new_run_id, this_process
from playground.setup import Params, Setup
from playground.store import Store, Unwritable

MOST_METHODS = 12
MOST_SEEDS = 16
MOST_RUNS = 5000


class BadPlan(DecodingError):
    """A sweep cannot be made of this."""


class Busy(DecodingError):
    """The sweep, or another one of the same person, is being worked on."""


class UnknownSweep(DecodingError):
    """No sweep has this id."""


class OtherModel(DecodingError):
    """The sweep was begun with a model that is not the one at hand."""


class Contender(msgspec.Struct, frozen=True):
    """A method with settings: one row of the result."""

    method: str
    params: Params = {}

    @property
    def label(self) -> str:
        """The method's title, and the settings that are not its defaults."""
        spec = find(self.method)
        usual = {setting.name: setting.default for setting in spec.settings()}
        said = [f"{name}={_word(value)}" for name, value in self.params.items() if value != usual.get(name)]
        return " ".join([spec.title, *said])

    @property
    def exact(self) -> bool:
        """Whether its text must be plain greedy decoding's, token for token."""
        return find(self.method).lossless and not self.params.get("temperature")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep consists of. Make it with `plan`, which checks it."""

    prompts: PromptSet
    contenders: tuple[Contender, ...]
    seeds: tuple[int, ...] = (0,)
    max_new_tokens: int = 64
    raw: bool = False

    @property
    def count(self) -> int:
        """How many runs that are."""
        return len(self.prompts.prompts) * len(self.contenders) * len(self.seeds)

    def order(self) -> Iterator[tuple[int, int, int]]:
        """(seed, index of the prompt, index of the contender) of every run, in the order of the work."""
        n = len(self.contenders)
        rows = ((seed, prompt) for seed in self.seeds for prompt in range(len(self.prompts.prompts)))
        for row, (seed, prompt) in enumerate(rows):
            for place in range(n):
                yield seed, prompt, (place + row) % n

    def setup(self, seed: int, prompt: int, contender: int) -> Setup:
        """One run."""
        return Setup(
            method=self.contenders[contender].method,
            params=self.contenders[contender].params,
            prompt=self.prompts.prompts[prompt].prompt,
            seed=seed,
            max_new_tokens=self.max_new_tokens,
            raw=self.raw,
        )


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `sweeps`, with how far it is."""

    id: str
    owner: str
    created: str
    plan: Plan
    model: str
    precision: str
    weights: str
    """What the first run said; empty before it."""
    done: int
    failed: int
    at_work: bool
    """Whether a living process works on it."""

    @property
    def left(self) -> int:
        return self.plan.count - self.done - self.failed


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a sweep is, for people who watch it."""

    done: int
    failed: int
    total: int
    doing: str = ""
    """The run under way in words, or what is being waited for."""
    tokens: int = 0
    """Tokens that the run under way has written."""
    seconds_left: float | None = None
    """Estimated from the runs that this process has done; None before the first."""
    finished: bool = False
    """Whether a run has just come to its end."""


def plan(
    prompts: PromptSet,
    contenders: Sequence[tuple[str, Mapping[str, Any]]],
    seeds: Iterable[int] = (0,),
    max_new_tokens: int = 64,
    *,
    raw: bool = False,
) -> Plan:
    """A checked plan: methods exist, settings are in range, and it is not too much. Raises `DecodingError`."""
    made = tuple(Contender(id, msgspec.to_builtins(find(id).validate(params))) for id, params in contenders)
    chosen = tuple(dict.fromkeys(seeds))
    if not made:
        raise BadPlan("Choose at least one method.")
    if len(made) > MOST_METHODS:
        raise BadPlan(f"{len(made)} methods are too many for one sweep: at most {MOST_METHODS}.")
    for index, contender in enumerate(made):
        if contender in made[:index]:
            raise BadPlan(f"{contender.label} is there twice with the same settings.")
    if not chosen:
        raise BadPlan("Give at least one seed.")
    if len(chosen) > MOST_SEEDS:
        raise BadPlan(f"{len(chosen)} seeds are too many for one sweep: at most {MOST_SEEDS}.")
    for seed in chosen:
        check_number("seed", seed, 0, 2**63 - 1)
    check_number("max_new_tokens", max_new_tokens, 1, MAX_NEW_TOKENS)
    whole = Plan(prompts=prompts, contenders=made, seeds=chosen, max_new_tokens=max_new_tokens, raw=raw)
    if whole.count > MOST_RUNS:
        raise BadPlan(f"That would be {whole.count:,} runs; a sweep has at most {MOST_RUNS:,}.")
    return whole


# In the database


def begin(store: Store, owner: str, plan: Plan, *, model: str, precision: str, weights: str = "") -> str:
    """Writes a plan down; returns the sweep's id. Nothing runs yet. Raises `Unwritable`."""
    id = new_run_id()
    row = {
        "id": id,
        "owner": owner,
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "plan": msgspec.json.encode(plan).decode(),
        "model": model,
        "precision": precision,
        "weights": weights,
    }

    def change(db: Database) -> None:
        db.table("sweeps").insert(row)
        db.conn.executemany(
            "INSERT INTO sweep_runs (sweep, place, seed, prompt, contender) VALUES (?, ?, ?, ?, ?)",
            [(id, place, *cell) for place, cell in enumerate(plan.order())],
        )

    _written(store, change)
    return id


_SWEEP = """
SELECT sweeps.*,
  (SELECT count(*) FROM sweep_runs JOIN runs ON runs.id = sweep_runs.run WHERE sweep = sweeps.id) AS done,
  (SELECT count(*) FROM sweep_runs WHERE sweep = sweeps.id AND error IS NOT NULL) AS failed
FROM sweeps"""


def sweep(store: Store, id: str) -> Sweep:
    """The sweep with this id, whoever owns it. Raises `UnknownSweep`."""
    rows = store.read(f"{_SWEEP} WHERE id = ?", [id])
    if not rows:
        raise UnknownSweep(f"There is no sweep called {shown(id)} here.")
    return _sweep(rows[0])


def sweeps(store: Store, owner: str, limit: int = 50) -> list[Sweep]:
    """An owner's sweeps, the newest first."""
    rows = store.read(f"{_SWEEP} WHERE owner = ? ORDER BY created DESC LIMIT ?", [owner, limit])
    return [_sweep(row) for row in rows]


def delete(store: Store, owner: str, id: str) -> bool:
    """Forgets a sweep that nobody works on; its runs stay. Whether there was such a sweep."""
    gone = False

    def change(db: Database) -> None:
        nonlocal gone
        rows = list(db.query("SELECT process, process_started FROM sweeps WHERE id = ? AND owner = ?", [id, owner]))
        gone = bool(rows) and not _alive(rows[0])
        if gone:
            db.execute("DELETE FROM sweep_runs WHERE sweep = ?", [id])
            db.execute("DELETE FROM sweeps WHERE id = ?", [id])

    _written(store, change)
    return gone


def try_again(store: Store, owner: str, id: str) -> None:
    """Forgets the errors of a sweep, so that what failed is done again."""

    def change(db: Database) -> None:
        mine = "SELECT id FROM sweeps WHERE id = ? AND owner = ?"
        db.execute(f"UPDATE sweep_runs SET error = NULL WHERE sweep IN ({mine})", [id, owner])

    _written(store, change)


def drive(store: Store, id: str, owner: str, executor: Executor, stop: Flag | None = None) -> Generator[Progress]:
    """Works on a sweep until nothing is left, `stop` is set, or this generator is closed.

    Raises `UnknownSweep`, `Busy`, `OtherModel`, `Unwritable`, and what made going on pointless; the sweep can then
    be resumed.
    """
    mine = sweep(store, id)
    if mine.owner != owner:
        raise UnknownSweep(f"There is no sweep called {shown(id)} here.")
    _claim(store, mine)
    try:
        yield from _work(store, mine, executor, stop)
    finally:
        store.write(
            lambda db: db.execute("UPDATE sweeps SET process = NULL, process_started = NULL WHERE id = ?", [id]),
            patient=True,
        )


def _work(store: Store, mine: Sweep, executor: Executor, stop: Flag | None) -> Iterator[Progress]:
    cells = _left(store, mine)
    places = {cell.place: cell for cell in cells}
    estimate = _Estimate(cells)
    weights, done, failed = mine.weights, mine.done, mine.failed
    tokens: defaultdict[int, int] = defaultdict(int)

    def progress(doing: str = "", place: int = -1, *, finished: bool = False) -> Progress:
        return Progress(
            done=done,
            failed=failed,
            total=mine.plan.count,
            doing=doing,
            tokens=tokens[place],
            seconds_left=estimate.seconds_left,
            finished=finished,
        )

    yield progress()
    with closing(executor.work(cells)) as work:
        for told in work:
            if stop is not None and stop.is_set():
                return
            if isinstance(told, str):
                yield progress(told)
                continue
            cell = places[told.place]
            doing = f"{mine.plan.contenders[cell.contender].label} · {mine.plan.prompts.prompts[cell.prompt].id}"
            match told:
                case Failed(place, sentence):
                    _note(store, mine.id, place, error=sentence)
                    estimate.took(cell, None)
                    failed += 1
                    yield progress(doing, place, finished=True)
                case Passed(place, _, Started() as header):
                    weights = _same_model(store, mine, weights, header)
                    yield progress(doing, place)
                case Passed(place, run, Finished() as last):
                    _note(store, mine.id, place, run=run, output=_hash(last.token_ids))
                    estimate.took(cell, last.totals.seconds)
                    done += 1
                    yield progress(doing, place, finished=True)
                case Passed(place, _, event):
                    if isinstance(event, Commit):
                        tokens[place] += len(event.tokens)
                    yield progress(doing, place)


class _Estimate:
    """How long the rest will take: the mean time of each method, stretched by what the work took beside decoding."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._left: defaultdict[int, int] = defaultdict(int)
        for cell in cells:
            self._left[cell.contender] += 1
        self._took: defaultdict[int, list[float]] = defaultdict(list)
        self._began = time.monotonic()

    def took(self, cell: Cell, seconds: float | None) -> None:
        self._left[cell.contender] -= 1
        if seconds is not None:
            self._took[cell.contender].append(seconds)

    @property
    def seconds_left(self) -> float | None:
        known = {contender: fmean(all) for contender, all in self._took.items()}
        if not known:
            return None
        usual = fmean(known.values())
        rest = sum(count * known.get(contender, usual) for contender, count in self._left.items())
        decoded = sum(sum(all) for all in self._took.values())
        return rest * (time.monotonic() - self._began) / decoded if decoded else None


def _left(store: Store, mine: Sweep) -> list[Cell]:
    rows = store.read(
        "SELECT place, seed, prompt, contender FROM sweep_runs WHERE sweep = ? AND error IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.id = sweep_runs.run) ORDER BY place",
        [mine.id],
    )
    return [Cell(**row, setup=mine.plan.setup(row["seed"], row["prompt"], row["contender"])) for row in rows]


def _claim(store: Store, mine: Sweep) -> None:
    """One process works on one sweep of a person at a time. Raises `Busy`."""
    taken = ""

    def change(db: Database) -> None:
        nonlocal taken
        for row in list(db.query("SELECT id, process, process_started FROM sweeps WHERE owner = ?", [mine.owner])):
            if _alive(row):
                taken = row["id"]
                return
        pid, since = this_process()
        db.execute("UPDATE sweeps SET process = ?, process_started = ? WHERE id = ?", [pid, since, mine.id])

    _written(store, change)
    if taken == mine.id:
        raise Busy("This sweep is being worked on already, in another tab or window.")
    if taken:
        raise Busy("Another sweep of yours is being worked on. Pause it, or wait until it is done.")


def _same_model(store: Store, mine: Sweep, weights: str, header: Started) -> str:
    """The weights that the sweep is about. Raises `OtherModel` for a run on others."""
    if not weights:
        change = "UPDATE sweeps SET model = ?, precision = ?, weights = ? WHERE id = ?"
        values = [header.model, header.precision, header.weights, mine.id]
        _written(store, lambda db: db.execute(change, values))
        return header.weights
    if (header.weights, header.precision) != (weights, mine.precision):
        raise OtherModel(
            f"This sweep was begun with {mine.model} in {mine.precision}, and {header.model} in {header.precision} is "
            "at hand. Numbers of two models do not belong in one table: load the first one, or begin another sweep."
        )
    return weights


def _note(store: Store, id: str, place: int, **columns: str) -> None:
    sets = ", ".join(f"{name} = :{name}" for name in columns)
    sql = f"UPDATE sweep_runs SET {sets} WHERE sweep = :sweep AND place = :place"
    _written(store, lambda db: db.execute(sql, {**columns, "sweep": id, "place": place}))


def _written(store: Store, change: Any) -> None:
    if not store.write(change, patient=True):
        raise Unwritable(store.problem or "The database cannot be written.")


def _alive(row: Mapping[str, Any]) -> bool:
    return row["process"] is not None and is_alive(row["process"], row["process_started"])


def _sweep(row: dict[str, Any]) -> Sweep:
    return Sweep(
        plan=msgspec.json.decode(row["plan"], type=Plan),
        at_work=_alive(row),
        **{name: row[name] for name in ("id", "owner", "created", "model", "precision", "weights", "done", "failed")},
    )


def _hash(tokens: Sequence[int]) -> str:
    return hashlib.sha256(msgspec.json.encode(tokens)).hexdigest()[:16]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
