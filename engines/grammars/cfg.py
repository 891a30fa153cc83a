"""Context-free grammars in Lark's notation: read, cleaned, and turned into the table of an LALR(1) parser.

    1. read the text (the `lark` package), within a time limit: its expansion of alternatives can explode
    2. turn every terminal into an automaton over bytes
    3. keep what is productive (derives some finite text) and reachable; a start that is not productive is an error
    4. build the LALR(1) table of what is left, strictly: a conflict is an error, never resolved in silence
    5. for a vocabulary, take away bytes that none of its tokens has, and clean again

How a text is cut into terminals: at each place, only terminals that the parser would take there, or that are ignored,
compete; the longest match wins, then the higher priority, then fixed text before expressions, then the order in the
grammar. An ignored terminal is ignored everywhere, as in Lark.

The second half are services for texts with holes, as diffusion models write them: `intersects` decides whether some
word of the grammar fits a text in which parts are still open.
"""

from __future__ import annotations

import ctypes
import heapq
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from lark import LarkError
from lark.common import ParserConf
from lark.grammar import NonTerminal, RuleOptions
from lark.grammar import Rule as LarkRule
from lark.grammar import Terminal as LarkTerminal
from lark.lexer import PatternStr, TerminalDef
from lark.load_grammar import load_grammar
from lark.parsers.lalr_analysis import LALR_Analyzer, Shift

from engines.grammars.automata import ByteDFA, from_regex, from_text
from engines.grammars.constraint import BadGrammar, GrammarLimit
from engines.grammars.vocabulary import Vocabulary

MOST_CHARACTERS = 64 * 1024
SECONDS = 5.0
END = "$END"
MOST_TERMINALS = 300
MOST_STATES = 20_000
"""Of all terminals' automata together."""
MOST_KNOWN = 400
"""Bytes of a text with holes."""
LIBRARIES = ("common", "python", "unicode")
"""What may be imported: Lark's own collections."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Rule:
    """`origin` may become `body`, names of rules and terminals."""

    origin: str
    body: tuple[str, ...]
    priority: int = 0


class Grammar:
    """A grammar over terminals which are automata over bytes.

    Args:
        terminals: by name, those that win first.
        ignored: names of terminals that may stand between any two.
        labels: terminals' names for people.
        text: where it was read from, for the places in messages.
    """

    def __init__(
        self,
        start: str,
        rules: Sequence[Rule],
        terminals: Mapping[str, ByteDFA],
        ignored: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        text: str = "",
    ) -> None:
        self.start, self.rules, self.terminals = start, tuple(rules), dict(terminals)
        self.ignored, self.labels, self.text = tuple(ignored), dict(labels or {}), text

    @classmethod
    def from_lark(cls, text: str, *, start: str = "start", seconds: float = SECONDS) -> Grammar:
        """Reads, trims and checks a grammar.

        Raises:
            BadGrammar: malformed, in conflict, without any finite text, or too large; says where if that is known.
        """
        if len(text) > MOST_CHARACTERS:
            raise BadGrammar(f"This has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read.")
        if not text.strip():
            raise BadGrammar("There is nothing here yet. Write one, or choose one from the gallery.")
        return _within(seconds, lambda: cls._read(text, start))

    @classmethod
    def _read(cls, text: str, start: str) -> Grammar:
        for line, row in enumerate(text.splitlines(), 1):
            if (found := re.match(r"\s*%import\s+([.\w]*)", row)) and found[1].partition(".")[0] not in LIBRARIES:
                raise BadGrammar(f"Only {', '.join(LIBRARIES)} can be imported, nothing else.", line, 1)
            if re.match(r"\s*%(declare|llguidance|override|extend)\b", row):
                raise BadGrammar(f"{row.split()[0]} is not supported here. Write the definition out.", line, 1)
        try:
            loaded, _ = load_grammar(text, "<string>", [], False)
            definitions, compiled, ignored = loaded.compile([start], [])
        except (LarkError, OSError, AssertionError, RecursionError) as error:
            raise _explained(error, text) from None
        names = {one.name for one in definitions} | {str(rule.origin.name) for rule in compiled}
        if start not in names:
            raise BadGrammar(f"There is no rule called {start}, with which every text begins. Add one.")
        order = sorted(
            enumerate(definitions),
            key=lambda item: (-item[1].priority, not isinstance(item[1].pattern, PatternStr), item[0]),
        )
        if len(order) > MOST_TERMINALS:
            raise BadGrammar(f"This has {len(order)} terminals; at most {MOST_TERMINALS} are read.")
        terminals = {one.name: _automaton(one, text) for _, one in order}
        if (states := sum(map(len, terminals.values()))) > MOST_STATES:
            raise BadGrammar(
                f"The automata of all terminals are too large together: {states:,} states, and {MOST_STATES:,} are "
                "the limit. Make them smaller, or use the grammar mask, which needs no tables."
            )
        labels = {one.name: _label(one) for _, one in order}
        rules = [
            Rule(
                str(rule.origin.name),
                tuple(str(symbol.name) for symbol in rule.expansion),
                (rule.options and rule.options.priority) or 0,
            )
            for rule in compiled
        ]
        grammar = cls(start, rules, terminals, [str(name) for name in ignored], labels, text).trim()
        grammar.table  # noqa: B018  a conflict is to be found now
        return grammar

    @cached_property
    def nullable(self) -> frozenset[str]:
        """Rules that derive the empty text."""
        return self._worklist(frozenset())

    @cached_property
    def productive(self) -> frozenset[str]:
        """Rules and terminals that derive some finite text."""
        spelt = {name for name, dfa in self.terminals.items() if not dfa.empty and name not in self.ignored}
        return self._worklist(frozenset(spelt))

    def _worklist(self, known: frozenset[str]) -> frozenset[str]:
        """The names whose rules can be made of known ones alone, and the known ones."""
        found = set(known)
        missing = [len({name for name in rule.body if name not in found}) for rule in self.rules]
        uses: dict[str, list[int]] = defaultdict(list)
        for index, rule in enumerate(self.rules):
            for name in set(rule.body):
                uses[name].append(index)
        todo = [rule.origin for rule, count in zip(self.rules, missing, strict=True) if not count]
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found.add(name)
            for index in uses[name]:
                missing[index] -= 1
                if not missing[index]:
                    todo.append(self.rules[index].origin)
        return frozenset(found)

    @cached_property
    def min_length(self) -> dict[str, int]:
        """Bytes of the shortest text of each productive rule and terminal, ignored text left out."""
        return {name: len(word) for name, word in self.shortest.items()}

    @cached_property
    def shortest(self) -> dict[str, bytes]:
        """A shortest text of each productive rule and terminal."""
        words = {name: dfa.shortest for name, dfa in self.terminals.items() if name not in self.ignored}
        best: dict[str, bytes] = {name: word for name, word in words.items() if word is not None}
        changed = True
        while changed:
            changed = False
            for rule in self.rules:
                if all(name in best for name in rule.body):
                    size = sum(len(best[name]) for name in rule.body)
                    if rule.origin not in best or size < len(best[rule.origin]):
                        best[rule.origin] = b"".join(best[name] for name in rule.body)
                        changed = True
        return best

    def trim(self) -> Grammar:
        """Without rules and terminals that no text of the grammar uses.

        Raises `BadGrammar` when there is no text at all.
        """
        if self.start not in self.productive:
            line, column = _place(self.text, self.start)
            raise BadGrammar(
                f"The rule {self.start} derives no finite text: every way through it goes on for ever, or needs "
                "something that nothing matches.",
                line,
                column,
            )
        rules = [rule for rule in self.rules if all(name in self.productive for name in rule.body)]
        reached, todo = {self.start}, [self.start]
        by_origin: dict[str, list[Rule]] = defaultdict(list)
        for rule in rules:
            by_origin[rule.origin].append(rule)
        while todo:
            for rule in by_origin[todo.pop()]:
                fresh = set(rule.body) - reached
                reached |= fresh
                todo += fresh
        ignored = [name for name in self.ignored if not self.terminals[name].empty]
        kept = {name: dfa for name, dfa in self.terminals.items() if name in reached or name in ignored}
        rules = [rule for rule in rules if rule.origin in reached]
        return Grammar(self.start, rules, kept, ignored, self.labels, self.text)

    def for_vocabulary(self, vocabulary: Vocabulary) -> Grammar:
        """The part of the language that these tokens can spell: bytes that none of them has are taken away.

        Raises `BadGrammar` when nothing is left.
        """
        terminals = {name: dfa.without(vocabulary.missing) for name, dfa in self.terminals.items()}
        left = Grammar(self.start, self.rules, terminals, self.ignored, self.labels, self.text)
        if left.start not in left.productive:
            lost = [self.label(name) for name in self.terminals if left.terminals[name].empty]
            raise BadGrammar(
                f"This model's tokens cannot spell any text of this grammar: {', '.join(lost[:5])} needs bytes that "
                "no token has. Change it, or try another model."
            )
        return left.trim()

    def label(self, name: str) -> str:
        """A terminal's name for people: fixed text in quotes."""
        return "the end" if name == END else self.labels.get(name, name)

    @cached_property
    def table(self) -> Table:
        """The LALR(1) table. Raises `BadGrammar` on a conflict."""
        terminals = self.terminals
        rules = [
            LarkRule(
                NonTerminal(rule.origin),
                [LarkTerminal(name) if name in terminals else NonTerminal(name) for name in rule.body],
                index,
                None,
                RuleOptions(priority=rule.priority),
            )
            for index, rule in enumerate(self.rules)
        ]
        analyzer = LALR_Analyzer(ParserConf(rules, {}, [self.start]), strict=True)
        try:
            analyzer.compute_lalr()
        except LarkError as error:
            raise _explained(error, self.text, self.label) from None
        # Lark numbers the states unless it debugs.
        parsed: Any = analyzer.parse_table
        actions: dict[int, dict[str, int | tuple[str, int]]] = {
            state: {
                name: target if action is Shift else (str(target.origin.name), len(target.expansion))
                for name, (action, target) in row.items()
            }
            for state, row in parsed.states.items()
        }
        return Table(actions, tuple(terminals), parsed.start_states[self.start], parsed.end_states[self.start])


class Table:
    """An LALR(1) table: in each state, per name, the state to go to, or the rule (name, length) to reduce by."""

    def __init__(
        self, actions: dict[int, dict[str, int | tuple[str, int]]], terminals: tuple[str, ...], start: int, end: int
    ) -> None:
        self.actions, self.terminals, self.start, self.end = actions, terminals, start, end

    def begin(self) -> Stack:
        """The stack before a text. What is found out from it on is forgotten with it."""
        return Stack(self, self.start, None)

    def __len__(self) -> int:
        return len(self.actions)


class Stack:
    """A parser's stack; never changed, so that any number of texts can share the beginnings of theirs."""

    __slots__ = ("_accepts", "_after", "below", "state", "symbol", "table")

    def __init__(self, table: Table, state: int, below: Stack | None, symbol: str = "") -> None:
        self.table, self.state, self.below = table, state, below
        self.symbol = symbol
        """What was read last: a terminal, or the rule that it completed."""
        self._after: dict[str, Stack | None] = {}
        self._accepts: tuple[str, ...] | None = None

    def after(self, terminal: str) -> Stack | None:
        """The stack when `terminal` was read; None when it may not stand here."""
        if terminal not in self._after:
            self._after[terminal] = self._read(terminal)
        return self._after[terminal]

    def _read(self, terminal: str) -> Stack | None:
        actions, stack = self.table.actions, self
        while True:
            action = actions[stack.state].get(terminal)
            if action is None:
                return None
            if isinstance(action, int):
                return Stack(self.table, action, stack, terminal)
            name, size = action
            for _ in range(size):
                assert stack.below is not None
                stack = stack.below
            target = actions[stack.state][name]
            assert isinstance(target, int)
            stack = Stack(self.table, target, stack, name)
            if terminal == END and target == self.table.end:
                return stack

    @property
    def accepts(self) -> tuple[str, ...]:
        """The terminals that may come next, `END` among them where the text may end. Exact: each is tried."""
        if self._accepts is None:
            row = self.table.actions[self.state]
            names = [name for name in (*self.table.terminals, END) if name in row]
            self._accepts = tuple(name for name in names if self.after(name) is not None)
        return self._accepts

    def symbols(self) -> list[str]:
        """What has been read, from the beginning on: rules that are complete, and terminals."""
        found: list[str] = []
        stack = self
        while stack.below is not None:
            found.append(stack.symbol)
            stack = stack.below
        return found[::-1]


def two_nf(grammar: Grammar) -> Grammar:
    """The same language with at most two names on the right of a rule. Empty rules and chains stay, so the grammar
    grows by a constant factor only."""
    rules: list[Rule] = []
    for index, rule in enumerate(grammar.rules):
        origin, body = rule.origin, rule.body
        for place in range(len(body) - 2):
            rest = f"{rule.origin}·{index}·{place}"
            rules.append(Rule(origin, (body[place], rest)))
            origin = rest
        rules.append(Rule(origin, body[-2:]))
    return Grammar(grammar.start, rules, grammar.terminals, grammar.ignored, grammar.labels, grammar.text)


@dataclass(frozen=True, slots=True)
class Holed:
    """A text with holes as an automaton over terminals. State n stands behind the first n known bytes.

    `arcs`: from, terminal, to → a shortest text of that terminal that fits there, ignored text before it included.
    `ends`: the states behind which only ignored text is left → that text.
    """

    states: int
    arcs: dict[tuple[int, str, int], bytes]
    ends: dict[int, bytes]


