"""Monitor-guided decoding: a static analyser is asked at the dots, and the model may write only members that exist.

"Guiding Language Models of Code with Global Context using Monitors", Agrawal et al., arXiv 2306.10763. The model sees
its own file only; the analyser sees the others too. No training, no retrieval, no analysis but on demand.

    1. buffer ← the other files (`context`) + the prompt + the text so far; the monitor waits
    2. pre      waiting, and the last character is a dot: W ← the names that the analyser offers there.
                None: nothing is known; keep waiting
    3. maskgen  waiting: everything is allowed.  Else token t is allowed iff for some w in W
                (i) t is a beginning of w, or (ii) t = w e ..., where e ends a name
    4. update   t holds a character that ends a name: wait, and `pre` at once, so that `f().` asks again.
                Else W ← { w without t : w begins with t }
    5. draw a token from the masked distribution, append it, repeat

A_φ, the analysis, are jedi's completions without keywords, of the buffer and of the buffer with its open brackets
closed (`engines.grammars.analyser`). Names that begin with an underscore are left out unless one has been typed, there
are no others, or `private` is set. Work is done on bytes: half a character belongs to a name until it is known to be
something else.

`trigger` says when it asks:

    reference  as published: when the last character is a dot. A token such as `.foo` jumps over the question, and in
               `with_ip().nonsense` only what precedes the bracket is checked
    repaired   ours: a token that holds a dot and the beginning of a name is allowed only if its name checks out, and
               refused if more stands before the dot; the same text can still be written in smaller tokens
    watch      masks nothing; names that were not offered are reported

What differs: no question is asked in comments, strings and behind numbers, where jedi would still answer. `on_empty`
may end the run where nothing is known. The reference builds its masks from decoded text, token by token; here it is
bisection in the vocabulary in byte order.

The prompt is code, and goes to the model as it stands: a chat template would make it an exchange about code, so it is
taken off again. The context is not shown to the model, only to the analyser. `from x import Name` lines, where the
context defines Name, are hidden from the analyser, to which there is only one file.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor

from engines.events import Event, Note, Suggestion, Suggestions
from engines.grammars.analyser import SECONDS, Analyser, Trouble, analyser
from engines.grammars.constraint import Constraint, Joint
from engines.grammars.gate import Gate
from engines.grammars.kinds import constraint_for
from engines.grammars.python_lexis import Reading, name_begins, name_ends, read, step
from engines.grammars.vocabulary import Bits, Vocabulary
from engines.method import Paper, method
from engines.runner import Run
from engines.sampling import Sampler, Sampling

Trigger = Literal["reference", "repaired", "watch"]
OnEmpty = Literal["unconstrained", "stop"]

MOST_SHOWN = 24
SHOWN_TEXT = 80

SERVER = '''\
class Server:
    """Listens on one address."""

    def listen(self) -> None: ...
    def close(self) -> None: ...


class ServerBuilder:
    """Collects settings; `build` makes the server."""

    def with_ip(self, ip: str) -> "ServerBuilder":
        return self

    def with_port(self, port: int) -> "ServerBuilder":
        return self

    def build(self) -> Server:
        return Server()
'''


class Params(Sampling, frozen=True, kw_only=True, forbid_unknown_fields=True):
    context: Annotated[
        str,
        Meta(
            max_length=65536,
            description="Code of the other files, which the analyser reads and the model does not",
            extra={"editor": "code"},
        ),
    ] = SERVER
    trigger: Annotated[
        Trigger, Meta(description="Ask at dots as published, also at tokens that jump over one, or only watch")
    ] = "repaired"
    private: Annotated[bool, Meta(description="Also offer names that begin with an underscore")] = False
    on_empty: Annotated[OnEmpty, Meta(description="What to do where the analyser knows nothing")] = "unconstrained"
    temperature: Annotated[float, Meta(ge=0, le=5, description="0 takes the most probable allowed token")] = 0.0


class Spellings:
    """A vocabulary as the monitor asks for it: which tokens begin a name, which go beyond it, which jump over a dot."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._ids: NDArray[np.int64] = vocabulary.text_ids
        self._pieces = [vocabulary.bytes_of[id] for id in self._ids.tolist()]
        ends = np.fromiter((name_ends(piece, 0) for piece in self._pieces), dtype=np.bool_, count=len(self._pieces))
        self._enders = self._ids[ends]
        self.jumpers = [
            (id, piece)
            for id, piece in zip(self._ids.tolist(), self._pieces, strict=True)
            if b"." in piece and any(piece[at] == 46 and name_begins(piece, at + 1) for at in range(len(piece)))
        ]
        """Tokens in which a name follows a dot."""

    def beginning(self, rest: bytes) -> NDArray[np.int64]:
        """The tokens that are a beginning of `rest`, or `rest` and something that ends it."""
        if not rest:
            return self._enders
        found: list[int] = []
        for length in range(1, len(rest) + 1):
            part = rest[:length]
            place = bisect_left(self._pieces, part)
            while place < len(self._pieces) and self._pieces[place] == part:
                found.append(place)
                place += 1
        while place < len(self._pieces) and self._pieces[place].startswith(rest):
            if name_ends(self._pieces[place], len(rest)):
                found.append(place)
            place += 1
        return self._ids[found]


