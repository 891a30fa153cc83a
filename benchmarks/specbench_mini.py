"""specbench-mini: what guessing gains, every lossless method against plain greedy decoding, ours and transformers'.

    python -m benchmarks.specbench_mini                 measure; print the tables; keep them in benchmarks/results
    python -m benchmarks.specbench_mini --quick         two questions, 32 tokens; keep nothing
    python -m benchmarks.specbench_mini --methods a,b   only these of our methods; keep nothing

Spec-Bench's protocol (Xia et al. 2024, arXiv 2401.07851) on questions of our own in its six categories, and on six
more to copy or edit: greedy, one sequence at a time, wall time with the prompt's own pass included, contestants in
alternating order. Ours make all their events meanwhile, as on the page; the database is off.

Every lossless method of the family `speculative` that the model can run takes part with its default settings, a new
one by itself. A method with a memory learns while it decodes: *cold* starts every answer with an empty one; *hot* keeps
it from question to question, and starts every round with an empty one. transformers' `generate` takes part plainly,
with prompt lookup of 10 tokens, and assisted by the draft model that ours use; all else is as the library has it.

Every output is compared with plain greedy's, token for token. Where the first difference falls on two tokens whose
logits are closer than `TIE` it is a float tie: a pass over several tokens adds in another order than a pass over one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

import engines
from benchmarks.command import Benchmark
from benchmarks.peer import Peer, assistant
from benchmarks.questions import Question, questions
from benchmarks.report import Setting
from benchmarks.rounds import Timing
from benchmarks.specbench_tables import (
    GREEDY,
    PEER,
    PEER_ASSISTED,
    PEER_LOOKUP,
    Answer,
    Difference,
    Speculation,
    tables,
)
from engines.errors import BadParameter, DecodingError
from engines.events import Curve, Finished, Forward
from engines.method import Method, methods
from engines.models.causal import CausalModel
from engines.runner import run
from engines.speculative import memory
from engines.speculative.drafting import Drafted, draft_for
from playground.rounds import alternating

WARM_UP = "Say hello, then say hello again."

Ours = dict[str, tuple[str, dict[str, str]]]
"""Our contestants: method and settings by name."""


def guessing(model: CausalModel) -> dict[str, Method]:
    """The lossless methods that guess, as far as the model can run them."""
    return {
        id: spec
        for id, spec in methods().items()
        if spec.family == "speculative" and spec.lossless and not spec.needs & ~model.has
    }


def ours(model: CausalModel, only: Collection[str] = ()) -> Ours:
    """Greedy, and everything that guesses, or `only` these methods. Raises `BadParameter` if one does not guess."""
    known = guessing(model)
    if unknown := [id for id in only if id not in known]:
        raise BadParameter(f"{unknown[0]} is none of the methods that guess here: {', '.join(known)}.")
    found: Ours = {GREEDY: ("greedy", {})}
    for id, spec in known.items():
        settings = {setting.name: setting for setting in spec.settings()}
        params = {"draft": "auto"} if "draft" in settings else {}
        if only and id not in only:
            continue
        if "memory" in settings:
            found |= {f"{id}, {kind}": (id, params | {"memory": kind}) for kind in settings["memory"].choices}
        else:
            found[id] = (id, params)
    return found


class Bench:
    """A model, its peer, and what has been decoded so far."""

    def __init__(self, model: CausalModel, max_new_tokens: int, only: Collection[str] = ()) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.ours = ours(model, only)
        self.theirs: dict[str, dict[str, Any]] = {PEER: {}, PEER_LOOKUP: {"prompt_lookup_num_tokens": 10}}
        self.left_out: dict[str, str] = {}
        self.draft = ""
        try:
            draft = draft_for(model, Drafted())
            self.draft, self.theirs[PEER_ASSISTED] = draft.title, {"assistant_model": assistant(draft)}
        except DecodingError as error:
            self.left_out[PEER_ASSISTED] = str(error)
        self.contestants = [*self.ours, *self.theirs]
        self.answers: list[Answer] = []
        self._peer = Peer(model)
        self._outputs: dict[tuple[str, str], list[int]] = {}

    def warm_up(self) -> Curve:
        """First calls, and the measured cost of a pass: nothing that should be timed. Who cannot run is left out."""
        for contestant in list(self.contestants):
            try:
                self.decode(contestant, WARM_UP, 8)
            except DecodingError as error:
                self.left_out[contestant] = str(error)
                self.contestants.remove(contestant)
        return self.model.cost_curve()

    def round(self, number: int, asked: Sequence[Question]) -> None:
        """Everyone answers everything once."""
        forget(self.ours)
        for place, question in enumerate(asked):
            print(f"round {number + 1}, {place + 1} of {len(asked)}: {question.id}", file=sys.stderr)
            for contestant in alternating(self.contestants, number * len(asked) + place):
                output, answer = self.decode(contestant, question.prompt, self.max_new_tokens)
                self._outputs.setdefault((contestant, question.id), output)
                self.answers.append(
                    msgspec.structs.replace(answer, category=question.category, question=question.id, round=number)
                )

    def decode(self, contestant: str, prompt: str, max_new_tokens: int) -> tuple[list[int], Answer]:
        """The tokens, and the figures."""
        start = time.perf_counter()
        if contestant in self.theirs:
            ids = self.model.encode(prompt)
            output, work = self._peer.generate(ids, max_new_tokens, **self.theirs[contestant])
            self.model.decode(output)
            timing = Timing(len(output), time.perf_counter() - start)
            read = work.read - len(ids) + 1
            return output, Answer(contestant=contestant, timing=timing, passes=work.passes, read=read)
        method, params = self.ours[contestant]
        events = list(run(self.model, method, prompt, params=params, max_new_tokens=max_new_tokens))
        seconds = time.perf_counter() - start
        last = events[-1]
        assert isinstance(last, Finished)
        answer = Answer(
            contestant=contestant,
            timing=Timing(last.totals.tokens, seconds),
            passes=last.totals.target_passes,
            read=sum(each.query for each in events if isinstance(each, Forward) and each.lane == "target"),
            accepted=last.totals.accepted,
            rejected=last.totals.rejected,
            drafting=last.totals.draft_passes,
        )
        return list(last.token_ids), answer

    def differences(self, asked: Sequence[Question]) -> list[Difference]:
        """Every output that is not plain greedy's, and how close the call was."""
        return [
            self._difference(contestant, question, self._outputs[GREEDY, question.id], output)
            for question in asked
            for contestant in self.contestants
            if (output := self._outputs[contestant, question.id]) != self._outputs[GREEDY, question.id]
        ]

    def _difference(self, contestant: str, question: Question, plain: list[int], output: list[int]) -> Difference:
        place = first_difference(plain, output)
        logits = self.model.start().extend([*self.model.encode(question.prompt), *plain[:place]], last=True)[-1]
        gap = None
        if place < min(len(plain), len(output)):
            gap = float(logits[plain[place]] - logits[output[place]])
        return Difference(
            contestant=contestant,
            question=question.id,
            position=place,
            greedy=self.model.decode(plain[place : place + 1]),
            instead=self.model.decode(output[place : place + 1]),
            gap=gap,
        )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """The first position at which two sequences differ; the shorter one's length when it begins the longer one."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def forget(ours: Ours) -> None:
    """Empties what hot methods remember: a second round would find the answers of the first."""
    memory.forget()


def measure(
    model: CausalModel,
    asked: Sequence[Question],
    *,
    rounds: int,
    max_new_tokens: int,
    quick: bool,
    only: Collection[str] = (),
) -> Speculation:
    """Everyone answers every question in every round."""
    bench = Bench(model, max_new_tokens, only)
    curve = bench.warm_up()
    for number in range(rounds):
        bench.round(number, asked)
    return Speculation(
        setting=Setting.of(model, max_new_tokens=max_new_tokens, rounds=rounds, quick=quick),
        contestants=bench.contestants,
        left_out=bench.left_out,
        draft=bench.draft,
        curve=curve,
        answers=bench.answers,
        differences=bench.differences(asked),
    )


def _measured(chosen: argparse.Namespace) -> Speculation:
    every = questions()
    try:
        return measure(
            engines.load(chosen.model),
            [every[0], every[-1]] if chosen.quick else every,
            rounds=1 if chosen.quick else chosen.rounds,
            max_new_tokens=min(chosen.max_new_tokens, 32) if chosen.quick else chosen.max_new_tokens,
            quick=chosen.quick,
            only=[id.strip() for id in chosen.methods.split(",") if id.strip()],
        )
    except BadParameter as error:
        sys.exit(str(error))


BENCHMARK = Benchmark(
    "specbench-mini",
    __doc__ or "",
    Speculation,
    _measured,
    tables,
    quick="two questions, one round, 32 tokens",
    numbers={"rounds": (1, ""), "max-new-tokens": (96, "")},
    parts={"methods": "only these of our methods, beside greedy and transformers"},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
