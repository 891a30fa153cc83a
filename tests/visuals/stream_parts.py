"""What streams made by hand are put together from: tokens, chances, a header, an end, and the runner's stamp."""

from __future__ import annotations

import random

import msgspec

from engines.events import (
    Choice,
    Event,
    Finished,
    Forward,
    Started,
    Token,
    Totals,
)

WORDS = (
    " the", " of", " light", " energy", " plants", ".", ",", " and", " convert", " sun", "\n", " glucose", " into",
    " process", " is", " water", " chemical", " photosynthesis", " a", " which",
)  # fmt: skip

HOSTILE = (
    Token(900, "<script>alert(1)</script>"),
    Token(901, "<b>bold</b><br>"),
    Token(902, '<a href="javascript:alert(1)">x</a>'),
    Token(903, "&lt;i&gt;"),
    Token(904, "\u202eevil\u202c"),
    Token(905, "\x00\x07\x1b[31m"),
    Token(906, "👩‍👩‍👧"),
    Token(907, "שלום"),
    Token(908, "", "e2"),
    Token(909, "", "f09f"),
    Token(910, ""),
    Token(911, "%{x} %{customdata}"),
    Token(912, "$\\frac{1}{2}$"),
    Token(913, "\ud800"),
    Token(914, " " * 200),
    Token(915, "\u0301"),
    Token(916, "日本語" * 30),
    Token(917, "\u2028\u200b\ufeff"),
)


def token(word: str) -> Token:
    """A token whose id depends on its text only."""
    return Token(sum(ord(char) * 31**i for i, char in enumerate(word)) % 50_000, word)


def choices(rng: random.Random, first: Token, count: int = 10) -> tuple[Choice, ...]:
    """A falling distribution that begins with `first`."""
    left, out = 1.0, []
    pool = [first, *(token(word) for word in rng.sample(WORDS, len(WORDS)) if word != first.text)]
    for entry in pool[:count]:
        p = left * rng.choice((0.35, 0.6, 0.8, 0.95))
        out.append(Choice(entry, p))
        left -= p
    return tuple(sorted(out, key=lambda choice: -choice.p))


def started(method: str = "greedy", family: str = "baselines", prompt: str = "What is photosynthesis ?") -> Started:
    """A header whose prompt is one token a word."""
    tokens = tuple(token(" " + word) for word in prompt.split())
    return Started(
        model="tiny",
        weights="0",
        precision="float32",
        method=method,
        family=family,
        lossless=True,
        params={},
        prompt=prompt,
        prompt_tokens=tokens,
        prompt_length=len(tokens),
        seed=0,
        max_new_tokens=64,
        raw_prompt=False,
        versions={},
        machine="2-core",
    )


def finished(text: str = "") -> Finished:
    """An ending; its totals are not what the pictures read."""
    totals = Totals(1, 1.0, 0.1, 1, 1, 0, 1, 0, 0, 0, 0, 1.0, 1.0, None)
    return Finished(reason="token limit", text=text, token_ids=(), totals=totals)


def stamped(events: list[Event]) -> list[Event]:
    """Numbers the events and lets time pass with every forward pass, plus a tenth for Python."""

    time, out = 0.0, []
    for seq, event in enumerate(events):
        if isinstance(event, Forward):
            time += 1.1 * event.seconds
        out.append(msgspec.structs.replace(event, seq=seq, time=time))
    return out
