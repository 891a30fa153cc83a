"""The command line: the same engines and the same store as the page.

    python -m playground run --method token-recycling --prompt "What is photosynthesis?"
    python -m playground export last --format csv

What a run says goes to standard output; figures, progress and errors go to standard error, an error in one line.
Exit codes: 0 done, 1 something broke, 2 the request cannot be met, 130 interrupted. torch is imported only by the
commands that need it, after the arguments have been checked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any, NoReturn

from engines.errors import DecodingError, shown
from playground.cli_compare import compare
from playground.cli_compare import options as compare_options
from playground.cli_sweep import options as sweep_options
from playground.cli_sweep import sweep

if TYPE_CHECKING:
    from engines.events import Event
    from playground.run_card import RunCard
    from playground.setup import Setup
    from playground.store import StoredRun

OWNER = "command line"
MODEL = "smollm2-135m"
REQUEST = ("method", "param", "raw", "max_new_tokens", "seed", "stop", "time_limit")
"""Options of `run` that a run card answers."""
LONGEST_PROMPT = 16 * 2**20
"""Bytes read of a prompt file; what a model can read is far less, and the engine says how much."""


class Refused(DecodingError):
    """The command line asks for something that cannot be done."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    try:
        arguments = parser().parse_args(argv)
        code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except DecodingError as error:
        return complain(error, 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; without this, Python would complain about it while shutting down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}." if error.filename else error, 1)
    except Exception as error:
        if os.environ.get("DECODING_PLAYGROUND_TRACEBACK"):
            raise
        return complain(f"{type(error).__name__}: {error} (DECODING_PLAYGROUND_TRACEBACK=1 shows where.)", 1)


