"""`CausalModel` and `State`: all that a method may ask of a causal language model.

A model's weights are shared by all runs; a `State` (the key-value cache of one sequence, or of a batch of
equally long ones) belongs to one run. Every forward pass goes through `State.extend`, which counts and times
it, so that no method can forget one.

Cache operations after one pass over a draft tree: `keep(path)` retains the accepted path and drops the rest;
after a chain `rollback(n)` drops the last n tokens. Rotary positions are fixed before caching, and a node's
position is its depth, so kept columns need no correction. A recurrent state cannot forget single tokens: there
`rollback(n)` goes back to before the last pass and reads again what remains of it, which is a pass of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from engines.events import Cache, Curve, Event, Forward, Note, Token
from engines.grammars.vocabulary import Vocabulary, read_vocabulary
from engines.method import Need
from engines.models.lean import LeanLlama
from engines.models.spelling import Spelling
from engines.models.stock import StockNetwork

QUERY_SIZES = (1, 2, 4, 5, 8, 9, 16, 32, 64)


class Network(Protocol):
    """What `LeanLlama` and `StockNetwork` have in common."""

    has: Need

    def new_cache(self) -> Any: ...

    def forward(
        self, ids: Tensor, cache: Any, positions: Tensor, tree: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor]: ...


class CausalModel:
    """A causal language model ready to decode.

    Args:
        network: a transformers causal LM with its weights, in evaluation mode.
        tokenizer: its tokenizer.
        name: the id it is known by; `title` for people.
        precision: how the weights are held, e.g. `float32`, `nf4`.
        weights: a hash of the weights.
        steady: a token's logits do not depend on what shares its pass (false for some quantised weights).
        lean: take the fast path where the architecture allows.
    """

    companion: CausalModel | None = None
    """The only draft of a model that has no other, such as the tiny twin."""
    truncated = False
    """Logits are log-probabilities of the most probable tokens only (`engines.models.remote`)."""
    rereads = False
    """A rollback reaches into the last pass only, and reads again what remains of it."""
    stepwise = False
    """Behind a cached text, tokens are read one at a time: a pass of several would forget the text."""

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        title: str = "",
        precision: str = "float32",
        weights: str = "",
        steady: bool = True,
        lean: bool = True,
    ) -> None:
        self.name, self.title, self.precision, self.weights = name, title or name, precision, weights
        self.steady = steady
        self.network, self.tokenizer = network.eval(), tokenizer
        self._forward: Network = LeanLlama(network) if lean and LeanLlama.suits(network) else StockNetwork(network)
        if isinstance(self._forward, StockNetwork):
            self.rereads, self.stepwise = self._forward.rereads, self._forward.stepwise
        self.device = network.get_input_embeddings().weight.device
        self.vocabulary_size: int = network.get_output_embeddings().weight.shape[0]
        self.context_length: int = getattr(network.config, "max_position_embeddings", None) or 1 << 20
        self.spelling = Spelling(tokenizer)

    @property
    def has(self) -> Need:
        """What a method may ask of this model."""
        whole = self.precision == "float32" and self.network.dtype == torch.float32
        return self._forward.has | Need.LOGITS | (Need.GRADIENTS if whole else Need.NOTHING)

    @property
    def lean(self) -> bool:
        """Whether the fast path is taken."""
        return isinstance(self._forward, LeanLlama)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Token ids that end a text."""
        config = self.network.generation_config
        ids = (
            config.eos_token_id
            if config is not None and config.eos_token_id is not None
            else self.tokenizer.eos_token_id
        )
        return frozenset([ids] if isinstance(ids, int) else ids or [])

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens as bytes, for constraints."""
        return read_vocabulary(self.tokenizer, self.spelling, self.vocabulary_size, self.eos_ids)

    @property
    def memory_bytes(self) -> int:
        """Memory held by the weights; storage shared by several of them counts once."""
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in (*self.network.parameters(), *self.network.buffers())
        }
        return sum(storages.values())

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def encode(self, text: str, *, raw: bool = False) -> list[int]:
        """Token ids of a prompt: as one user turn in the chat template, or `raw` as it stands."""
        if raw or not self.has_chat_template:
            return self.tokenizer(text)["input_ids"]
        turn = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that tokens spell, special ones included."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def token(self, id: int) -> Token:
        """One token as the model sees it."""
        return self.spelling.token(id)

    def start(self, ledger: list[Event] | None = None, now: Callable[[], float] = time.perf_counter) -> State:
        """An empty state. Passes and cache operations go to `ledger` as events; `now` says when they began."""
        return State(self, self._forward.new_cache(), [] if ledger is None else ledger, now)

    def cost_curve(self, *, cached: int = 256, repeats: int = 3) -> Curve:
        """t(q): seconds of a pass over q new tokens behind `cached` ones, measured once on this machine.

        The least of several passes: whatever else a machine does only adds to them.
        """
        if not hasattr(self, "_cost_curve"):
            state = self.start()
            state.extend([0] * min(cached, self.context_length - max(QUERY_SIZES)), last=True)
            seconds: dict[int, list[float]] = {size: [] for size in QUERY_SIZES}
            for _ in range(repeats + 1):  # the first round warms up
                for size in QUERY_SIZES:
                    start = time.perf_counter()
                    state.extend([0] * size)
                    seconds[size].append(time.perf_counter() - start)
                    if Need.ROLLBACK in self.has and not (self.rereads and size == 1):
                        state.rollback(size)
            self._cost_curve = Curve(
                name="cost of a forward pass, t(q)",
                x_name="new tokens",
                y_name="seconds",
                x=tuple(float(size) for size in QUERY_SIZES),
                y=tuple(min(seconds[size][1:]) for size in QUERY_SIZES),
            )
        return self._cost_curve


class State:
    """The key-value cache of one sequence, or of a batch of equally long ones.

    `length` tokens are cached. The loop that all methods share keeps *cache length = committed - 1*: the last
    committed token, the root, is read together with whatever is guessed after it.
    """

    def __init__(self, model: CausalModel, cache: Any, ledger: list[Event], now: Callable[[], float]) -> None:
        self._model, self._cache, self._ledger, self._now = model, cache, ledger, now
        self._tree_start: int | None = None
        self._before: Any = None
        """The cache before the last pass, if that had several tokens and may have to be read again."""
        self._again: tuple[list[int], str] = ([], "target")
        """Its tokens and its lane."""
        self._told: set[str] = set()
        self.batch = 1
        self.hidden: Tensor | None = None
        """Hidden states of the last pass, (query, width), or (batch, query, width) for a batch."""

    @property
    def length(self) -> int:
        """Cached tokens per sequence."""
        return self._cache.length

    def extend(
        self,
        tokens: Sequence[int] | Sequence[Sequence[int]],
        parents: Sequence[int] | None = None,
        *,
        last: bool = False,
        lane: str = "target",
    ) -> Tensor:
        """One forward pass over new tokens; they are then cached. For a `stepwise` model, a pass for each of them.

        Args:
            tokens: query ids, or one list of them per row of the batch.
            parents: for a tree, the index of each token's parent, -1 for the root; parents come first.
            last: compute the logits of the last token only.

        Returns:
            Logits, float32: (query, vocabulary), or (batch, query, vocabulary) when tokens were given per row.
        """
        ids = torch.tensor(tokens, dtype=torch.long, device=self._model.device)
        rows = ids if ids.dim() == 2 else ids[None]
        assert rows.shape[0] == self.batch, f"{rows.shape[0]} rows for a batch of {self.batch}"
        cached, query = self.length, rows.shape[1]
        tree, depths = (None, torch.arange(query)) if parents is None else ancestors(parents)
        if tree is not None:
            assert Need.TREE_ATTENTION in self._model.has
            tree = tree.to(rows.device)
        self._tree_start = None if tree is None else cached
        if self._model.rereads:
            with torch.inference_mode():
                self._before = self._cache.copy() if query > 1 else None
            self._again = (ids.flatten().tolist(), lane)
        positions = (cached + depths).to(rows.device)
        if self._model.stepwise and cached and query > 1:
            self._tell(
                f"{self._model.title} reads a text that has begun one token at a time: several tokens, such as guesses "
                "to be checked, take as many passes."
            )
            passes = [self._pass(rows[:, [i]], positions[[i]], None, False, lane) for i in range(query)]
            logits, hidden = (torch.cat(parts, dim=1) for parts in zip(*passes, strict=True))
            logits = logits[:, -1:] if last else logits
        else:
            logits, hidden = self._pass(rows, positions, tree, last, lane)
        self.hidden = hidden if ids.dim() == 2 else hidden[0]
        return logits if ids.dim() == 2 else logits[0]

    def _pass(
        self, rows: Tensor, positions: Tensor, tree: Tensor | None, last: bool, lane: str
    ) -> tuple[Tensor, Tensor]:
        """As the network's `forward`, timed and entered into the ledger."""
        cached = self.length
        began, start = self._now(), time.perf_counter()
        with torch.inference_mode():
            logits, hidden = self._model._forward.forward(rows, self._cache, positions, tree, last)
            logits = logits.float()
        if rows.device.type == "cuda":
            torch.cuda.synchronize(rows.device)
        seconds = time.perf_counter() - start
        work = {"batch": self.batch, "query": rows.shape[1], "cached": cached}
        self._ledger.append(Forward(lane=lane, **work, seconds=seconds, began=began))  # type: ignore[arg-type]
        return logits, hidden

    @torch.inference_mode()
    def rollback(self, count: int) -> None:
        """Forgets the last `count` cached tokens; those of the last pass at most where the model `rereads`."""
        assert 0 <= count <= self.length, f"cannot forget {count} of {self.length} cached tokens"
        if not count:
            return
        if self._model.rereads:
            self._reread(count)
        else:
            self._cache.crop(self.length - count)
            self._ledger.append(Cache(kept=self.length, removed=count))

    def _reread(self, count: int) -> None:
        """Goes back to before the last pass and reads all but its last `count` tokens again."""
        tokens, lane = self._again
        assert self._before is not None, "the last pass had one token, or was taken back already"
        assert count <= len(tokens), f"cannot forget {count} of the {len(tokens)} tokens of the last pass"
        self._cache, self._before, hidden = self._before, None, self.hidden
        self._ledger.append(Cache(kept=self.length, removed=len(tokens)))
        if kept := tokens[: len(tokens) - count]:
            self._tell(
                f"{self._model.title} cannot forget single tokens: after a refused guess it goes back to before the "
                "guesses and reads the accepted ones again."
            )
            self.extend(kept, last=True, lane=lane)
        self.hidden = hidden

    def _tell(self, text: str) -> None:
        """A note for the reader, the first time."""
        if text not in self._told:
            self._told.add(text)
            self._ledger.append(Note(text=text))

    @torch.inference_mode()
    def keep(self, path: Sequence[int]) -> None:
        """After a pass over a tree: keeps the nodes of `path` (root first), forgets the others."""
        assert self._tree_start is not None, "the last pass did not read a tree"
        start, before = self._tree_start, self.length
        if list(path) == list(range(len(path))):
            self._cache.crop(start + len(path))
        else:
            self._cache.gather(start, start + torch.tensor(list(path), device=self._model.device))
        self._tree_start = None
        if before > self.length:
            self._ledger.append(Cache(kept=self.length, removed=before - self.length))

    @torch.inference_mode()
    def fork(self, count: int) -> State:
        """A new state: a batch of `count` copies of this one. This one stays as it is."""
        twin = State(self._model, self._cache.copy(), self._ledger, self._now)
        twin.batch = self.batch
        twin.select([row for row in range(self.batch) for _ in range(count)])
        return twin

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Makes row i a copy of the present row `rows[i]`: reorders, repeats or drops sequences."""
        if list(rows) != list(range(self.batch)):
            self._cache.select(torch.tensor(list(rows), dtype=torch.long, device=self._model.device))
            self.batch = len(rows)


def ancestors(parents: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The tree mask (n, n), True where column is the row's node or one of its ancestors, and depths (n,).

    Tree verification as in "SpecInfer", arXiv 2305.09781, section 4.
    """
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        assert parent < node, "parents come before their children"
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask, mask.sum(1) - 1
