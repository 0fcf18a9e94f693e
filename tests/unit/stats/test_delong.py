"""AUROC and DeLong's test against the definition, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from harness.stats.delong import auroc, delong_test


def by_pairs(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """DeLong's structural components, (P,) and (N,): the mean of [x > y] + [x = y] / 2 over the others."""
    x, y = scores[labels == 1][:, None], scores[labels == 0][None, :]
    kernel = (x > y) + 0.5 * (x == y)
    return kernel.mean(axis=1), kernel.mean(axis=0)


def test_by_hand() -> None:
    """Positive 3 1, negative 2 0: pairs won 1 1 0 1, area 3/4. Components of positives 1, .5 (variance
    .125), of negatives .5, 1 (variance .125): se^2 = .125 / 2 + .125 / 2."""
    result = auroc([1, 1, 0, 0], [3, 1, 2, 0])
    assert result.value == 0.75
    assert result.se == pytest.approx(math.sqrt(0.125))
    assert result.interval == pytest.approx((0.75 - 1.959964 * math.sqrt(0.125), 1.0), abs=1e-6)


def test_ties_and_covariance_by_definition() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    a = np.round(labels + rng.normal(0, 1, 80), 0)  # many ties
    b = 0.5 * labels + 0.5 * a + rng.normal(0, 1, 80)
    (a10, a01), (b10, b01) = by_pairs(labels, a), by_pairs(labels, b)
    result = delong_test(labels, a, b)
    difference = a10.mean() - b10.mean()
    variance = (a10 - b10).var(ddof=1) / len(a10) + (a01 - b01).var(ddof=1) / len(a01)
    assert result.difference == pytest.approx(difference)
    assert result.se == pytest.approx(math.sqrt(variance))
    assert result.p == pytest.approx(2 * stats.norm.sf(abs(difference) / math.sqrt(variance)))
    assert auroc(labels, a).value == pytest.approx(
        stats.mannwhitneyu(a[labels == 1], a[labels == 0]).statistic / (len(a10) * len(a01))
    )
    swapped = delong_test(labels, b, a)
    assert swapped.difference == pytest.approx(-result.difference)
    assert swapped.p == pytest.approx(result.p)


def test_the_same_scores() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 50), rng.normal(size=50)
    same = delong_test(labels, scores, 3 * scores + 1)  # only the order counts
    assert (same.difference, same.se, same.z, same.p) == (0.0, 0.0, None, 1.0)
    assert auroc(labels, scores).value == pytest.approx(1 - auroc(labels, -scores).value)


def test_separated_classes() -> None:
    result = auroc([0, 0, 1, 1], [1, 2, 3, 4])
    assert (result.value, result.se, result.interval) == (1.0, 0.0, (1.0, 1.0))


def test_coverage_and_false_positives() -> None:
    """Normal scores 1 apart: the area is Phi(1 / sqrt 2)."""
    rng = np.random.default_rng(2)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    labels = np.repeat([0, 1], 100)
    covered = false = 0
    for _ in range(400):
        shared = labels + rng.normal(0, math.sqrt(0.5), 200)
        a, b = (shared + rng.normal(0, math.sqrt(0.5), 200) for _ in range(2))
        low, high = auroc(labels, a).interval
        covered += low <= truth <= high
        false += delong_test(labels, a, b).p <= 0.05
    assert 0.925 <= covered / 400 <= 0.975
    assert false / 400 <= 0.075


def test_refusals() -> None:
    with pytest.raises(ValueError, match="two items of each class"):
        auroc([0, 0, 1], [1, 2, 3])
    with pytest.raises(ValueError, match="none NaN"):
        auroc([0, 0, 1, 1], [1, 2, 3, float("nan")])
    with pytest.raises(ValueError, match="0 and 1"):
        auroc([0, 2, 1, 1], [1, 2, 3, 4])
