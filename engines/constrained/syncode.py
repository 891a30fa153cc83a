"""SynCode: the mask of a grammar is looked up, not computed.

"SynCode: LLM Generation with Grammar Augmentation", Ugare et al., arXiv 2403.01632. "Is this
token legal?" is split in two: which *terminals* may come next, which an LR parser knows at once, and which *tokens* fit
such terminals from a state of the lexer. The second does not depend on the text, so it is tabulated once
(`engines.grammars.mask_store`).

    1. C ← the text so far; cut it into terminals, parse them; r ← the remainder, whose terminal is not settled
    2. the kind of r:  COMPLETE    nothing, or only ignored text, is left
                       MAYBE       r is a terminal t already, but might still grow
                       INCOMPLETE  r is none yet
    3. accept sequences: (t, t') for every t' that the parser would take behind t, if r is a t already;
       (t, ignored, t') too, where text may be ignored; (u) for every other terminal u that r could still become
    4. mask ← the union of M_1(q, t') and M_0(q), q the state of the sequence's first automaton after r
    5. the end of the text is allowed where the parser would take it
    6. draw a token from the masked distribution; repeat

A legal token is never forbidden, but with one terminal of foresight some allowed ones are illegal: `),` after `(1`.
`mode` says what then happens:

    mask    as published: the token is taken, and the run may come to a dead end
    strict  only tokens that the two terminals explain up to their end: some legal ones are forbidden
    exact   ours: the drawn token is really parsed; if it is refused, it is forbidden here and another one is drawn

`opportunistic` draws from the model's own distribution first and builds the mask only if that token is illegal, which
leaves the distribution as it is: p(x) + (1 - Z) p(x) / Z = p(x) / Z. It needs distributions without filters, so with
top-k or top-p the mask comes first. It is off by default (in the reference on), for it shows fewer masks.

The states of lexer and parser are kept per token, so each token is read once, and rollback and fork cost nothing.
Terminals compete only where the parser would take them (the reference: everywhere), and the longest match wins. Legal
means that the text can be cut and parsed so far, and its remainder can still become a terminal that the parser takes.
Where two neighbours of a grammar always run into one another, as in `A A` with A: /a+/, no text may ever be complete.

Differences from the reference code, which has these faults: it drops to unconstrained output on an error, allows
special tokens, reads characters beyond ASCII as bytes that match anything, loses tokens of several terminals after a
complete text, and forbids `1.` where a number may have a fraction (`as_published` shows this one). Here a mask without
tokens is a dead end. There is no support for indentation.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from engines.constrained.grammar_mask import ENDING_WITHIN, SPARE
from engines.events import Compiled, Event, Note, Trials, Tried
from engines.grammars.cfg import END, Grammar, Stack
from engines.grammars.closing import shortest_completion
from engines.grammars.constraint import BadGrammar, DeadEnd, GrammarLimit
from engines.grammars.gate import Gate
from engines.grammars.mask_store import Kind, MaskStore, fits
from engines.grammars.samples import ARITHMETIC
from engines.grammars.vocabulary import Bits, Vocabulary, has
from engines.method import Paper, method
from engines.runner import Run
from engines.sampling import Sampler

Mode = Literal["mask", "strict", "exact"]

MOST_STEPS = 1_000_000
"""Bytes that one token may make the lexer read again."""
SHOWN_SEQUENCES = 24
SHOWN_TEXT = 48
MOST_LANGUAGES = 8
MOST_DRAWN = 32
"""Tokens drawn and parsed at one place before all are parsed at once."""


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    grammar: Annotated[
        str, Meta(max_length=65536, description="A grammar in Lark's notation", extra={"editor": "grammar"})
    ] = ARITHMETIC
    mode: Annotated[Mode, Meta(description="What is done about tokens that one terminal of foresight cannot judge")] = (
        "exact"
    )
    lookahead: Annotated[int, Meta(ge=0, le=1, description="Terminals looked ahead beyond the one being written")] = 1
    opportunistic: Annotated[bool, Meta(description="Draw first, and build the mask only if the token is illegal")] = (
        False
    )
    as_published: Annotated[bool, Meta(description="With the reference code's defect: a token such as 1. is lost")] = (
        False
    )
    finish: Annotated[bool, Meta(description="Near the token limit, close what is open with a short valid ending")] = (
        False
    )
    temperature: Annotated[float, Meta(ge=0, le=5, description="0 takes the most probable allowed token")] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=1000, description="Keep the k most probable tokens; 0 keeps all")] = 0
    top_p: Annotated[
        float, Meta(ge=0.01, le=1, description="Keep the smallest set that holds this much probability")
    ] = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Where lexer and parser stand. `live` are the terminals that `rest` could become, with their states; `match` is
    the longest match in `rest` so far: its length and its terminal."""

    stack: Stack
    rest: bytes
    live: dict[str, int]
    match: tuple[int, str] | None = None


