"""Names of models that are addresses of servers: `http://127.0.0.1:8000/v1#model`.

Keys come from the environment only: `DECODING_PLAYGROUND_REMOTE_KEY` names the variable that holds one (OPENAI_API_KEY
unless it says another), and it is sent only to the addresses that `DECODING_PLAYGROUND_REMOTE` lists, with spaces
between them: so nobody who names an address gets to see the key. On a Space the listed servers are the only ones, so
that nobody can make the host ask around in its own network.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from engines.errors import ModelUnavailable, shown

ADDRESSES = "DECODING_PLAYGROUND_REMOTE"
KEY = "DECODING_PLAYGROUND_REMOTE_KEY"

_ADDRESS = re.compile(r"(https?://[!-\"$->@-~]{1,300})(?:#([!-\"$-~]{1,200}))?")


def is_address(name: str) -> bool:
    """Whether a model's name means a server."""
    return name.startswith(("http://", "https://"))


def checked(name: str) -> tuple[str, str]:
    """Address and model of `http://host:port/v1#model`. Raises `ModelUnavailable` for what may not be asked."""
    found = _ADDRESS.fullmatch(name)
    try:
        parts = urlsplit(found[1]) if found else None
        fine = parts is not None and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if found is None or parts is None or not fine:
        raise ModelUnavailable(
            f"{shown(name)} is not the address of a server. Write it like http://127.0.0.1:8000/v1#model."
        )
    if parts.username or parts.password:
        raise ModelUnavailable(
            f"Keys do not belong into an address. Put it into an environment variable that {KEY} names."
        )
    address = found[1].rstrip("/")
    if os.environ.get("SPACE_ID") and address not in _listed():
        raise ModelUnavailable("On a public host only the servers that its owner has listed can be used.")
    return address, found[2] or ""


def _listed() -> list[str]:
    return [one.rstrip("/") for one in os.environ.get(ADDRESSES, "").split()]


def key_for(address: str) -> str:
    """The key to send to a server; empty for one that is not listed."""
    return os.environ.get(os.environ.get(KEY) or "OPENAI_API_KEY", "") if address in _listed() else ""
