"""How a single token is spelled.

Decoding one id at a time is not enough: byte-level vocabularies cut characters into pieces, and SentencePiece
vocabularies mark spaces. `Spelling` gives every id its own bytes, so that the tokens of a text, joined, are the text.
"""

from __future__ import annotations

import re
from functools import cache, cached_property

from transformers import PreTrainedTokenizerBase

from engines.events import Token

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class Spelling:
    """Spells the ids of one tokenizer; answers are remembered."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, Token] = {}

    @cached_property
    def _added(self) -> dict[int, str]:
        return {id: added.content for id, added in self._tokenizer.added_tokens_decoder.items()}

    @cached_property
    def _byte_level(self) -> bool:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in repr(backend.decoder)

    def token(self, id: int) -> Token:
        """The token `id`; ids beyond the tokenizer's vocabulary (padding rows of the embedding) are named so."""
        if id not in self._known:
            self._known[id] = self._spell(id)
        return self._known[id]

    def _spell(self, id: int) -> Token:
        if id in self._added:
            return Token(id, self._added[id])
        piece = self._tokenizer.convert_ids_to_tokens(id)
        if not piece:
            return Token(id, f"<unused {id}>")
        raw = self._bytes(piece)
        try:
            return Token(id, raw.decode("utf-8"))
        except UnicodeDecodeError:
            return Token(id, "", raw.hex())

    def _bytes(self, piece: str) -> bytes:
        if self._byte_level:
            alphabet = byte_alphabet()
            return b"".join(
                bytes([alphabet[letter]]) if letter in alphabet else letter.encode("utf-8", "replace")
                for letter in piece
            )
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes.fromhex(match[1])
        return piece.replace("▁", " ").encode("utf-8", "replace")


@cache
def byte_alphabet() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with: printable Latin-1 as itself, the rest from U+0100 up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + index): byte for index, byte in enumerate(hidden)}
