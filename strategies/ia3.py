"""IA3: learned scales on keys, values and the inner activations of the feed-forward layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from strategies._peft import AdapterStrategy, ModuleNames

if TYPE_CHECKING:
    import torch

    from harness.spec import TrainSpec


class IA3(AdapterStrategy):
    """One scale a feature, all ones at the start; about 0.01% of the weights."""

    name = "ia3"
    summary = "learned scales on keys, values and feed-forward activations"
    source = "Liu et al. 2022, arXiv 2205.05638"
    default_learning_rate: ClassVar[float | None] = 3e-3
    learning_rate_source = "IA3, arXiv 2205.05638: 3e-3"

    target_modules: ModuleNames | None = Field(
        None,
        description="layers that are scaled; default: the PEFT library's choice for the architecture, "
        "which is the paper's (keys, values, second feed-forward layer)",
    )
    feedforward_modules: ModuleNames | None = Field(
        None,
        description="those of target_modules whose input is scaled instead of the output (IA3: the second "
        "feed-forward layer); default: the PEFT library's choice, or none where target_modules is given",
    )

    @model_validator(mode="after")
    def _feedforward_is_targeted(self) -> IA3:
        outside = sorted(set(self.feedforward_modules or ()) - set(self.target_modules or ()))
        if outside:
            raise ValueError(f"feedforward_modules {', '.join(outside)} must be in target_modules too")
        return self

    def peft_config(self) -> Any:
        """A `peft.IA3Config`."""
        from peft import IA3Config

        targets = list(self.target_modules) if self.target_modules else None
        feedforward = list(self.feedforward_modules) if self.feedforward_modules else None
        if targets is not None and feedforward is None:
            feedforward = []  # PEFT refuses targets of the user's beside its own feed-forward layers
        return IA3Config(task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=feedforward)

    def optimizer(self, model: torch.nn.Module, train: TrainSpec) -> torch.optim.Optimizer:
        """AdamW without weight decay: PEFT stores the scales as (1, n) matrices, and decay would
        pull them to 0, which silences a feature, instead of to 1, which leaves it as it was."""
        return super().optimizer(model, train.model_copy(update={"weight_decay": 0.0}))
