"""A real server process to measure: the app as anybody starts it, with a database of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Server:
    """Where it answers, and what it takes."""

    address: str
    process: psutil.Process

    @property
    def memory(self) -> float:
        """Bytes in memory, those of its children included."""
        return float(sum(one.memory_info().rss for one in (self.process, *self.process.children(recursive=True))))


@contextmanager
def served(settings: Mapping[str, str], *, seconds: float = 180) -> Iterator[Server]:
    """Starts `app.py` on a free port and waits until it answers; `settings` are environment variables."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        environment = os.environ | {"DECODING_PLAYGROUND_DATA": folder, "GRADIO_SERVER_PORT": str(port), **settings}
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}/"
            _wait(address, process, time.monotonic() + seconds, Path(folder) / "log")
            yield Server(address, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(20)


def _wait(address: str, process: subprocess.Popen[bytes], end: float, log: Path) -> None:
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the server did not come up:\n{log.read_text()[-2000:]}")
