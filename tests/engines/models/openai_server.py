"""A small but real OpenAI-compatible server over the tiny Llama, for a process of its own: `FOLDER PORT`.

It stands for the big ones, which do not install in a test: it streams, answers in their two shapes of
log-probabilities, and can be had with what goes wrong with them, each under its own path. Its texts are made of
printable ASCII.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse

from engines.models import loading
from engines.models.causal import CausalModel

KEY = "a-key-that-nobody-may-see"
LETTERS = range(0x20, 0x7F)


def ascii_log_p(model: CausalModel, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of the next token, the letters of ASCII only."""
    logits = model.start().extend(ids, last=True)[-1].clone()
    barred = torch.tensor([not (letter := model.token(id).text) or ord(letter[0]) not in LETTERS for id in range(256)])
    logits[:256][barred] = -torch.inf
    logits[256] = -torch.inf
    return logits.log_softmax(-1)


def served(model: CausalModel) -> FastAPI:
    """The app. `/v1` does everything; other roots lack something."""
    app = FastAPI()
    app.state.authorization = []
    torch.set_num_threads(1)

    @app.middleware("http")
    async def keep(request: Request, go_on: Any) -> Any:
        app.state.authorization.append((request.url.path, request.headers.get("authorization", "")))
        if request.url.path.startswith("/locked") and request.headers.get("authorization") != f"Bearer {KEY}":
            return JSONResponse({"error": {"message": "no key"}}, 401)
        return await go_on(request)

    @app.get("/seen")
    def seen() -> Any:
        return app.state.authorization

    @app.get("/elsewhere/v1/models")
    def elsewhere() -> Any:
        return RedirectResponse("/v1/models")

    @app.get("/broken/v1/models")
    def broken() -> Any:
        return {"hello": "world"}

    @app.get("/{root:path}v1/models")
    def models(root: str) -> Any:
        return {"object": "list", "data": [{"id": "tiny", "object": "model"}]}

    @app.post("/{root:path}v1/completions")
    async def completions(root: str, request: Request) -> Any:
        if root.startswith("chat-only"):
            return JSONResponse({"detail": "Not Found"}, 404)
        asked = await request.json()
        if root.startswith("few") and asked["logprobs"] > 5:
            return JSONResponse({"error": {"message": "logprobs must be at most 5"}}, 400)
        return _streamed(answers(root, asked, asked["prompt"], chat=False))

    @app.post("/{root:path}v1/chat/completions")
    async def chat(root: str, request: Request) -> Any:
        asked = await request.json()
        return _streamed(answers(root, asked, "".join(one["content"] for one in asked["messages"]), chat=True))

    def answers(root: str, asked: dict[str, Any], prompt: str, *, chat: bool) -> Iterator[dict[str, Any]]:
        ids = model.encode(prompt, raw=True)
        length = min(asked["max_tokens"], 12 if root.startswith("short") else 10**6)
        for _ in range(length):
            if root.startswith("slow"):
                time.sleep(0.05)
            log_p = ascii_log_p(model, ids)
            top = log_p.topk(asked["top_logprobs"] if chat else asked["logprobs"])
            if root.startswith("crashing") and len(ids) > 9:
                raise RuntimeError("out of memory")
            named = [(model.token(int(id)).text, float(p)) for p, id in zip(*top, strict=True)]
            ids.append(int(top.indices[0]))
            told: Any = None
            if chat:
                entries = [{"token": text, "logprob": p, "bytes": list(text.encode())} for text, p in named]
                told = {"content": [entries[0] | {"top_logprobs": entries}]}
            else:
                told = {"tokens": [named[0][0]], "token_logprobs": [named[0][1]], "top_logprobs": [dict(named)]}
            told = None if root.startswith("no-logprobs") else told
            said = {"delta": {"content": named[0][0]}} if chat else {"text": named[0][0]}
            yield {"index": 0, "finish_reason": None, "logprobs": told} | said
        yield {"index": 0, "finish_reason": "stop", "logprobs": None} | ({"delta": {}} if chat else {"text": ""})

    def _streamed(choices: Iterator[dict[str, Any]]) -> StreamingResponse:
        lines = (f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices)
        return StreamingResponse(
            (line for part in (lines, ["data: [DONE]\n\n"]) for line in part), media_type="text/event-stream"
        )

    return app


if __name__ == "__main__":
    folder, port = sys.argv[1:]
    app = served(loading.load_folder(folder, name="tiny"))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
