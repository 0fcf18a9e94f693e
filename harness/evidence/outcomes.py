"""Per-item outcomes of groups of runs: what paired tests are made of.

A group is the runs of one spec over its seeds. Legend: S seeds, n items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.ask.identity import described_anew
from harness.errors import StoreError, UsageError
from harness.evidence.confidence import SURE_COLUMNS, Sure, sure_of
from harness.evidence.labels import labels
from harness.evidence.rows import title_of
from harness.record import RunRecord
from harness.stats.classification import macro_f1_contributions
from harness.store.boundary import reading
from harness.store.predictions import opened
from harness.store.runs import Store

Kind = TypeVar("Kind", np.float32, np.float64, np.bool_)
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
    the probability of the likeliest answer, as the calibration error takes it (choices of one text count
    once), and sure_right: (S, n), whether that answer is right; None where they were not asked for or a run
    lacks them. clusters: n names of what makes items dependent; empty where every item stands alone. f1: (S, n), the items'
    contributions to macro F1; None where a run does not say what it answered.
    """

    example_ids: tuple[str, ...]
    subgroups: tuple[str, ...]
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64] | None = None
    sure_right: NDArray[np.bool_] | None = None
    clusters: tuple[str, ...] = ()
    f1: NDArray[np.float32] | None = None


@dataclass(slots=True)
class Reader:
    """Reads predictions; the names of items, which many runs share, are made once.

    confidences: whether they are wanted too, from the same reading of the file.
    """

    confidences: bool = False
    known: list[tuple[Any, Items]] = field(default_factory=list)

    def items(self, path: Path, table: Any) -> Items:
        """Which items a table is of. Raises StoreError where one is there twice."""
        columns = table.select([name for name in _ITEM_COLUMNS if name in table.column_names])
        for seen, items in self.known:
            if seen.equals(columns):
                return items
        for name in columns.column_names:
            _check_texts(path, name, columns[name])
        ids, subgroups = (tuple(columns[name].to_pylist()) for name in ("example_id", "subgroup"))
        if len(set(ids)) != len(ids):
            raise StoreError(f"{path} holds an item twice", "Run it again with --force.")
        named = columns["cluster"].to_pylist() if "cluster" in columns.column_names else []
        items = Items(ids, subgroups, _repeating(ids, named))
        self.known.append((columns, items))
        return items


MOST_CLASSES = 64
"""A class beyond this is no option's place but a damaged file's."""
_ITEM_COLUMNS = ("example_id", "subgroup", "cluster")


@dataclass(frozen=True, slots=True)
class Items:
    """n ids and subgroups, and n clusters where any has two items."""

    ids: tuple[str, ...]
    subgroups: tuple[str, ...]
    clusters: tuple[str, ...]


def _repeating(ids: Sequence[str], named: Sequence[str | None]) -> tuple[str, ...]:
    """The clusters, an item's own id where it names none; empty where no two items share one."""
    own = tuple(cluster or example_id for cluster, example_id in zip(named, ids, strict=False))
    return own if len(set(own)) < len(own) else ()


def clusters_of(outcomes: Outcomes) -> tuple[str, ...] | None:
    """What the paired functions take: None where every item stands alone."""
    return outcomes.clusters or None


@dataclass(frozen=True, slots=True)
class _Read:
    """What one run answered, (n,) each; as `Outcomes` has them."""

    items: Items
    correct: NDArray[np.bool_]
    sure: Sure | None
    f1: NDArray[np.float32] | None


def digest_of(record: RunRecord) -> str:
    """What the runs of one group have in common: their spec without the seed, whichever medtune wrote it."""
    return described_anew(record.spec).model_copy(update={"seed": 0}).digest


def groups(records: Sequence[RunRecord]) -> list[Group]:
    """The records that ended well, grouped; labels tell a strategy's variants apart."""
    found: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        if record.status == "ok" and record.data:
            # Data and weights can change under an unchanged spec: those runs are no seeds of one group.
            data, weights = record.data, (record.model and record.model.fingerprint) or ""
            key = (digest_of(record), data.title, data.fingerprint, data.test_fingerprint, weights)
            found.setdefault(key, []).append(record)
    members = [sorted(own, key=lambda record: record.spec.seed) for own in found.values()]
    named = labels([own[0] for own in members])
    return [Group(label, tuple(own)) for label, own in zip(named, members, strict=True)]


