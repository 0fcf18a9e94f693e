"""Which stored results still hold for what is asked."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.contracts import PARTS, TRAINED_ON, DataSource, Part, Task
from harness.errors import EXIT_OK, EXIT_USAGE, StoreError, UsageError
from harness.io.hashes import changes, hashes
from harness.io.hub_cache import cached_commit
from harness.items import data_fingerprint
from harness.plugins.loading import guarded_class
from harness.record import DataInfo, RunRecord
from harness.registry import Registry
from harness.spec import RunSpec
from harness.store.boundary import reading
from harness.store.model_files import model_changes
from harness.store.predictions import opened
from harness.store.runs import Store, differences


def reusable(spec: RunSpec, store: Store, registry: Registry) -> RunRecord | None:
    """The record of `spec` where it ended well and still holds, else `None`.

    Raises `StoreError` where another spec has its place, `UsageError` where what it read has changed.
    """
    if store.state(spec.run_id) != "ok":
        return None
    record = store.record(spec.run_id)
    check_holds(spec, record, store, registry)
    return record


def usable(specs: Sequence[RunSpec], store: Store, *, force: bool) -> tuple[list[RunSpec], int]:
    """The runs of a grid but those whose place in the store cannot be read or holds another's, which are
    named; and the exit code for these. Raises their error where no run is left.
    """
    if force:
        return list(specs), EXIT_OK
    kept, problems = [], []
    for spec in specs:
        try:
            if store.state(spec.run_id) == "ok":
                store.check_same(spec, store.record(spec.run_id).spec)
        except StoreError as error:
            problems.append((spec.run_id, error))
        else:
            kept.append(spec)
    if problems and not kept:
        raise problems[0][1]
    for run_id, problem in problems:
        print(f"error: {run_id} is left out: {problem}", file=sys.stderr)
    return kept, EXIT_USAGE if problems else EXIT_OK


def in_another_precision(specs: Iterable[RunSpec], store: Store) -> dict[str, RunSpec]:
    """Stored runs that are one of `specs` but for their precision, as those of another machine are."""
    by_start: dict[str, list[str]] = {}
    for run_id in store.run_ids():
        by_start.setdefault(run_id.rpartition("-")[0], []).append(run_id)
    found = {}
    for spec in specs:
        for run_id in by_start.get(spec.run_id.rpartition("-")[0], []):
            try:
                stored = store.spec(run_id)
            except StoreError:
                continue  # `list runs` names it
            both = (stored.model.dtype, spec.model.dtype)
            changed = differences(stored, spec)
            if "model.dtype" in changed and all(values == both for values in changed.values()):
                found[run_id] = stored
    return found


def without_texts(run_ids: Iterable[str], store: Store) -> list[str]:
    """Those of these finished runs that store no question texts. Raises `StoreError`."""
    found = []
    for run_id in run_ids:
        path = store.folder(run_id) / "predictions.parquet"
        with reading(path), opened(path) as file:
            if "prompt" not in file.schema_arrow.names:
                found.append(run_id)
    return found


def check_holds(spec: RunSpec, record: RunRecord, store: Store, registry: Registry) -> None:
    """Raise `StoreError` where `record` is of another spec, `UsageError` where what it read has changed."""
    store.check_same(spec, record.spec)
    task = registry.task(spec.task.name)
    with guarded_class(task):
        changed = input_changes(record, task())
    if changed:
        raise UsageError(
            f"run {spec.run_id} is done, but {changed}",
            "Use --force to run it again in its place, or another --results folder.",
        )


def input_changes(record: RunRecord, task: Task | None) -> str:
    """What a run of the record's spec would now read otherwise than the record's did; empty for nothing.

    (A plugin's content is part of the spec.) Without its `task` data is not looked at.
    """
    data = data_changes(record.spec, record.data, task) if record.data and task else []
    model = model_changes(record.spec.model, record.model) if record.model else []
    told = [
        f"its {what} has changed since: {', '.join(found)}"
        for what, found in (("data", data), ("model", model))
        if found
    ]
    return "; ".join(told)


def data_changes(spec: RunSpec, stored: DataInfo, task: Task) -> list[str]:
    """What of the task's data is new, gone or changed since `stored` was written."""
    source = DataSource.parse(spec.task.source)
    if source.kind == "hub":
        commit = cached_commit("datasets", task.hub_id, None) if task.hub_id else None
        if commit is None or stored.revision is None or commit == stored.revision:
            return []
        return [f"{task.hub_id} is at commit {commit[:12]} and was at {stored.revision[:12]}"]
    where = f" in {source.path}" if source.path else ""
    # A trial never sees the test split, whose files are then none of its.
    parts = TRAINED_ON if spec.task.split == "validation" else PARTS
    files = task.files(source, parts)
    if source.kind == "sample" and not stored.files:
        return []  # a record of before the sample's files were listed
    if files is not None and (stored.files or not files):
        test: tuple[Part, ...] = ("test",)
        only_tested = (task.files(source, test) or {}).keys() - files.keys()
        before = {name: sha256 for name, sha256 in stored.files.items() if name not in only_tested}
        return [f"{line}{where}" for line in changes(before, hashes(files))]
    folder = source.path or Path()
    if known := changes(stored.files, hashes({name: folder / name for name in stored.files})):
        return [f"{line}{where}" for line in known]
    splits = task.load_parts(source, parts)
    now = data_fingerprint(task, spec.task.scoring, (splits.train, splits.validation, splits.test))
    return [] if now == stored.fingerprint else [f"the items are others{where}"]
