"""The passage of a prompt, as tokens: what an answer may be taken from.

    Text: <the passage>
    Question: <the question>
    Answer:

    1. the question ← the last line that begins with `Question:` or `Q:`
    2. the passage ← what stands between the last heading before it, `Text:`, `Passage:` or `Context:` at the start of a
       line, and the next question; examples with other texts may come before
    3. no heading: the paragraph before the question

The prompt may stand raw or in a chat template. Spans begin and end at the tokens that the passage has in its context,
so a word's first token holds the space before it. A token that reaches beyond the passage is not part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from engines.errors import DecodingError
from engines.events import Token
from engines.runner import Run

End = Literal["newline", "end of text", "both"]
Space = Literal["automatic", "kept", "dropped"]

HEADING = re.compile(rb"(?:\A|(?<=[\n>\]]))[ \t]*(?:Text|Passage|Context):")
QUESTION = re.compile(rb"(?:\A|\n)[ \t]*(?:Question|Q):")
BLANK = re.compile(rb"\n[ \t]*\n")


class NoPassage(DecodingError):
    """The prompt holds no passage that an answer could be taken from, or too long a one."""


@dataclass(frozen=True, slots=True)
class Passage:
    """The passage's tokens, and what stands for each of them where a span begins with it: one token or several."""

    tokens: list[int]
    firsts: list[list[int]]
    blank: frozenset[int] = frozenset()
    """Those of the tokens that are white space."""

    @property
    def start_differs(self) -> bool:
        return any(first != [token] for first, token in zip(self.firsts, self.tokens, strict=True))


def find_passage(run: Run, ends: frozenset[int], space: Space = "automatic") -> Passage:
    """The passage of a prompt. Raises `NoPassage` when there is none."""
    model, prompt = run.model, run.prompt
    start = _begin_of_request(run)
    pieces = [_bytes(model.token(id)) for id in prompt[start:]]
    text = b"".join(pieces)
    asked = list(QUESTION.finditer(text))
    if not asked:
        raise NoPassage(
            "The prompt has no question, so it is not clear where the passage ends. Write the passage behind “Text:”, "
            "then on a line of its own “Question:” and the question, and last “Answer:”."
        )
    headings = [heading for heading in HEADING.finditer(text) if heading.end() <= asked[-1].start()]
    if headings:
        low = headings[-1].end()
        high = next(one.start() for one in asked if one.start() >= low)
    else:
        high = asked[-1].start()
        before = text[:high].rstrip()
        low = max((blank.end() for blank in BLANK.finditer(before)), default=0)
    high = low + len(text[low:high].rstrip())
    tokens: list[int] = []
    at = 0
    for id, piece in zip(prompt[start:], pieces, strict=True):
        if low <= at and at + len(piece) <= high and (tokens or piece.strip()):
            tokens.append(id)
        at += len(piece)
    if not any(token not in ends for token in tokens):
        raise NoPassage(
            "There is nothing before the question that an answer could be taken from. Write the passage behind "
            "“Text:”, and then the question on a line that begins with “Question:”."
        )
    drop = space == "dropped" or (space == "automatic" and _ends_in_space(run))
    firsts = [_without_space(run, id) if drop else [id] for id in tokens]
    blank = frozenset(id for id in tokens if not _bytes(model.token(id)).strip())
    return Passage(tokens, firsts, blank)


def _begin_of_request(run: Run) -> int:
    """The number of tokens that the chat template puts before the user's words."""
    if not getattr(run.model, "has_chat_template", False):
        return 0
    frame = run.model.encode("@")
    pairs = enumerate(zip(run.prompt, frame, strict=False))
    return next((index for index, (ours, theirs) in pairs if ours != theirs), 0)


def _ends_in_space(run: Run) -> bool:
    spelled = _bytes(run.model.token(run.sequence[-1]))
    return not spelled or spelled[-1:].isspace()


def _without_space(run: Run, id: int) -> list[int]:
    text = run.model.token(id).text
    bare = text.removeprefix(" ")
    return run.model.vocabulary.tokenise(bare) if bare.strip() and bare != text else [id]


def _bytes(token: Token) -> bytes:
    return bytes.fromhex(token.hex) if token.hex else token.text.encode("utf-8", "replace")


def end_tokens(run: Run, end: End) -> list[int]:
    """The tokens that count as the end marker, in order."""
    ids = set(run.model.eos_ids) if end != "newline" else set()
    if end != "end of text":
        vocabulary = run.model.vocabulary
        ids |= {id for id, piece in enumerate(vocabulary.bytes_of) if piece.startswith(b"\n")} - vocabulary.special
    if not ids:
        raise NoPassage(f"This model has no token for the end marker “{end}”. Choose another one.")
    return sorted(ids)
