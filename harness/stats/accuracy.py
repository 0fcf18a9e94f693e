"""Accuracy of one strategy, averaged over its runs, with an interval over items and seeds."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from harness.stats import crossed
from harness.stats.intervals import wilson
from harness.stats.mcnemar import Interval, outcomes


@dataclass(frozen=True)
class Accuracy:
    """value: mean over runs and items. interval: 95%. over_seeds: whether seeds are a sample in it."""

    value: float
    interval: Interval
    n: int
    runs: int
    over_seeds: bool


def accuracy(correct: ArrayLike, clusters: ArrayLike | None = None) -> Accuracy:
    """Accuracy with Wilson's interval. correct: (S, n) or (n,) of 0/1; clusters: (n,) labels or None.

    For several runs or clusters it is Wilson's interval of as many independent items as give the same
    variance (Korn & Graubard 1998, Surv. Methodol. 24:193-201), with the t quantile of that variance's
    degrees of freedom. Raises ValueError for values that are not 0/1.
    """
    rows = outcomes(correct)
    runs, n = rows.shape
    if (rows == rows[0]).all():
        rows = rows[:1]
    hits, over_seeds = int(rows.sum()), len(rows) > 1
    value = hits / rows.size
    if (not over_seeds and clusters is None) or value in (0.0, 1.0):
        return Accuracy(value, wilson(int(rows[0].sum()), n), n, runs, over_seeds)
    starts = None
    if clusters is not None:
        order, starts = crossed.order_by_cluster(clusters)
        rows = rows[:, order]
    low, high = effective_wilson(value, crossed.variance([crossed.group(rows, starts)], n))
    return Accuracy(value, (float(low), float(high)), n, runs, over_seeds)


def effective_wilson(
    value: crossed.Floats | float, v: crossed.Variance
) -> tuple[crossed.Floats, crossed.Floats]:
    """Wilson's interval with the effective number of items of a variance; value and v (...)."""
    reach = crossed.half_width(v) ** 2
    ratio = reach / (value * (1 - value))  # t squared over the effective number of items
    centre = (value + ratio / 2) / (1 + ratio)
    half = (reach + ratio**2 / 4) ** 0.5 / (1 + ratio)
    return centre - half, centre + half
