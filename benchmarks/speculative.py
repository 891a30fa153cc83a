"""What guessing gains: token recycling and prompt lookup against plain greedy decoding, ours and transformers'.

    python -m benchmarks.speculative            measure; print the tables; keep them in benchmarks/results
    python -m benchmarks.speculative --quick    two questions, 32 tokens; keep nothing

Spec-Bench's protocol (Xia et al. 2024, arXiv 2401.07851) on questions of our own in its six categories: greedy, one
sequence at a time, wall time with the prompt's own pass included, contestants in alternating order.
Ours make all their events meanwhile, as on the page; the database is off.

Token recycling learns while it decodes. *Cold* starts every answer with an empty table; *hot* keeps the table from
question to question, and starts every round with an empty one.

Every output is compared with plain greedy's, token for token. Where the first difference falls on two tokens whose
logits are closer than `TIE` it is a float tie: a pass over several tokens adds in another order than a pass over one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import msgspec

import engines
from benchmarks.command import Benchmark
from benchmarks.peer import Peer
from benchmarks.questions import CATEGORIES, Question, questions
from benchmarks.report import Setting, table
from benchmarks.rounds import Timing, speed_up, together, total_speed_up
from engines.events import Curve, Finished, Forward
from engines.models.causal import CausalModel
from engines.runner import run
from engines.speculative import token_recycling
from engines.speculative.budget import best_budget
from engines.speculative.token_recycling import likeliest_first, node_chance
from playground.rounds import alternating

GREEDY, COLD, HOT, LOOKUP = "greedy", "token-recycling, cold", "token-recycling, hot", "prompt-lookup"
PEER, PEER_LOOKUP = "transformers greedy", "transformers prompt lookup"
OURS: dict[str, tuple[str, dict[str, str]]] = {
    GREEDY: ("greedy", {}),
    COLD: ("token-recycling", {"memory": "cold"}),
    HOT: ("token-recycling", {"memory": "hot"}),
    LOOKUP: ("prompt-lookup", {}),
}
THEIRS: dict[str, dict[str, int]] = {PEER: {}, PEER_LOOKUP: {"prompt_lookup_num_tokens": 10}}
CONTESTANTS = (*OURS, *THEIRS)

TIE = 1e-4
WARM_UP = "Say hello, then say hello again."


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One question answered once."""

    contestant: str
    category: str = ""
    question: str = ""
    round: int = 0
    timing: Timing
    passes: int
    """Target passes that yield tokens. transformers yields the first token with the pass over the prompt."""
    read: int
    """Tokens read by these passes."""
    accepted: int | None = None
    rejected: int | None = None
    """None where `generate` does not tell."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first place where an output is not plain greedy's."""

    contestant: str
    question: str
    position: int
    greedy: str
    instead: str
    gap: float | None
    """Logit of greedy's token minus that of the other, in one fresh pass over the text before them; None when one
    output merely stops earlier."""

    @property
    def tie(self) -> bool:
        return self.gap is not None and abs(self.gap) < TIE


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement."""

    setting: Setting
    curve: Curve
    """t(q), the cost of a pass over q new tokens behind 256 cached ones."""
    nodes: int
    """Guesses per tree that token recycling chose for this machine by its curve."""
    answers: list[Answer]
    differences: list[Difference]


class Bench:
    """A model, its peer, and what has been decoded so far."""

    def __init__(self, model: CausalModel, max_new_tokens: int) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.answers: list[Answer] = []
        self._peer = Peer(model)
        self._outputs: dict[tuple[str, str], list[int]] = {}

    def warm_up(self) -> Curve:
        """Everything that must not be timed: first calls, and the measured cost of a pass."""
        for contestant in CONTESTANTS:
            self.decode(contestant, WARM_UP, 8)
        return self.model.cost_curve()

    def round(self, number: int, asked: Sequence[Question]) -> None:
        """Everyone answers everything once."""
        # A second round would otherwise find the answers of the first in the table.
        token_recycling._hot.clear()
        for place, question in enumerate(asked):
            print(f"round {number + 1}, {place + 1} of {len(asked)}: {question.id}", file=sys.stderr)
            for contestant in alternating(CONTESTANTS, number * len(asked) + place):
                output, answer = self.decode(contestant, question.prompt, self.max_new_tokens)
                self._outputs.setdefault((contestant, question.id), output)
                self.answers.append(
                    msgspec.structs.replace(answer, category=question.category, question=question.id, round=number)
                )

    def decode(self, contestant: str, prompt: str, max_new_tokens: int) -> tuple[list[int], Answer]:
        """The tokens, and the figures."""
        start = time.perf_counter()
        if contestant in THEIRS:
            ids = self.model.encode(prompt)
            output, work = self._peer.generate(ids, max_new_tokens, **THEIRS[contestant])
            self.model.decode(output)
            timing = Timing(len(output), time.perf_counter() - start)
            read = work.read - len(ids) + 1
            return output, Answer(contestant=contestant, timing=timing, passes=work.passes, read=read)
        method, params = OURS[contestant]
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
        )
        return list(last.token_ids), answer

    def differences(self, asked: Sequence[Question]) -> list[Difference]:
        """Every output that is not plain greedy's, and how close the call was."""
        return [
            self._difference(contestant, question, self._outputs[GREEDY, question.id], output)
            for question in asked
            for contestant in CONTESTANTS
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


def measure(
    model: CausalModel, asked: Sequence[Question], *, rounds: int, max_new_tokens: int, quick: bool
) -> Speculation:
    """Everyone answers every question in every round."""
    bench = Bench(model, max_new_tokens)
    curve = bench.warm_up()
    for number in range(rounds):
        bench.round(number, asked)
    return Speculation(
        setting=Setting.of(model, max_new_tokens=max_new_tokens, rounds=rounds, quick=quick),
        curve=curve,
        nodes=best_budget(curve, [node_chance(path) for path in likeliest_first(token_recycling.Params().width)]),
        answers=bench.answers,
        differences=bench.differences(asked),
    )


def per_question(answers: Sequence[Answer], contestant: str, category: str = "") -> list[Timing]:
    """One timing per question; all rounds of it count together."""
    by_question: dict[str, list[Timing]] = {}
    for answer in answers:
        if answer.contestant == contestant and category in ("", answer.category):
            by_question.setdefault(answer.question, []).append(answer.timing)
    return [together(timings) for timings in by_question.values()]


def tables(result: Speculation) -> str:
    """Speed-ups, work, and the cost curve, in Markdown."""
    categories = [name for name in CATEGORIES if any(answer.category == name for answer in result.answers)]
    speeds = table(
        [
            "speed-up over our greedy",
            *(CATEGORIES[name] for name in categories),
            "all",
            "all, total",
            "over transformers greedy",
        ],
        [_speed_ups(result.answers, name, categories) for name in CONTESTANTS],
    )
    work = table(
        [
            "work",
            "tokens/s",
            "tokens per target pass",
            "read per token",
            "acceptance rate",
            "same as greedy",
            "ties",
            "differ",
        ],
        [_work(result, name) for name in CONTESTANTS],
    )
    curve = table(
        ["t(q): new tokens in a pass", *(f"{size:.0f}" for size in result.curve.x)],
        [["milliseconds", *(f"{1000 * seconds:.1f}" for seconds in result.curve.y)]],
    )
    number = len({answer.question for answer in result.answers})
    note = (
        "Speed-up: ratio of mean tokens per second over questions, as Spec-Bench defines it; *total* is all tokens "
        "over all time. Acceptance rate: accepted over tested guesses; `generate` does not tell. "
        f"Ties: outputs whose first difference falls on two tokens with logits less than {TIE:g} apart. "
        f"Token recycling chose {result.nodes} guesses per tree for this machine. "
        f"{number} questions. {result.setting.sentence()}"
    )
    unequal = "\n".join(
        f"* {each.contestant}, {each.question}, token {each.position}: {each.instead!r} instead of {each.greedy!r}, "
        + ("one output stops there" if each.gap is None else f"logits {each.gap:.1e} apart")
        for each in result.differences
    )
    return "\n\n".join(part for part in (speeds, work, curve, note, unequal and f"Differences:\n\n{unequal}") if part)


def _speed_ups(answers: Sequence[Answer], name: str, categories: Sequence[str]) -> list[str]:
    mine = per_question(answers, name)
    plain, peer = per_question(answers, GREEDY), per_question(answers, PEER)
    by_category = [(per_question(answers, name, each), per_question(answers, GREEDY, each)) for each in categories]
    return [
        name,
        *(f"{speed_up(ours, theirs):.2f}" for ours, theirs in by_category),
        f"**{speed_up(mine, plain):.2f}**",
        f"{total_speed_up(mine, plain):.2f}",
        f"{speed_up(mine, peer):.2f}",
    ]


def _work(result: Speculation, name: str) -> list[str]:
    answers = [answer for answer in result.answers if answer.contestant == name]
    total = together([answer.timing for answer in answers])
    passes = sum(answer.passes for answer in answers)
    read = sum(answer.read for answer in answers)
    tested = sum((answer.accepted or 0) + (answer.rejected or 0) for answer in answers)
    accepted = sum(answer.accepted or 0 for answer in answers)
    ties = sum(each.contestant == name and each.tie for each in result.differences)
    differ = sum(each.contestant == name and not each.tie for each in result.differences)
    outputs = len({answer.question for answer in answers})
    return [
        name,
        f"{total.speed:.1f}",
        f"{total.tokens / passes:.2f}",
        f"{read / total.tokens:.1f}",
        f"{100 * accepted / tested:.0f} %" if tested else "–",
        f"{outputs - ties - differ} of {outputs}",
        str(ties),
        str(differ),
    ]


def _measured(chosen: argparse.Namespace) -> Speculation:
    return measure(
        engines.load(chosen.model),
        [questions()[0], questions()[-1]] if chosen.quick else questions(),
        rounds=1 if chosen.quick else chosen.rounds,
        max_new_tokens=min(chosen.max_new_tokens, 32) if chosen.quick else chosen.max_new_tokens,
        quick=chosen.quick,
    )


BENCHMARK = Benchmark(
    "speculative",
    __doc__ or "",
    Speculation,
    _measured,
    tables,
    quick="two questions, one round, 32 tokens",
    numbers={"rounds": (1, ""), "max-new-tokens": (128, "")},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
