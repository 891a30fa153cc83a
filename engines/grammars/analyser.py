"""A static analyser for Python: which names may stand at the end of a piece of code.

jedi answers, in a process of its own, because what it reads is written by strangers and by models. The code is parsed
and its types are inferred; it is never executed. The process

* is started when the first question is asked, with this file as its script: standard library and jedi, nothing else
* knows the code it is given and the standard library's stubs: no installed packages, no files
* has a limit on its memory, may start no processes, inherits no environment, and works in an empty folder
* is given up when an answer takes longer than `SECONDS`: it is stopped, another one is started, and the answer is
  *unknown*. Unknown is an answer like any other: whoever asks goes on without it.

Only answers that were found are remembered, so a busy machine does not make a question unanswerable for good.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, Literal

SECONDS = 1.0
"""How long an answer may take."""
START_SECONDS = 30.0
"""How long the very first start may take; it reads the stubs of the built-in types."""
MOST_CHARACTERS = 256 * 1024
MOST_NAMES = 4096
USUAL = (
    "[''][0].",
    "for x in {'': [0]}.values():\n    x.",
    "from dataclasses import dataclass\n@dataclass\nclass A:\n    a: int\ndef f(x: list[A]) -> None:\n    x[0].",
    "from enum import Enum\nclass A(Enum):\n    B = 1\nA.",
)
"""What is completed before the first question, so that the stubs most needed have been parsed by then."""
MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 24
"""The largest file it may write: jedi keeps the stubs that it has parsed, in the process's own folder."""
MOST_KEPT = 256

Trouble = Literal["", "late", "failed", "too long"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What may stand there. No names means that nothing is known, not that nothing may."""

    names: tuple[str, ...]
    seconds: float
    trouble: Trouble = ""
    """Why nothing is known, where it is the analyser's fault and not the code's."""


class Analyser:
    """One worker process and what it has said. May be shared by threads; they take turns.

    Args:
        seconds: how long an answer may take.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._known: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()
        self.restarts = 0
        """Workers that were given up."""

    def names(self, code: str, closers: str = "") -> Answer:
        """The names that may follow at the end of `code`, keywords left out.

        Args:
            closers: brackets that `code` leaves open, as they would be closed; the code is read with and without
                them, and the answer is the union.
        """
        if len(code) > MOST_CHARACTERS:
            return Answer((), 0.0, "too long")
        start = time.perf_counter()
        with self._lock:
            key = code, closers
            if key in self._known:
                self._known.move_to_end(key)
                return Answer(self._known[key], time.perf_counter() - start)
            reply = self._ask({"code": code, "closers": closers})
            seconds = time.perf_counter() - start
            if reply is None:
                return Answer((), seconds, "late")
            if "names" not in reply:
                return Answer((), seconds, "failed")
            names = self._known[key] = tuple(reply["names"])
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
            return Answer(names, seconds)

    def warm_up(self) -> bool:
        """Starts the worker and waits until it can answer. Whether it can."""
        with self._lock:
            return self._ready()

    def close(self) -> None:
        """Stops the worker; the next question starts another one."""
        with self._lock:
            self._stop()

    def _ready(self) -> bool:
        first = self._worker is None
        if self._worker is None or not self._worker.alive:
            self._stop()
            self._worker = _Worker()
        return self._worker.wait_until_ready(START_SECONDS if first else self.seconds)

    def _ask(self, question: dict[str, str]) -> dict[str, Any] | None:
        """The reply, an empty one if the worker died over it, or None if it is late."""
        ready = self._ready()
        worker = self._worker
        assert worker is not None
        if not ready:
            return None if worker.alive else {}
        reply = worker.ask(question, self.seconds)
        if not reply:
            self._stop()
            self.restarts += 1
            self._worker = _Worker()  # it gets ready while the model goes on
        return reply

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where the workers of this process keep the stubs that they have parsed, so that the next one starts sooner."""
    return tempfile.TemporaryDirectory(prefix="analyser-")


class _Worker:
    """The process, and a thread that reads what it says."""

    def __init__(self) -> None:
        folder = _folder().name
        self._said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._is_ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", os.path.abspath(__file__), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ},
        )
        assert self._process.stdout is not None
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, seconds: float) -> bool:
        if not self._is_ready:
            self._is_ready = bool(self._next(seconds))
        return self._is_ready

    def ask(self, question: dict[str, str], seconds: float) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except OSError:
            return {}
        return self._next(seconds)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                assert pipe is not None
                pipe.close()
            except OSError:
                pass

    def _next(self, seconds: float) -> dict[str, Any] | None:
        try:
            reply = self._said.get(timeout=seconds)
        except queue.Empty:
            return None
        return {} if reply is None else reply

    def _listen(self, pipe: IO[bytes]) -> None:
        try:
            for line in pipe:
                self._said.put(json.loads(line))
        except (OSError, ValueError):
            pass
        self._said.put(None)


_shared = Analyser()
atexit.register(_shared.close)


def analyser() -> Analyser:
    """The one that all runs share."""
    return _shared


def _serve(folder: str) -> None:
    """The worker's life: limits, jedi, one question a line."""
    _limit()
    import jedi
    from jedi.api.environment import InterpreterEnvironment
    from parso import cache as parsed
    from parso.utils import split_lines

    jedi.settings.auto_import_modules = []
    jedi.settings.cache_directory = folder
    # Our own interpreter: another environment would be another process.
    environment = InterpreterEnvironment()
    project = jedi.Project(folder, sys_path=[], smart_sys_path=False, load_unsafe_extensions=False)

    def complete(code: str, closers: str) -> list[str]:
        lines = split_lines(code)
        script = jedi.Script(code + closers, environment=environment, project=project)
        found = script.complete(len(lines), len(lines[-1]))
        return [completion.name for completion in found if completion.type != "keyword"]

    def say(words: dict[str, Any]) -> None:
        out.write(json.dumps(words).encode("ascii") + b"\n")
        out.flush()

    # What jedi prints must not be taken for an answer.
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    for code in USUAL:
        complete(code, "")
    # From now on it may be stopped at any time, and half a file would be the next worker's trouble.
    if hasattr(parsed, "_save_to_file_system"):
        parsed._save_to_file_system = lambda *_, **__: None
    say({"ready": True})
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if hasattr(signal, "alarm"):
            signal.alarm(60)  # so that nothing is left running if the one who asked is gone
        try:
            names = complete(question["code"], "")
            if question["closers"]:
                names += complete(question["code"], question["closers"])
            say({"names": [name for name in dict.fromkeys(names) if name.isidentifier()][:MOST_NAMES]})
        except (Exception, RecursionError) as error:
            say({"error": type(error).__name__})
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def _limit() -> None:
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    limits = {
        "RLIMIT_AS": MEMORY_BYTES,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": FILE_BYTES,
        "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 64,
    }
    for name, value in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, OSError, ValueError):  # e.g. one that the system's own limit is below
            continue


if __name__ == "__main__":
    _serve(sys.argv[1])
