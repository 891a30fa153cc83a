"""What a mask costs: compiling, the first mask, every mask, and the share of a decoding step, over all engines.

    python -m benchmarks.masks                       measure; print the tables; keep them in benchmarks/results
    python -m benchmarks.masks --quick               three schemas, one round; keep nothing
    python -m benchmarks.masks --engines a,b         only these engines; keep nothing

Everyone gets the same schemas, the same texts, the same whitespace policy. Schemas are first tried out in a process of
its own (`engines.grammars.trials`), so that one that hangs or crashes is a line in the table and not the end of the
measurement; what compiles there is then timed here, in this process, after `WARM_UP` masks.

The overhead is measured where it counts: the model reads a valid text token by token, once alone, and once with a mask
computed, applied and committed at every step. Texts and passes are the same, so what differs is the mask. Contestants
alternate, round by round. On a machine with other guests that difference drowns in noise, so the seconds spent on masks
are also taken within the same pass.

SynCode takes grammars and no schemas, so it is compared with llguidance on grammars; the time its store takes stands
apart, for it is spent once per grammar and vocabulary. AWRS computes no masks: what counts is how many tokens it tests.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import engines
from benchmarks.command import Benchmark
from benchmarks.masks_tables import PLAIN, Cost, Masks, Pace, Probes, Store, tables
from benchmarks.report import Setting
from engines.constrained.syncode import Language, SynCode
from engines.events import Trials
from engines.grammars.constraint import BadGrammar, Constraint, GrammarLimit
from engines.grammars.gate import Gate
from engines.grammars.guidance import Whitespace, compile_guidance
from engines.grammars.peers import ENGINES, Engine, Peer, compile_with, installed, prepare
from engines.grammars.samples import ARITHMETIC, PERSON
from engines.grammars.trials import Examiner, Fed, Question, feed
from engines.labs.schema_set import Sample, samples, serialised
from engines.models.causal import CausalModel
from engines.runner import run
from playground.rounds import alternating

WHITESPACE: Whitespace = "one space"
WARM_UP = 50
TURNS = 3
SUBJECTS = (
    "names", "person", "address", "login", "purchase", "invoice", "shape", "recipe", "workload", "gateway", "article",
    "tree", "merged", "package", "linter", "formula", "layout", "one-of-three", "book-table", "convert",
)  # fmt: skip
GRAMMARS = {"arithmetic": (ARITHMETIC, ("(12 + 3) * 4", "7", "(1 + (2 * 3)) / 45 - 6"))}
PACED = ("person", "purchase")


class Bench:
    """A model, the engines that take part, and what was measured so far."""

    def __init__(
        self, model: CausalModel, names: Sequence[Engine], subjects: Sequence[Sample], turns: int = TURNS
    ) -> None:
        self.model, self.names, self.subjects, self.turns = model, names, subjects, turns
        self.vocabulary = model.vocabulary
        self.costs: list[Cost] = []
        self.paces: list[Pace] = []

    def schemas(self) -> None:
        """Every schema with every engine."""
        with Examiner(self.vocabulary) as examiner:
            for engine in self.names:
                prepare(engine, self.vocabulary)
                self._warm_up(engine)
                for sample in self.subjects:
                    print(f"{engine}: {sample.id}", file=sys.stderr)
                    self.costs.append(self._schema(engine, sample, examiner))

    def _schema(self, engine: Engine, sample: Sample, examiner: Examiner) -> Cost:
        schema = json.dumps(sample.schema)
        texts = [tuple(self.vocabulary.tokenise(serialised(value, WHITESPACE))) for value in sample.valid]
        if engine != "llguidance":
            tried = examiner.ask(Question(engine, "json schema", schema, WHITESPACE, tuple(texts)))
            if tried.status != "ok":
                return Cost(engine=engine, subject=sample.id, status=tried.status, message=tried.message)
        return cost(
            engine,
            sample.id,
            lambda: compile_with(engine, "json schema", schema, self.vocabulary, whitespace=WHITESPACE),
            texts,
            self.turns,
        )

    def _warm_up(self, engine: Engine) -> None:
        constraint = compile_with(engine, "regex", "[a-z]*", self.vocabulary)
        for token in self.vocabulary.tokenise("warm" * WARM_UP)[:WARM_UP]:
            constraint.mask()
            constraint.commit(token)

    def grammars(self) -> list[Store]:
        """llguidance and SynCode on grammars, and what SynCode's store takes."""
        return [self._grammar(name, *GRAMMARS[name]) for name in GRAMMARS]

    def _grammar(self, name: str, text: str, words: Sequence[str]) -> Store:
        texts = [tuple(self.vocabulary.tokenise(word)) for word in words]
        makers: dict[str, Callable[[], Constraint]] = {
            "llguidance": lambda: compile_guidance("grammar", text, self.vocabulary),
            "syncode, mask": lambda: SynCode(Language(text, self.vocabulary), mode="mask"),
            "syncode, exact": lambda: SynCode(Language(text, self.vocabulary), mode="exact"),
        }
        self.costs += [cost(engine, f"grammar: {name}", make, texts, self.turns) for engine, make in makers.items()]
        store = Language(text, self.vocabulary).store
        store.fill()
        return Store(grammar=name, lookahead=1, entries=len(store), seconds=store.seconds, bytes=store.bytes)

    def pace(self, rounds: int) -> None:
        """Seconds per token with and without masks, contestants in alternating order."""
        done = {(cost.engine, cost.subject) for cost in self.costs if cost.status == "ok" and cost.accepted}
        chosen = [sample for sample in self.subjects if sample.id in PACED] or list(self.subjects[:1])
        turn = 0
        for number in range(rounds):
            for sample in chosen:
                text = self.vocabulary.tokenise(serialised(sample.valid[0], WHITESPACE))
                schema = json.dumps(sample.schema)
                able: list[Engine | None] = [None, *(name for name in self.names if (name, sample.id) in done)]
                for engine in alternating(able, turn):
                    constraint = (
                        compile_with(engine, "json schema", schema, self.vocabulary, whitespace=WHITESPACE)
                        if engine
                        else None
                    )
                    seconds, masking = paced(self.model, text, constraint)
                    name, tokens = engine or PLAIN, len(text)
                    self.paces.append(
                        Pace(
                            engine=name,
                            subject=sample.id,
                            round=number,
                            seconds=seconds,
                            masking=masking,
                            tokens=tokens,
                        )
                    )
                turn += 1


