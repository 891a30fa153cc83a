"""Every finished text of a constrained run is valid, says somebody who has not seen the mask.

Engines, schemas and expressions, models and temperatures are crossed; the judge is jsonschema for schemas and `re` for
regular expressions. A mask that once lets a wrong token pass is found here, as the tiny models are of random weights:
at temperature 2 they write whatever they may.

Schemas are such as the engine enforces: what it takes and does not keep is the Schema Arena's subject.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import jsonschema
import pytest
import torch

from engines.constrained.syncode import Language, SynCode
from engines.grammars.constraint import Constraint
from engines.grammars.gate import Gate
from engines.grammars.peers import ENGINES, Engine, compile_with, installed
from engines.models.causal import CausalModel

LONGEST = 90
TEMPERATURES = (0.0, 0.7, 2.0)
SEEDS = 4

SCHEMAS: dict[str, object] = {
    "words": {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green", "grey"]}, "size": {"enum": ["S", "M", "wide"]}},
        "required": ["colour", "size"],
        "additionalProperties": False,
    },
    "flags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    "shape": {
        "anyOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": "dot"}, "on": {"type": "boolean"}},
                "required": ["kind", "on"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {
                    "kind": {"const": "line"},
                    "of": {"type": "array", "items": {"enum": [0, 1]}, "maxItems": 2},
                },
                "required": ["kind", "of"],
                "additionalProperties": False,
            },
        ]
    },
    "plate": {"type": "string", "pattern": "^[A-C]{1,2}-[0-9]{2}$"},
    "number": {"type": "integer"},
}  # fmt: skip
EXPRESSIONS = {
    "plate": "[A-F]{2}-[0-9]{3}",
    "day": "(19|20)[0-9]{2}-(0[1-9]|1[0-2])",
    "choice": "yes|no|perhaps( not)?",
    "nested": "(ab?(c|d){1,2}){1,3}",
}

NOT_KEPT = {("lm-format-enforcer", "number")}
"""It takes 1e-3 and 1e999 for integers."""

Kind = Literal["json schema", "regex"]
SEEN: Counter[str] = Counter()
"""Finished texts, by engine."""


def constraints(engine: str, model: CausalModel) -> Iterator[tuple[Kind, str, Constraint]]:
    """All constraints of one engine, each with what the judge needs."""
    if engine == "syncode":
        for expression in EXPRESSIONS.values():
            language = Language(f"start: WORD\nWORD: /{expression}/", model.vocabulary)
            yield "regex", expression, SynCode(language)
        return
    name: Engine = engine  # type: ignore[assignment]
    for schema in (json.dumps(one) for title, one in SCHEMAS.items() if (engine, title) not in NOT_KEPT):
        whitespace = "one space" if engine == "lm-format-enforcer" else "compact"
        yield "json schema", schema, compile_with(name, "json schema", schema, model.vocabulary, whitespace=whitespace)  # type: ignore[arg-type]
    for expression in EXPRESSIONS.values():
        yield "regex", expression, compile_with(name, "regex", expression, model.vocabulary)


def write(model: CausalModel, constraint: Constraint, temperature: float, seed: int) -> str | None:
    """A constrained text; None when it was not finished in time."""
    gate, rng = Gate(constraint, loud=False), torch.Generator().manual_seed(seed)
    state, output = model.start(), list[int]()
    logits = state.extend(model.encode("Write.", raw=True), last=True)[-1]
    while len(output) < LONGEST:
        allowed = gate.filtered(logits, output)
        if temperature:
            token = int(torch.multinomial((allowed / temperature).softmax(-1), 1, generator=rng))
        else:
            token = int(allowed.argmax())
        if token in model.vocabulary.ends:
            return model.vocabulary.decode(output).decode("utf-8")
        output.append(token)
        logits = state.extend([token], last=True)[-1]
    return None


def judge(kind: Kind, text: str, against: str) -> None:
    """Raises when the text is not valid."""
    if kind == "regex":
        assert re.fullmatch(against, text), (text, against)
    else:
        jsonschema.Draft202012Validator(json.loads(against)).validate(json.loads(text))


@pytest.mark.parametrize("engine", [*ENGINES, "syncode"])
@pytest.mark.parametrize("which", ["tiny_llama", "tiny_gpt2"])
def test_every_finished_text_of_a_tiny_model_is_valid(engine: str, which: str, request: pytest.FixtureRequest) -> None:
    if engine != "syncode" and engine not in installed():
        pytest.skip(f"{engine} is not installed")
    model: CausalModel = request.getfixturevalue(which)
    for kind, against, constraint in constraints(engine, model):
        for temperature in TEMPERATURES:
            for seed in range(SEEDS if temperature else 1):
                text = write(model, constraint.fork(), temperature, seed)
                if text is not None:
                    judge(kind, text, against)
                    SEEN[engine] += 1


@pytest.mark.parametrize("engine", ["llguidance", "xgrammar", "outlines-core"])
def test_every_finished_text_of_the_embedded_model_is_valid(engine: Engine, smollm: CausalModel) -> None:
    """Tokens of many bytes: where a mask is wrong about a cut, this is where it shows."""
    if engine not in installed():
        pytest.skip(f"{engine} is not installed")
    for schema in ("words", "shape", "plate"):
        text = json.dumps(SCHEMAS[schema])
        constraint = compile_with(engine, "json schema", text, smollm.vocabulary, whitespace="compact")
        for temperature, seed in ((0.0, 0), (2.0, 1)):
            if (written := write(smollm, constraint.fork(), temperature, seed)) is not None:
                judge("json schema", written, text)
                SEEN[engine] += 1


def test_the_sweep_was_worth_its_name() -> None:
    """Counts what the tests above judged; alone it has nothing to count."""
    if not SEEN:
        pytest.skip("run the whole file")
    if len(SEEN) == len(ENGINES) + 1:
        assert SEEN.total() >= 500, SEEN
    assert min(SEEN.values()) >= 60, SEEN


def test_the_judge_is_no_pushover() -> None:
    with pytest.raises(jsonschema.ValidationError):
        judge("json schema", '{"colour":"red","size":3}', json.dumps(SCHEMAS["words"]))
    with pytest.raises(json.JSONDecodeError):
        judge("json schema", '{"colour":"red",', json.dumps(SCHEMAS["words"]))
    with pytest.raises(AssertionError):
        judge("regex", "AB-12", EXPRESSIONS["plate"])
