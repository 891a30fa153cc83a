"""Foreign engines behind the protocol: they keep its rules, and where they differ from the validator that is shown."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest

from engines.grammars import peers, trials
from engines.grammars.constraint import BadGrammar, Constraint, GrammarLimit
from engines.grammars.guidance import Guidance, Whitespace, compile_guidance
from engines.grammars.peers import ENGINES, Engine, NotInstalled, Peer, compile_with, installed
from engines.grammars.samples import PERSON
from engines.grammars.trials import Examiner, Fed, Question, examine, feed
from engines.grammars.vocabulary import Bits, has
from engines.labs.schema_set import is_valid
from engines.models.causal import CausalModel

FOREIGN = tuple(engine for engine in ENGINES if engine != "llguidance")
THING = '{"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a", "b"],'
THING += ' "additionalProperties": false}'

every_engine = pytest.mark.parametrize("engine", ENGINES)
every_peer = pytest.mark.parametrize("engine", FOREIGN)


def need(engine: Engine) -> None:
    if engine not in installed():
        pytest.skip(f"{engine} is not installed")


def made(engine: Engine, schema: str, model: CausalModel, whitespace: Whitespace = "one space") -> Constraint:
    need(engine)
    return compile_with(engine, "json schema", schema, model.vocabulary, whitespace=whitespace)


def takes(constraint: Constraint, text: str) -> bool:
    return feed(constraint.fork(), constraint.vocabulary.tokenise(text)).accepted


@pytest.fixture(scope="module")
def examiner(smollm: CausalModel) -> Iterator[Examiner]:
    with Examiner(smollm.vocabulary, 20) as one:
        yield one


@every_engine
def test_a_valid_text_is_taken_and_one_that_is_cut_off_is_not(engine: Engine, smollm: CausalModel) -> None:
    constraint = made(engine, THING, smollm)
    assert takes(constraint, '{"a": "x", "b": 12}')
    assert not takes(constraint, '{"a": "x", "b": 12')
    assert not takes(constraint, '{"a": "x"}')
    assert not takes(constraint, '{"a": "x", "b": "y"}')


@every_engine
def test_special_tokens_are_never_allowed_and_all_ends_exactly_where_the_text_may_end(
    engine: Engine, smollm: CausalModel
) -> None:
    constraint = made(engine, THING, smollm)
    vocabulary = smollm.vocabulary
    for token in [*vocabulary.tokenise('{"a": "some text", "b": 7}'), None]:
        mask = constraint.mask()
        assert not any(has(mask, id) for id in vocabulary.special)
        assert not any(constraint.allows(id) or constraint.commit(id) for id in vocabulary.special)
        assert all(has(mask, end) == constraint.accepting == constraint.allows(end) for end in vocabulary.ends)
        assert constraint.accepting == (token is None)
        if token is not None:
            assert constraint.commit(token)


@every_engine
def test_after_the_end_nothing_follows_and_it_can_be_taken_back(engine: Engine, smollm: CausalModel) -> None:
    constraint = made(engine, '{"type": "boolean"}', smollm)
    end = min(smollm.vocabulary.ends)
    for token in smollm.vocabulary.tokenise("true"):
        constraint.commit(token)
    assert constraint.commit(end)
    assert not constraint.mask().any()
    assert not constraint.accepting
    constraint.rollback(1 + len(smollm.vocabulary.tokenise("true")))
    assert takes(constraint, "false")


@every_engine
@pytest.mark.parametrize("seed", range(2))
def test_mask_allows_and_commit_agree_along_random_texts(engine: Engine, seed: int, tiny_llama: CausalModel) -> None:
    rng = random.Random(seed)
    constraint = made(engine, PERSON, tiny_llama)
    vocabulary = tiny_llama.vocabulary
    for _ in range(40):
        allowed = set(vocabulary.ids(constraint.mask()))
        others = [id for id in range(len(vocabulary)) if id not in allowed]
        for token in rng.sample(others, 12):
            assert not constraint.allows(token)
            assert not constraint.commit(token)
        assert set(vocabulary.ids(constraint.mask())) == allowed, "a refused token must leave no trace"
        plain = sorted(allowed - vocabulary.ends)
        if not plain:
            break
        token = rng.choice(plain)
        fresh = constraint.fork()
        assert fresh.allows(token)
        assert set(vocabulary.ids(fresh.mask())) == allowed, "asking must leave no trace"
        assert constraint.commit(token)


@every_engine
def test_a_fork_goes_its_own_way_and_rollback_undoes_it(engine: Engine, smollm: CausalModel) -> None:
    constraint = made(engine, '{"enum": ["north", "south"]}', smollm)
    start = constraint.mask().copy()
    tokens = smollm.vocabulary.tokenise('"south"')
    twin = constraint.fork()
    assert all(twin.commit(token) for token in tokens)
    assert twin.accepting
    assert not constraint.accepting
    assert takes(constraint, '"north"')
    twin.rollback(len(tokens))
    assert np.array_equal(twin.mask(), start)
    again = twin.fork()
    assert takes(again, '"north"')


@every_peer
@pytest.mark.parametrize("whitespace", get_args(Whitespace))
def test_the_whitespace_policy_reaches_every_engine(
    engine: Engine, whitespace: Whitespace, smollm: CausalModel
) -> None:
    constraint = made(engine, THING, smollm, whitespace)
    assert takes(constraint, '{"a":"x","b":12}')
    strict = whitespace == "compact" and engine != "lm-format-enforcer"
    assert takes(constraint, '{"a": "x", "b": 12}') == (not strict)
    assert takes(constraint, '{"a":    "x", "b": 12}') == (whitespace == "any")


@pytest.mark.parametrize("engine", ["llguidance", "xgrammar"])
def test_what_a_schema_leaves_open_stays_open(engine: Engine, smollm: CausalModel) -> None:
    constraint = made(engine, '{"type": "object", "properties": {"a": {"type": "integer"}}}', smollm)
    assert takes(constraint, '{"a": 1, "other": [2]}')


@every_peer
def test_regular_expressions_are_taken_whole(engine: Engine, smollm: CausalModel) -> None:
    need(engine)
    constraint = compile_with(engine, "regex", "[0-9]{2,3}-(ab|c)", smollm.vocabulary)
    assert [takes(constraint, text) for text in ("12-ab", "123-c", "1-c", "1234-c", "12-", "12-abc")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


@every_engine
@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "not JSON"),
        ('{"type": 3}', "type"),
        ("3", "schema is an object"),
        ('{"not": ' * 90 + "{}" + "}" * 90, "nested"),
    ],
)
def test_a_schema_that_is_none_is_refused_in_our_words(
    engine: Engine, schema: str, words: str, smollm: CausalModel
) -> None:
    with pytest.raises(BadGrammar, match=words):
        made(engine, schema, smollm)


@every_peer
def test_what_an_engine_refuses_is_said_on_one_short_line(engine: Engine, smollm: CausalModel) -> None:
    with pytest.raises(BadGrammar) as refused:
        made(engine, '{"$ref": "#/$defs/nowhere"}', smollm)
    assert engine in str(refused.value)
    assert "\n" not in str(refused.value)
    assert ".cc:" not in str(refused.value)


def test_an_engine_that_is_not_here_is_named_with_the_command_that_brings_it(
    smollm: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(peers.MODULES, "xgrammar", "a_module_that_is_nowhere")
    assert "xgrammar" not in installed()
    with pytest.raises(NotInstalled, match="pip install xgrammar"):
        compile_with("xgrammar", "json schema", THING, smollm.vocabulary)
    question = Question("xgrammar", "json schema", THING, "one space", ())
    assert "not installed" in examine(question, smollm.vocabulary).message


def test_no_peer_is_imported_before_it_is_used() -> None:
    import subprocess
    import sys

    code = "import sys, engines.labs.schema_arena; print([m for m in ('xgrammar', 'outlines_core', 'lmformatenforcer')"
    code += " if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


class Broken(Peer):
    """An engine whose every answer is an error, as engines give them in the middle of a text."""

    engine = "broken"

    def _tell(self, *_: object) -> Any:
        raise RuntimeError("[12:00:00] /deep/inside/engine.cc:12: fuel is out\nStack trace: more")

    _take = _back = _twin = _complete = _tell  # type: ignore[assignment]


def test_an_error_in_the_middle_of_a_text_is_an_error_and_not_an_end(smollm: CausalModel) -> None:
    broken = Broken(smollm.vocabulary)
    for question in (broken.mask, broken.fork, lambda: broken.commit(65), lambda: broken.accepting):
        with pytest.raises(GrammarLimit, match="broken gave up in the middle of a text: fuel is out"):
            question()


class Blind(Guidance):
    """An engine whose mask forgets a token that its commit takes."""

    def mask(self) -> Bits:
        return super().mask() & ~self.vocabulary.bits(self.vocabulary.tokenise("7"))


def test_both_mask_and_commit_are_asked_and_their_disagreement_is_counted(smollm: CausalModel) -> None:
    vocabulary = smollm.vocabulary
    blind = Blind(compile_guidance("regex", "[0-9]", vocabulary)._matcher, vocabulary)
    assert feed(blind, vocabulary.tokenise("7")) == Fed(False, 0, 1)
    blind.rollback(1)
    assert feed(blind, vocabulary.tokenise("8")) == Fed(True)


def test_lm_format_enforcer_does_not_swallow_its_errors(smollm: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    need("lm-format-enforcer")
    constraint = made("lm-format-enforcer", THING, smollm)
    assert constraint.commit(smollm.vocabulary.tokenise("{")[0])
    from lmformatenforcer.tokenenforcer import TokenEnforcer

    def broken(*_: object) -> None:
        raise ValueError("lost")

    monkeypatch.setattr(TokenEnforcer, "_collect_allowed_tokens", broken)
    with pytest.raises(GrammarLimit, match="lost"):
        constraint.mask()


# What each version does with what it cannot enforce: the text is invalid; True where the engine takes it all the same.
SILENT: dict[str, tuple[Any, str, dict[Engine, str]]] = {
    "uniqueItems": (
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        "[1, 1]",
        {"llguidance": "refuses", "xgrammar": "accepts", "outlines-core": "accepts"},
    ),
    "not": (
        {"not": {"type": "string"}},
        '"a"',
        {"llguidance": "refuses", "xgrammar": "accepts", "outlines-core": "refuses"},
    ),
    "clash": (
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        '"a"',
        {"llguidance": "refuses", "xgrammar": "accepts", "outlines-core": "right"},
    ),
    "pattern and maxLength": (
        {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
        '"abcdefg"',
        {"llguidance": "right", "xgrammar": "accepts", "outlines-core": "right"},
    ),
    "a raw control character": (
        {"type": "string", "maxLength": 5},
        '"\x01"',
        {"llguidance": "right", "xgrammar": "accepts", "outlines-core": "right"},
    ),
    "an integer with an exponent": (
        {"type": "integer"},
        "1e-3",
        {"llguidance": "right", "xgrammar": "right", "outlines-core": "right", "lm-format-enforcer": "accepts"},
    ),
    "multipleOf": (
        {"type": "integer", "multipleOf": 7},
        "15",
        {"llguidance": "right", "xgrammar": "right", "outlines-core": "accepts"},
    ),
}
VERSIONS: dict[Engine, str] = {
    "llguidance": "1.9.1",
    "xgrammar": "0.2.8",
    "outlines-core": "0.2.14",
    "lm-format-enforcer": "0.11.3",
}


@pytest.mark.parametrize(("engine", "name"), [(engine, name) for name, row in SILENT.items() for engine in row[2]])
def test_who_ignores_what_in_silence(engine: Engine, name: str, smollm: CausalModel, examiner: Examiner) -> None:
    """The referee wins over engines: every text here is invalid, whoever takes it."""
    need(engine)
    if installed()[engine] != VERSIONS[engine]:
        pytest.skip(f"{engine} {installed()[engine]} may have learnt it; this was found in {VERSIONS[engine]}")
    schema, text, expected = SILENT[name]
    assert not is_valid(schema, text)
    question = Question(engine, "json schema", json.dumps(schema), "any", (tuple(smollm.vocabulary.tokenise(text)),))
    report = examiner.ask(question)
    found = "refuses" if report.status == "refused" else "accepts" if report.fed[0].accepted else "right"
    assert found == expected[engine], report


def test_the_other_process_says_the_same_as_this_one(smollm: CausalModel, examiner: Examiner) -> None:
    texts = tuple(tuple(smollm.vocabulary.tokenise(text)) for text in ('{"a": "x", "b": 1}', '{"a": "x"}', '{"a"'))
    question = Question("llguidance", "json schema", THING, "one space", texts)
    here, there = examine(question, smollm.vocabulary), examiner.ask(question)
    assert (here.status, here.fed) == (there.status, there.fed)
    assert [fed.accepted for fed in there.fed] == [True, False, False]
    # A text that is refused for its end alone is refused behind its last token.
    assert there.fed[2].place == len(texts[2])


def test_who_does_not_come_back_in_time_is_stopped_and_the_next_question_is_answered(
    smollm: CausalModel, examiner: Examiner
) -> None:
    need("outlines-core")
    # Millions of states.
    endless = Question("outlines-core", "regex", "(a|b)*a(a|b){22}", "any", ())
    small = Question("outlines-core", "regex", "[0-9]", "any", (tuple(smollm.vocabulary.tokenise("7")),))
    assert examiner.ask(small).fed[0].accepted
    starts, start = examiner.starts, time.perf_counter()
    assert examiner.ask(endless, 1.0).status == "too slow"
    assert time.perf_counter() - start < 6
    assert examiner.ask(small).fed[0].accepted
    assert examiner.starts == starts + 1


def test_a_crash_is_a_report_and_not_the_end(smollm: CausalModel, examiner: Examiner) -> None:
    question = Question("llguidance", "regex", "[0-9]", "any", (tuple(smollm.vocabulary.tokenise("7")),))
    assert examiner.ask(question).status == "ok"
    assert examiner._worker is not None
    examiner._worker._process.kill()
    assert examiner.ask(question).status == "failed"
    assert examiner.ask(question).fed[0].accepted


def test_memory_is_limited(smollm: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    code = "from engines.grammars.trials import _limit_memory; _limit_memory()\ntry: bytearray(5 << 30)\n"
    code += "except MemoryError: print('limited')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "limited"
    assert trials.MEMORY_BYTES == 4 << 30
