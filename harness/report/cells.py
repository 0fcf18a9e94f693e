"""A group of runs into a table's cell: accuracy over seeds, costs, and the verdict on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

import numpy as np

from harness.evidence.costs import costs_of
from harness.evidence.outcomes import Group, Outcomes, clusters_of
from harness.record import RunRecord
from harness.report.model import Cell, Figure
from harness.stats import crossed
from harness.stats.accuracy import accuracy, effective_wilson

Command = Callable[[Group], str]


def cell_of(group: Group, outcomes: Outcomes | None, command: Command) -> Cell:
    """The cell of a group. Without its per-item outcomes, the interval is made from the runs' scores."""
    first = group.first
    by_seed = tuple(record.scores["accuracy"].value for record in group.records)
    figure = _from_scores(group.records) if outcomes is None else _from_items(outcomes)
    return Cell(
        label=group.label,
        strategy=first.spec.strategy.name,
        trains=first.spec.trains,
        seeded=first.spec.seeded,
        learning_rate=first.spec.train.learning_rate,
        precision=first.spec.model.dtype,
        seeds=group.seeds,
        run_ids=tuple(record.run_id for record in group.records),
        n=first.scores["accuracy"].n,
        accuracy=figure,
        by_seed=by_seed,
        seed_sd=stdev(by_seed) if len(by_seed) > 1 else None,
        macro_f1=_mean(group.records, "macro_f1"),
        ece=_mean(group.records, "ece"),
        nll=_mean(group.records, "nll"),
        costs=costs_of(group.records),
        command=command(group),
    )


def _mean(records: Sequence[RunRecord], name: str) -> float | None:
    scores = [record.scores.get(name) for record in records]
    values = [score.value for score in scores if score is not None]
    return fmean(values) if len(values) == len(records) else None


def _from_items(outcomes: Outcomes) -> Figure:
    """Mean over seeds, interval over items and seeds."""
    found = accuracy(outcomes.correct, clusters_of(outcomes))
    return Figure(found.value, *found.interval)


def _from_scores(records: Sequence[RunRecord]) -> Figure:
    """The same mean. For several seeds the interval is wider than need be: which items the runs agree
    on is not known, so all of the items' variance is taken to be shared by the runs.
    """
    scores = [record.scores["accuracy"] for record in records]
    values = [score.value for score in scores]
    value, n = fmean(values), min(score.n for score in scores)
    if len(set(values)) == 1 or not 0 < value < 1:
        return Figure(value, scores[0].ci_low, scores[0].ci_high)
    items = np.float64(value * (1 - value) / n)
    seeds = np.float64(np.var(values, ddof=1) / len(values))
    nothing = np.float64(0)
    total, degrees = crossed.combine(
        np.asarray(items), np.asarray(nothing), np.asarray(seeds), len(values) - 1, n - 1
    )
    v = crossed.Variance(
        np.asarray(items), np.asarray(nothing), np.asarray(seeds), total, degrees, np.asarray(items), n - 1
    )
    low, high = effective_wilson(value, v)
    return Figure(value, float(low), float(high))


def average(figures: Sequence[Figure | None]) -> Figure | None:
    """The unweighted mean of independent figures with its interval (MOVER: Zou & Donner 2008, Stat. Med.
    27:1693-1702, from the intervals of its parts); None unless all are there.
    """
    complete = [figure for figure in figures if figure is not None]
    if not complete or len(complete) < len(figures):
        return None
    value = fmean(figure.value for figure in complete)
    if any(figure.low is None or figure.high is None for figure in complete):
        return Figure(value)
    below = sum((f.value - f.low) ** 2 for f in complete if f.low is not None) ** 0.5 / len(complete)
    above = sum((f.high - f.value) ** 2 for f in complete if f.high is not None) ** 0.5 / len(complete)
    return Figure(value, value - below, value + above)


def with_reason(cell: Cell, reason: str) -> Cell:
    """The cell, saying why it has no verdict."""
    return dataclasses.replace(cell, no_verdict=reason)
