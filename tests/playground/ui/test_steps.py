"""A run's steps: what the scrubber goes through."""

from __future__ import annotations

from engines.events import Circuit, Commit, Compiled, Event, Note, Patch, Placed, Token
from playground.ui.shelf import steps

MADE = Compiled(engine="e", subject="s", status="ok", seconds=0.1)
WRITTEN = Commit(position=0, step=0, tokens=(Placed(Token(0, "a"), "sampled"),))


def test_a_lab_that_writes_nothing_has_a_step_for_everything_it_compiled() -> None:
    run: list[Event] = [Note(text="header"), MADE, Note(text="between"), MADE, Note(text="end")]
    assert steps(run) == [1, 2, 5]


def test_what_a_writing_method_compiled_is_no_step() -> None:
    assert steps([Note(text="header"), MADE, WRITTEN, Note(text="end")]) == [1, 4]


def test_a_look_inside_the_model_has_a_step_for_every_answer() -> None:
    estimate = Circuit(how="relp", nodes=(), edges=(), edge_count=0)
    guessed = Patch(site="head", layer=0, how="relp", effects=(0.5,), along="head")
    measured = Patch(site="resid_pre", layer=0, how="exact", effects=(0.5,))
    run: list[Event] = [Note(text="header"), guessed, guessed, estimate, measured, Note(text="between"), measured]
    assert steps(run) == [1, 4, 5, 7]


def test_a_look_inside_goes_on_to_its_end_while_it_is_made() -> None:
    guessed = Patch(site="head", layer=0, how="relp", effects=(0.5,), along="head")
    assert steps([Note(text="header"), Circuit(how="relp", nodes=(), edges=(), edge_count=0), guessed]) == [1, 3]
