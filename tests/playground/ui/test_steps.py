"""A run's steps: what the scrubber goes through."""

from __future__ import annotations

from engines.events import Commit, Compiled, Event, Note, Placed, Token
from playground.ui.shelf import steps

MADE = Compiled(engine="e", subject="s", status="ok", seconds=0.1)
WRITTEN = Commit(position=0, step=0, tokens=(Placed(Token(0, "a"), "sampled"),))


def test_a_lab_that_writes_nothing_has_a_step_for_everything_it_compiled() -> None:
    run: list[Event] = [Note(text="header"), MADE, Note(text="between"), MADE, Note(text="end")]
    assert steps(run) == [1, 2, 5]


def test_what_a_writing_method_compiled_is_no_step() -> None:
    assert steps([Note(text="header"), MADE, WRITTEN, Note(text="end")]) == [1, 4]
