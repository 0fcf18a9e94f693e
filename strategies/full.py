"""Full-parameter fine-tuning: the reference that the parameter-efficient methods are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.contracts import BaseLoader, Strategy
from harness.errors import UsageError
from strategies._peft import trainable_in_float32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Full(Strategy):
    """Every weight is trained.

    By the precision rule trained weights are float32 (autocast computes in the spec's dtype), so
    the whole model is loaded in float32: pure bf16 would lose small updates (torchtune 2254), and
    the comparison with adapters in float32 would not be one of methods. Has no settings.
    """

    name = "full"
    summary = "all weights are trained"
    source = "Med42, arXiv 2404.14779; Med42-v2, arXiv 2408.06142"
    default_learning_rate: ClassVar[float | None] = 2e-5
    learning_rate_source = (
        "a tenth of LoRA's (LoRA Without Regret, 2025: best ratio 9.8), inside the 1e-5 to 5e-5 found best "
        "for full tuning of 7B models (LoRA Learns Less and Forgets Less, arXiv 2405.09673)"
    )
    default_engine: ClassVar[str] = "deepspeed"

    def load(self, base: BaseLoader) -> PreTrainedModel:
        """The base model in float32, whatever dtype frozen weights have in this run."""
        return base.load(dtype="float32")

    def adapt(self, model: PreTrainedModel) -> torch.nn.Module:
        """`model` with every weight trainable, in float32. Raises `UsageError` for quantised weights."""
        if getattr(model, "is_quantized", False):
            raise UsageError(
                "full: the checkpoint's weights are stored quantised, and such weights cannot be trained",
                "Give the checkpoint that is not quantised, or use lora, which adapts it as it is stored.",
            )
        return trainable_in_float32(model.requires_grad_(True))

    def finish(self, model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        """The weights in the spec's dtype: what is scored is what is saved, and what is then used.

        Weights only: `model.to(dtype)` would also round the rotary frequencies, which are buffers and
        are not saved (it moved log-likelihoods by up to 0.2 nats).
        """
        for weight in model.parameters():
            weight.data = weight.data.to(dtype)
        return model