def cost(
    engine: str, subject: str, make: Callable[[], Constraint], texts: Sequence[Sequence[int]], turns: int = TURNS
) -> Cost:
    """Compiles cold and feeds valid texts, `turns` times; nothing is kept from one turn to the next."""
    compiling: list[float] = []
    first: list[float] = []
    seconds: list[float] = []
    results: list[Fed] = []
    for _ in range(turns):
        start = time.perf_counter()
        try:
            constraint = make()
            whole = time.perf_counter() - start
            if isinstance(constraint, Peer):
                first.append(constraint.first_seconds)
                compiling.append(whole - constraint.first_seconds)
            else:
                fresh = constraint.fork()
                start = time.perf_counter()
                fresh.mask()
                first.append(time.perf_counter() - start)
                compiling.append(whole)
        except (BadGrammar, GrammarLimit) as refusal:
            return Cost(engine=engine, subject=subject, status="refused", message=str(refusal)[:200])
        results = [feed(constraint.fork(), text, seconds.append) for text in texts]
    return Cost(
        engine=engine,
        subject=subject,
        status="ok",
        compile_seconds=statistics.median(compiling),
        first_seconds=statistics.median(first),
        token_seconds=tuple(seconds),
        accepted=sum(fed.accepted for fed in results),
        texts=len(texts),
        disagreements=sum(fed.disagreements for fed in results),
    )


def paced(model: CausalModel, text: Sequence[int], constraint: Constraint | None) -> tuple[float, float]:
    """Seconds per token while the model reads a text, a mask before every token or none at all; and how many of them
    went into computing, applying and committing."""
    state = model.start()
    logits = state.extend(model.encode("Write a JSON object."), last=True, lane="prompt")[-1]
    gate = Gate(constraint, loud=False) if constraint else None
    masking = 0.0
    start = time.perf_counter()
    for place, token in enumerate(text):
        if gate:
            begin = time.perf_counter()
            logits = gate.filtered(logits, text[:place])
            masking += time.perf_counter() - begin
        logits.argmax()
        logits = state.extend([token], last=True)[-1]
    return (time.perf_counter() - start) / len(text), masking / len(text)


def tested(model: CausalModel, tokens: int) -> list[Probes]:
    """How many tokens AWRS tests per step."""
    tasks = {
        "json schema: person": {"constraint": "json schema", "grammar": PERSON, "predicate": "none"},
        "no letter e": {"predicate": "no letter e"},
    }
    found = []
    for task, params in tasks.items():
        events = list(run(model, "awrs", "Invent a person.", params=params, max_new_tokens=tokens))
        tests = tuple(event.tests for event in events if isinstance(event, Trials))
        found.append(Probes(task=task, tests=tests, vocabulary=len(model.vocabulary)))
    return found


def _measured(chosen: argparse.Namespace) -> Masks:
    model = engines.load(chosen.model)
    here = installed()
    wanted = [name.strip() for name in chosen.engines.split(",") if name.strip()]
    if missing := [name for name in wanted if name not in here]:
        sys.exit(f"{missing[0]} is not installed here; there are {', '.join(here)}.")
    names = [engine for engine in ENGINES if engine in here and (not wanted or engine in wanted)]
    ids = ("names", "person", "shape") if chosen.quick else SUBJECTS
    rounds, tokens = (1, 16) if chosen.quick else (chosen.rounds, 48)
    bench = Bench(model, names, [sample for sample in samples() if sample.id in ids], 1 if chosen.quick else TURNS)
    bench.schemas()
    stores = bench.grammars()
    bench.pace(rounds)
    return Masks(
        setting=Setting.of(model, max_new_tokens=tokens, rounds=rounds, quick=chosen.quick),
        engines={name: here[name] for name in names},
        whitespace=WHITESPACE,
        costs=bench.costs,
        paces=bench.paces,
        stores=stores,
        tests=tested(model, tokens),
    )


BENCHMARK = Benchmark(
    "masks",
    __doc__ or "",
    Masks,
    _measured,
    tables,
    quick="three schemas, one round",
    numbers={"rounds": (5, "rounds of the overhead")},
    parts={"engines": "only these engines"},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
