"""Which stored results still hold for what is asked."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.boundary import reading
from harness.errors import EXIT_OK, EXIT_USAGE, StoreError, UsageError
from harness.files import read_bounded
from harness.record import RunRecord
from harness.spec import RunSpec
from harness.store import Store


def reusable(spec: RunSpec, store: Store) -> RunRecord | None:
    """The record of `spec` where it ended well and still holds, else `None`.

    Raises `StoreError` where another spec has its place, `UsageError` where its data has changed.
    """
    if store.state(spec.run_id) != "ok":
        return None
    record = store.record(spec.run_id)
    check_holds(spec, record, store)
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


def without_texts(run_ids: Iterable[str], store: Store) -> list[str]:
    """Those of these finished runs that store no question texts. Raises `StoreError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from harness.report.outcomes import MOST_BYTES

    found = []
    for run_id in run_ids:
        path = store.folder(run_id) / "predictions.parquet"
        with reading(path), pq.ParquetFile(pa.BufferReader(read_bounded(path, MOST_BYTES))) as file:
            if "prompt" not in file.schema_arrow.names:
                found.append(run_id)
    return found


def check_holds(spec: RunSpec, record: RunRecord, store: Store) -> None:
    """Raise `StoreError` where `record` is of another spec, `UsageError` where its data has changed since."""
    store.check_same(spec, record.spec)
    if spec.task.source in ("hub", "sample"):
        return
    changed = store.changed_files(record, Path(spec.task.source))
    if changed:
        raise UsageError(
            f"run {spec.run_id} is done, but its data has changed since in {spec.task.source}: "
            f"{', '.join(changed)}",
            "Use --force to run it again in its place, or another --results folder.",
        )
