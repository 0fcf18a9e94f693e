"""Areas as means of item contributions: scikit-learn's values, DeLong's variances by definition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from harness.stats.areas import auroc, average_precision, macro, micro_auroc, one_versus_one

Floats = NDArray[np.float64]


def random_items(seed: int, n: int = 120, ties: bool = True) -> tuple[NDArray[np.int64], Floats]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    scores = labels + rng.normal(0, 1.5, n)
    return labels, np.round(scores, 0) if ties else scores


def by_pairs(labels: NDArray[np.int64], scores: Floats) -> tuple[Floats, Floats]:
    """DeLong's structural components, (P,) and (N,): the mean of [x > y] + [x = y] / 2 over the others."""
    x, y = scores[labels == 1][:, None], scores[labels == 0][None, :]
    kernel = (x > y) + 0.5 * (x == y)
    return kernel.mean(axis=1), kernel.mean(axis=0)


def variance_of_mean(contributions: Floats) -> float:
    return float(contributions.var(ddof=1) / len(contributions))


def test_by_hand() -> None:
    """Positive 3 1, negative 2 0: pairs won 1 1 0 1, area 3/4. Components of positives 1, .5 (variance
    .125), of negatives .5, 1 (variance .125): se^2 = .125 / 2 + .125 / 2."""
    found = auroc([1, 1, 0, 0], [3, 1, 2, 0])
    assert found.mean() == pytest.approx(0.75, abs=1e-12)
    assert variance_of_mean(found) == pytest.approx(0.125, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_scikit_learns_with_delongs_variance(seed: int, ties: bool) -> None:
    labels, scores = random_items(seed, ties=ties)
    found = auroc(labels, scores)
    assert found.mean() == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    v10, v01 = by_pairs(labels, scores)
    expected = v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01)
    assert variance_of_mean(found) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_paired_difference_has_the_variance_of_delongs_test(seed: int) -> None:
    labels, a = random_items(seed)
    b = 0.5 * labels + 0.5 * a + np.random.default_rng(seed + 100).normal(0, 1, len(labels))
    (a10, a01), (b10, b01) = by_pairs(labels, a), by_pairs(labels, b)
    variance = (a10 - b10).var(ddof=1) / len(a10) + (a01 - b01).var(ddof=1) / len(a01)
    difference = auroc(labels, a) - auroc(labels, b)
    assert difference.mean() == pytest.approx(a10.mean() - b10.mean(), abs=1e-9)
    assert variance_of_mean(difference) == pytest.approx(variance, abs=1e-9)


def test_false_positives_of_equal_areas() -> None:
    """A paired t-test over the items' contributions, of two scores that are as good."""
    rng = np.random.default_rng(5)
    false, trials = 0, 600
    for _ in range(trials):
        labels = (rng.random(200) < 0.3).astype(int)
        shared = labels + rng.normal(0, 1, 200)
        a, b = (shared + rng.normal(0, 1, 200) for _ in range(2))
        false += stats.ttest_rel(auroc(labels, a), auroc(labels, b)).pvalue <= 0.05
    assert 0.03 < false / trials < 0.075


def test_separated_and_equal_scores() -> None:
    assert auroc([0, 0, 1, 1], [1, 2, 3, 4]) == pytest.approx(np.ones(4))
    assert auroc([0, 1, 1], [2, 2, 2]) == pytest.approx(np.full(3, 0.5))


@pytest.mark.parametrize(
    ("labels", "scores", "told"),
    [
        ([1, 1], [0.1, 0.2], "2 positive and 0 negative"),
        ([0, 0], [0.1, 0.2], "0 positive and 2 negative"),
        ([0, 2], [0.1, 0.2], "0 and 1"),
        ([0, 1], [0.1], "2 numbers"),
        ([0, 1], [0.1, float("nan")], "none NaN"),
    ],
)
def test_what_has_no_area_is_refused(labels: list[int], scores: list[float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        auroc(labels, scores)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_scikit_learns(seed: int, ties: bool) -> None:
    labels, scores = random_items(seed, ties=ties)
    found = average_precision(labels, scores)
    assert found.mean() == pytest.approx(average_precision_score(labels, scores), abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("few", [False, True], ids=["half positive", "one positive"])
def test_average_precisions_contributions_are_those_of_leaving_each_item_out(few: bool, ties: bool) -> None:
    labels, scores = random_items(3, n=40, ties=ties)
    if few:
        labels = np.eye(40, dtype=np.int64)[7]
    whole = average_precision_score(labels, scores)
    without = np.array([
        whole if labels[i] and labels.sum() == 1
        else average_precision_score(np.delete(labels, i), np.delete(scores, i))
        for i in range(40)
    ])  # fmt: skip
    values = 40 * whole - 39 * without
    assert average_precision(labels, scores) == pytest.approx(values - values.mean() + whole, abs=1e-9)


def many_labels(seed: int, n: int = 150, labels: int = 12) -> tuple[NDArray[np.int64], Floats]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, labels)) < rng.uniform(0.02, 0.5, labels)).astype(np.int64)
    targets[:, 0] = 0  # never there
    targets[:, 1] = 1  # always there
    return targets, np.round(targets + rng.normal(0, 1.5, (n, labels)), 1)


@pytest.mark.parametrize("seed", range(4))
def test_macro_areas_leave_out_what_has_none_and_say_so(seed: int) -> None:
    targets, scores = many_labels(seed)
    found, counted = macro(targets, scores)
    kept = [k for k in range(12) if 0 < targets[:, k].sum() < len(targets)]
    assert np.flatnonzero(counted).tolist() == kept
    assert not counted[[0, 1]].any()
    assert found.mean() == pytest.approx(
        roc_auc_score(targets[:, kept], scores[:, kept], average="macro"), abs=1e-9
    )
    found, counted = macro(targets, scores, "average_precision")
    kept = [k for k in range(12) if targets[:, k].sum()]
    assert np.flatnonzero(counted).tolist() == kept
    expected = average_precision_score(targets[:, kept], scores[:, kept], average="macro")
    assert found.mean() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_micro_is_of_all_pairs(seed: int) -> None:
    targets, scores = many_labels(seed)
    assert micro_auroc(targets, scores).mean() == pytest.approx(
        roc_auc_score(targets, scores, average="micro"), abs=1e-9
    )


@pytest.mark.parametrize("seed", range(4))
def test_one_versus_one_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 4, 120)
    raw = np.exp(np.eye(4)[gold] + rng.normal(0, 1, (120, 4)))
    scores = np.round(raw / raw.sum(axis=1, keepdims=True), 2)
    scores[:, 0] += 1 - scores.sum(axis=1)
    expected = roc_auc_score(gold, scores, multi_class="ovo", average="macro")
    assert one_versus_one(gold, scores).mean() == pytest.approx(expected, abs=1e-9)


def test_no_label_with_both_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="no label"):
        macro(np.zeros((5, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="must be"):
        macro(np.zeros((5, 2)), np.ones((5, 3)))
