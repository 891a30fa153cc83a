"""What circuits cost: the estimate, the exact maps with and without each trick, and the loop that they replace.

    python -m benchmarks.circuits              measure; print the tables; keep them in benchmarks/results
    python -m benchmarks.circuits --quick      one round, fewer layers; keep nothing

Everyone answers the same question: the prompts of the shipped task on indirect objects. The naive loop runs the model
once per site, layer and position; it is timed on patches spread evenly over layers and positions, and the exact maps
without a trick on layers spread evenly, and scaled up: the tables say from how many. Contestants alternate, round by
round. What the variants find must be what the naive loop finds, and is compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import torch

import engines
from benchmarks.command import Benchmark
from benchmarks.report import Setting, table
from engines.attribution import exact
from engines.attribution.estimate import STREAM_SITES, Runs, compare, estimate
from engines.attribution.questions import of_task
from engines.events import Site
from engines.models.rules import GRADIENT, RELP
from engines.models.white_box import Chains, WhiteBox
from playground.rounds import alternating

PAIRS = 8


@dataclass(frozen=True, slots=True)
class Tricks:
    """Which of the four observations of `engines.attribution.exact` are made use of."""

    causality: bool = True
    prefix: bool = True
    depth: bool = True
    packing: bool = True


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant: seconds for the whole answer, by round, and how much of it was really run."""

    name: str
    seconds: tuple[float, ...]
    sampled: int
    """Patches that were run; the whole answer has `patches`."""
    patches: int
    off: float | None = None
    """The greatest difference from the naive loop's effects, where both were run."""


class Circuits(msgspec.Struct, frozen=True, kw_only=True):
    """The whole result."""

    setting: Setting
    task: str
    pairs: int
    length: int
    first: int
    timings: list[Timing]
    memory: tuple[int, ...] = ()
    """Bytes of the graph of one estimate, for 1 pair of 16, 64 and 256 tokens; empty where it cannot be measured."""


