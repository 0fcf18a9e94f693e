"""Predictions into a record's scores, each with its 95% interval where there is a sound one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.contracts import Example, Prediction, Task
from harness.record import Score
from harness.stats.classification import (
    brier,
    choice_probabilities,
    expected_calibration_error,
    macro_f1,
    nll,
)
from harness.stats.intervals import bootstrap, normal_mean, wilson


def all_scores(task: Task, predictions: Sequence[Prediction], train: Sequence[Example]) -> dict[str, Score]:
    """Every score of a run. Names: the task's metrics, recall_CLASS, accuracy@SUBGROUP,
    chance_accuracy, majority_accuracy and majority_macro_f1 (always answering train's commonest).
    """
    gold = np.array([p.gold for p in predictions])
    predicted = np.array([p.predicted for p in predictions])
    n, classes = len(predictions), len(task.class_names)
    scores = {
        "accuracy": proportion(gold == predicted),
        "accuracy_norm": proportion(gold == np.array([p.predicted_norm for p in predictions])),
        "macro_f1": _macro_f1(gold, predicted, classes),
    }
    scores |= _calibration(predictions, gold)
    for index, name in enumerate(task.class_names):
        if (own := gold == index).any():
            scores[f"recall_{name}"] = proportion(predicted[own] == index)
    subgroups = sorted({p.subgroup for p in predictions} - {""})
    for subgroup in subgroups:
        own = np.array([p.subgroup == subgroup for p in predictions])
        scores[f"accuracy@{subgroup}"] = proportion((gold == predicted)[own])
    chance = float(np.mean([_share_right(p) for p in predictions]))
    scores["chance_accuracy"] = Score(value=chance, n=n)
    return scores | _majority(predictions, gold, train, classes)


def proportion(hits: np.ndarray) -> Score:
    """A share of true values with Wilson's interval."""
    n, successes = len(hits), int(hits.sum())
    low, high = wilson(successes, n)
    return Score(value=successes / n, ci_low=low, ci_high=high, n=n)


def _macro_f1(gold: np.ndarray, predicted: np.ndarray, classes: int) -> Score:
    value = macro_f1(gold, predicted, classes)
    low, high = bootstrap(lambda i: macro_f1(gold[i], predicted[i], classes), len(gold))
    # A percentile interval can miss the value by a hair on a handful of items.
    return _within(value, min(low, value), max(high, value), len(gold))


def _within(value: float, low: float, high: float, n: int) -> Score:
    """A score with its interval; without one where that has no width: items that all came out alike say
    nothing of how much others vary.
    """
    if low == high:
        return Score(value=value, n=n)
    return Score(value=value, ci_low=low, ci_high=high, n=n)


def _calibration(predictions: Sequence[Prediction], gold: np.ndarray) -> dict[str, Score]:
    probabilities = choice_probabilities([p.merged or p.logprobs for p in predictions])
    gold = np.array([_first(p, int(g)) for p, g in zip(predictions, gold, strict=True)])
    scores = {}
    for name, values in (("nll", nll(probabilities, gold)), ("brier", brier(probabilities, gold))):
        mean = float(values.mean())
        low, high = normal_mean(values) if len(values) > 1 else (mean, mean)
        scores[name] = _within(mean, low, high, len(values))
    # ECE is biased upwards by an amount that depends on n: no interval is better than a wrong one.
    scores["ece"] = Score(value=expected_calibration_error(probabilities, gold), n=len(gold))
    return scores


def _first(prediction: Prediction, choice: int) -> int:
    """The first choice that says the same as `choice`."""
    in_range = choice < len(prediction.same_as)
    return prediction.same_as[choice] if in_range else choice


def _share_right(prediction: Prediction) -> float:
    """What guessing scores: the choices that say what the right one says."""
    right = _first(prediction, prediction.gold)
    choices = range(len(prediction.logprobs))
    return sum(_first(prediction, k) == right for k in choices) / len(choices)


def _majority(
    predictions: Sequence[Prediction], gold: np.ndarray, train: Sequence[Example], classes: int
) -> dict[str, Score]:
    """What always answering the training split's commonest class scores on the test items."""
    if not train:
        return {}
    commonest = int(np.bincount([e.gold for e in train], minlength=classes).argmax())
    right = [_first(p, commonest) == _first(p, p.gold) for p in predictions]
    guess = np.where(right, gold, commonest)
    return {
        "majority_accuracy": Score(value=float(np.mean(right)), n=len(gold)),
        "majority_macro_f1": Score(value=macro_f1(gold, guess, classes), n=len(gold)),
    }
