"""The five headline numbers, each with its definition, of any prefix of a run. Only what was measured is shown."""

from __future__ import annotations

from engines.tally import Tally
from playground.ui.live import encode


def headline(tally: Tally, limit: int) -> str:
    """The value of a `Numbers`; `limit` is how many tokens the run may generate."""
    totals = tally.totals
    passes, tested = totals.target_passes, totals.accepted + totals.rejected
    dash = "–"
    second = (
        _number(
            f"{totals.accepted / tested:.0%}" if tested else dash,
            f"{totals.accepted:,} accepted of {tested:,} tested, {totals.drafted:,} drafted",
            "Acceptance rate = accepted / tested. A guess behind a rejected one is never tested.",
        )
        if totals.drafted
        else _number(f"{totals.tokens:,}", f"new tokens, of at most {limit:,}", "Tokens that this run generated.")
    )
    return encode(
        [
            _number(
                f"{totals.tokens / passes:.2f}" if passes and totals.tokens else dash,
                "tokens per target pass",
                "Generated tokens / forward passes of the model while decoding. Plain decoding: 1.",
            ),
            second,
            _number(
                f"{totals.tokens_per_second:.1f}" if totals.tokens else dash,
                "tokens per second",
                "Generated tokens / decode time, reading the prompt included, drawing and waiting excluded.",
            ),
            _number(f"{passes:,}", "target passes", "Forward passes of the model after the prompt was read."),
            _number(
                dash if tally.first is None else _seconds(tally.first),
                "to the first token",
                "Decode time until the first generated token was decided.",
            ),
        ]
    )


def _number(value: str, meaning: str, title: str) -> dict[str, str]:
    return {"value": value, "meaning": meaning, "title": title}


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
