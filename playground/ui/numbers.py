"""The five headline numbers, each with its definition, of any prefix of a run. Only what was measured is shown."""

from __future__ import annotations

from collections.abc import Iterable

from engines.events import Commit, Event, Finished, Forward, Started, Verdict
from playground.ui.live import encode


class Sums:
    """Adds up events as they come; the same definitions as `engines.events.Totals`."""

    def __init__(self) -> None:
        self.passes = {"prompt": 0, "target": 0, "draft": 0}
        self.outcomes = {"accepted": 0, "rejected": 0, "untested": 0}
        self.tokens = 0
        self.limit = 0
        self.seconds = 0.0
        self.first: float | None = None

    def count(self, events: Iterable[Event]) -> Sums:
        """Takes more events into account."""
        for event in events:
            self.seconds = max(self.seconds, event.time)
            match event:
                case Started(max_new_tokens=limit):
                    self.limit = limit
                case Forward(lane=lane):
                    self.passes[lane] += 1
                case Verdict(nodes=nodes):
                    for node in nodes:
                        self.outcomes[node.outcome] += 1
                case Commit(tokens=placed):
                    new = sum(token.origin != "given" for token in placed)
                    self.tokens += new
                    if new and self.first is None:
                        self.first = event.time
                case Finished(totals=totals):
                    self.seconds = totals.seconds
        return self

    def headline(self) -> str:
        """The value of a `Numbers`."""
        passes, tested = self.passes["target"], self.outcomes["accepted"] + self.outcomes["rejected"]
        drafted = tested + self.outcomes["untested"]
        dash = "–"
        second = (
            _number(
                f"{self.outcomes['accepted'] / tested:.0%}" if tested else dash,
                f"{self.outcomes['accepted']:,} accepted of {tested:,} tested, {drafted:,} drafted",
                "Acceptance rate = accepted / tested. A guess behind a rejected one is never tested.",
            )
            if drafted
            else _number(
                f"{self.tokens:,}", f"new tokens, of at most {self.limit:,}", "Tokens that this run generated."
            )
        )
        return encode(
            [
                _number(
                    f"{self.tokens / passes:.2f}" if passes and self.tokens else dash,
                    "tokens per target pass",
                    "Generated tokens / forward passes of the model while decoding. Plain decoding: 1.",
                ),
                second,
                _number(
                    f"{self.tokens / self.seconds:.1f}" if self.tokens and self.seconds else dash,
                    "tokens per second",
                    "Generated tokens / decode time, reading the prompt included, drawing and waiting excluded.",
                ),
                _number(f"{passes:,}", "target passes", "Forward passes of the model after the prompt was read."),
                _number(
                    dash if self.first is None else _seconds(self.first),
                    "to the first token",
                    "Decode time until the first generated token was decided.",
                ),
            ]
        )


def _number(value: str, meaning: str, title: str) -> dict[str, str]:
    return {"value": value, "meaning": meaning, "title": title}


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