def with_holes(grammar: Grammar, pieces: Sequence[bytes | None]) -> Holed:
    """Cuts a text into terminals in every possible way; None is a hole, any number of any bytes.

    Longest match is not asked for: a cut that the lexer would not make counts too. Raises `GrammarLimit` beyond
    `MOST_KNOWN` known bytes.
    """
    known: list[int] = []
    holes: set[int] = set()
    for piece in pieces:
        if piece is None:
            holes.add(len(known))
        else:
            known += piece
    size = len(known)
    if size > MOST_KNOWN:
        raise GrammarLimit(f"A text with holes may have {MOST_KNOWN} known bytes at most, not {size:,}.")

    def spelt(dfa: ByteDFA, begin: int) -> dict[int, bytes]:
        """Where a match that begins at `begin` may end, and a shortest such match."""
        ways = {(begin, 0): b""}
        queue = list(ways) if not dfa.empty else []
        found: dict[int, bytes] = {}
        for place, state in queue:
            word = ways[place, state]
            if dfa.ends[state] and word:
                found.setdefault(place, word)
            steps = [(place + 1, known[place])] if place < size else []
            if place in holes:
                targets, firsts = np.unique(dfa.delta[state], return_index=True)
                steps += [(place, int(byte)) for byte, target in zip(firsts, targets, strict=True) if target != state]
            for after, byte in steps:
                target = dfa.table[state << 8 | byte]
                if target != dfa.dead and (after, target) not in ways:
                    ways[after, target] = word + bytes([byte])
                    queue.append((after, target))
        return found

    words = {(begin, name): spelt(dfa, begin) for name, dfa in grammar.terminals.items() for begin in range(size + 1)}
    skipped: list[dict[int, bytes]] = []
    for begin in range(size + 1):
        reached = {begin: b""}
        queue = [(0, begin)]
        while queue:
            cost, place = heapq.heappop(queue)
            if cost > len(reached[place]):
                continue
            for name in grammar.ignored:
                for after, word in words[place, name].items():
                    if after not in reached or cost + len(word) < len(reached[after]):
                        reached[after] = reached[place] + word
                        heapq.heappush(queue, (cost + len(word), after))
        skipped.append(reached)
    arcs: dict[tuple[int, str, int], bytes] = {}
    for begin, reached in enumerate(skipped):
        for place, before in reached.items():
            for name in grammar.terminals:
                if name in grammar.ignored:
                    continue
                for after, word in words[place, name].items():
                    key = begin, name, after
                    if key not in arcs or len(before) + len(word) < len(arcs[key]):
                        arcs[key] = before + word
    ends = {begin: reached[size] for begin, reached in enumerate(skipped) if size in reached}
    return Holed(size + 1, arcs, ends)


def intersects(grammar: Grammar, holed: Holed) -> bytes | None:
    """A shortest text of the grammar that fills the holes; None when there is none.

    Spans (from, name, to) are found cheapest first from the terminals up, so the first whole text is a shortest one;
    at most rules · states³ steps.
    """
    short = two_nf(grammar)
    uses: dict[str, list[Rule]] = defaultdict(list)
    queue: list[tuple[int, int, str, int, bytes]] = [
        (len(word), begin, name, end, word) for (begin, name, end), word in holed.arcs.items()
    ]
    for rule in short.rules:
        for name in set(rule.body):
            uses[name].append(rule)
        if not rule.body:
            queue += [(0, state, rule.origin, state, b"") for state in range(holed.states)]
    heapq.heapify(queue)
    begun: dict[tuple[int, str], dict[int, bytes]] = defaultdict(dict)
    ended: dict[tuple[int, str], dict[int, bytes]] = defaultdict(dict)
    while queue:
        _, begin, name, end, word = heapq.heappop(queue)
        if name == END:
            return word
        if end in begun[begin, name]:
            continue
        begun[begin, name][end] = ended[end, name][begin] = word
        found: list[tuple[int, str, int, bytes]] = []
        if name == short.start and begin == 0 and end in holed.ends:
            found.append((0, END, end, word + holed.ends[end]))
        for rule in uses[name]:
            if len(rule.body) == 1:
                found.append((begin, rule.origin, end, word))
                continue
            first, second = rule.body
            if first == name:
                found += [(begin, rule.origin, after, word + more) for after, more in begun[end, second].items()]
            if second == name:
                found += [(before, rule.origin, end, more + word) for before, more in ended[begin, first].items()]
        for one in found:
            heapq.heappush(queue, (len(one[3]), *one))
    return None


