"""What is measured of a run besides its scores: one list, from which every table, chart and gate is made.

A field of `harness.record.Cost` with its entry here is shown by `show`, `compare` and all formats of a
report, and has a chart where it is given an axis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True)
class Measure:
    """A cost of a run. Stored in the record's units, shown in units of `scale`."""

    field: str
    """its name in the record's `cost`"""
    label: str
    """what it is, in words"""
    unit: str = ""
    """what `scale` makes of it; empty for a count"""
    header: str = ""
    """of its column in a report's table of costs; empty: it has none there"""
    scale: float = 1.0
    """how much of the record's unit one shown unit is"""
    digits: int = 0
    """behind the point, in tables"""
    listed_digits: int | None = None
    """the same in `show`; None: as many"""
    over_runs: Literal["mean", "max"] = "mean"
    """how the runs of a group become one figure: what must fit takes the most, what is spent the mean"""
    by_device: bool = True
    """whether it means nothing across kinds of devices or numbers of processes"""
    better: Literal["lower", "higher"] = "lower"
    compared: bool = False
    """whether `compare` and reports hold it against another side's, as a ratio"""
    chart: tuple[str, str] | None = None
    """title and axis of its chart against quality; None: it has none"""
    weight: int = 0
    """of its column in the table of runs, where the lightest give way to the width; 0: it has none"""

    @property
    def named(self) -> str:
        """The label with its unit."""
        return f"{self.label} {self.unit}".strip()

    def combined(self, values: Iterable[float | None]) -> float | None:
        """One figure of a group's runs; None where a run did not measure it. Whole numbers stay whole."""
        every = list(values)
        known = [value for value in every if value is not None]
        if not known or len(known) < len(every):
            return None
        return max(known) if self.over_runs == "max" else sum(known) / len(known)


MEASURES: tuple[Measure, ...] = (
    Measure("trainable_parameters", "trained parameters", over_runs="max", by_device=False),
    Measure("total_parameters", "all parameters", over_runs="max", by_device=False),
    Measure(
        "trainable_fraction", "trained share", "%", "trained %", scale=0.01, over_runs="max", by_device=False,
        compared=True, chart=("trainable share", "trainable parameters, %"), weight=70,
    ),
    Measure(
        "gpu_memory_reserved_peak_bytes", "GPU memory peak, reserved", "GiB", "GPU peak GiB", scale=GIB, digits=2,
        over_runs="max", compared=True, chart=("GPU memory", "peak GPU memory, GiB"), weight=81,
    ),
    Measure(
        "gpu_memory_allocated_peak_bytes", "GPU memory peak, allocated", "GiB", scale=GIB, digits=2, over_runs="max"
    ),
    Measure(
        "gpu_memory_device_peak_bytes", "GPU memory peak, whole device", "GiB", scale=GIB, digits=2, over_runs="max"
    ),
    Measure(
        "host_memory_peak_bytes", "host memory peak", "GiB", "host peak GiB", scale=GIB, digits=2, over_runs="max",
        compared=True, chart=("host memory", "peak host memory, GiB"), weight=65,
    ),
    Measure("train_steps", "training steps", by_device=False),
    Measure("train_tokens", "training tokens", by_device=False),
    Measure(
        "train_seconds", "training time", "s", "train s", digits=1, compared=True,
        chart=("training time", "training time, seconds"), weight=80,
    ),
    Measure("eval_seconds", "evaluation time", "s", digits=1),
    Measure("total_seconds", "whole run", "s", "whole run s", digits=1, compared=True),
    Measure(
        "train_tokens_per_second", "training speed", "tokens/s", "tokens/s", better="higher", compared=True,
        weight=60,
    ),
    Measure("train_examples_per_second", "training speed", "examples/s", digits=2, better="higher"),
    Measure(
        "eval_examples_per_second", "evaluation speed", "examples/s", digits=2, better="higher", compared=True
    ),
    Measure("train_flops", "training work", "TFLOP", scale=1e12, digits=2, by_device=False),
    Measure(
        "model_flops_utilisation", "share of the device's peak speed", "%", "of peak %", scale=0.01,
        better="higher",
    ),
    Measure(
        "adapter_bytes", "adapter", "MiB", "adapter MiB", scale=MIB, digits=1, listed_digits=2, over_runs="max",
        by_device=False, compared=True, chart=("adapter size", "size of what is saved, MiB"), weight=55,
    ),
    Measure("gpu_hours", "GPU time", "hours", "GPU hours", digits=3, compared=True),
    Measure("energy_joules", "energy", "kJ", "energy kJ", scale=1000, digits=1, listed_digits=2, compared=True),
)  # fmt: skip


def measure(field: str) -> Measure:
    """The measure of this field. Raises KeyError."""
    for found in MEASURES:
        if found.field == field:
            return found
    raise KeyError(field)
