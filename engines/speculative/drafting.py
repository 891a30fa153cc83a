"""The draft model's side of a run: which model guesses, its cache of the text, and what it would say next.

What chain and tree speculation share. `Reader` keeps the draft's cache in step with the committed text: tokens that
were refused are forgotten, tokens that the target supplied are read. Distributions pass through the same temperature
and filters as the target's; the acceptance test is exact for no other q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from weakref import WeakKeyDictionary

from msgspec import Meta
from torch import Tensor

from engines.errors import BadParameter, ModelUnavailable
from engines.events import Event, Note
from engines.method import Need
from engines.models.causal import CausalModel
from engines.models.draft import load_draft
from engines.models.early_exit import early_exit
from engines.models.translated import Translated
from engines.runner import PROMPT_CHUNK, Run
from engines.sampling import Sampler, Speculating
from engines.speculative.tree import TokenTree

DRAFTS = ("auto", "trained", "early exit")


class Drafted(Speculating, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of methods whose guesses come from a smaller model."""

    draft: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=120,
            description="Who guesses: auto, trained (the shipped draft model), early exit (the model's own first "
            "layers), or another model's id",
        ),
    ] = "auto"
    exit_layer: Annotated[int, Meta(ge=1, le=200, description="Early exit: how many of the layers guess")] = 6


_drafts: WeakKeyDictionary[CausalModel, dict[tuple[str, int], CausalModel]] = WeakKeyDictionary()
"""Draft models by target, made once."""


def draft_for(target: CausalModel, settings: Drafted) -> CausalModel:
    """The model that guesses for `target`.

    `auto` is the trained draft, else the model's early exit. A model with a companion always has it guess.
    Raises `ModelUnavailable` or `BadParameter` when there is no such model, when it cannot forget refused guesses, or
    when its vocabulary has nothing in common with the target's.
    """
    known = _drafts.setdefault(target, {})
    key = (settings.draft, settings.exit_layer)
    if key not in known:
        known[key] = _draft_for(target, settings)
    return known[key]


def _draft_for(target: CausalModel, settings: Drafted) -> CausalModel:
    name = settings.draft
    if target.companion is not None:  # whoever guesses, the test on the tiny twin is about the rule
        return target.companion
    if name in ("auto", "trained"):
        try:
            return load_draft(target)
        except ModelUnavailable:
            if name == "trained":
                raise
    if name in ("auto", "early exit"):
        if target.rereads:
            raise cannot_draft(f"the early exit of {target.title}")
        layers = getattr(target.network.config, "num_hidden_layers", settings.exit_layer + 1)
        return early_exit(target, min(settings.exit_layer, layers - 1) if name == "auto" else settings.exit_layer)
    from engines.models.loading import load

    draft = load(name)
    # A draft reads its guesses one at a time: to read the last pass again would not take back enough.
    if Need.ROLLBACK not in draft.has or draft.rereads:
        raise cannot_draft(draft.title)
    same = draft.tokenizer.get_vocab() == target.tokenizer.get_vocab()
    return draft if same else Translated(draft, target)


def cannot_draft(title: str) -> BadParameter:
    """The refusal of a model whose cache keeps what was guessed."""
    return BadParameter(f"{title[:1].upper()}{title[1:]} cannot forget refused guesses. Choose another draft.")


class Reader:
    """A draft model reading along with a run."""

    def __init__(self, run: Run, draft: CausalModel, sampler: Sampler, ledger: list[Event] | None = None) -> None:
        """Passes are entered into `ledger`, the run's own when none is given."""
        self.draft = draft
        self._run, self._sampler = run, sampler.twin()
        self._state = draft.start(run.ledger if ledger is None else ledger, run.clock.now)
        self._read: list[int] = []
        """The tokens in the draft's cache."""
        self._told = False
        self._agreed = 0
        """How many of them are known to be committed."""

    def room(self) -> int:
        """How many guesses fit into the draft's context, and into what is left of the run."""
        return max(0, min(self._run.remaining - 1, self.draft.context_length - len(self._run.sequence)))

    def full(self) -> Note | None:
        """What to say, once, when the draft's context holds no more while the run goes on."""
        if self._told or self._run.remaining <= 1 or self.room():
            return None
        self._told = True
        return Note(
            text=f"{self.draft.title} reads at most {self.draft.context_length:,} tokens: "
            "from here on the text is decoded without guesses."
        )

    def catch_up(self) -> Tensor:
        """Logits (vocabulary,) after the last committed token, when the cache holds the committed text."""
        text = self._run.sequence
        # The last token is read again if it was guessed right: its logits are needed.
        agreed = min(self._agreed, len(text) - 1)
        while agreed < min(len(self._read), len(text) - 1) and self._read[agreed] == text[agreed]:
            agreed += 1
        self._state.rollback(len(self._read) - agreed)
        *pieces, last = [text[start : start + PROMPT_CHUNK] for start in range(agreed, len(text), PROMPT_CHUNK)]
        for piece in pieces:
            self._state.extend(piece, last=True, lane="draft")
        logits = self._state.extend(last, last=True, lane="draft")[-1]
        self._read, self._agreed = text, len(text)
        return logits

    def read(self, token: int) -> Tensor:
        """Logits (vocabulary,) after one more token of a chain."""
        self._read.append(token)
        return self._state.extend([token], last=True, lane="draft")[-1]

    def read_tree(self, tree: TokenTree) -> Tensor:
        """Logits (nodes - 1, vocabulary) after every guess of a tree whose root is the last token read.

        The tree is read anew at every level and not kept: with a small model a pass over a dozen tokens costs little
        more than one over a single token.
        """
        logits = self._state.extend(tree.tokens[1:], [parent - 1 for parent in tree.parents[1:]], lane="draft")
        self._state.keep([])
        return logits

    def distribution(self, logits: Tensor, path: Sequence[int] = ()) -> Tensor:
        """q (vocabulary,) after the committed text and `path`, the guesses since; the draft's own at temperature 0."""
        if self._sampler.greedy:
            return logits.softmax(-1)
        return self._sampler.distribution(logits, self._run.prompt, [*self._run.output, *path]).probabilities
