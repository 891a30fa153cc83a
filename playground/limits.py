"""What one person, and all together, may take of a server: the numbers, and what is said when one is reached.

Every limit is an environment variable, `DECODING_PLAYGROUND_` and the field's name in capitals; 0 means no limit.
On one's own machine the defaults are generous. Where the hub hosts the program, as a Space, many people share it,
and the defaults are what two cores can give each of them.

`Limits` says what is allowed, `playground.visitors` counts what is being done. `House.record` asks both before every
run, so page, API, comparisons and sweeps are bound by the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
import psutil

from engines.errors import BadParameter, DecodingError
from playground.setup import Setup

PREFIX = "DECODING_PLAYGROUND"


class LimitReached(DecodingError):
    """The server's rules do not allow it; `wait` is in how many seconds they would, if it is a matter of time."""

    def __init__(self, sentence: str, wait: float | None = None) -> None:
        super().__init__(sentence)
        self.wait = wait


def limit(local: int, space: int, doc: str) -> Any:
    """A field: its default on one's own machine and on a Space, and what it limits."""
    return field(default=local, metadata={"space": space, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is allowed."""

    prompt_characters: int = limit(400_000, 20_000, "characters of a prompt")
    new_tokens: int = limit(4096, 512, "new tokens of a run")
    seconds: int = limit(0, 120, "seconds of decoding of a run")
    runs_at_once: int = limit(16, 6, "runs in progress of one person")
    requests_per_minute: int = limit(0, 120, "runs that one person may start in a minute")
    people_at_once: int = limit(64, 20, "people with runs in progress; others stand in line")
    line: int = limit(64, 64, "requests that stand in line")
    stored_runs: int = limit(0, 300, "runs kept for one person; the oldest without a star go first")
    stored_megabytes: int = limit(0, 100, "megabytes of runs kept for one person; the oldest without a star go first")
    cache_megabytes: int = limit(0, 0, "megabytes of key-value caches of all runs; 0 is a quarter of the memory")
    shelf_megabytes: int = limit(256, 128, "megabytes of runs at hand in memory, beside those in the database")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Limits:
        """The limits of this server. Raises `BadParameter` when a variable is not a whole number from 0."""
        chosen: dict[str, int] = {}
        for one in fields(cls):
            given = environment.get(variable(one.name), "").strip()
            if given and not (given.isascii() and given.isdigit()):
                raise BadParameter(f"{variable(one.name)} must be a whole number, 0 for no limit, not {given[:40]!r}.")
            default = one.metadata["space"] if environment.get("SPACE_ID") else one.default
            chosen[one.name] = int(given or str(default))
        return cls(**chosen)

    def fitted(self, setup: Setup) -> Setup:
        """`setup`, with the time limit that everybody has. Raises `LimitReached` when it asks for too much."""
        if self.prompt_characters and len(setup.prompt) > self.prompt_characters:
            raise LimitReached(
                f"The prompt is {len(setup.prompt):,} characters long, and this server reads at most "
                f"{self.prompt_characters:,}. Shorten it, or run the program on your own machine."
            )
        if self.new_tokens and setup.max_new_tokens > self.new_tokens:
            raise LimitReached(
                f"{setup.max_new_tokens:,} new tokens are more than this server gives to one run: at most "
                f"{self.new_tokens:,}. Ask for fewer; a run can be continued from its last token."
            )
        if not self.seconds:
            return setup
        if setup.time_limit is not None and setup.time_limit > self.seconds:
            raise LimitReached(
                f"A time limit of {setup.time_limit:,.0f} seconds is more than this server gives to one run: at most "
                f"{self.seconds:,}. Ask for less time."
            )
        return msgspec.structs.replace(setup, time_limit=setup.time_limit or float(self.seconds))

    def check_draft(self, setup: Setup) -> None:
        """Raises `LimitReached` when a run would load a second model for its guesses: nobody would unload it again."""
        draft = setup.params.get("draft")
        if draft is None:
            return
        from engines.models.loading import loaded
        from engines.speculative.drafting import DRAFTS

        if draft not in (*DRAFTS, *(model.name for model in loaded())):
            raise LimitReached(
                f"The page loads no second model to guess. Choose one of: {', '.join(DRAFTS)}; "
                "or a model that was loaded on the Models page since the server started."
            )

    def cache_bytes(self, device: str = "cpu") -> float:
        """Bytes that the key-value caches of all runs may hold together."""
        if self.cache_megabytes:
            return self.cache_megabytes * 1e6
        if device.startswith("cuda"):
            import torch

            return torch.cuda.get_device_properties(device).total_memory / 4
        return psutil.virtual_memory().total / 4


def variable(name: str) -> str:
    """The environment variable of a limit."""
    return f"{PREFIX}_{name.upper()}"


def limits_table() -> str:
    """All limits, in Markdown."""

    def said(number: Any) -> str:
        return f"{number:,}" if number else "–"

    lines = [
        f"| `{variable(one.name)}` | {one.metadata['doc']} | {said(one.default)} | {said(one.metadata['space'])} |"
        for one in fields(Limits)
    ]
    return "\n".join(["| variable | at most | at home | on a Space |", "| --- | --- | ---: | ---: |", *lines])
