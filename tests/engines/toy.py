"""A language model small enough to decode by hand: the next token depends on the last one only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.events import Cache, Curve, Event, Forward, Token
from engines.method import Need
from engines.models.causal import CausalModel
from engines.runner import Run


class ToyState:
    """The part of `State` that the classic decoders use. The hidden state of a token is its own direction."""

    def __init__(self, table: Tensor, ledger: list[Event]) -> None:
        self._table, self._ledger = table, ledger
        self.rows: list[list[int]] = [[]]
        self.hidden: Tensor | None = None

    @property
    def batch(self) -> int:
        return len(self.rows)

    @property
    def length(self) -> int:
        return len(self.rows[0])

    def extend(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]],
        parents: object = None,
        *,
        last: bool = False,
        lane: str = "target",
    ) -> Tensor:
        ids = torch.tensor(tokens)
        rows = ids if ids.dim() == 2 else ids[None]
        assert len(rows) == self.batch
        self._ledger.append(
            Forward(lane=lane, batch=len(rows), query=rows.shape[1], cached=self.length, seconds=0.0)  # type: ignore[arg-type]
        )
        for row, new in zip(self.rows, rows.tolist(), strict=True):
            row += new
        hidden = torch.eye(len(self._table))[rows]
        logits = self._table[rows].log()
        logits = logits[:, -1:] if last else logits
        self.hidden = hidden if ids.dim() == 2 else hidden[0]
        self._siblings = rows.shape[1]
        return logits if ids.dim() == 2 else logits[0]

    def keep(self, path: Sequence[int]) -> None:
        start = self.length - self._siblings
        self.rows = [row[:start] + [row[start + node] for node in path] for row in self.rows]
        self._ledger.append(Cache(kept=self.length, removed=self._siblings - len(path)))

    def rollback(self, count: int) -> None:
        self.rows = [row[: len(row) - count] for row in self.rows]
        if count:
            self._ledger.append(Cache(kept=self.length, removed=count))

    def select(self, rows: Sequence[int]) -> None:
        self.rows = [list(self.rows[row]) for row in rows]


class ToyModel:
    """Tokens are letters; `.` ends the text. `table[a][b]` is the probability of b after a."""

    def __init__(self, letters: str, table: list[list[float]]) -> None:
        self.letters = letters
        self.table = torch.tensor(table)
        self.vocabulary_size = len(letters)
        self.context_length = 1000
        self.eos_ids = frozenset({letters.index(".")})
        self.device = torch.device("cpu")
        self.has = Need.ROLLBACK | Need.TREE_ATTENTION

    def token(self, id: int) -> Token:
        return Token(id, self.letters[id])

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.letters[id] for id in ids)

    def cost_curve(self) -> Curve:
        """Nothing was measured: guessing always pays."""
        return Curve(name="t(q)", x_name="new tokens", y_name="seconds", x=(), y=())

    def start(self, ledger: list[Event], now: object = None) -> ToyState:
        return ToyState(self.table, ledger)


def toy_run(model: ToyModel, prompt: str, **limits: object) -> Run:
    """A run of a toy model, ready for a method's generator, with the prompt's hidden states."""
    as_model: CausalModel = model  # type: ignore[assignment]
    run = Run(as_model, [model.letters.index(letter) for letter in prompt], **limits)  # type: ignore[arg-type]
    run.prompt_hidden = []
    list(run.read_prompt())
    return run
