"""Records into tables and columns: what may stand beside what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from harness.evidence.labels import labels
from harness.evidence.outcomes import Group, digest_of, groups
from harness.evidence.rows import title_of
from harness.record import RunRecord
from harness.report.med42 import place
from harness.report.model import Column, World


class TableKey(NamedTuple):
    """What all of a table shares."""

    world: World
    model: str
    scoring: str
    limit: int | None


class ColumnKey(NamedTuple):
    """One set of test items. `items` is empty where no run came as far as reading them."""

    title: str
    items: str


@dataclass
class Members:
    """What goes into one table. failed: with each one's label."""

    columns: dict[ColumnKey, Column] = field(default_factory=dict)
    groups: dict[tuple[str, ColumnKey], Group] = field(default_factory=dict)
    failed: list[tuple[str, ColumnKey, RunRecord]] = field(default_factory=list)


def world_of(record: RunRecord) -> World:
    source = record.data.source if record.data else record.spec.task.source
    return "sample" if source == "sample" else "real"


def sort_records(records: Sequence[RunRecord]) -> dict[TableKey, Members]:
    """All records by table. Sample and real data never share one, nor do models, scorings and limits."""
    found, failed = _labelled(records)
    tables: dict[TableKey, Members] = {}
    for group in found:
        members = tables.setdefault(_table_key(group.first), Members())
        _add_group(members, group)
    for label, record in failed:
        members = tables.setdefault(_table_key(record), Members())
        key = _column_of(record, members)
        members.columns.setdefault(key, _column(record, key))
        members.failed.append((label, key, record))
    for members in tables.values():
        members.columns = _ordered(members.columns)
    order = {"real": 0, "sample": 1}
    return dict(sorted(tables.items(), key=lambda item: (order[item[0].world], str(item[0]))))


def _labelled(records: Iterable[RunRecord]) -> tuple[list[Group], list[tuple[str, RunRecord]]]:
    """Groups and failed runs, labelled together so that one strategy has one name."""
    records = list(records)
    found = groups(records)
    broken = [record for record in records if record.status != "ok"]
    digests = [digest_of(record) for record in broken]
    firsts = {digest_of(group.first): group.first for group in found}
    for digest, record in zip(digests, broken, strict=True):
        firsts.setdefault(digest, record)
    named = dict(zip(firsts, labels(list(firsts.values())), strict=True))
    renamed = [dataclasses.replace(group, label=named[digest_of(group.first)]) for group in found]
    return renamed, [(named[digest], record) for digest, record in zip(digests, broken, strict=True)]


def _table_key(record: RunRecord) -> TableKey:
    spec = record.spec
    return TableKey(world_of(record), spec.model.name, spec.task.scoring, spec.task.limit)


def _add_group(members: Members, group: Group) -> None:
    record = group.first
    assert record.data is not None
    key = ColumnKey(record.data.title, record.data.test_fingerprint)
    members.columns.setdefault(key, _column(record, key))
    label = group.label
    if (label, key) in members.groups:  # the same settings on the same items, read from another place
        label = f"{label} [{record.run_id.rpartition('-')[2]}]"
    members.groups[label, key] = dataclasses.replace(group, label=label)


def _column(record: RunRecord, key: ColumnKey) -> Column:
    def score(name: str) -> float | None:
        found = record.scores.get(name)
        return found.value if found else None

    data = record.data
    return Column(
        title=key.title,
        task=record.spec.task.name,
        source=data.source if data else record.spec.task.source,
        items=key.items,
        n=data.test_n if data and data.test_fingerprint else None,
        chance=score("chance_accuracy"),
        majority=score("majority_accuracy"),
        comparable=data.comparable if data else False,
        note=data.note if data else "",
    )


def _column_of(record: RunRecord, members: Members) -> ColumnKey:
    """Where a run that failed belongs; one that never read its test items goes with those that read the same."""
    if record.data is not None and record.data.test_fingerprint:
        return ColumnKey(record.data.title, record.data.test_fingerprint)
    for (_, key), group in members.groups.items():
        task = group.first.spec.task
        if (task.name, task.source) == (record.spec.task.name, record.spec.task.source):
            return key
    return ColumnKey(title_of(record), "")


def _ordered(columns: dict[ColumnKey, Column]) -> dict[ColumnKey, Column]:
    """In Med42's order; two sets of items under one title are told apart."""
    titles = [key.title for key in columns]
    named = {
        key: dataclasses.replace(column, title=f"{key.title} (items {key.items[:8] or 'not read'})")
        if titles.count(key.title) > 1
        else column
        for key, column in columns.items()
    }
    return dict(sorted(named.items(), key=lambda item: (*place(item[1].task), item[1].title)))
