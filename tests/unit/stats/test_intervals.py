"""Intervals against published figures and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.stats.intervals import bootstrap, normal_mean, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: Wilson's score
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 10, 1273])
def test_wilson_at_its_ends(n: int) -> None:
    low, high = wilson(0, n)
    assert low == 0.0
    assert high == pytest.approx(1.959963984540054**2 / (n + 1.959963984540054**2))
    assert wilson(n, n) == (pytest.approx(1 - high), 1.0)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} of {n}"):
        wilson(successes, n)


def test_wilson_holds_the_value_and_mirrors() -> None:
    for n in (3, 17, 500):
        for k in range(n + 1):
            low, high = wilson(k, n)
            assert 0 <= low <= k / n <= high <= 1
            assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("n", "p"), [(30, 0.5), (200, 0.25), (200, 0.9)])
def test_wilson_covers_the_truth_in_95_of_100(n: int, p: float) -> None:
    hits = np.random.default_rng(1).binomial(n, p, 4000)
    covered = np.mean([low <= p <= high for low, high in (wilson(int(k), n) for k in hits)])
    assert 0.93 < covered < 0.975


def test_bootstrap_is_that_of_the_mean() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.5, 400)
    low, high = bootstrap(lambda i: float(values[i].mean()), len(values))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap(lambda i: float(values[i].mean()), len(values)) == (low, high)
    assert bootstrap(lambda i: float(values[i].mean()), len(values), seed=1) != (low, high)


def test_normal_mean_by_hand() -> None:
    # mean 4, sample variance ((2^2 + 0 + 2^2) / 2) = 4, standard error 2 / sqrt(3)
    half = 1.959963984540054 * 2 / math.sqrt(3)
    assert normal_mean(np.array([2.0, 4.0, 6.0])) == pytest.approx((4 - half, 4 + half))


def test_normal_mean_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="two values"):
        normal_mean(np.array([1.0]))