def sweep(box: WhiteBox, runs: Runs, layers: Sequence[int], tricks: Tricks) -> dict[tuple[Site, int, int], float]:
    """Effects by site, layer and position, with some tricks left out."""
    question = runs.question
    length, pairs = question.length, question.clean.shape[0]
    start = question.first if tricks.causality else 0
    found: dict[tuple[Site, int, int], float] = {}
    for layer in layers:
        for sites in [STREAM_SITES] if tricks.packing else [[site] for site in STREAM_SITES]:
            rows = pairs * len(sites)
            groups = list(exact.batches(start if tricks.prefix else 0, length, rows))
            if not tricks.prefix:
                most = max(1, exact.MOST_NODES // (rows * length))
                places = range(start, length)
                groups = [tuple(places[at : at + most]) for at in range(0, len(places), most)]
            if not tricks.packing:
                groups = [(root,) for group in groups for root in group]
            for group in groups:
                effects = _patched(box, runs, layer, sites, group, tricks)
                for site, row in zip(sites, effects, strict=True):
                    found |= {(site, layer, place): value for place, value in zip(group, row, strict=True)}
    return found


def _patched(
    box: WhiteBox, runs: Runs, layer: int, sites: Sequence[Site], places: Sequence[int], tricks: Tricks
) -> list[list[float]]:
    """Effects (sites, places) of one pass."""
    base, other, pairs = runs.base, runs.other, runs.clean.shape[0]
    chains = Chains(tuple(places) if tricks.prefix else (0,) * len(places), runs.question.length)
    at = chains.starts if tricks.prefix else [begin + place for begin, place in zip(chains.starts, places, strict=True)]
    begin = layer if tricks.depth else 0
    stream = base.resid_pre[begin][:, chains.positions].repeat(len(sites), 1, 1)
    edits = {}
    for index, site in enumerate(sites):
        rows = slice(index * pairs, (index + 1) * pairs)
        patch = exact.written(rows, at, other.site(site)[layer][:, list(places)])
        if site == "resid_pre" and begin == layer:
            stream = patch(stream)
        else:
            edits[site, layer] = patch
    hidden = box.read_chains(base, chains, begin, stream, edits)
    return exact.effects(box, runs, hidden, len(sites)).tolist()


class Race:
    """A question, and everyone who answers it."""

    def __init__(self, box: WhiteBox, runs: Runs, quick: bool) -> None:
        self.box, self.runs = box, runs
        layers, length = box.layers, runs.question.length
        self.patches = len(STREAM_SITES) * layers * length
        self.some_layers = list(range(1, layers, max(1, layers // (2 if quick else 5))))
        stride = max(1, self.patches // (12 if quick else 36)) | 1
        # In the layers that everybody measures, so that all can be compared; a naive pass costs the same anywhere.
        self.naive_places = [
            (STREAM_SITES[at % 3], self.some_layers[at // 3 % len(self.some_layers)], at // 3 // layers)
            for at in range(0, self.patches, stride)
        ]
        self.seconds: dict[str, list[float]] = {}
        self.sampled: dict[str, int] = {}
        self.effects: dict[str, dict[tuple[Site, int, int], float]] = {}

    def contestants(self) -> dict[str, Callable[[], None]]:
        """By name."""
        made: dict[str, Callable[[], None]] = {
            "attribution patching": lambda: self._estimate("attribution patching", GRADIENT, False),
            "relevance patching": lambda: self._estimate("relevance patching", RELP, False),
            "relevance patching with edges": lambda: self._estimate("relevance patching with edges", RELP, True),
            "exact, all tricks": self._exact,
            "exact, naive loop": self._naive,
        }
        for trick in Tricks.__dataclass_fields__:
            name = f"exact, without {trick}"
            made[name] = lambda name=name, trick=trick: self._without(name, replace(Tricks(), **{trick: False}))  # type: ignore[misc]
        return made

    def _estimate(self, name: str, rules: object, edges: bool) -> None:
        start = time.perf_counter()
        estimate(self.box, self.runs.question, name, rules, edges=edges)  # type: ignore[arg-type]
        self._enter(name, time.perf_counter() - start, self.patches)

    def _exact(self) -> None:
        start = time.perf_counter()
        found = {
            (patch.site, patch.layer, place): float(effect or 0.0)
            for patch in exact.maps(self.box, self.runs, STREAM_SITES)
            for place, effect in enumerate(patch.effects)
        }
        self._enter("exact, all tricks", time.perf_counter() - start, self.patches)
        self.effects["exact, all tricks"] = found

    def _without(self, name: str, tricks: Tricks) -> None:
        start = time.perf_counter()
        self.effects[name] = sweep(self.box, self.runs, self.some_layers, tricks)
        share = len(self.some_layers) / self.box.layers
        self._enter(name, (time.perf_counter() - start) / share, round(self.patches * share))

    def _naive(self) -> None:
        start = time.perf_counter()
        self.effects["exact, naive loop"] = {
            (site, layer, place): exact.naively(self.box, self.runs, site, layer, place)
            for site, layer, place in self.naive_places
        }
        share = len(self.naive_places) / self.patches
        self._enter("exact, naive loop", (time.perf_counter() - start) / share, len(self.naive_places))

    def _enter(self, name: str, seconds: float, sampled: int) -> None:
        self.seconds.setdefault(name, []).append(seconds)
        self.sampled[name] = sampled

    def timings(self) -> list[Timing]:
        """In the order of the contestants."""
        truth = self.effects["exact, naive loop"]
        found = []
        for name in self.contestants():
            mine = self.effects.get(name, {})
            both = [abs(mine[place] - effect) for place, effect in truth.items() if place in mine]
            found.append(
                Timing(
                    name=name,
                    seconds=tuple(self.seconds[name]),
                    sampled=self.sampled[name],
                    patches=self.patches,
                    off=max(both) if both and name != "exact, naive loop" else None,
                )
            )
        return found


def graph_bytes(box: WhiteBox, length: int) -> int:
    """Bytes that autograd keeps for one estimate of a pair of prompts of this length."""
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in box.parameters()}
    ids = torch.arange(100, 100 + length)[None]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        box.read(ids, rules=RELP, gradients=True)
    return sum(size for pointer, size in held.items() if pointer not in weights)


def _measured(chosen: argparse.Namespace) -> Circuits:
    model = engines.load(chosen.model)
    box = WhiteBox(model.network)
    question = of_task(model, "ioi", 2 if chosen.quick else PAIRS)
    runs = compare(box, question, gradients=False, keep=("sites", "keys"))
    race = Race(box, runs, chosen.quick)
    contestants = race.contestants()
    rounds = 1 if chosen.quick else chosen.rounds
    estimate(box, question, "warm up", RELP)
    for turn in range(rounds):
        for name in alternating(list(contestants), turn):
            print(name, file=sys.stderr)
            contestants[name]()
    return Circuits(
        setting=Setting.of(model, max_new_tokens=0, rounds=rounds, quick=chosen.quick),
        task=question.task,
        pairs=question.clean.shape[0],
        length=question.length,
        first=question.first,
        timings=race.timings(),
        memory=tuple(graph_bytes(box, length) for length in (16, 64, 256)),
    )


def tables(result: Circuits) -> str:
    """Seconds, and how many times faster than the naive loop."""
    medians = {timing.name: statistics.median(timing.seconds) for timing in result.timings}
    naive = medians["exact, naive loop"]
    rows = [
        [
            timing.name,
            f"{medians[timing.name]:.2f}",
            f"{naive / medians[timing.name]:.1f}×",
            f"{timing.sampled:,} of {timing.patches:,}",
            "" if timing.off is None else f"{timing.off:.0e}",
        ]
        for timing in result.timings
    ]
    text = (
        f"The task {result.task}: {result.pairs} prompts of {result.length} tokens, the first difference at token "
        f"{result.first}.\n\n"
    )
    text += table(["", "seconds", "faster than the naive loop", "patches run", "off by at most"], rows)
    if result.memory:
        sizes = ", ".join(
            f"{size / 1e6:.0f} MB for {length} tokens"
            for size, length in zip(result.memory, (16, 64, 256), strict=True)
        )
        text += f"\n\nThe graph of one estimate, for one prompt: {sizes}."
    return text


BENCHMARK = Benchmark(
    "circuits",
    __doc__ or "",
    Circuits,
    _measured,
    tables,
    quick="one round, fewer prompts and layers",
    numbers={"rounds": (3, "rounds")},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
