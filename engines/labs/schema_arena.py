"""The Schema Arena: which engine really enforces which part of JSON Schema, how fast, and does it say when it cannot.

After "Generating Structured Outputs from Language Models: Benchmark and Studies" (JSONSchemaBench), Geng et al.,
arXiv 2501.10868. This is no decoder: it puts engines to the test.

    1. for every schema and engine: compile; ok, refused, failed and too slow are told apart
    2. feed three valid and three invalid texts through the mask, token by token, and ask for the end behind them; every
       token is put to the mask and to `commit`, which must agree
    3. judge: right; under-constrained (an invalid text passed); over-constrained (a valid one did not); order only (it
       did, once its properties stood in the schema's order, which engines fix)
    4. time: TTFM, until the first mask, compilation included; TBM, mask and commit per token; percentiles over all
       tokens, on every engine's own schemas and on those that all engines took: who refuses the hard ones looks fast
    5. with `write`, the model writes an instance per schema with every engine and without any, greedily, and the
       referee says whether it is valid
    6. with `differences`, the masks of two engines are laid side by side along a valid text of one schema: the tokens
       that only one of them allows at each place, and why the other does not. That finds what finished texts cannot
       show, an engine that forbids too much

Measures over n schemas: declared coverage DC = mean(compiles); empirical coverage EC = mean(the written text is valid);
compliance rate CR = mean(valid | compiles), so that EC = CR · DC. True coverage, the share of schemas whose compiled
language is the schema's, cannot be computed; its estimate here is the share that is right (order only included).

Foreign engines run in a process of their own with limits on time and memory, because they crash and hang. The schemas
are ours (`engines.labs.schema_set`), an order of magnitude fewer than the paper's: the numbers are of this set.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

import msgspec
from msgspec import Meta

from engines.events import Compiled, Event, Mark, Matrix, Note, Score, Token
from engines.grammars.constraint import BadGrammar, DeadEnd, GrammarLimit
from engines.grammars.differences import WHY, Cause, Parting, partings
from engines.grammars.gate import Gate
from engines.grammars.guidance import Whitespace
from engines.grammars.peers import ENGINES, WHITESPACE, Engine, compile_with, installed
from engines.grammars.trials import SECONDS, Examiner, Question, Report, examine
from engines.labs.schema_set import (
    CLASSES,
    TIERS,
    Clock,
    Judgement,
    Sample,
    compliance_rate,
    declared_coverage,
    empirical_coverage,
    in_schema_order,
    is_valid,
    judged,
    percentile,
    samples,
    serialised,
    texts_of,
)
from engines.method import Paper, method
from engines.runner import Run

ALONE = "no constraint"
DIFFERENCES = "mask differences"
"""What the name of a matrix of them begins with; behind it the schema and the place."""
SHOWN_TEXT = 400
"""Characters of the text so far."""
SHARES = (0.5, 0.9, 0.99)

Contestants = Literal["llguidance", "llguidance + xgrammar", "all installed"]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    engines: Annotated[
        Contestants, Meta(description="Who takes part; engines that are not installed are named and left out")
    ] = "llguidance + xgrammar"
    tier: Annotated[
        Literal[
            "all",
            "trivial",
            "easy",
            "telemetry",
            "medium",
            "kubernetes",
            "newspaper",
            "hard",
            "store",
            "ultra",
            "functions",
        ],
        Meta(description="Which of the ten tiers of schemas"),
    ] = "hard"
    whitespace: Annotated[Whitespace, Meta(description="What may stand between the parts of JSON, for all engines")] = (
        "one space"
    )
    schemas: Annotated[int, Meta(ge=1, le=6, description="At most so many schemas of every tier")] = 6
    differences: Annotated[
        int,
        Meta(
            ge=0,
            le=6,
            description="Also lay the masks of two engines side by side, token by token, along a text of this schema "
            "of the tier; 0: of none",
        ),
    ] = 0
    write: Annotated[
        bool, Meta(description="Also let the model write a text per schema with each engine, and validate it")
    ] = False


@dataclass(slots=True)
class Entry:
    """One schema with one engine."""

    sample: Sample
    report: Report
    judgement: Judgement
    written: bool | None = None
    """Whether the model's text was valid; None when none was written."""


@dataclass(slots=True)
class Board:
    """What is known so far, engine by engine."""

    entries: dict[Engine, list[Entry]]
    clocks: dict[str, list[Clock]] = field(default_factory=dict)
    alone: list[bool] = field(default_factory=list)


