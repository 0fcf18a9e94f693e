"""Faster kernels for training where a spec asks for them: torch.compile, and Liger's.

Liger: Hsu et al. 2024, arXiv 2410.10989.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from harness.errors import MissingDependencyError, UsageError
from harness.runtime.models.positions import base_model
from harness.spec import RunSpec


@contextmanager
def kernels(model: nn.Module, spec: RunSpec, device: torch.device) -> Iterator[None]:
    """While open, `model` trains with the kernels of `spec`; Liger's stay, for scoring too.

    Raises UsageError where they cannot work, MissingDependencyError where Liger is not installed.
    """
    if spec.train.kernels == "liger":
        _use_liger(model, device)
    layers = _layers_to_compile(model) if spec.train.compile else []
    for layer in layers:
        layer.compile(dynamic=True)  # rows and lengths differ from pass to pass
    try:
        yield
    finally:
        for layer in layers:  # scoring has other shapes, and a cache: it would compile it all again
            layer._compiled_call_impl = None


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """While open, bitsandbytes leaves the layout of four-bit weights alone.

    On CPUs with AVX512-BF16 it repacks them in a forward pass without gradients, such as validation's,
    for a product that has no backward pass, and uses that in training from then on.
    """
    switch = "support_avx512bf16_for_cpu"
    layers = [module for module in model.modules() if getattr(module, switch, False)]
    for layer in layers:
        setattr(layer, switch, False)
    try:
        yield
    finally:
        for layer in layers:
            setattr(layer, switch, True)


def _layers_to_compile(model: nn.Module) -> list[nn.Module]:
    """The repeated layers: compiled one by one they share one compilation, which takes seconds.

    The rest, a few operations in all, stays as it is, with the hook in front of the output layer.
    """
    layers = list(_repeated(base_model(model)))
    if not layers:
        raise UsageError(
            f"train.compile: {type(base_model(model)).__name__} has no list of equal layers to compile.",
            "Leave train.compile out.",
        )
    return layers


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules that are all of one class."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len({type(layer) for layer in child}) == 1:
            yield from child
        else:
            yield from _repeated(child)


def _use_liger(model: nn.Module, device: torch.device) -> None:
    if importlib.util.find_spec("liger_kernel") is None:
        raise MissingDependencyError(
            "train.kernels=liger needs liger-kernel, which is not installed",
            "pip install 'medtune[liger]'",
        )
    if device.type == "cpu":
        raise UsageError("train.kernels=liger needs a GPU: its kernels are Triton's.", "Leave it out.")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    base: Any = base_model(model)
    if base.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        # Liger itself would only log this and change nothing.
        raise UsageError(
            f"train.kernels=liger: Liger has no kernels for models of type {base.config.model_type}.",
            f"It has them for {', '.join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))}.",
        )
    # Norms, rotary positions and gated layers. Its losses take all positions; ours are the answer's.
    _apply_liger_kernel_to_instance(model=base, cross_entropy=False, fused_linear_cross_entropy=False)
