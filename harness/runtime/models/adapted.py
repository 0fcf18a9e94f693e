"""A model as a strategy adapts it, whatever strategy: checked, and with norms that can be computed."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.contracts import Strategy, norms_in_float32
from harness.errors import UsageError


def adapted(strategy: Strategy, model: Any) -> nn.Module:
    """`strategy.adapt(model)`. Raises `UsageError` where a strategy that trains leaves nothing to train."""
    result = strategy.adapt(model)
    if strategy.trains and not any(weight.requires_grad for weight in result.parameters()):
        raise UsageError(
            f"strategy {strategy.name} would train nothing in {type(model).__name__}",
            "Check its settings: the weights they name are not in this model.",
        )
    norms_in_float32(result)
    return result
