"""The span reader: a tiny encoder-decoder that was trained in ten stages of knowledge, to watch what training does.

`python -m training.span_reader` makes all of it: the tokenizer, ten checkpoints, the held-out questions and the card.
Variant A was pretrained with span corruption, variant B with recurring span selection; each was then taught 0, 16,
64, 256 or 1,024 questions. Weights are stored in half precision and are float32 once loaded. Nothing is asked of a hub.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import msgspec
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from engines.errors import ModelUnavailable
from engines.models.seq2seq import Seq2SeqModel

FOLDER = Path(__file__).parents[2] / "assets" / "models" / "span-reader"
VARIANTS = ("A", "B")
EXAMPLES = (0, 16, 64, 256, 1024)
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
"""Other names of `shared.weight`, which are not stored."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """How well a checkpoint answers, as means over questions, in shares of 1."""

    variant: str
    examples: int
    exact: float
    """F1 of the most probable span."""
    greedy: float
    """F1 of greedy decoding."""
    constrained: float
    """F1 of greedy decoding that may only go on with a span."""
    spans: float
    """Greedy outputs that are spans of their passage."""
    best: float
    """Greedy outputs that are the most probable span."""


class ReaderCard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the trained readers."""

    parameters: int
    vocabulary: int
    data: str
    stories: int
    """Different texts that one variant was pretrained on."""
    pretraining_steps: int
    """Of each variant; the first part of them is shared."""
    shared_steps: int
    tuning_steps: int
    rows: int
    """Stories or questions in a step."""
    seed: int
    held_out: int
    """Questions that the measures are means over."""
    cap: int
    """Tokens of a span at most, when it was measured."""
    measured: tuple[Measured, ...]


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A held-out passage and question, with the span of the passage that answers it."""

    passage: str
    question: str
    answer: str


def checkpoint(folder: Path, variant: str, examples: int) -> Path:
    """Where the weights of one checkpoint lie."""
    return folder / f"{variant}-{examples}.safetensors"


def store(network: T5ForConditionalGeneration, file: Path) -> None:
    """Writes the weights in half precision."""
    weights = {name: weight.half().contiguous() for name, weight in network.state_dict().items() if name not in TIED}
    save_file(weights, file)


@lru_cache(maxsize=len(VARIANTS) * len(EXAMPLES))
def load_reader(variant: str, examples: int, folder: Path = FOLDER) -> Seq2SeqModel:
    """One checkpoint, loaded once. Raises `ModelUnavailable` when it is not there."""
    file = checkpoint(folder, variant, examples)
    try:
        weights = load_file(file)
        config = T5Config(**msgspec.json.decode((folder / "config.json").read_bytes()))
        tokenizer = load_tokenizer(folder)
    except FileNotFoundError:
        raise ModelUnavailable(
            f"The span reader {variant} of {examples} questions is missing. Make it with "
            "python -m training.span_reader, or choose another one."
        ) from None
    network = T5ForConditionalGeneration(config)
    absent = network.load_state_dict({name: weight.float() for name, weight in weights.items()}, strict=False)
    assert set(absent.missing_keys) <= set(TIED), absent.missing_keys
    assert not absent.unexpected_keys, absent.unexpected_keys
    network.requires_grad_(False)
    return Seq2SeqModel(
        network,
        tokenizer,
        name=f"span-reader-{variant}-{examples}",
        title=f"the span reader {variant}, taught {examples:,} questions",
        weights=hashlib.sha256(file.read_bytes()).hexdigest()[:16],
    )


def load_tokenizer(folder: Path = FOLDER) -> PreTrainedTokenizerFast:
    """The readers' own tokenizer."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token="<pad>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


@lru_cache(maxsize=1)
def load_card(folder: Path = FOLDER) -> ReaderCard:
    """What is known about them. Raises `ModelUnavailable` when there is no card."""
    return _read(folder / "card.json", ReaderCard)


@lru_cache(maxsize=1)
def load_questions(folder: Path = FOLDER) -> tuple[Question, ...]:
    """The held-out questions. Raises `ModelUnavailable` when there are none."""
    return _read(folder / "questions.json", tuple[Question, ...])


Kind = TypeVar("Kind")


def _read(file: Path, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        raise ModelUnavailable(
            f"{file.name} of the span reader is missing. Make it with python -m training.span_reader."
        ) from None
