"""Which stored results still hold for what is asked."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError
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
