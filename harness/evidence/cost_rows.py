"""What two groups of runs cost, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.evidence.audit import same_device
from harness.evidence.tuned import Tuning
from harness.record import RunRecord


@dataclass(frozen=True, slots=True)
class CostRow:
    """One measured cost; `ratio` is A over B, `None` where either is missing or 0."""

    name: str
    unit: str
    a: float | None
    b: float | None
    ratio: float | None


# What it is, its unit, the field, how runs become one figure, and whether a device decides it.
_COSTS = (
    ("trained share", "%", "trainable_fraction", "mean", False),
    ("adapter", "MiB", "adapter_bytes", "mean", False),
    ("GPU memory peak, reserved", "GiB", "gpu_memory_reserved_peak_bytes", "max", True),
    ("host memory peak", "GiB", "host_memory_peak_bytes", "max", True),
    ("training time", "s", "train_seconds", "mean", True),
    ("training speed", "tokens/s", "train_tokens_per_second", "mean", True),
    ("evaluation speed", "examples/s", "eval_examples_per_second", "mean", True),
    ("energy", "kJ", "energy_joules", "mean", True),
)
SCALES = {"%": 0.01, "MiB": 2**20, "GiB": 2**30, "kJ": 1000.0}


Tuned = tuple[Tuning | None, Tuning | None]


def cost_rows(
    one: Sequence[RunRecord], other: Sequence[RunRecord], tuned: Tuned = (None, None)
) -> tuple[tuple[CostRow, ...], str]:
    """Costs side by side in the units shown, and why some are left out. What neither measured is no row."""
    alike = on_one_device(one, other)
    rows = []
    for name, unit, field, how, by_device in _COSTS:
        if by_device and not alike:
            continue
        a, b = (over_runs(own, field, how) for own in (one, other))
        if a is not None or b is not None:
            scale = SCALES.get(unit, 1.0)
            left, right = (None if value is None else value / scale for value in (a, b))
            rows.append(CostRow(name, unit, left, right, ratio(a, b)))
    rows += _tuning_rows(tuned, alike)
    note = (
        "" if alike else f"memory, time and speed are not compared: {devices(one)} against {devices(other)}"
    )
    return tuple(rows), note


def _tuning_rows(tuned: Tuned, alike: bool) -> list[CostRow]:
    """What choosing the learning rates took, besides the costs above; 0 where one was given."""
    if not any(tuned):
        return []
    given = Tuning(trials=0, total_seconds=0.0)
    a, b = (own or given for own in tuned)
    rows = [CostRow("learning rates tried", "trials", a.trials, b.trials, ratio(a.trials, b.trials))]
    if alike:
        seconds = (a.total_seconds, b.total_seconds)
        rows.append(CostRow("time of these trials", "s", *seconds, ratio(*seconds)))
    return rows


def on_one_device(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> bool:
    """Whether all runs of both sides were made on one kind of device, by as many processes."""
    first = one[0]
    return all(same_device(first, record) for record in (*one, *other))


def devices(records: Sequence[RunRecord]) -> str:
    """The devices of some runs, in words."""
    found = {
        f"{r.environment.processes} x {r.environment.device_name}" if r.environment else "an unknown device"
        for r in records
    }
    return " / ".join(sorted(found))


def over_runs(records: Sequence[RunRecord], field: str, how: str) -> float | None:
    """A cost over a group's runs: their mean, or their highest. `None` where a run did not measure it."""
    values = [getattr(record.cost, field) for record in records]
    if any(value is None for value in values):
        return None
    return float(max(values)) if how == "max" else float(sum(values) / len(values))


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b, or `None` where that is not known."""
    return None if a is None or not b else a / b
