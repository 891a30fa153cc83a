"""What CONTRIBUTING.md teaches works: its files, installed as somebody else's package, are listed, run, drawn, kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMED = re.compile(r"^`(?P<path>[\w./-]+)`\n\n```\w+\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = {match["path"]: match["content"] for match in NAMED.finditer(PAGE)}

DRAW = """
import json, sys
from playground.store import Store
from visuals.picture import pictures

surprise = pictures()["surprise"]
with Store.open() as store:
    run, events = store.run(sys.argv[1]), store.events(sys.argv[1])
print(json.dumps({
    "method": run.method, "status": run.status, "text": run.text, "tokens": run.totals.tokens,
    "drawing": surprise.draw(events), "table": surprise.table(events), "narration": surprise.narrate(events),
}))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed, though not into ours, and whose database is empty."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for path, content in FILES.items():
        file = source / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run(
        [*install, "--no-deps", "--no-build-isolation", "--target", str(target), str(source)],
        check=True,
        capture_output=True,
        text=True,
    )
    return os.environ | {
        "PYTHONPATH": str(target),
        "DECODING_PLAYGROUND_DATA": str(tmp_path_factory.mktemp("data")),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def python(environment: dict[str, str], *arguments: str) -> str:
    """What a fresh interpreter in the repository's root prints."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def recorded(elsewhere: dict[str, str]) -> dict[str, object]:
    """A run by the method, as the command line reports it."""
    words = ["--method", "runner-up", "--param", "share=0.3", "--prompt", "Why is the sky blue?"]
    said = python(elsewhere, "-m", "playground", "run", *words, "--max-new-tokens", "16", "--json")
    report: dict[str, object] = json.loads(said)
    return report


def test_the_page_holds_a_whole_package() -> None:
    assert set(FILES) == {
        "pyproject.toml",
        "decoding_runner_up/runner_up.py",
        "decoding_runner_up/surprise.py",
        "decoding_runner_up/test_runner_up.py",
    }


def test_without_the_package_the_method_is_unknown() -> None:
    known = {method["id"] for method in json.loads(python(dict(os.environ), "-m", "playground", "methods", "--json"))}
    assert "greedy" in known
    assert "runner-up" not in known


def test_the_method_is_listed(elsewhere: dict[str, str]) -> None:
    listed = {method["id"]: method for method in json.loads(python(elsewhere, "-m", "playground", "methods", "--json"))}
    assert "greedy" in listed
    (share,) = listed["runner-up"]["parameters"]
    assert (share["name"], share["default"], share["low"], share["high"]) == ("share", 0.8, 0, 1)


def test_it_is_run_recorded_and_drawn(elsewhere: dict[str, str], recorded: dict[str, object]) -> None:
    kept = json.loads(python(elsewhere, "-c", DRAW, str(recorded["run"])))
    assert (kept["method"], kept["status"]) == ("runner-up", "finished")
    assert kept["text"] == recorded["text"]
    assert kept["text"]
    (bars,) = kept["drawing"]["data"]
    assert len(bars["y"]) == len(kept["table"]) == kept["tokens"] == 16
    assert bars["y"] == [row["surprise"] for row in kept["table"]]
    assert "Of 16 tokens" in kept["narration"]


def test_its_own_tests_pass(elsewhere: dict[str, str]) -> None:
    file = Path(elsewhere["PYTHONPATH"]) / "decoding_runner_up" / "test_runner_up.py"
    said = python(elsewhere, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(file.parent), str(file))
    assert "4 passed" in said


def test_the_example_prompt_has_the_fields_of_the_real_ones() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    prompts = json.loads((ROOT / "assets" / "prompts.json").read_text(encoding="utf-8"))
    (example,) = map(json.loads, blocks)
    assert all(set(prompt) == set(example) for prompt in prompts)
    assert example["category"] in {prompt["category"] for prompt in prompts}
    assert example["id"] not in {prompt["id"] for prompt in prompts}


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"\]\(([\w./-]+)\)", PAGE)
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []
