"""Scores of multiple-choice predictions. Pure functions of arrays.

Legend: n items, K choices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ECE_BINS = 15
"""Guo et al. 2017 (arXiv 1706.04599)."""


def macro_f1(gold: Ints, predicted: Ints, classes: int) -> float:
    """Unweighted mean of the classes' F1; a class that is neither gold nor predicted is left out,
    as in scikit-learn's f1_score(average="macro") over the labels present. gold, predicted: (n,).
    """
    hits = np.bincount(gold[gold == predicted], minlength=classes)
    support = np.bincount(gold, minlength=classes)
    guesses = np.bincount(predicted, minlength=classes)
    present = (support + guesses) > 0
    f1 = 2 * hits[present] / (support[present] + guesses[present])
    return float(f1.mean())


def macro_f1_contributions(gold: Ints, predicted: Ints) -> Floats:
    """(n,) contributions of the items to macro F1: jackknife pseudo-values (Tukey 1958; Miller 1974,
    Biometrika 61:1-15), shifted so that their mean is macro F1 itself. gold, predicted: (n,).
    """
    classes, n = int(max(gold.max(), predicted.max())) + 1, len(gold)
    counts = np.bincount(gold * classes + predicted, minlength=classes**2).reshape(classes, classes)
    whole = _macro_f1_of(counts)
    without = np.zeros((classes, classes))  # macro F1 without one item of this gold and this prediction
    for cell in zip(*np.nonzero(counts), strict=True):
        counts[cell] -= 1
        without[cell] = _macro_f1_of(counts) if n > 1 else whole
        counts[cell] += 1
    values = n * whole - (n - 1) * without[gold, predicted]
    return np.asarray(values - values.mean() + whole)


def _macro_f1_of(counts: NDArray[np.int64]) -> float:
    """counts: (K, K), gold down and predictions across."""
    hits, present = np.diag(counts), counts.sum(0) + counts.sum(1)
    return float((2 * hits[present > 0] / present[present > 0]).mean())


def choice_probabilities(logprobs: list[tuple[float, ...]]) -> list[Floats]:
    """Log-likelihoods of each item's choices, normalised to probabilities over the choices."""
    probabilities = []
    for row in logprobs:
        own = np.asarray(row, dtype=np.float64)
        weights = np.exp(own - own.max())
        probabilities.append(weights / weights.sum())
    return probabilities


def nll(probabilities: list[Floats], gold: Ints) -> Floats:
    """Negative log-likelihood of each item's gold choice among its choices, in nats, (n,).

    From probabilities that underflowed to 0 it is limited to 745 nats, the largest float64 holds.
    """
    tiny = np.nextafter(0, 1)
    return np.array([-np.log(max(p[g], tiny)) for p, g in zip(probabilities, gold, strict=True)])


def brier(probabilities: list[Floats], gold: Ints) -> Floats:
    """Brier's score of each item: squared distance to the one-hot gold, 0 to 2, (n,) (Brier 1950)."""
    return np.array(
        [float(((p - np.eye(len(p))[g]) ** 2).sum()) for p, g in zip(probabilities, gold, strict=True)]
    )


def expected_calibration_error(probabilities: list[Floats], gold: Ints, bins: int = ECE_BINS) -> float:
    """ECE over equal-width bins of the top probability (Guo et al. 2017, arXiv 1706.04599)."""
    confidence, correct = surest(probabilities, gold)
    place = calibration_bin(confidence, bins)
    error = 0.0
    for b in range(bins):
        own = place == b
        if own.any():
            error += own.mean() * abs(correct[own].mean() - confidence[own].mean())
    return float(error)


def surest(probabilities: list[Floats], gold: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """The highest probability of each item's choices, and whether that choice is the gold one, (n,) each."""
    confidence = np.array([p.max() for p in probabilities])
    return confidence, np.array([int(p.argmax()) == g for p, g in zip(probabilities, gold, strict=True)])


def calibration_bin(confidence: NDArray[np.floating], bins: int = ECE_BINS) -> Ints:
    """The bin of equal width that each confidence lies in, (n,) of 0 to bins - 1; an edge belongs to the bin
    below it. The score and the diagram both ask here. confidence: (n,) of 0 to 1.
    """
    edges = np.linspace(0, 1, bins + 1)
    return np.asarray(np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, bins - 1), dtype=np.int64)
