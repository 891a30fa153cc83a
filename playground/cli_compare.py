"""`python -m playground compare`: two to four methods on one prompt in alternating rounds, and a table of results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from engines.errors import DecodingError, shown

if TYPE_CHECKING:
    from engines.events import Event
    from playground.comparison import Comparison, Runs
    from playground.setup import Setup
    from playground.standings import Standing

OWNER = "command line"
MODEL = "smollm2-135m"


class Refused(DecodingError):
    """The command line asks for something that cannot be compared."""


def options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `compare`."""
    command.add_argument(
        "--method",
        action="append",
        required=True,
        metavar="ID[:NAME=VALUE,…]",
        help="a contestant; give 2 to 4, the baseline first",
    )
    command.add_argument("--prompt", required=True, metavar="TEXT|@FILE", help="@- reads standard input")
    command.add_argument("--rounds", type=int, default=3, metavar="N", help="1 to 9, default: %(default)s")
    command.add_argument("--max-new-tokens", type=int, default=96, metavar="N", help="default: %(default)s")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    command.add_argument("--raw", action="store_true", help="continue the prompt as it stands, without a chat template")
    command.add_argument("--model", default="", metavar="ID", help=f"default: {MODEL}")
    command.add_argument("--precision", default="", metavar="P", help="how the weights are held, e.g. float32, int8")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    command.add_argument("--no-store", action="store_true", help="do not keep the runs")


def compare(arguments: argparse.Namespace) -> int:
    """Runs the comparison; the table goes to standard output, progress to standard error."""
    from playground.cli import read_prompt
    from playground.comparison import FEWEST, MOST, MOST_ROUNDS

    if not FEWEST <= len(arguments.method) <= MOST:
        raise Refused(f"Give --method {FEWEST} to {MOST} times, not {len(arguments.method)}.")
    if not 1 <= arguments.rounds <= MOST_ROUNDS:
        raise Refused(f"--rounds must be from 1 to {MOST_ROUNDS}, not {arguments.rounds}.")
    prompt = read_prompt(arguments.prompt)
    named = [contestant(text) for text in arguments.method]
    from engines.method import find

    for id, params in named:
        find(id).validate(params)
    return _compared(arguments, prompt, named)


def contestant(text: str) -> tuple[str, dict[str, str]]:
    """Method and settings of `id:name=value,name=value`. Raises `Refused`."""
    from playground.cli import readable

    id, _, settings = readable(text, "--method").partition(":")
    params: dict[str, str] = {}
    for pair in filter(None, settings.split(",")):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise Refused(f"Write a setting as name=value, not {shown(pair)}.")
        params[name.strip().replace("-", "_")] = value.strip()
    return id.strip(), params


def _compared(arguments: argparse.Namespace, prompt: str, named: Sequence[tuple[str, dict[str, str]]]) -> int:
    import engines
    from playground.cli import print_json, progress_line
    from playground.comparison import Comparison, Contestant, Runs, race
    from playground.kept_comparisons import keep
    from playground.recording import new_run_id
    from playground.setup import Setup
    from playground.standings import standings
    from playground.store import Store

    setups = [
        Setup(
            method=id,
            prompt=prompt,
            params=dict(params),
            seed=arguments.seed,
            max_new_tokens=arguments.max_new_tokens,
            raw=arguments.raw,
        )
        for id, params in named
    ]
    contestants = tuple(map(Contestant.of, setups))
    comparison = Comparison(new_run_id(), contestants, arguments.rounds)
    runs = Runs(comparison)
    with ExitStack() as stack:
        with progress_line() as progress:
            model = engines.load(arguments.model or MODEL, precision=arguments.precision, progress=progress)
        store = None if arguments.no_store else stack.enter_context(Store.open())

        def start(setup: Setup, name: str) -> Iterator[Event]:
            events = setup.begin(model)
            return events if store is None else store.recording(events, owner=OWNER, name=name)

        whole = arguments.rounds * len(contestants)
        with progress_line() as progress:
            racing = stack.enter_context(closing(race(comparison, start)))
            for entry in racing:
                runs.take(entry)
                if entry.whole and progress is not None:
                    done = sum(one.whole for entries in runs.entries for one in entries)
                    progress(done / whole, f"round {entry.round + 1}: {contestants[entry.contestant].title}")
        found = standings([streams for _, streams in runs.streams])
        if store is not None:
            keep(store, OWNER, comparison, runs.ids, model.cost_curve())
    if arguments.json:
        print_json(as_object(comparison, runs, found))
    else:
        print(as_table(comparison, found))
        for standing, one in zip(found[1:], contestants[1:], strict=True):
            print(f"{one.title}: {sentence(standing)}", file=sys.stderr)
    return 0


def as_table(comparison: Comparison, found: Sequence[Standing]) -> str:
    """Columns for a terminal. Speed-ups are medians over rounds with their range."""
    head = ("", "TOKENS/S", "SPEED-UP", "TOKENS/PASS", "ACCEPTED", "FIRST TOKEN", "PASSES", "OUTPUT")
    rows: list[tuple[str, ...]] = [head]
    for one, standing in zip(comparison.contestants, found, strict=True):
        totals, speed, ratio = standing.totals, standing.tokens_per_second, standing.speed_up
        if totals is None or speed is None or standing.time_to_first_token is None:
            rows.append((one.title, *["–"] * 7))
            continue
        accepted = "–" if totals.acceptance_rate is None else f"{totals.acceptance_rate:.0%}"
        rows.append(
            (
                one.title,
                f"{speed.median:.1f} ({speed.minimum:.1f}–{speed.maximum:.1f})",
                f"{ratio.median:.2f} ({ratio.minimum:.2f}–{ratio.maximum:.2f})" if ratio else "baseline",
                f"{totals.tokens_per_target_pass:.2f}",
                accepted,
                f"{1000 * standing.time_to_first_token.median:.0f} ms",
                f"{totals.target_passes}+{totals.prompt_passes}+{totals.draft_passes}",
                standing.relation,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "PASSES: target, prompt, draft. Ranges: slowest and fastest round."])


def sentence(standing: Standing) -> str:
    """How an output relates to the baseline's."""
    parting = standing.parting
    place = standing.shared + 1
    if standing.relation == "same":
        return f"the same output as the baseline, all {standing.shared} tokens."
    if standing.relation == "purpose":
        return f"parts from the baseline at token {place}, by purpose: the two ask for different text."
    if standing.relation == "draws":
        return f"parts from the baseline at token {place}: the same distribution, other draws."
    if parting is None:
        return "nothing can be said of its output."
    p, q = ("unknown" if value is None else f"{value:.4f}" for value in (parting.ours_p, parting.theirs_p))
    kind = f"a float tie, {parting.gap:.1g} apart" if parting.tie else "not a float tie"
    return f"differs from the baseline at token {place}: probabilities {p} and {q}, {kind}."


def as_object(comparison: Comparison, runs: Runs, found: Sequence[Standing]) -> dict[str, Any]:
    """Everything as one JSON-ready object."""
    import msgspec

    first = comparison.contestants[0].setup
    return {
        "comparison": comparison.id,
        "prompt": first.prompt,
        "seed": first.seed,
        "max_new_tokens": first.max_new_tokens,
        "rounds": comparison.rounds,
        "contestants": [
            {"title": one.title, "method": one.setup.method, "params": one.setup.params, "runs": ids}
            | msgspec.to_builtins(standing)
            for one, ids, standing in zip(comparison.contestants, runs.ids, found, strict=True)
        ],
    }
