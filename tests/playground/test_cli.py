"""The command line with the real engine and the real store: most of it in this process, the rest in real ones."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.events import Commit, Finished, Placed, Started, Token, from_json
from engines.method import methods
from playground import transcript
from playground.cli import main
from playground.store import FILE_NAME, Store
from playground.transcript import Typewriter, visible

ROOT = Path(__file__).parents[2]
QUESTION = "What is photosynthesis?"
PASSAGE = "Text: The mill was built by Ann.\nQuestion: Who built the mill?\nAnswer:"
SHORT = ["run", "--prompt", QUESTION, "--max-new-tokens", "6"]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, and one thread: two are slow on a busy machine."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DECODING_PLAYGROUND_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


class Result:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process."""

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Starts a command in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, "text": True} | options
    # A shell that started the tests in the background has told them, and so their children, to ignore Ctrl+C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen([sys.executable, "-m", "playground", *arguments], **options)
    finally:
        signal.signal(signal.SIGINT, handler)


def refused(result: Result, *words: str, code: int = 2) -> None:
    """One line on standard error, nothing on standard output, and the exit code."""
    assert result.code == code, result.err
    assert result.out == ""
    assert result.err.startswith("playground: ")
    assert result.err.count("\n") == 1, result.err
    assert len(result.err) < 400
    assert result.err[:-1].isprintable()
    for word in words:
        assert word in result.err


# run


def test_text_goes_to_standard_output_and_figures_to_standard_error(command: Command) -> None:
    result = command(*SHORT)
    assert result.code == 0
    assert result.out == "Photosynthesis is a vital biological\n" or result.out.endswith("\n")
    for word in ("6 tokens in ", "tokens/s", "tokens per target pass", "token limit", "run "):
        assert word in result.err
    assert result.err.count("\n") == 1


def test_json_holds_the_run(command: Command, data: Path) -> None:
    result = command(*SHORT, "--json", "--seed", "7", "--method", "sampling", "--param", "temperature=0.5")
    run = result.json
    assert result.code == 0
    assert result.err == ""
    assert (run["model"], run["method"], run["seed"], run["status"]) == ("smollm2-135m", "sampling", 7, "finished")
    assert run["params"]["temperature"] == 0.5
    assert run["stats"]["tokens"] == len(run["token_ids"]) == 6
    assert run["reason"] == "token limit"
    with Store.open() as store:
        kept = store.run(run["run"])
        assert (kept.text, kept.owner, kept.status) == (run["text"], "command line", "finished")
        (started, *_, finished) = store.events(kept.id)
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert list(finished.token_ids) == run["token_ids"]


def test_the_same_seed_gives_the_same_text(command: Command) -> None:
    once, again = (command(*SHORT, "--method", "sampling", "--seed", "3", "--json").json for _ in range(2))
    assert once["token_ids"] == again["token_ids"]
    assert once["run"] != again["run"]


def test_every_method_types_the_text_that_it_returns(command: Command) -> None:
    writing = {method.id for method in methods().values() if method.family not in ("labs", "attribution")}
    for method in writing:
        asked = ("--prompt", PASSAGE) if method == "exact-extract" else ()
        result = command(*SHORT, "--method", method, *asked)
        assert result.code == 0, (method, result.err)
        with Store.open() as store:
            assert result.out == f"{store.runs(limit=1)[0].text}\n", method


