"""Keys and values that are computed once and seen by many rows: of a beginning that prompts share, and
of the virtual tokens of prompt tuning and its kin.

Legend: B rows, H key heads, P kept tokens, T new tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from harness.runtime.models.positions import base_model

# A mask is honoured by these alone; others drop it.
_MASKED_ATTENTION = ("sdpa", "eager")
_WINDOWS = ("sliding_window", "window_size", "attention_window_size")
_LEAST_LIMIT = 64
"""Below it nothing can be tried out, let alone won."""


@dataclass(frozen=True, slots=True)
class Kept:
    """layers: (keys, values) of each, both (1, H, P, D)."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def length(self) -> int:
        return int(self.layers[0][0].shape[-2])

    @classmethod
    def of(cls, cache: Cache) -> Kept:
        return cls(tuple((layer.keys, layer.values) for layer in cache.layers))

    def cache(self, rows: int) -> DynamicCache:
        """A cache for one forward pass of `rows` rows that see these tokens and store none of theirs."""
        cache = DynamicCache()
        cache.layers = [_Expanded(keys, values, rows) for keys, values in self.layers]
        return cache

    def growing(self) -> DynamicCache:
        """A cache that takes in further tokens behind these."""
        return DynamicCache(self.layers)


class _Expanded(DynamicLayer):  # type: ignore[misc]
    """A cache's layer that hands out its tokens followed by the new ones, and keeps itself as it is."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys = keys.expand(rows, -1, -1, -1)  # no copy
        self.values = values.expand(rows, -1, -1, -1)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([self.keys, key_states], dim=-2)  # (B, H, P + T, D)
        return keys, torch.cat([self.values, value_states], dim=-2)


def virtual_tokens(model: Any) -> Kept:
    """What the text sees of a prompt-learning method's virtual tokens."""
    prompt = model.get_prompt(1)
    if isinstance(prompt, torch.Tensor):  # embeddings, (1, P, hidden size)
        base = base_model(model)
        cache = DynamicCache()
        base(inputs_embeds=prompt.to(base.dtype), past_key_values=cache, use_cache=True)
        return Kept.of(cache)
    return Kept.of(prompt if isinstance(prompt, Cache) else DynamicCache(prompt))


def row_limit(model: nn.Module) -> int | None:
    """Tokens up to which a row may hold branches, or follow a kept beginning: 0 for models that cannot,
    None for no limit, as far as their configuration says.

    Attention kernels without masks drop the one given; layers with a window or chunks count distance
    along the row, which is right only for a row that fits in one.
    """
    config = base_model(model).config.get_text_config()
    if getattr(config, "_attn_implementation", None) not in _MASKED_ATTENTION:
        return 0
    layers: Sequence[str] = getattr(config, "layer_types", None) or ["full_attention"]
    if not all(kind in ("full_attention", "sliding_attention") for kind in layers):
        return 0
    if not getattr(config, "use_sliding_window", True) and "sliding_attention" not in layers:
        return None
    windows = [window for name in _WINDOWS if (window := getattr(config, name, None)) is not None]
    if not windows:
        return None
    return min(windows) if min(windows) >= _LEAST_LIMIT else 0