_spellings: WeakKeyDictionary[Vocabulary, Spellings] = WeakKeyDictionary()


def spellings_of(vocabulary: Vocabulary) -> Spellings:
    """Made once per vocabulary."""
    if vocabulary not in _spellings:
        _spellings[vocabulary] = Spellings(vocabulary)
    return _spellings[vocabulary]


@dataclass(frozen=True, slots=True)
class Offer:
    """The names offered at a dot, what has been written since, and what of them is still possible."""

    names: tuple[str, ...]
    written: bytes
    rests: tuple[bytes, ...]
    """W: the names that begin with `written`, without it."""

    def narrowed(self, more: bytes) -> Offer:
        """The offer when the name goes on."""
        rests = tuple(rest[len(more) :] for rest in self.rests if rest.startswith(more))
        return replace(self, written=self.written + more, rests=rests)


class News(NamedTuple):
    """Something that the monitor did."""

    state: Literal["asked", "narrowed", "finished", "nothing known"]
    trigger: str
    """The end of the text when it happened; at `finished` up to the end of the name."""
    written: str
    rests: tuple[bytes, ...]
    seconds: float = 0.0
    trouble: Trouble = ""


class Spot(NamedTuple):
    """The monitor's state behind a token. Without an offer it waits."""

    reading: Reading
    offer: Offer | None
    news: tuple[News, ...]


