"""Aggressive decoding: how few passes an edit costs, and where copying goes on after a difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.events import Event, Finished, Forward, Match, committed
from engines.models.causal import CausalModel
from engines.runner import Run, run
from engines.speculative.aggressive_decoding import Editor, Params, Places, text_to_edit
from engines.speculative.budget import Fixed
from engines.speculative.loop import speculate
from tests.engines.toy import ToyModel, toy_run

LETTERS = "abcdefgXr."


def follows(path: str) -> ToyModel:
    """A model that writes `path` after r: every letter is followed by the next one."""
    table = [[1e-6] * len(LETTERS) for _ in LETTERS]
    for one, next_one in zip("r" + path, path + ".", strict=True):
        table[LETTERS.index(one)][LETTERS.index(next_one)] = 1.0
    return ToyModel(LETTERS, table)


def edit(source: str, answer: str, block: int = 128) -> tuple[str, int]:
    """What the editor writes, and in how many passes."""
    model = follows(answer)
    job = toy_run(model, f"{source}r")
    editor = Editor([LETTERS.index(letter) for letter in source], 0, Params(), Fixed(block))
    events: list[Event] = []
    for event in speculate(job, editor, Params()):
        events += [*job.settle(), event]
    events += job.settle()
    passes = sum(isinstance(event, Forward) and event.lane == "target" for event in events)
    return "".join(placed.token.text for placed in committed(events)), passes


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("abXdef", 3),  # a b X, then d alone, which stands at one place, then e f and the end
        ("abdef", 2),  # a b d, then e f and the end
        ("abcdef", 1),  # nothing to correct
        ("abcdefg", 2),  # one letter more
        ("X", 2),
    ],
)
def test_an_edit_costs_a_pass_per_difference(answer: str, passes: int) -> None:
    assert edit("abcdef", answer) == (f"{answer}.", passes)


def test_a_smaller_block_goes_on_copying_without_looking_up() -> None:
    assert edit("abcdefg", "abcdefg", block=2) == ("abcdefg.", 3)


def test_an_ambiguous_ending_waits_for_a_longer_one() -> None:
    places = Places([1, 2, 3, 9, 2, 3, 4], 3)
    assert places.find([2]) is None
    assert places.find([2, 3]) is None
    assert places.find([1, 2, 3]) == (3, 3)
    assert places.find([9]) == (4, 1)
    assert places.find([7]) is None
    assert places.find([]) is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.lists(st.integers(0, 4), max_size=8))
def test_a_place_is_where_the_ending_stands_and_the_only_one(source: list[int], output: list[int]) -> None:
    found = Places(source, 3).find(output)
    if found is not None:
        place, n = found
        ends = [end for end in range(n, len(source) + 1) if source[end - n : end] == output[-n:]]
        assert ends == [place]


def test_the_text_to_edit_is_what_follows_the_first_colon(smollm: CausalModel) -> None:
    for request, text in {
        "Correct this: He go home.": " He go home.",
        "Copy the next line\n\nOne: two.": "One: two.",
        "Hello": "Hello",
    }.items():
        job = Run(smollm, smollm.encode(request))
        ids, start = text_to_edit(job)
        assert smollm.decode(ids) == text
        assert job.prompt[start : start + len(ids)] == ids


def test_passes_are_never_more_than_tokens(tiny_llama: CausalModel) -> None:
    for prompt in ("abcabc: abc", "x", "aaaaaaaa"):
        last = list(run(tiny_llama, "aggressive-decoding", prompt, raw=True, params={"block": 6}, max_new_tokens=50))[
            -1
        ]
        assert isinstance(last, Finished)
        assert last.totals.target_passes <= last.totals.tokens


def test_a_copy_names_the_place_in_the_input(smollm: CausalModel) -> None:
    prompt = "Correct the mistakes in this text:\nShe go to school every days and he like it. They was happy."
    events = list(run(smollm, "aggressive-decoding", prompt, params={"block": 8}, max_new_tokens=40))
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.totals.tokens_per_target_pass > 2
    ids, zero = [*smollm.encode(prompt), *last.token_ids], len(smollm.encode(prompt))
    for match in (event for event in events if isinstance(event, Match)):
        (a, b), (c, d) = match.source, match.target
        assert ids[zero + a : zero + b] == ids[zero + c : zero + d]
