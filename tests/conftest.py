"""What all tests share: a quiet machine without network, the embedded model, and two tiny ones."""

from __future__ import annotations

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from xdist.scheduler import LoadScopeScheduling

from engines.models import loading
from engines.models.causal import CausalModel

# Two threads on a busy machine can be ten times slower than one.
torch.set_num_threads(1)


FIRST = ("tests/browser/", "tests/oracles/test_lossless")
"""What takes longest begins first, or everybody waits for it in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((i for i, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST)))


class Files(LoadScopeScheduling):
    """Two workers share out the files. A browser keeps both cores busy, so all its files go to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return FIRST[0] if file.startswith(FIRST[0]) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    return Files(config, log)


@pytest.fixture(scope="session")
def smollm() -> CausalModel:
    """The embedded model; converted first on a machine that has never run it."""
    return loading.load()


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights whose vocabulary is the 256 bytes and an end of text."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        initializer_range=0.3,
    )
    return _saved(LlamaForCausalLM(config), tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of random weights with the same vocabulary: the general path."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=257,
        n_positions=512,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        initializer_range=0.3,
    )
    return _saved(GPT2LMHeadModel(config), tmp_path_factory.mktemp("tiny-gpt2"))


@pytest.fixture(scope="session")
def tiny_llama(tiny_llama_folder: Path) -> CausalModel:
    return loading.load_folder(tiny_llama_folder, name="tiny-llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_gpt2_folder: Path) -> CausalModel:
    return loading.load_folder(tiny_gpt2_folder, name="tiny-gpt2")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and no models in memory; what was loaded before is back afterwards."""
    monkeypatch.setenv("DECODING_PLAYGROUND_CACHE", str(tmp_path / "cache"))
    before = dict(loading._loaded)
    loading._loaded.clear()
    yield tmp_path / "cache"
    loading._loaded.clear()
    loading._loaded.update(before)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser to drive. Without one, tests that need it are skipped with a reason; on CI that is a failure."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("Chromium is not installed.")
    return path


def _saved(network: LlamaForCausalLM | GPT2LMHeadModel, folder: Path) -> Path:
    network.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte (ids 0 to 255) and `<|end|>` (256)."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: id for id, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>"
    )
