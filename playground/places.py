"""Who decodes now, and who is next: a limited number of people have runs in progress, the others stand in one line.

A place belongs to a person, and all runs of that person share it: whoever has one never waits for a second, so that
nobody can hold one place and wait for another. Places are given in the order in which people came.

    with places.take(owner) as place:
        for ahead in place.wait(stop):
            ...                             # so many people are before you
        ...                                 # decode
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterator

from engines.errors import DecodingError

LOOK = 0.25
"""Seconds between two looks at the place in line."""


class Full(DecodingError):
    """The line is as long as it may be."""


class Places:
    """`most` people at once, `line` waiting; 0 means no limit."""

    def __init__(self, most: int = 0, line: int = 0) -> None:
        self.most, self.line = most, line
        self._changed = threading.Condition()
        self._inside: Counter[Hashable] = Counter()
        self._waiting: list[Place] = []

    @property
    def taken(self) -> int:
        """People who have a place."""
        return len(self._inside)

    @property
    def waiting(self) -> int:
        """Requests that stand in line."""
        return len(self._waiting)

    def take(self, owner: Hashable) -> Place:
        """A place, or a position in line. Raises `Full`. Leave it when done, or use it in a `with` statement."""
        with self._changed:
            place = Place(self, owner)
            if owner in self._inside or (not self._waiting and self._room):
                self._inside[owner] += 1
                place.granted = True
            elif self.line and len(self._waiting) >= self.line:
                raise Full(
                    f"This server is full: {self.taken} people are decoding and {self.waiting} are waiting. "
                    "Try again in a few minutes."
                )
            else:
                self._waiting.append(place)
            return place

    def ahead(self, owner: Hashable) -> int | None:
        """People who are before `owner` in line; None when `owner` does not stand in it."""
        own = next((place for place in list(self._waiting) if place.owner == owner), None)
        return own.ahead if own else None

    @property
    def _room(self) -> bool:
        return not self.most or len(self._inside) < self.most

    def _leave(self, place: Place) -> None:
        with self._changed:
            if place in self._waiting:
                self._waiting.remove(place)
            elif place.granted:
                self._inside[place.owner] -= 1
                if not self._inside[place.owner]:
                    del self._inside[place.owner]
            place.granted = False
            while self._waiting and (self._room or self._waiting[0].owner in self._inside):
                first = self._waiting.pop(0)
                # Everything else that this person is waiting for shares the place.
                for granted in [first, *(other for other in self._waiting if other.owner == first.owner)]:
                    granted.granted = True
                    self._inside[first.owner] += 1
                self._waiting = [other for other in self._waiting if not other.granted]
            self._changed.notify_all()


class Place:
    """One request's place, or its position in line."""

    def __init__(self, places: Places, owner: Hashable) -> None:
        self.owner = owner
        self.granted = False
        self._places = places

    @property
    def ahead(self) -> int:
        """People who are before this one; 0 when it has its place."""
        waiting = list(self._places._waiting)
        before = waiting[: waiting.index(self)] if self in waiting else []
        return len({place.owner for place in before} - {self.owner})

    def wait(self, stop: threading.Event | None = None) -> Iterator[int]:
        """How many are ahead, again and again, until the place is there or `stop` is set."""
        while not self.granted and not (stop and stop.is_set()):
            yield self.ahead
            with self._places._changed:
                if not self.granted:
                    self._places._changed.wait(LOOK)

    def leave(self) -> None:
        """Makes room for others. A second time does nothing."""
        self._places._leave(self)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
