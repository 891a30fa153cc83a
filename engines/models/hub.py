"""Models from the hub: asked about before they are downloaded, so that a refusal costs seconds, not gigabytes.

Only safetensors are read, and code that comes with a model is never run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from tqdm import tqdm

from engines.errors import ModelUnavailable
from engines.models.conversion import Progress, silent

PATIENCE = 15.0
"""Seconds to wait for the hub's answer."""

_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
_UNWANTED = ["*/*", "consolidated*"]


def downloaded(repository: str) -> Path | None:
    """The folder of a model that was downloaded before and is complete; None otherwise. Asks nobody."""
    try:
        folder = Path(
            snapshot_download(repository, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, local_files_only=True)
        )
    except Exception:
        return None
    return folder if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) else None


def inspect(repository: str) -> int:
    """Asks the hub about a model, and returns how many parameters it has.

    Raises `ModelUnavailable` when it is missing, gated, not a causal language model, not stored as
    safetensors, too large for the disk, or when the hub does not answer.
    """
    with _explained(repository):
        info = huggingface_hub.model_info(repository, timeout=PATIENCE, files_metadata=True)
        weights = [file for file in info.siblings or [] if _is_weights(file.rfilename)]
        # The configuration is the first file that a gate would refuse.
        config = json.loads(Path(huggingface_hub.hf_hub_download(repository, "config.json")).read_text())
    check_architecture(repository, config)
    if not weights:
        raise ModelUnavailable(
            f"{repository} has no weights in the safetensors format, the only one that is loaded here. "
            "Choose another model."
        )
    size = sum(file.size or 0 for file in weights)
    free = shutil.disk_usage(_existing(Path(HF_HUB_CACHE))).free
    if size > free:
        raise ModelUnavailable(
            f"{repository} is a download of {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of disk are free. "
            "Free some space, or choose a smaller model."
        )
    counted = info.safetensors.parameters if info.safetensors else {}
    return sum(counted.values()) or size // 2  # most models are stored in two bytes per parameter


def download(repository: str, progress: Progress = silent) -> Path:
    """Fetches a model's configuration, tokenizer and safetensors; returns their folder."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._bytes = options.get("unit") == "B"
            super().__init__(*args, **{**options, "disable": True})
            self.n = options.get("initial") or 0

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if self._bytes and self.total:
                fraction = min(self.n / self.total, 1.0)
                progress(0.9 * fraction, f"Downloading: {self.n / 1e6:,.0f} of {self.total / 1e6:,.0f} MB")
            return None

    progress(0.0, f"Downloading {repository}")
    with _explained(repository):
        return Path(snapshot_download(repository, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, tqdm_class=Bar))


def check_architecture(title: str, config: dict[str, Any]) -> None:
    """Raises `ModelUnavailable` unless a `config.json` is that of a causal LM that transformers itself knows."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal: set[str] = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        causal.update([names] if isinstance(names, str) else names)
    architectures = [str(name) for name in config.get("architectures") or []]
    if config.get("model_type") in CONFIG_MAPPING_NAMES and causal.intersection(architectures):
        return
    what = ", ".join(architectures) or str(config.get("model_type") or "of an unknown kind")
    if config.get("auto_map"):
        raise ModelUnavailable(
            f"{title} ({what}) needs program code from the hub, which is never run here. "
            "Choose a model that transformers knows."
        )
    raise ModelUnavailable(
        f"{title} is not a causal language model (it is {what}). Choose one that writes text left to right."
    )


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Says in a sentence what the hub refused, and what can be done."""
    try:
        yield
    except errors.GatedRepoError:
        reason = (
            f"{repository} is gated: its owners ask you to accept their terms on its hub page, and to set HF_TOKEN "
            "to your access token. Do that, or choose another model."
        )
    except errors.RepositoryNotFoundError:
        reason = (
            f"The hub has no public model called {repository}. Check the spelling, or set HF_TOKEN if it is private."
        )
    except (errors.RemoteEntryNotFoundError, errors.DisabledRepoError):
        reason = (
            f"{repository} holds no language model that can be loaded (it has no config.json). Choose another model."
        )
    except errors.OfflineModeIsEnabled:
        reason = (
            f"{repository} is not on this machine, and the hub is switched off (HF_HUB_OFFLINE is set). "
            "Choose the embedded model, or unset it."
        )
    except json.JSONDecodeError:
        reason = f"{repository} has a config.json that cannot be read. Choose another model."
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        reason = (
            f"The hub answered {status} when asked for {repository}. Try again later, or choose the embedded model."
        )
    except Exception as error:
        # The HTTP library under the hub client has changed more than once; its errors have no lasting name.
        reason = (
            f"{repository} is not on this machine, and the hub cannot be reached ({type(error).__name__}). "
            "Check the network, or choose the embedded model."
        )
    else:
        return
    raise ModelUnavailable(reason)


def _is_weights(file: str) -> bool:
    return file.endswith(".safetensors") and "/" not in file and not file.startswith("consolidated")


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
