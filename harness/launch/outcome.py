"""What a run came to when its process could not say so itself."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import shortened
from harness.launch.process import Ending
from harness.record import Cost, Failure, RunRecord
from harness.spec import RunSpec

LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 16_384

_WORKER_SIGNAL = re.compile(r"exitcode\s*:\s*-(\d+)")
_CAUSE = re.compile(
    r"(?:\[rank\d+\]:\s*)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)(?::.*)?)$"
)
"""The last line of a Python traceback."""
_TORCHRUN = ("torch.distributed.elastic.", "ChildFailedError", "torch.distributed.DistStoreError")
_MORE_MEMORY = (
    "Lower --set train.micro_batch_tokens, close other programs, or use a machine with more memory."
)


def oom_kills() -> int | None:
    """How many processes this machine's kernel has killed for want of memory; `None` if it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    counts = [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
    return counts[0] if counts else None


def record_of(spec: RunSpec, failure: Failure, seconds: float) -> RunRecord:
    """The record of a run that left none."""
    return RunRecord(
        run_id=spec.run_id,
        status="interrupted" if failure.kind == "interrupted" else "failed",
        spec=spec,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cost=Cost(total_seconds=seconds),
        failure=failure,
    )


def failure_of(ending: Ending, log: str, *, oom_killed: bool, timeout_seconds: float | None) -> Failure:
    """Why a process ended without a record, from its exit code and the end of its log."""
    where = f"in phase {ending.phase}" if ending.phase != "start" else "before its first phase"
    if ending.stopped == "timeout":
        return timeout_failure(ending.phase, timeout_seconds)
    if ending.stopped == "interrupted":
        return Failure(
            phase=ending.phase,
            kind="interrupted",
            message=f"stopped by the user {where}",
            remedy="The same command goes on from the last checkpoint.",
        )
    number = _signal_number(ending.code, log)
    if number is not None:
        return killed(ending.phase, number, log, oom_killed=oom_killed)
    cause = cause_in(log)
    return Failure(
        phase=ending.phase,
        kind="crash",
        message=f"the process ended with exit code {ending.code} {where}"
        + (f": {cause}" if cause else " and left no record"),
        remedy=_missing(cause) or "See the end of its log.txt; the same command tries again.",
        traceback=log or None,
    )


def killed(phase: str, number: int, log: str, *, oom_killed: bool) -> Failure:
    """The failure of a run one of whose processes died of a signal."""
    where = f"in phase {phase}" if phase != "start" else "before its first phase"
    if number == signal.SIGKILL and oom_killed:
        return Failure(
            phase=phase,
            kind="out_of_memory",
            message=f"the system killed the process {where}: the machine ran out of host memory",
            remedy=_MORE_MEMORY,
            traceback=log or None,
        )
    remedy = "See the end of its log.txt; the same command tries again."
    if number == signal.SIGKILL:
        remedy = f"If memory ran out (a container's limit, a scheduler's): {_MORE_MEMORY[0].lower()}{_MORE_MEMORY[1:]}"
    return Failure(
        phase=phase,
        kind="crash",
        message=f"the process was killed by {_signal_name(number)} {where}",
        remedy=remedy,
        traceback=log or None,
    )


def worker_killed(failure: Failure | None, log: str, *, oom_killed: bool) -> Failure | None:
    """The failure of a run one of whose other processes was killed; `None` where none was.

    The process that wrote the record saw only a closed connection, or was stopped by torchrun.
    """
    number = _worker_signal(log)
    if failure is None or failure.kind not in ("error", "interrupted") or number is None:
        return None
    return killed(failure.phase, number, log, oom_killed=oom_killed)


def cause_in(log: str) -> str:
    """The line of a log that says why Python ended; an empty string where none does.

    The last one: what torchrun says of its workers follows it and is passed over.
    """
    causes = [found for line in log.splitlines() if (found := _CAUSE.match(line))]
    kept = [found[1] for found in causes if not found[1].startswith(_TORCHRUN)]
    return shortened(kept[-1].strip()) if kept else ""


def _missing(cause: str) -> str:
    name = re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", cause)
    return f"Install the package of {name[1]} into this Python; the same command tries again." if name else ""


def timeout_failure(phase: str, timeout_seconds: float | None) -> Failure:
    """The failure of a run that took longer than `--timeout`."""
    limit = f" ({timeout_seconds:g} s)" if timeout_seconds is not None else ""
    return Failure(
        phase=phase,
        kind="timeout",
        message=f"stopped in phase {phase}: its time was up{limit}",
        remedy="Give a longer --timeout; the same command goes on from the last checkpoint.",
    )


def log_tail(path: Path, offset: int) -> str:
    """The last lines written to a log after `offset`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(offset, size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])


def _signal_number(code: int, log: str) -> int | None:
    """The signal a process died of; torchrun itself ends well and prints its worker's."""
    if code < 0:
        return -code
    return _worker_signal(log) if code else None


def _worker_signal(log: str) -> int | None:
    """What torchrun says that the first of its workers to fail died of; `None` where no signal."""
    reported = _WORKER_SIGNAL.findall(log)
    return int(reported[-1]) if reported else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
