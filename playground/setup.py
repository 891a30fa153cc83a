"""What a run is asked for, apart from the machine: the one thing that links, run cards, reruns and comparisons share.

    setup = Setup(method="sampling", prompt="Tell me a joke.", params={"temperature": 0.8}, seed=7)
    for event in setup.begin(engines.load()): ...

The same set-up on the same weights gives the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from engines.events import Commit, Event, Started

if TYPE_CHECKING:
    from engines.models.causal import CausalModel

Params = dict[str, bool | int | float | str | None]


class Setup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request to decode. Its values are checked by `engines.run`, not here."""

    method: str
    prompt: str
    params: Params = {}
    seed: int = 0
    max_new_tokens: int = 96
    raw: bool = False
    stop: tuple[str, ...] = ()
    time_limit: float | None = None
    prefix: tuple[int, ...] = ()
    """Output tokens that are given, when the run branches off another."""
    model: str = ""
    """The model that it was made for; empty: whichever is loaded."""
    precision: str = ""

    @classmethod
    def of(cls, events: Sequence[Event]) -> Setup:
        """The set-up of a run, from its header and its given tokens. Raises `ValueError` without a header."""
        header = events[0] if events else None
        if not isinstance(header, Started):
            raise ValueError("a run begins with Started")
        given = next((event.tokens for event in events if isinstance(event, Commit)), ())
        return cls(
            method=header.method,
            prompt=header.prompt,
            params=header.params,
            seed=header.seed,
            max_new_tokens=header.max_new_tokens,
            raw=header.raw_prompt,
            stop=header.stop,
            time_limit=header.time_limit,
            prefix=tuple(placed.token.id for placed in given if placed.origin == "given"),
            model=header.model,
            precision=header.precision,
        )

    def begin(self, model: CausalModel, person: str = "") -> Iterator[Event]:
        """The run on `model`, whichever it was made for, for `person`. Raises as `engines.run` does."""
        import engines

        return engines.run(
            model,
            self.method,
            self.prompt,
            params=self.params,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            raw=self.raw,
            prefix=self.prefix,
            stop=self.stop,
            time_limit=self.time_limit,
            person=person,
        )
