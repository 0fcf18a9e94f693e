"""What PyTorch says of this machine's precision: `python -m harness.runtime.models.precision` prints it as JSON.

A process of its own, asked by harness.ask.precision where the answer cannot be known without PyTorch.
"""

from __future__ import annotations

import json
import os
import platform

import torch

from harness.ask.precision import cpu_flags, x86_bfloat16
from harness.spec import Dtype

_BFLOAT16_CAPABILITY = 8


def computes_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies matrices in bfloat16 by its own instructions."""
    if device.type == "cuda":
        # AMD's GPUs that PyTorch supports all do.
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= _BFLOAT16_CAPABILITY
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # not on every platform
    if supported is None or not supported():
        return False
    flags = cpu_flags()
    # PyTorch says yes to all of AVX-512; without AVX512-BF16 oneDNN emulates it at a quarter of float32's speed.
    return not flags or platform.machine() not in ("x86_64", "AMD64") or x86_bfloat16(flags, os.environ)


def slow_products(device: torch.device, dtype: Dtype) -> str | None:
    """What to say of a run whose products this device has to emulate; None where it does not."""
    if dtype == "bfloat16" and not computes_bfloat16(device):
        own = "float32" if device.type == "cpu" else "float16"
        return f"this device has no instructions for bfloat16: it is emulated, far slower than {own}"
    if dtype == "float16" and device.type == "cpu" and not _cpu_computes_float16():
        return "this CPU has no instructions for float16: it is emulated, far slower than float32"
    return None


def _cpu_computes_float16() -> bool:
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return supported is not None and bool(supported())


def _describe() -> dict[str, object]:
    if not torch.cuda.is_available():
        return {"kind": "cpu", "name": "this CPU", "bfloat16": computes_bfloat16(torch.device("cpu"))}
    # Runs of one grid may go to any of them, and are to be computed in one precision.
    found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    without = [device for device in found if not computes_bfloat16(device)]
    return {
        "kind": "cuda",
        "name": torch.cuda.get_device_name((without or found)[0]),
        "bfloat16": not without,
    }


if __name__ == "__main__":
    print(json.dumps(_describe()))
