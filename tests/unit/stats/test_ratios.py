"""Ratios of sums as means of item contributions: scikit-learn's F1, known perplexities, intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from harness.stats.intervals import normal_mean
from harness.stats.ratios import ratio, set_f1


def test_the_mean_is_the_ratio() -> None:
    assert ratio([2.0, 3.0, 1.0], [1, 2, 1]).mean() == pytest.approx(6 / 4)
    assert ratio([2.0, 2.0], [4, 4]) == pytest.approx(np.full(2, 0.5))
    with pytest.raises(ValueError, match="above 0"):
        ratio([1.0], [0.0])


def test_the_interval_covers_the_ratio_of_all() -> None:
    """Documents of unequal length, whose loss a token depends on it."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 200, 100_000)
    losses = tokens * (2 + 0.004 * tokens) + rng.normal(0, 1, 100_000) * np.sqrt(tokens)
    true, covered = losses.sum() / tokens.sum(), 0
    for _ in range(1000):
        own = rng.integers(0, 100_000, 120)
        low, high = normal_mean(ratio(losses[own], tokens[own]))
        covered += low <= true <= high
    assert 0.93 < covered / 1000 < 0.97


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("seed", range(4))
def test_f1_of_sets_is_scikit_learns(seed: int, average: str) -> None:
    rng = np.random.default_rng(seed)
    truth = (rng.random((90, 8)) < 0.2).astype(int)
    said = np.where(rng.random((90, 8)) < 0.7, truth, rng.random((90, 8)) < 0.3).astype(int)
    truth[:, 0] = said[:, 0] = 0  # neither there nor said
    expected = f1_score(truth, said, average=average, zero_division=0)
    assert set_f1(truth, said, average).mean() == pytest.approx(expected, abs=1e-9)


def test_contributions_are_those_of_leaving_each_item_out() -> None:
    rng = np.random.default_rng(1)
    truth, said = ((rng.random((30, 4)) < 0.4).astype(int) for _ in range(2))
    whole = f1_score(truth, said, average="macro", zero_division=0)
    without = np.array([
        f1_score(np.delete(truth, i, 0), np.delete(said, i, 0), average="macro", zero_division=0) for i in range(30)
    ])  # fmt: skip
    values = 30 * whole - 29 * without
    assert set_f1(truth, said) == pytest.approx(values - values.mean() + whole, abs=1e-9)
