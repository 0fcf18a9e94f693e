"""The difference of two strategies' averages over tasks, from the paired comparisons on each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.stats import crossed
from harness.stats.mcnemar import Table
from harness.stats.paired import Paired, Scope

_WEAKEST: tuple[Scope, ...] = ("runs", "methods_assumed_sd", "methods")


def average(parts: Sequence[Paired]) -> Paired:
    """The unweighted mean of differences on several tasks, whose items and runs are independent of each
    other's; degrees of freedom by Satterthwaite (1946, Biometrics Bull. 2:110-114).

    It is about the runs where any of its parts is. n: all items; runs: the fewest of a task.
    """
    variances = [_variance(part) for part in parts]
    share = 1 / len(parts) ** 2

    def summed(name: str) -> crossed.Floats:
        return np.asarray(sum(float(getattr(v, name)) for v in variances) * share)

    total, over_items = summed("total"), summed("item_total")
    squares = sum(float(v.total) ** 2 / float(v.degrees) for v in variances) * share**2
    item_squares = sum(float(v.item_total) ** 2 / v.item_degrees for v in variances) * share**2
    combined = crossed.Variance(
        summed("items"), summed("flips"), summed("seeds"), total, np.asarray(float(total) ** 2 / squares),
        over_items, float(over_items) ** 2 / item_squares,
    )  # fmt: skip

    def mean(name: str) -> float:
        return float(np.mean([getattr(part, name) for part in parts]))

    found = Paired(
        accuracy_a=mean("accuracy_a"), accuracy_b=mean("accuracy_b"), difference=mean("difference"),
        p=1.0, interval=(-1.0, 1.0), items_interval=(-1.0, 1.0), discordant=mean("discordant"),
        n=sum(part.n for part in parts), runs_a=min(part.runs_a for part in parts),
        runs_b=min(part.runs_b for part in parts),
        scope=min((part.scope for part in parts), key=_WEAKEST.index),
        assumed_seed_sd=next((p.assumed_seed_sd for p in parts if p.assumed_seed_sd is not None), None),
        extra=sum(part.extra for part in parts) * share, method="t-test of the mean of the tasks' differences",
        variance=combined, run_degrees=sum(part.run_degrees for part in parts),
    )  # fmt: skip
    items_only = replace(combined, total=over_items, degrees=np.asarray(combined.item_degrees))
    return replace(
        found,
        p=float(2 * crossed.tail(combined, abs(found.difference))),
        interval=found.interval_at(0.95),
        items_interval=replace(found, variance=items_only).interval_at(0.95),
    )


def _variance(part: Paired) -> crossed.Variance:
    """Of one task's difference; of one run of each with one item more each way (Bonett & Price 2012)."""
    if part.variance is not None:
        return part.variance
    assert part.table is not None
    table, n = part.table, part.n + 2
    pseudo = Table(0, table.only_a + 1, table.only_b + 1, 0)
    discordant = (pseudo.only_a + pseudo.only_b) / n
    items = np.asarray((discordant - ((pseudo.only_a - pseudo.only_b) / n) ** 2) / n)
    none, degrees = np.asarray(0.0), np.asarray(float(n - 1))
    return crossed.Variance(items, none, none, items + part.extra, degrees, items + part.extra, float(n - 1))
