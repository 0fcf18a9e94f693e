"""Areas under ROC and precision-recall curves as means of item contributions.

Each function gives one number for each item. Their mean is the area, and the variance of their mean is the
area's sampling variance: for ROC curves exactly DeLong's (DeLong, DeLong & Clarke-Pearson 1988, Biometrics
44:837-845), for two areas on the same items too, so that a paired test over items is DeLong's test.

Legend: n items, L labels, P positive and N negative items of a label.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def auroc(positive: ArrayLike, scores: ArrayLike) -> Floats:
    """(n,) contributions to the AUROC; ties count half.

    positive: (n,) of 0/1; scores: (n,), higher for positive. By the midranks of Sun & Xu 2014 (IEEE Signal
    Process. Lett. 21:1389-1393). Raises ValueError for other shapes, NaN, or a class without items.
    """
    chosen, own = _checked(positive, scores)
    p, q, n = int(chosen.sum()), int((~chosen).sum()), len(chosen)
    if not p or not q:
        raise ValueError(f"an AUROC needs items of both classes, not {p} positive and {q} negative")
    rank = _midranks(own)
    parts = np.empty(n)  # DeLong's structural components
    parts[chosen] = (rank[chosen] - _midranks(own[chosen])) / q
    parts[~chosen] = 1 - (rank[~chosen] - _midranks(own[~chosen])) / p
    area = float(parts[chosen].mean())
    scale = np.where(chosen, _weight(n, p), _weight(n, q))
    return area + scale * (parts - area)


def _weight(n: int, size: int) -> float:
    """What makes the items' variance over n DeLong's: S10 / P + S01 / N, each S over one less than its items."""
    return n / size * math.sqrt((n - 1) * size / (n * (size - 1))) if size > 1 else float(n)


def average_precision(positive: ArrayLike, scores: ArrayLike) -> Floats:
    """(n,) contributions to the area under the precision-recall curve, as average precision (without
    interpolation; equal scores are one threshold): jackknife pseudo-values, shifted to their exact mean.

    Shapes and errors as `auroc`, but that all items may be positive.
    """
    chosen, own = _checked(positive, scores)
    p, n = int(chosen.sum()), len(chosen)
    if not p:
        raise ValueError("an average precision needs a positive item")
    order = np.argsort(-own, kind="stable")
    ranked, hits = own[order], chosen[order]
    last = np.searchsorted(-ranked, -ranked, side="right") - 1  # the last item of each item's threshold
    found, count = np.cumsum(hits)[last], (last + 1).astype(np.float64)
    area = float((found / count)[hits].sum() / p)
    if n == 1:
        return np.array([area])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Precision at a positive item's threshold: as it is, and without a positive or a negative above it.
        whole, less_hit, less_miss = found / count, (found - 1) / (count - 1), found / (count - 1)
    less_hit[count == 1] = 0.0
    less_miss[count == 1] = 0.0
    above = np.concatenate([[0.0], np.cumsum(np.where(hits, whole, 0.0))])
    first = np.searchsorted(-ranked, -ranked, side="left")
    over = above[first]  # of positives with a higher score
    from_hit, from_miss = (np.cumsum(np.where(hits, v, 0.0)[::-1])[::-1] for v in (less_hit, less_miss))
    without = np.empty(n)
    if p > 1:
        without[hits] = (over + from_hit[first] - less_hit)[hits] / (p - 1)
    else:
        without[hits] = area
    without[~hits] = (over + from_miss[first])[~hits] / p
    values = np.empty(n)
    values[order] = n * area - (n - 1) * without
    return np.asarray(values - values.mean() + area)


def macro(targets: ArrayLike, scores: ArrayLike, area: str = "auroc") -> tuple[Floats, Flags]:
    """(n,) contributions to the mean area over labels, and (L,) which labels count.

    A label of which all items, or none, are positive has no AUROC and is left out (CORe's protocol, van Aken et
    al. 2021, EACL, leaves out labels without positives), for average precision only one without positives. The
    second value says which, so that it can be told. targets: (n, L) of 0/1; scores: (n, L). Raises ValueError
    where no label counts.
    """
    labels, own = np.asarray(targets), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 2 or labels.shape != own.shape:
        raise ValueError(f"targets are {labels.shape} and scores {own.shape}: both must be (items, labels)")
    of_label = {"auroc": auroc, "average_precision": average_precision}[area]
    positives = labels.sum(axis=0)
    counted: Flags = (positives > 0) & ((positives < len(labels)) | (area != "auroc"))
    if not counted.any():
        raise ValueError("no label has items of both classes")
    columns = [of_label(labels[:, k], own[:, k]) for k in np.flatnonzero(counted)]
    return np.mean(columns, axis=0), counted


def micro_auroc(targets: ArrayLike, scores: ArrayLike) -> Floats:
    """(n,) contributions to the AUROC of all (item, label) pairs together; an item's is the mean of its pairs'.

    targets: (n, L) of 0/1; scores: (n, L).
    """
    labels, own = np.asarray(targets), np.asarray(scores, dtype=np.float64)
    return np.asarray(auroc(labels.ravel(), own.ravel()).reshape(labels.shape).mean(axis=1))


def one_versus_one(gold: ArrayLike, scores: ArrayLike) -> Floats:
    """(n,) contributions to the AUROC of several classes, averaged over all ordered pairs of them (Hand & Till
    2001, Machine Learning 45:171-186). gold: (n,) class numbers; scores: (n, L) of each class.

    Raises ValueError for a class without items.
    """
    classes, own = np.asarray(gold), np.asarray(scores, dtype=np.float64)
    n, k = own.shape
    total = np.zeros(n)
    for a, b in itertools.permutations(range(k), 2):
        pair = (classes == a) | (classes == b)
        part = auroc(classes[pair] == a, own[pair, a])
        area = float(part.mean())
        total += area
        total[pair] += n / len(part) * (part - area)  # of the pair's items only
    return np.asarray(total / (k * (k - 1)))


def _checked(positive: ArrayLike, scores: ArrayLike) -> tuple[Flags, Floats]:
    labels, own = np.asarray(positive), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be a list of 0 and 1")
    if own.shape != labels.shape or np.isnan(own).any():
        raise ValueError(f"scores must be {len(labels)} numbers, one an item, none NaN")
    return labels.astype(bool), own


def _midranks(values: Floats) -> Floats:
    """The rank of each value from 1; equal ones share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place], dtype=np.float64)
