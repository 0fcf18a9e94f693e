"""What groups of runs cost, and how that compares. Memory and time mean nothing across devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.evidence.audit import same_device
from harness.evidence.tuned import Tuning
from harness.measures import MEASURES, Measure
from harness.record import RunRecord

POINT = 0.01
Tuned = tuple[Tuning | None, Tuning | None]


@dataclass(frozen=True, slots=True)
class Costs:
    """Of a group, each as its measure says (harness.measures).

    device: the one kind of device all its seeds ran on; None where there were several, and then without
    what a device decides. minutes_per_point, gpu_hours_per_point: training cost of each point of accuracy
    gained over the same model without training and without worked examples; None where there is no gain or
    no such run.
    """

    device: str | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    minutes_per_point: float | None = None
    gpu_hours_per_point: float | None = None

    def get(self, name: str) -> float | None:
        """What was measured under this field of a record's cost; None where it was not."""
        return self.measured.get(name)

    @property
    def plain(self) -> dict[str, Any]:
        """All figures by name, for JSON and CSV."""
        return {
            "device": self.device,
            **{own.field: self.get(own.field) for own in MEASURES},
            "minutes_per_point": self.minutes_per_point,
            "gpu_hours_per_point": self.gpu_hours_per_point,
        }


@dataclass(frozen=True, slots=True)
class CostRow:
    """One cost of two sides; `ratio` is A over B, `None` where either is missing or 0."""

    name: str
    unit: str
    a: float | None
    b: float | None
    ratio: float | None


def over_runs(records: Sequence[RunRecord], own: Measure) -> float | None:
    """A cost of a group's runs as one figure; `None` where a run did not measure it."""
    return own.combined(getattr(record.cost, own.field) for record in records)


def costs_of(records: Sequence[RunRecord]) -> Costs:
    """The costs of a group; without those of devices where its seeds ran on several kinds."""
    device = device_of(records)
    shown = [own for own in MEASURES if device is not None or not own.by_device]
    values = {own.field: over_runs(records, own) for own in shown}
    return Costs(device, {name: value for name, value in values.items() if value is not None})


def device_of(records: Sequence[RunRecord]) -> str | None:
    """The one kind of device a group ran on, None where there were several."""
    first = records[0]
    if first.environment is None or not all(same_device(first, record) for record in records[1:]):
        return None
    times = f" x {first.environment.processes}" if first.environment.processes > 1 else ""
    return first.environment.device_name + times


def per_point(costs: Costs, gain: float | None) -> Costs:
    """With the cost of each point of accuracy gained; `gain` is a fraction, None where unknown."""
    if gain is None or gain <= 0:
        return costs
    points = gain / POINT
    seconds, hours = costs.get("train_seconds"), costs.get("gpu_hours")
    return dataclasses.replace(
        costs,
        minutes_per_point=None if seconds is None else seconds / 60 / points,
        gpu_hours_per_point=None if hours is None else hours / points,
    )


def ratios(costs: Costs, reference: Costs) -> dict[str, float]:
    """What a device decides, over the reference's; empty across kinds of devices."""
    if costs.device is None or costs.device != reference.device:
        return {}
    compared = [own.field for own in MEASURES if own.compared and own.by_device]
    found = {name: ratio(costs.get(name), reference.get(name)) for name in compared}
    return {name: value for name, value in found.items() if value is not None}


def cost_rows(
    one: Sequence[RunRecord], other: Sequence[RunRecord], tuned: Tuned = (None, None)
) -> tuple[tuple[CostRow, ...], str]:
    """Costs side by side in the units shown, and why some are left out. What neither measured is no row."""
    alike = on_one_device(one, other)
    rows = []
    for own in MEASURES:
        if not own.compared or (own.by_device and not alike):
            continue
        a, b = (over_runs(side, own) for side in (one, other))
        if a is not None or b is not None:
            left, right = (None if value is None else value / own.scale for value in (a, b))
            rows.append(CostRow(own.label, own.unit, left, right, ratio(a, b)))
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


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b, or `None` where that is not known."""
    return None if a is None or not b else a / b
