"""What a strategy keeps outside the model's weights, in a checkpoint."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from harness.contracts import Strategy

_FILE = "strategy.safetensors"


def save_state(strategy: Strategy, model: nn.Module, checkpoint: Path) -> None:
    """Write `strategy.state`, where there is any, before the checkpoint is marked as whole."""
    state = strategy.state(model)
    if not state:
        return
    checkpoint.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, checkpoint / _FILE)


def restore_state(strategy: Strategy, model: nn.Module, checkpoint: Path) -> None:
    """Hand the strategy what `save_state` wrote; an empty dict where that was nothing."""
    file = checkpoint / _FILE
    strategy.restore(model, load_file(file) if file.is_file() else {})
