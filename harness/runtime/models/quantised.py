"""Base models quantised once and kept on disk: a copy is read several times faster than it is made.

A copy holds the very bits that quantising afresh gives on this kind of device, so that a result does
not depend on where the weights came from. What was kept, and what was not, goes into the notes of the
model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig, PreTrainedModel

from harness.errors import StoreError, UsageError, first_line
from harness.io.files import sha256_of
from harness.io.hashes import cache_root
from harness.io.lock import locked
from harness.runtime.cache import (
    forget_unused,
    is_whole,
    mark_used,
    may_keep,
    private_folder,
    remove,
    write_sums,
)
from harness.runtime.device import rank
from harness.store.model_files import weights_sha256

VARIABLE = "MEDTUNE_CACHE_QUANTISED"
_FOLDER = "quantised"
_FORMAT = 1
_SHARD = "256MB"
"""Of the copy's files: one shard is in host memory while it is written."""

Options = dict[str, Any]
Read = Callable[[Path, Options], PreTrainedModel]


def can_be_kept(quantization: Any, source: str) -> bool:
    """True for bitsandbytes' four bits, where the user allows it. ZeRO stage 3 gives each process a piece only."""
    if not (isinstance(quantization, BitsAndBytesConfig) and quantization.load_in_4bit):
        return False
    from transformers.integrations import is_deepspeed_zero3_enabled

    return may_keep(VARIABLE, "all", source) and not is_deepspeed_zero3_enabled()


def load_quantised(
    read: Read, folder: Path, options: Options, device: str, notes: list[str]
) -> PreTrainedModel:
    """The model in `folder`, quantised as `options` say: its copy where there is one, else afresh.

    Whatever is wrong with the copy or its folder becomes a line of `notes`, and costs time only.
    """
    target = cache_root() / _FOLDER / _key(folder, options, torch.device(device))
    try:
        model = _read_copy(read, target, options, notes)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        notes.append(
            f"the quantised copy {target} could not be read ({first_line(str(error))}): quantised anew"
        )
        model = None
    if model is not None:
        name_model(model, str(folder))
        return model
    model = read(folder, options)
    if rank() == 0:
        try:
            notes.append(_keep(model, target))
        except (OSError, ValueError, StoreError, SafetensorError) as error:
            told = error.message if isinstance(error, StoreError) else error
            notes.append(f"the quantised weights are not kept: {told}")
    return model


def _key(folder: Path, options: Options, device: torch.device) -> str:
    """SHA-256 over all that the quantised weights depend on."""
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    else:
        # A mean over many weights is summed by as many threads as there are, and so rounded.
        kind = f"{device.type} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    configs = (folder / "config.json", folder / "generation_config.json")
    described = {
        "format": _FORMAT,
        "weights": weights_sha256(folder),
        "configs": [sha256_of(path) if path.exists() else None for path in configs],
        "quantization": options["quantization_config"].to_dict(),
        "dtype": str(options["dtype"]),
        "device": kind,
        "packages": {n: importlib.metadata.version(n) for n in ("bitsandbytes", "torch", "transformers")},
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _read_copy(read: Read, target: Path, options: Options, notes: list[str]) -> PreTrainedModel | None:
    """None where there is no copy, or a damaged one."""
    if not os.path.lexists(target):
        return None
    if not is_whole(target):
        notes.append(f"the quantised copy {target} is damaged: quantised anew")
        return None
    mark_used(target)
    model = read(target, {name: value for name, value in options.items() if name != "quantization_config"})
    notes.append("quantised weights read from the cache")
    return model


def compute_as_asked(model: PreTrainedModel) -> None:
    """Let 4-bit layers be computed in the usual way where packed weights would give something else.

    On CPUs with bfloat16 products bitsandbytes (0.50) packs 4-bit weights anew for forward passes without
    gradients: by whole blocks a row, and for products in bfloat16, whatever the layer's own dtype is.
    """
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None:
            continue
        if state.shape[-1] % state.blocksize or getattr(module, "compute_dtype", None) != torch.bfloat16:
            module.support_avx512bf16_for_cpu = False


def name_model(model: PreTrainedModel, name: str) -> None:
    """Where the model says it is from: an adapter's configuration names its base by that."""
    model.config._name_or_path = name
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.name_or_path = name


def _keep(model: PreTrainedModel, target: Path) -> str:
    """Write the copy; it appears by rename, whole. Returns what to say of it.

    Raises `OSError`, `StoreError`, `SafetensorError`, or `ValueError` for a model that cannot be saved.
    """
    folder = private_folder(_FOLDER)
    forget_unused(folder)
    needed = sum(weight.nbytes for weight in model.parameters())
    if shutil.disk_usage(folder).free < 2 * needed:
        raise OSError(f"{folder} has not twice the {needed / 2**30:.1f} GiB free that they take")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(target.with_suffix(".lock")))
        except StoreError:
            raise
        except UsageError:
            return "quantised weights are being kept by another process"
        making = Path(tempfile.mkdtemp(dir=folder, prefix=".making-"))
        stack.callback(shutil.rmtree, making, ignore_errors=True)
        _save(model, making)
        write_sums(making)
        remove(target)  # a damaged one
        making.rename(target)
    return "quantised weights kept in the cache, which loading counts; later runs read them from there"


def _save(model: PreTrainedModel, folder: Path) -> None:
    config = model.config
    before = {name: getattr(config, name) for name in ("dtype", "architectures")}
    try:
        model.save_pretrained(folder, max_shard_size=_SHARD)
    finally:  # it writes these into the model's own configuration too
        for name, value in before.items():
            setattr(config, name, value)
