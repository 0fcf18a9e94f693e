"""The model as it is: the floor that every way of tuning has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.contracts import Strategy

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class ZeroShot(Strategy):
    """No training, no examples in the prompt. Has no settings."""

    name = "zero-shot"
    summary = "the untouched model, asked directly"
    source = "Brown et al. 2020, arXiv 2005.14165; the protocol of Med42, arXiv 2404.14779"
    trains: ClassVar[bool] = False

    def adapt(self, model: PreTrainedModel) -> torch.nn.Module:
        """`model` with every weight frozen."""
        frozen: torch.nn.Module = model.requires_grad_(False)
        return frozen

    def save(self, model: Any, folder: Path) -> None:
        """Nothing was trained, so nothing is written."""
