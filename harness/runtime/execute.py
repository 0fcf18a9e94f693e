"""One run, top to bottom: load, adapt, train, save, evaluate, record.

Every way out leaves the folder true: a record (ok, failed or interrupted), or a `refused` event for
what was asked wrongly, or, when killed, neither, so that the next try goes on from a checkpoint.
"""

from __future__ import annotations

import logging
import signal
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from harness.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    MissingDependencyError,
    UsageError,
)
from harness.record import Environment, Failure, RunRecord
from harness.runtime.device import environment, process_age_seconds, rank, run_device
from harness.runtime.events import Events
from harness.runtime.failures import failure_of, interruption
from harness.runtime.meter import Meter
from harness.runtime.run import Run
from harness.spec import RunSpec
from harness.store.leftovers import tidy
from harness.store.runs import write_json_atomic

_FAILURES = "failure-*.json"
"""One a process but the first, which writes the record."""
_STOPS = (signal.SIGTERM, signal.SIGINT)


def main(folder: Path) -> int:
    """Execute the run whose spec.json lies in `folder`; returns the exit code."""
    before = {number: signal.getsignal(number) for number in _STOPS}
    _listen()
    try:
        return _execute(folder)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _execute(folder: Path) -> int:
    logging.getLogger("transformers").setLevel(logging.WARNING)
    spec = RunSpec.model_validate_json((folder / "spec.json").read_text(encoding="utf-8"))
    first = rank() == 0
    events = Events(folder / "events.jsonl" if first else None)
    device = run_device()
    meter = Meter(device, started_seconds_ago=process_age_seconds())
    for limit in meter.limits():
        events.notice(limit)
    run = Run(spec, folder, device, meter, events)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    made_with = environment(device, spec.plugin_packages) if first else None
    failure: Failure | None = None
    if first:
        for stale in folder.glob(_FAILURES):
            stale.unlink()
    try:
        run.go()
    except (UsageError, MissingDependencyError) as error:
        events.emit("refused", message=error.message, remedy=error.remedy, exit_code=error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        failure = interruption(meter.current)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever it is becomes a failed row
        failure = failure_of(error, meter.current)
        traceback.print_exc()
    _stop_listening()
    if first:
        failure = failure and _cause(folder, failure)
        _write(folder, _record(run, failure, made_with, started))
        if failure is None and (left := tidy(folder)):
            events.notice(left)
    elif failure is not None and failure.kind != "interrupted":
        write_json_atomic(folder / _FAILURES.replace("*", str(rank())), failure)
    if failure is None:
        return EXIT_OK
    return EXIT_INTERRUPTED if failure.kind == "interrupted" else EXIT_FAILED


def _cause(folder: Path, own: Failure) -> Failure:
    """Why a run of several processes failed. Where another one ran out of memory, this one only sees
    its connection close, or is stopped by torchrun: what is already written of others came first.
    """
    if own.kind not in ("error", "interrupted"):
        return own
    others = [Failure.model_validate_json(path.read_text()) for path in sorted(folder.glob(_FAILURES))]
    return next((other for other in others if other.kind != "error"), next(iter(others), own))


def _interrupt(signum: int, frame: Any) -> None:
    """Once: a second signal would keep the record from being written. The death of a launcher with
    several threads is told twice.
    """
    _stop_listening()
    raise KeyboardInterrupt


def _listen() -> None:
    for number in _STOPS:
        if (
            signal.getsignal(number) is not signal.SIG_IGN
        ):  # as in the background of a shell, where it stays so
            signal.signal(number, _interrupt)


def _stop_listening() -> None:
    """All is done but to write down what came of it, which takes no time."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


def _record(run: Run, failure: Failure | None, made_with: Environment | None, started: str) -> RunRecord:
    status: Literal["ok", "failed", "interrupted"] = "ok"
    if failure is not None:
        status = "interrupted" if failure.kind == "interrupted" else "failed"
    return RunRecord(
        run_id=run.folder.name,
        status=status,
        spec=run.spec,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        scores=run.scores if failure is None else {},
        cost=run.cost(),
        phases=tuple(run.meter.phases),
        started=started,
        environment=made_with,
        data=run.data,
        model=run.model_info,
        inputs=run.inputs if failure is None else None,
        failure=failure,
        probes=run.probes if failure is None else {},
        resumed=run.resumed,
        passed_over=run.passed_over,
        notices=tuple(run.events.notices),
    )


def _write(folder: Path, record: RunRecord) -> None:
    write_json_atomic(folder / "record.json", record.model_dump(mode="json"))
