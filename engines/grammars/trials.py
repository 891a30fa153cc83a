"""One schema, one engine, some texts: what is accepted, what is refused, and what that costs. In a process of its own.

The protocol of "Generating Structured Outputs from Language Models: Benchmark and Studies" (Geng et al.,
arXiv 2501.10868), its part without a model:

    1. compile; a refusal, a crash, a time-out and an exhausted memory are told apart
    2. of every text, every token: its bit in the mask must be set, and `commit` must take it; both are asked
    3. behind the last token the end must be allowed
    4. times: until the first mask (TTFM, compilation included), and of mask and commit per token (TBM)

Step 3 is missing from the published runner, which takes a text that is cut off for an accepted one; and it believes
`commit` alone.

`examine` does this here. `Examiner` has it done by another process, as foreign engines crash and hang: the process gets
the vocabulary once, may use `MEMORY_BYTES` more than it began with, and is stopped and replaced when an answer takes
too long or never comes. It inherits no environment but what Python needs to find its modules.
"""

from __future__ import annotations

import atexit
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

import msgspec

from engines.events import Token
from engines.grammars.constraint import BadGrammar, Constraint, GrammarLimit
from engines.grammars.guidance import Whitespace
from engines.grammars.peers import Engine, NotInstalled, PeerKind, compile_with, prepare
from engines.grammars.vocabulary import Vocabulary, has

SECONDS = 10.0
"""For one schema and all its texts."""
START_SECONDS = 60.0
"""For the process to be ready: foreign engines bring large libraries."""
MEMORY_BYTES = 4 << 30

Status = Literal["ok", "refused", "failed", "too slow"]


class Fed(msgspec.Struct, frozen=True):
    """What became of one text."""

    accepted: bool
    """Every token was allowed, and the end at the end."""
    place: int = -1
    """Index of the token that was refused; the number of tokens when only the end was; -1 when nothing was."""
    disagreements: int = 0
    """Tokens whose bit in the mask said another thing than `commit`."""
    error: str = ""
    """What the engine said when it gave up."""


class Report(msgspec.Struct, frozen=True):
    """One schema with one engine."""

    status: Status
    message: str = ""
    seconds: float = 0.0
    """TTFM: until the first mask, compilation included: some engines find their mistakes only then."""
    token_seconds: tuple[float, ...] = ()
    """TBM: mask and commit, for every token of the texts up to the first that was refused."""
    fed: tuple[Fed, ...] = ()


class Ready(msgspec.Struct, frozen=True):
    """What the process needs of a vocabulary."""

    spelled: tuple[bytes, ...]
    special: tuple[int, ...]
    ends: tuple[int, ...]
    names: dict[int, str]
    """Of the special tokens."""


class Question(msgspec.Struct, frozen=True):
    """What it is asked."""

    engine: Engine
    kind: PeerKind
    text: str
    whitespace: Whitespace
    texts: tuple[tuple[int, ...], ...]
    rounds: int = 1


def examine(question: Question, vocabulary: Vocabulary) -> Report:
    """Compiles, and feeds the texts. Raises nothing but what ends the process."""
    start = time.perf_counter()
    try:
        prepare(question.engine, vocabulary)
        start = time.perf_counter()
        constraint = compile_with(
            question.engine, question.kind, question.text, vocabulary, whitespace=question.whitespace
        )
    except (BadGrammar, NotInstalled) as refusal:
        return Report("refused", str(refusal)[:400], time.perf_counter() - start)
    except MemoryError:
        return Report("failed", f"{question.engine} ran out of memory.", time.perf_counter() - start)
    compiled = time.perf_counter() - start
    fed: list[Fed] = []
    seconds: list[float] = []
    for text in question.texts:
        for turn in range(question.rounds):
            try:
                result = feed(constraint.fork(), text, seconds.append)
            except MemoryError:
                return Report("failed", f"{question.engine} ran out of memory.", compiled)
            if turn == 0:
                fed.append(result)
    return Report("ok", "", compiled, tuple(seconds), tuple(fed))


def feed(constraint: Constraint, text: Sequence[int], took: Callable[[float], object] = lambda seconds: None) -> Fed:
    """Goes through a text, asking the mask and `commit` about every token; `took` is told the seconds of each."""
    disagreements = 0
    for place, token in enumerate(text):
        start = time.perf_counter()
        try:
            shown = has(constraint.mask(), token)
            taken = constraint.commit(token)
        except GrammarLimit as limit:
            return Fed(False, place, disagreements, str(limit)[:400])
        took(time.perf_counter() - start)
        disagreements += shown != taken
        if not (shown and taken):
            return Fed(False, place, disagreements)
    try:
        end = all(has(constraint.mask(), end) for end in constraint.vocabulary.ends) and constraint.accepting
    except GrammarLimit as limit:
        return Fed(False, len(text), disagreements, str(limit)[:400])
    return Fed(True, -1, disagreements) if end else Fed(False, len(text), disagreements)


