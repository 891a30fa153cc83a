"""Whatever is sent, the answer is calm: a sentence or a refusal, never a traceback, and the server goes on."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.playground.serving import Served

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
WRONG = [
    None,
    True,
    -1,
    1.5,
    10**30,
    "",
    "x",
    MARKUP,
    "\x00",
    "\ud800",
    "💥" * 20,
    [],
    [[]],
    ["\ud800"],
    {},
    {"a": {"b": []}},
]
"""Values of every kind, right nowhere or almost nowhere."""
SETTINGS: tuple[Any, ...] = ("hi", "greedy", "{}", 0, 3, False, "[]", 20, "")
"""Good arguments of `run`, to be spoiled one at a time."""


@pytest.fixture(autouse=True)
def goes_on(served: Served) -> Iterator[None]:
    """After every test the server still answers."""
    yield
    assert served.post("gradio_api/run/list_methods", {"data": []}).status_code == 200


@pytest.fixture(autouse=True, scope="module")
def decodes(served: Served) -> Iterator[None]:
    """After all of it, it still decodes."""
    yield
    kind, answer = served.call("run", *SETTINGS)
    assert kind == "complete", answer


def calm(told: tuple[str, Any]) -> str:
    """The sentence with which a call was refused; empty when it was answered."""
    kind, answer = told
    assert kind in ("complete", "error")
    shown = json.dumps(answer)
    assert "Traceback" not in shown
    assert "site-packages" not in shown
    if kind == "complete":
        return ""
    sentence = answer["error"]
    assert sentence
    assert "broke" not in sentence
    assert len(sentence) < 600
    return str(sentence)


@pytest.mark.parametrize("place", range(len(SETTINGS)))
def test_wrong_types_in_every_argument_of_run(served: Served, place: int) -> None:
    for value in WRONG:
        data = list(SETTINGS)
        data[place] = value
        calm(served.call("run", *data))


@pytest.mark.parametrize("place", range(6))
def test_wrong_types_in_every_argument_of_compare(served: Served, place: int) -> None:
    for value in WRONG:
        data: list[Any] = ["hi", ["greedy", "greedy"], 0, 2, 1, ""]
        data[place] = value
        calm(served.call("compare", *data))


def test_wrong_types_in_the_arguments_of_the_others(served: Served) -> None:
    for value in WRONG:
        calm(served.call("get_run", value))
        for place in range(5):
            data: list[Any] = ["o" * 32, "", "", 10, ""]
            data[place] = value
            calm(served.call("query_runs", *data))


@pytest.mark.parametrize(
    "params",
    [
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"temperature": NaN}',
        '{"temperature": 1e999}',
        '{"temperature": ' + "9" * 5000 + "}",
        '{"temperature": {"deep": 1}}',
        '{"' + "k" * 10_000 + '": 1}',
        '{"<script>": "<b>"}',
        '{"temperature": 1, "temperature": "x"}',
        "\x00",
        '{"__proto__": 1, "constructor": 2}',
    ],
)
def test_hostile_params(served: Served, params: str) -> None:
    assert calm(served.call("run", "hi", "sampling", params, 0, 3, False, "[]", 20, ""))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 2**63),
        ("seed", 10**400),
        ("seed", -1),
        ("max_new_tokens", 0),
        ("max_new_tokens", 10**9),
        ("time_limit", 0),
        ("time_limit", -5),
        ("time_limit", 1e400),
    ],
)
def test_numbers_out_of_range(served: Served, name: str, value: Any) -> None:
    names = ["prompt", "method", "params", "seed", "max_new_tokens", "raw", "stop", "time_limit", "owner"]
    data = list(SETTINGS)
    data[names.index(name)] = value
    assert name in calm(served.call("run", *data))


def test_hostile_prompts_are_kept_as_they_are(served: Served) -> None:
    owner = secrets.token_urlsafe(24)
    for prompt in (MARKUP, "a\x00b", "\u202egnp.exe", "'; DROP TABLE runs; --", "{{7*7}}${7*7}", "﷽" * 50):
        kind, (made,) = served.call("run", prompt, *SETTINGS[1:-1], owner)
        assert kind == "complete"
        assert made["prompt"] == prompt
        assert served.call("get_run", made["run"])[1][0]["prompt"] == prompt


def test_half_a_character_becomes_a_question_mark(served: Served) -> None:
    _, (made,) = served.call("run", "a\ud800b", *SETTINGS[1:6], ["\udfff"], *SETTINGS[7:])
    assert made["prompt"] == "a?b"
    assert served.call("get_run", made["run"])[1][0] == made


def test_a_prompt_of_megabytes_is_told_how_much_is_read(served: Served) -> None:
    assert "characters" in calm(served.call("run", "word " * 1_200_000, *SETTINGS[1:]))
    assert served.post("gradio_api/call/run", {"data": ["x" * 10_000_000, *SETTINGS[1:]]}).status_code == 413


@pytest.mark.parametrize(
    "id",
    [
        "../../etc/passwd",
        "recorded-../../../engines/events",
        "recorded-",
        "recorded-nothing",
        "recorded-token-recycling/../token-recycling",
        "' OR '1'='1",
        "x'; DELETE FROM runs; --",
        "%",
        "_" * 16,
        "\x00",
        "é" * 16,
        "\ud800",
        "x" * 100_000,
        "",
        MARKUP,
    ],
)
def test_forged_run_ids(served: Served, id: str) -> None:
    assert calm(served.call("get_run", id))


def test_forged_owners_see_nothing(served: Served) -> None:
    for owner in ("%" * 32, "_" * 32, "command line", "' OR owner LIKE '%' OR '1'='1' OR '", "*" * 40, "\ud800" * 32):
        kind, answer = served.call("query_runs", owner, "", "", 10, "")
        assert kind == "error" or answer[0]["runs"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"data": null}',
        b'{"data": {}}',
        b'{"data": []}',
        b'{"data": [1,2,3,4,5,6,7,8,9,10,11,12]}',
        b'{"data": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}",
        b'{"data": [' + b"9" * 10_000 + b"]}",
        b'{"data": [NaN, Infinity, -Infinity]}',
        b'{"data": ["x"], "fn_index": 99999}',
        b'{"data": ["x"], "session_hash": {"a": 1}}',
        b'{"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}',
    ],
)
@pytest.mark.parametrize(
    "path", ["call/run", "run/list_methods", "queue/join", "component_server", "cancel", "call/v2/run"]
)
def test_malformed_bodies(served: Served, path: str, body: bytes) -> None:
    answer = served.post(f"gradio_api/{path}", content=body)
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text
    assert "root:" not in answer.text
