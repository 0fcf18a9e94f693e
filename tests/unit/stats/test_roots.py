"""The root finder against functions whose zeros are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from harness.stats.roots import root


@pytest.mark.parametrize(
    ("f", "low", "high", "zero"),
    [
        (lambda x: x**3 - 2, 0.0, 2.0, 2 ** (1 / 3)),
        (lambda x: math.exp(-x) - 0.5, -5.0, 40.0, math.log(2)),
        (lambda x: 1 / (1 - x) - 1000 if x < 1 else math.inf, 0.0, 1.0, 0.999),
        (lambda x: x - 0.25, 0.25, 1.0, 0.25),
        (lambda x: (x - 0.3) ** 9, 0.0, 1.0, 0.3),
        (lambda x: -1.0 if x < 0.7 else 1.0, 0.0, 1.0, 0.7),
    ],
)
def test_zero_to_the_tolerance(f: Callable[[float], float], low: float, high: float, zero: float) -> None:
    assert root(f, low, high, 1e-10) == pytest.approx(zero, abs=2e-10 if f(zero + 0.01) > 1e-9 else 0.02)


def test_few_trials_of_a_smooth_function_and_no_endless_search() -> None:
    tried = []
    root(lambda x: tried.append(x) or math.tanh(x - 0.1234), -1.0, 3.0, 1e-12)  # type: ignore[func-returns-value]
    assert len(tried) < 15
    tried.clear()
    root(lambda x: tried.append(x) or (1.0 if x > 0.7 else -1.0), 0.0, 1.0, 1e-12)  # type: ignore[func-returns-value]
    assert len(tried) < 60


def test_no_zero_between() -> None:
    with pytest.raises(ValueError, match="no zero between"):
        root(lambda x: x + 1, 0.0, 1.0, 1e-6)
