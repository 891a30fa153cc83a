"""Questions that several pictures ask of a stream: what was wanted, what was written, what became of the guesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engines.events import Candidates, Commit, Draft, Event, Placed, Score, Started, Token, Verdict


@dataclass(slots=True)
class Step:
    """What one pass of the target gave: a draft, the verdict on it, and the tokens that came of it, as far as known.

    A pass without a draft is a step too, whose one token is the pass's own.
    """

    draft: Draft | None = None
    verdict: Verdict | None = None
    placed: list[Placed] = field(default_factory=list)

    @property
    def confirmed(self) -> int:
        """Guesses that the verdict accepted."""
        return len(self.verdict.path) if self.verdict else 0

    @property
    def accepted(self) -> int:
        """Accepted guesses that became text: a run may end in the middle of a path."""
        return min(self.confirmed, len(self.placed)) if self.placed else self.confirmed

    @property
    def extra(self) -> int:
        """Tokens beside the guesses: the bonus or correction, or a plain pass's own token."""
        if self.placed:
            return len(self.placed) - self.accepted
        return 1 if self.verdict and self.verdict.extra else 0

    @property
    def gained(self) -> int:
        """Tokens of text."""
        return self.accepted + self.extra


def steps(events: Sequence[Event]) -> list[Step]:
    """Pass by pass, in order; drafts without a verdict are steps without tokens."""
    out: list[Step] = []
    for event in events:
        if isinstance(event, Draft):
            out.append(Step(event))
        elif isinstance(event, Verdict):
            if not out or out[-1].verdict is not None or out[-1].draft is None:
                out.append(Step())
            out[-1].verdict = event
        elif isinstance(event, Commit) and event.tokens and event.tokens[0].origin != "given":
            verdict = out[-1].verdict if out else None
            due = out[-1].confirmed + (verdict.extra is not None) if verdict else 0
            complete = verdict is None or len(out[-1].placed) >= due
            if complete:
                out.append(Step())
            out[-1].placed += event.tokens
    return out


def depths(draft: Draft) -> dict[int, int]:
    """How many guesses deep each node is; the root is 0."""
    out: dict[int, int] = {}
    for node in draft.nodes:
        out[node.id] = out[node.parent] + 1 if node.parent in out and node.parent != node.id else 0
    return out


def shown_sequence(events: Sequence[Event]) -> int:
    """Which of several parallel sequences became the text; the first when that is not known."""
    for event in reversed(events):
        if isinstance(event, Score) and event.chosen and event.sequence is not None:
            return event.sequence
    return 0


def candidates(events: Sequence[Event]) -> dict[int, Candidates]:
    """The latest candidates of every position, for the sequence that is the text where that is told apart."""
    sequence = shown_sequence(events)
    out: dict[int, Candidates] = {}
    for event in events:
        if isinstance(event, Candidates) and (event.sequence == sequence or event.sequence == 0):
            known = out.get(event.position)
            if known is None or event.sequence == sequence or known.sequence != sequence:
                out[event.position] = event
    return out


def written(events: Sequence[Event]) -> dict[int, Placed]:
    """The output, by position."""
    return {
        position: placed
        for event in events
        if isinstance(event, Commit)
        for position, placed in enumerate(event.tokens, event.position)
    }


def words(events: Sequence[Event]) -> dict[int, Token]:
    """Prompt and output by position; the prompt's positions are negative."""
    out = {position: placed.token for position, placed in written(events).items()}
    for event in events:
        if isinstance(event, Started):
            out |= {index - len(event.prompt_tokens): token for index, token in enumerate(event.prompt_tokens)}
    return out


def has(events: Sequence[Event], kind: type[Event]) -> bool:
    """Whether an event of this kind is there."""
    return any(isinstance(event, kind) for event in events)
