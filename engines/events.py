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


class Mask(Event, frozen=True, kw_only=True):
    """Which tokens a constraint allowed at one position, beside what the model wanted there."""

    position: int
    engine: str
    """Who computed the mask."""
    allowed: int
    vocabulary: int
    blocked_mass: float
    """The model's own probability of everything that was not allowed."""
    wanted: tuple[Choice, ...]
    """The most probable blocked tokens, with the model's own probability."""
    permitted: tuple[Choice, ...]
    """The most probable allowed ones, with the model's own probability, not renormalised."""
    cells: str
    """The vocabulary in the order of its tokens' bytes, cut into equal pieces, one digit each: 0 none of the piece is
    allowed, 9 all of it, 1 to 8 the eighths between."""
    end_allowed: bool
    state: dict[str, str] = {}
    """Where the reader of the grammar stands, in words: heading → text."""
    seconds: float = 0.0
    """What the mask took to compute."""


class Compiled(Event, frozen=True, kw_only=True):
    """A constraint was made ready, or refused."""

    engine: str
    subject: str
    """What was compiled, e.g. `json schema`, or the name of a schema."""
    status: Literal["ok", "refused", "failed", "too slow"]
    seconds: float
    message: str = ""
    sizes: dict[str, float] = {}
    """What it amounts to, e.g. states, entries, bytes."""


class Tried(msgspec.Struct, frozen=True):
    """A token that was proposed and put to the test."""

    token: Token
    p: float
    """The probability that it was proposed with: of what was still in the urn."""
    accepted: bool
    round: int = 0
    """Which walk through the urn it belongs to."""


class Trials(Event, frozen=True, kw_only=True):
    """Tokens that were tested one by one instead of computing a mask."""

    position: int
    particle: int
    tried: tuple[Tried, ...]
    """In order; at most the first 64."""
    tests: int
    """How many tests there were in all."""
    weight: float
    """The estimate of how much probability was allowed."""
    estimator: str
    refused_mass: float
    """The model's own probability of the tokens refused in the first walk."""
    exact_mass: float | None = None
    """How much really was allowed, where a mask can tell."""


class Particle(msgspec.Struct, frozen=True):
    """One of several weighted texts."""

    id: int
    parent: int
    """Index, in the step before, of the particle that it continues."""
    text: str
    """What it has written in this step."""
    log_weight: float | None
    """Natural logarithm; None when the weight is 0."""
    state: Literal["alive", "finished", "dead"]


class Particles(Event, frozen=True, kw_only=True):
    """A population of weighted texts after one step."""

    step: int
    particles: tuple[Particle, ...]
    effective: float
    """Effective sample size (Σw)² / Σw², before resampling."""
    resampled: bool
    """Whether the particles now are draws from those that were weighed, each with the mean weight."""


class Place(msgspec.Struct, frozen=True):
    """A node of a growing tree of texts."""

    id: int
    parent: int
    """-1 for the root."""
    token: Token | None
    """None for the root."""
    p: float | None
    """The model's probability of the token given its parent."""
    value: float | None
    """What the method believes this place to be worth."""
    visits: int = 0
    state: str = ""
    """E.g. `open`, `finished`, `cut off`."""


class Growth(Event, frozen=True, kw_only=True):
    """Nodes of a tree of texts that are new or have changed. The tree outlives single texts of the run."""

    tree: str
    sample: int
    """Which text of the run this belongs to, counted from 0."""
    places: tuple[Place, ...]
    size: int
    """Nodes in the tree now."""


class Suggestion(msgspec.Struct, frozen=True):
    """A name that an analyser allows."""

    name: str
    p: float | None = None
    """The model's probability of the allowed tokens that begin it."""
    rest: str = ""
    """What of it is still to be written."""


class Suggestions(Event, frozen=True, kw_only=True):
    """An analyser was asked what may stand here, or the names it gave were narrowed down by what was written."""

    position: int
    state: Literal["asked", "narrowed", "finished", "nothing known"]
    monitor: str
    trigger: str
    """What set it off, e.g. the text up to the dot."""
    suggestions: tuple[Suggestion, ...]
    """At most 24."""
    count: int
    seconds: float = 0.0


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


