"""The output, token by token, each with the reason why it is there and what else the model wanted.

Not a Plotly figure but plain data: the page writes the words, through `textContent`, and colours them by role. A token
is complete when it is committed and never changes afterwards, so a live page may ask for those from `start` on only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.events import Beam, Beams, Candidates, Commit, Event, Placed, Score, Token
from visuals.palette import ROLE_OF_ORIGIN, ROLES
from visuals.picture import Drawing, Row, picture
from visuals.spelling import quoted


def relevant(events: Sequence[Event]) -> bool:
    """Any run has words, or hopes to."""
    return any(isinstance(event, Commit | Beams) for event in events)


def tokens(events: Sequence[Event], start: int = 0) -> list[dict[str, Any]]:
    """The committed tokens from number `start` on, self-contained; the fields are listed at `draw`."""
    wanted: dict[tuple[int, int], Candidates] = {}
    sequence = 0
    out: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, Candidates):
            wanted[event.position, event.sequence] = event
        elif isinstance(event, Score) and event.chosen and event.sequence is not None:
            sequence = event.sequence
        elif isinstance(event, Commit) and event.position + len(event.tokens) > start:
            for position, placed in enumerate(event.tokens, event.position):
                if position >= start:
                    candidates = wanted.get((position, sequence)) or wanted.get((position, 0))
                    out.append(_token(position, event.step, placed, candidates))
    return out


def _token(position: int, step: int, placed: Placed, candidates: Candidates | None) -> dict[str, Any]:
    role = ROLES[ROLE_OF_ORIGIN[placed.origin]]
    return _spelled(placed.token) | {
        "role": role.name,
        "mark": role.mark,
        "origin": placed.origin,
        "position": position,
        "step": step,
        "raw": placed.raw,
        "final": placed.final,
        "rank": placed.rank,
        "entropy": candidates.entropy if candidates else None,
        "alternatives": _alternatives(candidates) if candidates else [],
    }


def _spelled(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "hex": token.hex}


def _alternatives(candidates: Candidates) -> list[dict[str, Any]]:
    if not candidates.stages:
        return [
            {"id": c.token.id, "text": c.token.text, "hex": c.token.hex, "raw": c.p, "final": None}
            for c in candidates.raw
        ]
    final = {choice.token.id: 0.0 for stage in candidates.stages for choice in stage.removed}
    final |= {choice.token.id: choice.p for choice in candidates.stages[-1].top}
    return [
        {"id": c.token.id, "text": c.token.text, "hex": c.token.hex, "raw": c.p, "final": final.get(c.token.id)}
        for c in candidates.raw
    ]


def pending(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The hypothesis that leads while nothing is committed yet (beam search decides late)."""
    known: dict[int, Beam] = {}
    leader: Beam | None = None
    for event in events:
        if isinstance(event, Commit):
            return []
        if isinstance(event, Beams):
            known.update((beam.id, beam) for beam in event.beams)
            alive = [beam for beam in event.beams if beam.outcome != "pruned"]
            leader = max(alive, key=lambda beam: (beam.outcome == "chosen", beam.score), default=leader)
    path: list[Token] = []
    seen: set[int] = set()
    while leader is not None and leader.id not in seen:
        seen.add(leader.id)
        path.append(leader.token)
        leader = known.get(leader.parent)
    return [_spelled(token) | {"role": "undecided", "mark": ROLES["undecided"].mark} for token in reversed(path)]


def table(events: Sequence[Event]) -> list[Row]:
    """One row per token."""
    keys = ("position", "step", "id", "text", "hex", "origin", "raw", "final", "rank", "entropy")
    return [{key: token[key] for key in keys} for token in tokens(events)]


def narrate(events: Sequence[Event]) -> str:
    """How many tokens, of which kind, and the least expected one."""
    placed = [item for event in events if isinstance(event, Commit) for item in event.tokens]
    if not placed:
        hopes = pending(events)
        if not hopes:
            return "No token has been written yet."
        return f"Nothing is decided yet. The leading hypothesis is {len(hopes)} tokens long."
    counts: dict[str, int] = {}
    for item in placed:
        label = ROLES[ROLE_OF_ORIGIN[item.origin]].label
        counts[label] = counts.get(label, 0) + 1
    kinds = ", ".join(f"{label}: {count}" for label, count in counts.items())
    noun = "token" if len(placed) == 1 else "tokens"
    sentences = [f"The text has {len(placed)} {noun} so far ({kinds}).", f"The last one is {quoted(placed[-1].token)}."]
    rated = [item for item in placed if item.raw is not None]
    if rated:
        least = min(rated, key=lambda item: item.raw or 0.0)
        sentences.append(
            f"The least expected is {quoted(least.token)}, to which the model gave a probability of {least.raw:.2f}."
        )
        first = sum(item.rank == 0 for item in rated)
        sentences.append(f"In {first} of {len(rated)} places the model's first choice was taken.")
    return " ".join(sentences)


@picture(
    "token-stream",
    title="Token stream",
    explains="The text so far, one piece at a time, coloured by why each piece is there.",
    empty="A model writes one token at a time, a word or a piece of one. Press Run, and each appears here.",
    relevant=relevant,
    table=table,
    narrate=narrate,
)
def draw(events: Sequence[Event], start: int = 0) -> Drawing | None:
    """Tokens, legend and pending hypothesis.

    Args:
        events: any prefix of a stream.
        start: leave out tokens before this position; the page has them already.

    Returns:
        `{"kind": "tokens", "start", "count", "tokens", "legend", "pending"}`. A token holds `id, text, hex, role,
        mark, origin, position, step, raw, final, rank, entropy, alternatives`; an alternative `id, text, hex, raw,
        final`, where `final` is None when no filter was applied or its share is unknown. Texts are raw: show them
        through `textContent`.
    """
    count = 0
    roles: set[str] = set()
    for event in events:
        if isinstance(event, Commit):
            count += len(event.tokens)
            roles.update(ROLE_OF_ORIGIN[placed.origin] for placed in event.tokens)
    hopes = [] if count else pending(events)
    if hopes:
        roles.add("undecided")
    if not roles:
        return None
    return {
        "kind": "tokens",
        "start": start,
        "count": count,
        "tokens": tokens(events, start),
        "legend": [
            {"role": role.name, "label": role.label, "mark": role.mark} for role in ROLES.values() if role.name in roles
        ],
        "pending": hopes,
    }