def complain(problem: object, code: int = 0) -> int:
    """One line on standard error."""
    line = " ".join(str(problem).split())
    print("playground:", "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), file=sys.stderr)
    return code


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse would print the usage first."""

    def error(self, message: str) -> NoReturn:
        sys.exit(complain(f"{message[:200]} (see {self.prog} --help)", 2))


def parser() -> Parser:
    """All commands with their options."""
    top = Parser(prog="playground", description="Watch how language models decode.")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: Any, help: str) -> Parser:
        made: Parser = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=function)
        return made

    listing = command("methods", list_methods, "List the decoding methods, or show one method's card and parameters.")
    listing.add_argument("id", nargs="?", help="a method")
    listing.add_argument("--json", action="store_true", help="as JSON")

    listing = command("models", list_models, "List the models of the short list, or show one and its precisions.")
    listing.add_argument("id", nargs="?", help="a model, or organisation/name on the hub")
    listing.add_argument("--json", action="store_true", help="as JSON")

    run = command("run", run_method, "Decode a prompt. The text goes to standard output, token by token.")
    run.add_argument("--model", metavar="ID", help=f"default: {MODEL}, or the card's")
    run.add_argument("--precision", default="", metavar="P", help="how the weights are held, e.g. float32, int8")
    run.add_argument("--method", default="greedy", metavar="ID", help="default: %(default)s")
    run.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method, @file: from a file"
    )
    asked = run.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", metavar="TEXT|@FILE", help="@- reads standard input; @@ means a plain @")
    asked.add_argument(
        "--card", metavar="FILE", help="do the run of a run card again: identical, or what differs first"
    )
    run.add_argument("--raw", action="store_true", help="continue the prompt as it stands, without a chat template")
    run.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="default: %(default)s")
    run.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    run.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end with the token that completes it")
    run.add_argument("--time-limit", type=float, metavar="SECONDS", help="decode time at most")
    run.set_defaults(request={name: run.get_default(name) for name in REQUEST})
    run.add_argument("--events", metavar="FILE", help="write every event as a line of JSON; - is standard output")
    run.add_argument("--json", action="store_true", help="print one JSON object instead of the text")
    run.add_argument("--no-store", action="store_true", help="do not keep the run")

    comparing = command("compare", compare, "Decode one prompt with 2 to 4 methods in alternating rounds, and compare.")
    compare_options(comparing)

    sweeping = command("sweep", sweep, "Decode a set of prompts with several methods and seeds; can be paused.")
    sweep_options(sweeping)

    replay = command("replay", replay_run, "Type a kept run out again, token by token.")
    replay.add_argument("run", help="a run's id, or: last")
    replay.add_argument("--speed", type=float, metavar="X", help="1 is the pace of the run itself; default: at once")

    export = command("export", export_run, "Write a kept run to standard output or to a file.")
    export.add_argument("run", help="a run's id, or: last")
    export.add_argument(
        "--format", choices=["jsonl", "json", "text", "csv"], default="jsonl", help="default: %(default)s"
    )
    export.add_argument("--output", default="-", metavar="FILE", help="default: standard output")

    search = command(
        "search", search_runs, "Search the runs of the command line by the words of prompt, output and name."
    )
    search.add_argument("words", nargs="*", help="every word must occur; the last may be unfinished")
    for name in ("method", "family", "model", "status"):
        search.add_argument(f"--{name}", default="", metavar=name.upper(), help=f"only runs of this {name}")
    search.add_argument("--since", default="", metavar="DAY", help="created on this day (UTC) or later, as 2026-11-24")
    search.add_argument("--until", default="", metavar="DAY", help="created before this day")
    search.add_argument("--limit", type=int, default=20, metavar="N", help="runs to list, default: %(default)s")
    search.add_argument("--json", action="store_true", help="as JSON")

    bring = command(
        "import", import_file, "Keep the runs of a file of JSON lines, as export writes them; gzip is fine."
    )
    bring.add_argument("file", help="a .jsonl or .jsonl.gz file")

    card = command("card", print_card, "Write a kept run's card: the small JSON that does the run again elsewhere.")
    card.add_argument("run", help="a run's id, or: last")
    card.add_argument("--output", default="-", metavar="FILE", help="default: standard output")

    link = command("link", print_link, "Print the link that opens a kept run's set-up.")
    link.add_argument("run", help="a run's id, or: last")
    link.add_argument("--class", dest="for_class", action="store_true", help="for a class: prompt and seed are fixed")
    link.add_argument("--base", default="http://127.0.0.1:7860/", metavar="URL", help="default: %(default)s")

    gallery = command("gallery", write_gallery, "Write chosen runs as plain web pages that need no server.")
    gallery.add_argument("output", metavar="OUT", help="a folder, new or empty, or an earlier gallery")
    gallery.add_argument("runs", nargs="*", metavar="RUN", help="a run's id, or: last")
    gallery.add_argument("--recorded", action="store_true", help="the runs shipped with the program too")
    gallery.add_argument("--title", default="Decoding Playground", metavar="TEXT", help="default: %(default)s")
    return top


# Methods and models


def list_methods(arguments: argparse.Namespace) -> int:
    from engines.method import find, methods
    from playground.cards import method_card, method_object

    if arguments.id:
        method = find(arguments.id)
        if arguments.json:
            print_json(method_object(method))
        else:
            print(method_card(method))
    elif arguments.json:
        print_json([method_object(method) for method in methods().values()])
    else:
        rows = [(m.id, m.family, "lossless" if m.lossless else "", m.title) for m in methods().values()]
        print_table(("METHOD", "FAMILY", "", "TITLE"), rows)
    return 0


def list_models(arguments: argparse.Namespace) -> int:
    from engines.models.catalogue import catalogue, find

    cards = [find(arguments.id)] if arguments.id else list(catalogue().values())
    from playground.cards import model_card, model_object

    if arguments.json:
        objects = [model_object(card) for card in cards]
        print_json(objects[0] if arguments.id else objects)
    elif arguments.id:
        print(model_card(cards[0]))
    else:
        objects = [model_object(card) for card in cards]
        rows = [(m["id"], f"{m['parameters'] / 1e6:.0f}M", m["licence"], m["state"]) for m in objects]
        print_table(("MODEL", "SIZE", "LICENCE", "STATE"), rows)
    return 0


# Running


def run_method(arguments: argparse.Namespace) -> int:
    from engines.method import find

    if arguments.json and arguments.events == "-":
        raise Refused("--json and --events - would both write to standard output. Give --events a file.")
    card = read_card(arguments) if arguments.card is not None else None
    setup = card.setup if card else read_setup(arguments)
    find(setup.method).validate(setup.params)
    with ExitStack() as stack:
        lines = stack.enter_context(writing(arguments.events)) if arguments.events else None
        import engines
        from engines.events import to_json
        from playground.store import Store
        from playground.transcript import Typewriter, as_object, figures

        with progress_line() as progress:
            model = engines.load(
                (setup.model or MODEL) if arguments.model is None else arguments.model,
                precision=arguments.precision or setup.precision,
                progress=progress,
            )
        events = setup.begin(model)
        store = None if arguments.no_store else stack.enter_context(Store.open())
        recording = stack.enter_context(store.recording(events, owner=OWNER)) if store else None
        typewriter = None if arguments.json or arguments.events == "-" else Typewriter(standard_output())
        seen: list[Event] = []
        status, code = "finished", 0
        try:
            for event in recording or events:
                seen.append(event)
                if lines is not None:
                    lines.write(to_json(event).decode() + "\n")
                if typewriter is not None:
                    typewriter.take(event)
        except KeyboardInterrupt:
            if not seen:
                raise
            status, code = "stopped", 130
        finally:
            if typewriter is not None and seen:
                typewriter.stop()
    kept = recording.run_id if recording is not None and recording.kept else None
    if arguments.json:
        print_json(as_object(seen, run=kept, status=status))
    else:
        print(figures(seen, run=kept, status=status), file=sys.stderr)
    if recording is not None and recording.problem:
        complain(recording.problem)
    if card is not None:
        from playground.run_card import compared, sentence

        comparison = compared(card, seen)
        print(sentence(comparison, model.token), file=sys.stderr)
        code = code or int(not comparison.identical)
    return code


def read_setup(arguments: argparse.Namespace) -> Setup:
    """What the options of `run` ask for."""
    from playground.setup import Setup

    return Setup(
        method=arguments.method,
        prompt=read_prompt(arguments.prompt),
        params=dict(read_params(arguments.param)),
        seed=arguments.seed,
        max_new_tokens=arguments.max_new_tokens,
        raw=arguments.raw,
        stop=tuple(readable(text, "--stop") for text in arguments.stop),
        time_limit=arguments.time_limit,
    )


def read_card(arguments: argparse.Namespace) -> RunCard:
    """The run card that `--card` names; the other options must not ask for something else."""
    from playground import run_card

    for name, default in arguments.request.items():
        if getattr(arguments, name) != default:
            raise Refused(
                f"The run card says what to run, so --{name.replace('_', '-')} cannot be given beside --card."
            )
    return run_card.read(read_file(arguments.card, "The run card", run_card.MOST_BYTES))


def read_prompt(argument: str) -> str:
    """The prompt itself, or the text of the file that it names."""
    return read_text(argument, "--prompt", "The prompt file")


def read_text(argument: str, option: str, what: str) -> str:
    """A text itself, or with @ that of the file that it names; @@ stands for an @ of the text's own."""
    if argument.startswith("@@"):
        return readable(argument[1:], option)
    if not argument.startswith("@"):
        return readable(argument, option)
    name = argument[1:]
    called = "standard input" if name == "-" else f"{what} {shown(name)}"
    content = read_file(name, what, LONGEST_PROMPT)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"{called} is not UTF-8 text: the byte at position {error.start:,} does not fit.") from None


