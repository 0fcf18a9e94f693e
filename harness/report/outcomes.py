"""Per-item outcomes of groups of runs: what paired tests are made of.

A group is the runs of one spec over its seeds. Legend: S seeds, n items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.boundary import reading
from harness.errors import StoreError, UsageError
from harness.files import read_bounded
from harness.record import RunRecord
from harness.report.labels import labels
from harness.report.rows import title_of
from harness.store import Store

MOST_BYTES = 2**30
"""Of a file of predictions; a million items take a tenth of it."""
MOST_ITEMS = 2**22


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that ended well and differ in nothing but the seed, in order of seed."""

    label: str
    records: tuple[RunRecord, ...]

    @property
    def first(self) -> RunRecord:
        return self.records[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.spec.seed for record in self.records)

    @property
    def condition(self) -> tuple[str, str, str, int | None]:
        """What must be equal for two groups to stand in one column of a table.

        Not the worked examples: few-shot beside zero-shot is a comparison of strategies.
        """
        spec = self.first.spec
        return (title_of(self.first), spec.model.name, spec.task.scoring, spec.task.limit)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """correct: (S, n) bool, items in the order of `example_ids`; subgroups: n names. confidence: (S, n),
    the probability of the chosen answer; None where it was not asked for or a run lacks it.
    """

    example_ids: tuple[str, ...]
    subgroups: tuple[str, ...]
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float32] | None = None


