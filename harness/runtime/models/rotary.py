"""Position encodings that are set by the longest row of a forward pass.

LongRoPE has one set of factors up to a length and another above it, dynamic NTK scaling another base for
every length above one; transformers takes the pass's largest position for all of its rows. So that a row
is computed as it would be alone, rows share a pass, and what is kept of one, only where the encoding is the
same for each. transformers' dynamic scaling also remembers the longest pass so far: it is made to forget.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from harness.runtime.models.positions import base_model
from harness.runtime.models.prompt_learning import is_prompt_learning, virtual_count


@dataclass(frozen=True, slots=True)
class Rotary:
    """switches: lengths up to which one set of factors holds and above which another; growing: lengths
    above which each has its own; virtual: tokens that a method puts before every row.
    """

    switches: tuple[int, ...] = ()
    growing: tuple[int, ...] = ()
    virtual: int = 0

    @property
    def steady(self) -> int | None:
        """Tokens of a row up to which nothing depends on its length; None where nothing ever does."""
        lengths = (*self.switches, *self.growing)
        return max(0, min(lengths) - self.virtual) if lengths else None

    def kind(self, tokens: int) -> Hashable:
        """The same for rows, of so many tokens, whose position encodings are the same."""
        length = tokens + self.virtual
        return tuple(length > switch for switch in self.switches) + tuple(
            max(length, limit) for limit in self.growing
        )


def rotary_of(model: nn.Module) -> Rotary:
    """What `model`'s configuration says of its position encodings."""
    config = base_model(model).config.get_text_config()
    switches, growing = set(), set()
    for parameters in _parameters(getattr(config, "rope_parameters", None)):
        kind = str(parameters.get("rope_type", parameters.get("type", "default")))
        # Phi-MoE scales by either side of the length with any type.
        if kind == "longrope" or "short_mscale" in parameters:
            switches.add(_trained_length(parameters, config))
        elif "dynamic" in kind:
            growing.add(int(config.max_position_embeddings))
    virtual = virtual_count(model) if is_prompt_learning(model) else 0
    return Rotary(tuple(sorted(switches)), tuple(sorted(growing)), virtual)


def _parameters(found: Any) -> Iterator[Mapping[str, Any]]:
    """The parameters of each kind of layer: one mapping for all, or one a kind."""
    if not isinstance(found, Mapping):
        return
    if "rope_type" in found or "type" in found:
        yield found
        return
    for own in found.values():
        yield from _parameters(own)


def _trained_length(parameters: Mapping[str, Any], config: Any) -> int:
    lengths = (parameters, vars(config))
    own = next((found for of in lengths if (found := of.get("original_max_position_embeddings"))), None)
    return int(own or config.max_position_embeddings)


@contextmanager
def forgetting(model: nn.Module) -> Iterator[None]:
    """While open, no forward pass of `model` uses a position encoding that an earlier, longer one left."""
    handles = [
        module.register_forward_pre_hook(functools.partial(_forget, prefixes=prefixes))
        for module in model.modules()
        if (prefixes := _growing_prefixes(module))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _growing_prefixes(module: nn.Module) -> tuple[str, ...]:
    """Of the encodings that a module of transformers sets anew for longer passes: what their names begin with."""
    kinds = getattr(module, "rope_type", None)
    if not hasattr(module, "original_max_seq_len"):
        return ()
    if isinstance(kinds, Mapping):
        return tuple(f"{name}_" for name, kind in kinds.items() if "dynamic" in str(kind))
    return ("",) if "dynamic" in str(kinds) else ()


def _forget(module: Any, args: Any, *, prefixes: tuple[str, ...]) -> None:
    for prefix in prefixes:
        original = getattr(module, f"{prefix}original_inv_freq")
        if getattr(module, f"{prefix}inv_freq") is not original:
            setattr(module, f"{prefix}inv_freq", original)
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