def read_file(name: str, what: str, most: int) -> bytes:
    """The bytes of a file, or of standard input when the name is -; at most `most` of them."""
    called = "standard input" if name == "-" else f"{what} {shown(name)}"
    try:
        with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise Refused(f"{called} does not exist.") from None
    except IsADirectoryError:
        raise Refused(f"{called} is a folder.") from None
    except (OSError, ValueError) as error:
        raise Refused(f"{called} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if len(content) > most:
        raise Refused(f"{called} is larger than {most // 2**20} MB.")
    return content


def readable(text: str, option: str) -> str:
    """`text`, unless it came from bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(f"What was given to {option} is not UTF-8 text.") from None
    return text


def read_params(given: Sequence[str]) -> Mapping[str, str]:
    """`name=value` pairs; the method reads the values."""
    params: dict[str, str] = {}
    for pair in given:
        name, equals, value = readable(pair, "--param").partition("=")
        if not equals or not name.strip():
            raise Refused(f"Write a parameter as name=value, not {shown(pair)}.")
        params[name.strip().replace("-", "_")] = read_text(value.strip(), "--param", "The file")
    return params


@contextmanager
def progress_line() -> Iterator[Any]:
    """A callback that keeps one line of standard error up to date, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(fraction: float, doing: str) -> None:
        print(f"\r\x1b[K{doing} … {fraction:.0%}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# Kept runs


def replay_run(arguments: argparse.Namespace) -> int:
    from playground.transcript import Typewriter, figures

    if arguments.speed is not None and not 0 < arguments.speed < math.inf:
        raise Refused(f"--speed must be a positive number, not {arguments.speed}.")
    run, events = kept_run(arguments.run)
    typewriter = Typewriter(standard_output())
    began = time.monotonic()
    try:
        for event in events:
            if arguments.speed:
                time.sleep(max(0.0, began + event.time / arguments.speed - time.monotonic()))
            typewriter.take(event)
    finally:
        typewriter.stop()
    print(figures(events, run=run.id, status=run.status), file=sys.stderr)
    return 0


def export_run(arguments: argparse.Namespace) -> int:
    from engines.events import to_json
    from playground.transcript import as_csv, as_object

    run, events = kept_run(arguments.run)
    with writing(arguments.output) as file:
        match arguments.format:
            case "jsonl":
                file.writelines(to_json(event).decode() + "\n" for event in events)
            case "json":
                json.dump(as_object(events, run=run.id, status=run.status), file, ensure_ascii=False, indent=2)
                file.write("\n")
            case "text":
                file.write(as_object(events, run=run.id, status=run.status)["text"])
            case "csv":
                file.write(as_csv(events))
    return 0


def kept_run(id: str) -> tuple[StoredRun, list[Event]]:
    """A run of the store and its events; `last` is the newest one."""
    from playground.store import Store

    with Store.open() as store:
        if id == "last":
            newest = store.runs(limit=1)
            if not newest:
                raise Refused(store.problem or "No run has been kept yet.")
            run = newest[0]
        else:
            run = store.run(id)
        events = store.events(run.id)
    if not events:
        raise Refused(f"Run {run.id} has no events.")
    return run, events


def print_card(arguments: argparse.Namespace) -> int:
    from playground import run_card

    _, events = kept_run(arguments.run)
    with writing(arguments.output) as file:
        file.write(run_card.to_json(run_card.card_of(events)))
    return 0


def print_link(arguments: argparse.Namespace) -> int:
    from playground.links import address
    from playground.setup import Setup

    _, events = kept_run(arguments.run)
    print(address(arguments.base, Setup.of(events), name="class" if arguments.for_class else "setup"))
    return 0


def write_gallery(arguments: argparse.Namespace) -> int:
    from playground.gallery import write

    if not arguments.runs and not arguments.recorded:
        raise Refused("Name at least one run, or give --recorded.")
    for line in write(arguments.output, arguments.runs, recorded=arguments.recorded, title=arguments.title):
        print(line, file=sys.stderr)
    return 0


def search_runs(arguments: argparse.Namespace) -> int:
    from playground.search import Search, search
    from playground.store import Store

    words = readable(" ".join(arguments.words), "search")
    filters = {name: getattr(arguments, name) for name in ("method", "family", "model", "status", "since", "until")}
    with Store.open() as store:
        found = search(store, OWNER, Search(words=words, **filters), limit=max(1, min(arguments.limit, 1000)))
    runs = [hit.run for hit in found.hits]
    if arguments.json:
        names = ("id", "created", "status", "method", "model", "name", "prompt", "text")
        print_json([{name: getattr(run, name) for name in names} for run in runs])
    elif runs:
        print_table(
            ("RUN", "CREATED", "STATUS", "METHOD", "PROMPT"),
            [(run.id, run.created[:16], run.status, run.method, one_line(run.name or run.prompt)) for run in runs],
        )
        if found.total > len(runs):
            print(f"{found.total - len(runs):,} more; --limit shows them.", file=sys.stderr)
    else:
        complain("No run matches.")
    return 0


def import_file(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from playground.exchange import import_runs
    from playground.store import Store

    with Store.open() as store:
        for id in import_runs(store, OWNER, Path(arguments.file)):
            print(id)
    return 0


def one_line(text: str, width: int = 60) -> str:
    """The beginning of a text, without what could command a terminal."""
    from playground.transcript import visible

    line = visible(" ".join(text[: 4 * width].split()))
    return line if len(line) <= width else line[: width - 1] + "…"


# Output


def standard_output() -> Any:
    """Standard output that writes any text, whatever the terminal's encoding."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return sys.stdout


@contextmanager
def writing(name: str) -> Iterator[IO[str]]:
    """A text file to write, or standard output when the name is -."""
    if name == "-":
        yield standard_output()
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(name, "w", encoding="utf-8", newline=""))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Refused(f"The file {shown(name)} cannot be written: {reason}.") from None
        yield file


def print_json(value: object) -> None:
    json.dump(value, standard_output(), ensure_ascii=False, indent=2)
    print()


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
