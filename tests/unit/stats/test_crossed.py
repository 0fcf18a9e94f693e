"""The degrees of freedom of a comparison: by hand, and by integration over what seeds may show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from harness.stats import crossed


def coverage(of_items: float, of_a: float, seeds: int) -> float:
    """Coverage of the 95% interval for normal data, without simulation: the average over what the seeds of
    A and B may show. of_items: share of the variance that is known, of_a: A's share of the rest.
    """
    middles = (np.arange(120) + 0.5) / 120
    drawn = special.gammaincinv((seeds - 1) / 2, middles) / ((seeds - 1) / 2)
    a, b = (x.ravel() for x in np.meshgrid(drawn, drawn))
    parts = [(1 - of_items) * of_a * a, (1 - of_items) * (1 - of_a) * b]
    degrees = crossed.degrees_of_sum(parts, [seeds - 1, seeds - 1])
    items = np.full_like(a, of_items)
    total, freedom = crossed.combine(items, np.zeros_like(a), parts[0] + parts[1], degrees, 10**6)
    half = special.stdtrit(freedom, 0.975) * np.sqrt(total)
    return float((2 * special.ndtr(half) - 1).mean())


@pytest.mark.parametrize(
    ("seeds", "low", "high"), [(3, 0.932, 0.957), (4, 0.94, 0.956), (5, 0.944, 0.955), (10, 0.948, 0.954)]
)
def test_coverage_whichever_strategy_varies(seeds: int, low: float, high: float) -> None:
    """As benchmarks/stats_coverage.py makes them for docs/statistics.md, on a coarser grid."""
    found = [coverage(w, a, seeds) for w in (0.0, 0.1, 0.3, 0.6, 0.9) for a in (0.5, 0.8, 0.95, 0.98)]
    assert low <= min(found)
    assert max(found) <= high


def test_degrees_of_a_sum_by_hand() -> None:
    def degrees(*parts: tuple[float, int]) -> float:
        return float(crossed.degrees_of_sum([np.array(v) for v, _ in parts], [d for _, d in parts]))

    assert degrees((0.2, 4)) == pytest.approx(4)
    # (1 + 1)^2 / (1/3 + 1/3) - 1
    assert degrees((1.0, 2), (1.0, 2)) == pytest.approx(5)
    # (1 + 2)^2 / (1/3 + 4/5) - 1
    assert degrees((1.0, 2), (2.0, 4)) == pytest.approx(9 / (1 / 3 + 4 / 5) - 1)
    assert degrees((1.0, 2), (0.0, 9)) == pytest.approx(2)
    assert degrees((0.0, 2), (0.0, 4)) == 6  # nothing to weigh them by


def test_each_groups_own_seeds_are_used() -> None:
    """Five runs of A that hardly vary say nothing about two of B that do."""
    rng = np.random.default_rng(0)
    a = (rng.random((5, 400)) < 0.7).astype(float)
    b = np.stack([np.arange(400) < 240, np.arange(400) < 320]).astype(float)
    groups = [crossed.group(a), crossed.group(b)]
    flips, seeds, degrees = crossed.of_runs(groups, [False, False])
    expected = [groups[0].run_variance / 5, groups[1].run_variance / 2]
    assert float(seeds) == pytest.approx(float(expected[0] + expected[1]))
    assert float(flips) == pytest.approx(float(groups[0].flip_variance / 5 + groups[1].flip_variance / 2))
    assert 1 < float(degrees) < 1.3
