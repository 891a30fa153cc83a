"""What keeping costs: events written per second, opening a database of ten thousand runs, finding one in it.

    python -m benchmarks.store            measure; print the table; keep it in benchmarks/results
    python -m benchmarks.store --quick    two hundred runs; keep nothing

No model runs: the runs that come with the program are recorded again and again, under prompts and outputs of other
words, so events have the sizes that they really have. Writing is measured as the page writes, through a recording
that is read as fast as it goes. Searches are a person's: a word, two words, a beginning, a filter, the next page, each
in a store that has just been asked something else; the page itself adds its transport.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import msgspec

from benchmarks.command import Benchmark
from benchmarks.report import processor, table
from engines.events import Event, Finished, Started
from engines.runner import machine
from playground.atlas import atlas
from playground.search import Search, facets, search
from playground.store import Store
from playground.ui.shelf import RECORDED, read_recording

OWNER = "benchmark-benchmark-benchmark-32"
_WORDS = (
    "photosynthesis river leaf green water light token model sea planet poem rain bread guitar picnic capital colour"
    " train winter garden music number letter story bridge market engine cloud island candle mirror"
)
WORDS = _WORDS.split()
RARE = "axolotl"
"""In one run of every thousand."""
OPENINGS = 7
SEARCHES = 200


class Keeping(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement. Times in seconds."""

    created: str
    machine: str
    processor: str
    sqlite: str
    quick: bool
    runs: int
    events: int
    megabytes: float
    events_per_second: float
    """With everything that is kept: the run's row, its words for the search, its acceptance."""
    megabytes_per_second: float
    opening: list[float]
    """A new connection, the tables checked, the first page of the list read."""
    searches: dict[str, list[float]]
    """One list of latencies per kind of search."""


def measure(runs: int, *, quick: bool, events_in_a_run: int) -> Keeping:
    """Fills a database, then opens it and searches it."""
    rng = random.Random(0)
    shipped = [read_recording(RECORDED, file.name.split(".")[0]) for file in sorted(RECORDED.glob("*.jsonl*"))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.sqlite"
        written, seconds = 0, 0.0
        with Store.open(path) as store:
            for number in range(runs):
                events = [*reworded(shipped[number % len(shipped)], number, rng, events_in_a_run)]
                start = time.perf_counter()
                for _ in store.recording(iter(events), owner=OWNER):
                    pass
                seconds += time.perf_counter() - start
                written += len(events)
                if number % 1000 == 999:
                    print(f"{number + 1:,} runs", file=sys.stderr)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        opening = [timed(lambda: opened(path)) for _ in range(OPENINGS)]
        with Store.open(path) as store:
            latencies = searched(store, rng, 20 if quick else SEARCHES)
    return Keeping(
        created=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=machine("cpu"),
        processor=processor(),
        sqlite=sqlite3.sqlite_version,
        quick=quick,
        runs=runs,
        events=written,
        megabytes=size / 1e6,
        events_per_second=written / seconds,
        megabytes_per_second=size / 1e6 / seconds,
        opening=opening,
        searches=latencies,
    )


def reworded(events: Sequence[Event], number: int, rng: random.Random, most: int) -> Iterator[Event]:
    """A shipped run, at most `most` events of it, with a prompt and a text of its own."""
    rare = f" {RARE}" if number % 1000 == 0 else ""
    for event in (*events[: most - 1], events[-1]):
        match event:
            case Started():
                prompt = " ".join(rng.choices(WORDS, k=12)) + rare
                yield msgspec.structs.replace(event, prompt=f"{prompt} no{number}")
            case Finished():
                yield msgspec.structs.replace(event, text=" ".join(rng.choices(WORDS, k=80)))
            case _:
                yield event


def opened(path: Path) -> None:
    """What a server does before its first list can be shown."""
    with Store.open(path) as store:
        found = search(store, OWNER, Search())
        assert store.problem is None
        assert found.hits


def searched(store: Store, rng: random.Random, times: int) -> dict[str, list[float]]:
    """Latencies of each kind of search, the kinds taking turns."""
    after = search(store, OWNER, Search()).more

    def words(count: int) -> str:
        return " ".join(rng.choices(WORDS, k=count))

    kinds: dict[str, Callable[[], object]] = {
        "newest runs, with filters to choose from": lambda: (search(store, OWNER, Search()), facets(store, OWNER)),
        "the next page": lambda: search(store, OWNER, Search(), after=after),
        "one word": lambda: search(store, OWNER, Search(words=words(1))),
        "one word, best match first": lambda: search(store, OWNER, Search(words=words(1), order="best")),
        "three words": lambda: search(store, OWNER, Search(words=words(3))),
        "the beginning of a word": lambda: search(store, OWNER, Search(words=words(1)[:3])),
        "a rare word": lambda: search(store, OWNER, Search(words=RARE)),
        "a word that no run has": lambda: search(store, OWNER, Search(words="zzzz")),
        "one word of one method": lambda: search(store, OWNER, Search(words=words(1), method="greedy")),
        "the acceptance atlas": lambda: atlas(store, OWNER, {}),
    }
    latencies: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(times):
        for kind, ask in kinds.items():
            latencies[kind].append(timed(ask))
    return latencies


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def tables(result: Keeping) -> str:
    """Writing and opening, and searching, in Markdown."""
    kept = table(
        ["", "measured"],
        [
            ["events written per second", f"{result.events_per_second:,.0f}"],
            ["megabytes written per second", f"{result.megabytes_per_second:.1f}"],
            [f"opening, first page of {result.runs:,} runs, median", f"{1000 * median(result.opening):.1f} ms"],
        ],
    )
    found = table(
        [f"searching {result.runs:,} runs", "p50", "p95"],
        [
            [kind, f"{1000 * median(latencies):.1f} ms", f"{1000 * quantiles(latencies, n=20)[-1]:.1f} ms"]
            for kind, latencies in result.searches.items()
        ],
    )
    note = (
        f"{result.runs:,} runs of one owner with {result.events:,} events, {result.megabytes:,.0f} MB;"
        f" {result.processor}, {result.machine}; SQLite {result.sqlite}; {result.created[:10]}."
    )
    return f"{kept}\n\n{found}\n\n{note}"


def _measured(chosen: argparse.Namespace) -> Keeping:
    runs = min(chosen.runs, 200) if chosen.quick else chosen.runs
    return measure(runs, quick=chosen.quick, events_in_a_run=chosen.events)


BENCHMARK = Benchmark(
    "store",
    __doc__ or "",
    Keeping,
    _measured,
    tables,
    quick="200 runs, 20 searches",
    numbers={"runs": (10_000, ""), "events": (120, "of one run at most")},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
