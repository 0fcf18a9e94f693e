"""Stored runs into a report. See harness.report.model for what a report is."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from harness import __version__
from harness.errors import UsageError, unknown_name
from harness.evidence.outcomes import Group, Reader
from harness.record import RunRecord
from harness.report.layout import sort_records
from harness.report.model import Report, Table
from harness.report.options import Options
from harness.report.published import published_for
from harness.report.table import Builder
from harness.store.boundary import is_there
from harness.store.runs import Store


def build_report(
    store: Store, options: Options, *, tasks: Collection[str] = (), models: Collection[str] = ()
) -> Report:
    """The report on all runs in `store`, or on those of some tasks and models.

    Raises `UsageError` where there are none, or none of the reference asked for.
    """
    records, warnings = store.records()
    unfinished = _unfinished(store, records)
    everything = records
    records = _selected(records, "task", tasks, [record.spec.task.name for record in records])
    records = _selected(records, "model", models, [record.spec.model.name for record in records])
    _check(store, records, everything, unfinished)
    scored = [record for record in records if record.spec.task.split == "test"]
    builder = Builder(store, options, Reader(options.confidences), warnings.append)
    tables: list[Table] = []
    behind: dict[str, Group] = {}
    for number, (key, members) in enumerate(sort_records(scored).items(), start=1):
        tables.append(dataclasses.replace(builder.build(key, members), key=f"t{number}"))
        behind |= {group.first.run_id: group for group in members.groups.values()}
    _check_reference(tables, options.reference)
    shown = {column.task for table in tables for column in table.columns}
    return Report(
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        results=str(store.root),
        margin=options.margin,
        verdicts=options.verdicts,
        runs=sum(record.status == "ok" for record in scored),
        failed=sum(record.status != "ok" for record in scored),
        unfinished=unfinished,
        tables=tuple(tables),
        published=published_for(shown),
        warnings=tuple(warnings),
        groups=behind,
        outcomes=builder.outcomes,
    )


def _unfinished(store: Store, records: Sequence[RunRecord]) -> tuple[str, ...]:
    done = {record.run_id for record in records}
    return tuple(
        name
        for name in store.run_ids()
        if name not in done and not is_there(store.folder(name) / "record.json")
    )


def _selected(
    records: list[RunRecord], what: str, names: Collection[str], known: Sequence[str]
) -> list[RunRecord]:
    for name in names:
        if name not in known and known:
            raise UsageError(
                f"no run here is of {unknown_name(what, name, set(known)).removeprefix('unknown ')}"
            )
    return [record for record, own in zip(records, known, strict=True) if not names or own in names]


def _check(
    store: Store,
    records: Sequence[RunRecord],
    everything: Sequence[RunRecord],
    unfinished: Sequence[str],
) -> None:
    example = "For example: python -m harness run --strategy zero-shot,lora --task medqa --seed 0,1,2"
    if not everything:
        waiting = f" ({len(unfinished)} unfinished)" if unfinished else ""
        there = "holds no finished runs" if store.root.exists() else "is not there"
        raise UsageError(
            f"nothing to report: {store.root} {there}{waiting}",
            f"{example}\nOr give the folder that holds them: --results DIR",
        )
    if not records:
        raise UsageError(
            "no run has both the task and the model asked for", "See: python -m harness list runs"
        )


def _check_reference(tables: Sequence[Table], reference: str | None) -> None:
    if reference is None or any(table.reference for table in tables):
        return
    rows = [row for table in tables for row in table.rows if any(row.cells)]
    known = {row.label for row in rows} | {row.strategy for row in rows}
    raise UsageError(unknown_name("reference", reference, known))