def test_events_are_lines_of_json(command: Command, tmp_path: Path) -> None:
    result = command(*SHORT, "--events", str(tmp_path / "events.jsonl"))
    assert result.code == 0
    assert result.out.startswith("Photo"), "the text is still typed"
    events = [from_json(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert [event.seq for event in events] == list(range(len(events)))
    with Store.open() as store:
        assert store.events(store.runs()[0].id) == events


def test_events_on_standard_output_come_alone(command: Command) -> None:
    result = command(*SHORT, "--events", "-")
    assert all(from_json(line) for line in result.out.splitlines())
    assert "6 tokens" in result.err


def test_no_store_keeps_nothing(command: Command, data: Path) -> None:
    result = command(*SHORT, "--json", "--no-store")
    assert result.code == 0
    assert result.json["run"] is None
    assert not data.exists()


def test_raw_prompt_and_stop_string(command: Command) -> None:
    run = command("run", "--raw", "--prompt", "1, 2, 3, 4,", "--stop", "7", "--json", "--max-new-tokens", "40").json
    assert run["raw"] is True
    assert run["reason"] == "stop string"
    assert "7" in run["text"]


def test_time_limit(command: Command) -> None:
    run = command("run", "--prompt", QUESTION, "--time-limit", "0.05", "--max-new-tokens", "2000", "--json").json
    assert run["reason"] == "time limit"


def test_prompt_from_a_file_and_from_standard_input(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Zwölf größere Übungen 😀 – \u202eabc\x07"
    (tmp_path / "prompt.txt").write_text(text, "utf-8-sig")
    assert (
        command("run", "--prompt", f"@{tmp_path / 'prompt.txt'}", "--max-new-tokens", "1", "--json").json["prompt"]
        == text
    )
    assert command("run", "--prompt", "@@home", "--max-new-tokens", "1", "--json").json["prompt"] == "@home"
    with process("run", "--prompt", "@-", "--max-new-tokens", "1", "--json", stdin=subprocess.PIPE) as child:
        out, _ = child.communicate("from a pipe\n")
    assert json.loads(out)["prompt"] == "from a pipe\n"


def test_a_grammar_from_a_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "plate.txt").write_text("[A-F]{2}-[0-9]{3}\n")
    held = ("--param", "constraint=regex", "--param", f"grammar=@{tmp_path / 'plate.txt'}")
    run = command(
        "run", "--method", "grammar-mask", *held, "--prompt", QUESTION, "--max-new-tokens", "20", "--json"
    ).json
    assert re.fullmatch(r"[A-F]{2}-[0-9]{3}", run["text"])
    bad = ("--param", "constraint=regex", "--param", "grammar=ab[")
    refused = command("run", "--method", "grammar-mask", *bad, "--prompt", QUESTION)
    assert "Line 1, column 3" in refused.err
    assert refused.code


# Bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["required", "COMMAND"]),
        (["rum"], ["rum"]),
        (["run"], ["--prompt"]),
        (["run", "--prompt", "hi", "--colour"], ["--colour"]),
        (["run", "--prompt", "hi", "--seed", "x\x1b[31m"], ["--seed"]),
        (["run", "--prompt", "hi", "--max-new-tokens", "1.5"], ["--max-new-tokens"]),
        (["run", "--prompt", "hi", "--max-new-tokens", "0"], ["max_new_tokens", "1"]),
        (["run", "--prompt", "hi", "--max-new-tokens", "-4"], ["max_new_tokens"]),
        (["run", "--prompt", "hi", "--seed", "-1"], ["seed"]),
        (["run", "--prompt", "hi", "--seed", str(10**30)], ["seed"]),
        (["run", "--prompt", "hi", "--time-limit", "nan"], ["time_limit"]),
        (["run", "--prompt", "hi", "--method", "token-recyclin"], ["no method", "token-recycling"]),
        (["run", "--prompt", "hi", "--method", "../x\n\x00"], ["no method"]),
        (["run", "--prompt", "hi", "--model", "../x"], ["no model", "smollm2-135m"]),
        (["run", "--prompt", "hi", "--model", ""], ["no model"]),
        (["run", "--prompt", "hi", "--precision", "int3"], ["int3"]),
        (["run", "--prompt", "hi", "--method", "sampling", "--param", "temperature"], ["name=value"]),
        (["run", "--prompt", "hi", "--method", "sampling", "--param", "=1"], ["name=value"]),
        (["run", "--prompt", "hi", "--method", "sampling", "--param", "temperature=nan"], ["temperature", "finite"]),
        (["run", "--prompt", "hi", "--method", "sampling", "--param", "temperature=-1"], ["temperature", "from"]),
        (["run", "--prompt", "hi", "--method", "sampling", "--param", "top_k=many"], ["top_k", "whole number"]),
        (["run", "--prompt", "hi", "--method", "sampling", "--param", "tempera=1"], ["temperature"]),
        (["run", "--prompt", "hi", "--json", "--events", "-"], ["--events"]),
        (["run", "--prompt", "hi", "--events", "/no/such/folder/x"], ["cannot be written", "No such file"]),
        (["run", "--prompt", ""], ["prompt is empty"]),
        (["run", "--prompt", " \n\t "], ["prompt is empty"]),
        (["run", "--prompt", "\ud800"], ["not UTF-8"]),
        (["run", "--prompt", "hi", "--stop", "\udcff"], ["not UTF-8"]),
        (["run", "--prompt", "@/no/such/file"], ["does not exist"]),
        (["run", "--prompt", "@"], ["does not exist"]),
        (["run", "--prompt", "@/"], ["is a folder"]),
        (["run", "--prompt", "@a\x00b"], ["cannot be read"]),
        (["run", "--prompt", "@/dev/zero"], ["larger than"]),
        (["methods", "gredy"], ["greedy"]),
        (["models", "../x"], ["no model"]),
        (["replay", "nope"], ["no run called"]),
        (["replay", "last"], ["No run has been kept yet"]),
        (["replay", "last", "--speed", "nan"], ["--speed"]),
        (["export", "' OR 1=1 --"], ["no run called"]),
        (["export", "last", "--format", "pdf"], ["pdf", "jsonl"]),
    ],
    ids=lambda value: (
        " ".join(value)[:60].encode("unicode_escape").decode() or "nothing" if isinstance(value, list) else ""
    ),
)
def test_bad_input_is_one_clear_line(command: Command, arguments: list[str], words: list[str]) -> None:
    refused(command(*arguments), *words)


