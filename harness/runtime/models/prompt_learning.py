"""Methods that put learned tokens, or their keys and values, before the text."""

from __future__ import annotations

from typing import Any


def is_prompt_learning(model: Any) -> bool:
    """Whether a method of PEFT puts virtual tokens (or their keys and values) before the text."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def virtual_count(model: Any) -> int:
    """Virtual tokens of a prompt-learning method."""
    return int(model.active_peft_config.num_virtual_tokens)
