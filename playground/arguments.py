"""What a client sent, as what was asked for: each argument is read on its own, and refused in one sentence."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Any, TypeVar

import msgspec

from engines.errors import BadParameter, shown

SHORTEST_SECRET, LONGEST_SECRET = 32, 256

T = TypeVar("T")

KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def checked(name: str, value: Any, kind: type[T]) -> T:
    """`value` as a `kind`; numbers may come as text. Raises `BadParameter`."""
    try:
        if isinstance(value, bool) and kind is not bool:
            raise msgspec.ValidationError
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        raise BadParameter(f"{name} must be {KINDS[kind]}, not {_said(value)}.") from None


def text(name: str, value: Any) -> str:
    """`value`, which must be a text. Raises `BadParameter`."""
    if not isinstance(value, str):
        raise BadParameter(f"{name} must be a text, not {_said(value)}.")
    return value


def from_json_text(name: str, value: Any, kind: Any) -> Any:
    """`value`, or what its text says, as a `kind`. Raises `BadParameter`."""
    try:
        if isinstance(value, str):
            value = msgspec.json.decode(value.encode("utf-8", "replace")) if value.strip() else kind()
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadParameter(f"{name} cannot be read: {str(error)[:200]}.") from None


def whose(secret: Any) -> str:
    """Whose runs a client's secret gives: a digest, so that nothing here holds the secret. Raises `BadParameter`."""
    secret = text("owner", secret)
    if not SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET:
        raise BadParameter(
            f"owner must be a secret of {SHORTEST_SECRET} to {LONGEST_SECRET} characters, not of {len(secret):,}. "
            "Choose one as you would a password, and use it for all your runs."
        )
    digest = hashlib.sha256(b"api " + secret.encode(errors="surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest)[:32].decode()


def stranger() -> str:
    """An owner that nobody else is, and that nobody can name again."""
    return secrets.token_urlsafe(24)


def _said(value: Any) -> str:
    try:
        return shown(str(value))
    except ValueError:
        return "a number of thousands of digits"
