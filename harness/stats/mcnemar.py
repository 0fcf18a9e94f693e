"""One run of each of two strategies on the same items: the 2x2 table, its test and its interval.

Legend: n items; b and c the items that only A and only B gets right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from harness.stats.roots import root

Interval = tuple[float, float]


@dataclass(frozen=True)
class Table:
    """The 2x2 table of two runs on the same items."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither


def outcomes(correct: ArrayLike) -> NDArray[np.float64]:
    """Outcomes as (S, n) of 0.0 and 1.0, from (S, n) or (n,) of any type.

    Raises ValueError for other values, other shapes, or none.
    """
    values = np.atleast_2d(np.asarray(correct, dtype=np.float64))
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"outcomes have shape {np.shape(correct)}, expected (runs, items), neither empty")
    if not ((values == 0) | (values == 1)).all():
        raise ValueError("outcomes must be 0 or 1")
    return values


def table(correct_a: ArrayLike, correct_b: ArrayLike) -> Table:
    """The 2x2 table of two runs. correct_a, correct_b: (n,) of 0/1.

    Raises ValueError for other values or lengths that differ.
    """
    a, b = outcomes(correct_a)[0].astype(bool), outcomes(correct_b)[0].astype(bool)
    if a.shape != b.shape:
        raise ValueError(f"not the same items: {a.shape[0]} and {b.shape[0]}")
    counts = ((a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum())
    return Table(*(int(count) for count in counts))


def score_p(outcome: Table, extra: float = 0.0) -> float:
    """Two-sided p-value of no difference by `tango_z`: below a level exactly where Tango's interval at that
    level leaves out 0. 1 where both are right equally often. With `extra` 0 it is McNemar's test without
    continuity correction (1947, Psychometrika 12:153-157), whose size docs/statistics.md gives.
    """
    return 2 * float(special.ndtr(-abs(tango_z(outcome, 0.0, extra))))


def tango_z(outcome: Table, difference: float, extra: float = 0.0) -> float:
    """The score statistic of "the true difference is `difference`" (Tango 1998, Stat. Med. 17:891-908).

    extra: a variance of the difference that is known from elsewhere and added to that of the items.
    """
    n, b, c = outcome.n, outcome.only_a, outcome.only_b
    linear = (2 * n - b + c) * difference - b - c
    root = math.sqrt(max(linear**2 + 8 * n * c * difference * (1 - difference), 0.0))
    other = (root - linear) / (4 * n)  # the share only B gets right, restricted maximum likelihood
    variance = n * (2 * other + difference * (1 - difference)) + n**2 * extra
    distance = b - c - n * difference
    # Rounding leaves about 1e-16 n where the variance is exactly 0.
    if variance <= 1e-12 * n:
        return math.copysign(math.inf, distance) if abs(distance) > 1e-9 * n else 0.0
    return distance / math.sqrt(variance)


def tango_interval(outcome: Table, confidence: float = 0.95, extra: float = 0.0) -> Interval:
    """Tango's score interval of the difference of two paired proportions (1998; `extra` as in tango_z);
    recommended by Fagerland et al. 2014 (Stat. Med. 33:2850-2875). Within -1 to 1; never of width 0.

    Raises ValueError for no items.
    """
    if outcome.n < 1:
        raise ValueError("no items to compare")
    z = float(special.ndtri((1 + confidence) / 2))
    estimate = (outcome.only_a - outcome.only_b) / outcome.n

    def end(sign: float) -> float:
        if estimate == sign:
            return sign
        last = sign * (1 - 1e-12)
        if abs(tango_z(outcome, last, extra)) <= z:
            return sign
        low, high = sorted((estimate, last))
        return root(lambda d: tango_z(outcome, d, extra) + sign * z, low, high, 1e-12)

    return end(-1.0), end(1.0)