def test_bad_prompt_files(command: Command, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("Übung".encode("latin-1"))
    refused(command("run", "--prompt", f"@{tmp_path / 'latin'}"), "not UTF-8", "position 0")
    (tmp_path / "empty").write_bytes(b"")
    refused(command("run", "--prompt", f"@{tmp_path / 'empty'}"), "empty")
    (tmp_path / "megabyte").write_text("word " * 200_000)
    began = time.monotonic()
    refused(command("run", "--prompt", f"@{tmp_path / 'megabyte'}"), "The prompt is", "long")
    assert time.monotonic() - began < 10


def test_something_that_breaks_is_one_line_too(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import engines.models.loading

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(engines.models.loading, "load", broken)
    refused(command(*SHORT), "RuntimeError: no luck", code=1)


@pytest.mark.parametrize("content", [b"", b"no database" * 100])
def test_a_run_does_not_need_the_store(command: Command, data: Path, content: bytes) -> None:
    data.parent.mkdir(exist_ok=True)
    if content:
        data.mkdir()
        (data / FILE_NAME).write_bytes(content)
    else:
        data.write_text("a file where the folder should be")
    result = command(*SHORT)
    assert result.code == 0
    assert result.out.startswith("Photo")
    figures, problem = result.err.splitlines()
    assert "run " not in figures
    assert problem.startswith("playground: Sessions are not kept: ")
    refused(command("replay", "last"))


# methods and models


def test_methods_lists_every_method(command: Command) -> None:
    lines = command("methods").out.splitlines()
    assert lines[0].split() == ["METHOD", "FAMILY", "TITLE"]
    assert [line.split()[0] for line in lines[1:]] == list(methods())
    assert {method["id"] for method in command("methods", "--json").json} == set(methods())


@pytest.mark.parametrize("id", list(methods()))
def test_a_methods_card_shows_every_parameter(command: Command, id: str) -> None:
    method = methods()[id]
    card = command("methods", id).out
    assert method.title in card
    assert method.idea in card
    shown = command("methods", id, "--json").json
    assert [parameter["name"] for parameter in shown["parameters"]] == [setting.name for setting in method.settings()]
    for setting in method.settings():
        assert f"{setting.name} = {json.dumps(setting.default)}" in card
        assert setting.help in card


def test_models_says_what_is_there(command: Command) -> None:
    assert "smollm2-135m" in command("models").out
    (embedded, *_) = command("models", "--json").json
    assert embedded["id"] == "smollm2-135m"
    assert embedded["precisions"]["float32"] == "available"
    assert command("models", "smollm2-135m", "--json").json == embedded
    assert embedded["note"] in command("models", "smollm2-135m").out


# replay and export


def test_a_run_is_replayed_and_exported_from_the_store(command: Command, tmp_path: Path) -> None:
    ran = command(*SHORT, "--json", "--method", "prompt-lookup").json
    id = ran["run"]
    replayed = command("replay", id)
    assert replayed.out == f"{ran['text']}\n"
    assert f"run {id}" in replayed.err
    assert command("replay", "last").out == replayed.out
    assert command("export", id, "--format", "text").out == ran["text"]
    assert command("export", id, "--format", "json").json == ran
    with Store.open() as store:
        assert [from_json(line) for line in command("export", id).out.splitlines()] == store.events(id)
    rows = list(csv.DictReader(io.StringIO(command("export", id, "--format", "csv").out)))
    assert [int(row["token_id"]) for row in rows] == ran["token_ids"]
    assert [int(row["position"]) for row in rows] == list(range(6))
    command("export", id, "--format", "text", "--output", str(tmp_path / "out.txt"))
    assert (tmp_path / "out.txt").read_text() == ran["text"]


def test_replay_keeps_the_pace_that_is_asked_for(command: Command) -> None:
    ran = command(*SHORT, "--json").json
    began = time.monotonic()
    command("replay", "last", "--speed", "0.5")
    assert time.monotonic() - began >= 1.9 * ran["stats"]["seconds"] - 0.05


def test_export_of_a_stopped_run(command: Command) -> None:
    command(*SHORT, "--json")
    with Store.open() as store:
        events = store.events(store.runs()[0].id)
        with store.recording(iter(events)) as kept:
            for _ in range(9):
                next(kept)
    stopped = command("export", "last", "--format", "json").json
    assert (stopped["status"], stopped["stats"], stopped["reason"]) == ("stopped", None, None)
    assert command("replay", "last").out == f"{stopped['text']}\n"


# Real processes


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["replay", "nope"], ["run"]])
def test_what_needs_no_model_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom playground.cli import main\ntry: main(sys.argv[1:])\n"
        "except SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True).returncode == 0


