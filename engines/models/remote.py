"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, …): the way past one machine.

    model = engines.load("http://127.0.0.1:8000/v1#my-model")

What such a server tells of a place in the text is the log-probabilities of its k most probable tokens. So this model
has no `Need.LOGITS` and no cache of its own, and runs the methods that ask for neither: greedy decoding and sampling.
What it hands them are *log-probabilities* (vocabulary,), -inf for every token that the server did not name: the named
ones keep the model's own probabilities, whose sum is below 1 by what the others have. Greedy decoding is exact;
sampling draws from the k tokens, their probabilities raised to add up to 1, and says so.

Tokens come as text, not as ids, so ids are this process's own: a vocabulary that grows as tokens are met. The prompt
is cut into tokens by the server, and counts as one here.

The server writes ahead at temperature 0 in one streamed answer. As long as the method takes the server's own token the
stream is read on, one token per pass; when it takes another one, the text is sent anew with that token at its end.
`/completions` can be continued like that; `/chat/completions`, which a prompt that is not raw needs, cannot.

Which servers may be asked, and which get a key: `engines.models.address`. No redirect is followed.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import torch
from torch import Tensor

from engines.errors import DecodingError, EndOfText, ModelUnavailable, shown
from engines.events import Curve, Event, Forward, Token
from engines.method import Need
from engines.models.address import ADDRESSES, KEY, checked, key_for
from engines.models.causal import CausalModel, State

TOP = (20, 5)
"""Tokens asked for per place; a server that refuses the first number may grant the second."""
PROMPTS = 1024
"""The first ids are prompts, used again in turn."""
AHEAD = 256
"""Tokens that the server may write ahead."""
LONGEST_CHAT = 4096
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class NotContinuable(DecodingError):
    """The server cannot go on from a token that it did not choose itself."""

    def __init__(self) -> None:
        super().__init__(
            "A chat answer cannot be continued from a token that the server did not choose. "
            'Take greedy, or switch on "raw", which continues the prompt as it stands.'
        )


class Place(msgspec.Struct, frozen=True):
    """What the server said of one place: its token, and the most probable ones with their log-probabilities."""

    token: bytes
    log_p: dict[bytes, float]


