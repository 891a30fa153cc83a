"""The official JSON Schema Test Suite, put to every engine: what it keeps, what it refuses, what it gets wrong.

    python -m benchmarks.suite                        all installed engines; print the table; compare with the ratchet
    python -m benchmarks.suite --engines llguidance   only these
    python -m benchmarks.suite --ratchet              and write the counts down as the new ones to hold

Protocol of "Generating Structured Outputs from Language Models: Benchmark and Studies" (Geng et al., arXiv 2501.10868):
draft 2020-12, one schema per group, every instance of the group fed through the mask, token by token, with the end
behind it. A group is

    pass      when every instance is classified as the suite says
    refused   when the engine says that it cannot enforce the schema
    under     when an invalid instance is accepted; over, when a valid one is refused; both, when both happen
    failed    when the engine crashes, gives up, or needs longer than `SECONDS`

The suite is read from the source archive of jsonschema 4.26.0, which pip fetches into a folder that goes away again;
nothing of it is kept here. Instances are written by Python's own JSON, characters beyond ASCII as they are; schemas
are compiled with any whitespace.

The ratchet (`suite_ratchet.json`) holds the counts per engine and version. A result that passes fewer groups, or
accepts invalid instances in more, is a step back, and the command ends with an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

import engines
from benchmarks.report import save, table
from engines.grammars.peers import ENGINES, Engine, installed
from engines.grammars.trials import SECONDS, Examiner, Question, Report, examine
from engines.grammars.vocabulary import Vocabulary

ARCHIVE = "jsonschema==4.26.0"
DRAFT = "json/tests/draft2020-12/"
RATCHET = Path(__file__).parent / "suite_ratchet.json"
CLASSES = ("pass", "refused", "under", "over", "both", "failed")


class Group(msgspec.Struct, frozen=True):
    """A schema with instances."""

    file: str
    name: str
    schema: Any
    instances: tuple[tuple[Any, bool], ...]
    """Value, and whether the suite says that it is valid."""


class Outcome(msgspec.Struct, frozen=True):
    """One group with one engine."""

    file: str
    name: str
    kind: str
    message: str = ""


class Counts(msgspec.Struct, frozen=True):
    """What an engine came to."""

    version: str
    counts: dict[str, int]


class Suite(msgspec.Struct, frozen=True):
    """The whole result."""

    archive: str
    groups: int
    engines: dict[str, Counts]
    outcomes: dict[str, list[Outcome]]


def fetched(folder: Path) -> list[Group]:
    """The groups of the draft's own files, optional ones left out. Raises `subprocess.CalledProcessError` offline."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), ARCHIVE], check=True, stdout=subprocess.DEVNULL)
    return list(groups_of(next(folder.glob("*.tar.gz"))))


def groups_of(archive: Path) -> Iterator[Group]:
    """The groups in a source archive of jsonschema."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            _, found, rest = member.name.partition(DRAFT)
            if not found or "/" in rest or not rest.endswith(".json"):
                continue
            opened = tar.extractfile(member)
            assert opened is not None
            for group in json.load(opened):
                instances = tuple((test["data"], test["valid"]) for test in group["tests"])
                yield Group(rest.removesuffix(".json"), group["description"], group["schema"], instances)


def classified(report: Report, valid: Sequence[bool]) -> str:
    """The class of a group, from what was accepted and what is valid."""
    if report.status == "refused":
        return "refused"
    if report.status != "ok" or any(fed.error for fed in report.fed):
        return "failed"
    under = any(fed.accepted and not fits for fed, fits in zip(report.fed, valid, strict=True))
    over = any(fits and not fed.accepted for fed, fits in zip(report.fed, valid, strict=True))
    return "both" if under and over else "under" if under else "over" if over else "pass"


def run(engine: Engine, groups: Sequence[Group], vocabulary: Vocabulary, examiner: Examiner) -> list[Outcome]:
    """Every group with one engine."""
    outcomes = []
    for group in groups:
        question = Question(
            engine,
            "json schema",
            json.dumps(group.schema),
            "any",
            tuple(tuple(vocabulary.tokenise(json.dumps(value, ensure_ascii=False))) for value, _ in group.instances),
        )
        report = examine(question, vocabulary) if engine == "llguidance" else examiner.ask(question)
        kind = classified(report, [fits for _, fits in group.instances])
        message = report.message or next((fed.error for fed in report.fed if fed.error), "")
        outcomes.append(Outcome(group.file, group.name, kind, message))
    return outcomes


def counted(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many groups are in each class."""
    found = Counter(outcome.kind for outcome in outcomes)
    return {kind: found[kind] for kind in CLASSES}


def steps_back(held: dict[str, Counts], now: dict[str, Counts]) -> list[str]:
    """What is worse than the ratchet, in sentences; versions that differ are compared all the same, and named."""
    found = []
    for engine, counts in now.items():
        if engine not in held:
            continue
        before, after = held[engine].counts, counts.counts
        who = f"{engine} {counts.version} (held by {held[engine].version})"
        if after["pass"] < before["pass"]:
            found.append(f"{who} passes {after['pass']} groups, {before['pass']} before.")
        if (lax := after["under"] + after["both"]) > (lax_before := before["under"] + before["both"]):
            found.append(f"{who} accepts invalid instances in {lax} groups, {lax_before} before.")
    return found


def tables(result: Suite) -> str:
    """The counts, engine by engine."""
    rows = [
        [f"{engine} {counts.version}", *(str(counts.counts[kind]) for kind in CLASSES)]
        for engine, counts in result.engines.items()
    ]
    return f"{result.groups} groups of draft 2020-12, {result.archive}\n\n" + table(["engine", *CLASSES], rows)


def read_ratchet(path: Path = RATCHET) -> dict[str, Counts]:
    """The counts that are held."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Counts]) if path.is_file() else {}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--engines", default="", metavar="A,B", help="only these engines")
    options.add_argument("--ratchet", action="store_true", help="write the counts down as the new ones to hold")
    options.add_argument("--results", type=Path, metavar="FOLDER", help="where to keep every outcome, as JSON")
    chosen = options.parse_args(argv)
    here = installed()
    wanted = [name.strip() for name in chosen.engines.split(",") if name.strip()] or list(here)
    if missing := [name for name in wanted if name not in here]:
        sys.exit(f"{missing[0]} is not installed here; there are {', '.join(here)}.")
    vocabulary = engines.load().vocabulary
    with tempfile.TemporaryDirectory() as folder:
        groups = fetched(Path(folder))
    outcomes: dict[str, list[Outcome]] = {}
    with Examiner(vocabulary, SECONDS) as examiner:
        for engine in (engine for engine in ENGINES if engine in wanted):
            start = time.perf_counter()
            outcomes[engine] = run(engine, groups, vocabulary, examiner)
            print(f"{engine}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    result = Suite(
        ARCHIVE,
        len(groups),
        {name: Counts(here[name], counted(outcomes[name])) for name in ENGINES if name in outcomes},
        outcomes,
    )
    print(tables(result))
    held = read_ratchet()
    worse = steps_back(held, result.engines)
    print("\n".join(worse), file=sys.stderr, end="\n" if worse else "")
    if chosen.ratchet:
        RATCHET.write_bytes(msgspec.json.format(msgspec.json.encode(held | result.engines), indent=1) + b"\n")
    if chosen.results:
        print(f"Kept in {save(result, 'suite', chosen.results)}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
