"""A model's tokens as bytes, which is what a grammar sees of them.

A grammar speaks of characters, a model of tokens. A token may hold several characters or a part of one, so both are
taken for bytes: the tokens of a text, joined, are the text in UTF-8. Special tokens spell nothing; text that looks
like one is not one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from engines.events import Token
from engines.models.spelling import Spelling

Bits = NDArray[np.uint8]
"""A set of tokens, one bit each: token i is bit i % 8 of byte i // 8. Shape (⌈vocabulary / 8⌉,)."""

MARK = "\x02"
"""A character that no tokenizer joins with others."""


class Vocabulary:
    """The tokens of one model.

    Args:
        spelled: the bytes of every id; empty for ids that spell nothing.
        special: ids that no grammar allows, other than the end of text.
        ends: ids that end a text.
        tokenise: the usual tokens of a text, special ones never.
        spell: id → Token, for the events.
    """

    def __init__(
        self,
        spelled: Sequence[bytes],
        special: Iterable[int],
        ends: Iterable[int],
        tokenise: Callable[[str], list[int]],
        spell: Callable[[int], Token],
    ) -> None:
        self.bytes_of = tuple(spelled)
        self.ends = frozenset(ends)
        self.special = frozenset(special) - self.ends | {id for id, piece in enumerate(spelled) if not piece}
        self.special -= self.ends
        self.tokenise, self.spell = tokenise, spell

    def __len__(self) -> int:
        return len(self.bytes_of)

    @cached_property
    def text_ids(self) -> NDArray[np.int64]:
        """Ids that spell something, in the order of their bytes: neighbours begin alike."""
        plain = (id for id in range(len(self)) if id not in self.special and id not in self.ends)
        return np.array(sorted(plain, key=self.bytes_of.__getitem__), dtype=np.int64)

    @cached_property
    def first_bytes(self) -> NDArray[np.int16]:
        """The first byte of every id, -1 where it spells nothing, (vocabulary,)."""
        return np.array([piece[0] if piece else -1 for piece in self.bytes_of], dtype=np.int16)

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Which bytes no token has, neither alone nor among others, (256,)."""
        missing = np.ones(256, dtype=np.bool_)
        missing[np.frombuffer(b"".join(self.bytes_of[id] for id in self.text_ids.tolist()), dtype=np.uint8)] = False
        return missing

    @cached_property
    def plain_bits(self) -> Bits:
        """All tokens that spell something."""
        return self.bits(self.text_ids)

    @cached_property
    def end_bits(self) -> Bits:
        return self.bits(sorted(self.ends))

    @cached_property
    def key(self) -> str:
        """A hash of all spellings: tables made for one vocabulary must not be read for another."""
        digest = hashlib.sha256()
        for id, piece in enumerate(self.bytes_of):
            digest.update(f"{id in self.special}{id in self.ends}{len(piece)}:".encode() + piece)
        return digest.hexdigest()[:16]

    def bits(self, ids: Iterable[int] | NDArray[np.int64]) -> Bits:
        """A set of ids as bits."""
        flags = np.zeros(len(self), dtype=np.uint8)
        flags[np.fromiter(ids, dtype=np.int64) if not isinstance(ids, np.ndarray) else ids] = 1
        return np.packbits(flags, bitorder="little")

    def flags(self, bits: Bits) -> NDArray[np.bool_]:
        """Bits as one truth value per id, (vocabulary,)."""
        return np.unpackbits(bits, count=len(self), bitorder="little").view(np.bool_)

    def ids(self, bits: Bits) -> list[int]:
        """The ids of a set, in order."""
        return np.flatnonzero(self.flags(bits)).tolist()

    def decode(self, ids: Iterable[int]) -> bytes:
        """What tokens spell; ends and special tokens spell nothing."""
        return b"".join(self.bytes_of[id] for id in ids if id not in self.ends and id not in self.special)


def has(bits: Bits, id: int) -> bool:
    """Whether a set of tokens holds this one."""
    return bool(bits[id >> 3] >> (id & 7) & 1)


def read_vocabulary(
    tokenizer: PreTrainedTokenizerBase, spelling: Spelling, size: int, ends: Iterable[int]
) -> Vocabulary:
    """The vocabulary of a tokenizer whose model has `size` logits.

    Special are the added tokens that say so and the padding beyond the tokenizer's own ids. `all_special_ids` is no
    guide: it names three of the embedded model's seventeen.
    """
    special = {id for id, added in tokenizer.added_tokens_decoder.items() if added.special}
    special |= set(range(len(tokenizer), size)) | set(tokenizer.all_special_ids)

    def piece(id: int) -> bytes:
        if id in special:
            return b""
        token = spelling.token(id)
        return bytes.fromhex(token.hex) if token.hex else token.text.encode("utf-8")

    def cut(text: str) -> list[int]:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [id for id in ids if id not in special]

    def tokenise(text: str) -> list[int]:
        ids = cut(text)
        if b"".join(map(piece, ids)) == text.encode("utf-8", "replace"):
            return ids
        # SentencePiece puts a space before every text, and none between a mark and what follows it.
        head, marked = cut(MARK), cut(MARK + text)
        tail = marked[len(head) :]
        return tail if marked[: len(head)] == head and b"".join(map(piece, tail)) == text.encode() else ids

    return Vocabulary([piece(id) for id in range(size)], special, ends, tokenise, spelling.token)
