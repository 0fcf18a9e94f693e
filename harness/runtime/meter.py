"""Time and memory of each phase, apart. A peak that this machine cannot measure is None, never 0.

Host peaks are the kernel's own high-water mark (VmHWM), which is reset at the start of a phase
through /proc/self/clear_refs; where there is no such file, host peaks of phases are None and the
run's is getrusage's. GPU peaks are torch's allocator figures, and NVML's for the whole device.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.record import Phase

Peaks = dict[str, int | None]
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_DEVICE_POLL_SECONDS = 0.05
_PEAKS = (
    "gpu_memory_allocated_peak_bytes",
    "gpu_memory_reserved_peak_bytes",
    "gpu_memory_device_peak_bytes",
    "host_memory_peak_bytes",
)


def _reset_host_peak() -> bool:
    """True when the kernel's high-water mark was set back to the present size."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def host_peak_bytes() -> int | None:
    """Highest resident size since the last reset (VmHWM), in bytes."""
    try:
        status = _STATUS.read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def host_memory_bytes() -> int | None:
    """Resident size now, in bytes; None where the system does not tell."""
    import psutil

    try:
        return int(psutil.Process().memory_info().rss)
    except psutil.Error:
        return None


def _whole_run_host_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_now(device: torch.device) -> tuple[int | None, str]:
    """What a progress line shows: bytes in use, and of which kind ("gpu" or "host")."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), "gpu"
    return host_memory_bytes(), "host"


def _max(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


class _DevicePeak:
    """Samples a GPU's used memory (all processes and allocators on it) in a thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stop = threading.Event()
        self.peak = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(_DEVICE_POLL_SECONDS)

    def look(self) -> int:
        """The highest seen, now included."""
        free, total = torch.cuda.mem_get_info(self._device)
        self.peak = max(self.peak, total - free)
        return self.peak

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Energy:
    """Joules used by the run's GPUs since the start, through NVML; None where there is none."""

    def __init__(self, device: torch.device) -> None:
        self._read: Callable[[], float] | None = None
        if device.type == "cuda":
            self._read = _nvml_energy_reader(torch.cuda.current_device())
        self._start = self._read() if self._read else None

    def joules(self) -> float | None:
        if self._read is None or self._start is None:
            return None
        return self._read() - self._start


def _nvml_energy_reader(index: int) -> Callable[[], float] | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None  # older cards have no energy counter
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000


class Meter:
    """Collects the phases of one run."""

    def __init__(self, device: torch.device, started_seconds_ago: float = 0.0) -> None:
        self.device = device
        self.phases: list[Phase] = []
        self.current: str = "start"
        self.energy = Energy(device)
        # The first phase takes in what came before it: imports are part of loading.
        self._first_started: float | None = time.perf_counter() - started_seconds_ago
        self._started = self._first_started
        self._import_seconds: float | None = None
        self._can_reset = _reset_host_peak()
        self._watch: _DevicePeak | None = None
        self.earlier_peaks: Peaks = {}
        """of the tries before this one, up to the checkpoint that it went on from"""

    def limits(self) -> list[str]:
        """What this machine cannot measure, in sentences for the user."""
        if self._can_reset:
            return []
        return [
            f"peaks of host memory are not measured phase by phase ({_CLEAR_REFS} cannot be written here): "
            "only the whole run's is known"
        ]

    def imported(self) -> None:
        """Called once, in the phase `load`: the libraries are there, the rest of the phase is work."""
        self._import_seconds = self.total_seconds()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures the body as phase `name`, also when it raises."""
        self.current = name
        self._watch = self._start_peaks()
        started = self._first_started if self._first_started is not None else time.perf_counter()
        self._first_started = None
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds = time.perf_counter() - started
            imports = self._import_seconds if name == "load" else None
            peaks = self._peaks()
            if self._watch is not None:
                self._watch.stop()
            self.phases.append(Phase(name=name, seconds=seconds, import_seconds=imports, **peaks))

    def _start_peaks(self) -> _DevicePeak | None:
        if self._can_reset:
            _reset_host_peak()
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return _DevicePeak(self.device)

    def _peaks(self) -> Peaks:
        """Of the phase that is going on, so far."""
        peaks: Peaks = {"host_memory_peak_bytes": host_peak_bytes() if self._can_reset else None}
        if self._watch is not None:
            peaks |= {
                "gpu_memory_allocated_peak_bytes": torch.cuda.max_memory_allocated(self.device),
                "gpu_memory_reserved_peak_bytes": torch.cuda.max_memory_reserved(self.device),
                "gpu_memory_device_peak_bytes": self._watch.look(),
            }
        return peaks

    def combine_processes(self, name: str) -> None:
        """Put all processes' peaks into phase `name`."""
        index = max(i for i, phase in enumerate(self.phases) if phase.name == name)
        own = {key: getattr(self.phases[index], key) for key in _PEAKS}
        self.phases[index] = self.phases[index].model_copy(update=_of_all_processes(own))

    def peaks_so_far(self) -> Peaks:
        """Of the phase that is going on and the tries before this one, over all processes, each of which
        must call this.
        """
        return _highest([_of_all_processes(self._peaks()), self.earlier_peaks])

    def seconds(self, name: str) -> float | None:
        """Seconds of all phases called `name`, None when there was none."""
        own = [phase.seconds for phase in self.phases if phase.name == name]
        return sum(own) if own else None

    def total_seconds(self) -> float:
        return time.perf_counter() - self._started

    def peaks(self) -> Peaks:
        """The run's peaks: the highest of its phases'."""
        phases: list[Peaks] = [{name: getattr(phase, name) for name in _PEAKS} for phase in self.phases]
        peaks = _highest([*phases, self.earlier_peaks])
        if peaks["host_memory_peak_bytes"] is None:
            peaks["host_memory_peak_bytes"] = _whole_run_host_peak()
        return peaks


def _highest(all_peaks: list[Peaks]) -> Peaks:
    return {name: _max([peaks.get(name) for peaks in all_peaks]) for name in _PEAKS}


def _of_all_processes(own: Peaks) -> Peaks:
    """The highest GPU's, and the sum of host memory."""
    if not (torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
        return own
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, own)
    hosts = [peaks["host_memory_peak_bytes"] for peaks in every]
    return {**_highest(every), "host_memory_peak_bytes": None if None in hosts else sum(hosts)}
