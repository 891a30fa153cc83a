"""One run: a method, a model and a prompt, turned into a stream of events.

    for event in engines.run(model, "greedy", "What is photosynthesis?"):
        ...

`run` checks the request, feeds the prompt, starts the method's generator, and stamps every event with its
sequence number and the decode time so far. The clock stands still while the generator is suspended, so
drawing, storing and other people's turns are not decode time. Closing the generator stops the work.

A method sees a `Run`. Its promises: `sequence` is prompt and output; `next_logits()` reads what is not yet
cached, in one pass; `commit()` is the only way into the output, and it enforces the end of text, the token
limit, stop strings, the time limit and the context length.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from engines.errors import BadParameter, EmptyPrompt, EndOfText, NeedNotMet, PromptTooLong
from engines.events import (
    Candidates,
    Commit,
    Curve,
    Event,
    Finished,
    Note,
    Origin,
    Placed,
    Reason,
    Stage,
    Started,
)
from engines.grammars.constraint import DeadEnd
from engines.grammars.gate import Gate
from engines.grammars.guidance import Whitespace
from engines.grammars.kinds import constraint_for
from engines.method import NEED_WORDS, Method, Need, find
from engines.models.causal import CausalModel, State
from engines.sampling import Sampler, top_choices
from engines.tally import Tally

PROMPT_CHUNK = 256
"""Prompt tokens per pass: short enough that Stop acts soon, long enough to be efficient."""

SHOWN_CANDIDATES = 10
MAX_NEW_TOKENS = 4096


class Stopwatch:
    """Decode time: runs only between `start` and `stop`."""

    def __init__(self) -> None:
        self._total = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self._total, self._since = self.seconds, None

    def now(self) -> float:
        """`seconds`, for those who ask again and again. Unlike the run it may be held by the run's own state: the
        state of a run that nobody holds any more is then freed at once, and with it its memory and connections."""
        return self.seconds

    @property
    def seconds(self) -> float:
        return self._total + (time.perf_counter() - self._since if self._since is not None else 0.0)


class Run:
    """What a method works with."""

    def __init__(
        self,
        model: CausalModel,
        prompt: Sequence[int],
        *,
        seed: int = 0,
        max_new_tokens: int = 128,
        stop: Sequence[str] = (),
        time_limit: float | None = None,
        person: str = "",
        raw: bool = False,
    ) -> None:
        self.model = model
        self.raw = raw
        """Whether the prompt stands as it was written, without a chat template."""
        self.person = person
        """Whose run this is: what a method remembers from run to run, it remembers for this person alone."""
        self.prompt = list(prompt)
        self.output: list[int] = []
        self.rng = torch.Generator(device=model.device).manual_seed(seed)
        self.max_new_tokens = max_new_tokens
        self.stop = tuple(text for text in stop if text)
        self.time_limit = time_limit
        self.clock = Stopwatch()
        self.ledger: list[Event] = []
        self.state: State = model.start(self.ledger, self.clock.now)
        self.reason: Reason | None = None
        self.truncated: bool = getattr(model, "truncated", False)
        """Logits are log-probabilities of the most probable tokens, -inf elsewhere (`engines.models.remote`)."""
        self.given = 0
        self.prompt_hidden: list[Tensor] | None = None
        """Hidden states (tokens, width) of what `read_prompt` read, piece by piece, for methods that need them."""
        self.gate: Gate | None = None
        """What the text is held to, once the method has made its sampler."""
        self.work: Iterator[Event] | None = None
        """The method's generator, once it has begun."""
        self._step = 0
        self._tail = max((len(text) for text in self.stop), default=0)

    @property
    def sequence(self) -> list[int]:
        """Prompt and output, as token ids."""
        return self.prompt + self.output

    @property
    def position(self) -> int:
        """Where the next token goes: 0 is the first generated one."""
        return len(self.output)

    @property
    def root(self) -> int:
        """The last committed token (or last prompt token): the one whose successor is decided next."""
        return self.output[-1] if self.output else self.prompt[-1]

    @property
    def remaining(self) -> int:
        """Tokens that may still be committed."""
        room = self.model.context_length - len(self.prompt) - len(self.output)
        return min(self.max_new_tokens + self.given - len(self.output), room)

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end. Looks at the clock."""
        if self.reason is None and self.out_of_time:
            self.reason = "time limit"
        return self.reason is not None

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit has passed. Methods that commit only at the end ask this while they search."""
        return self.time_limit is not None and self.clock.seconds >= self.time_limit

    def read_prompt(self) -> Iterator[Event]:
        """Caches all but the last token of prompt and output, in chunks."""
        pending = self.sequence[self.state.length : -1]
        # Where only the first pass may hold several tokens, it holds all of them.
        chunk = len(pending) if getattr(self.model, "stepwise", False) else PROMPT_CHUNK
        for start in range(0, len(pending), chunk or 1):
            self.state.extend(pending[start : start + chunk], last=True, lane="prompt")
            if self.prompt_hidden is not None and self.state.hidden is not None:
                self.prompt_hidden.append(self.state.hidden)
            yield from self.settle()

    def next_logits(self) -> Tensor:
        """The model's logits (vocabulary,) for the next token. One forward pass over what is not cached yet."""
        return self.state.extend(self.sequence[self.state.length :], last=True)[-1]

    def candidates(
        self, logits: Tensor, *, stages: Sequence[Stage] = (), position: int | None = None, sequence: int = 0
    ) -> Candidates:
        """The event that shows what the model wanted, from raw logits (vocabulary,)."""
        place = self.position if position is None else position
        if self.gate and (mask := self.gate.event(place, logits)):
            self.ledger.append(mask)
        log_p = logits if self.truncated else logits.log_softmax(-1)
        p = log_p.exp()
        top = top_choices(p, SHOWN_CANDIDATES, self.model.token)
        return Candidates(
            position=place,
            raw=tuple(choice for choice in top if choice.p > 0) if self.truncated else top,
            entropy=-float((p * log_p).nan_to_num(0.0).sum()),
            stages=tuple(stages),
            sequence=sequence,
        )

    def shown(self, logits: Tensor, position: int) -> tuple[Event, ...]:
        """For methods that keep several texts: what to show of the choice just made for one of them, should its text
        be committed. `candidates`, and before it what a constraint blocked."""
        mask = self.gate.event(position, logits) if self.gate else None
        return (*([mask] if mask else []), self.candidates(logits, position=position))

    def sampler(self, settings: Any, *, forcing: bool = False, whitespace: Whitespace = "one space") -> Sampler:
        """A sampler of this run by a method's settings, which holds the text to their constraint if they have one.

        Raises `BadGrammar` when the constraint cannot be used. Compiling is not decode time.
        """
        gate = None
        kind = getattr(settings, "constraint", "none")
        if kind != "none":
            with self.aside():
                gate = Gate(constraint_for(kind, settings.grammar, self.model, forcing=forcing, whitespace=whitespace))
            gate.follow(self.output)
            self.gate = gate
        return Sampler(settings, self.model.token, gate)

    def placed(
        self, token: int, origin: Origin = "sampled", *, logits: Tensor | None = None, final: float | None = None
    ) -> Placed:
        """A token for `commit`; raw probability and rank are read off the raw logits (vocabulary,)."""
        spelled = self.model.token(token)
        if logits is None:
            return Placed(spelled, origin, final=final)
        raw = float((logits[token] - (0.0 if self.truncated else logits.logsumexp(-1))).exp())
        return Placed(spelled, origin, raw=raw, final=final, rank=int((logits > logits[token]).sum()))

    def commit(self, *tokens: Placed) -> Generator[Event, None, int]:
        """Appends tokens to the output, up to the first that ends the run; returns how many were taken."""
        kept: list[Placed] = []
        for placed in tokens:
            if self.reason is not None:
                break
            kept.append(placed)
            self.output.append(placed.token.id)
            self.reason = self.ends(self.output)
        if kept:
            yield Commit(position=self.position - len(kept), step=self._step, tokens=tuple(kept))
            self._step += 1
        return len(kept)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done inside is not decode time: measuring the machine, loading a second model."""
        self.clock.stop()
        try:
            yield
        finally:
            self.clock.start()

    def cost_curve(self, model: CausalModel | None = None) -> Curve:
        """The machine's t(q), of this run's model or another one. Measured once per model."""
        with self.aside():
            return (model or self.model).cost_curve()

    def settle(self) -> Iterator[Event]:
        """The passes and cache operations since the last call, as events."""
        while self.ledger:
            yield self.ledger.pop(0)

    def ends(self, output: Sequence[int]) -> Reason | None:
        """Why the run would end if its output, given tokens included, were `output`; None if it would go on."""
        if output[-1] in self.model.eos_ids:
            return "end of text"
        if self.stop:
            # A token is at least one byte long, so this many tokens hold every text that a stop string could end.
            tail = self.model.decode(output[self.given :][-(4 * self._tail + 8) :])
            if any(text in tail for text in self.stop):
                return "stop string"
        if len(output) - self.given >= self.max_new_tokens:
            return "token limit"
        if len(self.prompt) + len(output) >= self.model.context_length:
            return "context full"
        return None

    def text(self) -> str:
        """What the output spells; a final end-of-text token spells nothing."""
        ids = self.output[:-1] if self.output and self.output[-1] in self.model.eos_ids else self.output
        return self.model.decode(ids)


def run(
    model: CausalModel,
    method: str,
    prompt: str,
    *,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    max_new_tokens: int = 128,
    raw: bool = False,
    prefix: Sequence[int] = (),
    stop: Sequence[str] = (),
    time_limit: float | None = None,
    person: str = "",
) -> Iterator[Event]:
    """Decodes. The request is checked at the call, the work happens while the events are read.

    Args:
        model: from `engines.load`.
        method: a method's id; `params` are its settings by name.
        prompt: the user's words; put into the model's chat template unless `raw`.
        seed: the same seed gives the same events, times apart.
        max_new_tokens: generated tokens at most, `prefix` not counted.
        prefix: output token ids to begin with, so that a run can branch off another.
        stop: the run ends with the token that completes one of these strings.
        time_limit: seconds of decode time.
        person: whose run it is, any text; methods that learn from run to run keep what they learn apart by it.

    Returns:
        The events: `Started` first, `Finished` last.

    Raises:
        DecodingError: the request cannot be met; the message says why.
    """
    spec = find(method)
    settings = spec.validate(params)
    check_needs(spec, model)
    check_number("max_new_tokens", max_new_tokens, 1, MAX_NEW_TOKENS)
    check_number("seed", seed, 0, 2**63 - 1)
    if time_limit is not None and not 0 < time_limit < float("inf"):
        raise BadParameter(f"time_limit must be a positive number of seconds, not {time_limit}.")
    prompt = encodable(prompt)
    prompt_ids = encode_prompt(model, prompt, raw)
    if outside := [id for id in prefix if not 0 <= id < model.vocabulary_size]:
        raise BadParameter(f"Token {outside[0]} is not in this model's vocabulary of {model.vocabulary_size:,}.")
    if len(prompt_ids) + len(prefix) >= model.context_length:
        raise PromptTooLong(len(prompt_ids) + len(prefix), model.context_length - 1)
    stop = [encodable(text) for text in stop]
    limits = {"max_new_tokens": max_new_tokens, "stop": stop, "time_limit": time_limit}
    job = Run(model, prompt_ids, seed=seed, person=person, raw=raw, **limits)  # type: ignore[arg-type]
    started = Started(
        model=model.name,
        weights=model.weights,
        precision=model.precision,
        method=spec.id,
        family=spec.family,
        lossless=spec.lossless and (model.steady or Need.ROLLBACK not in spec.needs),
        params=msgspec.to_builtins(settings),
        prompt=encodable(prompt),
        prompt_tokens=tuple(model.token(id) for id in prompt_ids[-4096:]),
        prompt_length=len(prompt_ids),
        seed=seed,
        max_new_tokens=max_new_tokens,
        raw_prompt=raw,
        stop=job.stop,
        time_limit=time_limit,
        versions=library_versions(),
        machine=machine(model.device.type),
        code=code(),
    )
    return _stamped(job, _decode(job, spec, settings, started, list(prefix)))


def _decode(job: Run, spec: Method, settings: Any, started: Started, prefix: list[int]) -> Iterator[Event]:
    yield started
    if prefix:
        job.given = len(prefix)
        job.output += prefix
        yield Commit(position=0, step=0, tokens=tuple(Placed(job.model.token(id), "given") for id in prefix))
        job._step = 1
    if Need.HIDDEN_STATES in spec.needs:
        job.prompt_hidden = []
    if spec.lossless and not started.lossless:
        yield Note(
            text=f"With {job.model.precision} weights a token's logits depend on what else is in the pass, "
            "so this method is not exactly lossless here."
        )
    for remark in getattr(job.model, "remarks", ()):
        yield Note(text=remark)
    if Need.GRADIENTS not in spec.needs:
        yield from job.read_prompt()
    job.work = spec.generate(job, settings)
    try:
        for event in job.work:
            yield from job.settle()
            yield event
    except EndOfText:
        job.reason = "end of text"
    except DeadEnd:
        job.reason = "dead end"
        yield Note(
            text="Nothing may follow here: no token of this model fits the constraint, not even the end of the text. "
            "The text so far is kept. Loosen the constraint, or try another seed."
        )
    finally:
        if isinstance(job.work, Generator):
            job.work.close()
    yield from job.settle()


def _stamped(job: Run, events: Iterator[Event]) -> Iterator[Event]:
    """Stamps events, lets the clock run only while the method works, and adds up the totals."""
    tally = Tally()
    sequence = 0
    try:
        while True:
            job.clock.start()
            try:
                event = next(events, None)
            finally:
                job.clock.stop()
            if event is None:
                break
            event = msgspec.structs.replace(event, seq=sequence, time=job.clock.seconds, at=where(job.work))
            sequence += 1
            tally.count([event])
            yield event
        reason = (job.finished and job.reason) or "method done"
        if reason == "time limit":
            note = Note(text="The time limit was reached, so it ends here.", seq=sequence, time=job.clock.seconds)
            sequence += 1
            yield note
        tally.seconds = job.clock.seconds
        yield Finished(
            seq=sequence,
            time=tally.seconds,
            reason=reason,
            text=job.text(),
            token_ids=tuple(job.output),
            totals=tally.totals,
        )
    finally:
        events.close()  # type: ignore[attr-defined]


def encode_prompt(model: CausalModel, prompt: str, raw: bool) -> list[int]:
    """Token ids of the prompt. Raises `EmptyPrompt` or `PromptTooLong`."""
    if not prompt.strip():
        raise EmptyPrompt
    # No tokenizer packs this many characters into a token: refuse before spending seconds on it.
    if len(prompt) > 64 * model.context_length:
        raise PromptTooLong(len(prompt), 64 * model.context_length, unit="characters")
    ids = model.encode(prompt, raw=raw)
    if not ids:
        raise EmptyPrompt
    if len(ids) >= model.context_length:
        raise PromptTooLong(len(ids), model.context_length - 1)
    return ids


def encodable(text: str) -> str:
    """The text with lone surrogates, which broken clipboards produce and no encoding takes, as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def check_needs(method: Method, model: CausalModel) -> None:
    """Raises `NeedNotMet` when the model lacks what the method asks for."""
    if missing := method.needs & ~model.has:
        words = " and ".join(NEED_WORDS[need] for need in missing)
        way_out = "Load its float32 version" if missing == Need.GRADIENTS else "Try greedy or sampling"
        raise NeedNotMet(f"{method.title} needs {words}, which {model.title} does not have. {way_out}.")


def check_number(name: str, value: object, low: int, high: int) -> None:
    """Raises `BadParameter` unless value is a whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadParameter(f"{name} must be a whole number from {low:,} to {high:,}, not {str(value)[:40]}.")


@cache
def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()}


@cache
def code() -> str:
    """Hash of the sources of `engines`."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def where(work: Any) -> str:
    """Module and line at which a suspended generator stands, in the innermost frame that is not the runner's."""
    at = ""
    while (frame := getattr(work, "gi_frame", None)) is not None:
        if frame.f_code.co_filename != __file__:
            at = f"{frame.f_globals.get('__name__', '')}:{frame.f_lineno}"
        work = work.gi_yieldfrom
    return at


def machine(device: str) -> str:
    """The kind of machine, without its name."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()}-core {platform.machine()}"
    return f"{name}, {torch.get_num_threads()} threads"