class Monitor:
    """The dereference monitor at one place of one text, as a `Constraint`.

    Args:
        code: what the model was given to go on with.
        context: code of other files.
    """

    engine = "monitor"

    def __init__(
        self,
        code: str,
        vocabulary: Vocabulary,
        *,
        context: str = "",
        trigger: Trigger = "repaired",
        private: bool = False,
        on_empty: OnEmpty = "unconstrained",
        asked: Analyser | None = None,
    ) -> None:
        self.vocabulary, self.trigger, self.private, self.on_empty = vocabulary, trigger, private, on_empty
        self._spellings = spellings_of(vocabulary)
        self._analyser = asked or analyser()
        self._context = context
        self._defined = defined_names(context)
        self._pieces: list[bytes] = [code.encode("utf-8", "replace")]
        self._ended = 0
        self._mask: Bits | None = None
        self._spots = [self._first(self._pieces[0])]

    @property
    def spot(self) -> Spot:
        """Where the monitor stands."""
        return self._spots[-1]

    def mask(self) -> Bits:
        if self._mask is None:
            self._mask = self._masked()
        return self._mask

    def _masked(self) -> Bits:
        """maskgen."""
        vocabulary, offer = self.vocabulary, self.spot.offer
        if self._ended:
            return vocabulary.bits([])
        if self.trigger == "watch" or offer is None:
            bits = vocabulary.plain_bits.copy()
        elif offer.rests:
            bits = vocabulary.bits(np.concatenate([self._spellings.beginning(rest) for rest in offer.rests]))
        else:
            return vocabulary.bits([])
        if self.trigger == "repaired":
            flags = vocabulary.flags(bits)
            jumped = [id for id, piece in self._spellings.jumpers if flags[id] and not self._lands(piece)]
            bits &= ~vocabulary.bits(jumped)
        return bits | vocabulary.end_bits if self.accepting else bits

    def allows(self, token: int) -> bool:
        vocabulary, offer = self.vocabulary, self.spot.offer
        if self._ended or token in vocabulary.special:
            return False
        if token in vocabulary.ends:
            return self.accepting
        piece = vocabulary.bytes_of[token]
        if self.trigger != "watch" and offer is not None and not any(fits(piece, rest) for rest in offer.rests):
            return False
        return self.trigger != "repaired" or self._lands(piece)

    def commit(self, token: int) -> bool:
        if not self.allows(token):
            return False
        if token in self.vocabulary.ends:
            self._ended += 1
        else:
            piece = self.vocabulary.bytes_of[token]
            self._pieces.append(piece)
            self._spots.append(self._after(self.spot, piece))
        self._mask = None
        return True

    def rollback(self, count: int) -> None:
        ends = min(self._ended, count)
        self._ended -= ends
        if count > ends:
            del self._spots[ends - count :]
            del self._pieces[ends - count :]
        self._mask = None

    def fork(self) -> Monitor:
        twin = Monitor.__new__(Monitor)
        twin.__dict__.update(self.__dict__)
        twin._spots, twin._pieces = list(self._spots), list(self._pieces)
        return twin

    @property
    def accepting(self) -> bool:
        offer = self.spot.offer
        return not self._ended and (self.trigger == "watch" or offer is None or b"" in offer.rests)

    def forced(self) -> list[int]:
        """The rest of the name, where only one is left."""
        offer = self.spot.offer
        if self._ended or self.trigger == "watch" or offer is None or len(offer.rests) != 1:
            return []
        return self.vocabulary.tokenise(offer.rests[0].decode("utf-8", "ignore"))

    def view(self) -> dict[str, str]:
        offer = self.spot.offer
        if offer is None:
            return {"monitor": "waits for a dot" if self.spot.reading.mode == "code" else "waits: no code here"}
        left = [_text(offer.written + rest) for rest in offer.rests[:MOST_SHOWN]]
        return {"monitor": "a member is being named", "still possible": " ".join(left) or "none of the names offered"}

    def news(self) -> tuple[News, ...]:
        """What happened with the last token; after an end token, that a name is finished."""
        offer = self.spot.offer
        if not self._ended:
            return self.spot.news
        return (self._finished(offer, b"".join(self._pieces)),) if offer is not None and offer.written else ()

    def first_tokens(self, rest: bytes) -> NDArray[np.int64]:
        """The tokens that may come next in a name of which `rest` is left."""
        return self._spellings.beginning(rest)

    def _first(self, code: bytes) -> Spot:
        """The monitor behind the prompt: where it ends in a dot, or in the middle of a member's name."""
        started = re.search(rb"\.([A-Za-z_\x80-\xff][\w\x80-\xff]*)\Z", code)
        if started is None or self.trigger == "reference":
            reading = read(Reading(), code)
            return self._pre(reading, code) if reading.dot else Spot(reading, None, ())
        before, name = code[: started.start(1)], started[1]
        reading = read(Reading(), before)
        if not reading.dot:
            return Spot(read(reading, name), None, ())
        _, offer, news = self._pre(reading, before, name[:1])
        if offer is not None:
            offer = offer.narrowed(name)
            news = (*news, News("narrowed", _tail(code), _text(name), offer.rests))
        return Spot(read(reading, name), offer, news)

    def _after(self, spot: Spot, piece: bytes) -> Spot:
        """update, and pre at once."""
        reading, offer, news = spot.reading, spot.offer, list[News]()
        text = b"".join(self._pieces[:-1])
        for place, byte in enumerate(piece):
            if offer is not None:
                if name_ends(piece, place):
                    if offer.written:
                        news.append(self._finished(offer, text + piece[:place]))
                    offer = None
                else:
                    offer = offer.narrowed(piece[place : place + 1])
            reading = step(reading, byte)
            last = place == len(piece) - 1
            if reading.dot and (last or (self.trigger != "reference" and name_begins(piece, place + 1))):
                _, offer, asked = self._pre(reading, text + piece[: place + 1], piece[place + 1 : place + 2])
                news += asked
        if offer is not None and offer.written:
            news.append(News("narrowed", _tail(text + piece), _text(offer.written), offer.rests))
        return Spot(reading, offer, tuple(news))

    def _pre(self, reading: Reading, text: bytes, first: bytes = b"") -> Spot:
        """Asks the analyser at the dot that `text` ends with; `first` is what is already known of the name."""
        answer = self._analyser.names(self._buffer(text), reading.closers)
        hidden = not self.private and first != b"_"
        # Where there are private names only, the type is known all the same, and any other name would be invented.
        names = tuple(name for name in answer.names if not (hidden and name.startswith("_"))) or answer.names
        rests = tuple(name.encode() for name in names)
        if names:
            news = News("asked", _tail(text), "", rests, answer.seconds)
            return Spot(reading, Offer(names, b"", rests), (news,))
        unknown = News("nothing known", _tail(text), "", (), answer.seconds, answer.trouble)
        stop = self.on_empty == "stop" and not answer.trouble and self.trigger != "watch"
        return Spot(reading, Offer((), b"", ()) if stop else None, (unknown,))

    def _lands(self, piece: bytes) -> bool:
        """Whether the token jumps over no question, or over one that its name answers rightly."""
        if b"." not in piece:
            return True
        reading = self.spot.reading
        for place, byte in enumerate(piece):
            reading = step(reading, byte)
            if reading.dot and name_begins(piece, place + 1):
                if place:
                    return False
                # Without private names there is nothing to ask: the dot alone may be written.
                if piece[1:2] == b"_" and not self.private:
                    return False
                offer = self._pre(reading, b"".join(self._pieces) + b".", piece[1:2]).offer
                if offer is not None and not any(fits(piece[1:], rest) for rest in offer.rests):
                    return False
        return True

    def _buffer(self, text: bytes) -> str:
        """What the analyser reads."""
        code = text.decode("utf-8", "replace")
        if not self._defined:
            return f"{self._context}\n{code}" if self._context else code
        return f"{self._context}\n{without_imports(code, self._defined)}"

    def _finished(self, offer: Offer, text: bytes) -> News:
        return News("finished", _tail(text), _text(offer.written), tuple(rest for rest in offer.rests if not rest))