class Examiner:
    """A process that examines, for one vocabulary. Threads take turns.

    Args:
        seconds: for one question.
    """

    def __init__(self, vocabulary: Vocabulary, seconds: float = SECONDS) -> None:
        self.vocabulary, self.seconds = vocabulary, seconds
        self.starts = 0
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def ask(self, question: Question, seconds: float | None = None) -> Report:
        """The report. A crash is `failed`, no answer in time is `too slow`; the next question meets a new process."""
        limit = self.seconds if seconds is None else seconds
        with self._lock:
            if self._worker is None:
                self._worker = _Worker(self.vocabulary)
                self.starts += 1
                if not self._worker.answer(START_SECONDS):
                    self._drop()
                    return Report("failed", "The process for foreign engines could not be started.")
            if question.engine not in self._worker.knows:
                # Reading libraries and vocabulary is not part of any answer, and may take longer than one.
                first = Question(question.engine, "regex", "a", "one space", ())
                self._worker.send(msgspec.msgpack.encode(first))
                if not self._worker.answer(START_SECONDS):
                    self._drop()
                    return Report("failed", f"{question.engine} could not be loaded.")
                self._worker.knows.add(question.engine)
            start = time.perf_counter()
            self._worker.send(msgspec.msgpack.encode(question))
            said = self._worker.answer(limit)
            passed = time.perf_counter() - start
            if said:
                return msgspec.msgpack.decode(said, type=Report)
            self._drop()
        if said is None:
            return Report("too slow", f"{question.engine} was stopped after {limit:g} s.", passed)
        return Report("failed", f"{question.engine} crashed: its process ended without an answer.", passed)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._drop()

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop(self) -> None:
        if self._worker:
            self._worker.stop()
        self._worker = None


class _Worker:
    """The other process."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.knows: set[Engine] = set()
        root = str(Path(__file__).resolve().parent.parent.parent)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT", "TMPDIR") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from engines.grammars.trials import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=root,
            env=kept | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        self._said: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        atexit.register(self.stop)
        names = {id: vocabulary.spell(id).text for id in vocabulary.special}
        ready = Ready(vocabulary.bytes_of, tuple(sorted(vocabulary.special)), tuple(sorted(vocabulary.ends)), names)
        self.send(msgspec.msgpack.encode(ready))

    def send(self, message: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # when it is gone, the answer will say so
            _write(self._process.stdin, message)

    def answer(self, seconds: float) -> bytes | None:
        """What it says; empty when it ended; None when it does not answer in time."""
        try:
            return self._said.get(timeout=seconds)
        except queue.Empty:
            return None

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()

    def _listen(self, pipe: IO[bytes]) -> None:
        with suppress(OSError, ValueError):
            while message := _read(pipe):
                self._said.put(message)
        self._said.put(b"")


def _write(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(8, "little") + message)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    """The next message; empty when there is none any more."""
    head = pipe.read(8)
    return pipe.read(int.from_bytes(head, "little")) if len(head) == 8 else b""


def serve() -> None:
    """The other process: reads the vocabulary, then answers question after question."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What an engine prints must not be taken for an answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    ready = msgspec.msgpack.decode(_read(incoming), type=Ready)

    def spell(id: int) -> Token:
        try:
            return Token(id, ready.names.get(id) or ready.spelled[id].decode("utf-8"))
        except UnicodeDecodeError:
            return Token(id, "", ready.spelled[id].hex())

    vocabulary = Vocabulary(ready.spelled, ready.special, ready.ends, lambda text: [], spell)
    known: set[Engine] = set()
    _write(outgoing, msgspec.msgpack.encode("ready"))
    while message := _read(incoming):
        question = msgspec.msgpack.decode(message, type=Question)
        if question.engine not in known:
            # What its libraries take up is not what the limit is for.
            _limit_memory(lifted=True)
            with suppress(Exception):
                prepare(question.engine, vocabulary)
            known.add(question.engine)
            _limit_memory()
        _write(outgoing, msgspec.msgpack.encode(examine(question, vocabulary)))


def _limit_memory(*, lifted: bool = False) -> None:
    """`MEMORY_BYTES` more than now, or as much as the system allows."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (most if lifted else limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
