"""Whether a lossless method kept its word: its output against plain decoding, or its draws against the exact law.

* *tokens*, at temperature 0: the project's own greedy decoding runs again on the same model and prompt, one token per
  pass, and stops at the first token that differs. That difference is a float tie when plain decoding's two best logits
  were closer than `TIE` and the run took the second: a pass over several tokens adds floats in another order.
* *distribution*, when sampling: tokens then differ by right, so the method draws on the tiny twin, where the exact
  distribution is known (`engines/goodness_of_fit.py`). That is a fact about method, settings and code, not about a run.

A result is kept in the table `proofs` under everything that it depends on, and holds for every run with the same.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from engines.chi_square import Fit
from engines.errors import DecodingError
from engines.events import Candidates, Commit, Event, Placed, Started, Token, committed
from engines.method import Method
from playground.setup import Setup
from playground.store import Store, UnreadableRun
from playground.turnstile import Turnstile

if TYPE_CHECKING:
    from engines.models.causal import CausalModel

TIE = 1e-4
DRAWS, LENGTH = 2000, 4
"""Continuations drawn on the twin, and tokens in each."""
CONSTRAINT = ("constraint", "grammar")
PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
PATIENCE = 0.5
"""Seconds that a step of a proof waits for the runs in progress to end."""

Kind = Literal["tokens", "distribution"]
Question = Literal["lossy", "plain", "empty", "tokens", "distribution"]
"""What there is to check of a run: the first three are nothing, and say why."""


class NotComparable(DecodingError):
    """Plain decoding did not get to the same place."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first token that plain decoding would not have written."""

    position: int
    """In the output, given tokens included."""
    ours: Token
    ours_p: float | None
    """The model's own probability of the run's token, as plain decoding sees it."""
    plain: Token
    plain_p: float
    gap: float
    """Between plain decoding's two best logits."""
    tie: bool


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """How far a check has come: `done` of `count` tokens or draws."""

    kind: Kind
    done: int
    count: int
    difference: Difference | None = None
    fit: Fit | None = None

    @property
    def complete(self) -> bool:
        return self.difference is not None or self.done >= self.count


def question(events: Sequence[Event], methods: Mapping[str, Method]) -> Question:
    """What there is to check of a run."""
    header = _header(events)
    method = methods.get(header.method)
    if not (header.lossless or (method is not None and method.lossless)):
        return "lossy"
    if header.method == "greedy":
        return "plain"
    if header.params.get("temperature"):
        return "distribution"
    return "tokens" if _generated(events) else "empty"


def check(events: Sequence[Event], kind: Kind, model: CausalModel | None = None) -> Iterator[Proof]:
    """Checks, a few milliseconds or one pass per value; the last value is complete.

    `model` is the one that made the run; a distribution needs none. Raises `DecodingError` when plain decoding cannot
    follow the run.
    """
    if kind == "distribution":
        return _check_distribution(events)
    assert model is not None
    return _check_tokens(events, model)


def beginning(events: Sequence[Event], kind: Kind) -> Proof:
    """A check of which nothing is done yet."""
    count = DRAWS if kind == "distribution" else len(_generated(events))
    return Proof(kind=kind, done=0, count=count, fit=Fit.none(DRAWS) if kind == "distribution" else None)


def _check_distribution(events: Sequence[Event]) -> Iterator[Proof]:
    from engines.goodness_of_fit import distribution_test

    header = _header(events)
    # The twin spells other words than the model, so the rule is tested without the constraint.
    params = {name: value for name, value in header.params.items() if name not in CONSTRAINT}
    for fit in distribution_test(header.method, params, DRAWS, length=LENGTH):
        yield Proof(kind="distribution", done=fit.draws, count=DRAWS, fit=fit)


def _check_tokens(events: Sequence[Event], model: CausalModel) -> Iterator[Proof]:
    header, ours = _header(events), _generated(events)
    given = len(committed(events)) - len(ours)
    done, wanted = 0, beginning(events, "tokens")
    yield wanted
    candidates: Candidates | None = None
    for event in plain_setup(events).begin(model):
        if isinstance(event, Started) and _ids(event) != _ids(header):
            raise NotComparable("The model now reads this prompt as other tokens. Run it again to check it.")
        if isinstance(event, Candidates):
            candidates = event
        if not isinstance(event, Commit):
            continue
        for placed in event.tokens:
            if placed.origin == "given":
                continue
            mine = ours[done]
            if placed.token.id != mine.token.id:
                assert candidates is not None
                difference = compare(candidates, given + done, mine, placed)
                yield msgspec.structs.replace(wanted, done=done + 1, difference=difference)
                return
            done += 1
            yield msgspec.structs.replace(wanted, done=done)
    if done < len(ours):
        raise NotComparable(f"Plain decoding ended after {done} of {len(ours)} tokens.")


