"""Per-item outcomes of groups of runs: what paired tests are made of.

A group is the runs of one spec over its seeds. Legend: S seeds, n items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import StoreError, UsageError
from harness.record import RunRecord
from harness.report.rows import title_of
from harness.store import Store


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
    def condition(self) -> tuple[str, str, str, int, int | None]:
        """What must be equal for two groups to stand in one table."""
        spec = self.first.spec
        return (title_of(self.first), spec.model.name, spec.task.scoring, spec.task.shots, spec.task.limit)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """correct: (S, n) bool, items in the order of `example_ids`; subgroups: n names."""

    example_ids: tuple[str, ...]
    subgroups: tuple[str, ...]
    correct: NDArray[np.bool_]


def groups(records: Sequence[RunRecord]) -> list[Group]:
    """The records that ended well, grouped; labels tell a strategy's variants apart."""
    by_digest: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.status == "ok":
            digest = record.spec.model_copy(update={"seed": 0}).digest
            by_digest.setdefault(digest, []).append(record)
    members = [sorted(own, key=lambda record: record.spec.seed) for own in by_digest.values()]
    labels = _labels([own[0] for own in members])
    return [Group(label, tuple(own)) for label, own in zip(labels, members, strict=True)]


def _labels(firsts: Sequence[RunRecord]) -> list[str]:
    """The strategy's name, plus the settings in which its variants among `firsts` differ."""
    flat = [_flat_settings(record) for record in firsts]
    labels = []
    for record, own in zip(firsts, flat, strict=True):
        name = record.spec.strategy.name
        same = [
            other
            for peer, other in zip(firsts, flat, strict=True)
            if peer.spec.strategy.name == name and peer.spec.task == record.spec.task
        ]
        keys = sorted({key for other in same for key in other if other[key] != own.get(key)})
        told = ", ".join(f"{key.partition('.')[2]}={own.get(key)}" for key in keys)
        labels.append(f"{name} ({told})" if told else name)
    return labels


def _flat_settings(record: RunRecord) -> dict[str, object]:
    spec = record.spec
    flat: dict[str, object] = {f"strategy.{key}": value for key, value in spec.strategy.settings.items()}
    for section in ("model", "train", "engine"):
        own = getattr(spec, section).model_dump(mode="json")
        flat |= {f"{section}.{key}": value for key, value in own.items()}
    return flat


def load_outcomes(store: Store, group: Group) -> Outcomes:
    """The group's per-item outcomes. Raises UsageError where its runs were not asked the same items."""
    tables = [_read(store.folder(record.run_id) / "predictions.parquet") for record in group.records]
    ids, subgroups, _ = tables[0]
    rows = []
    for record, (own_ids, _, correct) in zip(group.records, tables, strict=True):
        if own_ids != ids:
            raise UsageError(
                f"{record.run_id} was asked other items than {group.first.run_id}",
                "Their data differ; run one of them again with --force.",
            )
        rows.append(correct)
    return Outcomes(ids, subgroups, np.stack(rows))


def aligned(one: Outcomes, other: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Both over the same items in the same order. Raises UsageError where they have other items."""
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


def _read(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.bool_]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["example_id", "subgroup", "correct"], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path} cannot be read: {str(error).splitlines()[0]}", "Run it again with --force."
        ) from error
    ids = tuple(table["example_id"].to_pylist())
    if len(set(ids)) != len(ids):
        raise StoreError(f"{path} holds an item twice", "Run it again with --force.")
    correct = table["correct"].to_numpy(zero_copy_only=False)
    return ids, tuple(table["subgroup"].to_pylist()), correct
