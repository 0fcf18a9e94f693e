"""What a method keeps outside its weights survives: a stopped run ends as if it had not been stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from harness.errors import UsageError
from strategies.peft import Peft

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

STEPS = 6
CONFIG = {
    "peft_type": "ADALORA", "init_r": 8, "target_r": 2, "tinit": 1, "tfinal": 2, "deltaT": 1, "total_step": STEPS,
    "target_modules": ["q_proj", "v_proj"],
}  # fmt: skip
LAST_ALLOCATION = STEPS - CONFIG["tfinal"]  # type: ignore[operator]


class Stopped(Peft):
    """AdaLoRA that is cut off right before its step `at` ends."""

    at: ClassVar[int]

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        if step == self.at:
            raise KeyboardInterrupt
        super().after_step(model, step)


def ranks(model: Any) -> dict[str, list[bool]]:
    return dict(model.peft_config["default"].rank_pattern)


@pytest.mark.parametrize("at", [2, 3, LAST_ALLOCATION, LAST_ALLOCATION + 1, STEPS])
def test_adalora_goes_on_with_the_ranks_it_had(
    at: int, run_training: Callable[..., Any], tmp_path: Path
) -> None:
    """Before its last allocation, where averages decide the ranks, and after it, where they are fixed."""
    whole = run_training(Peft(config=CONFIG), max_steps=STEPS, checkpoint_steps=1)
    Stopped.at = at
    with pytest.raises(KeyboardInterrupt):
        run_training(Stopped(config=CONFIG), folder=tmp_path / "stopped", max_steps=STEPS, checkpoint_steps=1)
    again = run_training(
        Peft(config=CONFIG), folder=tmp_path / "stopped", max_steps=STEPS, checkpoint_steps=1
    )
    assert again.throughput.resumed == 1
    assert ranks(again.model) == ranks(whole.model)
    pairs = zip(again.model.named_parameters(), whole.model.parameters(), strict=True)
    assert [name for (name, one), other in pairs if not torch.equal(one, other)] == []


def test_a_checkpoint_without_that_state_is_refused(run_training: Callable[..., Any]) -> None:
    strategy = Peft(config=CONFIG)
    model = run_training(strategy, max_steps=1).model
    with pytest.raises(UsageError, match="lacks AdaLoRA's importance"):
        strategy.restore(model, {})


def test_other_methods_keep_nothing(run_training: Callable[..., Any]) -> None:
    strategy = Peft(config={"peft_type": "LORA", "r": 2})
    trained = run_training(strategy, max_steps=2, checkpoint_steps=1)
    assert strategy.state(trained.model) == {}
    assert not list(trained.folder.rglob("strategy.safetensors"))
