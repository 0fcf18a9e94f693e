"""What stopped a run, for its record: one line with the cause, and what a user can do about it."""

from __future__ import annotations

import errno
import re
import traceback
from typing import Literal

import torch

from harness.errors import HarnessError, NonFiniteLossError, error_line
from harness.record import Failure

_LESS_MEMORY = (
    "Lower --set train.micro_batch_tokens=..., or set train.gradient_checkpointing=true; "
    "qlora, or ZeRO stage 3 with more processes, needs less for the weights."
)
_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator|can't allocate memory|cannot allocate memory|CUDA error: out of memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDA out of memory",
    re.IGNORECASE,
)
"""How memory that runs out is told where the error is of no class of its own."""
_COMPILER = re.compile(
    r"InvalidCxxCompiler|No working C\+\+ compiler|Failed to find C compiler|Error building extension"
    r"|Unable to JIT load|CUDA_HOME|ninja"
)
_ELSE = "log.txt in the run's folder has all that was said; the same command tries again."


def failure_of(error: Exception, phase: str) -> Failure:
    """The failure that `error` is, in the phase it was raised in. Its whole text is in `traceback`."""
    kind = _kind(error)
    if isinstance(error, HarnessError):
        message, remedy = error.message, error.remedy or _ELSE
    else:
        message, remedy = error_line(error), _LESS_MEMORY if kind == "out_of_memory" else _remedy(error)
    trace = "".join(traceback.format_exception(error))
    return Failure(phase=phase, kind=kind, message=message, remedy=remedy, traceback=trace)


def interruption(phase: str) -> Failure:
    """The failure of a run that was asked to stop."""
    return Failure(
        phase=phase,
        kind="interrupted",
        message="interrupted",
        remedy="The same command goes on from the last checkpoint.",
    )


def _kind(error: Exception) -> Literal["out_of_memory", "non_finite_loss", "error"]:
    if isinstance(error, NonFiniteLossError):
        return "non_finite_loss"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out_of_memory"
    if isinstance(error, (RuntimeError, OSError)) and not isinstance(error, HarnessError):
        full = isinstance(error, OSError) and error.errno == errno.ENOMEM
        return "out_of_memory" if full or _OUT_OF_MEMORY.search(str(error)) else "error"
    return "error"


def _remedy(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "The disk is full: make room, or choose another folder with --results; the same command goes on."
        )
    if isinstance(error, FloatingPointError):
        return "Train in float32 (--set model.dtype=float32), or lower the learning rate."
    if _COMPILER.search(f"{type(error).__name__}: {error}"):
        return (
            "A compiler is needed for this, and none works here: install one (a C++ compiler; on a GPU also "
            "CUDA's), or leave train.compile, train.kernels and --engine deepspeed at their defaults."
        )
    return _ELSE
