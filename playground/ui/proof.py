"""The proof strip: under the numbers of a run, whether its method kept its word.

When a run ends, its page asks for the check, which happens aside: in an event of its own, when nobody decodes or now
and then, until it is complete, the page closes, or the page's next run begins. Reopened runs show what is known of
them, and offer the check where nothing is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import gradio as gr

from engines.errors import DecodingError
from engines.events import Event, Started
from playground import proof
from playground.proof import Proof
from playground.texts import Text, text
from playground.ui.house import House
from playground.ui.live import Live, Server, encode

INTERVAL = 0.15
"""Seconds between two updates of the strip."""
CHECKS = 4
"""Checks at the same time; more wait."""

NOTHING: dict[proof.Question, Text] = {
    "lossy": text("proof.lossy"),
    "plain": text("proof.plain"),
    "empty": text("proof.empty"),
}


class ProofStrip(Live):
    """One line about a run. Triggers `check` with the run's id; its server function tells what is known."""

    def __init__(self, known: Server, value: str = "", **props: Any) -> None:
        super().__init__("proof", value, events=("check",), server=(known,), **props)


def build(house: House, owner: gr.BrowserState, page: gr.Textbox) -> ProofStrip:
    """Lays out the strip and what fills it."""

    def known(what: dict[str, Any]) -> str:
        run = str(what.get("run", ""))
        try:
            return shown(house, run, house.shelf.events(run))
        except DecodingError:
            return ""

    def check(owner: str, page: str, event: gr.EventData) -> Iterator[str]:
        yield from checked(house, str(event._data["run"]), owner, page)

    strip = ProofStrip(known)
    strip.check(
        check,
        [owner, page],
        strip,
        trigger_mode="multiple",
        concurrency_limit=CHECKS,
        api_visibility="private",
        show_progress="hidden",
        postprocess=False,
    )
    return strip


def checked(house: House, run: str, owner: str, page: str) -> Iterator[str]:
    """The check of a run, as values of its strip."""
    try:
        events = list(house.shelf.events(run))
        asked = proof.question(events, house.methods)
        value = shown(house, run, events)
        if asked not in ("tokens", "distribution") or "check" not in value:
            yield value
            return
        yield shown(house, run, events, proof.beginning(events, asked))
        stop = _Ended(house, page)
        latest: Proof | None = None
        due = 0.0
        steps = proof.check(events, asked, house.resident.model)
        with closing(proof.aside(house.turnstile, steps, owner or None, stop)) as progress:
            for latest in progress:
                if time.monotonic() >= due and not latest.complete:
                    yield shown(house, run, events, latest)
                    due = time.monotonic() + INTERVAL
        if latest is not None and latest.complete:
            proof.keep(house.store, events, latest)
            yield shown(house, run, events, latest)
        else:
            yield shown(house, run, events)
    except DecodingError as error:
        yield encode({"run": run, "says": text("proof.failed", why=str(error)), "tone": "calm"})


class _Ended(threading.Event):
    """Set as soon as the page has a run in progress."""

    def __init__(self, house: House, page: str) -> None:
        super().__init__()
        self._house, self._page = house, page

    def is_set(self) -> bool:
        return super().is_set() or self._house.busy(self._page)


def shown(house: House, run: str, events: Sequence[Event], now: Proof | None = None) -> str:
    """The value of a strip: what is known of a run, or how far its check has come."""
    asked = proof.question(events, house.methods)
    header = events[0]
    assert isinstance(header, Started)
    if asked not in ("tokens", "distribution"):
        return encode({"run": run, "mark": {"lossy": "≈", "plain": "="}.get(asked, "·"), "says": NOTHING[asked]})
    found = now or proof.known(house.store, events, asked)
    if found is None:
        missing = _missing(house, header) if asked == "tokens" else None
        says = missing or text("proof.unchecked" if asked == "tokens" else "proof.unchecked-law")
        return encode({"run": run, "mark": "·", "says": says} | ({} if missing else {"check": True}))
    value = _tokens(found) if asked == "tokens" else _law(house, found, header)
    return encode({"run": run, **value})


def _missing(house: House, header: Started) -> Text | None:
    """Why plain decoding cannot be asked now."""
    model = house.resident.model
    if model is None:
        return text("proof.no-model")
    if (model.weights, model.precision) != (header.weights, header.precision):
        return text("proof.other-model", model=header.model, precision=header.precision)
    return None


def _tokens(found: Proof) -> dict[str, Any]:
    difference = found.difference
    how = text("proof.how-tokens", count=found.done)
    if difference is not None:
        said = text("proof.differs", place=difference.position + 1, count=found.count)
        gap = f"{difference.gap:.2g}" if difference.gap < 0.01 else f"{difference.gap:.2f}"
        return {
            "tone": "tie" if difference.tie else "bad",
            "mark": "≈" if difference.tie else "✕",
            "says": said,
            "tokens": [
                {"who": text("proof.here"), "token": difference.ours, "p": difference.ours_p, "role": "rejected"},
                {"who": text("proof.plain-said"), "token": difference.plain, "p": difference.plain_p, "role": "given"},
            ],
            "facts": text("proof.tie" if difference.tie else "proof.no-tie", gap=gap),
            "how": how,
        }
    if not found.complete:
        return {
            "mark": "…",
            "says": text("proof.checking", done=found.done, count=found.count),
            "fraction": found.done / max(found.count, 1),
        }
    one = found.count == 1
    says = text("proof.identical-one") if one else text("proof.identical", count=found.count)
    return {"tone": "good", "mark": "✓", "says": says, "how": how}


def _law(house: House, found: Proof, header: Started) -> dict[str, Any]:
    fit = found.fit
    assert fit is not None
    method = house.methods.get(header.method)
    facts = text("proof.statistic", statistic=f"{fit.statistic:.1f}", freedom=fit.freedom, p=_p_value(fit.p_value))
    meter = {
        "share": min(fit.statistic / (1.5 * fit.limit), 1.0) if fit.limit else 0.0,
        "mark": 1 / 1.5,
        "over": found.complete and not fit.consistent,
        "says": text("proof.meter", statistic=f"{fit.statistic:.1f}", limit=f"{fit.limit:.1f}"),
    }
    if fit.impossible:
        facts = text("proof.impossible", count=fit.impossible)
    if not found.complete:
        says = text("proof.drawing", done=found.done, count=found.count)
        return {"mark": "…", "says": says, "meter": meter, "facts": facts if fit.freedom else ""}
    how = text(
        "proof.how-law",
        method=method.title if method else header.method,
        count=found.count,
        length=proof.LENGTH,
        accepted=f"{fit.accepted:,}",
        tested=f"{fit.tested:,}",
    )
    return {
        "tone": "good" if fit.consistent else "bad",
        "mark": "✓" if fit.consistent else "✕",
        "says": text("proof.consistent" if fit.consistent else "proof.inconsistent"),
        "meter": meter,
        "facts": facts,
        "how": how,
    }


def _p_value(p: float) -> str:
    return f"{p:.2f}" if p >= 0.01 else f"{p:.4f}" if p >= 1e-4 else "< 0.0001"