class Branch(NamedTuple):
    """An accept sequence, and the entry of the store that belongs to it."""

    sequence: tuple[str, ...]
    terminal: str
    state: int
    follow: tuple[str, ...]
    kind: Kind


class Language:
    """A grammar made ready for a vocabulary: parser table, automata, store."""

    def __init__(self, text: str, vocabulary: Vocabulary, *, as_published: bool = False) -> None:
        self.grammar = Grammar.from_lark(text).for_vocabulary(vocabulary)
        self.table = self.grammar.table
        self.store = MaskStore(vocabulary, self.grammar.terminals, as_published=as_published)
        self.ignored = self.grammar.ignored
        self._starts: dict[tuple[str, ...], dict[str, int]] = {}
        dfas = self.grammar.terminals
        self._follows: dict[tuple[str, str], bool] = {}
        self._tables = {name: (dfa.table, dfa.dead, dfa.ends) for name, dfa in dfas.items()}

    def begin(self, stack: Stack) -> Reading:
        """The start of a terminal."""
        accepts = stack.accepts
        if accepts not in self._starts:
            here = {*accepts, *self.ignored}
            self._starts[accepts] = {name: 0 for name in self.grammar.terminals if name in here}
        return Reading(stack, b"", self._starts[accepts])

    def pushed(self, stack: Stack, terminal: str) -> Stack:
        """The stack when a terminal that it accepts was read."""
        if terminal in self.ignored:
            return stack
        after = stack.after(terminal)
        assert after is not None
        return after

    def read(self, reading: Reading, piece: bytes) -> Reading | None:
        """The text goes on by `piece`; None when it cannot. When nothing is alive any more, the longest match was a
        terminal, and what follows it is read again."""
        stack, live, match = reading.stack, reading.live, reading.match
        text = reading.rest + piece
        begin, place, steps = 0, len(reading.rest), 0
        tables = self._tables
        while place < len(text):
            byte = text[place]
            after: dict[str, int] = {}
            won = None
            for name, state in live.items():
                table, dead, ends = tables[name]
                if (target := table[state << 8 | byte]) != dead:
                    after[name] = target
                    if won is None and ends[target]:
                        won = name
            place += 1
            if after:
                live = after
                if won is not None:
                    match = place - begin, won
                continue
            if match is None:
                return None
            steps += place - begin
            if steps > MOST_STEPS:
                raise GrammarLimit(
                    "This text can be cut into terminals in too many ways. Give the grammar terminals whose ends can "
                    "be told without reading far beyond them."
                )
            begin, stack = begin + match[0], self.pushed(stack, match[1])
            live, match, place = self.begin(stack).live, None, begin
        return Reading(stack, text[begin:], live, match)

    def settled(self, reading: Reading) -> Reading | None:
        """The reading if the longest match was a terminal; None when there is no match or the rest cannot be read."""
        if reading.match is None:
            return None
        length, terminal = reading.match
        return self.read(self.begin(self.pushed(reading.stack, terminal)), reading.rest[length:])

    def may_end(self, reading: Reading | None) -> bool:
        """Whether the text may end here."""
        while reading is not None and reading.rest:
            reading = self.settled(reading)
        return reading is not None and END in reading.stack.accepts

    def kind(self, reading: Reading) -> tuple[str, str | None]:
        """The kind of the remainder, and the terminal that it is already, if it is one."""
        if reading.match is None or reading.match[0] < len(reading.rest):
            return ("INCOMPLETE" if reading.rest else "COMPLETE"), None
        terminal = reading.match[1]
        return ("COMPLETE" if terminal in self.ignored else "MAYBE"), terminal

    def branches(self, reading: Reading, mode: Mode, lookahead: int) -> list[Branch]:
        """The accept sequences of a reading, those included by which an earlier match was a terminal after all."""
        found: list[Branch] = []
        current: Reading | None = reading
        while current is not None:
            terminal = self.kind(current)[1]
            for name, state in current.live.items():
                if name != terminal:
                    found.append(Branch((name,), name, state, (), "inside" if mode == "strict" else "beyond"))
                elif lookahead == 0:
                    found.append(Branch((name,), name, state, (), "inside" if mode == "strict" else "all"))
                else:
                    found += self._ahead(current, name, state, "inside" if mode == "strict" else "all")
            # A match that ends before the text does: perhaps the terminal was over there.
            current = self.settled(current) if terminal is None else None
        return found

    def _ahead(self, reading: Reading, name: str, state: int, kind: Kind) -> Iterator[Branch]:
        accepts = self.pushed(reading.stack, name).accepts
        for follow in accepts:
            if follow == END:
                yield Branch((name, END), name, state, (), "inside")
            else:
                yield Branch((name, follow), name, state, (follow,), kind)
        for ignored in self.ignored:
            if not self.can_follow(name, ignored):
                continue
            if name in self.ignored:
                yield Branch((name, ignored), name, state, (ignored,), kind)
                continue
            for follow in (*(one for one in accepts if one != END), *self.ignored):
                if self.can_follow(ignored, follow):
                    yield Branch((name, ignored, follow), name, state, (ignored, follow), kind)
            if END in accepts:
                yield Branch((name, ignored, END), name, state, (ignored,), "inside")

    def can_follow(self, first: str, second: str) -> bool:
        """Whether the second terminal can stand right behind the first: not if its first byte, whatever it is, makes
        the first one's match longer."""
        if (first, second) not in self._follows:
            one, two = self.grammar.terminals[first], self.grammar.terminals[second]
            begins = two.delta[0] != two.dead
            longer = one.final[one.delta[one.final][:, begins]]
            self._follows[first, second] = not longer.all()
        return self._follows[first, second]


