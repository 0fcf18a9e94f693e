"""Two strategies on the same items: the difference in accuracy, its interval and its test.

One run of each: Tango's score test and interval. Several runs (seeds): a t-test and interval in which both
the items and the seeds are a sample (harness.stats.crossed).

A strategy that could vary and was run once shows nothing of how it varies. What is said is then about these
very runs (`scope`), not about the strategies, unless the deviation over seeds is assumed.

Legend: S_a, S_b runs of each group, n items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.stats import crossed
from harness.stats.mcnemar import (
    Interval,
    Table,
    outcomes,
    score_p,
    table,
    tango_interval,
    tango_z,
)

Scope = Literal["runs", "methods", "methods_assumed_sd"]
"""What a statement is about: these very runs; the methods; the methods, with an assumed seed deviation."""


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

    p: two-sided, below a level exactly where the interval at that level leaves out 0. interval: 95%, over
    items and (where they are a sample) over seeds: the one verdicts use, never narrower than items_interval:
    95% over items only, given these very runs. discordant: share of items on which one run of A and one run
    of B differ. scope: what the statement is about. assumed_seed_sd: of one run's true accuracy, where it was
    assumed and not seen; extra: the variance it adds. table: for one run of each. spread: for several.
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
    scope: Scope
    method: str
    assumed_seed_sd: float | None = None
    extra: float = 0.0
    table: Table | None = None
    spread: Spread | None = None
    variance: crossed.Variance | None = None
    run_degrees: int = 0

    def p_at_most(self, bound: float) -> float:
        """One-sided p-value of "the difference is at most `bound`" (small: it is larger)."""
        if self.variance is None:
            assert self.table is not None
            return float(special.ndtr(-tango_z(self.table, bound, self.extra)))
        return float(crossed.tail(self.variance, self.difference - bound))

    def p_at_least(self, bound: float) -> float:
        """One-sided p-value of "the difference is at least `bound`" (small: it is smaller)."""
        if self.variance is None:
            return 1 - self.p_at_most(bound)
        return float(crossed.tail(self.variance, bound - self.difference))

    def interval_at(self, confidence: float) -> Interval:
        """The two-sided interval at another confidence than 95%."""
        if self.variance is None:
            assert self.table is not None
            return tango_interval(self.table, confidence, self.extra)
        half = float(crossed.half_width(self.variance, confidence))
        return max(-1.0, self.difference - half), min(1.0, self.difference + half)


def compare(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    fixed_a: bool = False,
    fixed_b: bool = False,
    assumed_seed_sd: float | None = None,
) -> Paired:
    """Compare two groups of runs on the same items, in the same order.

    correct_a: (S_a, n) or (n,) of 0/1, correct_b: (S_b, n) or (n,). clusters: (n,) labels of items that
    belong together (one vignette, one fact); None where every item stands alone. fixed_a, fixed_b: the
    strategy has no seed to vary (it does not train); seen by itself where several runs are all equal.
    Runs of equal seed need not be paired: seeds are taken as independent, which is conservative where
    they are not. assumed_seed_sd: the standard deviation over seeds (a fraction) that a strategy with one
    run is taken to have; without it the result is about these runs wherever a strategy that varies has one.

    Raises ValueError for values that are not 0/1, items or clusters that differ in number, or a deviation
    that is not above 0.
    """
    if assumed_seed_sd is not None and not 0 < assumed_seed_sd < 1:
        raise ValueError(f"a standard deviation over seeds is a fraction above 0, not {assumed_seed_sd}")
    a, b = outcomes(correct_a), outcomes(correct_b)
    runs_a, runs_b = len(a), len(b)
    n = a.shape[1]
    if b.shape[1] != n:
        raise ValueError(f"not the same items: {n} and {b.shape[1]}")
    (a, fixed_a), (b, fixed_b) = _without_repeats(a, fixed_a), _without_repeats(b, fixed_b)
    alone = (len(a) == 1 and not fixed_a) + (len(b) == 1 and not fixed_b)
    if alone and assumed_seed_sd is None:
        fixed_a = fixed_b = True  # about these very runs: no seeds are a sample
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    shared: dict[str, Any] = {
        "accuracy_a": float(a.mean()),
        "accuracy_b": float(b.mean()),
        "difference": float((mean_a - mean_b).mean()),
        "discordant": float((mean_a * (1 - mean_b) + mean_b * (1 - mean_a)).mean()),
        "n": n,
        "runs_a": runs_a,
        "runs_b": runs_b,
        "scope": "methods" if not alone else "runs" if assumed_seed_sd is None else "methods_assumed_sd",
        "assumed_seed_sd": assumed_seed_sd if alone else None,
        "extra": alone * (assumed_seed_sd or 0.0) ** 2,
    }
    single = len(a) == len(b) == 1
    if single and clusters is None:
        outcome, extra = table(a[0], b[0]), shared["extra"]
        return Paired(
            **shared, p=score_p(outcome, extra), interval=tango_interval(outcome, extra=extra),
            items_interval=tango_interval(outcome), method="Tango's score test and interval", table=outcome,
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
    v = crossed.variance(groups, n, fixed, shared["extra"])
    run_degrees = sum(g.runs - 1 for g, f in zip(groups, fixed, strict=True) if not f)
    difference, half = shared["difference"], float(crossed.half_width(v))
    item_error = math.sqrt(float(v.item_total) - shared["extra"])
    item_half = float(special.stdtrit(v.item_degrees, 0.975)) * item_error
    over_seeds = " and seeds" if run_degrees or shared["extra"] else ""
    return Paired(
        **shared,
        p=float(2 * crossed.tail(v, abs(difference))),
        interval=(max(-1.0, difference - half), min(1.0, difference + half)),
        items_interval=(max(-1.0, difference - item_half), min(1.0, difference + item_half)),
        method=f"t-test over {'items' if clusters is None else 'clusters'}{over_seeds}",
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


def difference_of_scores(
    contributions_a: crossed.Floats,
    contributions_b: crossed.Floats,
    *,
    clusters: ArrayLike | None = None,
    fixed_a: bool = False,
    fixed_b: bool = False,
    assumed_seed_sd: float | None = None,
) -> tuple[float, Interval]:
    """(difference, 95% interval) of a score that is the mean of its items' contributions, over all runs of
    both; about these very runs where `compare` of the same groups is.

    contributions_a: (S_a, n), contributions_b: (S_b, n), of any values. The rest as `compare`.
    """
    (a, fixed_a), (b, fixed_b) = (
        _without_repeats(contributions_a, fixed_a), _without_repeats(contributions_b, fixed_b),
    )  # fmt: skip
    alone = (len(a) == 1 and not fixed_a) + (len(b) == 1 and not fixed_b)
    if alone and assumed_seed_sd is None:
        fixed_a = fixed_b = True
    starts, n = None, a.shape[1]
    if clusters is not None:
        order, starts = crossed.order_by_cluster(clusters)
        a, b = a[:, order], b[:, order]
    groups = (crossed.group(a, starts), crossed.group(b, starts))
    v = crossed.variance(groups, n, (fixed_a, fixed_b), alone * (assumed_seed_sd or 0.0) ** 2)
    difference, half = float(a.mean() - b.mean()), float(crossed.half_width(v))
    return difference, (difference - half, difference + half)
