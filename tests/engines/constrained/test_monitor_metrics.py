"""The metrics of monitor-guided decoding, and the prompts that it is measured with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.constrained.monitor_guided import SERVER, defined_names, without_imports
from engines.constrained.monitor_metrics import (
    DotPrompt,
    dot_prompts,
    identifiers,
    members,
    met,
    parses,
    score_at_k,
    scores,
    tokens,
)
from engines.grammars.analyser import analyser

EXAMPLE = DotPrompt(
    "example", SERVER, "from network import ServerBuilder\nbuilder = ServerBuilder()\nbuilder.", "with_ip('a').build()"
)


@pytest.fixture(autouse=True, scope="module")
def patient() -> Iterator[None]:
    before, analyser().seconds = analyser().seconds, 10.0
    assert analyser().warm_up()
    yield
    analyser().seconds = before


@pytest.mark.parametrize("prompt", dot_prompts(), ids=lambda prompt: prompt.id)
def test_the_analyser_offers_what_every_prompt_wants(prompt: DotPrompt) -> None:
    assert prompt.prompt.endswith(".")
    assert parses(prompt.context)
    assert parses(prompt.prompt + prompt.truth)
    code = without_imports(prompt.prompt, defined_names(prompt.context))
    names = {name for name in analyser().names(f"{prompt.context}\n{code}").names if not name.startswith("_")}
    assert identifiers(prompt.truth)[0] in names
    assert len(names) > 1, "there must be something to choose from"
    judged = members(prompt.context, prompt.prompt, prompt.truth)
    assert (judged.invented, judged.unknown) == ((), 0)
    perfect = scores(prompt, prompt.truth)
    assert (perfect.next_identifier, perfect.identifier_sequence, perfect.prefix) == (1, 1, 1)


def test_the_prompts_are_two_dozen_different_ones() -> None:
    assert len({prompt.id for prompt in dot_prompts()}) == len({prompt.prompt for prompt in dot_prompts()}) == 24
    assert all(len(prompt.context) < 1500 for prompt in dot_prompts())


def test_a_true_continuation_compiles_and_an_invented_member_does_not() -> None:
    assert scores(EXAMPLE, "with_ip('a').build()\n").compiles == 1
    assert scores(EXAMPLE, "with_address('a')").compiles == 0
    assert scores(EXAMPLE, "with_ip('a').start()").compiles == 0
    assert scores(EXAMPLE, "with_ip('a'").compiles == 0, "it does not parse"
    assert members(SERVER, EXAMPLE.prompt, "build().listen().x").invented == ("x",)


def test_identifiers_are_compared_in_order_up_to_the_first_difference() -> None:
    score = scores(EXAMPLE, "with_ip(port).with_port('b')")
    assert score.next_identifier == 1
    assert score.identifier_sequence == pytest.approx(1 / 2)
    assert score.prefix == pytest.approx(2 / 8)
    assert scores(EXAMPLE, "build().with_ip()").next_identifier == 0
    assert met([], []) == 1
    assert met(["b", "a"], ["a", "b"]) == 0
    assert met(["a", "b", "c"], ["a", "x", "c"]) == pytest.approx(1 / 3)


def test_tokens_are_those_of_the_language_and_comments_are_none() -> None:
    assert tokens("x.foo(1.5, 'a.b', f\"{x}\") # y\n z **= '''q\nr''' != b") == [
        "x", ".", "foo", "(", "1.5", ",", "'a.b'", ",", 'f"{x}"', ")", "z", "**=", "'''q\nr'''", "!=", "b"
    ]  # fmt: skip
    assert identifiers("return x.foo('n') if None else größe # c") == ["x", "foo", "größe"]


def test_score_at_k_is_the_expected_best_of_k() -> None:
    assert score_at_k((1, 0, 0), 2) == pytest.approx(2 / 3)
    assert score_at_k((0, 0.5, 1), 3) == 1
    assert score_at_k((0, 0.5, 1), 1) == pytest.approx(0.5)
    for k in (0, 4):
        with pytest.raises(ValueError, match="from 1 to 3"):
            score_at_k((0, 0, 0), k)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.data())
def test_the_formula_agrees_with_trying_all_choices(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    best = [max(chosen) for chosen in itertools.combinations(values, k)]
    assert score_at_k(values, k) == pytest.approx(sum(best) / len(best), abs=1e-9)


def test_code_is_parsed_and_never_run() -> None:
    assert parses("raise SystemExit")
    assert not parses("x = ")
    assert not parses("\x00")
    assert not parses("(" * 5000)