@method(
    "schema-arena",
    title="Schema Arena",
    family="labs",
    paper=Paper("Generating Structured Outputs from Language Models", "Geng et al.", 2025, "2501.10868"),
    params=Params,
    idea="Every engine says that it supports JSON Schema. Put them to the test with texts that fit and texts that do "
    "not, and see who is right, who is silently wrong, and who says that it cannot.",
    look_at="Red is the colour to fear: there the engine took a schema and did not keep it. Grey was refused aloud.",
    pictures=("arena", "budget"),
)
def schema_arena(run: Run, params: Params) -> Iterator[Event]:
    versions = installed()
    wanted = list(ENGINES) if params.engines == "all installed" else params.engines.split(" + ")
    engines = [engine for engine in ENGINES if engine in wanted and engine in versions]
    for engine in ENGINES:
        if engine in wanted and engine not in versions:
            yield Note(text=f"{engine} is not installed here and does not take part: pip install {engine}.")
    yield Note(
        text="Between the parts of JSON: "
        + "; ".join(f"{engine} {versions[engine]} allows {WHITESPACE[engine][params.whitespace]}" for engine in engines)
        + "."
    )
    board = Board({engine: [] for engine in engines})
    with ExitStack() as stack:
        examiner = stack.enter_context(Examiner(run.model.vocabulary))
        for sample in chosen(params):
            for engine in engines:
                if run.finished:
                    break
                entry = put_to_the_test(run, engine, sample, params.whitespace, examiner)
                board.entries[engine].append(entry)
                yield compiled(engine, entry)
                if params.write and entry.report.status == "ok" and not run.finished:
                    yield from write(run, params, board, engine, entry)
            if sample in compared(params) and not run.finished:
                yield from part(run, params, board, sample)
            if params.write and not run.finished:
                yield from write(run, params, board, None, Entry(sample, Report("ok"), Judgement("right")))
    yield from tables(board)
    yield from remarks(board)


def chosen(params: Params) -> list[Sample]:
    """The schemas of a run."""
    tiers = TIERS if params.tier == "all" else (params.tier,)
    return [sample for tier in tiers for sample in [one for one in samples() if one.tier == tier][: params.schemas]]


def compared(params: Params) -> list[Sample]:
    """The schemas of a run, one of every tier at most, along which masks are laid side by side."""
    tiers = [[sample for sample in chosen(params) if sample.tier == tier] for tier in TIERS]
    place = params.differences
    return [samples[place - 1] for samples in tiers if 0 < place <= len(samples)]


def put_to_the_test(run: Run, engine: Engine, sample: Sample, whitespace: Whitespace, examiner: Examiner) -> Entry:
    """Steps 1 to 4 for one schema."""
    texts = texts_of(sample, whitespace)
    vocabulary = run.model.vocabulary
    question = Question(
        engine,
        "json schema",
        json.dumps(sample.schema),
        whitespace,
        tuple(tuple(vocabulary.tokenise(text)) for text in texts.texts),
    )
    # llguidance keeps its own limits; the others are kept at arm's length.
    report = examine(question, vocabulary) if engine == "llguidance" else examiner.ask(question, SECONDS)
    return Entry(sample, report, judged(report, texts))


def compiled(engine: Engine, entry: Entry) -> Compiled:
    """What became of a schema, with the verdict in numbers."""
    report, judgement = entry.report, entry.judgement
    sizes: dict[str, float] = {judgement.kind: 1}
    if report.status == "ok":
        sizes |= {
            "invalid accepted": judgement.under,
            "valid refused": judgement.over,
            "refused for its order": judgement.order,
            "mask and commit differ": judgement.disagreements,
            "tokens": len(report.token_seconds),
        }
        for share in SHARES:
            if (seconds := percentile(report.token_seconds, share)) is not None:
                sizes[f"seconds per token, p{share * 100:g}"] = seconds
    return Compiled(
        engine=engine,
        subject=f"{entry.sample.tier}/{entry.sample.id}",
        status="failed" if judgement.kind == "failed" else report.status,
        seconds=report.seconds,
        message=judgement.message,
        sizes=sizes,
    )


SHOWN = 8
"""Tokens named per cause and engine."""


def part(run: Run, params: Params, board: Board, sample: Sample) -> Iterator[Event]:
    """Step 6: where two engines part along a valid text of a schema. They are the first two that took it."""
    took = [engine for engine, entries in board.entries.items() if entries and took_it(entries[-1], sample)]
    name = f"{sample.tier}/{sample.id}"
    if len(took) < 2:
        who = took[0] if took else "no engine"
        yield Note(text=f"Masks are compared where two engines take a schema; {name} is taken by {who}.")
        return
    vocabulary = run.model.vocabulary
    text = serialised(in_schema_order(sample.valid[0], sample.schema), params.whitespace)
    one, other = (
        compile_with(engine, "json schema", json.dumps(sample.schema), vocabulary, whitespace=params.whitespace)
        for engine in took[:2]
    )
    causes: Counter[tuple[Cause, str]] = Counter()
    differing = places = 0
    try:
        for parting in partings(one, other, text):
            places += 1
            differing += bool(parting.differences)
            causes.update((found.cause, found.allowed_by) for found in parting.differences)
            if parting.differences:
                yield parted(name, parting, took[:2])
            if parting.stopped:
                yield Note(text=f"{parting.stopped} refuses the text of {name} itself at place {parting.place}.")
            if run.out_of_time:
                break
    except GrammarLimit as limit:
        yield Note(text=f"The comparison on {name} ended early. {limit}")
    yield Note(text=f"{name}: {took[0]} and {took[1]} differ at {differing} of {places} places.")
    for (cause, engine), count in causes.most_common():
        yield Note(
            text=f"{count} {'token' if count == 1 else 'tokens'} that only {engine} allows, {cause}: {WHY[cause]}."
        )


