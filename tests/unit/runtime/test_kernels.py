"""train.compile and train.kernels: that they take effect, change no number, and say where they cannot work."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from harness.contracts import Strategy
from harness.engines.deepspeed import DeepSpeed
from harness.errors import MissingDependencyError, UsageError
from harness.runtime.training.kernels import kernels
from harness.spec import EngineSpec, RunSpec
from strategies.full import Full
from strategies.ia3 import IA3
from strategies.lora import Lora
from strategies.prefix import Prefix

pytestmark = [pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")]

Train = Callable[..., Any]
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler"
)
GPU = torch.device("cuda")  # nothing is put on it here


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo, on its own reads
def test_compiled_layers_train_the_same(run_training: Train) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    plain = run_training(Lora(r=4), max_steps=2)
    counters.clear()
    compiled = run_training(Lora(r=4), max_steps=2, compile=True)
    assert counters["stats"]["unique_graphs"] > 0
    assert counters["inductor"]  # and not only traced
    assert compiled.losses == pytest.approx(plain.losses, abs=1e-4)
    assert all(module._compiled_call_impl is None for module in compiled.model.modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo, on its own reads
@pytest.mark.parametrize("strategy", [Full(), Prefix(num_virtual_tokens=4), IA3()], ids=lambda s: s.name)
def test_layers_of_every_kind_of_method_can_be_traced(
    strategy: Strategy, run_training: Train, traced_only: list[nn.Module]
) -> None:
    torch._dynamo.reset()
    plain = run_training(strategy, max_steps=2)
    traced = run_training(strategy, max_steps=2, compile=True)
    assert len(traced_only) == 2
    assert traced.losses == pytest.approx(plain.losses, abs=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo, on its own reads
def test_traced_layers_can_be_recomputed(run_training: Train, traced_only: list[nn.Module]) -> None:
    torch._dynamo.reset()
    plain = run_training(Lora(r=4), max_steps=2)
    both = run_training(Lora(r=4), max_steps=2, compile=True, gradient_checkpointing=True)
    assert len(traced_only) == 2
    assert both.losses == pytest.approx(plain.losses, abs=1e-4)


def spec_with(make_spec: Any, engine: dict[str, Any] | None = None, **train: Any) -> RunSpec:
    spec: RunSpec = make_spec(**train)
    return spec.model_copy(update={"engine": EngineSpec(**(engine or {}))})


def use(model: nn.Module, spec: RunSpec, device: torch.device = GPU) -> None:
    with kernels(model, spec, device):
        pass


def test_compiling_is_refused_where_weights_are_exchanged_layer_by_layer(make_spec: Any) -> None:
    with pytest.raises(UsageError, match="ZeRO stage 3") as error:
        DeepSpeed().check(spec_with(make_spec, {"name": "deepspeed", "zero_stage": 3}, compile=True))
    assert "engine.zero_stage=2" in error.value.remedy
    DeepSpeed().check(spec_with(make_spec, {"name": "deepspeed", "zero_stage": 2}, compile=True))


def test_compiling_is_refused_for_a_model_without_equal_layers(make_spec: Any) -> None:
    with pytest.raises(UsageError, match="Sequential has no list of equal layers"):
        use(nn.Sequential(nn.Linear(2, 2)), spec_with(make_spec, compile=True))


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is not None, reason="Liger is installed here")
def test_liger_that_is_not_there_is_named_with_its_extra(run_training: Train) -> None:
    with pytest.raises(MissingDependencyError, match="liger-kernel") as error:
        run_training(Lora(r=4), kernels="liger")
    assert "medtune[liger]" in error.value.remedy


@pytest.fixture
def stub_liger(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A package liger_kernel that notes how it is called, and knows Llama."""
    calls: list[dict[str, Any]] = []
    package, inner, patch = (
        ModuleType(name)
        for name in ("liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.monkey_patch")
    )
    inner._apply_liger_kernel_to_instance = lambda **given: calls.append(given)  # type: ignore[attr-defined]
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}  # type: ignore[attr-defined]
    for module in (package, inner, patch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    package.__spec__ = importlib.util.spec_from_loader("liger_kernel", loader=None)
    return calls


def test_liger_patches_the_base_model_and_leaves_the_loss_alone(
    run_training: Train, make_spec: Any, stub_liger: list[dict[str, Any]]
) -> None:
    model = run_training.adapted(Lora(r=4), "float32", 0)  # type: ignore[attr-defined]
    use(model, spec_with(make_spec))
    assert stub_liger == []
    use(model, spec_with(make_spec, kernels="liger"))
    assert stub_liger == [
        {"model": model.get_base_model(), "cross_entropy": False, "fused_linear_cross_entropy": False}
    ]


def test_liger_is_refused_where_it_would_do_nothing(
    run_training: Train, make_spec: Any, stub_liger: list[dict[str, Any]]
) -> None:
    model = run_training.adapted(Lora(r=4), "float32", 0)  # type: ignore[attr-defined]
    spec = spec_with(make_spec, kernels="liger")
    with pytest.raises(UsageError, match="needs a GPU"):
        use(model, spec, torch.device("cpu"))
    model.get_base_model().config.model_type = "mamba"
    with pytest.raises(UsageError, match="models of type mamba") as error:
        use(model, spec)
    assert "llama" in error.value.remedy
    assert stub_liger == []
