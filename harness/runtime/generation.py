"""Texts that a model goes on with, as lm-eval asks for them."""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from harness.errors import UsageError


def generated_text(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    settings: dict[str, Any],
    max_length: int,
) -> str:
    """Greedy or sampled text behind the prompt `ids`, cut before the first stop string.

    A long prompt loses its beginning. Raises UsageError where `settings` leave no room for a prompt.
    """
    settings = dict(normalize_gen_kwargs(settings))
    stops, new_tokens = settings.pop("until"), settings.pop("max_gen_toks")
    if not settings["do_sample"]:
        settings.pop("temperature", None)
    if new_tokens >= max_length:
        raise UsageError(
            f"{new_tokens} tokens to generate leave no room for a prompt in a context of {max_length}",
            "Ask for fewer (max_gen_toks).",
        )
    ids = ids[-(max_length - new_tokens) :]
    device = model.get_input_embeddings().weight.device
    generated = model.generate(
        input_ids=torch.tensor([ids], device=device),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
        max_new_tokens=new_tokens,
        stop_strings=stops or None,
        tokenizer=tokenizer,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    text = str(tokenizer.decode(generated[0, len(ids) :], skip_special_tokens=True))
    for stop in filter(None, stops):
        text = text.split(stop)[0]
    return text
