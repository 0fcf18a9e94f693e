"""Which GPUs this machine lets us use, found without a library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SMI_SECONDS = 20.0
"""That nvidia-smi is waited for."""


def visible_gpus() -> list[str]:
    """The GPUs that a run may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        # CUDA itself reads the list up to the first name that is none.
        stop = next((i for i, name in enumerate(names) if not name or name.startswith("-")), len(names))
        return names[:stop]
    if smi := shutil.which("nvidia-smi"):
        return [str(index) for index in range(_count_by(smi))]
    return [str(index) for index, _ in enumerate(proc_gpus())]


def _count_by(smi: str) -> int:
    try:
        listed = subprocess.run(
            [smi, "--list-gpus"], capture_output=True, text=True, timeout=SMI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return len(proc_gpus())
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def proc_gpus() -> list[Path]:
    """The driver's own files on each GPU of this machine."""
    return sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
