"""Logits only where they are needed.

A causal language model computes logits at every position (B, T, V), of which a multiple-choice
task needs a handful. A hook in front of the output layer hands it only the chosen positions.

Legend: B batch, T tokens, D hidden size, V vocabulary, N chosen positions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from harness.runtime.models.counting import full_shape


class Positions(threading.local):
    """The positions of a thread's next forward pass at which logits are wanted."""

    def __init__(self) -> None:
        self._chosen: tuple[torch.Tensor, torch.Tensor, int] | None = None

    def choose(self, rows: torch.Tensor, columns: torch.Tensor, width: int) -> None:
        """Positions (rows[i], columns[i]) of an input of `width` tokens; both (N,)."""
        self._chosen = (rows, columns, width)

    def clear(self) -> None:
        self._chosen = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._chosen is None:
            return None
        rows, columns, width = self._chosen
        hidden = args[0]  # (B, T', D); T' > T where prompt tuning puts virtual tokens in front
        virtual = hidden.shape[1] - width
        return (hidden[rows, columns + virtual], *args[1:])  # (N, D)


@contextmanager
def chosen_positions(model: nn.Module) -> Iterator[Positions]:
    """While open, `model` computes logits (N, V) at the positions chosen before each forward.

    Raises ValueError for a model without an output layer.
    """
    head = output_layer(model)
    positions = Positions()
    handle = head.register_forward_pre_hook(positions)
    try:
        yield positions
    finally:
        handle.remove()


def output_layer(model: nn.Module) -> nn.Module:
    """The layer that turns hidden states into logits."""
    head = base_model(model).get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no output layer: it is not a causal language model")
    return head  # type: ignore[no-any-return]


def base_model(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def vocabulary_size(model: Any) -> int:
    """Lines of the input embedding: token ids are below it."""
    embedding = base_model(model).get_input_embeddings()
    return full_shape(embedding.weight)[0]  # of a weight that ZeRO-3 divides, the whole


class Float32Head(nn.Module):
    """An output layer whose matrix product is in float32 whatever the model's precision.

    bfloat16 logits have steps of 0.06 to 0.125 at the usual size of a logit, which is more than
    the gap between many options.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach().float(), requires_grad=False)  # (V, D)
        bias = head.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:  # (N, D) -> (N, V)
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight, self.bias)


@contextmanager
def float32_head(model: nn.Module) -> Iterator[None]:
    """While open, `model`'s output layer computes in float32 (if it is a plain linear layer)."""
    base = base_model(model)
    head = output_layer(model)
    if type(head) is not nn.Linear or head.weight.dtype == torch.float32:
        yield
        return
    base.set_output_embeddings(Float32Head(head))
    try:
        yield
    finally:
        base.set_output_embeddings(head)
