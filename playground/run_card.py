"""A run card: one small JSON by which a run can be done again elsewhere, and compared.

It holds the set-up, the output as token ids with their hash, and the circumstances: weights, precision, versions,
machine, code. `compared` says whether a second run came to the same tokens, where it first differs, and which
circumstances do. A card is somebody else's file: `read` checks every type, range and length, and the hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engines.errors import DecodingError, shown
from engines.events import Event, Finished, Started, Token, Totals, committed
from playground.links import BadSetup, plausible
from playground.recording import spelled
from playground.setup import Setup

KIND: Literal["decoding-playground/run-card"] = "decoding-playground/run-card"
SCHEMA = 1
MOST_BYTES = 2**20
"""Bytes of a card; one of the longest run has about a tenth."""

Short = Annotated[str, Meta(max_length=200)]
Id = Annotated[int, Meta(ge=0, lt=2**31)]


class BadCard(DecodingError):
    """The file is no run card, or says what cannot be."""


class RunCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in the file, in this order."""

    kind: Literal["decoding-playground/run-card"] = KIND
    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    setup: Setup
    weights: Short
    """Hash of the weights."""
    versions: Annotated[dict[Short, Short], Meta(max_length=64)]
    machine: Short
    code: Short
    """Hash of the sources of `engines`."""
    status: Literal["finished", "stopped"]
    reason: Short = ""
    text: Annotated[str, Meta(max_length=MOST_BYTES)]
    token_ids: Annotated[tuple[Id, ...], Meta(max_length=8192)]
    token_ids_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    totals: Totals | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A run beside its card."""

    identical: bool
    position: int | None = None
    """The first position at which they differ, counted from the first generated token."""
    told: tuple[int, ...] = ()
    """The card's token at that position; empty when the card ends there."""
    here: tuple[int, ...] = ()
    circumstances: tuple[str, ...] = ()
    """What else differs, each in a few words, whether or not the tokens do."""


def card_of(events: Sequence[Event]) -> RunCard:
    """The card of a run, finished or not. Raises `BadCard` when the events are no run."""
    header, last = (events[0], events[-1]) if events else (None, None)
    if not isinstance(header, Started):
        raise BadCard("Only a run that has begun has a run card.")
    finished = last if isinstance(last, Finished) else None
    placed = committed(events)
    ids = finished.token_ids if finished else tuple(one.token.id for one in placed)
    return RunCard(
        setup=Setup.of(events),
        weights=header.weights,
        versions=header.versions,
        machine=header.machine,
        code=header.code,
        status="finished" if finished else "stopped",
        reason=finished.reason if finished else "",
        text=finished.text if finished else spelled(placed),
        token_ids=ids,
        token_ids_sha256=hashed(ids),
        totals=finished.totals if finished else None,
    )


def to_json(card: RunCard) -> str:
    """The card's file, for people to read too."""
    # The ids on one line. In a text the quotes would be escaped, so this is found once.
    bare = msgspec.structs.replace(card, token_ids=())
    lines = msgspec.json.format(msgspec.json.encode(bare), indent=2).decode()
    return lines.replace('"token_ids": []', f'"token_ids": [{", ".join(map(str, card.token_ids))}]') + "\n"


def read(data: bytes) -> RunCard:
    """The card in a file. Raises `BadCard`, whatever is in the file."""
    if len(data) > MOST_BYTES:
        raise BadCard(f"The run card is larger than {MOST_BYTES // 2**20} MB, and a real one is never that large.")
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.kind != KIND:
            raise BadCard(f"This is no run card: its kind is {shown(head.kind)}.")
        if head.schema != SCHEMA:
            raise BadCard(f"The run card has version {head.schema}, and this program reads version {SCHEMA}.")
        card = msgspec.json.decode(data, type=RunCard)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadCard(f"This is no run card: {_reason(error)}") from None
    if hashed(card.token_ids) != card.token_ids_sha256:
        raise BadCard("The run card was changed: its token ids do not have the hash that it names.")
    try:
        plausible(card.setup)
    except BadSetup as error:
        raise BadCard(f"The run card cannot be used: {error}") from None
    return card


class _Head(msgspec.Struct):
    kind: str = ""
    schema: int = 0


def hashed(ids: Sequence[int]) -> str:
    """SHA-256 over the ids in decimal, separated by spaces."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def compared(card: RunCard, events: Sequence[Event]) -> Comparison:
    """A run beside the card that it was made from. Raises `BadCard` when the events are no run."""
    mine = card_of(events)
    told, here = card.token_ids, mine.token_ids
    common = next((k for k, (a, b) in enumerate(zip(told, here, strict=False)) if a != b), min(len(told), len(here)))
    same = told == (here if card.status == "finished" else here[: len(told)])
    return Comparison(
        identical=same,
        position=None if same else common - len(card.setup.prefix),
        told=told[common : common + 1],
        here=here[common : common + 1],
        circumstances=tuple(_circumstances(card, mine)),
    )


def sentence(comparison: Comparison, spell: Callable[[int], Token]) -> str:
    """A comparison in words: "identical" or the first difference, then what else differs. `spell` is the model's."""

    def named(ids: tuple[int, ...]) -> str:
        if not ids:
            return "the end"
        try:
            token = spell(ids[0])
        except (IndexError, ValueError, OverflowError, DecodingError):
            return f"token {ids[0]}, which is not in this vocabulary"
        return f"token {ids[0]} {token.hex or shown(token.text)}"

    lines = [
        "identical"
        if comparison.identical
        else f"first difference at position {comparison.position}: "
        f"{named(comparison.told)} in the card, {named(comparison.here)} here"
    ]
    if comparison.circumstances:
        lines.append("other circumstances: " + "; ".join(comparison.circumstances))
    elif not comparison.identical:
        lines.append("the circumstances are the same")
    return "\n".join(lines)


def _circumstances(card: RunCard, mine: RunCard) -> list[str]:
    pairs = [
        ("model", card.setup.model, mine.setup.model),
        ("weights", card.weights, mine.weights),
        ("precision", card.setup.precision, mine.setup.precision),
        ("settings", _settings(card.setup), _settings(mine.setup)),
        *((n, card.versions.get(n, ""), mine.versions.get(n, "")) for n in sorted({*card.versions, *mine.versions})),
        ("machine", card.machine, mine.machine),
        ("code", card.code, mine.code),
        ("end", card.reason or card.status, mine.reason or mine.status),
    ]
    if card.totals and mine.totals:
        pairs.append(("target passes", str(card.totals.target_passes), str(mine.totals.target_passes)))
    return [f"{name} {told or 'unknown'} there, {here or 'unknown'} here" for name, told, here in pairs if told != here]


def _settings(setup: Setup) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(setup.params.items()))


def _reason(error: Exception) -> str:
    """One sentence, without what the file itself says."""
    text = str(error) if isinstance(error, msgspec.MsgspecError) else "it is not written in UTF-8"
    return text[:1].lower() + text[1:200].rstrip(".") + "."
