"""Adding up a stream, or any prefix of one, in the vocabulary of `Totals`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from engines.events import Commit, Event, Forward, Totals, Verdict


class Tally:
    """The sums so far."""

    def __init__(self) -> None:
        self.tokens = 0
        """Generated tokens; given ones do not count."""
        self.seconds = 0.0
        self.passes = {"prompt": 0, "target": 0, "draft": 0, "backward": 0}
        self.tokens_processed = 0
        self.outcomes = {"accepted": 0, "rejected": 0, "untested": 0}
        self.first: float | None = None
        """Decode time at which the first generated token was decided."""

    def count(self, events: Iterable[Event]) -> Self:
        """Takes more events into account."""
        for event in events:
            self.seconds = max(self.seconds, event.time)
            match event:
                case Forward(lane=lane, batch=batch, query=query):
                    self.passes[lane] += 1
                    self.tokens_processed += batch * query if lane != "backward" else 0
                case Verdict(nodes=nodes):
                    for node in nodes:
                        self.outcomes[node.outcome] += 1
                case Commit(tokens=tokens):
                    new = sum(placed.origin != "given" for placed in tokens)
                    self.tokens += new
                    if new and self.first is None:
                        self.first = event.time
        return self

    @property
    def totals(self) -> Totals:
        """The sums, and the rates that follow from them."""
        tested = self.outcomes["accepted"] + self.outcomes["rejected"]
        return Totals(
            tokens=self.tokens,
            seconds=self.seconds,
            time_to_first_token=self.first or 0.0,
            target_passes=self.passes["target"],
            prompt_passes=self.passes["prompt"],
            draft_passes=self.passes["draft"],
            tokens_processed=self.tokens_processed,
            drafted=sum(self.outcomes.values()),
            **self.outcomes,
            tokens_per_second=self.tokens / self.seconds if self.seconds else 0.0,
            tokens_per_target_pass=self.tokens / self.passes["target"] if self.passes["target"] else 0.0,
            acceptance_rate=self.outcomes["accepted"] / tested if tested else None,
        )
