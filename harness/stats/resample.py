"""The paired bootstrap: a check on the intervals in closed form, and an interval for other scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.crossed import order_by_cluster

CHUNK = 2_000_000
"""Resampled values held at once."""


def paired_bootstrap(
    differences: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean difference over items, both strategies resampled together
    (Efron 1979, Ann. Stat. 7:1-26); whole clusters are resampled where given (Field & Welsh 2007).

    differences: (n,), A's outcome less B's (means over seeds where there are several; the interval is then
    given these seeds). clusters: (n,) labels. Deterministic for a seed. Raises ValueError for no items.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"differences have shape {values.shape}, expected (items,)")
    sums, sizes = values, np.ones(len(values))
    if clusters is not None:
        order, starts = order_by_cluster(clusters)
        sums, sizes = np.add.reduceat(values[order], starts), np.add.reduceat(sizes, starts)
    generator = np.random.default_rng(seed)
    means = []
    step = max(1, CHUNK // len(sums))
    for begin in range(0, resamples, step):
        chosen = generator.integers(0, len(sums), (min(step, resamples - begin), len(sums)))
        means.append(sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return float(low), float(high)
