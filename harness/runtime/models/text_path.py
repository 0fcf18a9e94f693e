"""Models with towers for images or sound: only their text path is loaded into a run.

All tasks here are text. A tower left in would be counted, adapted by `all-linear` and never reached by
a gradient, which also stops training in several processes. Module names stay those of the whole model,
so that an adapter fits it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from harness.runtime.models.counting import logical_size


def keep_text_path(model: Any) -> str | None:
    """Take out of `model` what text does not pass through; returns what was taken out, None for nothing."""
    text_config = model.config.get_text_config()
    if text_config is model.config:
        return None
    trunk = _trunk(model, text_config)
    if trunk is None:
        return None
    kept = {id(module) for module in (trunk, model.get_output_embeddings()) if module is not None}
    removed: list[str] = []
    size = _remove_beside(model, trunk, kept, removed, "")
    if not removed:
        return None
    model.removed_modules = tuple(removed)
    return f"only the text path is loaded: {', '.join(removed)} left out ({size:,} weights)"


def as_text_model(model: Any) -> Any:
    """A model that lost its towers as the causal language model of its text, of the same modules.

    Saved as it is, its configuration would promise towers that are not there. Any other model, one
    with an adapter too, is returned as it is.
    """
    if not vars(model).get("removed_modules"):
        return model
    text_config = model.config.get_text_config()
    with torch.device("meta"):
        text: Any = AutoModelForCausalLM.from_config(text_config, dtype=model.dtype)
    setattr(text, text.base_model_prefix, _trunk(model, text_config))
    text.set_output_embeddings(model.get_output_embeddings())
    text.generation_config = model.generation_config
    return text


def _trunk(model: nn.Module, text_config: Any) -> nn.Module | None:
    """The outermost module that has the text's configuration."""
    for module in model.modules():
        if module is not model and getattr(module, "config", None) is text_config:
            return module
    return None


def _remove_beside(
    parent: nn.Module, trunk: nn.Module, kept: set[int], removed: list[str], prefix: str
) -> int:
    """Delete the children of `parent` that have weights and do not hold the trunk; returns their size."""
    size = 0
    for name, child in list(parent.named_children()):
        if id(child) in kept:
            continue
        if any(module is trunk for module in child.modules()):
            size += _remove_beside(child, trunk, kept, removed, f"{prefix}{name}.")
        elif weights := list(child.parameters()):
            size += sum(logical_size(weight) for weight in weights)
            removed.append(f"{prefix}{name}")
            delattr(parent, name)
    return size
