"""The device of this process, its name and driver."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from harness.provenance import (
    available_cores,
    cpu_name,
    fingerprint,
    git_state,
    package_versions,
    python_version,
)
from harness.record import Environment

_STAT = Path("/proc/self/stat")
_DRIVER = Path("/proc/driver/nvidia/version")
WARM = "HARNESS_WARM"
"""Set in a run whose process was forked from one that had imported the libraries."""


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def run_device() -> torch.device:
    """This process's GPU (one a process), else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def environment(device: torch.device, plugin_packages: Iterable[str] = ()) -> Environment:
    """What this process computes with. Taken when a run starts: code and packages may change while it runs."""
    packages, python = package_versions(plugin_packages), python_version()
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else cpu_name()
    cores, threads = available_cores(), torch.get_num_threads()
    return Environment(
        git=git_state(),
        packages=packages,
        python=python,
        device_name=name,
        device_count=world_size() if on_gpu else 1,
        driver=_driver() if on_gpu else None,
        fingerprint=fingerprint(packages, python, name, cores, threads),
        cores=cores,
        threads=threads,
        processes=world_size(),
        parallel_runs=int(os.environ.get("HARNESS_PARALLEL_RUNS", "1")),
        warm=WARM in os.environ,
    )


def _driver() -> str | None:
    """The version of the GPU's driver; None where nothing tells it."""
    try:
        text = _DRIVER.read_text(encoding="utf-8")
    except OSError:  # as under WSL
        return _driver_by_nvml()
    words = text.split("Kernel Module", 1)[-1].split()
    return next((word for word in words if word[0].isdigit()), None)


def _driver_by_nvml() -> str | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def process_age_seconds() -> float:
    """Seconds since this process started, so that its imports count as loading."""
    try:
        fields = _STAT.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:  # not Linux
        import psutil

        return max(0.0, time.time() - float(psutil.Process().create_time()))
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
