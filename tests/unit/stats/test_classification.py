"""Scores against figures made by hand and by scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from harness.stats.classification import (
    brier,
    choice_probabilities,
    expected_calibration_error,
    macro_f1,
    nll,
)

GOLD = np.array([0, 0, 1, 2])
LOGPROBS = [
    tuple(math.log(p) for p in row)
    for row in ((0.7, 0.2, 0.1), (0.3, 0.6, 0.1), (0.25, 0.5, 0.25), (0.1, 0.1, 0.8))
]


def test_pubmedqa_majority_baseline() -> None:
    """Always "yes" on the official test set: 276 yes, 169 no, 55 maybe (Jin et al. 2019, table 5)."""
    gold = np.repeat([0, 1, 2], [276, 169, 55])
    yes = np.zeros_like(gold)
    assert (gold == yes).mean() == pytest.approx(0.552)
    assert macro_f1(gold, yes, 3) == pytest.approx(0.2371, abs=5e-5)


def test_macro_f1_by_hand() -> None:
    # class 0: 1 hit, 2 gold, 1 guess -> 2/3; class 1: 1 hit, 1 gold, 2 guesses -> 2/3; class 2: 1
    assert macro_f1(GOLD, np.array([0, 1, 1, 2]), 3) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_macro_f1_leaves_absent_classes_out() -> None:
    assert macro_f1(np.array([0, 0, 1]), np.array([0, 0, 1]), 5) == 1.0
    # a class that is only guessed counts, with 0
    assert macro_f1(np.array([0, 0]), np.array([0, 4]), 5) == pytest.approx((2 / 3 + 0) / 2)


def test_macro_f1_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    for n in (1, 4, 50, 400):
        gold, guess = generator.integers(0, 4, n), generator.integers(0, 4, n)
        assert macro_f1(gold, guess, 4) == pytest.approx(f1_score(gold, guess, average="macro"))


def test_probabilities_sum_to_one_over_the_choices() -> None:
    (shifted,) = choice_probabilities([(-1000.0 + math.log(0.7), -1000.0 + math.log(0.3))])
    assert shifted == pytest.approx([0.7, 0.3])
    (three,) = choice_probabilities([LOGPROBS[0]])
    assert three == pytest.approx([0.7, 0.2, 0.1])


def test_nll_by_hand_and_scikit_learns() -> None:
    probabilities = choice_probabilities(LOGPROBS)
    own = nll(probabilities, GOLD)
    assert own == pytest.approx([-math.log(p) for p in (0.7, 0.3, 0.5, 0.8)])
    assert own.mean() == pytest.approx(log_loss(GOLD, np.array(probabilities)))


def test_nll_of_what_underflows_is_finite() -> None:
    (value,) = nll(choice_probabilities([(0.0, -5000.0)]), np.array([1]))
    assert 700 < value < 746


def test_brier_by_hand() -> None:
    own = brier(choice_probabilities(LOGPROBS), GOLD)
    assert own[0] == pytest.approx(0.3**2 + 0.2**2 + 0.1**2)
    assert own[1] == pytest.approx(0.7**2 + 0.6**2 + 0.1**2)
    certain = choice_probabilities([(0.0, -5000.0), (0.0, -5000.0)])
    assert brier(certain, np.array([0, 1])) == pytest.approx([0.0, 2.0])
    four = choice_probabilities([(-1.0,) * 4])
    assert brier(four, np.array([2]))[0] == pytest.approx(0.75)  # chance: 1 - 1/K


def test_brier_takes_items_of_different_numbers_of_choices() -> None:
    own = brier(choice_probabilities([(-1.0,) * 2, (-1.0,) * 5]), np.array([1, 4]))
    assert own == pytest.approx([0.5, 0.8])


def test_ece_by_hand() -> None:
    # tops 0.7 (right), 0.6 (wrong), 0.5 (right), 0.8 (right), each in a bin of its own
    expected = (0.3 + 0.6 + 0.5 + 0.2) / 4
    assert expected_calibration_error(choice_probabilities(LOGPROBS), GOLD, bins=15) == pytest.approx(
        expected
    )
    # one bin: mean confidence 0.65, accuracy 0.75
    assert expected_calibration_error(choice_probabilities(LOGPROBS), GOLD, bins=1) == pytest.approx(0.1)


def test_ece_bins_are_open_below_and_closed_above() -> None:
    halves = [np.array([0.5, 0.5])] * 2  # with two bins 0.5 belongs to the lower, 0.6 to the upper
    mixed = [*halves, np.array([0.4, 0.6])]
    gold = np.array([0, 1, 1])
    assert expected_calibration_error(mixed, gold, bins=2) == pytest.approx(0 * 2 / 3 + 0.4 / 3)


@pytest.mark.parametrize("gold", [0, 1])
def test_ece_of_certainty(gold: int) -> None:
    certain = [np.array([1.0, 0.0])] * 3
    assert expected_calibration_error(certain, np.full(3, gold)) == pytest.approx(float(gold))
