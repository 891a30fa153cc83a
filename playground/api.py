"""The programmable side of the page: five functions, the same over Gradio's HTTP API and over MCP.

`run`, `compare`, `list_methods`, `get_run` and `query_runs` are all there is; every other event of the page is
private. Their signatures and docstrings are what a client reads, so they are written for it. Arguments arrive
unchecked, so each function checks its own; what cannot be done is answered in one or two plain sentences.

Runs belong to an owner, here as on the page. A client names its own by any secret of 32 characters or more, the same
in every call; the runs of a client that names none can be read by their ids alone.
"""

import inspect
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr
import msgspec

from engines.errors import BadParameter, shown
from engines.events import Event, committed
from playground import query, search
from playground.arguments import checked, from_json_text, stranger, text, whose
from playground.cards import method_object
from playground.cli_compare import as_object as compared
from playground.comparison import Comparison, Contestant, Runs, race
from playground.kept_comparisons import keep
from playground.places import Place
from playground.recording import new_run_id, spelled
from playground.server import FUNCTIONS
from playground.setup import Params, Setup
from playground.standings import standings
from playground.store import StoredRun
from playground.transcript import as_object
from playground.ui.house import House
from playground.ui.rail import blocked
from playground.ui.shelf import RECORDED_RUN

PROGRESS_SECONDS = 0.2
"""Between two messages of a run under way, at least."""
LONGEST_ID = 64
MOST_RUNS = 100
EXCERPT = 500
"""Characters of prompt and text in a list of runs; `get_run` has all."""
BRIEF = ("id", "created", "status", "name", "starred", "model", "method", "params", "seed", "totals")


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
        setup = Setup(
            prompt=text("prompt", prompt),
            method=text("method", method),
            params=from_json_text("params", params, Params),
            seed=checked("seed", seed, int),
            max_new_tokens=checked("max_new_tokens", max_new_tokens, int),
            raw=checked("raw", raw, bool),
            stop=tuple(from_json_text("stop", stop, list[str])),
            time_limit=checked("time_limit", time_limit, float),
        )
        mine = whose(owner) if owner else stranger()
        with self._house.places.take(mine) as place:
            yield from self._wait(place)
            with closing(self._house.record(setup, owner=mine)) as recording:
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
        contestants: list[Any] | str,
        seed: int = 0,
        max_new_tokens: int = 64,
        rounds: int = 1,
        owner: str = "",
    ) -> Iterator[dict[str, Any]]:
        """Decode one prompt with two to four methods in alternating rounds, and compare their speed and output.

        The first contestant is the baseline that the others are measured against. While it runs, objects with
        "status": "running" say how far it is. Every run is kept.

        Args:
            prompt: what the model should answer or continue
            contestants: a list, or JSON text, of method ids or of objects with "method" and "params"
            seed: the same seed for all
            max_new_tokens: tokens to generate at most, by each contestant in each round
            rounds: how often everything is run, 1 to 9; more rounds show how steady the speeds are
            owner: optional, any secret of yours of 32 or more characters, by which query_runs finds the runs

        Returns:
            per contestant: runs, text, totals, speed-up over the first (below 1 is slower), and how its output relates
        """
        sides = _sides(contestants)
        setups = [
            Setup(
                prompt=text("prompt", prompt),
                method=side.method,
                params=side.params,
                seed=checked("seed", seed, int),
                max_new_tokens=checked("max_new_tokens", max_new_tokens, int),
            )
            for side in sides
        ]
        comparison = Comparison(new_run_id(), tuple(map(Contestant.of, setups)), checked("rounds", rounds, int))
        mine = whose(owner) if owner else stranger()
        with self._house.places.take(mine) as place:
            yield from self._wait(place)

            def start(setup: Setup, name: str) -> Iterator[Event]:
                return self._house.record(setup, owner=mine, name=name)

            runs, due = Runs(comparison), 0.0
            with closing(race(comparison, start)) as racing:
                for entry in racing:
                    runs.take(entry)
                    if time.monotonic() >= due:
                        yield {"status": "running", "round": entry.round + 1, "contestant": entry.contestant}
                        due = time.monotonic() + PROGRESS_SECONDS
            keep(self._house.store, mine, comparison, runs.ids, None)
            found = standings([streams for _, streams in runs.streams])
            answer = compared(comparison, runs, found)
            for side, (_, streams) in zip(answer["contestants"], runs.streams, strict=True):
                side["text"] = spelled(committed(streams[0]))
            yield {"status": "finished", **answer}

    def list_methods(self) -> list[dict[str, Any]]:
        """List the decoding methods: what each does, its paper, its parameters with ranges, whether it is lossless.

        Returns:
            One object per method; "blocked" says why the loaded model cannot run it, and is empty when it can.
        """
        has = self._house.resident.has
        return [method_object(one) | {"blocked": blocked(one, has)} for one in self._house.methods.values()]

    def get_run(self, id: str) -> dict[str, Any]:
        """Read one run by its id: how it was made, its text, and its numbers.

        Args:
            id: the run's id, as run and query_runs give it, or as it stands in a link to a run

        Returns:
            The same object as run returns.
        """
        id = text("id", id)
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
        mine = whose(owner)
        if text("sql", sql).strip():
            return dict(msgspec.to_builtins(query.query(self._house.store, mine, sql)))
        wanted = search.Search(words=text("words", words))
        page = max(1, min(checked("limit", limit, int), MOST_RUNS))
        found = search.search(self._house.store, mine, wanted, limit=page, after=text("after", after))
        return {"runs": [_brief(hit.run) for hit in found.hits], "total": found.total, "more": found.more}

    def _wait(self, place: Place) -> Iterator[dict[str, Any]]:
        """How far the model is on its way, and how many people are before this one, until both are there."""
        for fraction, doing in self._house.resident.wait(every=1.0):
            yield {"status": "waiting", "fraction": round(fraction, 2), "doing": doing}
        for ahead in place.wait():
            yield {"status": "waiting", "ahead": ahead}


def build(house: House) -> None:
    """Adds the functions to the app that is being built."""
    api = Api(house)
    for name in FUNCTIONS:
        function = getattr(api, name)
        decodes = inspect.isgeneratorfunction(function)
        options = {"concurrency_limit": None, "concurrency_id": "decode"} if decodes else {"queue": False}
        gr.api(function, api_name=name, **options)


def _so_far(events: list[Event], run: str | None) -> dict[str, Any]:
    tokens = committed(events)
    return {"status": "running", "run": run, "text": spelled(tokens), "tokens": len(tokens)}


def _sides(value: Any) -> list[Side]:
    sides = from_json_text("contestants", value, list[str | Side])
    return [Side(side) if isinstance(side, str) else side for side in sides]


def _brief(run: StoredRun) -> dict[str, Any]:
    shown = {name: getattr(run, name) for name in BRIEF}
    return msgspec.to_builtins(shown | {"prompt": run.prompt[:EXCERPT], "text": (run.text or "")[:EXCERPT]})
