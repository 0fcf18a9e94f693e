"""A way of adapting a model: the contract of a strategy. One file a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict

from harness.spec import TrainSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class BaseLoader(Protocol):
    """Loads the base model a strategy adapts. Given by the engine; `dtype` is the spec's."""

    @property
    def dtype(self) -> str: ...

    @property
    def device(self) -> str: ...

    def load(self, *, dtype: str | None = None, quantization: Any = None) -> PreTrainedModel:
        """The base model in `dtype` (default: the spec's), or quantised by a transformers config.

        `base_revision` of the model is the Hub's commit, None for one that is not from there.
        """
        ...


class Strategy(BaseModel, ABC):
    """A way of adapting a model. One file a method; its settings are this class's fields.

    Each field has a default and a one-line description with its source. Only `adapt` must be
    written. Methods import torch and peft inside themselves, so that `list` stays fast.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    trains: ClassVar[bool] = True
    default_learning_rate: ClassVar[float | None] = None
    learning_rate_source: ClassVar[str] = ""
    default_engine: ClassVar[str] = "plain"
    default_shots: ClassVar[int] = 0
    packages: ClassVar[tuple[str, ...]] = ()

    def at_precision(self, dtype: str) -> Self:
        """These settings for a run in `dtype`, with what follows a run's precision filled in; most have none."""
        return self

    def load(self, base: BaseLoader) -> PreTrainedModel:
        """The base model. Frozen weights stay in the spec's dtype (the precision rule)."""
        return base.load()

    @abstractmethod
    def adapt(self, model: PreTrainedModel) -> torch.nn.Module:
        """`model` with its trainable weights in place, in float32, and all others frozen.

        Lines in its attribute `notes`, where it has one, are told to the user and kept in the record.
        """

    def learning_rate_default(self) -> float | None:
        """The learning rate where the spec gives none. A method of several kinds chooses by its settings."""
        return self.default_learning_rate

    def optimizer(self, model: torch.nn.Module, train: TrainSpec) -> torch.optim.Optimizer:
        """AdamW over the trainable weights; no decay on vectors (norms, biases, IA3 scales)."""
        import torch

        # One kernel for all of an update where PyTorch has one: the same numbers, read and written once.
        fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters() if p.requires_grad)
        return torch.optim.AdamW(
            parameter_groups(model, train.weight_decay),
            lr=train.required_learning_rate,
            betas=(train.adam_beta1, train.adam_beta2),
            fused=fused or None,
        )

    def finish(self, model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        """The form in which the trained model is scored and saved; by default as it was trained."""
        return model

    def penalty(self, model: torch.nn.Module) -> torch.Tensor | None:
        """A scalar added to the loss of each step, outside the reported loss; most methods: none."""
        return None

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Called after optimiser step `step` (1-based); AdaLoRA re-allocates ranks here."""

    def state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """What `after_step` keeps between steps outside trained weights: part of each checkpoint."""
        return {}

    def restore(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Take `state` back, on the CPU, when training goes on from the checkpoint that holds it."""

    def save(self, model: Any, folder: Path) -> None:
        """Write what was trained to `folder` as safetensors. PEFT models write only the adapter."""
        model.save_pretrained(folder)


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable weights in two groups: matrices with decay, vectors and scalars without."""
    trainable = [p for p in model.parameters() if p.requires_grad]

    def group(members: Iterable[torch.nn.Parameter], decay: float) -> dict[str, Any]:
        return {"params": list(members), "weight_decay": decay}

    groups = [
        # `ds_shape` is a weight's real shape under ZeRO-3, where its local piece is flat.
        group((p for p in trainable if len(getattr(p, "ds_shape", p.shape)) >= 2), weight_decay),
        group((p for p in trainable if len(getattr(p, "ds_shape", p.shape)) < 2), 0.0),
    ]
    return [g for g in groups if g["params"]]


def norms_in_float32(model: torch.nn.Module) -> None:
    """Where part of a norm is trained (in float32), the rest of it in float32 too: the same numbers.

    Kernels of norms take one dtype; those of matrix products are given one by autocast. Behind embeddings
    that are trained the inputs of norms are float32, and so all norms are.
    """
    import torch

    # Virtual tokens of PEFT, outside the base model, come in the base's dtype.
    base: torch.nn.Module = getattr(model, "get_base_model", lambda: model)()
    embedded = any(
        isinstance(module, torch.nn.Embedding) and module.weight.requires_grad for module in base.modules()
    )
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        trained = any(weight.requires_grad for weight in own)
        if (trained or embedded) and all(weight.ndim < 2 and weight.is_floating_point() for weight in own):
            for weight in own:
                weight.data = weight.data.to(torch.float32)
