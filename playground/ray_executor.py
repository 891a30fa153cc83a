"""The runs of a sweep on other machines: one model per worker, events sent back, recorded here.

    ray start --head                            # on the first machine; `ray start --address …` on the others
    python -m playground sweep --executor ray …

A worker is a Ray actor with one CPU (or one GPU where the cluster has some), in which this package must be
installed. It takes one row at a time, a prompt and seed with all methods, so that the runs that are compared with
each other come from one machine. The driver alone writes the database.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engines.errors import DecodingError, ModelUnavailable
from engines.events import Event, Finished, from_json, to_json
from playground.executors import Cell, Failed, Passed, Told
from playground.recording import Recording
from playground.setup import Setup

if TYPE_CHECKING:
    from engines.models.causal import CausalModel

SEND_SECONDS = 0.1
"""Events travel in batches of this much decode time."""
PATIENCE = 0.5
"""Seconds that the driver waits for news before it says that it waits."""
ROOT = Path(__file__).parents[1]


class NoRay(DecodingError):
    """The package `ray` is not installed, or its cluster cannot be reached."""


class Model(msgspec.Struct, frozen=True):
    """The model that every worker loads."""

    name: str
    precision: str = ""
    folder: str = ""
    """A folder of safetensors that all machines have; for programs."""

    def load(self) -> CausalModel:
        from engines.models import loading

        if self.folder:
            return loading.load_folder(self.folder, name=self.name, precision=self.precision or "float32")
        return loading.load(self.name, precision=self.precision)


class _Feed(Iterator[Event]):
    """What has arrived of a run, as the iterator that a `Recording` reads."""

    def __init__(self) -> None:
        self.waiting: deque[Event] = deque()
        self.error = ""

    def __next__(self) -> Event:
        if self.waiting:
            return self.waiting.popleft()
        if self.error:
            raise DecodingError(self.error)
        raise StopIteration


class OnRay:
    """Makes runs on the workers of a Ray cluster; joins the one that `RAY_ADDRESS` names, or starts one here.

    Args:
        model: what the workers load.
        record: makes a recording of events, e.g. `functools.partial(store.recording, owner=…)`.
        workers: how many; as many as the cluster has GPUs, or CPUs if it has none, when None.
        options: for `ray.init`.
    """

    def __init__(
        self, model: Model, record: Callable[[Iterator[Event]], Recording], workers: int | None = None, **options: Any
    ) -> None:
        try:
            import ray
        except ImportError:
            raise NoRay("Ray is not installed. Install it with: pip install ray") from None
        self._ray, self._model, self._record, self._workers = ray, model, record, workers
        self._options = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False} | options

    def work(self, cells: Sequence[Cell]) -> Generator[Told]:
        """Does the cells row by row, as workers become free."""
        ray = self._ray
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(**self._options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise NoRay(f"Ray's cluster cannot be reached: {str(error).splitlines()[0][:200]}") from None
        try:
            yield from self._on_cluster(deque(list(row) for _, row in groupby(cells, lambda c: (c.seed, c.prompt))))
        finally:
            if started:
                ray.shutdown()

    def _on_cluster(self, rows: deque[list[Cell]]) -> Generator[Told]:
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        count = min(self._workers or gpus or int(resources.get("CPU", 1)), len(rows))
        # Off this machine the package is installed; here it may be a checkout.
        environment = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}} if not gpus else {}
        make = self._ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, runtime_env=environment)(_Worker)
        crews = [_Crew(self, make) for _ in range(count)]
        try:
            while True:
                for crew in crews:
                    if crew.stream is None and rows:
                        crew.begin(rows.popleft())
                streams = {crew.stream: crew for crew in crews if crew.stream is not None}
                if not streams:
                    return
                ready, _ = self._ray.wait(list(streams), num_returns=1, timeout=PATIENCE)
                if not ready:
                    yield f"waiting for {len(streams)} {'worker' if len(streams) == 1 else 'workers'}"
                for stream in ready:
                    yield from streams[stream].take()
        finally:
            for crew in crews:
                crew.close()


class _Crew:
    """One worker, and the recordings of the row that it is at."""

    def __init__(self, executor: OnRay, make: Any) -> None:
        self._executor, self._make, self._ray = executor, make, executor._ray
        self._actor: Any = None
        self.stream: Any = None
        self._row: list[Cell] = []
        self._open: dict[int, tuple[_Feed, Recording]] = {}
        self._done: set[int] = set()

    def begin(self, row: list[Cell]) -> None:
        """Gives the worker a row."""
        if self._actor is None:
            self._actor = self._make.remote(self._executor._model)
        self._row, self._done = row, set()
        asked = [(cell.place, msgspec.json.encode(cell.setup)) for cell in row]
        self.stream = self._actor.decode.options(num_returns="streaming").remote(asked)

    def take(self) -> Iterator[Told]:
        """Records what has arrived."""
        try:
            place, lines, error = self._ray.get(next(self.stream))
        except StopIteration:
            self.stream = None
            return
        except self._ray.exceptions.RayError as died:
            self._actor, self.stream = None, None
            for cell in self._row:
                if cell.place not in self._done:
                    yield from self._failed(cell.place, f"The worker that did this run ended: {_first(died)}")
            return
        if place < 0:
            raise ModelUnavailable(error)
        feed, recording = self._open.get(place) or self._recording(place)
        for line in lines:
            feed.waiting.append(from_json(line))
            event = next(recording)
            if isinstance(event, Finished):
                self._open.pop(place)
                self._done.add(place)
            yield Passed(place, recording.run_id or "", event)
        if error:
            yield from self._failed(place, error)

    def _recording(self, place: int) -> tuple[_Feed, Recording]:
        feed = _Feed()
        self._open[place] = (feed, self._executor._record(feed))
        return self._open[place]

    def _failed(self, place: int, sentence: str) -> Iterator[Told]:
        self._done.add(place)
        if (opened := self._open.pop(place, None)) is not None:
            feed, recording = opened
            feed.error = sentence
            with suppress(DecodingError, StopIteration):
                next(recording)
        yield Failed(place, sentence)

    def close(self) -> None:
        for _, recording in self._open.values():
            recording.close()
        if self._actor is not None:
            self._ray.kill(self._actor)


class _Worker:
    """In a process of its own, on any machine: loads the model once, and decodes rows."""

    def __init__(self, model: Model) -> None:
        self._wanted = model
        self._model: CausalModel | None = None

    def decode(self, row: list[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes], str]]:
        """(place, events as JSON, error) again and again; a place below 0 when there is no model to decode with."""
        try:
            self._model = self._model or self._wanted.load()
        except Exception as error:
            yield -1, [], str(error) if isinstance(error, DecodingError) else f"{type(error).__name__}: {error}"
            return
        for place, setup in row:
            lines: list[bytes] = []
            sent = time.monotonic()
            try:
                for event in msgspec.json.decode(setup, type=Setup).begin(self._model):
                    lines.append(to_json(event))
                    if time.monotonic() - sent > SEND_SECONDS:
                        yield place, lines, ""
                        lines, sent = [], time.monotonic()
            except Exception as error:
                said = str(error) if isinstance(error, DecodingError) else f"{type(error).__name__}: {error}"
                yield place, lines, said[:400]
            else:
                yield place, lines, ""


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
