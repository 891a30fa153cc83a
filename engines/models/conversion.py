"""Turns the model that a package carries as GGUF into a folder of safetensors, once.

De-quantising a GGUF file takes some twenty seconds; reading the result takes less than one. So the first
start pays, with progress to look at, and every later start reads the copy. The copy appears under its
final name only when it is complete, so a start that was cut off leaves nothing half-made behind.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

from engines.errors import ModelUnavailable

Progress = Callable[[float, str], None]
"""Called with the fraction done, 0 to 1, and a short text that says what is being done."""

CACHE_VARIABLE = "DECODING_PLAYGROUND_CACHE"

_ONCE = "Preparing the model, once"
_converting = threading.Lock()


def silent(fraction: float, text: str) -> None:
    """The progress of someone who does not look."""


def cache_folder() -> Path:
    """Where converted models and measurements are kept; the environment variable moves it."""
    named = os.environ.get(CACHE_VARIABLE, "").strip()
    return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("decoding-playground")


def packaged_file(package: str, file: str) -> Path | None:
    """The file that an installed package carries, or None.

    Found through the package's metadata, because importing the package would need its dependencies.
    """
    try:
        listed = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(entry.locate())) for entry in listed if entry.name == file)
    return next((path for path in paths if path.is_file()), None)


def convert(gguf: Path, folder: Path, progress: Progress = silent, *, digits_apart: bool = False) -> Path:
    """Writes the model and tokenizer in `gguf` to `folder` as safetensors, unless they are there already.

    `digits_apart`: the model was trained with every digit cut off before merging. A GGUF file says so by
    a name that transformers does not know, and without it two spaces before a digit are read wrongly.
    Raises `ModelUnavailable` when the folder cannot be written.
    """
    with _converting:
        if (folder / "config.json").is_file():
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise ModelUnavailable(_cannot_write(folder, error)) from None
        try:
            _write(gguf, work, progress, digits_apart)
            work.chmod(0o755)
            _publish(work, folder)
        except OSError as error:
            raise ModelUnavailable(_cannot_write(folder, error)) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        progress(1.0, "The model is ready")
        return folder


def weights_hash(folder: Path) -> str:
    """Sixteen hex digits of the SHA-256 over a model folder's safetensors.

    Remembered in the cache with the files' sizes and times, so it is computed again only when they change.
    """
    paths = sorted(folder.glob("*.safetensors"))
    stamp = " ".join(f"{path.name}:{(stat := path.stat()).st_size}:{stat.st_mtime_ns}" for path in paths)
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    note = cache_folder() / "hashes" / place
    with suppress(OSError, ValueError):
        known, _, of = note.read_text().partition(" ")
        if of == stamp:
            return known
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    with suppress(OSError):  # in a read-only cache the hash is computed again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{total.hexdigest()[:16]} {stamp}")
    return total.hexdigest()[:16]


def _write(gguf: Path, folder: Path, progress: Progress, digits_apart: bool) -> None:
    import torch
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    progress(0.0, f"{_ONCE}: reading its vocabulary")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if digits_apart:
        cuts = tokenizer.backend_tokenizer
        cuts.pre_tokenizer = Sequence([Digits(individual_digits=True), cuts.pre_tokenizer])
    progress(0.2, f"{_ONCE}: reading its configuration")
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    progress(0.4, f"{_ONCE}: reading its weights")
    with _counting_tensors(progress, 0.85, 0.95):
        network = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, config=config, dtype=torch.float32
        )
    progress(0.95, f"{_ONCE}: saving it")
    # The weights are plain float32 now; marked as quantised, they could be neither saved nor read again.
    network.hf_quantizer = None
    network.config.__dict__.pop("quantization_config", None)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


@contextmanager
def _counting_tensors(progress: Progress, start: float, stop: float) -> Iterator[None]:
    """Reports each unpacked tensor, by standing in for the bar that transformers would print."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def counted(tensors: Iterable[Any], **options: Any) -> Iterator[Any]:
        tensors = list(tensors)
        for done, tensor in enumerate(tensors):
            progress(start + (stop - start) * done / len(tensors), f"{_ONCE}: weights {done} of {len(tensors)}")
            yield tensor

    bar = reader.tqdm
    reader.tqdm = counted
    try:
        yield
    finally:
        reader.tqdm = bar


def _publish(work: Path, folder: Path) -> None:
    try:
        work.rename(folder)
    except OSError:
        # Another process may have been faster; its copy is as good as ours.
        if not (folder / "config.json").is_file():
            raise


def _cannot_write(folder: Path, error: OSError) -> str:
    return (
        f"The model cannot be prepared, because {folder.parent} cannot be written "
        f"({error.strerror or error}). Free some space, or set {CACHE_VARIABLE} to another folder."
    )