@dataclass(slots=True)
class Reader:
    """Reads predictions; the names of items, which many runs share, are made once.

    confidences: whether they are wanted too, from the same reading of the file.
    """

    confidences: bool = False
    known: list[tuple[Any, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)

    def items(self, path: Path, table: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The ids and subgroups of a table's items. Raises StoreError where an item is there twice."""
        columns = table.select(["example_id", "subgroup"])
        for seen, ids, subgroups in self.known:
            if seen.equals(columns):
                return ids, subgroups
        for name in columns.column_names:
            _check_texts(path, name, columns[name])
        ids, subgroups = (tuple(columns[name].to_pylist()) for name in ("example_id", "subgroup"))
        if len(set(ids)) != len(ids):
            raise StoreError(f"{path} holds an item twice", "Run it again with --force.")
        self.known.append((columns, ids, subgroups))
        return ids, subgroups


_Read = tuple[tuple[str, ...], tuple[str, ...], NDArray[np.bool_], NDArray[np.float32] | None]
"""Ids, subgroups, correct and confidence of one run's items."""


def digest_of(record: RunRecord) -> str:
    """What the runs of one group have in common: their spec without the seed."""
    return record.spec.model_copy(update={"seed": 0}).digest


def groups(records: Sequence[RunRecord]) -> list[Group]:
    """The records that ended well, grouped; labels tell a strategy's variants apart."""
    found: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        if record.status == "ok" and record.data:
            # Data can change under an unchanged spec: those runs are no seeds of one group.
            key = (digest_of(record), record.data.title, record.data.test_fingerprint)
            found.setdefault(key, []).append(record)
    members = [sorted(own, key=lambda record: record.spec.seed) for own in found.values()]
    named = labels([own[0] for own in members])
    return [Group(label, tuple(own)) for label, own in zip(named, members, strict=True)]


def load_outcomes(store: Store, group: Group, reader: Reader | None = None) -> Outcomes:
    """The group's per-item outcomes. Raises UsageError where its runs were not asked the same items."""
    reader = reader or Reader()
    tables = [_read(store.folder(record.run_id) / "predictions.parquet", reader) for record in group.records]
    ids, subgroups, _, _ = tables[0]
    for record, (own_ids, _, correct, _) in zip(group.records, tables, strict=True):
        if own_ids is not ids and own_ids != ids:
            raise UsageError(
                f"{record.run_id} was asked other items than {group.first.run_id}",
                "Their data differ; run one of them again with --force.",
            )
        _check_fits(store, record, len(own_ids), float(correct.mean()))
    confidences = [confidence for *_, confidence in tables if confidence is not None]
    return Outcomes(
        ids,
        subgroups,
        np.stack([correct for _, _, correct, _ in tables]),
        np.stack(confidences) if len(confidences) == len(tables) else None,
    )


def _check_fits(store: Store, record: RunRecord, n: int, accuracy: float) -> None:
    """Raise StoreError where the predictions are not those that the record's accuracy was made of."""
    score = record.scores["accuracy"]
    if score.n != n or abs(score.value - accuracy) > 1e-6:
        raise StoreError(
            f"{store.folder(record.run_id)}: its predictions have an accuracy of {accuracy:.4f} on {n} items, "
            f"its record says {score.value:.4f} on {score.n}",
            "Run it again with --force.",
        )


def aligned(one: Outcomes, other: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Both over the same items in the same order. Raises UsageError where they have other items."""
    if one.example_ids is other.example_ids or one.example_ids == other.example_ids:
        return one, other
    if set(one.example_ids) != set(other.example_ids):
        common = len(set(one.example_ids) & set(other.example_ids))
        raise UsageError(
            f"the two were asked different items ({len(one.example_ids)} and {len(other.example_ids)}, "
            f"{common} in common)",
            "A paired comparison needs the same test items: the same --data and --limit.",
        )
    place = {example_id: i for i, example_id in enumerate(other.example_ids)}
    order = [place[example_id] for example_id in one.example_ids]
    return one, Outcomes(one.example_ids, one.subgroups, other.correct[:, order])


def _columns(path: Path, columns: Sequence[str], wanted: Sequence[str] = ()) -> Any:
    """A pyarrow table of some columns of a run's predictions, and of those `wanted` ones that are there.
    Raises StoreError, naming the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = "Run it again with --force."
    # The bytes and not the path: a file of another kind would be waited for.
    with pq.ParquetFile(pa.BufferReader(read_bounded(path, MOST_BYTES))) as file:
        there = file.schema_arrow.names
        missing = [name for name in columns if there.count(name) != 1]
        if missing:
            raise StoreError(f"{path} has no column {', '.join(missing)}, or several", remedy)
        if not 0 < file.metadata.num_rows <= MOST_ITEMS:
            raise StoreError(f"{path} holds {file.metadata.num_rows:,} items", remedy)
        more = [name for name in wanted if there.count(name) == 1]
        return file.read(columns=[*columns, *more], use_threads=False)


def _check_texts(path: Path, name: str, column: Any) -> None:
    """Raise StoreError where a column is of another type, or lacks a value."""
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise StoreError(f"{path}: {name} is {column.type} and no text", "Run it again with --force.")
    if column.null_count:
        raise StoreError(f"{path}: {column.null_count} items have no {name}", "Run it again with --force.")


def _read(path: Path, reader: Reader) -> _Read:
    with reading(path):
        return _read_whole(path, reader)


def _read_whole(path: Path, reader: Reader) -> _Read:
    wanted = ["logprobs"] if reader.confidences else []
    table = _columns(path, ["example_id", "subgroup", "correct"], wanted)
    ids, subgroups = reader.items(path, table)
    if lacking := table["correct"].null_count:
        raise StoreError(f"{path} lacks the outcome of {lacking} items", "Run it again with --force.")
    there = wanted and "logprobs" in table.column_names
    confidence = _confidence(table["logprobs"].combine_chunks()) if there else None
    return ids, subgroups, flags(path, table["correct"]), confidence


def _confidence(logprobs: Any) -> NDArray[np.float32] | None:
    """(n,) the largest probability over each item's choices. `logprobs`: an arrow array of n lists of K
    numbers; None where it is not, or one of them is empty, missing, NaN or infinite.
    """
    import pyarrow as pa

    if not pa.types.is_list(logprobs.type) or logprobs.null_count:
        return None
    inner = logprobs.flatten()
    if not pa.types.is_floating(inner.type) or inner.null_count:
        return None
    values = inner.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    if not np.isfinite(values).all():
        return None
    offsets = logprobs.offsets.to_numpy()
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    if not lengths.all():
        return None
    highest = np.maximum.reduceat(values, starts)
    # The best choice has weight 1, so its probability is one over the sum of all weights.
    weights = np.add.reduceat(np.exp(values - np.repeat(highest, lengths)), starts)
    return (1 / weights).astype(np.float32)


def flags(path: Path, column: Any) -> NDArray[np.bool_]:
    """A column of booleans as an array. Raises StoreError where one is missing.

    By way of its bytes: arrow's own to_numpy would import pandas.
    """
    import pyarrow as pa

    array = column.combine_chunks()
    if array.null_count or not pa.types.is_boolean(array.type):
        raise StoreError(
            f"{path} does not say of every item whether it is correct", "Run it again with --force."
        )
    array = array.cast(pa.uint8())
    found = np.frombuffer(array.buffers()[1], dtype=np.uint8)[array.offset : array.offset + len(array)]
    return found.astype(np.bool_)
