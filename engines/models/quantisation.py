"""Precisions: how the weights are held, whether this machine can compute with them, and what that costs.

A smaller precision is a trade. What it buys (memory) is plain; what it costs is measured here, on this
machine: milliseconds per token and perplexity on a text that comes with the program, beside float32.

The third cost is *drift*: how far the logits of a token move when it is computed alone instead of together
with others. In float32 it is rounding noise. Quantised kernels round activations, or switch kernels with the
number of rows, so there a method that checks many guesses in one pass is not lossless, whatever its paper says.

torch's dynamic int8 is not offered, though it is fast: it triples the perplexity of the embedded model, and
rows of a batch change each other's results.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import math
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from engines.errors import ModelUnavailable, nearest, shown
from engines.models.conversion import Progress, cache_folder, silent

if TYPE_CHECKING:
    from engines.models.catalogue import ModelCard
    from engines.models.causal import CausalModel

TEXT = Path(__file__).resolve().parents[2] / "assets" / "perplexity.txt"
"""The text that perplexity is measured on."""

_STEPS, _BEHIND = 24, 256
"""How many single-token passes are timed, and behind how many cached tokens."""
_CHUNK = 128
"""Tokens per pass over the text: bounds the memory that logits over a large vocabulary take."""
_WINDOW = 1024
"""At most so many tokens of the text are read."""


@dataclass(frozen=True, slots=True)
class Precision:
    """A way to hold the weights. `reason` says why it cannot be had here; empty when it can."""

    id: str
    title: str
    note: str
    bytes_per_parameter: float
    reason: str = ""

    steady: bool = True
    """Whether a token's logits are the same, up to rounding, alone and in a batch: what lossless methods rest on."""

    @property
    def available(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class Cost:
    """What a precision costs on this machine."""

    model: str
    precision: str
    milliseconds: float
    """Median time of a forward pass for one new token."""
    perplexity: float
    """On `assets/perplexity.txt`, as plain text."""
    tokens: int
    """How many tokens of the text were predicted."""
    memory_bytes: int
    """Held by the weights."""
    drift: float
    """Largest difference between a token's logits computed alone and computed together with others."""

    def beside(self, reference: Cost) -> str:
        """One sentence that sets this cost beside another precision's, as a rule float32's."""
        return (
            f"{self.precision}: {self.milliseconds:.1f} ms per token ({reference.milliseconds:.1f} in "
            f"{reference.precision}), perplexity {self.perplexity:.2f} ({reference.perplexity:.2f}), "
            f"{self.memory_bytes / 1e6:,.0f} MB of weights ({reference.memory_bytes / 1e6:,.0f} MB), "
            f"logits drift by {self.drift:.2g} ({reference.drift:.2g})."
        )


def device() -> torch.device:
    """Where models are loaded: the GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_UNSTEADY = "A token's logits depend on what is computed beside it, so no method is lossless."
_EVERY = (
    Precision("float32", "float32", "Exact, and the reference for the others.", 4),
    Precision("bfloat16", "bfloat16", "Half the memory; three decimal digits.", 2),
    Precision(
        "int8", "int8 (bitsandbytes)", f"Linear layers in a quarter of the memory. {_UNSTEADY}", 1.5, steady=False
    ),
    Precision("nf4", "nf4 (bitsandbytes)", f"Linear layers in an eighth of the memory. {_UNSTEADY}", 0.9, steady=False),
)


def precisions(card: ModelCard | None = None) -> list[Precision]:
    """Every precision, with the reason where this machine cannot offer it; the model's own default first."""
    every = [replace(precision, reason=_reason(precision.id)) for precision in _EVERY]
    return sorted(every, key=lambda precision: card is not None and precision.id != card.precision)


def find(id: str) -> Precision:
    """An available precision. Raises `ModelUnavailable` with the reason, or with the names there are."""
    known = {precision.id: precision for precision in _EVERY}
    if id not in known:
        raise ModelUnavailable(f"There is no precision called {shown(id)}. {nearest(id[:200], known)}")
    if reason := _reason(id):
        raise ModelUnavailable(f"{id} cannot be used here: {reason} Choose float32.")
    return known[id]


def loading_arguments(precision: str) -> dict[str, Any]:
    """What `from_pretrained` is told to hold the weights in this precision."""
    if precision in ("float32", "bfloat16"):
        return {"dtype": getattr(torch, precision)}
    from transformers import BitsAndBytesConfig

    quantised = (
        BitsAndBytesConfig(load_in_8bit=True)
        if precision == "int8"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    )
    return {"dtype": torch.float32, "quantization_config": quantised, "device_map": {"": device()}}


def measure_cost(model: CausalModel, progress: Progress = silent) -> Cost:
    """What this model costs on this machine, from the cache when it was measured here before."""
    known = _measured()
    key = _key(model)
    if key in known:
        return known[key]
    ids = model.encode(TEXT.read_text(), raw=True)
    ids = ids[: min(_WINDOW, model.context_length)]
    milliseconds, drift = _alone_and_together(model, ids, progress)
    cost = Cost(
        model=model.name,
        precision=model.precision,
        milliseconds=milliseconds,
        perplexity=_perplexity(model, ids, progress),
        tokens=len(ids) - 1,
        memory_bytes=model.memory_bytes,
        drift=drift,
    )
    _remember(key, cost)
    progress(1.0, "Measured")
    return cost


def measured_costs(weights: str) -> dict[str, Cost]:
    """Costs measured on this machine for a model with this hash of its weights, by precision."""
    return {
        cost.precision: cost
        for key, cost in _measured().items()
        if key.startswith(f"{weights} ") and key.endswith(_machine())
    }


def _alone_and_together(model: CausalModel, ids: list[int], progress: Progress) -> tuple[float, float]:
    """Milliseconds per single token, and how far its logits move when the same tokens share one pass."""
    before = min(_BEHIND, len(ids) // 2)
    tokens = ids[before : before + _STEPS]
    alone, together = model.start(), model.start()
    alone.extend(ids[:before], last=True)
    together.extend(ids[:before], last=True)
    rows, seconds = [], []
    for step, token in enumerate(tokens):
        progress(0.3 * step / len(tokens), "Measuring the time per token")
        start = time.perf_counter()
        rows.append(alone.extend([token]))
        seconds.append(time.perf_counter() - start)
    drift = (torch.cat(rows) - together.extend(tokens)).abs().max().item()
    return 1000 * statistics.median(seconds), drift


def _perplexity(model: CausalModel, ids: list[int], progress: Progress) -> float:
    state, total = model.start(), 0.0
    for start in range(0, len(ids) - 1, _CHUNK):
        targets = torch.tensor(ids[start + 1 : start + 1 + _CHUNK], device=model.device)
        logits = state.extend(ids[start : start + len(targets)])
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        progress(0.3 + 0.7 * start / len(ids), "Measuring perplexity")
    return math.exp(total / (len(ids) - 1))


@cache
def _reason(precision: str) -> str:
    """Why this machine cannot offer a precision; empty when it can."""
    if precision == "bfloat16":
        return "" if device().type == "cuda" else "without a GPU it is slower than float32 and less exact."
    return _bitsandbytes_reason(precision) if precision in ("int8", "nf4") else ""


def _bitsandbytes_reason(precision: str) -> str:
    """Why bitsandbytes cannot compute in this precision here; empty when it just has."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "the package bitsandbytes is not installed."
    # It warns at every single call that it casts its input, and at import about kernels it would download.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes

        options: dict[str, Any] = {"bias": False}
        if precision == "int8":
            layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False, **options)
        else:
            layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32, **options)
        original = layer.weight.detach().float().to(device())
        layer = layer.to(device())
        probe = torch.linspace(-1, 1, 128, device=device()).reshape(2, 64)
        with torch.inference_mode():
            error = (layer(probe) - probe @ original.T).abs().max().item()
        if not error < 0.5:
            return "bitsandbytes computes wrong results on this machine."
    except Exception as error:
        return f"bitsandbytes does not work on this machine ({type(error).__name__})."
    return ""


def _store() -> Path:
    return cache_folder() / "costs.json"


def _measured() -> dict[str, Cost]:
    """What was measured before; nothing where the file is missing, damaged, or from another version."""
    try:
        return msgspec.json.decode(_store().read_bytes(), type=dict[str, Cost])
    except (OSError, msgspec.MsgspecError):
        return {}


def _remember(key: str, cost: Cost) -> None:
    """Keeps a measurement; where the cache cannot be written it is simply made again next time."""
    with contextlib.suppress(OSError):
        _store().parent.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=_store().parent, suffix=".json")
        with os.fdopen(handle, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(_measured() | {key: cost})))
        os.replace(path, _store())


def _key(model: CausalModel) -> str:
    text = hashlib.sha256(TEXT.read_bytes()).hexdigest()[:8]
    path = "lean" if model.lean else "stock"
    return f"{model.weights} {model.name} {model.precision} {path} {text} {_machine()}"


def _machine() -> str:
    processor = torch.cuda.get_device_name() if device().type == "cuda" else platform.processor() or platform.machine()
    return f"{platform.node()} {processor} threads={torch.get_num_threads()} torch={torch.__version__}"
