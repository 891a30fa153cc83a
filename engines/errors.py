"""What can go wrong for a reason the user can act on.

Every message is one or two plain sentences: what happened, why, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DecodingError(Exception):
    """Something the user asked for cannot be done; `str(error)` is fit to be shown to them."""


class UnknownMethod(DecodingError):
    """No method has this id."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"There is no method called {shown(name)}. {nearest(name, known)}")


class BadParameter(DecodingError):
    """A parameter is unknown, of the wrong type, or out of its range."""


class PromptTooLong(DecodingError):
    """The prompt does not fit the model's context."""

    def __init__(self, length: int, limit: int, *, unit: str = "tokens") -> None:
        super().__init__(
            f"The prompt is {length:,} {unit} long, but this model reads at most {limit:,} {unit}. "
            "Shorten the prompt and run again."
        )


class EmptyPrompt(DecodingError):
    """There is nothing to continue from."""

    def __init__(self) -> None:
        super().__init__("The prompt is empty. Type something for the model to continue.")


class NeedNotMet(DecodingError):
    """The method needs something of the model that the model does not have."""


class EndOfText(Exception):
    """The model ends the text here, and does not say how probable that was. No failure: the run ends."""


class ModelUnavailable(DecodingError):
    """The model cannot be loaded: unknown, gated, not causal, too large, or not downloadable."""


def shown(text: str, limit: int = 60) -> str:
    """A user's own word, quoted, with control characters made visible and its length bounded."""
    visible = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return repr(visible if len(visible) <= limit else visible[: limit - 1] + "…")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names up to three of the closest known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
    more = ", …" if len(close) == len(names) > 8 else ""
    return f"Try one of: {', '.join(close[:8])}{more}."
