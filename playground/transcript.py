"""A run as text: typed out while it happens, one line of figures, one JSON object, a table of tokens."""

from __future__ import annotations

import codecs
import csv
import io
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import msgspec

from engines.events import Commit, Event, Finished, Placed, Started, committed
from playground.recording import spelled


class Typewriter:
    """Types the output as it is committed, one token behind: whether the last token is text, the end of a run tells.

    On a terminal, control characters and marks that turn the direction of text are typed as visible signs.
    """

    def __init__(self, paper: TextIO) -> None:
        self._paper = paper
        self._decode = _decoder()
        self._held: Placed | None = None
        self._typed = ""

    def take(self, event: Event) -> None:
        """Types what this event adds."""
        if isinstance(event, Commit):
            for placed in event.tokens:
                self._type_held()
                self._held = placed
        elif isinstance(event, Finished):
            if event.text.startswith(self._typed):
                self._type(event.text[len(self._typed) :])
            self._held, self._decode = None, _decoder()

    def stop(self) -> None:
        """Types what was held back, and ends the line."""
        self._type_held()
        self._type(self._decode(b"", True))
        print(file=self._paper, flush=True)

    def _type_held(self) -> None:
        if self._held is not None:
            self._type(self._decode(_bytes(self._held)))
        self._held = None

    def _type(self, text: str) -> None:
        self._typed += text
        print(visible(text) if self._paper.isatty() else text, end="", file=self._paper, flush=True)


def visible(text: str) -> str:
    """`text` with all control characters but newline and tab as signs, so that it cannot command a terminal."""
    return "".join(map(_sign, text))


def _sign(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf"):
        return character
    if character == "\u200d":  # joins emoji
        return character
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else f"<U+{code:04X}>"


def _decoder() -> Callable[..., str]:
    return codecs.getincrementaldecoder("utf-8")("replace").decode


def _bytes(placed: Placed) -> bytes:
    return bytes.fromhex(placed.token.hex) if placed.token.hex else placed.token.text.encode(errors="replace")


def as_object(events: Sequence[Event], *, run: str | None, status: str) -> dict[str, Any]:
    """A run as one JSON-ready object: how it was made, what came out, and its totals when it is finished."""
    started, finished = header(events), _finished(events)
    tokens = committed(events)
    return {
        "run": run,
        "status": status,
        "reason": finished.reason if finished else None,
        "model": started.model,
        "weights": started.weights,
        "precision": started.precision,
        "method": started.method,
        "family": started.family,
        "lossless": started.lossless,
        "params": started.params,
        "prompt": started.prompt,
        "raw": started.raw_prompt,
        "seed": started.seed,
        "max_new_tokens": started.max_new_tokens,
        "text": finished.text if finished else spelled(tokens),
        "token_ids": list(finished.token_ids) if finished else [placed.token.id for placed in tokens],
        "stats": msgspec.to_builtins(finished.totals) if finished else None,
        "versions": started.versions,
        "machine": started.machine,
    }


def figures(events: Sequence[Event], *, run: str | None, status: str) -> str:
    """A run in one line."""
    finished = _finished(events)
    if finished is None:
        parts = [f"{len(committed(events))} tokens", status]
    else:
        totals = finished.totals
        parts = [
            f"{totals.tokens} tokens in {totals.seconds:.2f} s",
            f"{totals.tokens_per_second:.1f} tokens/s",
            f"{totals.tokens_per_target_pass:.2f} tokens per target pass",
            *(
                [f"{totals.acceptance_rate:.0%} of the tested guesses accepted"]
                if totals.acceptance_rate is not None
                else []
            ),
            finished.reason,
        ]
    return " · ".join([*parts, *([f"run {run}"] if run else [])])


def as_csv(events: Sequence[Event]) -> str:
    """The output as a table, one token a row."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["position", "token_id", "text", "hex", "origin", "raw", "final", "rank", "step", "time"])
    for event in events:
        if isinstance(event, Commit):
            for position, placed in enumerate(event.tokens, start=event.position):
                token = placed.token
                probabilities = (placed.raw, placed.final, placed.rank)
                row = (position, token.id, token.text, token.hex, placed.origin, *probabilities, event.step, event.time)
                writer.writerow(row)
    return table.getvalue()


def header(events: Sequence[Event]) -> Started:
    """The `Started` event. Raises `ValueError` when it is missing."""
    if not events or not isinstance(events[0], Started):
        raise ValueError("a run begins with Started")
    return events[0]


def _finished(events: Sequence[Event]) -> Finished | None:
    last = events[-1]
    return last if isinstance(last, Finished) else None