def fits(piece: bytes, rest: bytes) -> bool:
    """Whether a token is a beginning of `rest`, or `rest` and something that ends it."""
    if len(piece) <= len(rest):
        return rest.startswith(piece)
    return piece.startswith(rest) and name_ends(piece, len(rest))


def defined_names(context: str) -> frozenset[str]:
    """What a file defines at its top level, as far as can be told line by line."""
    found = re.findall(r"^(?:class|def|async def) +(\w+)|^(\w+) *[:=](?!=)", context, re.MULTILINE)
    return frozenset(first or second for first, second in found)


def without_imports(code: str, defined: frozenset[str]) -> str:
    """The code without the lines that import only what is already defined: of these lines jedi would know nothing."""

    def hidden(line: re.Match[str]) -> str:
        names = {name.strip() for name in line[2].strip("() \t").split(",")}
        return f"{line[1]}pass" if names <= defined else line[0]

    return re.sub(r"^([ \t]*)from [.\w]+ import ([^\n#]+)$", hidden, code, flags=re.MULTILINE)


@method(
    "monitor-guided",
    title="Monitor",
    family="constrained",
    paper=Paper(
        "Guiding Language Models of Code with Global Context using Monitors", "Agrawal et al.", 2023, "2306.10763"
    ),
    params=Params,
    idea="Ask a static analyser at every dot which members exist there, and let the model write no other. It reads all "
    "the files, where the model sees one.",
    look_at="The suggestions: what the model would have invented, and how the names left shrink token by token.",
    shines=("code-member",),
    pictures=("suggestions", "mask", "token-stream", "filters", "confidence", "budget"),
)
def monitor_guided(run: Run, params: Params) -> Iterator[Event]:
    code, templated = code_of(run)
    if templated:
        yield Note(text="The prompt is code to be continued, so it is read as it stands, without the chat template.")
        run.prompt = run.model.encode(code, raw=True)
        run.state = run.model.start(run.ledger, run.clock.now)
        yield from run.read_prompt()
    with run.aside():
        analyser().warm_up()
    monitor = Monitor(
        code,
        run.model.vocabulary,
        context=params.context,
        trigger=params.trigger,
        private=params.private,
        on_empty=params.on_empty,
    )
    parts: list[Constraint] = [monitor]
    if params.constraint != "none":
        parts.append(constraint_for(params.constraint, params.grammar, run.model))
    run.gate = gate = Gate(Joint(parts) if len(parts) > 1 else monitor)
    sampler = Sampler(params, run.model.token, gate)
    while not run.finished:
        logits = run.next_logits()
        gate.follow(run.output)
        yield from told(run, monitor, logits)
        distribution = sampler.distribution(logits, run.prompt, run.output)
        yield run.candidates(logits, stages=distribution.stages)
        token = sampler.draw(distribution.probabilities, run.rng)
        sampler.learn(token, logits)
        yield from run.commit(run.placed(token, logits=logits, final=float(distribution.probabilities[token])))
    gate.follow(run.output)
    yield from told(run, monitor, None)