class Server:
    """An address, spoken to. Every failure is a `ModelUnavailable` in plain words."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = httpx.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False)

    def models(self) -> list[str]:
        """Ids of the models that the server has; empty when it does not say."""
        with self._plainly():
            answer = self._client.get(f"{self.address}/models", headers=self._headers())
            if answer.status_code == 404:
                return []
            self._check(answer)
            try:
                return [str(one["id"]) for one in answer.json()["data"]]
            except (ValueError, KeyError, TypeError):
                raise ModelUnavailable(
                    f"{self.address} is no OpenAI-compatible server: it does not list models."
                ) from None

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The choices of a streamed answer."""
        with (
            self._plainly(),
            self._client.stream(
                "POST", f"{self.address}{path}", json=dict(body) | {"stream": True}, headers=self._headers()
            ) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
            self._check(answer)
            whole = False
            for line in answer.iter_lines():
                told = line.removeprefix("data:").strip()
                if not line.startswith("data:"):
                    continue
                if told == "[DONE]":
                    return
                try:
                    choices = [dict(one) for one in msgspec.json.decode(told).get("choices") or []]
                except (msgspec.MsgspecError, AttributeError, TypeError, ValueError):
                    raise ModelUnavailable(f"{self.address} sent what is not an answer: {shown(told)}.") from None
                yield from choices
                whole = whole or any(choice.get("finish_reason") for choice in choices)
            if not whole:
                raise ModelUnavailable(f"{self.address} broke off in the middle of its answer.")

    def _headers(self) -> dict[str, str]:
        key = key_for(self.address)
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _plainly(self) -> _Plainly:
        return _Plainly(self.address)

    def _check(self, answer: httpx.Response) -> None:
        code = answer.status_code
        if code in (401, 403):
            raise ModelUnavailable(
                f"{self.address} asks for a key ({code}). List the address in {ADDRESSES}, put the key into an "
                f"environment variable, and its name into {KEY}."
            )
        if code == 404:
            raise _NotThere(f"{self.address} does not have what was asked for: {_said(answer)}")
        if 300 <= code < 400:
            raise ModelUnavailable(f"{self.address} sends elsewhere, which is not followed. Give the final address.")
        if code >= 400:
            raise _Refused(f"{self.address} refused the request ({code}): {_said(answer)}")


class _NotThere(ModelUnavailable):
    """404."""


class _Refused(ModelUnavailable):
    """Another 4xx or 5xx."""


class _Plainly:
    """Turns what httpx raises into sentences."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, httpx.TimeoutException):
            raise ModelUnavailable(
                f"{self._address} did not answer in time. Is the server busy, or still loading?"
            ) from None
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
            reason = (str(error).strip() or type(error).__name__)[:120]
            raise ModelUnavailable(
                f"{self._address} cannot be reached ({reason}). Start the server, or check the address."
            ) from None


class RemoteModel(CausalModel):
    """A causal model that answers over HTTP. Use `connect`.

    Args:
        server: where it is.
        model: what the server calls it.
        completes: whether the server offers `/completions`.
        top: tokens named per place.
    """

    truncated = True

    def __init__(self, server: Server, model: str, *, completes: bool, top: int) -> None:
        self.server, self.model, self.completes, self.top = server, model, completes, top
        self.name = f"{server.address}#{model}"
        self.title = f"{model} at {urlsplit(server.address).netloc}"
        self.precision = "remote"
        self.weights = f"remote-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"
        self.steady = False
        self.device = torch.device("cpu")
        self.context_length = 1 << 20
        self._lock = threading.Lock()
        self._prompts: list[tuple[str, bool]] = [("", True)] * PROMPTS
        self._next_prompt = 0
        self._tokens: list[bytes] = []
        self._ids: dict[bytes, int] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What has to be said of every run."""
        return (
            f"A server decodes, and names its {self.top} most probable tokens per place: sampling draws from these. "
            "It cuts the prompt into tokens itself, so the prompt counts as one token here.",
        )

    @property
    def has(self) -> Need:
        return Need.NOTHING

    @property
    def lean(self) -> bool:
        return False

    @property
    def vocabulary_size(self) -> int:  # type: ignore[override]
        """Ids in use so far."""
        return PROMPTS + len(self._tokens)

    @property
    def eos_ids(self) -> frozenset[int]:
        """None: a server ends its answer without saying how probable that was."""
        return frozenset()

    @property
    def memory_bytes(self) -> int:
        return 0

    @property
    def has_chat_template(self) -> bool:
        return True

    def encode(self, text: str, *, raw: bool = False) -> list[int]:
        """One id for the whole prompt."""
        with self._lock:
            id = self._next_prompt
            self._prompts[id] = (text, raw)
            self._next_prompt = (id + 1) % PROMPTS
        return [id]

    def prompt(self, id: int) -> tuple[str, bool]:
        """The prompt with this id, and whether it is raw."""
        return self._prompts[id]

    def decode(self, ids: Sequence[int]) -> str:
        return self.spelled(ids).decode(errors="replace")

    def spelled(self, ids: Sequence[int]) -> bytes:
        """The bytes of tokens."""
        return b"".join(self._tokens[id - PROMPTS] for id in ids if id >= PROMPTS)

    def token(self, id: int) -> Token:
        if id < PROMPTS:
            return Token(id, self._prompts[id][0])
        raw = self._tokens[id - PROMPTS]
        try:
            return Token(id, raw.decode())
        except UnicodeDecodeError:
            return Token(id, "", raw.hex())

    def id(self, spelled: bytes) -> int:
        """The id of a token, a new one if it has not been met before."""
        with self._lock:
            if spelled not in self._ids:
                self._ids[spelled] = PROMPTS + len(self._tokens)
                self._tokens.append(spelled)
            return self._ids[spelled]

    def start(self, ledger: list[Event] | None = None, now: Callable[[], float] = time.perf_counter) -> State:
        return RemoteState(self, [] if ledger is None else ledger, now)

    def cost_curve(self, *, cached: int = 256, repeats: int = 3) -> Curve:
        """Empty: what a pass costs over there cannot be measured token by token."""
        return Curve(name="cost of a forward pass, t(q)", x_name="new tokens", y_name="seconds", x=(), y=())

    def places(self, prompt: str, raw: bool, written: str, ahead: int) -> Iterator[Place]:
        """What the server writes next, place by place. Ends at the end of the text, or after `ahead` tokens."""
        if raw and not self.completes:
            raise ModelUnavailable(f'{self.title} offers only chat. Switch "raw" off.')
        yield from _places(self.server, self.model, prompt, raw, written, ahead, self.top)


class RemoteState(State):
    """The text of one run, and the stream that the server writes ahead of it."""

    def __init__(self, model: RemoteModel, ledger: list[Event], now: Callable[[], float]) -> None:
        self._remote, self._ledger, self._now = model, ledger, now
        self._ids: list[int] = []
        self._stream: Iterator[Place] | None = None
        self._expected = -1
        self._ahead, self._confirmed = AHEAD, 0
        self.batch, self.hidden = 1, None

    @property
    def length(self) -> int:
        return len(self._ids)

    def extend(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]],
        parents: Sequence[int] | None = None,
        *,
        last: bool = False,
        lane: str = "target",
    ) -> Tensor:
        """Log-probabilities (1, vocabulary) of the next token, -inf for those that the server did not name.

        Raises `EndOfText` where the server ends the text.
        """
        assert parents is None, "a server reads one sequence"
        assert last, "a server says one place at a time"
        cached = len(self._ids)
        self._ids += tokens  # type: ignore[arg-type]
        if lane == "prompt":  # the server will read it with what follows
            return torch.empty(0, self._remote.vocabulary_size)
        began, start = self._now(), time.perf_counter()
        try:
            place = self._next()
        finally:
            seconds = time.perf_counter() - start
            self._ledger.append(
                Forward(lane="target", batch=1, query=len(tokens), cached=cached, seconds=seconds, began=began)
            )
        named = {self._remote.id(token): log_p for token, log_p in place.log_p.items()}
        self._expected = self._remote.id(place.token)
        logits = torch.full((1, self._remote.vocabulary_size), -torch.inf)
        logits[0, list(named)] = torch.tensor(list(named.values()))
        return logits

    def _next(self) -> Place:
        if self._stream is not None and self._ids[-1] == self._expected:
            self._confirmed += 1
        else:
            departed = self._stream is not None
            self._open(max(1, self._confirmed) if departed else AHEAD)
        assert self._stream is not None
        place = next(self._stream, None)
        if place is None and self._confirmed == self._ahead:  # it has written what it was asked for
            self._open(AHEAD)
            place = next(self._stream, None)
        if place is None:
            raise EndOfText
        return place

    def _open(self, ahead: int) -> None:
        prompt, raw = self._remote.prompt(self._ids[0])
        if self._ids[1:] and not raw:
            raise NotContinuable
        try:
            written = self._remote.spelled(self._ids[1:]).decode()
        except UnicodeDecodeError:
            raise DecodingError(
                "The text ends within a character, and a server takes whole ones only: it cannot go on from here."
            ) from None
        self._ahead, self._confirmed = ahead if raw else LONGEST_CHAT, 0
        self._stream = self._remote.places(prompt, raw, written, self._ahead)


