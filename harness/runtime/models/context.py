"""How many tokens of context a model has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.models.utils import DEFAULT_MAX_LENGTH, resolve_max_length
from transformers import PreTrainedTokenizerBase

from harness.runtime.models.positions import base_model
from harness.runtime.models.prompt_learning import is_prompt_learning, virtual_count
from harness.runtime.models.rotary import rotary_of


def context_length(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    asked: int | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> int:
    """Tokens of context: those asked for, else what lm-eval takes for the model's own: its configuration's,
    its tokenizer's, or 2,048; of MPT max_seq_len before that.

    Never more than a configuration gives positions for, less those of virtual tokens; `on_notice` hears
    where more was asked for. Dynamic scaling has positions for any length.
    """
    config = base_model(model).config
    found = resolve_max_length(config, None, default=0)
    longest = int(getattr(config.get_text_config(), "max_seq_len", None) or 0)
    own = found or resolve_max_length(None, tokenizer, default=longest or DEFAULT_MAX_LENGTH)
    bound = found or longest
    if not bound or (asked is not None and rotary_of(model).growing):
        return asked or own
    virtual = virtual_count(model) if is_prompt_learning(model) else 0
    if asked is not None and asked > bound:
        on_notice(f"model.max_length={asked} is more than the model's own {bound}, which is used")
    return min(asked or own, bound - virtual)
