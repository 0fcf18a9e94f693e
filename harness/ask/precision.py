"""What `model.dtype=auto` means on this machine: found before a run is described, and stored with it.

bfloat16 where the device multiplies matrices in it by instructions of its own. Elsewhere products are
emulated: a CPU with AVX2 only reaches 1 GFLOP/s so and 130 in float32, one with AVX-512 but without
AVX512-BF16 a quarter of float32's. There it is float32 on a CPU, and float16 with a scaled loss on a GPU.

PyTorch knows the answer, and importing it takes seconds. On Linux, x86 and without a GPU the processor's
flags say the same; elsewhere a process of its own is asked (harness.runtime.models.precision).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from harness.contracts import Engine
from harness.errors import UsageError, error_line
from harness.io.gpus import visible_gpus
from harness.spec import AUTO, Dtype

CPUINFO = Path("/proc/cpuinfo")
# Doors to a GPU that neither nvidia-smi nor NVIDIA's part of /proc tells of: AMD's, and Windows' under WSL.
_OTHER_GPUS = (Path("/dev/kfd"), Path("/dev/dxg"))
_ASK_SECONDS = 300.0
_MULTIPLIES_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
# oneDNN, which multiplies bfloat16 for PyTorch, uses no more than these variables allow.
_ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_ISAS_WITHOUT_BFLOAT16 = frozenset(
    {"sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"}
)


@dataclass(frozen=True, slots=True)
class Device:
    """What runs would compute on. `bfloat16`: whether it multiplies matrices in it by its own instructions."""

    kind: Literal["cpu", "cuda"]
    name: str
    bfloat16: bool


def this_device() -> Device:
    """The device of runs started here. Raises `UsageError` where PyTorch has to be asked and does not answer."""
    plain = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    if not plain or visible_gpus() or any(path.exists() for path in _OTHER_GPUS):
        return _ask_torch()
    flags = cpu_flags()
    if not flags:
        return _ask_torch()
    return Device("cpu", "this CPU", x86_bfloat16(flags, os.environ))


def cpu_flags(path: Path = CPUINFO) -> frozenset[str]:
    """The first processor's flags as Linux gives them for x86; empty where it gives none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            line = next((line for line in stream if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(line.partition(":")[2].split())


def x86_bfloat16(flags: Collection[str], environment: Mapping[str, str]) -> bool:
    """Whether a processor with these flags multiplies bfloat16, as far as the environment lets oneDNN use it."""
    limit = next((value for name in _ISA_VARIABLES if (value := environment.get(name))), "")
    return limit.lower() not in _ISAS_WITHOUT_BFLOAT16 and not _MULTIPLIES_BFLOAT16.isdisjoint(flags)


def _ask_torch() -> Device:
    remedy = "Say which one: --set model.dtype=float32 (or float16, bfloat16)."
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness.runtime.models.precision"],
            cwd=Path(__file__).parents[2],  # this package, whatever lies where the user stands
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=True,
        )
        answer = json.loads(done.stdout.splitlines()[-1])
        return Device(answer["kind"], answer["name"], answer["bfloat16"])
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        raise UsageError(f"PyTorch cannot say which precision this device has: {last[0]}", remedy) from error
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError) as error:
        raise UsageError(
            f"PyTorch cannot say which precision this device has: {error_line(error)}", remedy
        ) from error


class Precision:
    """What is computed in for the runs of one command; the device is asked at most once, and only if need be.

    `reasons`: why a run that left it to `auto` gets something else than bfloat16, each once.
    """

    def __init__(self, device: Callable[[], Device] = this_device) -> None:
        self._ask = device
        self.reasons: list[str] = []

    @cached_property
    def _device(self) -> Device:
        return self._ask()

    def resolve(self, asked: str, engine: type[Engine] | None) -> Dtype:
        """The dtype of a run that asked for `asked`; engine: what trains it, None where nothing does.

        Raises `UsageError` for float16 on an engine that does not train in it.
        """
        without_float16 = engine.name if engine is not None and not engine.trains_in_float16 else ""
        if asked == "float16" and without_float16:
            raise UsageError(
                f"model.dtype=float16 cannot be trained in on the {without_float16} engine",
                "Use --engine plain, or --set model.dtype=float32.",
            )
        if asked != AUTO:
            return asked  # type: ignore[return-value]
        if self._device.bfloat16:
            return "bfloat16"
        chosen, why = self._without_bfloat16(without_float16)
        reason = f"model.dtype={chosen}: {why}"
        if reason not in self.reasons:
            self.reasons.append(reason)
        return chosen

    def _without_bfloat16(self, engine: str) -> tuple[Dtype, str]:
        if self._device.kind == "cpu":
            return "float32", "this CPU has no instructions for bfloat16, in which it would be far slower"
        lacks = f"{self._device.name} has no bfloat16"
        if engine:
            return "float32", f"{lacks}, and the {engine} engine does not train in float16"
        return (
            "float16",
            f"{lacks}; the loss is scaled so that small gradients stay above float16's least number",
        )
