"""Passes in threads: the answers of passes one after the other, and only where nothing is shared."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, VeraConfig, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from harness.runtime.scoring.likelihood import Likelihood
from harness.runtime.scoring.side_by_side import passes_at_a_time, side_by_side

CPU = torch.device("cpu")
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ADAPTERS = {
    "lora": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
    "ia3": IA3Config(task_type="CAUSAL_LM", target_modules="all-linear", feedforward_modules=[]),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
}


def llama(**more: Any) -> Any:
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=256, **IDS, **more,
    )  # fmt: skip
    return made(LlamaForCausalLM, config)


def made(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data.normal_(0, 0.2)
    return model


def adapted(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(llama(), copy.deepcopy(ADAPTERS[name]))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data.normal_(0, 0.3)
    return model.eval()


@pytest.fixture
def four_cores() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def pairs() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompts of many lengths, with two options of a few tokens and one of a single one."""
    found = []
    for n in range(40):
        prompt = tuple((7 * n + 3 * i) % 290 + 3 for i in range(10 + 3 * n))
        found += [(prompt, (5 + n, 6, 7)), (prompt, (9, 10 + n)), (prompt, (11,))]
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", *ADAPTERS])
def test_the_answers_are_those_of_one_pass_after_the_other(kind: str, four_cores: Any) -> None:
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=256, **IDS)
    model = llama() if kind == "llama" else made(GPT2LMHeadModel, config) if kind == "gpt2" else adapted(kind)
    alone = Likelihood(model, max_length=256, batch_tokens=200)
    beside = Likelihood(model, max_length=256, batch_tokens=200)
    assert beside.workers == 4
    alone.workers = 1
    expected = alone.score(pairs())
    for _ in range(3):
        found = beside.score(pairs())
        assert found.keys() == expected.keys()
        for pair, (value, greedy) in expected.items():
            assert found[pair] == (pytest.approx(value, abs=1e-4), greedy)
    assert len({value for value, _ in expected.values()}) > 100
    assert beside.forward_seconds > 0


class Scaled(nn.Linear):
    """A plugin's layer, of which nothing is known."""


def with_hook(model: Any) -> Any:
    model.model.layers[0].register_forward_pre_hook(lambda module, args: None)
    return model


def with_layer(model: Any) -> Any:
    model.model.layers[0].mlp.up_proj = Scaled(32, 64)
    return model


STATEFUL = {
    "hook": lambda: with_hook(llama()),
    "plugin's layer": lambda: with_layer(llama()),
    "longrope": lambda: llama(
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64,
            "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        }
    ),
    "dynamic": lambda: llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
    "vera": lambda: get_peft_model(llama(), VeraConfig(task_type="CAUSAL_LM", target_modules=["up_proj"])),
    "dora": lambda: get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", target_modules=["up_proj"], use_dora=True)),
    "parameters": lambda: get_peft_model(
        llama(), LoraConfig(task_type="CAUSAL_LM", target_modules=[], target_parameters=["mlp.up_proj.weight"])
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STATEFUL)
def test_what_may_keep_something_has_its_passes_one_by_one(kind: str, four_cores: Any) -> None:
    assert passes_at_a_time(llama(), CPU) == 4
    assert passes_at_a_time(STATEFUL[kind](), CPU) == 1


def test_a_model_without_a_cache_has_its_passes_one_by_one(four_cores: Any) -> None:
    config = MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4, **IDS)
    likelihood = Likelihood(made(MambaForCausalLM, config), max_length=256)
    assert likelihood.workers == 1
    assert likelihood.batch_tokens == 2048


def test_a_gpu_has_its_passes_one_by_one(four_cores: Any) -> None:
    assert passes_at_a_time(llama(), torch.device("cuda")) == 1


def test_an_error_is_told_and_begins_no_further_pass(four_cores: Any) -> None:
    begun: list[int] = []

    def fails(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("no room")
        threading.Event().wait(0.05)
        return item

    with pytest.raises(ValueError, match="no room"):
        for _ in side_by_side(fails, range(500), 2):
            pass
    assert len(begun) < 20
    assert torch.get_num_threads() == 4


def test_cores_are_divided_and_given_back(four_cores: Any) -> None:
    def cores(item: int) -> int:
        return torch.get_num_threads()

    assert dict(side_by_side(cores, [1, 2, 3], 2)) == {1: 2, 2: 2, 3: 2}
    assert torch.get_num_threads() == 4
