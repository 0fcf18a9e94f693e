"""Which GPUs this machine lets us use, and how runs side by side share them or the CPU's cores."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.errors import UsageError
from harness.io.gpus import proc_gpus, visible_gpus
from harness.provenance import available_cores

Place = dict[str, str]
"""What the environment of the runs of one place adds: its GPUs, or its share of the cores."""
PARALLEL = "HARNESS_PARALLEL_RUNS"


def device_name() -> str | None:
    """The name of the device a run would use, as its record gives it; `None` where that is not known."""
    from harness.provenance import cpu_name

    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return cpu_name()
    files = proc_gpus()
    if not files:
        return None if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") else cpu_name()
    try:
        lines = [
            line for file in files for line in file.read_text().splitlines() if line.startswith("Model:")
        ]
    except OSError:
        return None
    names = {line.partition(":")[2].strip() for line in lines}
    return names.pop() if len(names) == 1 else None


def places(parallel: int, processes: int) -> tuple[list[Place], str]:
    """The environments of `parallel` places, and what the user should know of them.

    Raises `UsageError` where there are fewer GPUs than `parallel` runs of `processes` processes need.
    """
    if parallel == 1:
        return [{}], ""
    shared = {PARALLEL: str(parallel)}
    gpus = visible_gpus()
    if not gpus:
        cores = available_cores()
        threads = max(1, cores // (parallel * processes))
        given = os.environ.get("OMP_NUM_THREADS", "")
        if given.isdigit() and int(given) > 0:
            threads = min(threads, int(given))
        notice = (
            f"{parallel} runs side by side on {cores} CPU cores: {threads} thread{'s' * (threads > 1)} a process. "
            "Their times and speeds are not comparable with those of runs that had the machine to themselves."
        )
        return [{**shared, "OMP_NUM_THREADS": str(threads)} for _ in range(parallel)], notice
    needed = parallel * processes
    if needed > len(gpus):
        raise UsageError(
            f"--parallel {parallel} with {processes} process{'es' * (processes > 1)} a run needs {needed} GPUs, "
            f"{len(gpus)} {'is' if len(gpus) == 1 else 'are'} visible ({', '.join(gpus)})",
            f"Use --parallel {max(1, len(gpus) // processes)}, or fewer --processes.",
        )
    parts = [gpus[i * processes : (i + 1) * processes] for i in range(parallel)]
    return [{**shared, "CUDA_VISIBLE_DEVICES": ",".join(part)} for part in parts], ""
