"""What may stand in for a token of a text: the samplers of ReAGent.

A substitute is never the token itself, never a special token and never the end of the text. Three sources:

    own model        the model's own distribution at that place, P(· | x_<i), given the original text before it. The
                     first token of a text has nothing before it: there all tokens are equally probable
    unigram bucket   a token that looks alike (a space before it or not; small letters, a capital, capitals, digits,
                     signs) and is about as frequent. Ids stand for frequency ranks: vocabularies made by merging pairs
                     are in the order of the merges
    uniform          any token

All are pure functions of numbers drawn elsewhere, so that the same numbers give the same substitutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

NEIGHBOURS = 100
"""Of a bucket, so many more frequent tokens and so many rarer ones."""


class Substitutes(Protocol):
    """Where substitutes for the tokens of one context, n long, come from."""

    def __call__(self, chance: Tensor, /) -> Tensor:
        """A substitute for every token: ids (probes, n) from numbers (probes, n), uniform on [0, 1)."""


class OwnModel:
    """The model's own predictions.

    Args:
        logits: the model's at every place (n, vocabulary), given what stands before it.
        context: the tokens that stand there (n,).
        ids: tokens that may be substitutes (choices,).
    """

    def __init__(self, logits: Tensor, context: Tensor, ids: Tensor) -> None:
        # Blocked before the softmax: what is left of a certain prediction would otherwise be rounded to nothing.
        p = logits[:, ids].masked_fill(ids == context[:, None], -torch.inf).softmax(-1)
        table = p.cumsum(-1)
        self._ids, self._table = ids, table / table[:, -1:]

    def __call__(self, chance: Tensor) -> Tensor:
        return self._ids[torch.searchsorted(self._table, chance.t().contiguous(), right=True)].t()


class Uniform:
    """Any of `ids` (choices,), in rising order, but the token of `context` (n,) itself."""

    def __init__(self, context: Tensor, ids: Tensor) -> None:
        self._ids = ids
        self._own = torch.searchsorted(ids, context)
        known = ids[self._own.clamp(max=len(ids) - 1)] == context
        self._choices = len(ids) - known.long()
        self._own = torch.where(known, self._own, len(ids))

    def __call__(self, chance: Tensor) -> Tensor:
        drawn = _whole(chance, self._choices)
        return self._ids[drawn + (drawn >= self._own)]


class UnigramBucket:
    """Tokens of the same look whose ids are near.

    Args:
        context: the tokens to be replaced (n,).
        ids: tokens that may be substitutes, in rising order.
        bytes_of: the bytes of every id of the vocabulary.
    """

    def __init__(self, context: Tensor, ids: Sequence[int], bytes_of: Sequence[bytes]) -> None:
        buckets: dict[tuple[bool, str], list[int]] = {}
        for id in ids:
            buckets.setdefault(look(bytes_of[id]), []).append(id)
        lists: list[list[int]] = []
        for token in context.tolist():
            alike = near(buckets.get(look(bytes_of[token]), []), token)
            lists.append(alike or near(ids, token))
        longest = max(map(len, lists))
        padded = [alike + [0] * (longest - len(alike)) for alike in lists]
        self._lists = torch.tensor(padded, device=context.device)
        self._sizes = torch.tensor([len(alike) for alike in lists], device=context.device)

    def __call__(self, chance: Tensor) -> Tensor:
        return self._lists.gather(1, _whole(chance, self._sizes).t()).t()


def look(spelled: bytes) -> tuple[bool, str]:
    """Whether a token begins with a space, and what kind of letters it has."""
    text = spelled.decode("utf-8", "replace")
    body = text.strip()
    if not body:
        kind = "blank"
    elif body.isdigit():
        kind = "digits"
    elif body.islower():
        kind = "small"
    elif body[0].isupper() and (len(body) == 1 or body[1:].islower()):
        kind = "capital first"
    elif body.isupper():
        kind = "capitals"
    else:
        kind = "letters" if any(map(str.isalpha, body)) else "signs"
    return text.startswith(" "), kind


def near(ids: Sequence[int], token: int) -> list[int]:
    """The ids around a token's, itself left out, from a list in rising order."""
    others = [id for id in ids if id != token]
    place = sum(id < token for id in others)
    return others[max(0, place - NEIGHBOURS) : place + NEIGHBOURS]


def _whole(chance: Tensor, choices: Tensor) -> Tensor:
    """Whole numbers (probes, n) below `choices` (n,): the greatest float below 1 stays below when multiplied by one."""
    return (chance * choices).long()
