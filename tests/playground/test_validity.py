"""Who says that an output is valid: a referee that had no part in it, and what it says of hostile input."""

from __future__ import annotations

import json
import socket
import time

import pytest

import engines
from engines.models.causal import CausalModel
from playground import validity as module
from playground.grammars import load
from playground.validity import Outcome, asked, judged, pretty, validity
from tests.playground.stored_runs import whole_run

GALLERY = load()


def by_gallery(id: str, text: str) -> module.Validity:
    return judged(GALLERY[id].kind, GALLERY[id].grammar, text)


@pytest.mark.parametrize(
    ("id", "text", "outcome", "by"),
    [
        ("person", '{"name": "Ada", "age": 36, "languages": []}', "valid", "jsonschema"),
        ("person", '{"name": "Ada", "age": 3', "unfinished", "jsonschema"),
        ("person", '{"name": "Ada", "age": 360, "languages": []}', "invalid", "jsonschema"),
        ("date", "1969-07-20", "valid", "Python"),
        ("date", "1969-07", "unfinished", "Python"),
        ("date", "in 1969", "invalid", "Python"),
        ("date", "1969-07-20, a Sunday", "invalid", "Python"),
        ("arithmetic", "(1 + 2) * 3", "valid", "Lark"),
        ("arithmetic", "(1 + 2", "unfinished", "Lark"),
        ("arithmetic", "1 + 2)", "invalid", "Lark"),
        ("yes-no", "unsure", "valid", "list"),
        ("yes-no", "uns", "unfinished", "list"),
        ("yes-no", "yes, it is", "invalid", "list"),
    ],
)
def test_a_text_is_valid_unfinished_or_invalid(id: str, text: str, outcome: Outcome, by: str) -> None:
    found = by_gallery(id, text)
    assert found.outcome == outcome
    assert by in found.by


def test_the_reason_names_the_place() -> None:
    found = by_gallery("person", '{"name": "Ada", "age": 360, "languages": []}')
    assert found.why == "At age: 360 is greater than the maximum of 120"


def test_a_schema_without_order_accepts_any_order_whatever_the_engine_writes() -> None:
    """The engine writes fields in the schema's order, so its own reading would refuse this."""
    assert by_gallery("person", '{"age": 36, "languages": [], "name": "Ada"}').outcome == "valid"


def test_formats_are_checked_even_where_the_engine_lets_them_pass() -> None:
    schema = '{"type": "string", "format": "date"}'
    assert judged("json schema", schema, '"2024-02-29"').outcome == "valid"
    found = judged("json schema", schema, '"2023-02-29"')
    assert (found.outcome, found.why) == ("invalid", "At the top level: '2023-02-29' is not a 'date'")


@pytest.mark.parametrize("text", ["NaN", "[NaN]", "[Infinity]", "[" * 100_000, "nul", ""])
def test_what_is_no_json_is_not_valid(text: str) -> None:
    assert asked("json schema", "true", text)["valid"] is False


def test_an_expression_that_python_cannot_read_is_read_again_by_the_engine() -> None:
    found = judged("regex", r"\p{Lu}+", "ABC")
    assert (found.outcome, found.by) == ("valid", "again")
    assert judged("regex", r"\p{Lu}+", "ABc").outcome == "invalid"


def test_a_grammar_that_lark_cannot_read_is_read_again_by_the_engine() -> None:
    grammar = 'start: "x" obj\nobj: %json {"type": "integer"}\n'
    assert judged("grammar", grammar, "x12").outcome == "valid"
    assert judged("grammar", grammar, "y").outcome == "invalid"


def test_an_ambiguous_grammar_is_no_trouble() -> None:
    assert judged("grammar", 'start: start start | "a"\n', "aaaa").outcome == "valid"


def test_an_expression_that_never_ends_is_given_up() -> None:
    began = time.perf_counter()
    said = asked("regex", "(a+)+b", "a" * 60 + "c")
    assert said["valid"] is None
    assert time.perf_counter() - began < module.SECONDS + 3


def test_nothing_is_fetched_for_a_schema() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        said = asked("json schema", json.dumps({"$ref": f"http://127.0.0.1:{port}/schema"}), "{}")
        assert said["valid"] is None
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_referee_without_an_opinion_is_asked_again_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFEREE", module.REFEREE.with_name("nobody.py"))
    module._kept.clear()
    schema = '{"$ref": "http://127.0.0.1:9/x"}'
    assert judged("json schema", schema, "{}").outcome == "unknown"
    assert not module._kept
    assert judged("choices", "a", "a").outcome == "valid"
    assert len(module._kept) == 1


def test_a_very_long_text_is_not_judged() -> None:
    assert judged("regex", "a*", "a" * 100_000).outcome == "unknown"


def test_json_is_indented_and_bounded() -> None:
    assert pretty('{"b":[1,"é<b>"]}') == '{\n  "b": [\n    1,\n    "é<b>"\n  ]\n}'
    assert pretty("3") == pretty("no") == pretty("[" * 100_000) == ""
    assert len(pretty(json.dumps(["x"] * 10_000))) < module.MOST_PRETTY + 10


def test_runs_without_a_constraint_or_an_end_have_no_verdict() -> None:
    events = whole_run()
    assert validity([]) is None
    assert validity(events) is None
    assert validity(events[:3]) is None


def test_a_real_run_is_valid_and_one_cut_short_is_unfinished(smollm: CausalModel) -> None:
    params = {"constraint": "choices", "grammar": "yes\nno\nunsure\n"}
    events = list(engines.run(smollm, "grammar-mask", "Is the sky blue?", params=params, max_new_tokens=8))
    found = validity(events)
    assert found is not None
    assert (found.outcome, found.kind) == ("valid", "choices")
    assert validity(events[:-1]) is None
    events = list(engines.run(smollm, "grammar-mask", "Invent a person as JSON.", max_new_tokens=4))
    found = validity(events)
    assert found is not None
    assert found.outcome == "unfinished"
    plain = list(engines.run(smollm, "grammar-mask", "Hello", params={"constraint": "none"}, max_new_tokens=2))
    assert validity(plain) is None
