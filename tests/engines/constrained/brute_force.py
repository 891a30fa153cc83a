"""SynCode's language by definition, and random grammars to try it on: an Earley recogniser, and `re` on short texts."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator

from engines.grammars.cfg import Grammar
from engines.grammars.constraint import BadGrammar

LETTERS = "abc"
POOL = ('"a"', '"b"', '"c"', '"ab"', '"ca"', "/a+/", "/[ab]c/", "/b?c/", "/a(bc)?/", "/b+a?/", "/[a-c]/")
PIECES = [*LETTERS, *(a + b for a in LETTERS for b in LETTERS), "abc", "cab", "bca", "aab", "acb"]


class Brute:
    """The language of a grammar, one rule per line, by definition."""

    def __init__(self, text: str) -> None:
        self.rules: list[tuple[str, tuple[str, ...]]] = []
        self.patterns: list[tuple[bool, str, re.Pattern[str]]] = []
        self.ignored: list[str] = []
        for line in text.splitlines():
            if line.startswith("%ignore"):
                self.ignored.append(line.split()[1])
                continue
            name, _, body = line.partition(": ")
            if name.isupper():
                fixed = body.startswith('"')
                self.patterns.append((not fixed, name, re.compile(body.strip('"/'))))
            else:
                self.rules += [(name, tuple(option.split())) for option in body.split(" | ")]
        self.patterns.sort(key=lambda item: item[0])
        productive: set[str] = {name for _, name, _ in self.patterns if name not in self.ignored}
        while more := {o for o, body in self.rules if o not in productive and set(body) <= productive}:
            productive |= more
        self.rules = [(origin, body) for origin, body in self.rules if set(body) <= productive]
        self._follow: dict[tuple[str, ...], tuple[frozenset[str], bool]] = {}

    def following(self, read: tuple[str, ...]) -> tuple[frozenset[str], bool]:
        """The terminals that may follow these, and whether the text may end."""
        if read not in self._follow:
            self._follow[read] = self._earley(read)
        return self._follow[read]

    def _earley(self, read: tuple[str, ...]) -> tuple[frozenset[str], bool]:
        sets: list[set[tuple[str, tuple[str, ...], int, int]]] = [
            {(origin, body, 0, 0) for origin, body in self.rules if origin == "start"}
        ]
        origins = {origin for origin, _ in self.rules}
        for place in range(len(read) + 1):
            here = sets[place]
            while True:
                more = set()
                for origin, body, dot, begin in here:
                    if dot == len(body):
                        more |= {(o, b, d + 1, s) for o, b, d, s in sets[begin] if d < len(b) and b[d] == origin}
                    elif body[dot] in origins:
                        more |= {(o, b, 0, place) for o, b in self.rules if o == body[dot]}
                if more <= here:
                    break
                here |= more
            if place < len(read):
                sets.append({(o, b, d + 1, s) for o, b, d, s in here if d < len(b) and b[d] == read[place]})
        last = sets[-1]
        names = frozenset(body[dot] for _, body, dot, _ in last if dot < len(body) and body[dot] not in origins)
        return names, any(o == "start" and d == len(b) and s == 0 for o, b, d, s in last)

    def _competing(self, read: tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
        here = self.following(read)[0]
        return [(name, pattern) for _, name, pattern in self.patterns if name in here or name in self.ignored]

    def _longest(self, text: str, read: tuple[str, ...]) -> tuple[int, tuple[str, ...]] | None:
        for size in range(len(text), 0, -1):
            for name, pattern in self._competing(read):
                if pattern.fullmatch(text[:size]):
                    return size, read if name in self.ignored else (*read, name)
        return None

    def legal(self, text: str, read: tuple[str, ...] = ()) -> bool:
        """Whether the text can be cut and read, and its rest can still become a terminal."""
        if not text:
            return True
        for _, pattern in self._competing(read):
            for size in range(3):
                if any(pattern.fullmatch(text + "".join(more)) for more in itertools.product(LETTERS, repeat=size)):
                    return True
        cut = self._longest(text, read)
        return cut is not None and self.legal(text[cut[0] :], cut[1])

    def complete(self, text: str, read: tuple[str, ...] = ()) -> bool:
        """Whether the text is one of the language."""
        if not text:
            return self.following(read)[1]
        cut = self._longest(text, read)
        return cut is not None and self.complete(text[cut[0] :], cut[1])


def random_grammar(rng: random.Random) -> str:
    count = rng.randint(2, 4)
    names = [f"T{i}" for i in range(count)]
    rules = ["start", "one", "two"][: rng.randint(1, 3)]
    lines = []
    for rule in rules:
        options = {
            " ".join(rng.choice([*names, *names, *rules]) for _ in range(rng.randint(1, 3)))
            for _ in range(rng.randint(1, 3))
        }
        lines.append(f"{rule}: {' | '.join(sorted(options))}")
    lines += [f"{name}: {terminal}" for name, terminal in zip(names, rng.sample(POOL, count), strict=True)]
    if rng.random() < 0.3:
        lines.append(f"%ignore {rng.choice(names)}")
    return "\n".join(lines)


def random_grammars(count: int) -> Iterator[str]:
    """Grammars that can be read; most random ones are in conflict or derive nothing."""
    rng = random.Random(7)
    while count:
        text = random_grammar(rng)
        try:
            Grammar._read(text, "start")
        except BadGrammar:
            continue
        count -= 1
        yield text