def load_outcomes(store: Store, group: Group, reader: Reader | None = None) -> Outcomes:
    """The group's per-item outcomes. Raises UsageError where its runs were not asked the same items."""
    reader = reader or Reader()
    tables = [_read(store.folder(record.run_id) / "predictions.parquet", reader) for record in group.records]
    items = tables[0].items
    for record, own in zip(group.records, tables, strict=True):
        if own.items is not items and own.items.ids != items.ids:
            raise UsageError(
                f"{record.run_id} was asked other items than {group.first.run_id}",
                "Their data differ; run one of them again with --force.",
            )
        _check_fits(store, record, len(own.items.ids), float(own.correct.mean()))
    # A run made before clusters were stored names none: one that does speaks for all.
    clusters = next((own.items.clusters for own in tables if own.items.clusters), ())
    sure = [own.sure for own in tables]
    return Outcomes(
        items.ids,
        items.subgroups,
        np.stack([own.correct for own in tables]),
        _stacked([None if own is None else own.confidence for own in sure]),
        _stacked([None if own is None else own.right for own in sure]),
        clusters,
        _stacked([own.f1 for own in tables]),
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


def _stacked(parts: Sequence[NDArray[Kind] | None]) -> NDArray[Kind] | None:
    """(S, n) of (n,) each; None unless every run has it."""
    there = [part for part in parts if part is not None]
    return np.stack(there) if len(there) == len(parts) else None


def aligned(one: Outcomes, other: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Both over the same items in the same order. Raises UsageError where they have other items."""
    if one.example_ids is other.example_ids or one.example_ids == other.example_ids:
        clusters = one.clusters or other.clusters
        return replace(one, clusters=clusters), replace(other, clusters=clusters)
    if set(one.example_ids) != set(other.example_ids):
        common = len(set(one.example_ids) & set(other.example_ids))
        raise UsageError(
            f"the two were asked different items ({len(one.example_ids)} and {len(other.example_ids)}, "
            f"{common} in common)",
            "A paired comparison needs the same test items: the same --data and --limit.",
        )
    place = {example_id: i for i, example_id in enumerate(other.example_ids)}
    order = [place[example_id] for example_id in one.example_ids]
    clusters = one.clusters or tuple(other.clusters[i] for i in order if other.clusters)
    f1 = None if other.f1 is None else other.f1[:, order]
    moved = Outcomes(one.example_ids, one.subgroups, other.correct[:, order], clusters=clusters, f1=f1)
    return replace(one, clusters=clusters), moved


def _columns(path: Path, columns: Sequence[str], wanted: Sequence[str] = ()) -> Any:
    """A pyarrow table of some columns of a run's predictions, and of those `wanted` ones that are there.
    Raises StoreError, naming the file.
    """
    remedy = "Run it again with --force."
    with opened(path) as file:
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
    wanted = SURE_COLUMNS if reader.confidences else ()
    table = _columns(path, ["example_id", "subgroup", "correct"], ["cluster", "gold", "predicted", *wanted])
    items = reader.items(path, table)
    if lacking := table["correct"].null_count:
        raise StoreError(f"{path} lacks the outcome of {lacking} items", "Run it again with --force.")
    correct = flags(path, table["correct"])
    return _Read(items, correct, sure_of(table, correct) if wanted else None, _f1(table))


def _f1(table: Any) -> NDArray[np.float32] | None:
    """(n,) contributions to macro F1; None where the classes are not there as whole numbers from 0."""
    import pyarrow as pa

    found = []
    for name in ("gold", "predicted"):
        if name not in table.column_names:
            return None
        array = table[name].combine_chunks()
        if array.null_count or not pa.types.is_integer(array.type) or not len(array):
            return None
        array = array.cast(pa.int64())  # by way of its bytes, as `flags`
        own = np.frombuffer(array.buffers()[1], dtype=np.int64)
        found.append(own[array.offset : array.offset + len(array)])
    if min(own.min() for own in found) < 0 or max(own.max() for own in found) >= MOST_CLASSES:
        return None
    return macro_f1_contributions(*found).astype(np.float32)


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
