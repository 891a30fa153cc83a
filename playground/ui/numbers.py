"""The five headline numbers, each with its definition, of any prefix of a run. Only what was measured is shown."""

from __future__ import annotations

from engines.tally import Tally
from playground.texts import Text, text
from playground.ui.live import encode


def headline(tally: Tally, limit: int) -> str:
    """The value of a `Numbers`; `limit` is how many tokens the run may generate."""
    totals = tally.totals
    passes, tested = totals.target_passes, totals.accepted + totals.rejected
    dash = "–"
    second = (
        _number(
            f"{totals.accepted / tested:.0%}" if tested else dash,
            text("numbers.accepted", accepted=totals.accepted, tested=tested, drafted=totals.drafted),
            text("numbers.accepted-why"),
        )
        if totals.drafted
        else _number(f"{totals.tokens:,}", text("numbers.tokens", limit=limit), text("numbers.tokens-why"))
    )
    return encode(
        [
            _number(
                f"{totals.tokens / passes:.2f}" if passes and totals.tokens else dash,
                text("numbers.per-pass"),
                text("numbers.per-pass-why"),
            ),
            second,
            _number(
                f"{totals.tokens_per_second:.1f}" if totals.tokens else dash,
                text("numbers.per-second"),
                text("numbers.per-second-why"),
            ),
            _number(f"{passes:,}", text("numbers.passes"), text("numbers.passes-why")),
            _number(
                dash if tally.first is None else _seconds(tally.first),
                text("numbers.first"),
                text("numbers.first-why"),
            ),
        ]
    )


def _number(value: str, meaning: Text, title: Text) -> dict[str, str | Text]:
    return {"value": value, "meaning": meaning, "title": title}


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
