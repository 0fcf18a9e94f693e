"""What the intervals and tests of harness/stats promise where it can be computed, and one simulation.

    python benchmarks/stats_coverage.py

Prints the figures of docs/statistics.md that are not in the tables of stats_calibration.py. One core, a minute.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import special
from stats_calibration import ITEMS, compare
from stats_worlds import answers, world_of_points

from harness.stats import crossed
from harness.stats.intervals import wilson

MIDDLES = (np.arange(120) + 0.5) / 120
"""Quantiles at which the chi-square distributions of the seeds' variances are integrated."""
OF_ITEMS = np.linspace(0, 0.95, 20)
OF_A = np.linspace(0.5, 0.99, 15)
SIMULATIONS = 2_000


def of_difference(of_items: float, of_a: float, seeds: int) -> float:
    """Coverage of the 95% interval of a difference, for normal data: the average over what the seeds may show.

    of_items: share of the variance that is known, of_a: A's share of the rest.
    """
    a, b = (x.ravel() for x in np.meshgrid(*[_drawn(seeds)] * 2))
    return _coverage(of_items, [(1 - of_items) * of_a * a, (1 - of_items) * (1 - of_a) * b], seeds)


def of_accuracy(of_items: float, seeds: int) -> float:
    """The same of one strategy's accuracy."""
    return _coverage(of_items, [(1 - of_items) * _drawn(seeds)], seeds)


def _drawn(seeds: int) -> np.ndarray:
    half = (seeds - 1) / 2
    return np.asarray(special.gammaincinv(half, MIDDLES) / half)


def _coverage(of_items: float, parts: list[np.ndarray], seeds: int) -> float:
    degrees = crossed.degrees_of_sum(parts, [seeds - 1] * len(parts))
    items = np.full_like(parts[0], of_items)
    total, freedom = crossed.combine(items, np.zeros_like(items), sum(parts), degrees, 10**6)
    half = np.maximum(special.stdtrit(freedom, 0.975) * np.sqrt(total), special.ndtri(0.975) * np.sqrt(items))
    return float((2 * special.ndtr(half) - 1).mean())


def of_wilson(n: int) -> tuple[float, float]:
    """Lowest and highest coverage of Wilson's interval over accuracies of 0.25 to 0.9, exactly."""
    hits = np.arange(n + 1)
    low, high = np.array([wilson(int(k), n) for k in hits]).T
    ways = special.gammaln(n + 1) - special.gammaln(hits + 1) - special.gammaln(n - hits + 1)
    found = []
    for p in np.linspace(0.25, 0.9, 651):
        chance = np.exp(ways + hits * np.log(p) + (n - hits) * np.log1p(-p))
        found.append(float(chance[(low <= p) & (p <= high)].sum()))
    return min(found), max(found)


def single_runs(points: float, n: int) -> float:
    """How often the test of one run each calls equal methods different whose runs vary by so many points."""
    rng, shown, done = np.random.default_rng([19, n, int(10 * points)]), 0, 0
    while done < SIMULATIONS:
        a, b = (own.correct for own in answers(world_of_points(points, 0.0), [0.5, 0.5], n, 1, 200, rng))
        p, _, _ = compare(a, b, (crossed.group(a), crossed.group(b)), False)
        shown, done = shown + int((p <= 0.05).sum()), done + 200
    return shown / SIMULATIONS


def per_cent(values: list[float]) -> str:
    return f"{100 * min(values):.1f} to {100 * max(values):.1f}"


def main() -> None:
    print("| seeds of each | coverage of the difference | coverage of one accuracy |\n|---|---|---|")
    for seeds in (2, 3, 4, 5, 10):
        two = [of_difference(share, a, seeds) for share in OF_ITEMS for a in OF_A]
        one = [of_accuracy(share, seeds) for share in OF_ITEMS]
        print(f"| {seeds} | {per_cent(two)} | {per_cent(one)} |")
    for n in (100, 500):
        print(f"Wilson's interval, n {n}: {per_cent(list(of_wilson(n)))}")
    print(
        f"Equal methods, one run of each, called different by the test of the runs ({SIMULATIONS:,} pairs):"
    )
    for n in ITEMS:
        told = ", ".join(f"sd {sd:g}: {100 * single_runs(sd, n):.1f}" for sd in (0.0, 1.0, 2.0))
        print(f"n {n}: {told}", flush=True)


if __name__ == "__main__":
    main()
