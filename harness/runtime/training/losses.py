"""What a model is trained on: the losses of a micro-batch's answer tokens.

Legend: B rows of a micro-batch, T tokens, V vocabulary, N answer tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from harness.runtime.models.loading import autocast
from harness.runtime.models.positions import Positions
from harness.runtime.training.batches import IGNORED, Batch


def answer_losses(
    model: nn.Module,
    batch: Batch,
    positions: Positions,
    device: torch.device,
    dtype: str,
    reduction: Literal["sum", "none"] = "sum",
) -> torch.Tensor:
    """Negative log-likelihoods, in float32: a scalar, or with reduction "none" of each token (N,) in order.

    0 for a batch without labels: a process without examples in a step makes a forward for the collectives.
    """
    # Places and targets are found on the host: on a GPU `nonzero` would wait for all queued work.
    labels = batch["labels"]  # (B, T)
    rows, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)  # (N,), (N,)
    empty = rows.numel() == 0
    if empty:
        rows = columns = torch.zeros(1, dtype=torch.long)
    targets = torch.zeros_like(rows) if empty else labels[rows, columns + 1]
    rows, columns, targets = (tensor.to(device) for tensor in (rows, columns, targets))
    # Packed rows have position ids too; padded ones leave them to the model.
    inputs = {name: batch[name].to(device) for name in ("input_ids", "position_ids") if name in batch}
    positions.choose(rows, columns, labels.shape[1])
    with autocast(device, dtype):
        logits = model(**inputs, use_cache=False).logits  # (N, V)
    losses = nn.functional.cross_entropy(logits.float(), targets, reduction=reduction)
    return losses * 0 if empty else losses
