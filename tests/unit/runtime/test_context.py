"""How long a context is: as lm-eval's HFLM says, where it says something, and never longer than positions are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from peft import PrefixTuningConfig, get_peft_model
from tiny import SIZE
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from harness.runtime.models.context import context_length

INFINITE = int(1e30)
GPT2 = {"vocab_size": 512, "n_embd": 64, "n_layer": 1, "n_head": 4}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "n_positions": ("gpt2", {**GPT2, "n_positions": 300}),
    "max_position_embeddings": ("llama", {**SIZE, "max_position_embeddings": 400}),
    "shorter than the tokenizer's": ("llama", {**SIZE, "max_position_embeddings": 100}),
    "none (ALiBi)": ("bloom", {"vocab_size": 512, "hidden_size": 64, "n_layer": 1, "n_head": 4}),
    "none (recurrent)": ("mamba", {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 1, "state_size": 8}),
    "max_seq_len": ("mpt", {"vocab_size": 512, "d_model": 64, "n_layers": 1, "n_heads": 4, "max_seq_len": 4096}),
    "of the text": ("gemma3_text", {**SIZE, "head_dim": 16, "max_position_embeddings": 700}),
}  # fmt: skip


def build(name: str) -> Any:
    kind, settings = CONFIGS[name]
    config = AutoConfig.for_model(kind, **settings, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("limit", [None, 128, 1024, 4096])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_models_own_length_is_hflms(
    name: str, limit: int | None, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "model_max_length", INFINITE if limit is None else limit)
    model = build(name)
    if name == "max_seq_len" and limit is None:
        assert context_length(model, tokenizer) == 4096  # HFLM does not know this name: 2,048
        return
    assert context_length(model, tokenizer) == HFLM(pretrained=model, tokenizer=tokenizer).max_length


@pytest.mark.parametrize("asked", [24, 5000])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_asked_is_taken_up_to_the_positions_there_are(name: str, asked: int, tokenizer: Any) -> None:
    notices: list[str] = []
    found = context_length(build(name), tokenizer, asked, notices.append)
    bound = {"n_positions": 300, "max_position_embeddings": 400, "shorter than the tokenizer's": 100, "max_seq_len": 4096, "of the text": 700}.get(name)  # fmt: skip
    assert found == min(asked, bound or asked)
    assert bool(notices) == (found < asked)
    assert all("model.max_length=5000 is more than the model's own" in notice for notice in notices)


def test_dynamic_scaling_has_positions_for_any_length(tokenizer: Any) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    config = AutoConfig.for_model("llama", **{**SIZE, "max_position_embeddings": 64, "rope_parameters": rope})
    model = AutoModelForCausalLM.from_config(config)
    assert context_length(model, tokenizer) == 64
    assert context_length(model, tokenizer, 200) == 200


def test_virtual_tokens_take_a_part_of_the_context() -> None:
    """GPT-2 has no position to give to the last tokens of a prompt behind a prefix."""
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=40)
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6)
    model = get_peft_model(GPT2LMHeadModel(config), prefix)
    length = context_length(model)
    assert length == 34
    assert context_length(model, asked=24) == 24
    with torch.no_grad():
        model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
        with pytest.raises(IndexError):
            model(input_ids=torch.zeros(1, length + 1, dtype=torch.long), use_cache=False)