def told(run: Run, monitor: Monitor, logits: Tensor | None) -> Iterator[Event]:
    """What the monitor did with the last token, with the model's own probability of the tokens that begin each name."""
    all_ = monitor.news()
    for place, news in enumerate(all_):
        if news.trouble:
            yield Note(text=_SAID[news.trouble])
        # Only the last of several questions is about the token that comes next.
        open = place == len(all_) - 1 and news.state in ("asked", "narrowed")
        p = logits.softmax(-1).cpu().numpy() if open and logits is not None else None
        suggestions = [
            Suggestion(
                name=news.written + _text(rest),
                p=None if p is None else min(1.0, float(p[monitor.first_tokens(rest)].sum())),
                rest=_text(rest),
            )
            for rest in news.rests
        ]
        suggestions.sort(key=lambda suggestion: -(suggestion.p or 0.0))
        yield Suggestions(
            position=run.position,
            state=news.state,
            monitor="members",
            trigger=news.trigger,
            suggestions=tuple(suggestions[:MOST_SHOWN]),
            count=len(suggestions),
            seconds=news.seconds,
        )


_SAID: dict[Trouble, str] = {
    "late": f"The analyser did not answer within {SECONDS:g} s, so nothing is known of this dot, and any name may "
    "follow. A shorter context is read faster.",
    "failed": "The analyser failed on this code, so nothing is known of this dot, and any name may follow.",
    "too long": "The code is longer than the analyser reads, so nothing is known of this dot. Give it less context.",
}


def code_of(run: Run) -> tuple[str, bool]:
    """The prompt as the user wrote it, and whether the model was given it in a chat template."""
    given = run.model.vocabulary.decode(run.prompt)
    if run.model.has_chat_template:
        marker = "a7e1"
        around = run.model.vocabulary.decode(run.model.encode(marker))
        head, found, tail = around.partition(marker.encode())
        if found and head and given.startswith(head) and given.endswith(tail):
            return given[len(head) : len(given) - len(tail)].decode("utf-8", "replace"), True
    return given.decode("utf-8", "replace"), False


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def _tail(text: bytes) -> str:
    """The end of a text, of its last line."""
    return _text(text[-4 * SHOWN_TEXT :]).rpartition("\n")[2][-SHOWN_TEXT:]
