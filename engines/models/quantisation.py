"""Precisions: how the weights are held, whether this machine can compute with them, and what that costs.

A smaller precision is a trade. What it buys (memory) is plain; what it costs is measured here, on this
machine: milliseconds per token and perplexity on a text that comes with the program, beside float32.

torch's dynamic int8 is not offered, though it is fast: it triples the perplexity of the embedded model, and
rows of a batch change each other's results, so that no method could be lossless.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import math
import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engines.errors import ModelUnavailable, nearest, shown
from engines.models.conversion import Progress, cache_folder, silent

if TYPE_CHECKING:
    from engines.models.catalogue import ModelCard
    from engines.models.causal import CausalModel

_STEPS = 24
"""Single-token passes that are timed."""
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

    def beside(self, reference: Cost) -> str:
        """One sentence that sets this cost beside another precision's, as a rule float32's."""
        return (
            f"{self.precision}: {self.milliseconds:.1f} ms per token ({reference.milliseconds:.1f} in "
            f"{reference.precision}), perplexity {self.perplexity:.2f} ({reference.perplexity:.2f}), "
            f"{self.memory_bytes / 1e6:,.0f} MB of weights ({reference.memory_bytes / 1e6:,.0f} MB)."
        )


def device() -> torch.device:
    """Where models are loaded: the GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precisions(card: ModelCard | None = None) -> list[Precision]:
    """Every precision, with the reason where this machine cannot offer it; the model's own default first."""
    every = [
        Precision("float32", "float32", "Exact, and the reference for the others.", 4),
        Precision("bfloat16", "bfloat16", "Half the memory; three decimal digits.", 2, _bfloat16_reason()),
        Precision("int8", "int8 (bitsandbytes)", "A quarter of the memory.", 1.1, _bitsandbytes_reason("int8")),
        Precision("nf4", "nf4 (bitsandbytes)", "An eighth of the memory.", 0.6, _bitsandbytes_reason("nf4")),
    ]
    return sorted(every, key=lambda precision: card is not None and precision.id != card.precision)


def find(id: str) -> Precision:
    """An available precision. Raises `ModelUnavailable` with the reason, or with the names there are."""
    known = {precision.id: precision for precision in precisions()}
    if id not in known:
        raise ModelUnavailable(f"There is no precision called {shown(id)}. {nearest(id[:200], known)}")
    if known[id].reason:
        raise ModelUnavailable(f"{id} cannot be used here: {known[id].reason} Choose float32.")
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
        return Cost(**known[key])
    text = (files("assets") / "perplexity.txt").read_text()
    cost = Cost(
        model=model.name,
        precision=model.precision,
        milliseconds=_milliseconds(model, progress),
        memory_bytes=model.memory_bytes,
        **_perplexity(model, text, progress),
    )
    _remember(key, cost)
    progress(1.0, "Measured")
    return cost


def measured_costs(weights: str) -> dict[str, Cost]:
    """Costs measured on this machine for a model with this hash of its weights, by precision."""
    return {
        entry["precision"]: Cost(**entry)
        for key, entry in _measured().items()
        if key.startswith(f"{weights} ") and key.endswith(_machine())
    }


def _perplexity(model: CausalModel, text: str, progress: Progress) -> dict[str, Any]:
    ids = model.encode(text, raw=True)[: min(_WINDOW, model.context_length)]
    state, total = model.start(), 0.0
    for start in range(0, len(ids) - 1, _CHUNK):
        targets = torch.tensor(ids[start + 1 : start + 1 + _CHUNK], device=model.device)
        logits = state.extend(ids[start : start + len(targets)])
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        progress(0.3 + 0.7 * start / len(ids), "Measuring perplexity")
    return {"perplexity": math.exp(total / (len(ids) - 1)), "tokens": len(ids) - 1}


def _milliseconds(model: CausalModel, progress: Progress) -> float:
    state = model.start()
    state.extend([0] * min(256, model.context_length // 2), last=True)
    seconds = []
    for step in range(min(_STEPS, model.context_length // 2)):
        progress(0.3 * step / _STEPS, "Measuring the time per token")
        start = time.perf_counter()
        state.extend([0], last=True)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


@cache
def _bfloat16_reason() -> str:
    if device().type == "cuda":
        return ""
    return "without a GPU it is slower than float32 and less exact."


@cache
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


def _measured() -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(_store().read_text())
    except (OSError, ValueError):
        return {}
    return {key: entry for key, entry in known.items() if isinstance(entry, dict)} if isinstance(known, dict) else {}


def _remember(key: str, cost: Cost) -> None:
    """Keeps a measurement; where the cache cannot be written it is simply made again next time."""
    with contextlib.suppress(OSError):
        _store().parent.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=_store().parent, suffix=".json")
        with os.fdopen(handle, "w") as stream:
            json.dump(_measured() | {key: asdict(cost)}, stream, indent=1)
        os.replace(path, _store())


def _key(model: CausalModel) -> str:
    text = hashlib.sha256((files("assets") / "perplexity.txt").read_bytes()).hexdigest()[:8]
    path = "lean" if model.lean else "stock"
    return f"{model.weights} {model.name} {model.precision} {path} {text} {_machine()}"


def _machine() -> str:
    processor = torch.cuda.get_device_name() if device().type == "cuda" else platform.processor() or platform.machine()
    return f"{platform.node()} {processor} threads={torch.get_num_threads()} torch={torch.__version__}"
