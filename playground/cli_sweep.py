"""`python -m playground sweep`: a set of prompts with several methods and seeds; Ctrl-C pauses, `--resume` goes on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from engines.errors import DecodingError, shown

if TYPE_CHECKING:
    from playground.executors import Executor
    from playground.store import Store
    from playground.sweep import Progress, Sweep
    from playground.sweep_report import Report, Spread

OWNER = "command line"
MODEL = "smollm2-135m"
PLANNED: dict[str, Any] = {"prompts": None, "method": [], "seeds": "0", "max_new_tokens": 64, "raw": False}
"""Options that a sweep which goes on has answered already."""


class Refused(DecodingError):
    """The command line asks for something that cannot be swept."""


def options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `sweep`."""
    command.add_argument(
        "--prompts", metavar="FILE|shipped[:CATEGORY]", help="JSONL or CSV with a column prompt, or .txt"
    )
    command.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="ID[:NAME=VALUE,…]",
        help="a method with settings; give it several times, the baseline first",
    )
    command.add_argument("--seeds", default="0", metavar="S,…", help="default: %(default)s")
    command.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="default: %(default)s")
    command.add_argument("--raw", action="store_true", help="continue prompts as they stand, without a chat template")
    command.add_argument("--model", default="", metavar="ID", help=f"default: {MODEL}, or that of the resumed sweep")
    command.add_argument("--precision", default="", metavar="P", help="how the weights are held, e.g. float32, int8")
    command.add_argument("--executor", choices=["local", "ray"], default="local", help="default: %(default)s")
    command.add_argument(
        "--workers", type=int, metavar="N", help="with ray: workers at once; default: one per CPU or GPU"
    )
    command.add_argument("--resume", metavar="ID", help="go on with a sweep, or: last")
    command.add_argument("--again", action="store_true", help="with --resume: do failed runs again")
    command.add_argument("--csv", metavar="FILE", help="write every run as a line; - is standard output")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def sweep(arguments: argparse.Namespace) -> int:
    """Works on a sweep; the table goes to standard output, progress to standard error."""
    from playground.store import Store

    if arguments.csv == "-" and arguments.json:
        raise Refused("--json and --csv - would both write to standard output. Give --csv a file.")
    if arguments.workers is not None and (arguments.workers < 1 or arguments.executor != "ray"):
        raise Refused("--workers is a number from 1, and goes with --executor ray.")
    with ExitStack() as stack:
        if not arguments.resume:
            made = _plan(arguments)  # whatever is wrong with it shall be said before a model is loaded
        store = stack.enter_context(Store.open())
        if arguments.resume:
            mine = _resumed(store, arguments)
        else:
            from playground.sweep import begin
            from playground.sweep import sweep as find_sweep

            card = _model(arguments.model or MODEL, arguments.precision)
            mine = find_sweep(store, begin(store, OWNER, made, model=card[0], precision=card[1]))
            print(f"sweep {mine.id}: {mine.plan.count:,} runs", file=sys.stderr)
        code = _drive(store, mine, arguments)
        _tell(store, mine.id, arguments)
    return code


def _plan(arguments: argparse.Namespace) -> Any:
    from playground.cli import read_file
    from playground.cli_compare import contestant
    from playground.prompt_set import MOST_BYTES, read
    from playground.sweep import plan

    if not arguments.prompts:
        raise Refused("Say which prompts: --prompts FILE, --prompts shipped, or --resume ID to go on with a sweep.")
    if not arguments.method:
        raise Refused("Give --method at least once, the baseline first.")
    prompts = read(arguments.prompts, lambda name: read_file(name, "The prompt file", MOST_BYTES))
    named = [contestant(text) for text in arguments.method]
    return plan(prompts, named, _seeds(arguments.seeds), arguments.max_new_tokens, raw=arguments.raw)


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise Refused(f"--seeds takes whole numbers with commas between them, not {shown(text)}.") from None


def _model(name: str, precision: str) -> tuple[str, str]:
    from engines.models import catalogue

    card = catalogue.find(name)
    return card.id, precision or card.precision