def test_help_names_every_command() -> None:
    with process("--help") as child:
        out, err = child.communicate()
    assert (child.returncode, err) == (0, "")
    assert all(name in out for name in ("methods", "models", "run", "replay", "export"))


class LongRun:
    """A run in another process that has typed something and would go on for minutes; it types into a file."""

    def __init__(self, paper: Path) -> None:
        self.paper = paper
        with paper.open("w") as file:
            arguments = ("--prompt", "Write a very long story.", "--max-new-tokens", "4000", "--method", "sampling")
            self.child = process("run", *arguments, stdout=file)
        while len(self.typed) < 10:
            assert self.child.poll() is None
            time.sleep(0.02)

    @property
    def typed(self) -> str:
        return self.paper.read_text(errors="replace")

    def end(self, sign: signal.Signals) -> str:
        """Sends a signal; returns standard error."""
        self.child.send_signal(sign)
        return self.child.communicate(timeout=30)[1]


@pytest.fixture
def long_run(data: Path, tmp_path: Path) -> Iterator[LongRun]:
    running = LongRun(tmp_path / "typed.txt")
    try:
        yield running
    finally:
        running.child.kill()
        running.child.communicate()


def test_ctrl_c_stops_the_run_and_keeps_it(long_run: LongRun) -> None:
    errors = long_run.end(signal.SIGINT)
    assert long_run.child.returncode == 130
    assert "stopped" in errors
    assert errors.count("\n") == 1
    with Store.open() as store:
        (run,) = store.runs()
        assert run.status == "stopped"
        assert long_run.typed == f"{run.text}\n"


