"""Area under the ROC curve with its interval, and the test of two on the same items.

Legend: P positive items, N negative items, n = P + N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Auroc:
    """An area with its standard error and interval. se is 0 where the classes are fully separated; the
    interval is then of no width and says nothing.
    """

    value: float
    se: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class AurocDifference:
    """a - b. z is None where the standard error is 0 (p is then 1 for equal areas, else 0)."""

    value_a: float
    value_b: float
    difference: float
    se: float
    interval: tuple[float, float]
    z: float | None
    p: float


def auroc(positive: ArrayLike, scores: ArrayLike, confidence: float = 0.95) -> Auroc:
    """AUROC with DeLong's interval (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837-845), cut at
    0 and 1; ties count half. By the midranks of Sun & Xu 2014 (IEEE Signal Process. Lett. 21:1389-1393).

    positive: (n,) of 0/1. scores: (n,), higher for positive. Raises ValueError for lengths that differ, a
    score that is NaN, or fewer than two items of a class.
    """
    areas, covariance = _delong(positive, [scores])
    value, se = float(areas[0]), math.sqrt(max(float(covariance[0, 0]), 0.0))
    half = _z(confidence) * se
    return Auroc(value, se, (max(0.0, value - half), min(1.0, value + half)))


def delong_test(
    positive: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, confidence: float = 0.95
) -> AurocDifference:
    """DeLong's two-sided test of two AUROCs on the same items, with the interval of their difference.

    Shapes, errors and sources as for `auroc`.
    """
    areas, covariance = _delong(positive, [scores_a, scores_b])
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    # Equal scores leave rounding error only.
    se = math.sqrt(variance) if variance > 1e-15 else 0.0
    half = _z(confidence) * se
    interval = (max(-1.0, difference - half), min(1.0, difference + half))
    z = difference / se if se else None
    p = float(2 * stats.norm.sf(abs(z))) if z is not None else float(abs(difference) < 1e-12)
    return AurocDifference(float(areas[0]), float(areas[1]), difference, se, interval, z, p)


def _delong(positive: ArrayLike, score_sets: list[ArrayLike]) -> tuple[Floats, Floats]:
    """(areas (k,), covariance (k, k)) of k scores of the same items."""
    labels = np.asarray(positive)
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be a list of 0 and 1")
    chosen = labels.astype(bool)
    p, n = int(chosen.sum()), int((~chosen).sum())
    if p < 2 or n < 2:
        raise ValueError(
            f"an AUROC's interval needs two items of each class, not {p} positive and {n} negative"
        )
    of_positives, of_negatives = [], []
    for scores in score_sets:
        own = np.asarray(scores, dtype=np.float64)
        if own.shape != labels.shape or np.isnan(own).any():
            raise ValueError(f"scores must be {len(labels)} numbers, one an item, none NaN")
        rank = stats.rankdata(own)  # midranks among all (n,)
        of_positives.append((rank[chosen] - stats.rankdata(own[chosen])) / n)  # (P,)
        of_negatives.append(1 - (rank[~chosen] - stats.rankdata(own[~chosen])) / p)  # (N,)
    v10, v01 = np.array(of_positives), np.array(of_negatives)
    covariance = np.atleast_2d(np.cov(v10)) / p + np.atleast_2d(np.cov(v01)) / n
    return v10.mean(axis=1), covariance


def _z(confidence: float) -> float:
    return float(stats.norm.ppf((1 + confidence) / 2))
