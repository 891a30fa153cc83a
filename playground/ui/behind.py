"""How far behind a page is: the updates that were made for it and that it has not read yet.

Gradio keeps them in memory until the page reads them. A page that reads slowly is given fewer, and one that has
stopped reading does not keep its run alive.
"""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

MOST = 8
"""Unread updates beyond which no more are made."""
PATIENCE = 15.0
"""Seconds without reading anything after which nobody is thought to be there."""


class Reader:
    """The page that a request came from."""

    def __init__(self, request: gr.Request | None, *, patience: float = PATIENCE) -> None:
        self._request, self._patience = request, patience
        self._least, self._since = 0, time.monotonic()

    @property
    def behind(self) -> int:
        """Unread updates; 0 where that cannot be known."""
        request = self._request
        blocks: Any = getattr(getattr(getattr(request, "request", None), "app", None), "blocks", None)
        if request is None or blocks is None:
            return 0
        unread = blocks._queue.pending_messages_per_session.get(request.session_hash)
        return unread.qsize() if unread is not None else 0

    @property
    def ready(self) -> bool:
        """Whether another update makes sense now."""
        return self.behind <= MOST

    @property
    def gone(self) -> bool:
        """Whether the page has had unread updates, and has read none, for too long. Ask again and again."""
        behind = self.behind
        if behind <= MOST or behind < self._least:
            self._since = time.monotonic()
        self._least = behind
        return time.monotonic() - self._since > self._patience
