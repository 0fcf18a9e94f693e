"""What a comparison could show: its power, and the smallest difference it would find.

Legend: n items, S seeds of each strategy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.stats import crossed
from harness.stats.paired import Paired
from harness.stats.roots import root

Floats = NDArray[np.float64]

POWER = 0.8
GRID = 400
"""Quantiles of the groups' run variances over which the power of the t-test is averaged: a square number."""


@dataclass(frozen=True)
class Design:
    """What is compared. n: items (divide by the design effect where they come in clusters).
    discordant: share of items on which a run of A and a run of B differ. seeds: runs of each.
    flips: share of items on which two runs of one strategy differ; 0 is the cautious guess, as then
    more seeds show no more. seed_sd: standard deviation over seeds of a run's true accuracy.
    alpha: level of the test; for m comparisons after Holm, alpha / m is the cautious choice.

    Raises ValueError for figures that no data could have.
    """

    n: int
    discordant: float
    seeds: int = 1
    flips: float = 0.0
    seed_sd: float = 0.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if self.n < 1 or self.seeds < 1:
            raise ValueError(f"a comparison needs items and seeds, not {self.n} and {self.seeds}")
        for name in ("discordant", "flips", "seed_sd"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, not {self.alpha}")


def power(difference: float, design: Design) -> float:
    """Chance that a true difference of this size is shown, in either direction (Miller 2024, arXiv
    2411.00640, for the variance; the test's own critical values, so within 3 points of simulation).

    One seed: exact, over all tables (Duffy 1984, Biometrics 40:1005-1015); it leaves seed_sd out, as
    the test does. Several: the t-test over items and seeds. `difference` in fractions of 1; a discordant
    share below it is raised to it. Raises ValueError for a difference outside -1 to 1.
    """
    if not -1 <= difference <= 1:
        raise ValueError(f"a difference lies between -1 and 1, not {difference}")
    size = abs(difference)
    discordant = max(design.discordant, size)
    if design.seeds == 1:
        return _mcnemar_power(size, discordant, design.n, design.alpha)
    run = design.seed_sd**2
    flip = max(design.flips / 2 - run, 0.0)
    item = max(discordant - size**2 - 2 * (run + flip), 0.0)
    share = 2 / design.seeds
    return _t_power(
        size, item / design.n, share * flip / design.n, share * run, (design.seeds - 1,) * 2, design.n, design.alpha
    )  # fmt: skip


def smallest_detectable(design: Design, target: float = POWER) -> float | None:
    """The smallest true difference shown with at least `target` power; None where there is none.

    About 2.8 * sqrt(discordant / n) for one seed, many items and alpha 0.05.
    """
    return _smallest(lambda difference: power(difference, design), target)


def smallest_detectable_of(result: Paired, alpha: float = 0.05, target: float = POWER) -> float | None:
    """The smallest true difference a comparison like this one (its items, seeds, discordant share and
    spread) would show with `target` power at level `alpha`; None where there is none.
    """
    if result.scope == "methods_assumed_sd":
        low, high = result.interval_at(1 - alpha)
        half = (high - low) / 2
        shown = half * (1 + float(special.ndtri(target) / special.ndtri(1 - alpha / 2)))
        return shown if shown < 1 else None
    if result.variance is None:
        return smallest_detectable(Design(result.n, result.discordant, alpha=alpha), target)
    v = result.variance
    flips, seeds = float(v.flips), float(v.seeds)
    item, run = max(float(v.items) - flips, 0.0), max(seeds - flips, 0.0)
    spread = result.spread
    degrees: tuple[int, ...] = (result.run_degrees,)
    if spread and None not in (spread.accuracy_sd_a, spread.accuracy_sd_b):
        degrees = (result.runs_a - 1, result.runs_b - 1)

    def at(difference: float) -> float:
        return _t_power(difference, item, flips, run, degrees, result.n, alpha)

    return _smallest(at, target)


def _smallest(at: Callable[[float], float], target: float) -> float | None:
    """Where `at` reaches `target`, to half a hundredth of a point."""

    @cache
    def beyond(difference: float) -> float:
        # As a quantile, power is nearly a straight line, so that few of its costly values are needed.
        return float(special.ndtri(min(max(at(difference), 1e-12), 1 - 1e-12)) - special.ndtri(target))

    low, high = 0.0, 1 / 64
    while beyond(high) < 0:
        if high == 1:
            return None
        low, high = high, 2 * high
    return root(beyond, low, high, 5e-5)


@lru_cache(maxsize=64)
def _critical(n: int, alpha: float) -> Floats:
    """For m = 0..n discordant items the largest count of the rarer side that is significant, -1 for none:
    the last c with (m - 2 c) / sqrt(m) at or beyond the normal quantile. Shape (n + 1,).
    """
    m = np.arange(n + 1)
    return np.asarray(np.maximum(np.floor((m + special.ndtri(alpha / 2) * np.sqrt(m)) / 2), -1.0))


@lru_cache(maxsize=64)
def _discordant_items(n: int, discordant: float) -> tuple[NDArray[np.intp], Floats]:
    """The numbers m of discordant items that are not negligible, and the chance of each."""
    spread = 6 * math.sqrt(n * discordant * (1 - discordant)) + 9  # all but 1e-8 of the chance
    first, last = max(0, math.floor(n * discordant - spread)), min(n, math.ceil(n * discordant + spread))
    m = np.arange(first, last + 1)
    ways = special.gammaln(n + 1) - special.gammaln(m + 1) - special.gammaln(n - m + 1)
    return m, np.exp(ways + special.xlogy(m, discordant) + special.xlog1py(n - m, -discordant))


def _mcnemar_power(difference: float, discordant: float, n: int, alpha: float) -> float:
    """Power of the two-sided score test (McNemar's) over all numbers m of discordant items, 0..n."""
    if discordant == 0:
        return 0.0
    m, chance = _discordant_items(n, discordant)
    critical = _critical(n, alpha)[m]
    favour = (discordant + difference) / (2 * discordant)
    counts = np.maximum(critical, 0)
    rejects = special.bdtr(counts, m, 1 - favour) + special.bdtr(counts, m, favour)
    # Of no discordant item the statistic is 0.
    return float((chance * np.where((critical < 0) | (m == 0), 0, rejects)).sum())


@lru_cache(maxsize=64)
def _half_widths(
    item: float, flips: float, run: float, run_degrees: tuple[int, ...], n: int, alpha: float
) -> Floats:
    """Half widths of the interval over the chi-square distributions of the groups' run variances, taken to
    be equal but for their numbers of runs; (GRID,) or, where no runs vary, (1,).
    """
    parts, freedom = [np.zeros(1)], np.zeros(1)
    if any(run_degrees):
        points = round(GRID ** (1 / len(run_degrees)))
        middles = (np.arange(points) + 0.5) / points
        shares = np.array([1 / (d + 1) for d in run_degrees])
        drawn = [special.gammaincinv(d / 2, middles) / (d / 2) for d in run_degrees]
        parts = [
            (run + flips) * share * part.ravel()
            for share, part in zip(shares / shares.sum(), np.meshgrid(*drawn), strict=True)
        ]
        freedom = crossed.degrees_of_sum(parts, run_degrees)
    seeds = np.sum(parts, axis=0)
    sampled = np.full_like(seeds, item + flips)
    total, degrees = crossed.combine(sampled, np.full_like(seeds, flips), seeds, freedom, n - 1)
    least = crossed.floor(n, float(np.mean(run_degrees)) + 1)
    over_items = special.stdtrit(n - 1, 1 - alpha / 2) * np.sqrt(np.maximum(sampled, least))
    over_both = special.stdtrit(degrees, 1 - alpha / 2) * np.sqrt(np.maximum(total, least))
    return np.asarray(np.maximum(over_both, over_items))


def _t_power(
    difference: float,
    item: float,
    flips: float,
    run: float,
    run_degrees: tuple[int, ...],
    n: int,
    alpha: float,
) -> float:
    """Power of the t-test over items and seeds. item, flips, run: what each adds to the variance of the
    difference; run_degrees: of each group of several runs.
    """
    half = _half_widths(item, flips, run, run_degrees, n, alpha)
    error = math.sqrt(item + flips + run)
    if error == 0:
        return float((difference > half).mean())
    return float(
        (special.ndtr((difference - half) / error) + special.ndtr((-half - difference) / error)).mean()
    )
