"""The model that the page decodes with, and the one on its way into memory.

Loading happens in a thread of its own, so that the page opens at once and the running model stays usable until the
next one is ready. A model that cannot be had leaves a sentence in `problem` and everything else as it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engines.errors import DecodingError
from engines.method import Need
from engines.models.catalogue import DEFAULT
from playground import zerogpu
from playground.texts import Text, text

if TYPE_CHECKING:
    from engines.models.causal import CausalModel


class Resident:
    """The model in use by this server."""

    def __init__(self) -> None:
        self.model: CausalModel | None = None
        self.wanted = ""
        self.fraction: float | None = None
        """How far loading is; None when nothing is being loaded."""
        self.doing = ""
        self.problem = ""
        """Why the last model asked for could not be loaded."""
        self._changed = threading.Condition()

    def load(self, name: str = DEFAULT, precision: str = "") -> None:
        """Starts loading, unless something is being loaded already."""
        with self._changed:
            if self.fraction is not None:
                return
            self.wanted, self.fraction, self.doing, self.problem = name, 0.0, "starting", ""
        threading.Thread(target=self._load, args=(name, precision), name="load-model", daemon=True).start()

    @property
    def has(self) -> Need | None:
        """What a method may ask of the model; None while there is none."""
        return self.model.has if self.model else None

    @property
    def loading(self) -> bool:
        """Whether a model is on its way."""
        return self.fraction is not None

    def wait(self, every: float = 0.25) -> Iterator[tuple[float, str]]:
        """How far loading is, again and again, until it is done."""
        while self.loading:
            yield self.fraction or 0.0, self.doing
            with self._changed:
                self._changed.wait(every)

    def _load(self, name: str, precision: str) -> None:
        try:
            self._say(0.02, "reading the libraries")
            import engines

            model = engines.load(name, precision=precision, progress=self._say)
            if not zerogpu.lends():  # there, this process has no GPU to measure
                self._say(0.97, "measuring this machine")
                model.cost_curve()  # once per model, so that no run has to wait for it
            self.model = model
        except DecodingError as error:
            self.problem = str(error)
        except Exception as error:  # whatever it was, the page must go on and say so
            self.problem = f"The model could not be loaded: {type(error).__name__}: {str(error)[:200]}"
        finally:
            with self._changed:
                self.fraction, self.doing = None, ""
                self._changed.notify_all()

    def _say(self, fraction: float, text: str) -> None:
        with self._changed:
            self.fraction, self.doing = fraction, text
            self._changed.notify_all()

    def chip(self) -> str | Text:
        """The model in a few words, for the top of the page."""
        if self.loading:
            return text("shell.loading", doing=self.doing, percent=round(100 * (self.fraction or 0)))
        if self.model is None:
            return text("shell.no-model")
        short = self.model.title.split(" (")[0].replace(" Instruct", "")
        return f"{short} · {self.model.precision} · {memory_gib():.1f} GB"


_measured: tuple[float, float] = (0.0, 0.0)


def memory_gib() -> float:
    """Memory that this process holds, in 10^9 bytes; measured once a second at most."""
    global _measured
    if time.monotonic() - _measured[0] > 1:
        import psutil

        _measured = (time.monotonic(), psutil.Process().memory_info().rss / 1e9)
    return _measured[1]
