"""Other engines behind the same protocol: xgrammar, outlines-core and lm-format-enforcer, where they are installed.

None of them is needed, and none is imported before it is used. They are here to be compared with, so nothing is done to
make them right, only to make them keep the rules of `engines.grammars.constraint`:

* special tokens are cleared from every mask; the end is allowed exactly where the engine's own state says complete
* what an engine raises in the middle of a text is `GrammarLimit`, never "only the end may follow"
* the whitespace policy is handed to each as far as it has words for it, see `WHITESPACE`

`told` is the mask before these rules, for comparisons. An engine may crash or never come back: what strangers write is
first tried out in a process of its own (`engines.grammars.trials`).

    xgrammar             adaptive token masks over a pushdown automaton (arXiv 2411.15100)
    outlines-core        schema → regular expression → automaton over tokens (arXiv 2307.09702)
    lm-format-enforcer   a character parser walked along the prefix tree of the vocabulary
"""

from __future__ import annotations

import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import numpy as np

from engines.errors import DecodingError
from engines.grammars.constraint import BadGrammar, Constraint, GrammarLimit
from engines.grammars.guidance import MOST_CHARACTERS, SPACES, Whitespace, compile_guidance, schema_to_enforce
from engines.grammars.view import what_may_follow
from engines.grammars.vocabulary import Bits, Vocabulary, has

Engine = Literal["llguidance", "xgrammar", "outlines-core", "lm-format-enforcer"]
PeerKind = Literal["json schema", "regex"]

ENGINES: tuple[Engine, ...] = ("llguidance", "xgrammar", "outlines-core", "lm-format-enforcer")
MODULES: dict[Engine, str] = {
    "llguidance": "llguidance",
    "xgrammar": "xgrammar",
    "outlines-core": "outlines_core",
    "lm-format-enforcer": "lmformatenforcer",
}

WHITESPACE: dict[Engine, dict[Whitespace, str]] = {
    "llguidance": {"one space": "at most one space", "compact": "none", "any": "any"},
    "xgrammar": {"one space": "at most one whitespace character", "compact": "none", "any": "any"},
    "outlines-core": {"one space": "at most one space", "compact": "none", "any": "any"},
    "lm-format-enforcer": {
        "one space": "at most one whitespace character in a row, within strings too",
        "compact": "at most one whitespace character in a row, within strings too: it cannot do without",
        "any": "at most 12 in a row",
    },
}
"""What each engine makes of the policy."""

RECURSION = 3
"""How often outlines-core unfolds a schema that refers to itself: its own default."""
MOST_STEPS_BACK = 100_000


