"""Attention over short rows on a CPU, in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_LONGEST = 256
"""Keys up to which float32 is the faster: forward and backward of PyTorch's kernel for CPUs take 9 ms in
float32 and 21 in bfloat16 for 10 rows of 75 tokens, 8 and 16 for 4 of 150, 20 and 22 for 4 of 256."""


@contextmanager
def float32_short_attention(device: torch.device) -> Iterator[None]:
    """While open, models with sdpa attention compute it in float32 on a CPU where rows are short.

    Rounding is no more than in 16 bits: only the result is rounded to them.
    """
    if device.type != "cpu":
        yield
        return
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attention(
        module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, Any]:  # fmt: skip
        if query.dtype not in (torch.bfloat16, torch.float16) or key.shape[2] > _LONGEST:
            return plain(module, query, key, value, mask, **kwargs)  # type: ignore[no-any-return]
        if mask is not None and mask.is_floating_point():
            mask = mask.float()
        with torch.autocast("cpu", enabled=False):  # which would make it 16 bits again
            found, weights = plain(module, query.float(), key.float(), value.float(), mask, **kwargs)
        return found.to(query.dtype), weights

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = plain
