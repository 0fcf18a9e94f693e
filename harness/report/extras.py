"""What only the charts need, read from a group's runs: learning curves, calibration, subgroups.

Legend: n items, K choices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.record import RunRecord
from harness.report.model import Figure
from harness.report.outcomes import Group, flags, read_columns
from harness.stats.accuracy import accuracy
from harness.store import Store

BINS = 10
Floats = NDArray[np.float64]
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
    store: Store, group: Group, points: int, warn: Callable[[str], None], *, items: bool = True
) -> Extras:
    """What the charts show of a group; what cannot be read is left out and told to `warn`."""
    curves = tuple(
        curve
        for record in group.records
        if (curve := _curve(store.folder(record.run_id) / "steps.jsonl", record.spec.seed, points))
    )
    if not items:
        return Extras(curves, (), {})
    try:
        tables = [_predictions(store, record) for record in group.records]
        correct = [
            flags(store.folder(record.run_id), table["correct"])
            for record, table in zip(group.records, tables, strict=True)
        ]
        return Extras(curves, reliability(tables, correct), _subgroups(tables, correct))
    except HarnessError as error:
        warn(f"{error.message}: no reliability diagram and no subgroups for {group.label}")
        return Extras(curves, (), {})


def _curve(path: Path, seed: int, points: int) -> Curve | None:
    """A run's losses, thinned. None where there are none; a line that is cut off is passed over."""
    training, validation = [], []
    for row in _steps(path):
        try:
            if "validation_loss" in row:
                validation.append((float(row["step"]), float(row["validation_loss"])))
            else:
                training.append((float(row["step"]), float(row["loss"])))
        except (ValueError, KeyError, TypeError):
            continue
    if not training and not validation:
        return None
    return Curve(seed, thinned(training, points), tuple(validation))


def _steps(path: Path) -> list[Any]:
    """The lines of steps.jsonl; none where the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    try:
        found: list[Any] = json.loads(f"[{','.join(filter(None, lines))}]")  # several times quicker than each
        return found
    except ValueError:
        return [row for line in lines if (row := _parsed(line)) is not None]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def thinned(values: Sequence[tuple[float, float]], points: int) -> tuple[tuple[float, float], ...]:
    """At most `points` means of neighbours, so that nothing is drawn twice in one place."""
    table = np.array(values, dtype=np.float64).reshape(-1, 2)
    table = table[np.isfinite(table).all(axis=1)]
    if len(table) > points:
        starts = np.arange(points) * len(table) // points
        table = np.add.reduceat(table, starts) / np.diff(np.append(starts, len(table)))[:, None]
    return tuple((float(step), float(loss)) for step, loss in table)


def _predictions(store: Store, record: RunRecord) -> Any:
    return read_columns(
        store.folder(record.run_id) / "predictions.parquet", ["correct", "logprobs", "subgroup"]
    )


def reliability(tables: Sequence[Any], right: Sequence[Flags]) -> tuple[Bin, ...]:
    """Bins of equal width over the probability of the chosen answer (Guo et al. 2017, arXiv 1706.04599)."""
    confidence = np.concatenate([_confidence(table["logprobs"].combine_chunks()) for table in tables])
    correct = np.concatenate(right)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = np.bincount(place, weights=confidence, minlength=BINS)
    hits = np.bincount(place, weights=correct, minlength=BINS)
    return tuple(
        Bin(float(sums[b] / counts[b]), float(hits[b] / counts[b]), int(counts[b]))
        for b in range(BINS)
        if counts[b]
    )


def _confidence(logprobs: Any) -> Floats:
    """(n,) the largest probability over each item's choices. `logprobs`: an arrow array of n lists of K."""
    values: Floats = logprobs.flatten().to_numpy(zero_copy_only=False)
    offsets = logprobs.offsets.to_numpy()
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    highest = np.maximum.reduceat(values, starts)
    # The best choice has weight 1, so its probability is one over the sum of all weights.
    result: Floats = 1 / np.add.reduceat(np.exp(values - np.repeat(highest, lengths)), starts)
    return result


def _subgroups(tables: Sequence[Any], rows: Sequence[Flags]) -> dict[str, tuple[Figure, int]]:
    """Accuracy on each part of the items; empty where all are of one part."""
    encoded = tables[0]["subgroup"].combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if len([name for name in names if name]) < 2:
        return {}
    place = encoded.indices.to_numpy()
    if len({len(row) for row in rows}) > 1:
        return {}
    correct, found = np.stack(rows), {}
    for index, name in enumerate(names):
        if name:
            own = accuracy(correct[:, place == index])
            found[name] = (Figure(own.value, *own.interval), own.n)
    return dict(sorted(found.items()))
