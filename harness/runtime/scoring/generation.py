"""Texts that a model goes on with, as lm-eval's HFLM makes them: the same stops, for every tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.models.utils_hf import stop_sequences_criteria

from harness.errors import UsageError
from harness.runtime.models.positions import base_model
from harness.runtime.tokens.rows import padding_id
from harness.runtime.tokens.texts import Encoder


def generated_text(
    model: Any,
    encoder: Encoder,
    ids: list[int],
    settings: dict[str, Any],
    max_length: int,
    on_cut: Callable[[int], None] = lambda tokens: None,
) -> str:
    """Greedy or sampled text behind the prompt `ids`, cut before the first stop string.

    It also ends where the tokenizer's end of text is written, and at those of the model's generation
    settings. Stop strings are looked for in what is written, not in the prompt. A long prompt loses its
    beginning, of which `on_cut` hears the tokens. Raises UsageError where `settings` leave no room for a prompt.
    """
    tokenizer = encoder.tokenizer
    given = {name: value for name, value in settings.items() if name != "until" or value is not None}
    settings = dict(normalize_gen_kwargs(given))
    end = tokenizer.eos_token_id
    eos = None if end is None else tokenizer.decode(end, skip_special_tokens=False)
    stops = handle_stop_sequences(settings.pop("until"), eos=eos)
    new_tokens = settings.pop("max_gen_toks")
    if not settings["do_sample"]:
        settings.pop("temperature", None)
    if new_tokens >= max_length:
        raise UsageError(
            f"{new_tokens} tokens to generate leave no room for a prompt in a context of {max_length}",
            "Ask for fewer (max_gen_toks).",
        )
    if len(ids) > max_length - new_tokens:
        on_cut(len(ids) - (max_length - new_tokens))
    ids = ids[-(max_length - new_tokens) :] or [encoder.prefix_token]
    embedding = base_model(model).get_input_embeddings().weight
    generated = model.generate(
        input_ids=torch.tensor([ids], device=embedding.device),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=embedding.device),
        max_length=settings.pop("max_length", len(ids) + new_tokens),
        stopping_criteria=stop_sequences_criteria(tokenizer, stops, len(ids), 1),
        pad_token_id=padding_id(tokenizer, len(embedding)),
        use_cache=True,
        **settings,
    )
    text = str(tokenizer.decode(generated[0, len(ids) :].tolist(), skip_special_tokens=True))
    return str(postprocess_generated_text(text, stops, think_end_token=None))