def plain_setup(events: Sequence[Event]) -> Setup:
    """The same request to plain decoding, constraint included: greedy, or with penalties sampling at 0."""
    setup = Setup.of(events)
    penalties = {name: setup.params[name] for name in PENALTIES if name in setup.params}
    constrained = setup.params.get("constraint", "none") != "none"
    held = {name: setup.params[name] for name in CONSTRAINT} if constrained else {}
    return msgspec.structs.replace(
        setup,
        method="sampling" if penalties else "greedy",
        params={"temperature": 0.0, **penalties, **held} if penalties else held,
        max_new_tokens=len(_generated(events)),
        stop=(),
        time_limit=None,
    )


def compare(candidates: Candidates, position: int, ours: Placed, plain: Placed) -> Difference:
    """The difference at one place, where plain decoding saw `candidates`."""
    final = candidates.stages[-1].top if candidates.stages else candidates.raw
    first, second = final[0], final[1]
    # The softmax divides both by the same sum, so their logits differ as the logarithms do.
    gap = math.log(first.p / second.p) if second.p > 0 else 100.0
    seen = {choice.token.id: choice.p for choice in candidates.raw}
    return Difference(
        position=position,
        ours=ours.token,
        ours_p=seen.get(ours.token.id, ours.raw),
        plain=plain.token,
        plain_p=seen.get(plain.token.id, first.p),
        gap=gap,
        tie=gap < TIE and ours.token.id == second.token.id,
    )


# What is known already.


def known(store: Store, events: Sequence[Event], kind: Kind) -> Proof | None:
    """The result of an earlier check of the same, if any."""
    try:
        rows = store.read("SELECT result FROM proofs WHERE key = ?", [_key(what_is_checked(events, kind))])
        return msgspec.json.decode(rows[0]["result"], type=Proof) if rows else None
    except (UnreadableRun, msgspec.MsgspecError):  # then it is checked again
        return None


def keep(store: Store, events: Sequence[Event], proof: Proof) -> None:
    """Remembers a complete proof."""
    columns = what_is_checked(events, proof.kind)
    row = {
        "key": _key(columns),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **columns,
        "result": msgspec.json.encode(proof).decode(),
    }
    store.write(lambda db: db.table("proofs").insert(row, replace=True))


def what_is_checked(events: Sequence[Event], kind: Kind) -> dict[str, Any]:
    """All that a result depends on, as columns of `proofs`."""
    header = _header(events)
    shared = {
        "kind": kind,
        "method": header.method,
        "params": msgspec.json.encode(header.params, order="sorted").decode(),
    }
    if kind == "distribution":
        # It is today's code that draws, whichever made the run.
        from engines.runner import code

        return {**shared, "weights": f"twin, {DRAWS} draws of {LENGTH}", "code": code()}
    given = [placed.token.id for placed in committed(events) if placed.origin == "given"]
    return {
        **shared,
        "weights": header.weights,
        "precision": header.precision,
        "prompt": _hash([header.prompt, header.prompt_length, _ids(header), given]),
        "seed": header.seed,
        "max_new_tokens": header.max_new_tokens,
        "raw": int(header.raw_prompt),
        "stop": msgspec.json.encode(header.stop).decode(),
        "code": header.code,
        # The same request can end elsewhere: stopped, out of time, or after a float tie.
        "output": _hash([placed.token.id for placed in _generated(events)]),
    }


def _key(columns: dict[str, Any]) -> str:
    return _hash(sorted(columns.items()))


def _hash(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:32]


# Checking while others decode.


def aside(turnstile: Turnstile, steps: Iterator[Proof], owner: str | None, stop: Flag) -> Generator[Proof, None, None]:
    """The same steps, each taken when no run is in progress, or after waiting for `PATIENCE` seconds.

    What they take of the device is charged to `owner`. Ends before the next step when `stop` is set.
    """
    while True:
        end = time.monotonic() + PATIENCE
        while turnstile.running and time.monotonic() < end and not stop.is_set():
            time.sleep(0.02)
        if stop.is_set():
            return
        turn: Iterator[Any] = islice(steps, 1)
        made = list(turnstile.take_turns(turn, owner))
        if not made:
            return
        yield made[0]


def _header(events: Sequence[Event]) -> Started:
    header = events[0] if events else None
    if not isinstance(header, Started):
        raise NotComparable("This run has no header, so nothing is known about it.")
    return header


def _generated(events: Sequence[Event]) -> list[Placed]:
    return [placed for placed in committed(events) if placed.origin != "given"]


def _ids(header: Started) -> list[int]:
    return [token.id for token in header.prompt_tokens]
