"""Holm's procedure."""

from __future__ import annotations

import pytest

from harness.stats.family import holm, rejected


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04 .5, times 5 4 3 2 1: .025 .04 .09 .08 .5; never falling: .08 becomes .09.
    # statsmodels 0.15.0: multipletests([.01, .04, .03, .005, .5], method="holm")[1] gives the same.
    assert holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert rejected([0.01, 0.04, 0.03, 0.005, 0.5]) == [True, False, False, True, False]


def test_holm_ties_and_limit() -> None:
    # statsmodels 0.15.0: multipletests([.001, .011, .02, .04, .04, .8], method="holm")[1]
    assert holm([0.001, 0.011, 0.02, 0.04, 0.04, 0.8]) == pytest.approx([0.006, 0.055, 0.08, 0.12, 0.12, 0.8])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.03]) == [0.03]


@pytest.mark.parametrize("wrong", [float("nan"), -0.1, 1.5])
def test_not_a_p_value(wrong: float) -> None:
    with pytest.raises(ValueError, match="not a p-value"):
        holm([0.5, wrong])