def took_it(entry: Entry, sample: Sample) -> bool:
    """Whether this is about that schema, and the engine took it."""
    return entry.sample.id == sample.id and entry.report.status == "ok"


def parted(name: str, parting: Parting, engines: Sequence[Engine]) -> Matrix:
    """One place of a text: how many tokens each of two engines alone allows, by cause; some of them as marks.

    The rows are the engines; `row_name` is the text so far, `column_name` how it goes on.
    """
    cells: dict[tuple[int, Cause], list[Token]] = defaultdict(list)
    for one in parting.differences:
        cells[engines.index(cast(Engine, one.allowed_by)), one.cause].append(one.token)
    causes = sorted({cause for _, cause in cells}, key=list(WHY).index)
    return Matrix(
        name=f"{DIFFERENCES} {name} {parting.place}",
        rows=tuple(f"only {engine}" for engine in engines),
        columns=tuple(f"{cause}: {WHY[cause]}" for cause in causes),
        values=tuple(
            tuple(float(len(cells.get((row, cause), ()))) for cause in causes) for row, _ in enumerate(engines)
        ),
        row_name=parting.before[-SHOWN_TEXT:],
        column_name=(parting.token.text or f"⟦{parting.token.hex}⟧") if parting.token else "",
        value_name="tokens",
        marks=tuple(
            Mark(row=row, column=column, name=token.text or f"⟦{token.hex}⟧")
            for row, _ in enumerate(engines)
            for column, cause in enumerate(causes)
            for token in spread(cells.get((row, cause), []), SHOWN)
        ),
    )