def _resumed(store: Store, arguments: argparse.Namespace) -> Sweep:
    from playground import sweep

    for name, usual in PLANNED.items():
        if getattr(arguments, name) != usual:
            raise Refused(f"The sweep says what to run, so --{name.replace('_', '-')} cannot be given beside --resume.")
    id = arguments.resume
    if id == "last":
        newest = sweep.sweeps(store, OWNER, limit=1)
        if not newest:
            raise Refused("There is no sweep to go on with.")
        id = newest[0].id
    mine = sweep.sweep(store, id)
    if arguments.again:
        sweep.try_again(store, mine.owner, id)
    return sweep.sweep(store, id)


def _executor(store: Store, mine: Sweep, arguments: argparse.Namespace) -> Executor:
    from functools import partial

    import engines
    from playground.cli import progress_line
    from playground.executors import InProcess

    name, precision = arguments.model or mine.model, arguments.precision or mine.precision
    if arguments.executor == "ray":
        from playground.ray_executor import Model, OnRay

        return OnRay(Model(name, precision), partial(store.recording, owner=mine.owner), arguments.workers)
    with progress_line() as progress:
        model = engines.load(name, precision=precision, progress=progress)
    return InProcess(lambda setup: store.recording(setup.begin(model), owner=mine.owner))


def _drive(store: Store, mine: Sweep, arguments: argparse.Namespace) -> int:
    from playground.cli import progress_line
    from playground.sweep import drive

    if not mine.left:
        print("Nothing is left to do.", file=sys.stderr)
        return 0
    progress: Progress | None = None
    try:
        executor = _executor(store, mine, arguments)
        with progress_line() as show, closing(_watched(drive(store, mine.id, mine.owner, executor), show)) as steps:
            for latest in steps:
                progress = latest
    except (KeyboardInterrupt, DecodingError) as error:
        done = progress.done + progress.failed if progress else mine.done + mine.failed
        said = "" if isinstance(error, KeyboardInterrupt) else f" {error}"
        print(f"Paused after {done:,} of {mine.plan.count:,} runs.{said}", file=sys.stderr)
        print(f"Go on with: python -m playground sweep --resume {mine.id}", file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 2
    return 0


def _watched(steps: Generator[Progress], show: Any) -> Generator[Progress]:
    for progress in steps:
        if show is not None:
            left = f", {_duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
            doing = f"{progress.done + progress.failed} of {progress.total}{left}: {progress.doing}"[:100]
            show((progress.done + progress.failed) / max(1, progress.total), doing)
        yield progress


def _tell(store: Store, id: str, arguments: argparse.Namespace) -> None:
    from playground.sweep_report import as_csv, as_json, report

    whole = report(store, id)
    if arguments.csv == "-":
        print(as_csv(whole), end="")
    elif arguments.csv:
        with open(arguments.csv, "w", encoding="utf-8", newline="") as file:
            file.write(as_csv(whole))
    if arguments.json:
        print(as_json(whole))
    elif arguments.csv != "-":
        print(as_table(whole))
    errors = [one.error for one in whole.results if one.error]
    if errors:
        print(f"{len(errors)} of {len(whole.results)} runs failed; the first: {errors[0]}", file=sys.stderr)


def as_table(whole: Report) -> str:
    """Columns for a terminal: medians, with quartiles for the speed-up."""
    table = [("METHOD", "RUNS", "TOKENS/S", "MEAN", "TOKENS/PASS", "ACCEPTED", "SPEED-UP", "QUARTILES", "SAME OUTPUT")]
    for line in whole.lines:
        table.append(
            (
                line.label,
                f"{line.done}" + (f" ({line.failed} failed)" if line.failed else ""),
                f"{line.speed.median:.1f}" if line.speed else "–",
                f"{line.mean:.1f}" if line.mean is not None else "–",
                f"{line.per_pass:.2f}" if line.per_pass is not None else "–",
                f"{line.acceptance:.0%}" if line.acceptance is not None else "–",
                f"{line.speed_up.median:.2f}" if line.speed_up else "–",
                _quartiles(line.speed_up),
                f"{line.same} of {line.compared}" if line.compared else "–",
            )
        )
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    return "\n".join(lines)


def _quartiles(spread: Spread | None) -> str:
    return f"{spread.low:.2f}–{spread.high:.2f}" if spread else "–"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