class NotInstalled(DecodingError):
    """An engine that was asked for is not here."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(
            f"{engine} is not installed here, so it cannot be compared. Install it with pip install {engine}, "
            "or choose llguidance, which is always there."
        )


def installed() -> dict[Engine, str]:
    """The engines that can be used here, with their versions; nothing is imported to find out."""
    return {engine: _version(engine) for engine in ENGINES if find_spec(MODULES[engine])}


def _version(engine: Engine) -> str:
    for name in (engine, engine.replace("-", "_")):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def prepare(engine: Engine, vocabulary: Vocabulary) -> None:
    """What an engine does once per vocabulary, so that it is not counted as compiling. Raises `NotInstalled`."""
    if not find_spec(MODULES[engine]):
        raise NotInstalled(engine)
    makers: dict[Engine, Callable[[Vocabulary], object]] = {
        "llguidance": lambda vocabulary: compile_guidance("choices", "a", vocabulary),
        "xgrammar": _xgrammar_info,
        "outlines-core": _outlines_vocabulary,
        "lm-format-enforcer": _enforcer_data,
    }
    makers[engine](vocabulary)


def compile_with(
    engine: Engine, kind: PeerKind, text: str, vocabulary: Vocabulary, *, whitespace: Whitespace = "one space"
) -> Constraint:
    """A constraint at the beginning of a text, computed by `engine`.

    Raises:
        BadGrammar: the engine refuses the schema or expression; the message is the engine's.
        NotInstalled: the engine is not here.
    """
    if engine == "llguidance":
        return compile_guidance(kind, text, vocabulary, whitespace=whitespace)
    if not find_spec(MODULES[engine]):
        raise NotInstalled(engine)
    if len(text) > MOST_CHARACTERS:
        raise BadGrammar(f"This has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read.")
    if kind == "json schema":
        schema_to_enforce(text, whitespace)  # mistakes are told in the same words whichever engine is asked
    makers: dict[Engine, Callable[..., Peer]] = {
        "xgrammar": _xgrammar,
        "outlines-core": _outlines,
        "lm-format-enforcer": _enforcer,
    }
    try:
        peer = makers[engine](kind, text, vocabulary, whitespace)
        start = time.perf_counter()
        first = peer.mask()
        peer.first_seconds = time.perf_counter() - start
    except (BadGrammar, MemoryError):
        raise
    except Exception as error:  # whatever a foreign library raises at this point is a refusal
        raise BadGrammar(f"{engine} refuses this: {_plain(error)}.") from None
    if not first.any():
        raise BadGrammar(f"No text fits this, says {engine}, or none that this model's tokens can spell.")
    return peer


class Peer(ABC):
    """A foreign engine at one place of one text, held to the rules."""

    engine: str

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._ended = 0
        self._mask: Bits | None = None
        self.first_seconds = 0.0
        """What the very first mask took, where `compile_with` made it."""

    def told(self) -> Bits:
        """The engine's own mask, special tokens and all. Raises `GrammarLimit` when it gives up."""
        return self._asked(self._tell)

    def mask(self) -> Bits:
        if self._mask is None:
            bits = self.vocabulary.bits([])
            if not self._ended:
                bits = self.told() & self.vocabulary.plain_bits
                if self.accepting:
                    bits |= self.vocabulary.end_bits
            self._mask = bits
        return self._mask

    def allows(self, token: int) -> bool:
        if self._ended or token in self.vocabulary.special:
            return False
        if token in self.vocabulary.ends:
            return self.accepting
        if self._mask is not None:
            return has(self._mask, token)
        return self._asked(lambda: self._fits(token))

    def commit(self, token: int) -> bool:
        if self._ended or token in self.vocabulary.special:
            return False
        if token in self.vocabulary.ends:
            if not self.accepting:
                return False
            self._ended += 1
        elif not self._asked(lambda: self._take(token)):
            return False
        self._mask = None
        return True

    def rollback(self, count: int) -> None:
        ends = min(self._ended, count)
        self._ended -= ends
        if count > ends:
            self._asked(lambda: self._back(count - ends))
        self._mask = None

    def fork(self) -> Peer:
        twin = self._asked(self._twin)
        twin._ended = self._ended
        return twin

    @property
    def accepting(self) -> bool:
        return not self._ended and self._asked(self._complete)

    def forced(self) -> list[int]:
        return []

    def view(self) -> dict[str, str]:
        return {"what may follow": what_may_follow(self.mask(), self.vocabulary)}

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (MemoryError, GrammarLimit):
            raise
        except Exception as error:
            raise GrammarLimit(f"{self.engine} gave up in the middle of a text: {_plain(error)}.") from None

    @abstractmethod
    def _tell(self) -> Bits:
        """The engine's mask."""

    def _fits(self, token: int) -> bool:
        """Whether the engine would take a token."""
        if taken := self._take(token):
            self._back(1)
        return taken

    @abstractmethod
    def _take(self, token: int) -> bool:
        """Goes on by a token; leaves everything as it was, and says so, when it does not fit."""

    @abstractmethod
    def _back(self, count: int) -> None: ...

    @abstractmethod
    def _twin(self) -> Peer: ...

    @abstractmethod
    def _complete(self) -> bool:
        """Whether the text may end here."""


_plain_breaks = re.compile(r"\s+")


def _plain(error: BaseException) -> str:
    """A foreign error on one line, without the place in foreign sources."""
    text = re.sub(r"^(\[[\d:]+\]\s*)?(\S+\.(cc|cpp|h|rs|py):\d+:\s*)?", "", str(error).strip())
    text = _plain_breaks.sub(" ", text.partition("\nStack trace")[0])
    return (text or type(error).__name__)[:200].rstrip(" .")


# xgrammar

_xgrammar_tokens: WeakKeyDictionary[Vocabulary, Any] = WeakKeyDictionary()


