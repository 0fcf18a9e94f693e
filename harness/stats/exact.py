"""Exact unconditional tests of one run of each of two strategies, for small numbers of items.

Tango's score test is right for many items only: at 150 items and a margin of 2 points it is wrong in up
to 8.9% of cases in place of 5%. Here the same statistic orders the tables, and the p-value is the largest
chance, over every discordant share the data could have come from, of a table at least as extreme
(Barnard 1945; for paired proportions Hsueh, Liu & Chen 2001, Biometrics 57:478-483, and Sidik 2003, Stat.
Med. 22:265-278), so that its size is at most the level whatever the number of items.

Legend: n items, b and c those only A and only B gets right, m = b + c; d the difference tested.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.stats.mcnemar import Interval, Table, tango_z
from harness.stats.roots import root

Floats = NDArray[np.float64]

GRID = 64
"""Discordant shares tried first; then as many again, twice, around the one where the chance is largest."""
WIDEST = 7.5
"""Standard deviations of the number of discordant items beyond which nothing is added up (1e-13)."""
TIE = 1e-9
"""Statistics nearer than this are of tables equally extreme."""


def p_at_most(table: Table, bound: float) -> float:
    """One-sided p-value of "the difference is at most `bound`" (small: it is larger).

    Raises ValueError for no items or a bound that is not between -1 and 1.
    """
    if table.n < 1 or not -1 < bound < 1:
        raise ValueError(f"no test of {table.n} items against {bound}")
    return _p(table.only_a, table.only_b, table.n, bound)


def p_at_least(table: Table, bound: float) -> float:
    """One-sided p-value of "the difference is at least `bound`" (small: it is smaller)."""
    return p_at_most(Table(table.both, table.only_b, table.only_a, table.neither), -bound)


def interval(table: Table, confidence: float = 0.95) -> Interval:
    """The differences that neither one-sided test rejects at (1 - confidence) / 2 each."""
    tail = (1 - confidence) / 2
    swapped = Table(table.both, table.only_b, table.only_a, table.neither)
    return _lower(table, tail), -_lower(swapped, tail)


def _lower(table: Table, tail: float) -> float:
    """The largest bound below the estimate that is rejected, to a thousandth of a point."""
    estimate = (table.only_a - table.only_b) / table.n
    if estimate <= -1:
        return -1.0
    low, high = -1 + 1e-9, min(estimate, 1 - 1e-9)
    if p_at_most(table, high) < tail:  # all items for A: even the nearest bound is rejected
        return high
    if p_at_most(table, low) > tail:
        return -1.0
    return root(lambda bound: p_at_most(table, bound) - tail, low, high, 1e-5)


@lru_cache(maxsize=512)
def _p(b: int, c: int, n: int, bound: float) -> float:
    observed = tango_z(Table(0, b, c, n - b - c), bound)
    least = _least_favourable(n, bound, observed)  # (n + 1,)
    ends = (math.asin(math.sqrt(abs(bound))), math.pi / 2)
    best, width = 0.0, ends[1] - ends[0]
    low, high = ends
    for _ in range(3):
        angles = np.linspace(low, high, GRID)
        chances = [_chance(math.sin(angle) ** 2, bound, n, least) for angle in angles]
        place = int(np.argmax(chances))
        best = max(best, chances[place])
        width /= GRID / 4
        low, high = max(ends[0], angles[place] - width), min(ends[1], angles[place] + width)
    return min(best, 1.0)


def _least_favourable(n: int, bound: float, observed: float) -> NDArray[np.int64]:
    """For each m = 0..n the smallest b whose statistic is at least `observed`; m + 1 for none. The statistic
    rises with b, so that halving finds it.
    """
    m = np.arange(n + 1)
    low, high = np.zeros(n + 1, dtype=np.int64), m + 1  # the answer lies in low..high
    for _ in range(int(n + 1).bit_length() + 1):
        middle = (low + high) // 2
        reached = statistics(np.minimum(middle, m), m - np.minimum(middle, m), n, bound) >= observed - TIE
        reached |= middle > m
        high = np.where(reached, middle, high)
        low = np.where(reached | (low >= high), low, np.minimum(middle + 1, high))
    return high


def statistics(b: NDArray[np.int64], c: NDArray[np.int64], n: int, bound: float) -> Floats:
    """`mcnemar.tango_z` of many tables of n items; b, c and the result have one shape."""
    linear = (2 * n - b + c) * bound - b - c
    inner = np.sqrt(np.maximum(linear**2 + 8.0 * n * c * bound * (1 - bound), 0.0))
    other = (inner - linear) / (4 * n)
    variance = n * (2 * other + bound * (1 - bound))
    distance = (b - c) - n * bound
    certain = variance <= 1e-12 * n
    with np.errstate(divide="ignore", invalid="ignore"):
        found = distance / np.sqrt(np.where(certain, 1.0, variance))
    none = np.where(np.abs(distance) > 1e-9 * n, np.copysign(np.inf, distance), 0.0)
    return np.asarray(np.where(certain, none, found))


def _chance(discordant: float, bound: float, n: int, least: NDArray[np.int64]) -> float:
    """Of a table at least as extreme, where the difference is `bound` and this share is discordant."""
    discordant = min(max(discordant, abs(bound)), 1.0)
    if discordant == 0:
        return float(least[0] == 0)
    spread = WIDEST * math.sqrt(n * discordant * (1 - discordant)) + WIDEST
    first, last = max(0, math.floor(n * discordant - spread)), min(n, math.ceil(n * discordant + spread))
    m = np.arange(first, last + 1)
    ways = special.gammaln(n + 1) - special.gammaln(m + 1) - special.gammaln(n - m + 1)
    weights = np.exp(ways + special.xlogy(m, discordant) + special.xlog1py(n - m, -discordant))
    favour = min(max((discordant + bound) / (2 * discordant), 0.0), 1.0)
    own = least[first : last + 1]
    # P(at least `own` of m) is P(at most m - own of m) for the other side.
    tails = np.where(own > m, 0.0, special.bdtr(np.maximum(m - own, 0), m, 1 - favour))
    return float((weights * tails).sum())
