"""What a group of runs cost, and how that compares. Memory and time mean nothing across devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TypeVar

from harness.evidence.audit import same_device
from harness.record import RunRecord

COMPARED = (
    "gpu_memory_bytes", "host_memory_bytes", "train_seconds", "total_seconds", "train_tokens_per_second",
    "eval_examples_per_second", "gpu_hours", "energy_joules",
)  # fmt: skip
"""Shown as a ratio to the reference, on the same kind of device."""
NumberT = TypeVar("NumberT", int, float)
POINT = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """Of a group: means over its seeds, of memory and size the highest. All seeds on one kind of device,
    else only what no device changes.

    minutes_per_point, gpu_hours_per_point: training cost of each point of accuracy gained over the same
    model without training and without worked examples; None where there is no gain or no such run.
    """

    device: str | None = None
    trainable_parameters: int | None = None
    trainable_fraction: float | None = None
    adapter_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    host_memory_bytes: int | None = None
    train_seconds: float | None = None
    total_seconds: float | None = None
    train_tokens_per_second: float | None = None
    eval_examples_per_second: float | None = None
    gpu_hours: float | None = None
    energy_joules: float | None = None
    minutes_per_point: float | None = None
    gpu_hours_per_point: float | None = None


def device_of(records: Sequence[RunRecord]) -> str | None:
    """The one kind of device a group ran on, None where there were several."""
    first = records[0]
    if first.environment is None or not all(same_device(first, record) for record in records[1:]):
        return None
    times = f" x {first.environment.processes}" if first.environment.processes > 1 else ""
    return first.environment.device_name + times


def costs_of(records: Sequence[RunRecord]) -> Costs:
    """The costs of a group; without those of devices where its seeds ran on several kinds."""

    def read(name: str, combine: Callable[[list[NumberT]], NumberT]) -> NumberT | None:
        values = [getattr(record.cost, name) for record in records]
        return None if any(value is None for value in values) else combine(values)

    size = Costs(
        trainable_parameters=read("trainable_parameters", max),
        trainable_fraction=read("trainable_fraction", max),
        adapter_bytes=read("adapter_bytes", max),
    )
    device = device_of(records)
    if device is None:
        return size
    return dataclasses.replace(
        size,
        device=device,
        gpu_memory_bytes=read("gpu_memory_reserved_peak_bytes", max),
        host_memory_bytes=read("host_memory_peak_bytes", max),
        train_seconds=read("train_seconds", fmean),
        total_seconds=read("total_seconds", fmean),
        train_tokens_per_second=read("train_tokens_per_second", fmean),
        eval_examples_per_second=read("eval_examples_per_second", fmean),
        gpu_hours=read("gpu_hours", fmean),
        energy_joules=read("energy_joules", fmean),
    )


def per_point(costs: Costs, gain: float | None) -> Costs:
    """With the cost of each point of accuracy gained; `gain` is a fraction, None where unknown."""
    if gain is None or gain <= 0:
        return costs
    points = gain / POINT
    minutes = None if costs.train_seconds is None else costs.train_seconds / 60 / points
    hours = None if costs.gpu_hours is None else costs.gpu_hours / points
    return dataclasses.replace(costs, minutes_per_point=minutes, gpu_hours_per_point=hours)


def ratios(costs: Costs, reference: Costs) -> dict[str, float]:
    """Each cost over the reference's; empty across kinds of devices."""
    if costs.device is None or costs.device != reference.device:
        return {}
    found = {}
    for name in COMPARED:
        own, other = getattr(costs, name), getattr(reference, name)
        if own is not None and other:
            found[name] = own / other
    return found
