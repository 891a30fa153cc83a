"""What the server answers, and with which headers: over real HTTP, to a browser's requests and to forged ones."""

from __future__ import annotations

import http.client
import re
from pathlib import Path

import gradio as gr
import httpx
import pytest

from playground import server
from playground.server import FUNCTIONS, LARGEST_BODY, LARGEST_UPLOAD, takes_files
from playground.ui.live import ASSETS, PLOTLY, SCRIPTS
from tests.browser.conftest import ROOT
from tests.playground.serving import SECRET, Served

ELSEWHERE = "https://example.org"


def policy(answer: httpx.Response) -> dict[str, list[str]]:
    """The parts of a content security policy by name."""
    parts = answer.headers["content-security-policy"].split(";")
    return {name: values for name, *values in (part.split() for part in parts)}


@pytest.mark.parametrize(
    "path", ["", "config", "gradio_api/info", "theme.css", f"gradio_api/file={SCRIPTS[0]}", "nowhere", "gradio_api/mcp"]
)
def test_every_answer_carries_the_headers(served: Served, path: str) -> None:
    headers = served.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert "frame-ancestors" in headers["content-security-policy"]
    assert "set-cookie" not in headers


def test_a_page_runs_its_own_scripts_only(served: Served) -> None:
    page = served.get("")
    scripts = policy(page)["script-src"]
    (nonce,) = re.findall(r"'nonce-([\w-]{20,})'", " ".join(scripts))
    assert "'unsafe-inline'" not in scripts
    assert page.text.count("<script") == page.text.count(f'<script nonce="{nonce}"') > 3
    assert nonce not in served.get("").text


def test_a_page_speaks_to_its_own_server_only(served: Served) -> None:
    rules = policy(served.get(""))
    for name, sources in rules.items():
        assert not [source for source in sources if "//" in source or source == "*"], name
    assert rules["object-src"] == ["'none'"]
    assert rules["base-uri"] == ["'self'"]


def test_what_is_no_page_could_do_nothing_as_one(served: Served) -> None:
    rules = policy(served.get("config"))
    assert rules["default-src"] == ["'none'"]
    assert "sandbox" in rules


def test_nobody_frames_a_page_but_itself(served: Served) -> None:
    for query in ("", "?view=sessions", "?view=play&view=embed", "?xview=embed", "?view=embed%20"):
        assert policy(served.get(query))["frame-ancestors"] == ["'self'"], query


def test_anybody_may_frame_the_embedded_view(served: Served) -> None:
    assert policy(served.get("?view=embed&run=x"))["frame-ancestors"] == ["*"]
    assert policy(served.get("?run=x&view=embed"))["frame-ancestors"] == ["*"]


def test_the_hub_may_frame_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/decoding-playground")
    assert "https://huggingface.co" in server.framers({"query_string": b""})


def test_another_site_may_call_but_never_with_credentials(served: Served) -> None:
    asked = {"origin": ELSEWHERE, "access-control-request-method": "POST"}
    preflight = httpx.options(f"{served.address}gradio_api/call/run", headers=asked)
    plain = served.get("gradio_api/info", origin=ELSEWHERE)
    for answer in (preflight, plain):
        assert "access-control-allow-credentials" not in answer.headers


def test_a_server_on_ones_own_machine_is_not_for_other_sites(served: Served) -> None:
    for origin in (ELSEWHERE, "null"):
        assert "access-control-allow-origin" not in served.get("gradio_api/info", origin=origin).headers


