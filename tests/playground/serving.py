"""The app in a process of its own, spoken to over HTTP: by name as a client, by number as the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.browser.conftest import ROOT, free_port, wait_for

SECRET = "hf_MarkerOfATokenThatNobodyMaySee"


@dataclass
class Served:
    """A running server. `log` is what it has printed, `folder` where it keeps its runs."""

    address: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.address + path.lstrip("/"), headers=headers, timeout=30)

    def post(self, path: str, body: Any = None, content: bytes | None = None, **headers: str) -> httpx.Response:
        content = content if content is not None else json.dumps(body).encode()
        return httpx.post(
            self.address + path.lstrip("/"),
            content=content,
            headers={"content-type": "application/json"} | headers,
            timeout=60,
        )

    def stream(self, name: str, *data: Any) -> Iterator[tuple[str, Any]]:
        """Calls a function as a client does; what is told, and with what: generating, complete, error."""
        begun = self.post(f"gradio_api/call/{name}", {"data": list(data)})
        begun.raise_for_status()
        address = f"{self.address}gradio_api/call/{name}/{begun.json()['event_id']}"
        with httpx.stream("GET", address, timeout=90) as answer:
            told = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    told = line.removeprefix("event: ")
                elif line.startswith("data: ") and told != "heartbeat":
                    yield told, json.loads(line.removeprefix("data: "))

    def call(self, name: str, *data: Any) -> tuple[str, Any]:
        """The last thing that is told."""
        return list(self.stream(name, *data))[-1]

    def press(self, number: int, *data: Any, event_data: Any = None) -> tuple[bool, Any]:
        """Triggers an event of the page by its number, as its script does; whether it succeeded, and its output."""
        session = os.urandom(6).hex()
        body = {
            "data": list(data),
            "fn_index": number,
            "session_hash": session,
            "event_data": event_data,
            "trigger_id": None,
        }
        joined = self.post("gradio_api/queue/join", body)
        if joined.status_code != 200:
            return False, joined.text
        told = f"{self.address}gradio_api/queue/data?session_hash={session}"
        try:
            with httpx.stream("GET", told, timeout=90) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        message = json.loads(line.removeprefix("data: "))
                        if message["msg"] == "process_completed":
                            return message["success"], message["output"]
        except httpx.RemoteProtocolError:
            return False, "the answer broke off"
        return False, "the answer ended"


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Served]:
    """The app as `make run` starts it, with a database of its own in `folder`."""
    port = free_port()
    process_environment = os.environ | {
        "DECODING_PLAYGROUND_DATA": str(folder),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_TOKEN": SECRET,
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=process_environment | environment, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            wait_for(address, process, folder / "log")
            yield Served(address, folder, process)
        finally:
            process.terminate()
            process.wait(10)