def spread(tokens: Sequence[Token], count: int) -> list[Token]:
    """At most `count`, from all over the list."""
    step = max(1, -(-len(tokens) // count))
    return list(tokens[::step])


SYSTEM = "Write one JSON value that fits this JSON Schema. Write nothing else.\n\n"


def write(run: Run, params: Params, board: Board, engine: Engine | None, entry: Entry) -> Iterator[Event]:
    """Step 5: a greedy text for one schema, under an engine or alone."""
    name, vocabulary = engine or ALONE, run.model.vocabulary
    schema = json.dumps(entry.sample.schema)
    start = time.perf_counter()
    gate = None
    try:
        if engine:
            gate = Gate(
                compile_with(engine, "json schema", schema, vocabulary, whitespace=params.whitespace), loud=False
            )
    except BadGrammar as refusal:
        yield Note(text=f"{engine} refused {entry.sample.id} at the second time of asking: {refusal}")
        return
    ready = time.perf_counter()
    ids = run.model.encode(SYSTEM + schema)[-(run.model.context_length - run.max_new_tokens - 1) :]
    state = run.model.start(run.ledger, run.clock.now)
    output: list[int] = []
    first, ended, trouble = 0.0, False, ""
    try:
        logits = state.extend(ids, last=True, lane="prompt")[-1]
        while len(output) < run.max_new_tokens and not run.out_of_time:
            token = int((gate.filtered(logits, output) if gate else logits).argmax())
            first = first or time.perf_counter()
            if token in vocabulary.ends:
                ended = True
                break
            output.append(token)
            logits = state.extend([token], last=True)[-1]
            yield from run.settle()
    except DeadEnd:
        trouble = "dead end"
    except GrammarLimit as limit:
        trouble = str(limit)[:120]
    end = time.perf_counter()
    text = vocabulary.decode(output).decode("utf-8", "replace")
    valid = ended and is_valid(entry.sample.schema, text)
    board.clocks.setdefault(name, []).append(Clock(start, ready, first or end, end, len(output)))
    if engine:
        entry.written = valid
    else:
        board.alone.append(valid)
    why = "valid" if valid else trouble or ("not valid" if ended else "cut off")
    yield Score(
        name="written text is valid",
        value=float(valid),
        parts={"tokens": float(len(output)), "seconds": end - start},
        chosen=valid,
        sequence=sum(len(clocks) for clocks in board.clocks.values()) - 1,
        text=f"{name}, {entry.sample.id}, {why}: {text}"[:400],
    )


def tables(board: Board) -> Iterator[Matrix]:
    """The measures of the paper, and the honesty counts."""
    groups = {
        f"{engine}, {tier}": [entry for entry in entries if entry.sample.tier == tier]
        for engine, entries in board.entries.items()
        for tier in TIERS
    }
    groups = {name: entries for name, entries in groups.items() if entries}
    if not groups:
        return
    yield Matrix(
        name="coverage",
        rows=tuple(groups),
        columns=("DC declared", "right", "EC empirical", "CR compliance"),
        values=tuple(coverage(entries) for entries in groups.values()),
        row_name="engine, tier",
        value_name="share",
    )
    yield Matrix(
        name="honesty",
        rows=tuple(groups),
        columns=CLASSES,
        values=tuple(
            tuple(float(sum(entry.judgement.kind == kind for entry in entries)) for kind in CLASSES)
            for entries in groups.values()
        ),
        row_name="engine, tier",
        value_name="schemas",
    )
    shared = taken_by_all(board)
    rows = {}
    for which in ("own", "shared"):
        for engine, entries in board.entries.items():
            taken = [entry for entry in entries if entry.report.status == "ok"]
            taken = [entry for entry in taken if entry.sample.id in shared or which == "own"]
            rows[f"{engine}, {which} {len(taken)}"] = taken
    yield Matrix(
        name="time",
        rows=tuple(rows),
        columns=tuple(f"{name} p{share * 100:g}" for name in ("TTFM", "TBM") for share in SHARES),
        values=tuple(times(entries) for entries in rows.values()),
        row_name="engine, set",
        value_name="seconds",
    )
    if board.clocks:
        yield Matrix(
            name="writing",
            rows=tuple(board.clocks),
            columns=("GCT s", "TTFT s", "TPOT ms", "TGT s", "valid"),
            values=tuple(writing(board, name) for name in board.clocks),
            row_name="engine",
            value_name="medians; valid is a share of the texts",
        )


def coverage(entries: Sequence[Entry]) -> tuple[float | None, ...]:
    """DC, the share that is right, and, where the model wrote, EC and CR."""
    declared = [entry.report.status == "ok" for entry in entries]
    right = [entry.judgement.kind in ("right", "order only") for entry in entries]
    wrote = any(entry.written is not None for entry in entries)
    valid = [bool(entry.written) for entry in entries]
    return (
        declared_coverage(declared),
        sum(right) / len(right),
        empirical_coverage(valid) if wrote else None,
        compliance_rate(declared, valid) if wrote else None,
    )


def taken_by_all(board: Board) -> set[str]:
    """The schemas that every engine took, by id."""
    sets = [{entry.sample.id for entry in entries if entry.report.status == "ok"} for entries in board.entries.values()]
    return set.intersection(*sets) if sets else set()


def times(entries: Sequence[Entry]) -> tuple[float | None, ...]:
    """The percentiles of TTFM and TBM in seconds."""
    first = [entry.report.seconds for entry in entries]
    each = [seconds for entry in entries for seconds in entry.report.token_seconds]
    return (
        *(percentile(first, share) for share in SHARES),
        *(percentile(each, share) for share in SHARES),
    )


def writing(board: Board, name: str) -> tuple[float | None, ...]:
    """Medians of the paper's times, and how many texts were valid."""
    clocks = board.clocks[name]
    valid = (
        board.alone
        if name == ALONE
        else [entry.written for engine, all_ in board.entries.items() if engine == name for entry in all_]
    )
    outputs = [bool(one) for one in valid if one is not None]
    return (
        percentile([clock.compilation for clock in clocks], 0.5),
        percentile([clock.to_first for clock in clocks], 0.5),
        percentile([clock.per_token for clock in clocks if clock.per_token is not None], 0.5),
        percentile([clock.total for clock in clocks], 0.5),
        empirical_coverage(outputs),
    )


def remarks(board: Board) -> Iterator[Note]:
    """What the tables mean, and what was found, in words."""
    yield Note(
        text="DC: the share of schemas that compile. Right: every text was judged as the validator judges it. "
        "EC: the share whose written text is valid. CR: the same among those that compile, so EC = CR · DC."
    )
    yield Note(
        text="TTFM: seconds until the first mask, compilation included. TBM: seconds for mask and commit, per token. "
        "The shared set holds the schemas that every engine took: who refuses the hard ones looks fast otherwise."
    )
    for engine, entries in board.entries.items():
        count = {kind: sum(entry.judgement.kind == kind for entry in entries) for kind in CLASSES}
        wrong = count["under"] + count["both"]
        yield Note(
            text=f"{engine}: of {len(entries)} schemas {count['right']} right, {count['order only']} but for the order "
            f"of properties, {wrong} taken and not kept, {count['over']} kept too strictly, {count['refused']} refused "
            f"aloud, {count['failed'] + count['too slow']} failed or too slow."
        )
