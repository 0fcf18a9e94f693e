"""Parameters counted on the real model."""

from __future__ import annotations

from typing import Any

from torch import nn


def logical_size(weight: Any) -> int:
    """Numbers in a weight as the method sees it: a 4-bit weight packs two into each stored byte,
    and a weight sharded by ZeRO-3 holds only a piece of itself.
    """
    quantised = getattr(weight, "quant_state", None)
    if quantised is not None:
        return int(quantised.shape.numel())
    return int(getattr(weight, "ds_numel", weight.numel()))


def full_shape(weight: Any) -> tuple[int, ...]:
    """A weight's shape; of one sharded by ZeRO-3 that of the whole."""
    return tuple(getattr(weight, "ds_shape", weight.shape))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) logical parameters, tied weights once, as PEFT counts."""
    trainable = total = 0
    for weight in model.parameters():
        size = logical_size(weight)
        total += size
        if weight.requires_grad:
            trainable += size
    return trainable, total
