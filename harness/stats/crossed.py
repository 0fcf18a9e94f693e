"""How much an average over runs and items varies: both the items and the runs are a sample.

A strategy is trained with several seeds (runs) and every run answers the same items, so accuracy
varies for two reasons: other items would have been easier or harder, and other seeds would have
answered otherwise. Radiology has the same layout (readers for runs, cases for items) and its
analysis is used here: Obuchowski & Rockette 1995 (Commun. Stat. Simul. 24:285-308) with the
variance of Hillis 2014 (Stat. Med. 33:330-360, readers nested in the test); `combine` has the degrees.

Legend: S runs of a group, n items, G clusters of items (G = n where every item stands alone);
functions of (..., S, n) work on many data sets at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

LUCK = 0.05
"""How rare a draw of nearly equal accuracies is not believed. Runs vary at least by the flips of their
items; seeds that show less than this quantile of that are taken to vary as much as it, as the interval
would else be far too narrow.
"""


@dataclass(frozen=True)
class Group:
    """Moments of one group of runs over the same items.

    accuracy (...): mean over runs and items. run_variance (...): variance of the runs' accuracies,
    0 for one run. flip_variance (...): the part of it that item-by-item flips between runs explain
    (the runs x items mean square over n). totals (..., G): each cluster's sum over its items of the
    mean over runs, less the group's accuracy.
    """

    runs: int
    accuracy: Floats
    run_variance: Floats
    flip_variance: Floats
    totals: Floats


@dataclass(frozen=True)
class Variance:
    """The squared standard error of an average or of a difference, by its sources (all shape (...)).

    items: sampling of items (or clusters), given these runs; includes their flips.
    flips: the part of `items` that is flips between runs. seeds: sampling of runs, includes flips.
    total: of items and runs together. degrees: degrees of freedom of `total`.
    item_total, item_degrees: of items alone. An interval is the wider of the two: other items and other
    runs cannot be more certain than other items alone, though estimates of variances may say so.
    """

    items: Floats
    flips: Floats
    seeds: Floats
    total: Floats
    degrees: Floats
    item_total: Floats
    item_degrees: float


def order_by_cluster(clusters: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(order (n,), starts (G,)): items sorted by cluster, and where each cluster begins in that order.

    clusters: (n,) labels of any sortable kind, equal for items that are not independent.
    """
    labels = np.asarray(clusters)
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return order, starts


def group(correct: NDArray[np.floating], starts: NDArray[np.intp] | None = None) -> Group:
    """Moments of one group. correct: (..., S, n) of 0/1, sorted by cluster where `starts` is given."""
    runs, n = correct.shape[-2:]
    by_run = correct.mean(axis=-1, dtype=np.float64)  # (..., S)
    if starts is None:
        residual = correct - by_run[..., None].astype(correct.dtype)  # (..., S, n)
    else:
        sizes = np.diff(np.append(starts, n)).astype(correct.dtype)  # (G,)
        residual = np.add.reduceat(correct, starts, axis=-1) - by_run[..., None].astype(correct.dtype) * sizes
    totals = residual.mean(axis=-2)  # (..., G)
    zeros = np.zeros(by_run.shape[:-1])
    run_variance, flip_variance = zeros, zeros
    if runs > 1:
        run_variance = by_run.var(axis=-1, ddof=1)
        residual = residual - totals[..., None, :]
        squares = np.einsum("...sg,...sg->...", residual, residual).astype(np.float64)
        flip_variance = _few(totals.shape[-1]) * squares / ((runs - 1) * n**2)
    return Group(runs, by_run.mean(axis=-1), run_variance, flip_variance, totals.astype(np.float64))


def variance(
    groups: Sequence[Group], n: int, fixed: Sequence[bool] | None = None, assumed: float = 0.0
) -> Variance:
    """Variance of one group's accuracy, or of the difference of two groups' on the same n items.

    fixed: the groups whose runs are taken as they are (a strategy that does not train has no others): they
    add no run variance. Nor does a group of one run, which shows none: what is then said is about that very
    run, unless `assumed` adds the variance that unseen runs are taken to have.
    """
    fixed = fixed or [False] * len(groups)
    signed = groups[0].totals - groups[1].totals if len(groups) == 2 else groups[0].totals
    clusters = signed.shape[-1]
    items = _few(clusters) * np.einsum("...g,...g->...", signed, signed) / n**2
    flips, seeds, run_degrees = of_runs(groups, fixed)
    total, degrees = combine(items, flips, seeds, run_degrees, clusters - 1)
    if len(groups) == 2:
        least: Floats | float = floor(n, 2 / sum(1 / g.runs for g in groups))
    else:
        # No fewer than as many independent answers could show, so that an interval has a width.
        own = groups[0].accuracy
        least = own * (1 - own) / (n * groups[0].runs)
    total = np.maximum(total, least)
    if assumed:
        degrees = (
            (total + assumed) ** 2 / total**2 * degrees
        )  # Satterthwaite; what is assumed is taken as known
        total = total + assumed
    return Variance(
        items, flips, seeds, total, degrees, np.maximum(items, least) + assumed, float(max(clusters - 1, 1))
    )


