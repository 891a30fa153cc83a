"""What watching costs: greedy decoding with every event and the database on, against `transformers.generate`.

    python -m benchmarks.overhead            measure; print the tables; keep them in benchmarks/results
    python -m benchmarks.overhead --quick    two short prompts; keep nothing

Everyone decodes the same prompts from text to text, on the same weights, in the same process, in alternating order.
Speed is tokens over wall time, the prompt's own pass included. The split of a token's time is read off the same runs:
forward passes are timed where the model is called, the generator's time is the runner's clock, and what lies around
the generator is the database's and the pictures'.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

import engines
from benchmarks.command import Benchmark
from benchmarks.peer import Peer
from benchmarks.questions import Question, one_of_each
from benchmarks.report import Setting, table
from benchmarks.rounds import Timing
from engines.events import Event, Finished, Forward
from engines.models.causal import CausalModel
from engines.runner import run
from playground.rounds import Spread, alternating
from playground.store import Store
from playground.turnstile import Turnstile
from visuals.picture import pictures

PEER = "transformers generate"
EVENTS = "greedy, all events"
DATABASE = "greedy, all events, database"
PICTURES = "greedy, all events, database, all pictures"
CONTESTANTS = (PEER, EVENTS, DATABASE, PICTURES)

DRAW_EVERY = 0.1
"""Seconds between drawings, as on the page; the page draws only what is in sight, here everything is drawn."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt decoded once. All times in seconds."""

    contestant: str
    question: str
    round: int
    timing: Timing
    prompt_passes: float = 0.0
    passes: float = 0.0
    """In forward passes; for transformers those over the prompt are in here too."""
    choosing: float = 0.0
    """In the generator outside of forward passes: choosing the token, making and stamping events."""
    keeping: float = 0.0
    """In the database and the turnstile."""
    drawing: float = 0.0


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """The whole measurement."""

    setting: Setting
    samples: list[Sample]
    speed: dict[str, Spread]
    """Tokens per second."""
    ratio: dict[str, Spread]
    """Speed over that of transformers with the same prompt in the same round."""
    same_text: int
    """Prompts for which transformers and the playground chose the same tokens."""
    prompts: int


class Timed(Iterator[Event]):
    """The same events; adds up the time it takes to get them."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self.seconds = 0.0

    def __next__(self) -> Event:
        start = time.perf_counter()
        try:
            return next(self._events)
        finally:
            self.seconds += time.perf_counter() - start


class Drawer:
    """Draws every picture that has something to show, ten times a second, as JSON for the page."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._due = 0.0
        self._pictures = list(pictures().values())

    def look(self, events: Sequence[Event]) -> None:
        """Draws if it is time to."""
        start = time.perf_counter()
        if start < self._due:
            return
        self._due = start + DRAW_EVERY
        for picture in self._pictures:
            if picture.relevant(events):
                msgspec.json.encode(picture.draw(events))
        self.seconds += time.perf_counter() - start


def measure(
    model: CausalModel, questions: Sequence[Question], *, rounds: int, max_new_tokens: int, quick: bool
) -> Overhead:
    """Decodes every question with every contestant in every round."""
    peer = Peer(model)
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "runs.sqlite") as store:

        def by_transformers(prompt: str, tokens: int) -> tuple[Sample, list[int]]:
            start = time.perf_counter()
            output, work = peer.generate(model.encode(prompt), tokens)
            model.decode(output)
            timing = Timing(len(output), time.perf_counter() - start)
            rest = timing.seconds - work.seconds
            return Sample(
                contestant=PEER, question="", round=0, timing=timing, passes=work.seconds, choosing=rest
            ), output

        def by_playground(prompt: str, tokens: int, *, contestant: str) -> tuple[Sample, list[int]]:
            drawer = Drawer() if contestant == PICTURES else None
            seen: list[Event] = []
            start = time.perf_counter()
            inner = Timed(run(model, "greedy", prompt, max_new_tokens=tokens))
            prepared = time.perf_counter() - start
            kept = contestant != EVENTS
            events: Iterator[Event] = store.recording(Turnstile().take_turns(inner)) if kept else inner
            for event in events:
                seen.append(event)
                if drawer:
                    drawer.look(seen)
            seconds = time.perf_counter() - start
            last = seen[-1]
            assert isinstance(last, Finished)
            passes = [event for event in seen if isinstance(event, Forward)]
            prompt_passes = sum(each.seconds for each in passes if each.lane == "prompt")
            other_passes = sum(each.seconds for each in passes if each.lane != "prompt")
            drawing = drawer.seconds if drawer else 0.0
            sample = Sample(
                contestant=contestant,
                question="",
                round=0,
                timing=Timing(last.totals.tokens, seconds),
                prompt_passes=prompt_passes,
                passes=other_passes,
                choosing=prepared + inner.seconds - prompt_passes - other_passes,
                keeping=seconds - prepared - inner.seconds - drawing if kept else 0.0,
                drawing=drawing,
            )
            return sample, list(last.token_ids)

        def decode(contestant: str, prompt: str, tokens: int) -> tuple[Sample, list[int]]:
            if contestant == PEER:
                return by_transformers(prompt, tokens)
            return by_playground(prompt, tokens, contestant=contestant)

        samples, same = _rounds(questions, decode, rounds, max_new_tokens)
        if store.problem:
            print(f"The database was not written, so its cost is not measured: {store.problem}", file=sys.stderr)
    setting = Setting.of(model, max_new_tokens=max_new_tokens, rounds=rounds, quick=quick)
    return summarise(setting, samples, same, len(questions))


