"""The five functions, as a client of the HTTP API and a client of MCP meet them: a real server, the real model."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
from typing import Any

import gradio as gr
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from playground import server
from playground.store import is_owner
from tests.playground.serving import Served

FUNCTIONS = {"run", "compare", "list_methods", "get_run", "query_runs"}
DEFAULTS = ("greedy", "{}", 0, 6, False, "[]", 60)


def run(served: Served, *, owner: str = "", prompt: str = "Say hello.") -> dict[str, Any]:
    told, (answer,) = served.call("run", prompt, *DEFAULTS, owner)
    assert told == "complete"
    assert answer["status"] == "finished"
    return dict(answer)


def refusal(told: tuple[str, Any]) -> str:
    kind, answer = told
    assert kind == "error", answer
    return str(answer["error"])


def test_there_are_these_five_and_no_others(served: Served) -> None:
    for path in ("gradio_api/info", "gradio_api/info?all_endpoints=true"):
        info = served.get(path).json()
        assert set(info["named_endpoints"]) == {f"/{name}" for name in FUNCTIONS}
        assert info["unnamed_endpoints"] == {}


def test_every_argument_is_typed_and_explained(served: Served) -> None:
    for endpoint in served.get("gradio_api/info").json()["named_endpoints"].values():
        assert len(endpoint["description"]) > 40
        assert all(argument["type"] for argument in endpoint["parameters"])


def test_a_run_streams_its_text_and_ends_with_all_about_it(served: Served) -> None:
    told = [
        (kind, data[0])
        for kind, data in served.stream("run", "Say hello.", *DEFAULTS, "")
        if data[0]["status"] != "waiting"
    ]
    assert told[0][0] == "generating"
    assert told[0][1]["status"] == "running"
    kind, last = told[-1]
    assert kind == "complete"
    assert last["method"] == "greedy"
    assert last["stats"]["tokens"] == len(last["token_ids"]) == 6
    assert all(last["text"].startswith(data["text"]) for _, data in told[:-1])


def test_params_are_an_object_or_its_text(served: Served) -> None:
    settings = (3, 6, False, "[]", 60, "")
    as_text = served.call("run", "Say hello.", "sampling", '{"temperature": 2}', *settings)
    as_object = served.call("run", "Say hello.", "sampling", {"temperature": 2}, *settings)
    assert as_text[1][0]["params"]["temperature"] == 2.0
    assert as_text[1][0]["token_ids"] == as_object[1][0]["token_ids"]


def test_a_run_can_be_read_again_without_its_owner(served: Served) -> None:
    owner = secrets.token_urlsafe(24)
    made = run(served, owner=owner)
    kind, (read,) = served.call("get_run", made["run"])
    assert kind == "complete"
    assert read == made
    assert owner not in json.dumps(read)


def test_a_run_shipped_with_the_program_can_be_read(served: Served) -> None:
    _, (read,) = served.call("get_run", "recorded-token-recycling")
    assert read["method"] == "token-recycling"


def test_a_client_sees_its_own_runs_only(served: Served) -> None:
    mine, other = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    made = run(served, owner=mine, prompt="Say zebra.")
    _, (found,) = served.call("query_runs", mine, "zebra", "", 10, "")
    assert [each["id"] for each in found["runs"]] == [made["run"]]
    assert found["total"] == 1
    assert served.call("query_runs", other, "zebra", "", 10, "")[1][0]["runs"] == []


def test_a_secret_is_kept_nowhere(served: Served) -> None:
    mine = secrets.token_urlsafe(24)
    run(served, owner=mine)
    assert mine not in json.dumps(served.call("query_runs", mine, "", "", 10, ""))
    assert not [file for file in served.folder.rglob("*") if file.is_file() and mine.encode() in file.read_bytes()]


def test_runs_are_found_page_by_page(served: Served) -> None:
    mine = secrets.token_urlsafe(24)
    made = [run(served, owner=mine)["run"] for _ in range(3)]
    found, after = [], ""
    while len(found) < 3:
        page = served.call("query_runs", mine, "", "", 1, after)[1][0]
        found += [each["id"] for each in page["runs"]]
        after = page["more"]
    assert found == made[::-1]
    assert after == ""


def test_ones_own_runs_can_be_asked_about_in_sql(served: Served) -> None:
    mine = secrets.token_urlsafe(24)
    run(served, owner=mine)
    _, (answer,) = served.call("query_runs", mine, "", "SELECT count(*) AS n, min(method) FROM runs", 10, "")
    assert answer == {"columns": ["n", "min(method)"], "rows": [["1", "greedy"]], "full": True}


@pytest.mark.parametrize("sql", ["DELETE FROM runs", "SELECT owner FROM runs", "SELECT 1; DROP TABLE runs"])
def test_other_sql_is_refused(served: Served, sql: str) -> None:
    assert "SQLite says" in refusal(served.call("query_runs", "o" * 32, "", sql, 10, ""))


@pytest.mark.parametrize("owner", ["", "command line", "x" * 31, "x" * 257])
def test_an_owner_must_be_a_secret(served: Served, owner: str) -> None:
    assert "32 to 256 characters" in refusal(served.call("query_runs", owner, "", "", 10, ""))


def test_a_browsers_owner_is_not_a_clients(served: Served) -> None:
    """A client that came by what the database holds still sees nothing."""
    mine = secrets.token_urlsafe(24)
    made = run(served, owner=mine)["run"]
    with sqlite3.connect(served.folder / "runs.sqlite") as database:
        ((kept,),) = database.execute("SELECT owner FROM runs WHERE id = ?", [made])
    assert is_owner(kept)
    assert served.call("query_runs", kept, "", "", 10, "")[1][0]["runs"] == []


def test_methods_are_compared_against_the_first(served: Served) -> None:
    sides = ["greedy", {"method": "prompt-lookup", "params": {}}, {"method": "sampling", "params": {"top_k": 2}}]
    kind, (answer,) = served.call("compare", "Count: 1 2 3 1 2 3", sides, 0, 8, 2, "")
    assert kind == "complete"
    greedy, lookup, sampling = answer["contestants"]
    assert greedy["relation"] == "baseline"
    assert greedy["speed_up"] is None
    assert len(lookup["runs"]) == len(set(lookup["runs"])) == 2
    assert lookup["relation"] == "same"
    assert lookup["text"] == greedy["text"] != ""
    assert sampling["params"]["top_k"] == 2
    assert lookup["speed_up"]["minimum"] <= lookup["speed_up"]["median"] <= lookup["speed_up"]["maximum"]


def test_methods_say_what_they_take(served: Served) -> None:
    _, (methods,) = served.call("list_methods")
    (sampling,) = [method for method in methods if method["id"] == "sampling"]
    assert "temperature" in [parameter["name"] for parameter in sampling["parameters"]]
    assert all(method["blocked"] == "" for method in methods)


@pytest.mark.parametrize("name", ["start", "branch", "stop", "step", "opened", "pick_method", "predict", "nothing"])
@pytest.mark.parametrize("way", ["run", "api", "call", "call/v2"])
def test_what_belongs_to_the_page_cannot_be_called_by_name(served: Served, way: str, name: str) -> None:
    assert served.post(f"gradio_api/{way}/{name}", {"data": []}).status_code in (404, 422, 500)
    assert "event_id" not in served.post(f"gradio_api/{way}/{name}", {"data": []}).text


def mcp(served: Served, tool: str, **arguments: Any) -> Any:
    """What a tool says; with an empty name, the tools."""

    async def ask() -> Any:
        async with (
            streamablehttp_client(f"{served.address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            if not tool:
                return (await session.list_tools()).tools
            return await session.call_tool(tool, arguments)

    return asyncio.run(ask())


def test_mcp_has_the_same_five_with_every_argument_explained(served: Served) -> None:
    tools = mcp(served, "")
    assert {tool.name for tool in tools} == FUNCTIONS
    for tool in tools:
        assert len(tool.description) > 40
        assert all(len(each.get("description", "")) > 10 for each in tool.inputSchema["properties"].values()), tool.name


def test_mcp_runs_and_answers_in_json(served: Served) -> None:
    answer = mcp(served, "run", prompt="Say hello.", max_new_tokens=6)
    assert not answer.isError
    made = json.loads(answer.content[0].text)
    assert made["stats"]["tokens"] == 6
    read = mcp(served, "get_run", id=made["run"])
    assert json.loads(read.content[0].text) == made


def test_mcp_says_what_cannot_be_done(served: Served) -> None:
    for tool, arguments in (("run", {"prompt": "hi", "method": "gredy"}), ("get_run", {"id": "nowhere"})):
        answer = mcp(served, tool, **arguments)
        assert answer.isError
        assert answer.content[0].text.startswith("There is no ")


def test_without_mcp_the_app_starts_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING), gr.Blocks() as app:
        options = server.launch_options(app)
    assert options["mcp_server"] is False
    assert caplog.text.count("MCP") == 1