def test_killed_outright_it_is_marked_interrupted(long_run: LongRun, command: Command) -> None:
    time.sleep(0.5)
    long_run.end(signal.SIGKILL)
    with Store.open() as store:
        (run,) = store.runs()
        assert run.status == "interrupted"
        assert run.text
        # The store may be a batch behind the typewriter, which is itself a token behind.
        assert run.text.startswith(long_run.typed) or long_run.typed.startswith(run.text)
        assert len(run.text) >= 10
    assert command("replay", run.id).out == f"{run.text}\n"


def test_a_reader_that_leaves_stops_the_run_quietly(data: Path) -> None:
    child = process("run", "--prompt", "Write a very long story.", "--max-new-tokens", "4000")
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.read(1)
    child.stdout.close()
    child.wait(timeout=20)
    assert (child.returncode, child.stderr.read()) == (141, "")
    child.stderr.close()
    with Store.open() as store:
        assert [run.status for run in store.runs()] == ["stopped"]


def test_exit_codes_and_streams_of_a_real_process(data: Path) -> None:
    with process(*SHORT, "--method", "nonsense") as child:
        out, err = child.communicate()
    refused(Result(child.returncode, out, err), "nonsense")
    with process(*SHORT, "--json", env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}) as child:
        out, err = child.communicate()
    assert (child.returncode, err) == (0, "")
    assert json.loads(out)["stats"]["tokens"] == 6
    connection = sqlite3.connect(data / FILE_NAME)
    assert connection.execute("SELECT count(*) FROM runs WHERE status = 'finished'").fetchone() == (1,)
    connection.close()


# Typing


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def commit(*tokens: Token) -> Commit:
    return Commit(position=0, step=0, tokens=tuple(Placed(token, "sampled") for token in tokens))


def typed(paper: io.StringIO, *tokens: Token, text: str | None = None) -> str:
    typewriter = Typewriter(paper)
    for token in tokens:
        typewriter.take(commit(token))
    if text is not None:
        totals: Any = None
        typewriter.take(Finished(reason="end of text", text=text, token_ids=(), totals=totals))
    typewriter.stop()
    return paper.getvalue()


def test_the_end_token_is_not_typed() -> None:
    tokens = Token(1, "Hello"), Token(2, "<|im_end|>")
    assert typed(io.StringIO(), *tokens, text="Hello") == "Hello\n"
    assert typed(io.StringIO(), *tokens[:1]) == "Hello\n", "stopped: the last token is text"


def test_a_character_is_typed_when_its_last_byte_is_there() -> None:
    smile = [Token(1, "", "f0"), Token(2, "", "9f98"), Token(3, "", "80")]
    assert typed(io.StringIO(), *smile, text="😀") == "😀\n"
    assert typed(io.StringIO(), *smile) == "😀\n"
    assert typed(io.StringIO(), *smile[:2], text="\ufffd") == "\ufffd\n"
    assert typed(io.StringIO(), *smile[:2]) == "\ufffd\n"


def test_a_terminal_is_not_commanded_by_a_model() -> None:
    nasty = Token(1, "\x1b[2J\r\x07\x7f\x9b\u202eabc\n\t👩\u200d👧")
    assert typed(Terminal(), nasty) == "␛[2J␍␇␡<U+009B><U+202E>abc\n\t👩\u200d👧\n"
    assert typed(io.StringIO(), nasty) == f"{nasty.text}\n", "a file gets the text as it is"
    assert visible("plain – ünï 漢字") == "plain – ünï 漢字"


def test_csv_survives_any_token() -> None:
    odd = [Token(1, 'a"b,\n'), Token(2, "", "ff"), Token(3, "")]
    rows = list(csv.DictReader(io.StringIO(transcript.as_csv([commit(*odd)]))))
    assert [(row["text"], row["hex"]) for row in rows] == [(token.text, token.hex) for token in odd]
