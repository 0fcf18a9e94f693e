"""Two strategies on the same items: the difference in accuracy, its interval and its test.

One run of each: the exact McNemar test and Tango's score interval; the result is about these two
runs. Several runs (seeds): a t-test and interval in which both the items and the seeds are a
sample (harness.stats.crossed); the result is about the strategies.

Legend: S_a, S_b runs of each group, n items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.stats import crossed
from harness.stats.mcnemar import (
    Interval,
    Table,
    mcnemar_exact,
    outcomes,
    table,
    tango_interval,
    tango_z,
)


@dataclass(frozen=True)
class Spread:
    """What varies, as shares of 1. accuracy_sd_a, accuracy_sd_b: standard deviation of the accuracies
    over seeds (None for one run). seed_variance: variance of a run's true accuracy over seeds, pooled,
    beyond what flips of single items explain (0 when they explain all). flip_share: how often two
    runs of one strategy differ on an item. item_variance: variance over items of the strategies'
    true difference there, beyond flips.
    """

    accuracy_sd_a: float | None
    accuracy_sd_b: float | None
    seed_variance: float
    flip_share: float
    item_variance: float


@dataclass(frozen=True)
class Paired:
    """A compared with B on n items. Fractions of 1; positive differences favour A.

    p: two-sided. interval: 95%, over items and (where over_seeds) over seeds: the one verdicts use.
    items_interval: 95% over items only, given these very runs. discordant: share of items on which
    one run of A and one run of B differ. table: for one run of each. spread: for several.
    over_seeds: whether the statement is about strategies (True) or about two runs (False).
    """

    accuracy_a: float
    accuracy_b: float
    difference: float
    p: float
    interval: Interval
    items_interval: Interval
    discordant: float
    n: int
    runs_a: int
    runs_b: int
    over_seeds: bool
    method: str
    table: Table | None = None
    spread: Spread | None = None
    variance: crossed.Variance | None = None
    run_degrees: int = 0

    def p_at_most(self, bound: float) -> float:
        """One-sided p-value of "the difference is at most `bound`" (small: it is larger)."""
        if self.variance is None:
            assert self.table is not None
            return float(special.ndtr(-tango_z(self.table, bound)))
        t = (self.difference - bound) / math.sqrt(float(self.variance.total))
        return float(special.stdtr(float(self.variance.degrees), -t))

    def p_at_least(self, bound: float) -> float:
        """One-sided p-value of "the difference is at least `bound`" (small: it is smaller)."""
        return 1 - self.p_at_most(bound)

    def interval_at(self, confidence: float) -> Interval:
        """The two-sided interval at another confidence than 95%."""
        if self.variance is None:
            assert self.table is not None
            return tango_interval(self.table, confidence)
        half = float(crossed.half_width(self.variance, confidence))
        return max(-1.0, self.difference - half), min(1.0, self.difference + half)


def compare(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    fixed_a: bool = False,
    fixed_b: bool = False,
) -> Paired:
    """Compare two groups of runs on the same items, in the same order.

    correct_a: (S_a, n) or (n,) of 0/1, correct_b: (S_b, n) or (n,). clusters: (n,) labels of items that
    belong together (one vignette, one fact); None where every item stands alone. fixed_a, fixed_b: the
    strategy has no seed to vary (it does not train); seen by itself where all its runs are equal.
    Runs of equal seed need not be paired: seeds are taken as independent, which is conservative where
    they are not. A group of one run beside one of several is taken to vary as that one does.

    Raises ValueError for values that are not 0/1, or items or clusters that differ in number.
    """
    a, b = outcomes(correct_a), outcomes(correct_b)
    runs_a, runs_b = len(a), len(b)
    n = a.shape[1]
    if b.shape[1] != n:
        raise ValueError(f"not the same items: {n} and {b.shape[1]}")
    (a, fixed_a), (b, fixed_b) = _without_repeats(a, fixed_a), _without_repeats(b, fixed_b)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    shared: dict[str, Any] = {
        "accuracy_a": float(a.mean()),
        "accuracy_b": float(b.mean()),
        "difference": float((mean_a - mean_b).mean()),
        "discordant": float((mean_a * (1 - mean_b) + mean_b * (1 - mean_a)).mean()),
        "n": n,
        "runs_a": runs_a,
        "runs_b": runs_b,
    }
    single = len(a) == len(b) == 1
    if single and clusters is None:
        outcome = table(a[0], b[0])
        own = tango_interval(outcome)
        return Paired(
            **shared, p=mcnemar_exact(outcome), interval=own, items_interval=own, over_seeds=False,
            method="exact McNemar test, Tango's score interval", table=outcome,
        )  # fmt: skip
    return _crossed(a, b, shared, clusters, [fixed_a, fixed_b])


def _crossed(
    a: crossed.Floats,
    b: crossed.Floats,
    shared: dict[str, Any],
    clusters: ArrayLike | None,
    fixed: list[bool],
) -> Paired:
    """The t-test over items (or clusters) and seeds; a (S_a, n), b (S_b, n)."""
    n, starts = a.shape[1], None
    if clusters is not None:
        if np.shape(clusters) != (n,):
            raise ValueError(f"clusters have shape {np.shape(clusters)}, expected ({n},)")
        order, starts = crossed.order_by_cluster(clusters)
        a, b = a[:, order], b[:, order]
    if n < 2 or (starts is not None and len(starts) < 2):
        raise ValueError("a standard error needs two items, in two clusters")
    groups = [crossed.group(a, starts), crossed.group(b, starts)]
    v = crossed.variance(groups, n, fixed)
    run_degrees = sum(g.runs - 1 for g, f in zip(groups, fixed, strict=True) if not f)
    difference, error = shared["difference"], math.sqrt(float(v.total))
    half = float(crossed.half_width(v))
    item_error = math.sqrt(max(float(v.items), crossed.floor(n, 2 / (1 / len(a) + 1 / len(b)))))
    item_half = float(special.stdtrit(groups[0].totals.shape[-1] - 1, 0.975)) * item_error
    over_seeds = run_degrees > 0
    return Paired(
        **shared,
        p=float(2 * special.stdtr(float(v.degrees), -abs(difference) / error)),
        interval=(max(-1.0, difference - half), min(1.0, difference + half)),
        items_interval=(max(-1.0, difference - item_half), min(1.0, difference + item_half)),
        over_seeds=over_seeds,
        method=f"t-test over {'items' if clusters is None else 'clusters'}{' and seeds' if over_seeds else ''}",
        table=table(a[0], b[0]) if len(a) == len(b) == 1 else None,
        spread=_spread(a, b, groups, v, run_degrees),
        variance=v,
        run_degrees=run_degrees,
    )


def _spread(
    a: crossed.Floats, b: crossed.Floats, groups: list[crossed.Group], v: crossed.Variance, run_degrees: int
) -> Spread | None:
    if not run_degrees:
        return None
    excess = sum((g.runs - 1) * float(g.run_variance - g.flip_variance) for g in groups) / run_degrees
    flips = 0.0
    for own in (a, b):  # twice the variance of an outcome over runs is how often two runs differ
        if len(own) > 1:
            flips += (len(own) - 1) * 2 * float(own.var(axis=0, ddof=1).mean()) / run_degrees
    return Spread(
        accuracy_sd_a=math.sqrt(float(groups[0].run_variance)) if groups[0].runs > 1 else None,
        accuracy_sd_b=math.sqrt(float(groups[1].run_variance)) if groups[1].runs > 1 else None,
        seed_variance=max(excess, 0.0),
        flip_share=flips,
        item_variance=max(float(v.items - v.flips), 0.0) * a.shape[1],
    )


def _without_repeats(correct: crossed.Floats, fixed: bool) -> tuple[crossed.Floats, bool]:
    """Runs that all answer alike are one run of a strategy that seeds do not change."""
    if len(correct) > 1 and (correct == correct[0]).all():
        return correct[:1], True
    return correct, fixed and len(correct) == 1
