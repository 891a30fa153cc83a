"""What is taken for a run: every real one, and none with a number that cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

import engines
from engines.events import Choice, Event, Forward, Store, StoredRow, Token, Verdict
from engines.models.twin import twin
from playground.soundness import Soundness, Unsound

WORD = Token(1, "a")


def run(method: str = "speculative-sampling") -> list[Event]:
    params = {"temperature": 1.0, "fallback": False}
    return list(engines.run(twin(), method, "addddcadd", params=params, raw=True, seed=3, max_new_tokens=20))


def take(events: list[Event]) -> None:
    sound = Soundness()
    for event in events:
        sound.take(event)


@pytest.mark.parametrize("method", ["speculative-sampling", "token-recycling", "prompt-lookup"])
def test_a_real_run_is_sound(method: str) -> None:
    take(run(method))


def first_verdict(change: Callable[[Verdict], Verdict]) -> list[Event]:
    """The run with its first verdict that tested a drawn guess changed."""
    events = run()
    place = next(i for i, event in enumerate(events) if isinstance(event, Verdict) and event.nodes[0].weighed)
    verdict = events[place]
    assert isinstance(verdict, Verdict)
    return [*events[:place], change(verdict), *events[place + 1 :]]


def judged(**changes: object) -> Callable[[Verdict], Verdict]:
    return lambda verdict: replace(verdict, nodes=(replace(verdict.nodes[0], **changes), *verdict.nodes[1:]))


@pytest.mark.parametrize(
    "changes",
    [{"q": 1.5}, {"q": -0.1}, {"q": float("nan")}, {"overlap": 2.0}, {"u": float("inf")}],
    ids=str,
)
def test_a_share_that_cannot_be_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(Unsound, match="share"):
        take(first_verdict(judged(**changes)))


def test_too_many_weighed_tokens_are_refused() -> None:
    def crowded(verdict: Verdict) -> Verdict:
        return judged(weighed=verdict.nodes[0].weighed[:1] * 1000)(verdict)

    with pytest.raises(Unsound, match="weighs too many"):
        take(first_verdict(crowded))


@pytest.mark.parametrize(
    "store",
    [
        Store(table="t", rows=(StoredRow((WORD,), (), ()),) * 1000, changed=1, size=1),
        Store(table="t", rows=(), changed=-1, size=1),
        Store(table="t", rows=(StoredRow((), (), ()),), changed=1, size=1),
        Store(table="t", rows=(StoredRow((WORD,) * 99, (), ()),), changed=1, size=1),
        Store(table="t", rows=(StoredRow((WORD,), (), (Choice(WORD, 0.1),) * 1000),), changed=1, size=1),
        Store(table="t", rows=(StoredRow((WORD,), (), (Choice(WORD, float("nan")),)),), changed=1, size=1),
        Forward(lane="draft", batch=1, query=1, cached=0, seconds=0.1, began=-1.0),
        Forward(lane="draft", batch=1, query=1, cached=0, seconds=0.1, began=float("inf")),
    ],
    ids=lambda event: f"{type(event).__name__}",
)
def test_tables_and_passes_that_cannot_be_are_refused(store: Event) -> None:
    start, *_ = run()
    with pytest.raises(Unsound):
        take([start, replace(store, seq=1)])
