"""The entry point: builds the app, starts loading the model, and serves the page."""

from __future__ import annotations

import contextlib
import os

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  (before torch, so that it can give a Space's GPU out by the call)

from playground import server, zerogpu
from playground.ui.house import House
from playground.ui.shell import build, launch_options


def main() -> None:
    """Serves until it is interrupted. `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` choose the address."""
    house = House()
    app = build(house)
    house.resident.load(os.environ.get("DECODING_PLAYGROUND_MODEL", "smollm2-135m"))
    if zerogpu.lends():  # what is moved to a lent GPU are the weights that are here when the Space starts
        for _ in house.resident.wait():
            pass
    app.queue(default_concurrency_limit=8)
    app.launch(**launch_options(), **server.launch_options(app))


if __name__ == "__main__":
    main()
