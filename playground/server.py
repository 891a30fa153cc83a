"""The HTTP side of the page, fit for the open internet.

Two layers stand around Gradio's server. The outer one, `Guard`, answers only what the page and the API need: every
other address of Gradio's (deep links, run history, proxies, recordings …) is not there. It refuses bodies that are
too large and uploads of a kind that no page reads, and puts security headers on every answer. The inner one,
`Nonces`, gives the page's own scripts a random number, so that the browser runs those and no others: markup that
slipped into a page could still not run anything.

Anybody may call the API from another site, as on every Space; there are no cookies, and no answer allows a browser
to send any, so a call from elsewhere knows no more than its caller.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.texts import TEXTS, languages

log = logging.getLogger(__name__)

LARGEST_BODY = 8 * 2**20
"""Bytes of a request that is no upload; the longest prompt that any model reads is far below."""
LARGEST_UPLOAD = 32 * 2**20
UPLOADS_KEPT = 512 * 2**20
"""Bytes of uploads on disk at most; each is deleted within the hour, see `KEEP_UPLOADS`."""
KEEP_UPLOADS = (600, 3600)
"""Every so many seconds, files older than so many seconds are deleted: `gr.Blocks(delete_cache=…)`."""

FUNCTIONS = ("run", "compare", "list_methods", "get_run", "query_runs")
"""What a client may call by name; `playground.api` says what they do. The page calls its events by number."""

ADDRESSES = re.compile(
    rf"""
    / | /config/? | /theme\.css | /favicon\.ico | /manifest\.json | /robots\.txt | /pwa_icon(/\d+)?
    | /(assets|static|svelte)/.+
    | /gradio_api/(
        info/? | openapi\.json | startup-events | theme\.css | app_id/? | login_check/?
        | heartbeat/[^/]+ | queue/(join|data|status) | cancel | reset/? | component_server/?
        | (run|api|call|call/v2)/({"|".join(FUNCTIONS)})/? | call/(v2/)?({"|".join(FUNCTIONS)})/[^/]+ | run/predict/?
        | file=(?!\w+:).+ | upload | upload_progress
        | mcp(/(http|sse|schema|messages)?)?/?
    )
    """,
    re.VERBOSE,
)
"""All addresses that are there. `file=` has Gradio's own list of files, but never fetches from elsewhere."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "strict-origin-when-cross-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), browsing-topics=()",
    "cross-origin-opener-policy": "same-origin-allow-popups",
}
POLICY = (
    "default-src 'self'; "
    "script-src 'self' 'nonce-{nonce}' 'strict-dynamic' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors {framers}"
)
"""Of a page. Styles are Gradio's, inline; `unsafe-eval` is how Gradio runs a component's own script."""
NO_PAGE = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
"""Of everything else, in case somebody makes a browser show it as a page."""
SPACE = "'self' https://huggingface.co https://*.huggingface.co"


def launch_options(app: gr.Blocks, *, mcp: bool = True) -> dict[str, Any]:
    """What `app.launch(…)` must be told. Without the package `mcp` the page works, and the log says what is missing."""
    if mcp and find_spec("mcp") is None:
        log.warning("The package mcp is not installed, so there is no MCP server; pip install 'gradio[mcp]' adds it.")
        mcp = False
    return {
        "app_kwargs": {"middleware": [Middleware(Nonces)], "lifespan": guarded(takes_files(app))},
        "mcp_server": mcp,
        "max_file_size": LARGEST_UPLOAD,
        "strict_cors": True,
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "share": False,
        "state_session_capacity": 1000,
    }


def takes_files(app: gr.Blocks) -> frozenset[str]:
    """Endings of the files that some page of `app` reads."""
    kinds: set[str] = set()
    for block in app.blocks.values():
        if isinstance(block, gr.File | gr.UploadButton):
            kinds.update(kind.lower() for kind in block.file_types or [])
    return frozenset(kinds)


def guarded(uploads: frozenset[str]) -> Callable[[Any], Any]:
    """A lifespan that puts `Guard` around all of the server's own layers, which Gradio's options cannot do."""

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[None]:
        server.middleware_stack = Guard(server.middleware_stack, uploads, Path(server.uploaded_file_dir))
        if mcp := server.get_blocks().mcp_server_obj:
            mcp.postprocess_output_data = partial(_as_json, mcp.types.TextContent)
        yield

    return lifespan


