"""A draft that speaks another vocabulary, heard in the target's.

"Accelerating LLM Inference with Lossless Speculative Decoding Algorithms for Heterogeneous Vocabularies", Timor et al.,
arXiv 2502.05202, algorithm 4, token-level intersection:

    1. shared ← the tokens that are spelled alike in both vocabularies
    2. the draft reads the text in its own tokens: a shared one as it is, any other in as many as it takes
    3. q ← the draft's distribution, restricted to the shared tokens and renormalised

Guesses are shared tokens, so the acceptance test is the usual one, and exact: a draft may leave tokens out.
Differs from the paper's code in step 2: the text is not tokenised anew at every turn, each of the target's tokens is
spelled in the draft's on its own. What the draft has read then never changes, and its cache can be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from time import perf_counter

import torch
from torch import Tensor

from engines.errors import BadParameter
from engines.events import Event
from engines.models.causal import CausalModel, State

FEWEST_SHARED = 2
"""A draft with a single token to say guesses nothing."""


class Translated(CausalModel):
    """`draft`, with the vocabulary of `target`. Raises `BadParameter` when they share hardly a token."""

    def __init__(self, draft: CausalModel, target: CausalModel) -> None:
        super().__init__(
            draft.network,
            target.tokenizer,
            name=draft.name,
            title=draft.title,
            precision=draft.precision,
            weights=draft.weights,
            steady=draft.steady,
        )
        self.own = draft
        self.vocabulary_size = target.vocabulary_size
        ours = {spelled(draft, id): id for id in range(draft.vocabulary_size)}
        pairs = [
            (id, ours[word]) for id in range(target.vocabulary_size) if (word := spelled(target, id)) and word in ours
        ]
        if len(pairs) < FEWEST_SHARED:
            raise BadParameter(
                f"{draft.title} and {target.title} have no tokens in common. Choose a draft whose vocabulary is closer."
            )
        heard, said = zip(*pairs, strict=True)
        self.heard, self.said = torch.tensor(heard), torch.tensor(said)
        """Ids of the shared tokens, (shared,), in the target's vocabulary and in the draft's."""

    @cached_property
    def _shared(self) -> dict[int, int]:
        return dict(zip(self.heard.tolist(), self.said.tolist(), strict=True))

    def spell_out(self, id: int) -> list[int]:
        """The draft's tokens for one of the target's; none for bytes that are no text by themselves."""
        if id in self._shared:
            return [self._shared[id]]
        text = self.token(id).text
        return self.own.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def heard_as(self, logits: Tensor) -> Tensor:
        """The draft's logits (..., own vocabulary) as logits (..., target's vocabulary)."""
        ours = logits.new_full((*logits.shape[:-1], self.vocabulary_size), float("-inf"))
        ours[..., self.heard] = logits[..., self.said]
        return ours

    def start(self, ledger: list[Event] | None = None, now: Callable[[], float] = perf_counter) -> State:
        return TranslatedState(self, self.own.start(ledger, now))


class TranslatedState(State):
    """The cache of a `Translated` draft; `length` counts the target's tokens."""

    def __init__(self, model: Translated, own: State) -> None:
        self._translated, self._own = model, own
        self._sizes: list[int] = []
        """How many of the draft's tokens each of the target's became."""
        self._tree_start = None
        self._last: Tensor | None = None
        self.batch, self.hidden = 1, None

    @property
    def length(self) -> int:
        return len(self._sizes)

    def extend(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]],
        parents: Sequence[int] | None = None,
        *,
        last: bool = False,
        lane: str = "target",
    ) -> Tensor:
        """As `State.extend`, for one sequence; every token of a tree must be a shared one."""
        pieces = [self._translated.spell_out(token) for token in tokens]  # type: ignore[arg-type]
        before = len(self._sizes)
        self._sizes += [len(piece) for piece in pieces]
        flat = [id for piece in pieces for id in piece]
        if parents is not None:
            assert all(len(piece) == 1 for piece in pieces)
            self._tree_start = before
            return self._translated.heard_as(self._own.extend(flat, parents, lane=lane))
        if not flat:  # nothing new to read: the draft would still say what it said
            if self._last is None:
                self._last = self._translated.heard_as(torch.zeros(self._translated.own.vocabulary_size))
            return self._last[None] if last else self._last.expand(len(pieces), -1)
        logits = self._translated.heard_as(self._own.extend(flat, last=last, lane=lane))
        self._last = logits[-1]
        if last:
            return logits
        ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0) - 1
        return logits[ends.clamp(min=0)]

    def rollback(self, count: int) -> None:
        assert 0 <= count <= self.length
        if count:
            self._own.rollback(sum(self._sizes[-count:]))
            del self._sizes[-count:]

    def keep(self, path: Sequence[int]) -> None:
        assert self._tree_start is not None, "the last pass did not read a tree"
        self._own.keep(path)
        self._sizes = [*self._sizes[: self._tree_start], *(1 for _ in path)]
        self._tree_start = None


def spelled(model: CausalModel, id: int) -> str:
    """What makes a token the same token in two vocabularies: its text, or its bytes if they are none."""
    token = model.token(id)
    return token.text or (f"\0{token.hex}" if token.hex else "")
