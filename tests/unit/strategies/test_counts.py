"""Trainable weights against counts made by hand, and what wrong settings are told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness.contracts import Strategy
from harness.errors import UsageError
from harness.spec import TrainSpec
from strategies.full import Full
from strategies.ia3 import IA3
from strategies.lora import Lora
from strategies.prefix import Prefix


def counts(model: Any) -> tuple[int, int]:
    """Trainable and all weights."""
    weights = list(model.parameters())
    return sum(w.numel() for w in weights if w.requires_grad), sum(w.numel() for w in weights)


BASE = 512 * 64 + 5 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)

CASES: list[tuple[Strategy, int]] = [
    # in + out of q, k, v, o, gate, up, down, times the rank, in two layers
    (Lora(), 2 * 16 * (128 + 96 + 96 + 128 + 3 * 192)),
    (Lora(r=4, target_modules=("q_proj", "v_proj")), 2 * 4 * (128 + 96)),
    (Lora(r=4, use_dora=True, target_modules=("q_proj",)), 2 * (4 * 128 + 64)),
    # scales of the outputs of k and v (2 heads of 16) and of the input of down, in two layers
    (IA3(), 2 * (32 + 32 + 128)),
    (IA3(target_modules=("q_proj", "down_proj"), feedforward_modules=("down_proj",)), 2 * (64 + 128)),
    # a key and a value (2 heads of 16 each) for each of 30 virtual tokens, in two layers
    (Prefix(), 30 * 2 * 2 * 32),
    # embedding of 8 tokens (width 32), then 32 -> 16 -> 2 * 2 * 32 with biases
    (
        Prefix(num_virtual_tokens=8, projection=True, projection_size=16),
        8 * 32 + (32 * 16 + 16) + (16 * 128 + 128),
    ),
]


@pytest.mark.parametrize(("strategy", "expected"), CASES, ids=[f"{s.name}-{n}" for s, n in CASES])
def test_adapter_counts(strategy: Strategy, expected: int, tiny_loader: Any) -> None:
    assert counts(strategy.adapt(strategy.load(tiny_loader))) == (expected, BASE + expected)


def test_full_trains_all(tiny_loader: Any) -> None:
    assert counts(Full().adapt(Full().load(tiny_loader))) == (BASE, BASE)


def test_full_starts_from_every_bit_of_the_checkpoint(tiny_loader: Any) -> None:
    model = Full().adapt(Full().load(tiny_loader))
    exact = dict(tiny_loader.load(dtype="float32").named_parameters())
    assert all(torch.equal(exact[name], weight) for name, weight in model.named_parameters())


def test_lora_on_the_default_model() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(shape)
    assert counts(Lora().adapt(model)) == (4_884_480, 139_399_488)


def test_ia3_scales_do_not_decay(tiny_loader: Any) -> None:
    model = IA3().adapt(IA3().load(tiny_loader))
    optimizer = IA3().optimizer(model, TrainSpec(learning_rate=1e-3, weight_decay=0.1))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


def test_virtual_tokens_start_small_and_apart(tiny_loader: Any) -> None:
    model: Any = Prefix().adapt(Prefix().load(tiny_loader))
    prefix = model.prompt_encoder["default"].embedding.weight
    assert prefix.std().item() == pytest.approx(0.02, rel=0.1)
    assert len({tuple(row.tolist()) for row in prefix}) == 30


def test_prefix_refuses_gradient_checkpointing(tiny_loader: Any) -> None:
    model = Prefix().adapt(Prefix().load(tiny_loader))
    with pytest.raises(UsageError, match=r"gradient_checkpointing=false"):
        Prefix().optimizer(model, TrainSpec(learning_rate=1e-3, gradient_checkpointing=True))


def test_target_modules_of_a_command_line() -> None:
    assert Lora.model_validate({"target_modules": "q_proj, v_proj"}).target_modules == ("q_proj", "v_proj")
    assert Lora.model_validate({"target_modules": ["q_proj"]}).target_modules == ("q_proj",)
    assert Lora.model_validate({"target_modules": "all-linear"}).target_modules == "all-linear"


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Lora, {"r": 0}),
        (Lora, {"alpha": 0}),
        (Lora, {"dropout": 1}),
        (Lora, {"target_modules": ""}),
        (Lora, {"target_modules": []}),
        (IA3, {"target_modules": "q_proj", "feedforward_modules": "down_proj"}),
        (IA3, {"feedforward_modules": "down_proj"}),
        (Prefix, {"num_virtual_tokens": 0}),
        (Prefix, {"init_std": 0}),
    ],
)
def test_settings_out_of_bounds(cls: type[Strategy], settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        cls(**settings)


@pytest.mark.parametrize("cls", [Lora, IA3])
def test_a_target_module_that_is_not_there(cls: type[Strategy], tiny_loader: Any) -> None:
    strategy = cls.model_validate({"target_modules": ("q_proj", "v_porj")})
    with pytest.raises(UsageError) as caught:
        strategy.adapt(strategy.load(tiny_loader))
    assert "'v_porj' is not in LlamaForCausalLM; did you mean 'v_proj'?" in str(caught.value)
    assert "down_proj, gate_proj, k_proj" in str(caught.value)
    assert "--set strategy.target_modules=[" in str(caught.value)


@pytest.mark.parametrize("cls", [Lora, IA3])
def test_a_model_without_linear_layers(cls: type[Strategy]) -> None:
    from transformers import PretrainedConfig, PreTrainedModel

    class Flat(PreTrainedModel):  # type: ignore[misc]
        config_class = PretrainedConfig

        def __init__(self) -> None:
            super().__init__(PretrainedConfig())
            self.table = torch.nn.Embedding(4, 4)
            self.post_init()

        def prepare_inputs_for_generation(self) -> None: ...

    with pytest.raises(UsageError, match="no linear layers to adapt"):
        cls().adapt(Flat())