_languages: OrderedDict[tuple[str, str, bool], Language] = OrderedDict()
_lock = Lock()


def language_for(text: str, vocabulary: Vocabulary, *, as_published: bool = False) -> Language:
    """A grammar made ready, or found ready, with what the disk knows of its store. Raises `BadGrammar`."""
    key = text, vocabulary.key, as_published
    with _lock:
        if key in _languages:
            _languages.move_to_end(key)
            return _languages[key]
    fresh = Language(text, vocabulary, as_published=as_published)
    fresh.store.load()
    with _lock:
        fresh = _languages.setdefault(key, fresh)
        while len(_languages) > MOST_LANGUAGES:
            _languages.popitem(last=False)
    return fresh


class SynCode:
    """The constraint: a language at one place of one text.

    Args:
        lazy: in exact mode, `mask` is the looked-up one without the tokens that `allows` has refused here; whoever
            draws from it must ask. Otherwise every token of an exact mask has been parsed.
    """

    engine = "syncode"

    def __init__(self, language: Language, *, mode: Mode = "exact", lookahead: int = 1, lazy: bool = False) -> None:
        self.language, self.mode, self.lookahead, self.lazy = language, mode, lookahead, lazy
        self.vocabulary = language.store.vocabulary
        self._readings: list[Reading | None] = [language.begin(language.table.begin())]
        """Where the text stood after each token; None from where it left the language."""
        self._text: list[bytes] = []
        self._ended = 0
        self._mask: Bits | None = None
        self._branches: list[Branch] | None = None
        self._refused: set[int] = set()

    @property
    def reading(self) -> Reading | None:
        """Where lexer and parser stand."""
        return None if self._ended else self._readings[-1]

    def branches(self) -> list[Branch]:
        """The accept sequences here."""
        if self._branches is None:
            here = self.reading
            self._branches = [] if here is None else self.language.branches(here, self.mode, self.lookahead)
        return self._branches

    def looked_up(self) -> Bits:
        """The union of the store's entries, and the end of the text where it is allowed."""
        bits = self.vocabulary.bits([])
        for _, terminal, state, follow, kind in self.branches():
            bits |= self.language.store.mask(terminal, state, follow, kind)
        return bits | self.vocabulary.end_bits if self.accepting else bits

    def mask(self) -> Bits:
        if self._mask is None:
            bits = self.looked_up()
            if self.mode == "exact" and not self.lazy:
                bits = self._parsed(bits)
            self._mask = bits
        if self._refused:
            return self._mask & ~self.vocabulary.bits(sorted(self._refused))
        return self._mask

    def _parsed(self, bits: Bits) -> Bits:
        """Without the tokens that cannot be parsed. Those that stay inside a terminal can be."""
        here, vocabulary = self.reading, self.vocabulary
        if here is None:
            return bits
        sure = vocabulary.bits([])
        for name, state in here.live.items():
            sure |= self.language.store.mask(name, state, kind="inside")
        doubtful = vocabulary.flags(bits & ~sure & vocabulary.plain_bits)
        ids = vocabulary.text_ids[doubtful[vocabulary.text_ids]]
        refused = []
        # In byte order neighbours begin alike: where the one before was read up to, the next goes on.
        path: list[Reading | None] = [here]
        before = b""
        for id in ids.tolist():
            piece = vocabulary.bytes_of[id]
            same = next((i for i, (a, b) in enumerate(zip(before, piece, strict=False)) if a != b), None)
            del path[(min(len(before), len(piece)) if same is None else same) + 1 :]
            for byte in piece[len(path) - 1 :]:
                last = path[-1]
                path.append(last and self.language.read(last, bytes([byte])))
            if path[-1] is None:
                refused.append(id)
            before = piece
        return bits & ~vocabulary.bits(refused)

    def allows(self, token: int) -> bool:
        here = self.reading
        if here is None or token in self.vocabulary.special or token in self._refused:
            return False
        if token in self.vocabulary.ends:
            return self.accepting
        if self._mask is not None and not has(self._mask, token):
            return False
        piece = self.vocabulary.bytes_of[token]
        if self.mode == "exact":
            return self.language.read(here, piece) is not None
        if self._mask is not None:
            return True
        terminals, published = self.language.grammar.terminals, self.language.store.as_published
        return any(
            fits(piece, terminals[name], state, [terminals[one] for one in follow], kind, as_published=published)
            for _, name, state, follow, kind in self.branches()
        )

    def refuse(self, token: int) -> None:
        """The token was drawn and parsed, and is illegal: it is forbidden at this place."""
        self._refused.add(token)

    def parse_all(self) -> None:
        """Makes the mask of this place exact, even if lazy."""
        self._mask = self._parsed(self.mask())

    def commit(self, token: int) -> bool:
        if not self.allows(token):
            return False
        if token in self.vocabulary.ends:
            self._ended += 1
        else:
            here, piece = self._readings[-1], self.vocabulary.bytes_of[token]
            assert here is not None
            self._readings.append(self.language.read(here, piece))
            self._text.append(piece)
        self._moved()
        return True

    def rollback(self, count: int) -> None:
        ends = min(self._ended, count)
        self._ended -= ends
        if count > ends:
            del self._readings[ends - count :]
            del self._text[ends - count :]
        self._moved()

    def _moved(self) -> None:
        self._mask = self._branches = None
        self._refused = set()

    def fork(self) -> SynCode:
        twin = SynCode.__new__(SynCode)
        twin.__dict__.update(self.__dict__)
        twin._readings, twin._text, twin._refused = list(self._readings), list(self._text), set(self._refused)
        return twin

    @property
    def accepting(self) -> bool:
        return self.language.may_end(self.reading)

    def forced(self) -> list[int]:
        """Nothing: certain bytes would have to be found by reading all the tokens."""
        return []

    def view(self) -> dict[str, str]:
        here, label = self.reading, self.language.grammar.label
        text = b"".join(self._text[-4 * SHOWN_TEXT :])
        if here is None:
            return {
                "text": text.decode("utf-8", "replace")[-SHOWN_TEXT:],
                "remainder": "",
                "kind": "ENDED" if self._ended else "DEAD",
                "terminal": "",
                "accept sequences": "",
                "stack": "",
            }
        kind, terminal = self.language.kind(here)
        sequences = [
            f"{' → '.join(_line(label(name)) for name in branch.sequence)}: {count}"
            for branch, count in self.contributions()
        ]
        if len(sequences) > SHOWN_SEQUENCES:
            sequences[SHOWN_SEQUENCES - 1 :] = [f"and {len(sequences) - SHOWN_SEQUENCES + 1} more"]
        names = [terminal] if terminal else list(here.live) if here.rest else []
        symbols = [_line(label(name)) for name in here.stack.symbols()]
        return {
            "text": text[: len(text) - len(here.rest)].decode("utf-8", "replace")[-SHOWN_TEXT:],
            "remainder": here.rest[-4 * SHOWN_TEXT :].decode("utf-8", "backslashreplace")[-SHOWN_TEXT:],
            "kind": kind,
            "terminal": " or ".join(_line(label(name)) for name in names[:6]),
            "accept sequences": "\n".join(sequences),
            "stack": " ".join(symbols[-12:]),
        }

    def contributions(self) -> list[tuple[Branch, int]]:
        """How many tokens each accept sequence adds to the union, by itself."""
        store = self.language.store
        return [
            (branch, int(np.bitwise_count(store.mask(branch.terminal, branch.state, branch.follow, branch.kind)).sum()))
            for branch in self.branches()
        ]