def test_a_public_server_can_be_called_from_elsewhere(served: Served) -> None:
    answer = served.get("gradio_api/info", origin=ELSEWHERE, host="someone-playground.hf.space")
    assert answer.headers["access-control-allow-origin"] == ELSEWHERE


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/deep_link?session_hash=x",
        "gradio_api/runs",
        "gradio_api/run-history/buckets",
        "gradio_api/proxy=https://example.org/",
        "gradio_api/custom_component/x/client/y/z",
        "gradio_api/dev/reload",
        "gradio_api/token",
        "gradio_api/user",
        "gradio_api/vibe-code/",
        "monitoring",
        "monitoring/summary",
        "gradio_api/stream/a/b/1/playlist.m3u8",
        "docs",
        "openapi.json",
        "login",
        "gradio_api/file=https://example.org/",
        "gradio_api/file=file:///etc/passwd",
    ],
)
def test_what_nobody_needs_is_not_there(served: Served, path: str) -> None:
    answer = served.get(path)
    assert answer.status_code == 404
    assert answer.text == "Not found"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        f"/gradio_api/file={ROOT}/app.py",
        f"/gradio_api/file={ROOT}/assets/scripts/../../app.py",
        f"/gradio_api/file={ROOT}/assets/scripts/%2e%2e/%2e%2e/app.py",
        f"/gradio_api/file={ROOT}/.git/config",
        f"/gradio_api/file={PLOTLY.parent}/../__init__.py",
        "/gradio_api/file=/proc/self/environ",
        "/assets/../../__init__.py",
        "/assets/%2e%2e/%2e%2e/__init__.py",
        "/static/..%2f..%2f__init__.py",
        "/gradio_api/file=app.py%00.js",
        "//etc/passwd",
    ],
)
def test_no_other_file_is_served(served: Served, path: str) -> None:
    # http.client sends the path as it stands; other clients would tidy it up first.
    connection = http.client.HTTPConnection("127.0.0.1", httpx.URL(served.address).port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status in (400, 403, 404), body[:200]
    assert b"Traceback" not in body
    assert b"root:" not in body
    assert b"import " not in body


def test_the_database_is_not_served(served: Served) -> None:
    assert served.get(f"gradio_api/file={served.folder}/runs.sqlite").status_code == 403


def test_the_page_gets_its_files(served: Served) -> None:
    for file in (*SCRIPTS, PLOTLY, ASSETS / "texts" / "en.json"):
        assert served.get(f"gradio_api/file={file}").status_code == 200


def test_the_page_is_compressed(served: Served) -> None:
    packed = served.get("", **{"accept-encoding": "gzip, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(packed.content) / 3
    assert "</html>" in packed.text
    assert "content-encoding" not in served.get("", **{"accept-encoding": "identity"}).headers


def test_all_functions_have_an_address(served: Served) -> None:
    for name in FUNCTIONS:
        assert served.post(f"gradio_api/call/{name}", {"data": []}).status_code == 200


def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    answer = served.post("gradio_api/call/run", content=b" " * (LARGEST_BODY + 1))
    assert answer.status_code == 413
    assert "larger than 8 MB" in answer.text


def test_a_body_that_does_not_say_its_length_is_cut_off(served: Served) -> None:
    def endless() -> object:
        for _ in range(40):
            yield b" " * 2**18

    with pytest.raises(httpx.HTTPError):
        httpx.post(
            f"{served.address}gradio_api/call/run",
            content=endless(),
            headers={"content-type": "application/json"},
            timeout=20,
        ).raise_for_status()
    assert served.get("config").status_code == 200


def test_a_token_of_the_server_is_nowhere(served: Served) -> None:
    """Not in the page, the configuration, answers, the log or the database, after a run and after errors."""
    answers = [served.get(path).text for path in ("", "config", "gradio_api/info", "gradio_api/openapi.json")]
    answers += [str(served.call("run", "Say hi.", "greedy", "{}", 0, 4, False, "[]", 60, ""))]
    answers += [str(served.call("run", "Say hi.", "nothing", "{}", 0, 4, False, "[]", 60, ""))]
    answers += [served.post("gradio_api/call/run", content=b"{").text, str(served.press(0, 1, 2, 3))]
    kept = [file.read_bytes() for file in served.folder.rglob("*") if file.is_file()]
    assert len(kept) >= 2
    assert not [text for text in answers if SECRET in text]
    assert not [content for content in kept if SECRET.encode() in content]


def test_uploads_are_taken_only_for_what_a_page_reads() -> None:
    with gr.Blocks() as app:
        gr.Textbox()
    assert takes_files(app) == frozenset()
    with app:
        gr.File(file_types=[".JSONL", ".csv"])
    assert takes_files(app) == {".jsonl", ".csv"}


def upload(served: Served, name: str, content: bytes) -> httpx.Response:
    return httpx.post(f"{served.address}gradio_api/upload", files={"files": (name, content)}, timeout=30)


def uploads(served: Served) -> list[str]:
    return [file.name for file in (served.folder / "uploads").rglob("*") if file.is_file()]


def test_a_file_that_a_page_reads_is_taken(served: Served) -> None:
    assert upload(served, "runs.jsonl", b"{}").status_code == 200
    assert "runs.jsonl" in uploads(served)


@pytest.mark.parametrize("name", ["page.html", "runs.jsonl.exe", "x.svg", "x.js", "jsonl", "../../x.py"])
def test_a_file_of_another_kind_is_refused_and_not_kept(served: Served, name: str) -> None:
    before = uploads(served)
    assert upload(served, name, b"<script>").status_code in (400, 415, 422)
    assert uploads(served) == before


def test_a_file_cannot_leave_its_folder(served: Served) -> None:
    answer = upload(served, "../../../evil.jsonl", b"{}")
    assert all(Path(path).is_relative_to(served.folder / "uploads") for path in answer.json())


def test_a_file_that_is_too_large_is_refused(served: Served) -> None:
    answer = upload(served, "runs.jsonl", b" " * (LARGEST_UPLOAD + 2**17))
    assert answer.status_code == 413