def _automaton(definition: TerminalDef, text: str) -> ByteDFA:
    pattern, place = definition.pattern, _place(text, definition.name)
    try:
        if isinstance(pattern, PatternStr) and not pattern.flags:
            dfa = from_text(pattern.value)
        else:
            dfa = from_regex(pattern.to_regexp())
    except BadGrammar as error:
        raise BadGrammar(str(error), *(place if any(place) else _place(text, str(pattern.value)))) from None
    if dfa.zero_width:
        raise BadGrammar(
            f"The terminal {_label(definition)} also matches the empty text, so it could be read for ever. Let it "
            "match something, for example with + in place of *, and make it optional where it is used.",
            *place,
        )
    return dfa


def _label(definition: TerminalDef) -> str:
    if isinstance(definition.pattern, PatternStr):
        return f"“{definition.pattern.value}”"
    return f"/{definition.pattern.value}/" if definition.name.startswith("__") else definition.name


def _place(text: str, name: str) -> tuple[int, int]:
    """Line and column of the definition of `name`, or of its first mention; 0, 0 if it has none."""
    found = re.search(rf"^[ \t]*[?!]*({re.escape(name)})\b[^\n:]*:", text, re.MULTILINE)
    start = found.start(1) if found else text.find(name)
    if start < 0 or not name:
        return 0, 0
    return text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)


def _explained(error: BaseException, text: str, label: Callable[[str], str] = str) -> BadGrammar:
    """Lark's message as a sentence, with its place."""
    if isinstance(error, RecursionError):
        return BadGrammar("This is nested too deeply to be read.")
    if isinstance(error, OSError):
        return BadGrammar("Something that is imported does not exist.", *_place(text, "%import"))
    message = str(error)
    if conflict := re.match(r"Shift/Reduce conflict for terminal (\S+?)\. .*?\* <(\S+) :(.*?)>", message, re.DOTALL):
        terminal, rule, body = conflict[1], conflict[2], " ".join(conflict[3].split())
        return BadGrammar(
            f"This grammar is in conflict: when {label(terminal)} follows, the rule {_rule(rule)}:"
            f"{_body(body)} may be complete, or may go on. It is ambiguous, or needs more than one terminal of "
            "foresight. Rewrite it, or use the grammar mask, which takes any grammar.",
            *_place(text, _rule(rule)),
        )
    if message.startswith("Reduce/Reduce"):
        named = sorted({_rule(name) for name in re.findall(r"<(\S+) :", message)})
        rules = " and ".join(named[:4])
        return BadGrammar(
            f"This grammar is in conflict: the same text is complete by more than one rule ({rules}). Rewrite it, or "
            "use the grammar mask, which takes any grammar.",
            *_place(text, named[0] if named else ""),
        )
    if undefined := re.match(r"Rule '(.+)' used but not defined \(in rule (.+)\)", message):
        return BadGrammar(f"The rule {undefined[1]} is used but not defined.", *_place(text, undefined[2]))
    place = re.search(r",? ?at line (\d+),? column (\d+)", message)
    line, column = (int(place[1]), int(place[2])) if place else (0, 0)
    plain = (message[: place.start()] if place else message).partition("\n")[0].strip(" .,:")
    if not place and (name := re.search(r"(?:terminal|[Rr]ule|Terminal) '?([A-Za-z_]\w*)", plain)):
        line, column = _place(text, name[1])
    return BadGrammar(f"{plain[:1].upper()}{plain[1:240]}." if plain else "This cannot be read.", line, column)


def _rule(name: str) -> str:
    """The user's rule that a rule made by Lark belongs to."""
    made = re.match(r"__(.+?)_(?:star|plus|repeat|opt)\w*_\d+", name)
    return made[1] if made else name


def _body(body: str) -> str:
    return " " + " ".join(_rule(word) for word in body.split()) if body else " (empty)"


MOST_THROWS = 30


class _TooLate(BaseException):
    """Thrown into a reader that takes too long."""


def _within(seconds: float, work: Callable[[], Made]) -> Made:
    """The result of `work`, which is stopped when it takes longer. All of it must be plain Python."""
    made: list[Made] = []
    raised: list[BaseException] = []

    def job() -> None:
        try:
            made.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=job, name="read-grammar", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # Thrown again until it is out: where it meets a finaliser or a callback of the collector, Python drops it.
        for _ in range(MOST_THROWS):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_TooLate))
            thread.join(0.1)
            if not thread.is_alive():
                break
        raise BadGrammar(f"Reading this took longer than {seconds:g} s, so it was given up. Make it smaller.")
    if raised:
        raise raised[0]
    return made[0]
