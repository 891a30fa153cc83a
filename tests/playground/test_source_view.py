"""Which lines a step came from; and that a run can never make the page read another file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import engines
from engines.events import Commit, Event, Note, Started
from engines.method import methods
from engines.models.causal import CausalModel
from playground.source_view import LONGEST, NotShown, coloured, modules_of, source, step_of
from playground.ui.shelf import steps

ROOT = Path(engines.__file__).parent


@pytest.fixture(scope="module")
def run(tiny_llama: CausalModel) -> list[Event]:
    return list(
        engines.run(
            tiny_llama, "token-recycling", "abcabcabc", params={"nodes": 4, "memory": "cold"}, max_new_tokens=24
        )
    )


def line(module: str, number: int) -> str:
    return "".join(text for _, text in source(module)[number - 1])


def test_a_step_names_the_lines_that_yielded_its_events(run: list[Event]) -> None:
    drafted = next(k for k, end in enumerate(steps(run)) if k and any(type(e).__name__ == "Draft" for e in run[:end]))
    step = step_of(run, drafted, methods())
    said = {event.kind: line(event.module, event.line) for event in step.events if event.module}
    assert "yield tree.as_draft" in said["Draft"]
    assert "yield verification.as_event" in said["Verdict"]
    assert "yield run.candidates" in said["Candidates"]
    assert "run.commit" in said["Commit"]
    assert step.events[-1].kind == "Commit"
    assert [event.kind for event in step.events].count("Commit") == 1, "of this step alone"
    assert not step.stale


def test_the_methods_own_file_comes_first_then_what_it_shares(run: list[Event]) -> None:
    names = [module.rpartition(".")[2] for module in step_of(run, 3, methods()).modules]
    assert names[0] == "token_recycling"
    assert {"loop", "verify", "tree"} < set(names)
    assert modules_of(methods()["greedy"]) == ("engines.baselines.greedy", "engines.sampling")


def test_other_code_is_called_other(run: list[Event]) -> None:
    assert isinstance(run[0], Started)
    old = [msgspec.structs.replace(run[0], code="0" * 12), *run[1:]]
    assert step_of(old, 3, methods()).stale


@pytest.mark.parametrize("step", [None, -5, 0, 10**9])
def test_any_step_can_be_asked_for(run: list[Event], step: int | None) -> None:
    assert step_of(run, step, methods()).method == methods()["token-recycling"].title
    assert step_of([], step, methods()).modules == ()
    assert step_of(run[1:], step, methods()).modules == ()


@pytest.mark.parametrize(
    "module",
    [
        "",
        "os",
        "playground.store",
        "../app",
        "/etc/passwd",
        "engines/../app",
        "engines.nothing",
        "engines.__init__",
        "__main__",
        "tests.conftest",
        "a" * 10_000,
    ],
)
def test_nothing_else_is_ever_read(module: str) -> None:
    with pytest.raises(NotShown):
        source(module)


@pytest.mark.parametrize(
    "at",
    [
        "os:1",
        "/etc/passwd:1",
        "engines.runner",
        "engines.runner:-1",
        "engines.runner:٣",
        ":",
        "engines.speculative.loop:99999999999",
    ],
)
def test_a_hostile_run_names_no_place(run: list[Event], at: str) -> None:
    last = run[-1]
    hostile = [run[0], Note(text="x", at=at), Commit(position=0, step=0, tokens=(), at=at), last]
    assert {event.line for event in step_of(hostile, None, methods()).events} == {0}
    assert all(module.startswith("engines.") for module in step_of(hostile, None, methods()).modules)


def test_a_method_from_elsewhere_may_be_read_and_its_neighbours_may_not() -> None:
    assert source("json.decoder", frozenset({"json.decoder"}))
    with pytest.raises(NotShown):
        source("json.encoder", frozenset({"json.decoder"}))


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: file.stem)
def test_colours_change_no_character(file: Path) -> None:
    text = file.read_text(encoding="utf-8")[:LONGEST]
    shown = "\n".join("".join(part for _, part in spans) for spans in coloured(text))
    assert shown == text.removesuffix("\n")


def test_code_has_its_colours() -> None:
    spans = [
        span for line in coloured('@cache\ndef f(x):\n    """Says."""\n    return "a" + 1  # so\n') for span in line
    ]
    kinds = {text: kind for kind, text in spans}
    assert kinds["@cache"] == "d"
    assert (kinds["f"], kinds["return"], kinds['"a"'], kinds["1"]) == ("f", "k", "s", "n")
    assert kinds['"""Says."""'] == kinds["# so"] == "c"
