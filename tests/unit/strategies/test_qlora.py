"""QLoRA is what its paper describes: read from the loaded weights, not from the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import UsageError
from harness.spec import TrainSpec
from strategies.lora import Lora
from strategies.qlora import QLora

# Linear weights of the tiny model in one layer: q 64x64, k and v 32x64, o 64x64, gate and up
# 128x64, down 64x128; two layers.
QUANTISED = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 128 * 64)
# Embedding (tied with the head) 512x64, two norms a layer and the last one.
NOT_QUANTISED = 512 * 64 + 5 * 64
ADAPTER = 2 * 16 * (128 + 96 + 96 + 128 + 3 * 192)


def quantised(model: Any) -> list[Any]:
    from bitsandbytes.nn import Params4bit

    return [weight for weight in model.parameters() if isinstance(weight, Params4bit)]


def test_linear_weights_are_nf4_with_double_quantisation(tiny_loader: Any) -> None:
    model = QLora().load(tiny_loader)
    weights = quantised(model)
    assert len(weights) == 2 * 7
    for weight in weights:
        assert weight.dtype == torch.uint8
        assert weight.quant_state.quant_type == "nf4"
        assert weight.quant_state.nested
        assert weight.quant_state.state2 is not None


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_computation_is_in_the_runs_precision_and_all_else_keeps_it(name: str, tiny_loader: Any) -> None:
    from bitsandbytes.nn import Linear4bit

    dtype = getattr(torch, name)
    model: Any = QLora().load(type(tiny_loader)(tiny_loader.folder, name))
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 2 * 7
    assert {layer.compute_dtype for layer in layers} == {dtype}
    other = [
        w for w in QLora().adapt(model).parameters() if not w.requires_grad and not hasattr(w, "quant_state")
    ]
    assert {weight.dtype for weight in other} == {dtype}


def test_only_the_adapter_is_trained_and_counts_are_right(tiny_loader: Any) -> None:
    strategy = QLora()
    model: Any = strategy.adapt(strategy.load(tiny_loader))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in trained)
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert sum(weight.numel() for weight in trained.values()) == ADAPTER == 32_768
    assert sum(weight.quant_state.shape.numel() for weight in quantised(model)) == QUANTISED
    assert sum(weight.numel() for weight in quantised(model)) == QUANTISED // 2  # two weights a byte
    assert model.get_nb_trainable_parameters() == (ADAPTER, QUANTISED + NOT_QUANTISED + ADAPTER)


def test_the_adapter_is_loras(tiny_loader: Any) -> None:
    assert QLora().peft_config().to_dict() == Lora().peft_config().to_dict()


def test_storage_dtype_changes_the_container_and_not_the_bits(tiny_loader: Any) -> None:
    plain, sharded = (
        quantised(QLora(quant_storage=kind).load(tiny_loader))[0] for kind in ("uint8", "bfloat16")
    )
    assert sharded.dtype == torch.bfloat16
    assert torch.equal(plain.data.flatten(), sharded.data.flatten().view(torch.uint8))


def test_fp4_is_a_setting_and_not_the_default(tiny_loader: Any) -> None:
    model = QLora(quant_type="fp4", double_quantization=False).load(tiny_loader)
    assert {weight.quant_state.quant_type for weight in quantised(model)} == {"fp4"}
    assert not any(weight.quant_state.nested for weight in quantised(model))


def test_without_a_gpu_the_optimizer_is_pytorchs(tiny_loader: Any) -> None:
    strategy = QLora()
    model = strategy.adapt(strategy.load(tiny_loader))
    assert type(strategy.optimizer(model, TrainSpec(learning_rate=1e-4))) is torch.optim.AdamW


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_optimizer_is_paged(tiny_loader: Any) -> None:
    from bitsandbytes.optim import PagedAdamW32bit

    strategy = QLora()
    model = strategy.adapt(strategy.load(tiny_loader)).to("cuda")
    train = TrainSpec(learning_rate=1e-4)
    assert type(strategy.optimizer(model, train)) is PagedAdamW32bit
    assert type(QLora(paged=False).optimizer(model, train)) is torch.optim.AdamW


def test_a_model_that_was_not_quantised_is_refused(tiny_loader: Any) -> None:
    class Deaf(type(tiny_loader)):  # type: ignore[misc]
        def load(self, *, dtype: str | None = None, quantization: Any = None) -> Any:
            return super().load(dtype=dtype)

    with pytest.raises(UsageError, match="no linear layer that can be quantised"):
        QLora().load(Deaf(tiny_loader.folder))
