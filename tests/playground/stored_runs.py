"""Streams made by hand, and a look at the file that they were recorded to."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from engines.events import Candidates, Choice, Commit, Event, Finished, Placed, Started, Token, Totals
from playground.recording import spelled
from playground.store import Store

WORDS = [Token(1, "Once"), Token(2, " upon"), Token(3, "", "f09f"), Token(4, "", "9880"), Token(5, "\x00<b>\n")]
TOTALS = Totals(
    tokens=5,
    seconds=0.5,
    time_to_first_token=0.1,
    target_passes=5,
    prompt_passes=1,
    draft_passes=0,
    tokens_processed=9,
    drafted=0,
    accepted=0,
    rejected=0,
    untested=0,
    tokens_per_second=10.0,
    tokens_per_target_pass=1.0,
    acceptance_rate=None,
)


def started(**changes: object) -> Started:
    fields: dict[str, object] = {
        "seq": 0,
        "model": "smollm2-135m",
        "weights": "abc123",
        "precision": "float32",
        "method": "greedy",
        "family": "baselines",
        "lossless": True,
        "params": {"width": 8, "name": "x", "rate": 0.5, "on": True, "none": None},
        "prompt": "Tell me\n<script>",
        "prompt_tokens": (Token(7, "Tell"),),
        "prompt_length": 1,
        "seed": 2**62,
        "max_new_tokens": 128,
        "raw_prompt": False,
        "versions": {"torch": "2.13.0"},
        "machine": "2-core",
    }
    return Started(**{**fields, **changes})  # type: ignore[arg-type]


def whole_run(words: list[Token] = WORDS, **changes: object) -> list[Event]:
    """Started, then candidates and a commit for every word, then Finished."""
    events: list[Event] = [started(**changes)]
    for position, word in enumerate(words):
        stamp = {"seq": len(events), "time": 0.1 * position}
        events.append(Candidates(position=position, raw=(Choice(word, 0.9),), entropy=0.3, **stamp))  # type: ignore[arg-type]
        stamp["seq"] += 1
        events.append(Commit(position=position, step=position, tokens=(Placed(word, "sampled", raw=0.9),), **stamp))  # type: ignore[arg-type]
    text = spelled(Placed(word, "sampled") for word in words)
    ids = tuple(word.id for word in words)
    events.append(Finished(seq=len(events), time=0.5, reason="end of text", text=text, token_ids=ids, totals=TOTALS))
    return events


def on_disk(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What another program sees in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def goes_on(store: Store, expected: str) -> None:
    """Decoding goes on, and the store says why nothing is kept."""
    events = whole_run()
    assert list(store.recording(iter(events))) == events
    assert store.problem is not None
    assert store.problem.startswith("Sessions are not kept: ")
    assert expected in store.problem
    assert "\n" not in store.problem
    assert len(store.problem) < 160
