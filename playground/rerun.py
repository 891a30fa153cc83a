"""Run again: the set-up of a kept run, decoded anew on the model in use, and held against what was kept.

The same set-up on the same weights should give the same tokens. Where it does not, the difference has a cause that can
be named (other weights, precision, code or libraries), or two logits so near each other that rounding decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engines.events import Event
from playground.difference import Difference, difference


class Rerun(msgspec.Struct, frozen=True):
    """How the new run stands to the kept one."""

    difference: Difference
    """Left the kept run, right the new one."""
    cut: bool
    """Whether one of the two was cut short, so that only the beginning was compared."""

    @property
    def identical(self) -> bool:
        """Whether every token that both have is the same."""
        return self.difference.identical


def compare(kept: Sequence[Event], again: Sequence[Event]) -> Rerun:
    """Holds a new run against the kept one that it repeats; both begin with `Started`."""
    both = difference(kept, again)
    return Rerun(both, cut=both.lengths[0] != both.lengths[1] and both.first is None)
