"""Which guesses came true, by how far ahead they were: counted while a run passes, kept with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import msgspec

from engines.events import Draft, Event, Verdict

FARTHEST = 32
"""Guesses farther ahead than this are counted with those this far ahead."""


class Acceptance:
    """Counts verdicts: `by_distance[0]` is [accepted, tested] of the guesses one token ahead."""

    def __init__(self) -> None:
        self.by_distance: list[list[int]] = []
        self._ahead: dict[int, int] = {}

    def count(self, events: Iterable[Event]) -> Self:
        """Takes more events into account."""
        for event in events:
            match event:
                case Draft(nodes=nodes):
                    self._ahead = {}
                    for node in nodes:
                        above = self._ahead.get(node.parent) if node.parent != node.id else None
                        self._ahead[node.id] = 0 if above is None else above + 1
                case Verdict(nodes=nodes):
                    for judged in nodes:
                        if judged.outcome != "untested" and (ahead := self._ahead.get(judged.id, 0)):
                            self._add(min(ahead, FARTHEST), judged.outcome == "accepted")
        return self

    def _add(self, ahead: int, accepted: bool) -> None:
        while len(self.by_distance) < ahead:
            self.by_distance.append([0, 0])
        self.by_distance[ahead - 1][0] += accepted
        self.by_distance[ahead - 1][1] += 1

    @property
    def column(self) -> str:
        """The value of `runs.acceptance`."""
        return msgspec.json.encode(self.by_distance).decode()
