"""A scaled loss for training in float16, whose least numbers are too large for many gradients."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from harness.spec import RunSpec

_FILE = "scaler.json"
_LEAST = 1.0
"""A scale below which gradients that overflow are those of the loss itself, and of a run that diverged."""


class LossScale:
    """Scales a step's loss, divides its gradients again, and says when the step must be made anew.

    PyTorch's own scaler (Micikevicius et al. 2018, arXiv 1710.03740): 2^16 at first, halved where a
    gradient overflows, doubled after 2,000 steps without. Where it would leave such a step out, here it
    is made again with the lower scale, so that a run makes as many steps, on the same examples, as in
    another precision. Without float16 it does nothing.
    """

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=spec.model.dtype == "float16")

    @property
    def scale(self) -> float | None:
        """What the loss is multiplied by; None where it is not scaled."""
        return float(self._scaler.get_scale()) if self._scaler.is_enabled() else None

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        return self._scaler.scale(loss) if self._scaler.is_enabled() else loss  # type: ignore[no-any-return]

    def settle(self, optimizer: torch.optim.Optimizer) -> bool:
        """Divide the scale out of the gradients; False where the step must be made again, with a lower one.

        Below a scale of 1 it is not: what is not finite then stays so, for the check of the gradients' norm.
        """
        if not self._scaler.is_enabled():
            return True
        before = self._scaler.get_scale()
        self._scaler.unscale_(optimizer)
        self._scaler.update()
        after = self._scaler.get_scale()
        return after >= before or before <= _LEAST

    def save(self, checkpoint: Path) -> None:
        """Write its state into a checkpoint, where there is one."""
        if self._scaler.is_enabled():
            (checkpoint / _FILE).write_text(json.dumps(self._scaler.state_dict()), encoding="utf-8")

    def load(self, checkpoint: Path) -> None:
        """Take over the state in a checkpoint written by `save`."""
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(json.loads((checkpoint / _FILE).read_text(encoding="utf-8")))


def drop_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    """As before a step's first backward pass."""
    for weight in weights:
        weight.grad = None