def _xgrammar(kind: PeerKind, text: str, vocabulary: Vocabulary, whitespace: Whitespace) -> Peer:
    import xgrammar

    compiler = xgrammar.GrammarCompiler(_xgrammar_info(vocabulary), max_threads=1, cache_enabled=False)
    if kind == "regex":
        return XGrammar(xgrammar.GrammarMatcher(compiler.compile_regex(text.strip("\r\n"))), vocabulary)
    spaces: dict[Whitespace, dict[str, Any]] = {
        "one space": {"any_whitespace": True, "max_whitespace_cnt": 1},
        "compact": {"any_whitespace": False, "separators": (",", ":")},
        "any": {"any_whitespace": True},
    }
    # Not strict: strict adds "nothing else" to every object, which is another schema.
    compiled = compiler.compile_json_schema(text, strict_mode=False, **spaces[whitespace])
    return XGrammar(xgrammar.GrammarMatcher(compiled), vocabulary)


def _xgrammar_info(vocabulary: Vocabulary) -> Any:
    import xgrammar

    if vocabulary not in _xgrammar_tokens:
        _xgrammar_tokens[vocabulary] = xgrammar.TokenizerInfo(
            # Its own loader hands it the names of special tokens, and so takes them for text; see `told`.
            [piece or vocabulary.spell(id).text.encode() for id, piece in enumerate(vocabulary.bytes_of)],
            xgrammar.VocabType.RAW,
            vocab_size=len(vocabulary),
            stop_token_ids=sorted(vocabulary.ends),
        )
    return _xgrammar_tokens[vocabulary]


