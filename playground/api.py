"""The programmable side of the page: five functions, the same over Gradio's HTTP API and over MCP.

`run`, `compare`, `list_methods`, `get_run` and `query_runs` are all there is; every other event of the page is
private. Their signatures and docstrings are what a client reads, so they are written for it. Arguments arrive
unchecked, so each function checks its own; what cannot be done is answered in one or two plain sentences.

Runs belong to an owner, here as on the page. A client names its own by any secret of 32 characters or more, the same
in every call; the runs of a client that names none can be read by their ids alone.
"""

import base64
import hashlib
import inspect
import logging
import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import gradio as gr
import msgspec

from engines.errors import BadParameter, DecodingError, shown
from engines.events import Event, committed
from playground import query, search
from playground.cards import method_object
from playground.recording import spelled
from playground.server import FUNCTIONS
from playground.setup import Params, Setup
from playground.store import StoredRun
from playground.transcript import as_object
from playground.ui.house import House
from playground.ui.rail import blocked
from playground.ui.shelf import RECORDED_RUN

PROGRESS_SECONDS = 0.2
"""Between two messages of a run under way, at least."""
SHORTEST_SECRET, LONGEST_SECRET = 32, 256
LONGEST_ID = 64
MOST_CONTENDERS = 4
MOST_ROUNDS = 5
MOST_RUNS = 100
EXCERPT = 500
"""Characters of prompt and text in a list of runs; `get_run` has all."""
BRIEF = ("id", "created", "status", "name", "starred", "model", "method", "params", "seed", "totals")

log = logging.getLogger(__name__)
T = TypeVar("T")


