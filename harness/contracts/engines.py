"""What carries out the steps of training: PyTorch by itself, or a library around it. One file an engine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

from harness.spec import RunSpec

if TYPE_CHECKING:
    import torch


class Engine:
    """An engine of training. What is not overridden is as on PyTorch by itself.

    The steps themselves are transformers.Trainer's with our losses; an engine says what that is told, and what
    of a step, a checkpoint and the trained model it does by itself. Libraries are imported inside methods.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """what must be installed"""
    settings: ClassVar[frozenset[str]] = frozenset()
    """fields of the spec's `engine`, besides its name, that mean something to it"""
    trains_in_float16: ClassVar[bool] = True
    """whether a loss can be scaled for it from outside"""
    forkable: ClassVar[bool] = True
    """whether a run on it may be forked from a process that has imported the libraries"""
    keeps_weights: ClassVar[bool] = False
    """whether it writes the trained weights of a checkpoint, and reads them, by itself"""
    synchronises: ClassVar[bool] = False
    """whether gradients of several passes and processes are added up by it, and not by PyTorch"""
    backward_arguments: ClassVar[dict[str, Any]] = {}
    """given with each loss to the library's backward pass"""

    def check(self, spec: RunSpec) -> None:
        """Raise `UsageError` for settings of a run that it cannot be used with. Before anything is started."""
        return

    def prepare(self, spec: RunSpec) -> None:
        """Called in a run's process before the model is loaded. Raises `UsageError` where it cannot work."""
        return

    def trainer_arguments(self, spec: RunSpec) -> dict[str, Any]:
        """What transformers.TrainingArguments is told besides what holds for every engine."""
        return {}

    def without_exchange(
        self, accelerator: Any, model: torch.nn.Module
    ) -> contextlib.AbstractContextManager[Any]:
        """While open, the gradients of a pass that is not a step's last stay in this process."""
        return contextlib.nullcontext() if self.synchronises else accelerator.no_sync(model)  # type: ignore[no-any-return]

    def whole_weights(self, model: torch.nn.Module, spec: RunSpec) -> dict[str, torch.Tensor] | None:
        """After training, where each process holds a piece of the model: the trained weights by name, whole,
        in the first process (empty in others); None where the model is whole. Every process calls it.
        """
        return None
