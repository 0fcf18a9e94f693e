"""What a training step does not spend: copies, gradients and state of weights that are not trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.contracts import Strategy
from harness.runtime.tokens.rows import Row
from harness.runtime.training.trainer import CPU_PASS_TOKENS
from harness.spec import TrainSpec
from strategies.full import Full
from strategies.ia3 import IA3
from strategies.lora import Lora
from strategies.prefix import Prefix
from strategies.qlora import QLora

pytestmark = [pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")]

Train = Callable[..., Any]
IDS = torch.arange(3, 43).view(2, 20)


def one_pass(model: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits and the gradients of what is trained, under autocast as in a run."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=IDS).logits
    logits.float().square().mean().backward()
    return logits.detach(), [w.grad.clone() for w in model.parameters() if w.requires_grad]


def inputs_of_adapters(model: Any) -> set[torch.dtype]:
    seen: set[torch.dtype] = set()
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_pre_hook(lambda _, args: seen.add(args[0].dtype))
    one_pass(model)
    return seen


@pytest.mark.parametrize("strategy", [Lora(r=4), Lora(r=4, use_rslora=True), QLora(r=4)], ids=str)
def test_an_adapters_input_is_not_copied_and_every_number_stays(
    strategy: Strategy, run_training: Train
) -> None:
    if isinstance(strategy, QLora):
        pytest.importorskip("bitsandbytes")
    model = run_training.adapted(strategy, "bfloat16", 0).train()  # type: ignore[attr-defined]
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)  # 0 at the start, and so would be A's gradient
    assert inputs_of_adapters(model) == {torch.bfloat16}
    logits, gradients = one_pass(model)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = True
    assert inputs_of_adapters(model) == {torch.float32}  # or the comparison would be of nothing
    with_copy, gradients_with_copy = one_pass(model)
    assert torch.equal(logits, with_copy)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_with_copy, strict=True))


def test_dora_keeps_its_copy(run_training: Train) -> None:
    model = run_training.adapted(Lora(r=4, use_dora=True), "bfloat16", 0).train()  # type: ignore[attr-defined]
    assert all(layer.cast_input_dtype_enabled for layer in model.modules() if hasattr(layer, "lora_A"))
    one_pass(model)


@pytest.mark.parametrize("strategy", [Lora(r=4), IA3(), Prefix(num_virtual_tokens=4), Full()], ids=str)
def test_only_trained_weights_have_gradients_and_state(
    strategy: Strategy, run_training: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(type(strategy), "optimizer", _noting(made, type(strategy).optimizer))
    model = run_training(strategy, max_steps=1).model
    trained = {id(w) for w in model.parameters() if w.requires_grad}
    (optimizer,) = made
    assert {id(weight) for weight in optimizer.state} == trained
    assert all(group["fused"] for group in optimizer.param_groups)
    frozen = [w for w in model.parameters() if not w.requires_grad]
    assert all(weight.grad is None for weight in frozen)


def _noting(made: list[Any], optimizer: Any) -> Any:
    def noted(self: Any, model: Any, train: TrainSpec) -> Any:
        made.append(optimizer(self, model, train))
        return made[-1]

    return noted


def test_a_step_is_cut_into_passes_by_length(run_training: Train) -> None:
    """8 short rows beside 2 long ones: padding them all would cost more than a second pass."""
    rows = [Row(tuple(range(3, 3 + n)), n - 1) for n in (*[60] * 2, *[10] * 6)]
    widths = []

    class Wide(Lora):
        def adapt(self, model: Any) -> Any:
            adapted = super().adapt(model)
            adapted.register_forward_pre_hook(
                lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
            )
            return adapted

    run_training(Wide(r=4), train_rows=rows, max_steps=1)
    assert widths == [(2, 60), (6, 10)]
    assert CPU_PASS_TOKENS < 6 * 50
