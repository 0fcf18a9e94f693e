"""Confidence intervals of one sample's statistics. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The 97.5% point of the standard normal distribution."""


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209-212).

    Raises ValueError for n < 1 or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"no proportion: {successes} of {n}")
    p = successes / n
    denominator = 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / denominator
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / denominator
    # At the ends the formula gives 0 and 1 only up to rounding.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], n: int, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile bootstrap interval (Efron 1979) of `statistic(indices)` over `n` items.

    Deterministic for a seed.
    """
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def normal_mean(values: NDArray[np.float64], z: float = Z95) -> tuple[float, float]:
    """95% interval of a mean by the central limit theorem (Miller 2024, arXiv 2411.00640).

    Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError("a standard error needs two values")
    half = z * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    return mean - half, mean + half
