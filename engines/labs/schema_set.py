"""Schemas with texts that fit them and texts that do not, the referee who says which is which, and what verdicts are.

Sixty schemas of our own in ten tiers (`assets/schemas.json`) imitate the ten splits of JSONSchemaBench ("Generating
Structured Outputs from Language Models: Benchmark and Studies", Geng et al., arXiv 2501.10868), whose own schemas come
without a licence. The referee is jsonschema's Draft 2020-12 validator with format checks for ipv4, ipv6 and uuid, as
there; no engine has a say in what is valid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
from jsonschema import FormatChecker
from jsonschema.validators import Draft202012Validator

from engines.grammars.guidance import Whitespace
from engines.grammars.trials import Fed, Report

SCHEMAS = Path(__file__).parents[2] / "assets" / "schemas.json"

Tier = Literal[
    "trivial", "easy", "telemetry", "medium", "kubernetes", "newspaper", "hard", "store", "ultra", "functions"
]
TIERS: tuple[Tier, ...] = Tier.__args__  # type: ignore[attr-defined]
"""From what every engine can do to what few can; the last are arguments of tools."""

Class = Literal["right", "order only", "over", "under", "both", "refused", "failed", "too slow"]
CLASSES: tuple[Class, ...] = Class.__args__  # type: ignore[attr-defined]
"""What an engine made of a schema:

right       every text was judged as the referee judges it
order only  so it was, once valid texts had their properties in the schema's order
over        a valid text was refused (over-constrained)
under       an invalid text was accepted (under-constrained)
both        both of these
refused     the engine said that it cannot enforce this schema
failed      it crashed, ran out of memory, or gave up in the middle of a text
too slow    it was stopped
"""


class Sample(msgspec.Struct, frozen=True):
    """A schema of the set, with three texts of either sort as JSON values."""

    id: str
    tier: Tier
    schema: Any
    valid: tuple[Any, ...]
    invalid: tuple[Any, ...]


@cache
def samples() -> tuple[Sample, ...]:
    """The whole set, tier by tier."""
    return tuple(msgspec.json.decode(SCHEMAS.read_bytes(), type=list[Sample]))


def referee(schema: Any) -> Draft202012Validator:
    """Who says what is valid."""
    return Draft202012Validator(schema, format_checker=FormatChecker(["ipv4", "ipv6", "uuid"]))


def is_valid(schema: Any, text: str) -> bool:
    """Whether a text is JSON and fits the schema."""
    try:
        return referee(schema).is_valid(json.loads(text, parse_constant=_no_json))
    except (ValueError, RecursionError):
        return False


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def serialised(value: Any, whitespace: Whitespace) -> str:
    """A value as JSON, in the usual way that the whitespace policy allows."""
    separators = (",", ":") if whitespace == "compact" else (", ", ": ")
    return json.dumps(value, ensure_ascii=False, separators=separators)


def in_schema_order(value: Any, schema: Any) -> Any:
    """The same value with the properties of objects in the order in which the schema names them.

    Engines fix the order of properties, so a valid text in another order is refused by design.
    """
    return _ordered(value, schema, referee(schema))


def _ordered(value: Any, schema: Any, root: Draft202012Validator) -> Any:
    parts = list(_applicable(value, schema, root))
    if isinstance(value, dict):
        order = list(dict.fromkeys(name for part in parts for name in part.get("properties", {})))
        names = [name for name in order if name in value] + [name for name in value if name not in order]
        return {name: _ordered(value[name], _all(_below(name, parts)), root) for name in names}
    if isinstance(value, list):
        return [_ordered(item, _all(_at(place, parts)), root) for place, item in enumerate(value)]
    return value


def _all(schemas: Sequence[Any]) -> Any:
    return {"allOf": list(schemas)} if schemas else {}


def _applicable(value: Any, schema: Any, root: Draft202012Validator) -> Iterator[dict[str, Any]]:
    """The schemas without alternatives that speak of a value."""
    if not isinstance(schema, dict):
        return
    yield schema
    if "$ref" in schema:
        yield from _applicable(value, _resolved(schema["$ref"], root.schema), root)
    for part in schema.get("allOf", ()):
        yield from _applicable(value, part, root)
    for name in ("anyOf", "oneOf"):
        for part in schema.get(name, ()):
            if root.evolve(schema=part).is_valid(value):
                yield from _applicable(value, part, root)


def _resolved(reference: str, root: Any) -> Any:
    """What a local reference points to; anything goes behind others."""
    if not reference.startswith("#"):
        return {}
    found = root
    for step in reference[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or step not in found:
            return {}
        found = found[step]
    return found


def _below(name: str, parts: Sequence[dict[str, Any]]) -> list[Any]:
    own = [part["properties"][name] for part in parts if name in part.get("properties", {})]
    return own or [part["additionalProperties"] for part in parts if "additionalProperties" in part]


def _at(place: int, parts: Sequence[dict[str, Any]]) -> list[Any]:
    found = []
    for part in parts:
        first = part.get("prefixItems", [])
        if place < len(first):
            found.append(first[place])
        elif "items" in part:
            found.append(part["items"])
    return found


class Texts(msgspec.Struct, frozen=True):
    """The texts of a sample, in the order in which they are fed."""

    texts: tuple[str, ...]
    valid: int
    """So many of the first are valid."""
    reordered: dict[int, int]
    """Index of a valid text → index of the same in the schema's order, where that is another text."""


