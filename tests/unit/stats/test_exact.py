"""The exact unconditional tests, against every table and every discordant share of few items."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy import stats

from harness.stats import exact
from harness.stats.mcnemar import Table, tango_z


def chances(n: int, difference: float, discordant: float) -> dict[tuple[int, int], float]:
    """Of every table (b, c)."""
    p, q = (discordant + difference) / 2, (discordant - difference) / 2
    rest = max(1 - discordant, 0.0)
    return {
        (b, c): comb(n, b) * comb(n - b, c) * p**b * max(q, 0.0) ** c * rest ** (n - b - c)
        for b in range(n + 1)
        for c in range(n + 1 - b)
    }


@pytest.mark.parametrize("bound", [-0.1, 0.0, 0.2])
@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 3), (3, 1), (5, 0), (0, 5), (2, 2), (10, 0)])
def test_p_is_the_largest_chance_of_a_table_as_extreme(b: int, c: int, bound: float) -> None:
    n = 10
    observed = tango_z(Table(0, b, c, n - b - c), bound)
    extreme = [
        (x, y)
        for x, y in chances(n, 0.0, 0.5)
        if tango_z(Table(0, x, y, n - x - y), bound) >= observed - 1e-9
    ]
    expected = 0.0
    for discordant in np.linspace(abs(bound), 1, 800):
        own = chances(n, bound, discordant)
        expected = max(expected, sum(own[table] for table in extreme))
    assert exact.p_at_most(Table(0, b, c, n - b - c), bound) == pytest.approx(min(expected, 1), abs=2e-5)


@pytest.mark.parametrize("n", [8, 15])
def test_the_size_is_at_most_the_level_over_the_whole_hypothesis(n: int) -> None:
    """Also where the true loss is larger than the bound: nothing is gained inside the hypothesis."""
    bound = -0.1
    rejected = [
        (b, c) for b in range(n + 1) for c in range(n + 1 - b)
        if exact.p_at_most(Table(0, b, c, n - b - c), bound) < 0.05
    ]  # fmt: skip
    assert rejected
    for difference in (-0.1, -0.15, -0.3, -0.6):
        for discordant in np.linspace(abs(difference), 1, 60):
            own = chances(n, difference, discordant)
            assert sum(own[table] for table in rejected) < 0.05


def test_tangos_own_size_is_not() -> None:
    """What the exact test is for: of 150 items at a margin of 2 points, 8.9% where 5 were promised."""
    n, bound = 150, -0.02
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    there = b + c <= n
    z = np.where(there, exact.statistics(b, np.where(there, c, 0), n, bound), -np.inf)
    sizes = []
    for discordant in (0.02, 0.0283, 0.04):
        shares = ((discordant + bound) / 2, (discordant - bound) / 2)
        chance = stats.multinomial.pmf(
            np.stack([b, c, np.maximum(n - b - c, 0)], axis=-1), n, (*shares, 1 - sum(shares))
        )
        sizes.append(float(chance[there & (z < -stats.norm.ppf(0.95))].sum()))
    assert 0.087 < max(sizes) < 0.09
    # Six lost of 150 is what Tango's test calls worse by more than the margin, and the exact one does not.
    table = Table(144, 0, 6, 0)
    assert tango_z(table, bound) < -stats.norm.ppf(0.95)
    assert exact.p_at_least(table, bound) > 0.05


def test_statistics_are_tangos() -> None:
    tables = [(0, 0), (3, 1), (1, 3), (10, 0), (0, 10)]
    b, c = (np.array(column) for column in zip(*tables, strict=True))
    for bound in (-0.3, 0.0, 0.02):
        expected = [tango_z(Table(0, x, y, 10 - x - y), bound) for x, y in tables]
        assert exact.statistics(b, c, 10, bound) == pytest.approx(expected)


@pytest.mark.parametrize(("b", "c", "n"), [(4, 1, 50), (0, 0, 40), (30, 12, 400), (5, 0, 5), (0, 5, 5)])
def test_the_interval_is_what_the_tests_do_not_reject(b: int, c: int, n: int) -> None:
    table = Table(0, b, c, n - b - c)
    low, high = exact.interval(table, 0.9)
    assert low <= (b - c) / n <= high
    if low > -1:
        assert exact.p_at_most(table, low - 1e-4) < 0.05
        assert exact.p_at_most(table, min(low + 1e-3, 0.999)) > 0.05
    if high < 1:
        assert exact.p_at_least(table, high + 1e-4) < 0.05
    mirrored = exact.interval(Table(0, c, b, n - b - c), 0.9)
    assert mirrored == pytest.approx((-high, -low), abs=1e-4)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no test"):
        exact.p_at_most(Table(0, 0, 0, 0), 0.1)
    with pytest.raises(ValueError, match="no test"):
        exact.p_at_most(Table(1, 0, 0, 0), 1.0)