class Contender(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A method with its settings, as one side of a comparison."""

    method: str
    params: Params = {}


class Api:
    """The functions, for one house. `build` makes them endpoints."""

    def __init__(self, house: House) -> None:
        self._house = house

    def run(
        self,
        prompt: str,
        method: str = "greedy",
        params: dict[str, Any] | str = "{}",
        seed: int = 0,
        max_new_tokens: int = 96,
        raw: bool = False,
        stop: list[str] | str = "[]",
        time_limit: float = 60.0,
        owner: str = "",
    ) -> Iterator[dict[str, Any]]:
        """Decode a prompt with one method; the answer has the text and everything needed to make it again.

        While it runs, objects with "status": "running" and the text so far are streamed. The run is kept under the
        id in "run".

        Args:
            prompt: what the model should answer or continue
            method: id of a decoding method, see list_methods
            params: settings of the method by name, as an object or as JSON text; missing ones take their default
            seed: the same seed gives the same run
            max_new_tokens: tokens to generate at most
            raw: continue the prompt as it stands, without the model's chat template
            stop: texts that end the run once one of them is written, as a list or as JSON text
            time_limit: seconds of decoding at most
            owner: optional, any secret of yours of 32 or more characters, by which query_runs finds the run

        Returns:
            status, reason, model, method, params, prompt, seed, text, token_ids, and the run in numbers: stats
        """
        with calm():
            setup = Setup(
                prompt=_text("prompt", prompt),
                method=_text("method", method),
                params=_json("params", params, Params),
                seed=_checked("seed", seed, int),
                max_new_tokens=_checked("max_new_tokens", max_new_tokens, int),
                raw=_checked("raw", raw, bool),
                stop=tuple(_json("stop", stop, list[str])),
                time_limit=_checked("time_limit", time_limit, float),
            )
            whose = _owner(_secret(owner) if owner else secrets.token_urlsafe())
            yield from self._wait()
            with closing(self._house.record(setup, owner=whose)) as recording:
                events: list[Event] = []
                due = 0.0
                for event in recording:
                    events.append(event)
                    if time.monotonic() >= due:
                        yield _so_far(events, recording.run_id)
                        due = time.monotonic() + PROGRESS_SECONDS
            yield as_object(events, run=recording.run_id if recording.kept else None, status="finished")

    def compare(
        self,
        prompt: str,
        contenders: list[Any] | str,
        seed: int = 0,
        max_new_tokens: int = 64,
        rounds: int = 1,
        owner: str = "",
    ) -> Iterator[dict[str, Any]]:
        """Decode one prompt with two to four methods in alternating rounds, and compare their speed and output.

        The first contender is the baseline that the others are measured against. While it runs, objects with
        "status": "running" say how far it is. Every run is kept.

        Args:
            prompt: what the model should answer or continue
            contenders: a list, or JSON text, of method ids or of objects with "method" and "params"
            seed: the same seed for all
            max_new_tokens: tokens to generate at most, by each contender in each round
            rounds: how often everything is run, 1 to 5; more rounds show how steady the speeds are
            owner: optional, any secret of yours of 32 or more characters, by which query_runs finds the runs

        Returns:
            per contender: runs, text, numbers, first difference to the baseline, speed-up (below 1 is slower)
        """
        with calm():
            setups = [
                Setup(
                    prompt=_text("prompt", prompt),
                    method=side.method,
                    params=side.params,
                    seed=_checked("seed", seed, int),
                    max_new_tokens=_checked("max_new_tokens", max_new_tokens, int),
                )
                for side in _contenders(contenders)
            ]
            many = _checked("rounds", rounds, int)
            if not 1 <= many <= MOST_ROUNDS:
                raise BadParameter(f"rounds must be from 1 to {MOST_ROUNDS}, not {many}.")
            whose = _owner(_secret(owner) if owner else secrets.token_urlsafe())
            yield from self._wait()
            results: list[list[dict[str, Any]]] = [[] for _ in setups]
            for number in range(many):
                order = [(place + number) % len(setups) for place in range(len(setups))]
                for done, place in enumerate(order):
                    yield {"status": "running", "round": number + 1, "done": done, "of": len(setups)}
                    with closing(self._house.record(setups[place], owner=whose)) as recording:
                        events = list(recording)
                    results[place].append(as_object(events, run=recording.run_id, status="finished"))
            yield {"status": "finished", "contenders": [_beside(rows, results[0]) for rows in results]}

    def list_methods(self) -> list[dict[str, Any]]:
        """List the decoding methods: what each does, its paper, its parameters with ranges, whether it is lossless.

        Returns:
            One object per method; "blocked" says why the loaded model cannot run it, and is empty when it can.
        """
        with calm():
            has = self._house.resident.has
            return [method_object(one) | {"blocked": blocked(one, has)} for one in self._house.methods.values()]

    def get_run(self, id: str) -> dict[str, Any]:
        """Read one run by its id: how it was made, its text, and its numbers.

        Args:
            id: the run's id, as run and query_runs give it, or as it stands in a link to a run

        Returns:
            The same object as run returns.
        """
        with calm():
            id = _text("id", id)
            if len(id) > LONGEST_ID:
                raise BadParameter(f"A run's id has at most {LONGEST_ID} characters, this one has {len(id):,}.")
            events = self._house.shelf.events(id)
            if not events:
                raise BadParameter(f"Run {shown(id)} has no events yet.")
            status = "finished" if id.startswith(RECORDED_RUN) else self._house.store.run(id).status
            return as_object(events, run=id, status=status)

    def query_runs(
        self, owner: str, words: str = "", sql: str = "", limit: int = 20, after: str = ""
    ) -> dict[str, Any]:
        """Find your own runs by the words of their prompts and outputs, or ask about them in SQL (SELECT only).

        Args:
            owner: the secret that the runs were made with
            words: words that must all occur; empty for the newest runs
            sql: instead of words, one SELECT over the tables runs and events, which hold your runs only
            limit: runs per page, 1 to 100
            after: the "more" of the page before

        Returns:
            for words: runs, total and more; for SQL: columns, rows (values as text) and whether these are all (full)
        """
        with calm():
            whose = _owner(_secret(owner))
            if _text("sql", sql).strip():
                return dict(msgspec.to_builtins(query.query(self._house.store, whose, sql)))
            wanted = search.Search(words=_text("words", words))
            page = max(1, min(_checked("limit", limit, int), MOST_RUNS))
            found = search.search(self._house.store, whose, wanted, limit=page, after=_text("after", after))
            return {"runs": [_brief(hit.run) for hit in found.hits], "total": found.total, "more": found.more}

    def _wait(self) -> Iterator[dict[str, Any]]:
        """How far the model is on its way, until it is there."""
        for fraction, doing in self._house.resident.wait(every=1.0):
            yield {"status": "waiting", "fraction": round(fraction, 2), "doing": doing}


def build(house: House) -> None:
    """Adds the functions to the app that is being built."""
    api = Api(house)
    for name in FUNCTIONS:
        function = getattr(api, name)
        decodes = inspect.isgeneratorfunction(function)
        options = {"concurrency_limit": 16, "concurrency_id": "decode"} if decodes else {"queue": False}
        gr.api(function, api_name=name, **options)


class Refusal(gr.Error):
    """A sentence for the client."""

    def __init__(self, message: str) -> None:
        super().__init__(message, print_exception=False)

    def __str__(self) -> str:
        return str(self.message)


@contextmanager
def calm() -> Iterator[None]:
    """What cannot be done is said to the client; anything that breaks is logged, and that it broke is said."""
    try:
        yield
    except DecodingError as error:
        raise Refusal(str(error)) from None
    except Exception:
        log.exception("a call of the API failed")
        raise Refusal("Something broke on the server, and was noted there.") from None


def _so_far(events: list[Event], run: str | None) -> dict[str, Any]:
    tokens = committed(events)
    return {"status": "running", "run": run, "text": spelled(tokens), "tokens": len(tokens)}


def _contenders(value: Any) -> list[Contender]:
    sides = [
        Contender(side) if isinstance(side, str) else side for side in _json("contenders", value, list[str | Contender])
    ]
    if not 2 <= len(sides) <= MOST_CONTENDERS:
        raise BadParameter(f"Give 2 to {MOST_CONTENDERS} contenders, not {len(sides)}.")
    return sides


def _beside(rows: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, Any]:
    """One contender, measured against the baseline's runs of the same rounds."""
    ids, others = rows[0]["token_ids"], baseline[0]["token_ids"]
    same = next(
        (place for place, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others))
    )
    ratios = sorted(
        mine["stats"]["tokens_per_second"] / theirs["stats"]["tokens_per_second"]
        for mine, theirs in zip(rows, baseline, strict=True)
        if mine["stats"] and theirs["stats"] and theirs["stats"]["tokens_per_second"]
    )
    return {
        "method": rows[0]["method"],
        "params": rows[0]["params"],
        "runs": [row["run"] for row in rows],
        "text": rows[0]["text"],
        "first_difference": None if ids == others else same,
        "stats": [row["stats"] for row in rows],
        "speed_up": {"median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]} if ratios else None,
    }


def _brief(run: StoredRun) -> dict[str, Any]:
    shown = {name: getattr(run, name) for name in BRIEF}
    return msgspec.to_builtins(shown | {"prompt": run.prompt[:EXCERPT], "text": (run.text or "")[:EXCERPT]})


KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def _checked(name: str, value: Any, kind: type[T]) -> T:
    """`value` as a `kind`; numbers may come as text. Raises `BadParameter`."""
    try:
        if isinstance(value, bool) and kind is not bool:
            raise msgspec.ValidationError
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        raise BadParameter(f"{name} must be {KINDS[kind]}, not {_said(value)}.") from None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadParameter(f"{name} must be a text, not {_said(value)}.")
    return value


def _json(name: str, value: Any, kind: Any) -> Any:
    """`value`, or what its text says, as a `kind`. Raises `BadParameter`."""
    try:
        if isinstance(value, str):
            value = msgspec.json.decode(value.encode("utf-8", "replace")) if value.strip() else kind()
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadParameter(f"{name} cannot be read: {str(error)[:200]}.") from None


def _owner(secret: str) -> str:
    """Whose runs a client's secret gives: a digest, so that neither the database nor a log ever holds the secret."""
    digest = hashlib.sha256(b"api " + secret.encode(errors="surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest)[:32].decode()


def _secret(value: Any) -> str:
    """A client's secret. Raises `BadParameter`."""
    secret = _text("owner", value)
    if not SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET:
        raise BadParameter(
            f"owner must be a secret of {SHORTEST_SECRET} to {LONGEST_SECRET} characters, not of {len(secret):,}. "
            "Choose one as you would a password, and use it for all your runs."
        )
    return secret


def _said(value: Any) -> str:
    try:
        return shown(str(value))
    except ValueError:
        return "a number of thousands of digits"
