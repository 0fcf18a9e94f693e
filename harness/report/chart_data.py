"""What only the charts need, read from a group's runs: learning curves, calibration, subgroups.

Legend: n items, K choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from harness.errors import StoreError
from harness.evidence.outcomes import Group, Outcomes
from harness.io.files import read_bounded
from harness.report.model import Figure
from harness.stats.accuracy import accuracy
from harness.stats.classification import ECE_BINS, calibration_bin
from harness.store.boundary import reading
from harness.store.runs import Store

MOST_STEPS_BYTES = 2**26
DRAWN = 1e15
"""Steps and losses beyond it are no numbers of a run (NaN and infinities neither)."""
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's losses: (step, loss), means over as many steps as a point of the drawing stands for."""

    seed: int
    training: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Bin:
    """Of a reliability diagram: mean confidence and accuracy of n answers, over all seeds."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class Extras:
    """Of one group. subgroups: accuracy by name, with the number of items."""

    curves: tuple[Curve, ...]
    bins: tuple[Bin, ...]
    subgroups: dict[str, tuple[Figure, int]]


def extras_of(
    store: Store, group: Group, outcomes: Outcomes | None, points: int, warn: Callable[[str], None]
) -> Extras:
    """What the charts show of a group; what cannot be read is left out and told to `warn`."""
    curves = tuple(
        curve
        for record in group.records
        if (curve := _curve(store.folder(record.run_id) / "steps.jsonl", record.spec.seed, points))
    )
    if outcomes is None:
        return Extras(curves, (), {})
    if outcomes.confidence is None or outcomes.sure_right is None:
        warn(f"a run lacks the likelihoods of its choices: no reliability diagram for {group.label}")
        return Extras(curves, (), _subgroups(outcomes))
    bins = reliability(outcomes.confidence.ravel(), outcomes.sure_right.ravel())
    return Extras(curves, bins, _subgroups(outcomes))


def _curve(path: Path, seed: int, points: int) -> Curve | None:
    """A run's losses, thinned. None where there are none; a line that is cut off is passed over."""
    training: list[tuple[float, float]] = []
    validation: list[tuple[float, float]] = []
    for row in _steps(path):
        if not isinstance(row, dict):
            continue
        values = validation if "validation_loss" in row else training
        step, loss = row.get("step"), row.get("validation_loss", row.get("loss"))
        if _is_drawn(step) and _is_drawn(loss):
            values.append((float(step), float(loss)))
    if not training and not validation:
        return None
    return Curve(seed, thinned(training, points), tuple(validation))


def _is_drawn(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number of a run, neither NaN nor beyond anything that is measured."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= DRAWN


def _steps(path: Path) -> list[Any]:
    """The lines of steps.jsonl; none where the file cannot be read."""
    try:
        with reading(path):
            lines = read_bounded(path, MOST_STEPS_BYTES).splitlines()
    except StoreError:
        return []
    try:
        found: list[Any] = from_json(b"[%s]" % b",".join(filter(None, lines)))  # quicker than each by itself
        return found
    except ValueError:
        return [row for line in lines if (row := _parsed(line)) is not None]


def _parsed(line: bytes) -> Any:
    try:
        return from_json(line)
    except ValueError:
        return None


def thinned(values: Sequence[tuple[float, float]], points: int) -> tuple[tuple[float, float], ...]:
    """At most `points` means of neighbours, so that nothing is drawn twice in one place."""
    table = np.array(values, dtype=np.float64).reshape(-1, 2)
    if len(table) > points:
        starts = np.arange(points) * len(table) // points
        table = np.add.reduceat(table, starts) / np.diff(np.append(starts, len(table)))[:, None]
    return tuple((float(step), float(loss)) for step, loss in table)


def reliability(confidence: NDArray[np.float64], correct: Flags) -> tuple[Bin, ...]:
    """The bins of the calibration error, over the probability of the likeliest answer."""
    place = calibration_bin(confidence)
    counts = np.bincount(place, minlength=ECE_BINS)
    sums = np.bincount(place, weights=confidence, minlength=ECE_BINS)
    hits = np.bincount(place, weights=correct, minlength=ECE_BINS)
    return tuple(
        Bin(float(sums[b] / counts[b]), float(hits[b] / counts[b]), int(counts[b]))
        for b in range(ECE_BINS)
        if counts[b]
    )


def _subgroups(outcomes: Outcomes) -> dict[str, tuple[Figure, int]]:
    """Accuracy on each part of the items; empty where all are of one part. A part that is one cluster shows
    nothing of how clusters vary: it has no interval.
    """
    found = {}
    for name, items in _parts(outcomes.subgroups).items():
        clusters = [outcomes.clusters[i] for i in items] if outcomes.clusters else None
        own = accuracy(outcomes.correct[:, items], clusters)
        alone = clusters is not None and len(set(clusters)) == 1
        found[name] = (Figure(own.value) if alone else Figure(own.value, *own.interval), own.n)
    return found


@lru_cache(maxsize=8)
def _parts(subgroups: tuple[str, ...]) -> dict[str, NDArray[np.intp]]:
    """The places of each subgroup's items, by name; empty for fewer than two."""
    names, of_item = np.unique(np.array(subgroups, dtype=object), return_inverse=True)
    found = {str(name): np.flatnonzero(of_item == i) for i, name in enumerate(names) if name}
    return found if len(found) > 1 else {}
