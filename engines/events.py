"""The event vocabulary: everything a method can say about what it did.

A run is a stream of these structs. Pictures are functions of the stream, the database stores it,
the command line prints it. One class per kind of thing that can happen; fields are plain numbers
and strings, never figures, markup or colours.

Conventions, the same everywhere:

* *Positions* count from the first generated token: 0 is the first new token, -1 the last prompt token.
* *Probabilities* say whose they are: `raw` is the model's own softmax at temperature 1, `final` is
  what is left after penalties, temperature and filters, `q` is the draft's, `p` the target's after filters.
* *Times* are seconds. `time` on an event is decode time since the run began; time during which the
  generator was suspended (drawing, database, other people's turns) does not count.
* `seq`, `time` and `at` are stamped by the runner, never by a method.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

Origin = Literal["sampled", "drafted", "bonus", "correction", "forced", "copied", "given"]
"""Why a token is in the output: `sampled` is the model's own choice (greedy or drawn), `drafted` a
confirmed guess, `copied` a confirmed guess copied from the text, `bonus` the free token after a fully
confirmed draft, `correction` the token that replaces a refused guess, `given` fixed before the run."""

Outcome = Literal["accepted", "rejected", "untested"]


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


class DraftNode(msgspec.Struct, frozen=True):
    """A guessed token. Node 0 is the root: the last committed token, not a guess."""

    id: int
    parent: int
    token: Token
    q: float | None
    """The draft's probability given its parent; None when the draft is a table or a copy."""
    source: str
    """Where the guess came from, e.g. `recycled, rank 2`, `copied from -31`."""


class Draft(Event, frozen=True, kw_only=True):
    """A tree of guesses, to be checked by one forward pass of the target. Parents precede children."""

    position: int
    """Position of the tokens at depth 1."""
    nodes: tuple[DraftNode, ...]
    template: str = ""


class Weighed(msgspec.Struct, frozen=True):
    """A token under the two distributions that a drawn guess is tested with."""

    token: Token
    p: float
    """Under the target's, without what the guesses refused before it had claimed."""
    q: float
    """Under the draft's, which the guess was drawn from."""


class Judged(msgspec.Struct, frozen=True):
    """What became of one guess."""

    id: int
    outcome: Outcome
    p: float | None = None
    """The target's probability of this token given its parent, after filters; None when untested."""
    accept_probability: float | None = None
    u: float | None = None
    """The random number that the acceptance probability met; None under greedy decoding."""
    best: Choice | None = None
    """The target's most probable token given the same parent, after filters; None when untested."""
    residual: tuple[Choice, ...] = ()
    """Of a refused guess that met a random number: top of the distribution that is left for its place."""
    q: float | None = None
    """The draft's probability of it at the moment of the test, guesses refused before it taken out where the rule
    says so; None when the guess was not drawn."""
    overlap: float | None = None
    """Σ min(p, q) over the vocabulary: the chance that whatever the draft draws here is accepted."""
    weighed: tuple[Weighed, ...] = ()
    """The most probable tokens under either distribution; of drawn guesses only."""


class Verdict(Event, frozen=True, kw_only=True):
    """The target's judgement on a `Draft`: the accepted path, and the token that every pass yields."""

    position: int
    rule: str
    path: tuple[int, ...]
    """Ids of the accepted nodes from depth 1 down; empty when all guesses were wrong."""
    nodes: tuple[Judged, ...]
    extra: Token | None
    """None when every place that the pass decided held a guess, and all were right: then nothing comes free."""
    extra_origin: Literal["bonus", "correction"] | None
    residual: tuple[Choice, ...] = ()
    """Top of the distribution that `extra` was drawn from; empty under greedy decoding."""


class Match(Event, frozen=True, kw_only=True):
    """The end of the text so far also occurs earlier: what follows there is a guess for what follows here."""

    source: tuple[int, int]
    """Positions [start, stop) of the earlier occurrence; negative ones lie in the prompt."""
    target: tuple[int, int]
    copied: tuple[int, int]
    """Positions [start, stop) of the tokens offered as a guess."""


class StoredRow(msgspec.Struct, frozen=True):
    """What a table of guesses now says about one key, and what it said before."""

    key: tuple[Token, ...]
    before: tuple[Choice, ...]
    """Best first; empty when the key is new. `p` is the table's own weight or the probability that it was given."""
    after: tuple[Choice, ...]
    source: str = ""
    """Where the new entry comes from, e.g. `rejected`, `accepted`, `prompt`, `text`."""


class Store(Event, frozen=True, kw_only=True):
    """A table that guesses are read from has learnt something."""

    table: str
    rows: tuple[StoredRow, ...]
    """At most the 16 that matter most."""
    changed: int
    """Rows written, also those that are not in `rows`."""
    size: int
    """Rows in the table now."""


class Beam(msgspec.Struct, frozen=True):
    """One hypothesis. Ids are unique in a run; `parent` is -1 for the first generated token."""

    id: int
    parent: int
    token: Token
    log_probability: float
    """Sum over the generated tokens, natural logarithm."""
    score: float
    """What the hypotheses are ranked by (after length penalty or diversity penalty)."""
    outcome: Literal["live", "pruned", "finished", "chosen"]
    group: int = 0


class Beams(Event, frozen=True, kw_only=True):
    """The hypotheses considered at one position, best first, and which of them live on."""

    position: int
    beams: tuple[Beam, ...]


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

    lane: Literal["prompt", "target", "draft"]
    """`prompt`: the target reads the prompt; `target`: the target decodes; `draft`: another, cheaper model."""
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


Reason = Literal["end of text", "token limit", "time limit", "stop string", "context full", "method done"]


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


AnyEvent = (
    Started
    | Candidates
    | Commit
    | Draft
    | Verdict
    | Match
    | Store
    | Beams
    | Score
    | Forward
    | Cache
    | Curve
    | Note
    | Finished
)

EVENTS: tuple[type[Event], ...] = AnyEvent.__args__
"""Every kind of event, in the order of this page."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)


def to_json(event: Event) -> bytes:
    """One event as one line of JSON; `kind` names its class in lower case."""
    return _encoder.encode(event)


def from_json(line: bytes | str) -> Event:
    """The inverse of `to_json`. Raises `msgspec.MsgspecError` when the line is not an event."""
    try:
        return _decoder.decode(line)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"not UTF-8 text: {error.reason}") from None
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None


def committed(events: Iterable[Event]) -> list[Placed]:
    """The output so far: every token of every `Commit`, in order."""
    return [placed for event in events if isinstance(event, Commit) for placed in event.tokens]