class Guard:
    """Refuses what nobody needs, and puts security headers on what is answered."""

    def __init__(self, app: ASGIApp, uploads: frozenset[str], folder: Path) -> None:
        self._app, self._uploads, self._folder = app, uploads, folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _with_headers(send)
        path = scope["path"]
        uploading = path == "/gradio_api/upload"
        if not ADDRESSES.fullmatch(path) or (uploading and not self._uploads):
            await PlainTextResponse("Not found", 404)(scope, receive, answer)
            return
        limit = LARGEST_UPLOAD + 2**16 if uploading else LARGEST_BODY
        if _announced(scope) > limit:
            await _too_large(limit)(scope, receive, answer)
            return
        if uploading and _size(self._folder) > UPLOADS_KEPT:
            await PlainTextResponse("Too many uploads at the moment. Try again later.", 503)(scope, receive, answer)
            return
        if uploading:
            answer = self._of_known_kind(scope, receive, answer)
        await self._app(scope, _bounded(receive, limit), answer)

    def _of_known_kind(self, scope: Scope, receive: Receive, send: Send) -> Send:
        """Passes the answer to an upload on, unless it names files that no page reads: those are deleted again."""
        held: list[Message] = []

        async def answer(message: Message) -> None:
            held.append(message)
            if message["type"] != "http.response.body" or message.get("more_body"):
                return
            if held[0]["status"] == 200:
                body = b"".join(one.get("body", b"") for one in held)
                files = [Path(name) for name in msgspec.json.decode(body, type=list[str])]
                if not all(file.name.lower().endswith(tuple(self._uploads)) for file in files):
                    for file in files:
                        file.unlink(missing_ok=True)
                    wanted = ", ".join(sorted(self._uploads))
                    await PlainTextResponse(f"Only these files are read: {wanted}.", 415)(scope, receive, send)
                    return
            for one in held:
                await send(one)

        return answer


class Nonces:
    """Gives every script of a page a number that the answer's policy names, a new one for every page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def answer(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_page(message):
                start = message
            elif start is None:
                await send(message)
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    page = signed(body, scope, MutableHeaders(scope=start))
                    await send(start)
                    await send({"type": "http.response.body", "body": page})

        await self._app(scope, receive, answer)


def signed(page: bytes, scope: Scope, headers: MutableHeaders) -> bytes:
    """The page with its number, and its headers brought up to date."""
    nonce = secrets.token_urlsafe(16)
    # Whatever Gradio puts into a page has no "<" of its own, so these tags are the page's.
    page = page.replace(b"<head>", b"<head><script>" + choose_language() + b"</script>", 1)
    page = page.replace(b"<script", f'<script nonce="{nonce}"'.encode())
    if "gzip" in Headers(scope=scope).get("accept-encoding", ""):  # Gradio compresses files only
        page = gzip.compress(page, 5)
        headers["content-encoding"] = "gzip"
        headers.add_vary_header("accept-encoding")
    headers["content-length"] = str(len(page))
    headers["content-security-policy"] = POLICY.format(nonce=nonce, framers=framers(scope))
    return page


@cache
def choose_language() -> bytes:
    """The script that lets Gradio's own parts speak the language that the reader has chosen."""
    script = (TEXTS.parent / "language.js").read_text(encoding="utf-8")
    return script.replace("LANGUAGES", json.dumps(languages())).encode()


def framers(scope: Scope) -> str:
    """Who may show this page in a frame: anybody its embedded view, the hub a Space, otherwise only the page itself."""
    if parse_qs(scope.get("query_string", b"").decode("latin-1")).get("view") == ["embed"]:
        return "*"
    return SPACE if os.environ.get("SPACE_ID") else "'self'"


def _as_json(content: Callable[..., Any], outputs: Sequence[Any], _: str) -> list[Any]:
    """What a tool returned, for an MCP client; Gradio would write it as Python does."""
    return [content(type="text", text=msgspec.json.encode(output).decode()) for output in outputs]


def _is_page(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/html")


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("content-security-policy", NO_PAGE)
            del headers["access-control-allow-credentials"]
        await send(message)

    return answer


def _announced(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "0")
    return int(length) if length.isdecimal() else 0


def _too_large(limit: int) -> PlainTextResponse:
    return PlainTextResponse(f"The request is larger than {limit / 2**20:.0f} MB.", 413)


def _bounded(receive: Receive, limit: int) -> Receive:
    """A body of unannounced length, cut off where it becomes too large: to the server, its sender has left."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                return {"type": "http.disconnect"}
        return message

    return bounded


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