class XGrammar(Peer):
    """A matcher of xgrammar."""

    engine = "xgrammar"

    def __init__(self, matcher: Any, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self._matcher = matcher

    def _tell(self) -> Bits:
        # It leaves the words as they were where everything is allowed.
        words = np.full((1, -(-len(self.vocabulary) // 32)), -1, dtype=np.int32)
        self._matcher.fill_next_token_bitmask(words)
        return words.view(np.uint8)[0, : -(-len(self.vocabulary) // 8)]

    def _take(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))

    def _back(self, count: int) -> None:
        self._matcher.rollback(count)

    def _twin(self) -> XGrammar:
        return XGrammar(self._matcher.fork(), self.vocabulary)

    def _complete(self) -> bool:
        return bool(self._matcher.is_completed())


# outlines-core

_outlines_tokens: WeakKeyDictionary[Vocabulary, Any] = WeakKeyDictionary()


def _outlines(kind: PeerKind, text: str, vocabulary: Vocabulary, whitespace: Whitespace) -> Peer:
    import outlines_core

    expression = text.strip("\r\n") if kind == "regex" else expression_of(text, whitespace)
    return Outlines(outlines_core.Index(expression, _outlines_vocabulary(vocabulary)), [], vocabulary)


def _outlines_vocabulary(vocabulary: Vocabulary) -> Any:
    import outlines_core

    if vocabulary not in _outlines_tokens:
        spelled: dict[bytes, list[int]] = {}
        for id in vocabulary.text_ids.tolist():
            spelled.setdefault(vocabulary.bytes_of[id], []).append(id)
        _outlines_tokens[vocabulary] = outlines_core.Vocabulary(min(vocabulary.ends), spelled)
    return _outlines_tokens[vocabulary]


def expression_of(schema: str, whitespace: Whitespace) -> str:
    """The regular expression that outlines-core makes of a JSON Schema."""
    import outlines_core

    return cast(str, outlines_core.json_schema.build_regex_from_schema(schema, SPACES[whitespace], RECURSION))


class Outlines(Peer):
    """An index of outlines-core: an automaton whose edges are tokens. A guide walks it."""

    engine = "outlines-core"

    def __init__(self, index: Any, read: Iterable[int], vocabulary: Vocabulary) -> None:
        import outlines_core

        super().__init__(vocabulary)
        self._index, self._read = index, list(read)
        self._guide = outlines_core.Guide(index, MOST_STEPS_BACK)
        for token in self._read:
            self._guide.advance(token, False)

    def _tell(self) -> Bits:
        words = np.zeros(-(-len(self.vocabulary) // 32), dtype=np.uint32)
        self._guide.write_mask_into(words.ctypes.data, words.size, words.itemsize)
        return words.view(np.uint8)[: -(-len(self.vocabulary) // 8)]

    def _fits(self, token: int) -> bool:
        return self._index.get_next_state(self._guide.get_state(), token) is not None

    def _take(self, token: int) -> bool:
        if not self._fits(token):
            return False
        self._guide.advance(token, False)
        self._read.append(token)
        return True

    def _back(self, count: int) -> None:
        self._guide.rollback_state(count)
        del self._read[len(self._read) - count :]

    def _twin(self) -> Outlines:
        return Outlines(self._index, self._read, self.vocabulary)

    def _complete(self) -> bool:
        return bool(self._guide.is_finished())


# lm-format-enforcer

_enforcer_tokens: WeakKeyDictionary[Vocabulary, Any] = WeakKeyDictionary()


def _enforcer(kind: PeerKind, text: str, vocabulary: Vocabulary, whitespace: Whitespace) -> Peer:
    from lmformatenforcer import CharacterLevelParserConfig, JsonSchemaParser, RegexParser

    tokens = _enforcer_data(vocabulary)
    config = CharacterLevelParserConfig(
        alphabet=tokens.tokenizer_alphabet, max_consecutive_whitespaces=12 if whitespace == "any" else 1
    )
    if kind == "regex":
        parser: Any = RegexParser(text.strip("\r\n"), config)
    else:
        schema = json.loads(text)
        if not isinstance(schema, dict):
            raise BadGrammar("lm-format-enforcer takes only objects as schemas.")
        parser = JsonSchemaParser(schema, config)
    states = _enforcer_states(tokens, parser)
    parser.config = config  # the line above has put its own in place
    return Enforcer(states, [], vocabulary)


def _enforcer_data(vocabulary: Vocabulary) -> Any:
    from lmformatenforcer import TokenEnforcerTokenizerData

    if vocabulary not in _enforcer_tokens:
        regular = []
        for id in vocabulary.text_ids.tolist():
            try:
                regular.append((id, vocabulary.bytes_of[id].decode("utf-8"), True))
            except UnicodeDecodeError:
                # A part of a character: it is told from its neighbours only when decoded behind them.
                regular.append((id, vocabulary.bytes_of[id].decode("utf-8", "replace"), False))
        _enforcer_tokens[vocabulary] = TokenEnforcerTokenizerData(
            regular,
            lambda ids: vocabulary.decode(ids).decode("utf-8", "replace").rstrip("\ufffd"),
            sorted(vocabulary.ends),
            False,
            len(vocabulary),
        )
    return _enforcer_tokens[vocabulary]


def _enforcer_states(tokens: Any, parser: Any) -> Any:
    from lmformatenforcer import TokenEnforcer
    from lmformatenforcer.tokenenforcer import TokenList

    class Aloud(TokenEnforcer):
        """The original takes an error for "only the end may follow"."""

        def _compute_allowed_tokens(self, state_tokens: tuple[int, ...], state: Any) -> None:
            key = state.parser.cache_key()
            if key is None or key not in self.allowed_token_cache:
                allowed = TokenList(self.use_bitmask, self.vocab_size)
                shortcut = state.parser.shortcut_key()
                self._collect_allowed_tokens(state.parser, self.tokenizer_tree.root, allowed, shortcut)
                state.allowed_tokens = allowed
                if key is not None:
                    self.allowed_token_cache[key] = allowed
            else:
                state.allowed_tokens = self.allowed_token_cache[key]

    return Aloud(tokens, parser)


class Enforcer(Peer):
    """A token enforcer of lm-format-enforcer: it keeps a parser for every text that it was ever asked about."""

    engine = "lm-format-enforcer"

    def __init__(self, states: Any, read: Iterable[int], vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self._states, self._read = states, list(read)

    def _tell(self) -> Bits:
        return self.vocabulary.bits(self._allowed() | (self.vocabulary.ends if self._complete() else set()))

    def _allowed(self) -> set[int]:
        return set(self._states.get_allowed_tokens(self._read).allowed_tokens)

    def _take(self, token: int) -> bool:
        if not (has(self._mask, token) if self._mask is not None else token in self._allowed()):
            return False
        self._read.append(token)
        return True

    def _back(self, count: int) -> None:
        del self._read[len(self._read) - count :]

    def _twin(self) -> Enforcer:
        return Enforcer(self._states, self._read, self.vocabulary)

    def _complete(self) -> bool:
        self._states.get_allowed_tokens(self._read)
        return bool(self._states.prefix_states[tuple(self._read)].parser.can_end())