def _line(label: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in label)[:32]


@method(
    "syncode",
    title="SynCode",
    family="constrained",
    paper=Paper("SynCode: LLM Generation with Grammar Augmentation", "Ugare et al.", 2024, "2403.01632"),
    params=Params,
    idea="Asks a parser which terminals may come next, and a table made beforehand which tokens fit them: the mask is "
    "looked up instead of computed.",
    look_at="The automaton: what of the text is undecided, and how many tokens each continuation adds to the mask.",
    shines=("math-apples",),
    loses=("poem-sea",),
    pictures=("mask", "syncode-automaton", "distortion", "token-stream", "budget"),
)
def syncode(run: Run, params: Params) -> Iterator[Event]:
    with run.aside():
        start = time.perf_counter()
        language = language_for(params.grammar, run.model.vocabulary, as_published=params.as_published)
    # Filters choose among what is allowed, so an illegal token must not take a legal one's place among them.
    filtered = params.top_k > 0 or params.top_p < 1
    constraint = SynCode(language, mode=params.mode, lookahead=params.lookahead, lazy=not filtered)
    if not constraint.looked_up().any():
        raise BadGrammar("No token of this model begins any text of this grammar. Change it, or try another model.")
    seconds = time.perf_counter() - start
    yield ready(language, "grammar", seconds, "parser table and automata")
    gate = Gate(constraint)
    gate.follow(run.output)
    run.gate = gate
    sampler, free = Sampler(params, run.model.token, gate), Sampler(params, run.model.token)
    shortcut = params.opportunistic and not filtered
    if params.opportunistic and not shortcut:
        yield Note(text="With top-k or top-p the mask has to come first, so nothing is drawn before it.")
    refusals = shortcuts = 0
    try:
        while not run.finished:
            if params.finish and run.remaining <= ENDING_WITHIN:
                ending = shortest_completion(gate.follow(run.output), ENDING_WITHIN)
                if ending is not None and run.remaining <= len(ending) + SPARE:
                    yield Note(text=f"{run.remaining} tokens are left, so the shortest ending found is added.")
                    yield from run.commit(*(run.placed(token, "forced") for token in ending))
                    continue
            logits = run.next_logits()
            gate.follow(run.output)
            if shortcut:
                distribution = free.distribution(logits, run.prompt, run.output)
                token = free.draw(distribution.probabilities, run.rng)
                if constraint.allows(token):
                    shortcuts += 1
                    yield run.candidates(logits, stages=distribution.stages)
                    yield from run.commit(run.placed(token, logits=logits))
                    continue
            tried: list[Tried] = []
            try:
                while True:
                    distribution = sampler.distribution(logits, run.prompt, run.output)
                    token = sampler.draw(distribution.probabilities, run.rng)
                    p = float(distribution.probabilities[token])
                    legal = constraint.allows(token)
                    tried.append(Tried(run.model.token(token), p, legal))
                    if legal:
                        break
                    constraint.refuse(token)
                    if len(tried) == MOST_DRAWN:
                        constraint.parse_all()
            except DeadEnd:
                yield run.candidates(logits)
                raise
            yield run.candidates(logits, stages=distribution.stages)
            if len(tried) > 1:
                refusals += len(tried) - 1
                yield closure(run, constraint, logits, tried)
            yield from run.commit(run.placed(token, logits=logits, final=p))
        yield ready(language, "mask store", language.store.seconds, "the entries that were asked for so far")
        if refusals:
            yield Note(
                text=f"The parser refused {refusals} drawn token{'s' * (refusals > 1)} that the looked-up mask had "
                "allowed: the price of so little foresight."
            )
        if shortcuts:
            yield Note(text=f"Tokens legal as drawn, for which no mask was built: {shortcuts}.")
    finally:
        with run.aside():
            language.store.save()


def ready(language: Language, subject: str, seconds: float, message: str) -> Compiled:
    """What the tables amount to now, and how long making the subject took."""
    store = language.store
    return Compiled(
        engine=SynCode.engine,
        subject=subject,
        status="ok",
        seconds=seconds,
        message=message,
        sizes={
            "terminals": len(store.terminals),
            "states": store.states,
            "parser states": len(language.table),
            "entries": len(store),
            "bytes": store.bytes,
        },
    )


def closure(run: Run, constraint: SynCode, logits: Tensor, tried: list[Tried]) -> Trials:
    """The tokens that were drawn and parsed at this place; the last is legal."""
    p = logits.softmax(-1)
    allowed = torch.from_numpy(constraint.vocabulary.flags(constraint.mask())).to(p.device)
    refused = torch.tensor([one.token.id for one in tried[:-1]], device=p.device)
    return Trials(
        position=run.position,
        particle=0,
        tried=tuple(tried[:64]),
        tests=len(tried),
        weight=min(1.0, float(p[allowed].sum())),
        estimator="strict closure",
        refused_mass=min(1.0, float(p[refused].sum())),
    )
