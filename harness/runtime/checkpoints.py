"""Checkpoints of a run that trains: which one can be gone on from, and what is in it.

The weights in a checkpoint are those that are trained, by name, whatever the strategy: that is all
that changes, and unlike a method's own format it is always read back as it was written (PEFT folds
some adapters when it saves them, and asks the Hub about the base model). DeepSpeed writes its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

COMPLETE = "complete"
"""The file written last into a checkpoint; one without it was cut off and is not used."""
_MEASURED = "throughput.json"
_WEIGHTS = "trained.safetensors"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def complete(checkpoint: Path, measured: dict[str, Any], keep: Collection[str]) -> None:
    """Mark `checkpoint` as whole, and only then delete the others but those whose names are in `keep`."""
    (checkpoint / _MEASURED).write_text(json.dumps(measured), encoding="utf-8")
    (checkpoint / COMPLETE).touch()
    for other in checkpoint.parent.glob("checkpoint-*"):
        if other.name != checkpoint.name and other.name not in keep:
            # Its mark first: killed in the middle, it must not pass for a whole one.
            (other / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(other, ignore_errors=True)


def measured(checkpoint: Path) -> dict[str, Any]:
    """What the tries that led to `checkpoint` had measured."""
    content: dict[str, Any] = json.loads((checkpoint / _MEASURED).read_text(encoding="utf-8"))
    return content


def save_trained(model: nn.Module, checkpoint: Path) -> None:
    """Write the trained weights of `model`."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in _trained(model).items()}
    save_file(weights, checkpoint / _WEIGHTS)


def load_trained(model: nn.Module, checkpoint: Path) -> None:
    """Put the weights written by `save_trained` back. Raises ValueError when they are of another model."""
    stored, own = load_file(checkpoint / _WEIGHTS), _trained(model)
    if stored.keys() != own.keys():
        different = sorted(stored.keys() ^ own.keys())
        raise ValueError(f"{checkpoint} is of another model: {', '.join(different[:3])} ...")
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(stored[name])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
