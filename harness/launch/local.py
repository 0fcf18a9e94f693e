"""Running a spec on this machine, in a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import EXIT_MISSING, HarnessError, MissingDependencyError, UsageError
from harness.io.files import store_error, write_json_atomic
from harness.io.lock import write_holders
from harness.launch.outcome import failure_of, log_tail, oom_kills, record_of, timeout_failure, worker_killed
from harness.launch.process import Child, Ending, Event, Follower, OnEvent, StopRequests, start, watch
from harness.launch.warm import WarmProcess
from harness.plugins.search_path import child_variables
from harness.record import RunRecord
from harness.spec import RunSpec
from harness.store.leftovers import PREVIOUS, delete_checkpoints, last_checkpoint, tidy
from harness.store.runs import Store

RECORD = "record.json"
# The folder of replaced results goes when it is empty: not while another run is about to move into it.
_REPLACING = threading.Lock()


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How a run is started. None of it changes what the run is."""

    processes: int = 1
    timeout_seconds: float | None = None
    resume: bool = True
    force: bool = False
    log_samples: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    warm: bool = False
    parent: WarmProcess | None = None
    forkable: frozenset[str] = frozenset()
    """engines whose runs may be forked from `parent`"""

    def child_environment(self) -> dict[str, str]:
        """What is added to the environment of a run."""
        added = {**self.environment, "PYTHONUNBUFFERED": "1"}
        added |= child_variables()
        # glibc's own way to ask for huge pages: activations come and go by the gigabyte, and without them
        # a twentieth of a run on a CPU is spent on page faults. Only read when a process starts.
        added.setdefault("GLIBC_TUNABLES", os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"))
        return {**added, "HARNESS_LOG_SAMPLES": "1"} if self.log_samples else added


def exec_command(folder: Path, processes: int) -> list[str]:
    """The command that executes the run of a folder, in one process or several."""
    several = ["--processes", str(processes)] if processes > 1 else []
    return [sys.executable, "-m", "harness", "exec", *several, str(folder)]


def run_local(
    spec: RunSpec,
    store: Store,
    options: LaunchOptions,
    on_event: OnEvent,
    requests: StopRequests | None = None,
) -> RunRecord:
    """Execute `spec` and return its record, which is in the store by then. For `requests` see `watch`.

    An unfinished, failed or interrupted run is taken up where it stopped. With `force` an earlier
    result is set aside and deleted once this one ended well. Raises `UsageError` where another
    process has the run, and what the run's process refuses with; `KeyboardInterrupt` where the user
    asked to stop but the run still came to its end (its record is stored).
    """
    run_id = spec.run_id
    with _REPLACING:
        aside = store.set_aside(run_id) if options.force else None
    try:
        with store.lock(run_id) as lock:
            if store.state(run_id) == "ok":  # another process was faster
                return store.record(run_id)
            folder = _take_up(spec, store, options, on_event)
            record, ending = _execute(spec, store, folder, lock, options, on_event, requests)
            # Its process does so too, unless it was killed once it had written the record.
            if record.status == "ok" and (left := tidy(folder)):
                on_event(_notice(left))
    except HarnessError:
        if aside is not None:
            store.put_back(run_id, aside)
        raise
    if record.status == "ok":
        with _REPLACING:
            store.drop_replaced(run_id)
    elif aside is not None:
        on_event(_notice(f"the result that --force was to replace is kept in {aside}"))
    if ending.stopped == "interrupted" and record.status != "interrupted":
        raise KeyboardInterrupt
    return record


def _take_up(spec: RunSpec, store: Store, options: LaunchOptions, on_event: OnEvent) -> Path:
    """The run's folder, ready for another try; says what was found in it."""
    state = store.state(spec.run_id)
    folder = store.prepare(spec)
    if state == "absent":
        return folder
    found = f"found an unfinished run of {spec.run_id}"
    if state in ("failed", "interrupted"):
        failure = store.record(spec.run_id).failure
        why = f" ({failure.kind} in {failure.phase})" if failure else ""
        found = f"found {'an' if state == 'interrupted' else 'a'} {state} run of {spec.run_id}{why}"
        # Out of the way, or a kill now would leave the old record as this try's.
        _move(folder / RECORD, folder / PREVIOUS)
    step = last_checkpoint(folder)
    if not options.resume:
        delete_checkpoints(folder)
        on_event(_notice(f"{found}: starting anew"))
    elif step is None:
        on_event(_notice(f"{found} (no checkpoint): starting anew"))
    else:
        on_event(_notice(f"{found} (last checkpoint at step {step}): going on from there"))
    return folder


def _execute(
    spec: RunSpec,
    store: Store,
    folder: Path,
    lock: int,
    options: LaunchOptions,
    on_event: OnEvent,
    requests: StopRequests | None,
) -> tuple[RunRecord, Ending]:
    log = folder / "log.txt"
    log_start = log.stat().st_size if log.exists() else 0
    kills_before = oom_kills()
    follower = Follower(folder / "events.jsonl")
    child = _start(spec, folder, lock, options)
    write_holders(lock, os.getpid(), child.pid)
    ending = watch(child, follower, on_event, options.timeout_seconds, requests)

    kills_after = oom_kills()
    oom_killed = kills_before is not None and kills_after is not None and kills_after > kills_before
    if (folder / RECORD).exists():
        record = _own_record(spec, store, folder, ending, options)
        if options.processes > 1 and ending.stopped is None:
            record = _with_cause(record, folder, log_tail(log, log_start), oom_killed=oom_killed)
        return record, ending
    if ending.refused is not None:
        _leave(folder)
        raise _refusal(ending.refused)
    failure = failure_of(
        ending, log_tail(log, log_start), oom_killed=oom_killed, timeout_seconds=options.timeout_seconds
    )
    record = record_of(spec, failure, ending.seconds)
    write_json_atomic(folder / RECORD, record)
    return record, ending


def _start(spec: RunSpec, folder: Path, lock: int, options: LaunchOptions) -> Child:
    log = folder / "log.txt"
    # torchrun's workers are not for forking.
    if options.parent is not None and options.processes == 1 and spec.engine.name in options.forkable:
        return options.parent.start(folder, log, lock)
    return start(exec_command(folder, options.processes), log, lock, options.child_environment())


def _own_record(
    spec: RunSpec, store: Store, folder: Path, ending: Ending, options: LaunchOptions
) -> RunRecord:
    """The record that the process itself wrote. It cannot know that it was stopped for its time."""
    record = store.record(spec.run_id)
    if ending.stopped != "timeout" or record.status == "ok":
        return record
    phase = record.failure.phase if record.failure else ending.phase
    failure = timeout_failure(phase, options.timeout_seconds)
    record = record.model_copy(update={"status": "failed", "failure": failure})
    write_json_atomic(folder / RECORD, record)
    return record


def _with_cause(record: RunRecord, folder: Path, log: str, *, oom_killed: bool) -> RunRecord:
    """`record`, and that in the store, with what killed another of the run's processes."""
    failure = worker_killed(record.failure, log, oom_killed=oom_killed)
    if failure is None:
        return record
    record = record.model_copy(update={"status": "failed", "failure": failure})
    write_json_atomic(folder / RECORD, record)
    return record


def _refusal(event: Event) -> HarnessError:
    message, remedy = str(event.get("message", "refused")), str(event.get("remedy", ""))
    kind = MissingDependencyError if event.get("exit_code") == EXIT_MISSING else UsageError
    return kind(message, remedy)


def _leave(folder: Path) -> None:
    """Undo this try: an earlier record comes back, and a folder with nothing to go on from goes."""
    if (folder / PREVIOUS).exists():
        _move(folder / PREVIOUS, folder / RECORD)
    elif last_checkpoint(folder) is None:
        _remove(folder)


def _notice(text: str) -> Event:
    return {"event": "notice", "text": text}


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        raise store_error(error, source, "move") from error


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise store_error(error, folder, "remove") from error
