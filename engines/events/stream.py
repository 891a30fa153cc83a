"""What every run has: its header, tokens with their probabilities, passes, notes, its end."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Origin = Literal["sampled", "drafted", "bonus", "correction", "forced", "copied", "given"]
"""Why a token is in the output: `sampled` is the model's own choice (greedy or drawn), `drafted` a
confirmed guess, `copied` a confirmed guess copied from the text, `bonus` the free token after a fully
confirmed draft, `correction` the token that replaces a refused guess, `given` fixed before the run."""


class Token(msgspec.Struct, frozen=True):
    """One vocabulary entry as the model sees it. `hex` is set, and `text` empty, for bytes that are not UTF-8."""

    id: int
    text: str
    hex: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2})*\Z")] = ""


class Choice(msgspec.Struct, frozen=True):
    """A token with a probability; whose probability it is, the event that holds it says."""

    token: Token
    p: float


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower):
    """What all events share: the runner's stamp."""

    seq: int = -1
    time: float = 0.0
    at: str = ""
    """Module and line that the method had come to, e.g. `engines.speculative.loop:47`; empty for the runner's own."""


class Started(Event, frozen=True, kw_only=True):
    """The header of a run: all that is needed to reproduce it. Always the first event."""

    model: str
    weights: str
    """Hash of the weights, so that two runs can be known to have used the same model."""
    precision: str
    method: str
    family: str
    lossless: bool
    params: dict[str, bool | int | float | str | None]
    prompt: str
    prompt_tokens: tuple[Token, ...]
    """The prompt as fed to the model, chat template included; at most the last 4,096 tokens."""
    prompt_length: int
    seed: int
    max_new_tokens: int
    raw_prompt: bool
    stop: tuple[str, ...] = ()
    time_limit: float | None = None
    versions: dict[str, str]
    machine: str
    code: str = ""
    """Hash of the sources of `engines`, so that a line in `at` can be known to be the line of today."""


class Stage(msgspec.Struct, frozen=True):
    """What one filter or penalty did to the distribution, in the order of application."""

    name: str
    kept: int
    """Tokens still possible after this stage."""
    removed_mass: float
    """Probability, before this stage, of the tokens that it removed."""
    removed: tuple[Choice, ...]
    """The most probable removed tokens, with their probability before this stage."""
    top: tuple[Choice, ...]
    """The most probable tokens after this stage, renormalised."""


class Candidates(Event, frozen=True, kw_only=True):
    """What the model wanted at one position: its top tokens, and what each filter left of them."""

    position: int
    raw: tuple[Choice, ...]
    """Top tokens by the model's own softmax, most probable first."""
    entropy: float
    """Entropy of the model's own distribution, in nats."""
    stages: tuple[Stage, ...] = ()
    sequence: int = 0
    """Which of several parallel sequences this is about (best-of-n, beams); 0 when there is one."""


class Placed(msgspec.Struct, frozen=True):
    """A token of the output with the reason why it is there."""

    token: Token
    origin: Origin
    raw: float | None = None
    """The model's own probability of this token at this place."""
    final: float | None = None
    """Its probability after penalties, temperature and filters."""
    rank: int | None = None
    """Its rank under the model's own distribution, 0 = most probable."""


class Commit(Event, frozen=True, kw_only=True):
    """Tokens that are now part of the output. Commits, in order, spell the returned text."""

    position: int
    """Position of the first of these tokens."""
    step: int
    """Counts commits; everything since the previous commit belongs to the same step."""
    tokens: tuple[Placed, ...]


class Mark(msgspec.Struct, frozen=True):
    """A cell of a matrix that matters."""

    row: int
    column: int
    name: str


class Matrix(Event, frozen=True, kw_only=True):
    """A table of numbers with names for its rows and columns."""

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    """None where there is no such cell."""
    row_name: str = ""
    column_name: str = ""
    value_name: str = ""
    marks: tuple[Mark, ...] = ()


class Score(Event, frozen=True, kw_only=True):
    """A value given to a candidate token (`position`, `token`) or to a whole sequence (`sequence`, `text`)."""

    name: str
    value: float
    parts: dict[str, float] = {}
    """The terms that the value is made of."""
    chosen: bool = False
    position: int | None = None
    token: Token | None = None
    sequence: int | None = None
    text: str = ""


class Forward(Event, frozen=True, kw_only=True):
    """One forward pass. Counted and timed where the model is called, so that no method can forget one."""

    lane: Literal["prompt", "target", "draft", "backward"]
    """`prompt`: the target reads the prompt; `target`: the target decodes; `draft`: another, cheaper model;
    `backward`: gradients flow back through the target."""
    batch: int
    query: int
    """New tokens per sequence."""
    cached: int
    """Tokens already in the cache per sequence."""
    seconds: float
    began: float = 0.0
    """Decode time at which the pass began; passes of two lanes may overlap."""


class Cache(Event, frozen=True, kw_only=True):
    """Entries thrown out of the key-value cache, because their tokens did not become text."""

    kept: int
    removed: int


class Curve(Event, frozen=True, kw_only=True):
    """Named points, e.g. the machine's measured cost of a forward pass t(q)."""

    name: str
    x_name: str
    y_name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


class Note(Event, frozen=True, kw_only=True):
    """One plain sentence for a learner."""

    text: str


Reason = Literal["end of text", "token limit", "time limit", "stop string", "context full", "method done", "dead end"]


class Totals(msgspec.Struct, frozen=True):
    """A finished run in numbers.

    *accepted + rejected + untested = drafted*; *acceptance rate = accepted / (accepted + rejected)*;
    *tokens per target pass* counts generated tokens (not given ones) over the target's passes while decoding, so
    plain decoding is 1; the passes over the prompt, and over the given tokens, are counted apart.
    """

    tokens: int
    seconds: float
    """Decode time: suspended time excluded."""
    time_to_first_token: float
    target_passes: int
    prompt_passes: int
    draft_passes: int
    tokens_processed: int
    """Query tokens over all passes and batch rows."""
    drafted: int
    accepted: int
    rejected: int
    untested: int
    tokens_per_second: float
    tokens_per_target_pass: float
    acceptance_rate: float | None


class Finished(Event, frozen=True, kw_only=True):
    """The last event of a run that came to its end."""

    reason: Reason
    text: str
    token_ids: tuple[int, ...]
    totals: Totals