class Pair(msgspec.Struct, frozen=True):
    """Two prompts that differ in what decides between answer and foil."""

    clean: tuple[Token, ...]
    corrupted: tuple[Token, ...]
    """As long as `clean`; empty when there is only one prompt."""
    answer: Token
    foil: Token
    clean_difference: float
    """Logit of the answer minus logit of the foil, after the clean prompt."""
    corrupted_difference: float | None = None


class Contrast(Event, frozen=True, kw_only=True):
    """The question that the inside of a model is asked: why the answer and not the foil?"""

    task: str
    metric: str
    """What the effects of patches are measured in."""
    pairs: tuple[Pair, ...]
    """All of the same length."""
    first: int
    """The first position, from the start of the prompt, at which clean and corrupted differ in any pair."""
    clean: float
    """Mean logit difference over the pairs."""
    corrupted: float | None = None


Site = Literal["resid_pre", "attn_out", "mlp_out", "head"]
"""Where in a block: `resid_pre` its input, the residual stream; `attn_out` and `mlp_out` what attention and MLP add to
the stream; `head` the output of one attention head before the output projection."""

Direction = Literal["denoise", "noise"]


class Patch(Event, frozen=True, kw_only=True):
    """What it does to the metric to put the other run's activations into one layer, place by place."""

    site: Site
    layer: int
    how: str
    """`exact` when the model was run with the patch, otherwise the method that estimates it, e.g. `relp`."""
    effects: tuple[float | None, ...]
    """One per position of the prompt, or one per head; None where nothing was measured."""
    along: Literal["position", "head"] = "position"
    direction: Direction = "denoise"
    """`denoise`: clean activations into the corrupted run; `noise`: the other way round."""


class CircuitNode(msgspec.Struct, frozen=True):
    """A component of the model. Ids: `embed`, `a7.3` for head 3 of layer 7, `m7`, `logits`."""

    id: str
    kind: Literal["embedding", "head", "mlp", "logits"]
    layer: int
    """-1 for the embedding, the number of layers for the logits."""
    unit: int | None
    """The head."""
    score: float
    """The effect of patching it at all positions, as estimated; of the logits the whole difference."""
    by_position: tuple[float, ...] = ()
    exact: float | None = None


class CircuitEdge(msgspec.Struct, frozen=True):
    """What one component's output does to the metric through one reader."""

    source: str
    target: str
    into: Literal["q", "k", "v", "mlp", "logits"]
    score: float


class Circuit(Event, frozen=True, kw_only=True):
    """The components of a model and what they say to each other, scored."""

    how: str
    """The method that scored them."""
    nodes: tuple[CircuitNode, ...]
    edges: tuple[CircuitEdge, ...]
    """The strongest ones."""
    edge_count: int
    """How many there are in all."""
    direction: Direction = "denoise"


class Swap(msgspec.Struct, frozen=True):
    """A token of the context that was replaced to see what happens."""

    index: int
    """From the start of the context."""
    token: Token


class Attribution(Event, frozen=True, kw_only=True):
    """How much every token of the context mattered for one prediction."""

    how: str
    position: int
    """Of the predicted token."""
    target: Token
    foil: Token | None
    """What it is set against; None: the target alone is explained."""
    context: tuple[Token, ...]
    """All tokens before the target, at most the last 256."""
    scores: tuple[float, ...]
    """One per token of the context; whether they sum to something, `how` decides."""
    step: int = 0
    """Methods that improve their answer give it again and again."""
    swaps: tuple[Swap, ...] = ()
    before: float | None = None
    """The probability of the target on the context as it is."""
    after: float | None = None
    """Its probability with the swaps."""
    settled: int = 0
    """How many of the method's `probes` have met its stopping rule."""
    probes: int = 0


class Lens(Event, frozen=True, kw_only=True):
    """What the model would say if it ended after this layer, at every position."""

    layer: int
    """0: after the embedding; n: after layer n."""
    tokens: tuple[Choice, ...]
    """The most probable next token at every position of the prompt, from the first."""
    differences: tuple[float, ...] = ()
    """Logit of the answer minus logit of the foil, at every position."""


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


AnyEvent = (
    Started
    | Candidates
    | Commit
    | Draft
    | Verdict
    | Match
    | Store
    | Mask
    | Compiled
    | Trials
    | Particles
    | Growth
    | Suggestions
    | Matrix
    | Contrast
    | Patch
    | Circuit
    | Attribution
    | Lens
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
