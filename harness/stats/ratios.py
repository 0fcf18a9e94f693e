"""Scores that are ratios of sums over items, as means of item contributions.

Legend: n items, L labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> Floats:
    """(n,) contributions to sum(numerators) / sum(denominators), such as the loss of all tokens over their number:
    its linearisation at the data (Cochran 1977, Sampling Techniques, chapter 6). Their mean is the ratio itself.

    Raises ValueError where the denominators add up to nothing.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if below.sum() <= 0:
        raise ValueError("a ratio needs a denominator above 0")
    value = above.sum() / below.sum()
    return np.asarray(value + (above - value * below) / below.mean())


def set_f1(targets: ArrayLike, predicted: ArrayLike, average: str = "macro") -> Floats:
    """(n,) contributions to the F1 of sets of labels: jackknife pseudo-values, shifted so that their mean is the F1.

    targets, predicted: (n, L) of 0/1. macro: the mean over labels of each label's F1, a label that is neither
    there nor predicted counts 0, as in scikit-learn; micro: of all (item, label) pairs together.
    """
    truth, said = (np.asarray(value).astype(bool) for value in (targets, predicted))
    hits, ours = (truth & said).astype(np.float64), truth.astype(np.float64) + said
    if average == "micro":
        hits, ours = hits.sum(axis=1, keepdims=True), ours.sum(axis=1, keepdims=True)
    whole, without = (
        _f1(hits.sum(axis=0), ours.sum(axis=0)),
        _f1(hits.sum(axis=0) - hits, ours.sum(axis=0) - ours),
    )
    n, value = len(hits), float(whole.mean())
    values = n * value - (n - 1) * without.mean(axis=1)
    return np.asarray(values - values.mean() + value)


def _f1(hits: Floats, ours: Floats) -> Floats:
    """2 TP / (2 TP + FP + FN), 0 where nothing is there and nothing is said."""
    return np.divide(2 * hits, ours, out=np.zeros_like(hits), where=ours > 0)
