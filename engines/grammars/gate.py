"""The gate through which every token of a constrained run must pass.

A `Gate` stands in a run's `Sampler`, before penalties, temperature and filters: so every method that chooses its tokens
through a sampler keeps to the constraint, whatever it guesses, reorders or draws. It follows the text by itself: asked
about another text than the last one (the next node of a draft tree, another beam), it takes back what differs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.errors import BadParameter
from engines.events import Mask
from engines.grammars.constraint import Constraint, DeadEnd
from engines.grammars.vocabulary import Bits, has
from engines.sampling import top_choices

CELLS = 1024
"""The vocabulary, in the order of its tokens' bytes, is shown as so many equal pieces."""
SHOWN = 8


@dataclass(slots=True)
class Seen:
    """A mask that was computed for a place of the text."""

    bits: Bits
    seconds: float
    view: dict[str, str]


class Gate:
    """Follows one run's text with a constraint.

    Args:
        constraint: stands at the first generated token.
        loud: remembers what it decided at each place, for `event`.
    """

    def __init__(self, constraint: Constraint, *, loud: bool = True) -> None:
        self.constraint = constraint
        self._loud = loud
        self._read: list[int] = []
        self._seen: dict[int, Seen] = {}

    def follow(self, output: Sequence[int]) -> Constraint:
        """The constraint at the end of this text. Raises `BadParameter` when the text has left the language."""
        output = list(output)
        agreed = len(self._read)
        if output[:agreed] != self._read:
            pairs = enumerate(zip(self._read, output, strict=False))
            agreed = next((index for index, (a, b) in pairs if a != b), min(len(self._read), len(output)))
            self.constraint.rollback(len(self._read) - agreed)
            del self._read[agreed:]
        for token in output[agreed:]:
            if not self.constraint.commit(token):
                spelled = self.constraint.vocabulary.spell(token)
                raise BadParameter(
                    f"Token {len(self._read) + 1} of this text, {spelled.text!r}, does not fit the constraint, "
                    "so nothing can be decided after it. Begin earlier, or without the constraint."
                )
            self._read.append(token)
        return self.constraint

    def allowed(self, output: Sequence[int]) -> Tensor:
        """Which tokens may follow `output`, bool (vocabulary,). Raises `DeadEnd` when there are none.

        Behind an end token, which a guess may be, nothing will be kept, and anything may follow.
        """
        if not self.constraint.vocabulary.ends.isdisjoint(output):
            return torch.ones(len(self.constraint.vocabulary), dtype=torch.bool)
        constraint = self.follow(output)
        start = time.perf_counter()
        bits = constraint.mask()
        if self._loud:
            self._seen[len(output)] = Seen(bits, time.perf_counter() - start, constraint.view())
        if not bits.any():
            raise DeadEnd
        return torch.from_numpy(constraint.vocabulary.flags(bits))

    def filtered(self, logits: Tensor, output: Sequence[int]) -> Tensor:
        """Logits (..., vocabulary) with what may not follow `output` at -inf.

        Raises `DeadEnd` too when no allowed token has a number that one could choose it by: all are impossible, or
        not numbers at all.
        """
        kept = logits.masked_fill(~self.allowed(output).to(logits.device), float("-inf"))
        if not kept.amax(-1).isfinite().all():
            raise DeadEnd
        return kept

    def twin(self) -> Gate:
        """A gate at the same place that keeps no record, e.g. for a draft."""
        gate = Gate(self.constraint.fork(), loud=False)
        gate._read = list(self._read)
        return gate

    def event(self, position: int, logits: Tensor) -> Mask | None:
        """What the last mask for this place did to the model's own distribution, from raw logits (vocabulary,)."""
        seen = self._seen.pop(position, None)
        return mask_event(self.constraint, seen, position, logits) if seen else None


def mask_event(constraint: Constraint, seen: Seen, position: int, logits: Tensor) -> Mask:
    """A mask beside what the model wanted."""
    vocabulary = constraint.vocabulary
    flags = torch.from_numpy(vocabulary.flags(seen.bits)).to(logits.device)
    p = logits.softmax(-1)
    permitted = p.where(flags, 0.0)
    blocked = p - permitted
    return Mask(
        position=position,
        engine=constraint.engine,
        allowed=int(flags.sum()),
        vocabulary=len(vocabulary),
        blocked_mass=min(1.0, max(0.0, float(blocked.sum()))),
        wanted=tuple(choice for choice in top_choices(blocked, SHOWN, vocabulary.spell) if choice.p > 0),
        permitted=tuple(choice for choice in top_choices(permitted, SHOWN, vocabulary.spell) if choice.p > 0),
        cells=cells(constraint, seen.bits),
        end_allowed=any(has(seen.bits, end) for end in vocabulary.ends),
        state=seen.view,
        seconds=seen.seconds,
    )


def cells(constraint: Constraint, bits: Bits) -> str:
    """One digit per piece of the vocabulary in byte order: 0 none of its tokens is allowed, 9 all are."""
    vocabulary = constraint.vocabulary
    flags = vocabulary.flags(bits)[vocabulary.text_ids].astype(np.float32)
    starts = np.linspace(0, len(flags), min(CELLS, len(flags)), endpoint=False).astype(np.int64)
    counts = np.add.reduceat(flags, starts)
    sizes = np.diff(np.append(starts, len(flags)))
    shares = counts / sizes
    digits = np.where(shares == 0, 0, np.where(shares == 1, 9, 1 + np.floor(shares * 8).clip(0, 7))).astype(np.uint8)
    return (digits + ord("0")).tobytes().decode("ascii")