def connect(name: str) -> RemoteModel:
    """The model at an address. Raises `ModelUnavailable`, which says what is missing."""
    address, wanted = checked(name)
    server = Server(address)
    known = server.models()
    model = wanted or (known[0] if known else "")
    if not model:
        raise ModelUnavailable(f"{address} does not say which models it has. Add one to the address: {address}#model.")
    if known and model not in known:
        raise ModelUnavailable(f"{address} has no model called {shown(model)}. It has: {', '.join(known[:8])[:300]}.")
    refusal: ModelUnavailable | None = None
    for raw in (True, False):
        for top in TOP:
            try:
                next(_places(server, model, "Hello", raw, "", 1, top), None)
            except _NotThere as error:
                refusal = error
                break
            except _Refused as error:
                refusal = error
                continue
            return RemoteModel(server, model, completes=raw, top=top)
    assert refusal is not None
    raise refusal


def _places(server: Server, model: str, prompt: str, raw: bool, written: str, ahead: int, top: int) -> Iterator[Place]:
    asked: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": ahead}
    if raw:
        choices = server.stream("/completions", asked | {"prompt": prompt + written, "logprobs": top})
    else:
        chat = {"messages": [{"role": "user", "content": prompt}], "logprobs": True, "top_logprobs": top}
        choices = server.stream("/chat/completions", asked | chat)
    for choice in choices:
        told = choice.get("logprobs")
        if told:
            yield from _read(told)
        elif choice.get("text") or (choice.get("delta") or {}).get("content"):
            raise ModelUnavailable(
                f"{server.address} answers without log-probabilities, which decoding here needs. "
                "vLLM, SGLang and llama.cpp give them; start the server so that it does."
            )


def _read(told: Any) -> Iterator[Place]:
    """Both shapes: the one of chat, which some servers also use for completions, and the one of completions."""
    try:
        if told.get("content") is not None:
            for one in told["content"]:
                named = {_bytes(other): float(other["logprob"]) for other in one.get("top_logprobs") or []}
                yield Place(_bytes(one), {_bytes(one): float(one["logprob"])} | named)
            return
        for token, log_p, named in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
            mine = _escaped(token)
            yield Place(
                mine, {mine: float(log_p)} | {_escaped(key): float(value) for key, value in (named or {}).items()}
            )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelUnavailable("The server's log-probabilities are not in a shape that is known here.") from None


def _bytes(one: Mapping[str, Any]) -> bytes:
    return bytes(one["bytes"]) if one.get("bytes") else _escaped(one["token"])


def _escaped(token: str) -> bytes:
    r"""A token as text; pieces of characters come as `bytes:\xe2\x80`."""
    if token.startswith("bytes:") and re.fullmatch(r"(\\x[0-9a-fA-F]{2})+", token[6:]):
        return bytes.fromhex(token[6:].replace("\\x", ""))
    return token.encode(errors="replace")


def _said(answer: httpx.Response) -> str:
    try:
        told = answer.json()
        told = told.get("error", told) if isinstance(told, dict) else told
        text = told.get("message") or told.get("detail") or str(told) if isinstance(told, dict) else str(told)
    except ValueError:
        text = answer.text
    return " ".join(str(text).split())[:200] or "no reason given."