def of_runs(groups: Sequence[Group], fixed: Sequence[bool]) -> tuple[Floats, Floats, Floats]:
    """(flips, seeds, degrees of freedom of seeds) of a sum or difference of the groups, each (...).

    Every group's own variance is used, as in Welch's test; that of a group of one run is not known, nor lent.
    """
    several = [g for g, is_fixed in zip(groups, fixed, strict=True) if not is_fixed and g.runs > 1]
    none = np.zeros_like(groups[0].run_variance)
    if not several:
        return none, none, none
    degrees = [g.runs - 1 for g in several]
    flips = sum((g.flip_variance / g.runs for g in several), none)
    parts = [g.run_variance / g.runs for g in several]
    return flips, sum(parts, none), degrees_of_sum(parts, degrees)


def degrees_of_sum(parts: Sequence[Floats], degrees: Sequence[int]) -> Floats:
    """Degrees of freedom of a sum of independent variances; parts (...) each.

    total^2 / sum(part^2 / (degrees + k)) - k, with k = 0 of Satterthwaite (1946, Biometrics Bull. 2:110-114)
    and k = 2 of Welch (1947, Biometrika 34:28-35; a ratio of unbiased estimates). With the 2 degrees of three
    seeds the first is conservative where the parts are equal, the second liberal where they are not, and
    k = 1 lies between.
    """
    total = sum(parts, np.zeros_like(parts[0]))
    squares = sum((part**2 / (d + 1) for part, d in zip(parts, degrees, strict=True)), np.zeros_like(total))
    none = squares == 0
    return np.where(none, sum(degrees), total**2 / np.where(none, 1, squares) - 1)


def combine(
    items: Floats, flips: Floats, seeds: Floats, run_degrees: ArrayLike, item_degrees: int
) -> tuple[Floats, Floats]:
    """(total, degrees): what items add beyond flips plus what runs add; arrays (...).

    run_degrees: degrees of freedom of `seeds`, 0 where there are no runs to go by.

    Two departures from Hillis. What items add beyond flips may come
    out below 0 by chance and is left so: cut at 0, as he does, the sum is too large where two strategies
    differ by chance alone. And his degrees, Satterthwaite's, are liberal with a few seeds, since a runs'
    variance that is small by chance also gets many degrees; the runs' own, Obuchowski & Rockette's, are
    conservative where items add to the variance: half way between is used.
    """
    runs = np.asarray(run_degrees, dtype=np.float64)
    if not runs.any():
        return items, np.full_like(items, max(item_degrees, 1))
    least = special.gammaincinv(runs / 2, LUCK) / (runs / 2)  # the quantile of chi-square over its degrees
    beyond = items - flips
    of_items = np.maximum(beyond, 0)
    of_seeds = np.maximum(seeds, least * flips)
    total = np.maximum(beyond + of_seeds, least * items)
    squares = of_items**2 / max(item_degrees, 1) + of_seeds**2 / runs
    none = squares == 0
    satterthwaite = np.where(none, runs, (of_items + of_seeds) ** 2 / np.where(none, 1, squares))
    return total, (runs + satterthwaite) / 2


def floor(n: int, runs: float = 1) -> float:
    """The least squared standard error of a difference: that of two items that disagree, one each way, in
    one of `runs` runs (the harmonic mean of the groups' numbers).

    The pseudo-observations of Bonett & Price 2012 (Stat. Methods Med. Res. 21:79-93), so that runs that
    agree on all items do not give an interval of no width.
    """
    return 2 / (n + 2) ** 2 / runs


def half_width(v: Variance, confidence: float = 0.95) -> Floats:
    """Half the width of the two-sided t interval, (...): never less than over items alone."""
    share = (1 + confidence) / 2
    over_both = special.stdtrit(v.degrees, share) * np.sqrt(v.total)
    return np.asarray(np.maximum(over_both, special.stdtrit(v.item_degrees, share) * np.sqrt(v.item_total)))


def tail(v: Variance, distance: Floats | float) -> Floats:
    """One-sided p-value of an estimate `distance` above what is tested, (...); as `half_width`, it rejects
    only where the test over items alone does so too.
    """
    over_both = special.stdtr(v.degrees, -np.asarray(distance) / np.sqrt(v.total))
    return np.asarray(
        np.maximum(over_both, special.stdtr(v.item_degrees, -np.asarray(distance) / np.sqrt(v.item_total)))
    )


def _few(clusters: int) -> float:
    """The correction for few clusters, G / (G - 1)."""
    return clusters / max(clusters - 1, 1)