def _rounds(
    questions: Sequence[Question],
    decode: Callable[[str, str, int], tuple[Sample, list[int]]],
    rounds: int,
    max_new_tokens: int,
) -> tuple[list[Sample], int]:
    """The samples, and for how many questions all contestants chose the same tokens."""
    for contestant in CONTESTANTS:  # the first call of everything is slower
        decode(contestant, questions[0].prompt, 8)
    samples: list[Sample] = []
    outputs: dict[str, set[tuple[int, ...]]] = {question.id: set() for question in questions}
    for turn in range(rounds * len(questions)):
        round, number = divmod(turn, len(questions))
        question = questions[number]
        print(f"round {round + 1} of {rounds}: {question.id}", file=sys.stderr)
        for contestant in alternating(CONTESTANTS, turn):
            sample, output = decode(contestant, question.prompt, max_new_tokens)
            samples.append(msgspec.structs.replace(sample, question=question.id, round=round))
            outputs[question.id].add(tuple(output))
    return samples, sum(len(different) == 1 for different in outputs.values())


def summarise(setting: Setting, samples: list[Sample], same_text: int, prompts: int) -> Overhead:
    """Speeds, and ratios within each prompt and round."""
    by_round = {(sample.contestant, sample.question, sample.round): sample.timing.speed for sample in samples}
    places = sorted({(sample.question, sample.round) for sample in samples})
    return Overhead(
        setting=setting,
        samples=samples,
        speed={name: Spread.of([by_round[name, *place] for place in places]) for name in CONTESTANTS},
        ratio={
            name: Spread.of([by_round[name, *place] / by_round[PEER, *place] for place in places])
            for name in CONTESTANTS
        },
        same_text=same_text,
        prompts=prompts,
    )


def tables(result: Overhead) -> str:
    """Speeds, and where a token's time goes, in Markdown."""
    speeds = table(
        ["", "tokens/s, median", "quartiles", "× transformers, median", "lowest – highest"],
        [
            [
                name,
                f"{speed.median:.1f}",
                f"{speed.low:.1f} – {speed.high:.1f}",
                f"{ratio.median:.2f}",
                f"{ratio.minimum:.2f} – {ratio.maximum:.2f}",
            ]
            for name, speed, ratio in ((name, result.speed[name], result.ratio[name]) for name in CONTESTANTS)
        ],
    )
    parts: dict[str, tuple[Callable[[Sample], float], Callable[[Sample], float]]] = {
        "forward passes, prompt included": (lambda s: s.passes, lambda s: s.prompt_passes + s.passes),
        "choosing the token; all events": (lambda s: s.choosing, lambda s: s.choosing),
        "database": (lambda s: 0.0, lambda s: s.keeping),
        "drawing all pictures, 10 times a second": (lambda s: 0.0, lambda s: s.drawing),
        "together": (lambda s: s.timing.seconds, lambda s: s.timing.seconds),
    }
    split = table(
        ["milliseconds per token, median", "transformers generate", "playground, everything on"],
        [
            [name, _milliseconds(result, PEER, theirs), _milliseconds(result, PICTURES, ours)]
            for name, (theirs, ours) in parts.items()
        ],
    )
    note = f"Same tokens for {result.same_text} of {result.prompts} prompts. {result.setting.sentence()}"
    return f"{speeds}\n\n{split}\n\n{note}"


def _milliseconds(result: Overhead, contestant: str, part: Callable[[Sample], float]) -> str:
    per_token = [1000 * part(s) / s.timing.tokens for s in result.samples if s.contestant == contestant]
    median = statistics.median(per_token)
    return f"{median:.2f}" if median else "–"


def _measured(chosen: argparse.Namespace) -> Overhead:
    questions = one_of_each()[:2] if chosen.quick else one_of_each()
    return measure(
        engines.load(chosen.model),
        questions,
        rounds=1 if chosen.quick else chosen.rounds,
        max_new_tokens=min(chosen.max_new_tokens, 32) if chosen.quick else chosen.max_new_tokens,
        quick=chosen.quick,
    )


BENCHMARK = Benchmark(
    "overhead",
    __doc__ or "",
    Overhead,
    _measured,
    tables,
    quick="two prompts, one round, 32 tokens",
    numbers={"rounds": (3, ""), "max-new-tokens": (128, "")},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
