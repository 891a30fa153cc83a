"""Who decodes how much at the moment: runs in progress, runs begun within a minute, and room for their caches.

A run that is let in is a `Visit`, until it ends. Who may not come in is told why, and when to try again.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from engines.method import find
from engines.models.loading import loaded
from playground.limits import LimitReached, Limits
from playground.setup import Setup

if TYPE_CHECKING:
    from engines.models.causal import CausalModel

MINUTE = 60.0
MOST_REMEMBERED = 10_000
"""People whose last requests are remembered."""
WIDTHS = ("num_beams", "n", "num_beam_groups", "beams_per_group", "n_particles")
"""Parameters that say how many texts a method decodes side by side; their product is the width of its cache."""
SPARE_TOKENS = 128
"""A chat template and the guesses of one pass."""


class Visitors:
    """Who has how many runs in progress, who began how many in the last minute, and what their caches may hold."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._begun: OrderedDict[str, deque[float]] = OrderedDict()
        self._visits: dict[str, set[Visit]] = {}

    @property
    def cached(self) -> float:
        """Bytes that the caches of all runs in progress may grow to."""
        return sum(visit.bytes for visits in list(self._visits.values()) for visit in list(visits))

    def begin(self, owner: str, cache: float, most: float) -> Visit:
        """One more run, whose cache may grow to so many bytes of `most` in all. Raises `LimitReached`."""
        with self._lock:
            own = self._visits.get(owner, set())
            at_once = self._limits.runs_at_once
            if at_once and len(own) >= at_once:
                raise LimitReached(
                    f"{len(own)} of your runs are in progress, and this server allows {at_once} at once. "
                    "Stop one, or wait until one has ended.",
                    wait=1.0,
                )
            self._count(owner)
            if cache > most:
                raise LimitReached(
                    f"This run's cache may grow to {cache / 1e6:,.0f} MB, and this server has {most / 1e6:,.0f} MB "
                    "for caches. Ask for a shorter prompt, fewer new tokens or fewer beams."
                )
            if (left := most - self.cached) < cache:
                raise LimitReached(
                    f"Other runs fill this server's memory: this one's cache may grow to {cache / 1e6:,.0f} MB, and "
                    f"{max(0.0, left) / 1e6:,.0f} MB are left. Wait a moment, or ask for fewer new tokens.",
                    wait=2.0,
                )
            visit = Visit(self, owner, cache)
            self._visits.setdefault(owner, set()).add(visit)
            return visit

    def _count(self, owner: str) -> None:
        rate, now = self._limits.requests_per_minute, self._clock()
        if not rate:
            return
        times = self._begun.setdefault(owner, deque())
        self._begun.move_to_end(owner)
        while len(self._begun) > MOST_REMEMBERED:
            self._begun.popitem(last=False)
        while times and times[0] <= now - MINUTE:
            times.popleft()
        if len(times) >= rate:
            wait = times[0] + MINUTE - now
            raise LimitReached(
                f"{rate} runs in one minute are what this server gives to one person. "
                f"Try again in {max(1, math.ceil(wait))} s.",
                wait=wait,
            )
        times.append(now)

    def _end(self, visit: Visit) -> None:
        with self._lock:
            own = self._visits.get(visit.owner, set())
            own.discard(visit)
            if not own:
                self._visits.pop(visit.owner, None)


class Visit:
    """One run in progress, as far as the limits are concerned."""

    def __init__(self, visitors: Visitors, owner: str, bytes: float) -> None:
        self.owner, self.bytes = owner, bytes
        self._visitors = visitors

    def end(self) -> None:
        """The run is over. A second time does nothing."""
        self._visitors._end(self)


def cache_bytes(model: CausalModel, setup: Setup) -> float:
    """Bytes that the key-value caches of a run may grow to: its tokens, times the texts side by side, and those of
    the model that guesses, if there is one.

    The request must have been checked before.
    """
    if model.truncated:  # its cache is on a server of its own
        return 0.0
    # No tokenizer spells a byte with more than one token.
    prompt = len(setup.prompt.encode(errors="replace")) + len(setup.prefix)
    if prompt > model.context_length // 4:
        prompt = len(model.encode(setup.prompt, raw=setup.raw)) + len(setup.prefix)
    tokens = min(prompt + setup.max_new_tokens + SPARE_TOKENS, model.context_length)
    params = msgspec.to_builtins(find(setup.method).validate(setup.params))
    widths = [value for name in WIDTHS if isinstance(value := params.get(name), int) and value > 0]
    guessing = draft_bytes(model, params["draft"], params["exit_layer"]) if "draft" in params else 0.0
    return tokens * (bytes_per_token(model) * math.prod(widths) + guessing)


def bytes_per_token(model: CausalModel) -> float:
    """Keys and values of all layers for one token."""
    config = model.network.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return float(2 * config.num_hidden_layers * heads * head * model.network.dtype.itemsize)


def draft_bytes(model: CausalModel, draft: str, exit_layer: int) -> float:
    """The same of the model that guesses: a loaded one's own, else that of so many of the model's layers. The shipped
    draft has two, fewer than an early exit."""
    named = next((other for other in loaded() if other.name == draft), None)
    if named is not None:
        return bytes_per_token(named)
    layers = model.network.config.get_text_config().num_hidden_layers
    return bytes_per_token(model) * min(exit_layer, layers) / layers