def texts_of(sample: Sample, whitespace: Whitespace) -> Texts:
    """All texts to feed."""
    texts = [serialised(value, whitespace) for value in (*sample.valid, *sample.invalid)]
    reordered = {}
    for index, value in enumerate(sample.valid):
        other = serialised(in_schema_order(value, sample.schema), whitespace)
        if other != texts[index]:
            reordered[index] = len(texts)
            texts.append(other)
    return Texts(tuple(texts), len(sample.valid), reordered)


class Judgement(msgspec.Struct, frozen=True):
    """What an engine made of one schema."""

    kind: Class
    under: int = 0
    """Invalid texts that it accepted."""
    over: int = 0
    """Valid ones that it refused in any order of properties."""
    order: int = 0
    """Valid ones that it refused only because of the order."""
    disagreements: int = 0
    """Tokens about which mask and commit differed."""
    message: str = ""


def judged(report: Report, texts: Texts) -> Judgement:
    """From what was accepted to what that means."""
    if report.status != "ok":
        return Judgement(report.status, message=report.message)
    fed = report.fed
    count = len(texts.texts) - len(texts.reordered)
    disagreements = sum(one.disagreements for one in fed)
    refused = [index for index in range(texts.valid) if not fed[index].accepted]
    order = [index for index in refused if index in texts.reordered and fed[texts.reordered[index]].accepted]
    over, under = len(refused) - len(order), sum(one.accepted for one in fed[texts.valid : count])
    if broken := next((one.error for one in fed if one.error), ""):
        return Judgement("failed", under, over, len(order), disagreements, broken)
    kind: Class = (
        "both" if over and under else "under" if under else "over" if over else "order only" if order else "right"
    )
    return Judgement(kind, under, over, len(order), disagreements, _where(fed, refused, texts))


def _where(fed: Sequence[Fed], refused: Sequence[int], texts: Texts) -> str:
    return f"refused at token {fed[refused[0]].place + 1} of {texts.texts[refused[0]][:80]}" if refused else ""


# The paper's measures


def declared_coverage(declared: Sequence[bool]) -> float:
    """DC: the share of schemas that compile."""
    return sum(declared) / len(declared) if declared else 0.0


def empirical_coverage(valid: Sequence[bool]) -> float:
    """EC: the share of schemas whose output is valid; a refused schema has none."""
    return sum(valid) / len(valid) if valid else 0.0


def compliance_rate(declared: Sequence[bool], valid: Sequence[bool]) -> float | None:
    """CR: the share of valid outputs among the schemas that compile; None when none does. EC = CR · DC."""
    outputs = [fits for compiles, fits in zip(declared, valid, strict=True) if compiles]
    return sum(outputs) / len(outputs) if outputs else None


class Clock(msgspec.Struct, frozen=True):
    """When what happened, in seconds on one clock."""

    start: float
    compiled: float
    first: float
    """The first token."""
    end: float
    tokens: int

    @property
    def compilation(self) -> float:
        """GCT, grammar compilation time, seconds."""
        return self.compiled - self.start

    @property
    def to_first(self) -> float:
        """TTFT, time to the first token, compilation included, seconds."""
        return self.first - self.start

    @property
    def per_token(self) -> float | None:
        """TPOT, time per output token behind the first, milliseconds; None when there is only one."""
        return 1000 * (self.end - self.first) / (self.tokens - 1) if self.tokens > 1 else None

    @property
    def total(self) -> float:
        """TGT, total generation time, seconds."""
        return self.end - self.start


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def spoken(seconds: float) -> str:
    """A duration for people."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
