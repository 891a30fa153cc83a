"""`Seq2SeqModel` and `DecoderState`: an encoder-decoder of the kind of T5, as `CausalModel` and `State` are for others.

The encoder reads its text once, in `read`; the decoder writes behind a cache of its own tokens and of the encoder's
keys and values. Weights are shared by all runs, a state belongs to one. Every pass, of the encoder too, is counted and
timed here: the encoder's in the lane `prompt`, the decoder's in the lane `target`.

T5: "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", Raffel et al.,
arXiv 1910.10683.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel, PreTrainedTokenizerBase

from engines.events import Cache, Event, Forward, Token
from engines.models.spelling import Spelling
from engines.models.stock import StockCache


class Seq2SeqModel:
    """An encoder-decoder ready to decode.

    Args:
        network: a transformers encoder-decoder with its weights, of the interface of `T5ForConditionalGeneration`.
        tokenizer: its tokenizer.
        name: the id it is known by; `title` for people.
        weights: a hash of the weights.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        title: str = "",
        weights: str = "",
    ) -> None:
        self.name, self.title, self.weights = name, title or name, weights
        self.network, self.tokenizer = network.eval(), tokenizer
        self.device = network.get_input_embeddings().weight.device
        self.vocabulary_size: int = network.config.vocab_size
        self.start_id: int = network.config.decoder_start_token_id
        """What the decoder reads first."""
        self.end_id: int = network.config.eos_token_id
        self.spelling = Spelling(tokenizer)
        # transformers 5.24 renamed the argument.
        parameters = inspect.signature(network.forward).parameters
        self.cache_argument = next(name for name in ("cache", "past_key_values") if name in parameters)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as it stands, markers in it included, without an end of text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that tokens spell, special ones included."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def id(self, marker: str) -> int:
        """The id of a special token, such as `<extra_id_0>`. Raises `KeyError` where the vocabulary has none."""
        id = self.tokenizer.get_added_vocab().get(marker)
        if id is None:
            raise KeyError(f"{self.title} has no token {marker}.")
        return id

    def token(self, id: int) -> Token:
        """One token as the model sees it."""
        return self.spelling.token(id)

    def read(
        self,
        ids: Sequence[int],
        ledger: list[Event] | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> DecoderState:
        """One pass of the encoder over a text. Returns a decoder that has written nothing yet.

        Passes and cache operations go to `ledger` as events; `now` says when they began.
        """
        ledger = [] if ledger is None else ledger
        began, start = now(), time.perf_counter()
        with torch.inference_mode():
            source = self.network.get_encoder()(torch.tensor([list(ids)], device=self.device)).last_hidden_state
        seconds = time.perf_counter() - start
        ledger.append(Forward(lane="prompt", batch=1, query=len(ids), cached=0, seconds=seconds, began=began))
        own = StockCache(DynamicCache(config=self.network.config))
        return DecoderState(self, source, own, None, ledger, now)


class DecoderState:
    """What a decoder has read: `source` (1, tokens, width) of the encoder, and its own tokens, `length` per row."""

    def __init__(
        self,
        model: Seq2SeqModel,
        source: Tensor,
        own: StockCache,
        cross: DynamicCache | None,
        ledger: list[Event],
        now: Callable[[], float],
        batch: int = 1,
    ) -> None:
        self._model, self._source, self._own, self._cross = model, source, own, cross
        """`_cross` holds the encoder's keys and values, of one row; None until the first pass."""
        self._ledger, self._now = ledger, now
        self.batch = batch

    @property
    def length(self) -> int:
        """Cached tokens of the decoder per row, the start token included."""
        return self._own.length

    def extend(self, tokens: Sequence[int] | Sequence[Sequence[int]], *, last: bool = False) -> Tensor:
        """One pass of the decoder over new tokens; they are then cached.

        Args:
            tokens: ids, or one list of them per row of the batch.
            last: return the logits of the last token only.

        Returns:
            Logits, float32: (query, vocabulary), or (batch, query, vocabulary) when tokens were given per row.
        """
        ids = torch.tensor(tokens, dtype=torch.long, device=self._model.device)
        rows = ids if ids.dim() == 2 else ids[None]
        assert rows.shape[0] == self.batch, f"{rows.shape[0]} rows for a batch of {self.batch}"
        cached, query = self.length, rows.shape[1]
        began, start = self._now(), time.perf_counter()
        with torch.inference_mode():
            cross = self._rows_of_cross()
            output = self._model.network(
                encoder_outputs=(self._source.expand(self.batch, -1, -1),),
                decoder_input_ids=rows,
                use_cache=True,
                **{self._model.cache_argument: EncoderDecoderCache(self._own.cache, cross)},
            )
            logits = output.logits[:, -1:].float() if last else output.logits.float()
        if self._cross is None:
            self._cross = cross
        self._own.length += query
        seconds = time.perf_counter() - start
        self._ledger.append(
            Forward(lane="target", batch=self.batch, query=query, cached=cached, seconds=seconds, began=began)
        )
        return logits if ids.dim() == 2 else logits[0]

    def _rows_of_cross(self) -> DynamicCache:
        """The encoder's keys and values, for every row; empty, to be filled, before the first pass."""
        cache = DynamicCache(config=self._model.network.config)
        if self._cross is not None:
            for index, layer in enumerate(self._cross.layers):
                pair = (part.expand(self.batch, -1, -1, -1) for part in (layer.keys, layer.values))
                cache.update(*pair, index)
        return cache

    @torch.inference_mode()
    def rollback(self, count: int) -> None:
        """Forgets the last `count` tokens of the decoder."""
        assert 0 <= count <= self.length, f"cannot forget {count} of {self.length} cached tokens"
        if count:
            self._own.crop(self.length - count)
            self._ledger.append(Cache(kept=self.length, removed=count))

    @torch.inference_mode()
    def fork(self, count: int) -> DecoderState:
        """A new state: a batch of `count` copies of this one, which has one row and stays as it is."""
        assert self.batch == 1, "only a single row is forked"
        assert self._cross is not None, "the decoder has read nothing yet"
        own = self._own.copy()
        own.select(torch.zeros(count, dtype=torch.long, device=self._model.device))
        return DecoderState(self._model, self._source, own, self._cross, self._ledger, self._now, count)
