"""What a run came to when its process could not say so itself."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime
from pathlib import Path

from harness.launch.process import Ending
from harness.record import Cost, Failure, RunRecord
from harness.spec import RunSpec

LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 16_384

_WORKER_SIGNAL = re.compile(r"exitcode\s*:\s*-(\d+)")


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
    if number == signal.SIGKILL and oom_killed:
        return Failure(
            phase=ending.phase,
            kind="out_of_memory",
            message=f"the system killed the process {where}: the machine ran out of host memory",
            remedy="Lower --set train.micro_batch_tokens, close other programs, or use a machine with more memory.",
            traceback=log or None,
        )
    how = f"was killed by {_signal_name(number)}" if number else f"ended with exit code {ending.code}"
    return Failure(
        phase=ending.phase,
        kind="crash",
        message=f"the process {how} {where} and left no record",
        remedy="See the end of its log.txt; the same command tries again.",
        traceback=log or None,
    )


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
    reported = _WORKER_SIGNAL.findall(log)
    return int(reported[-1]) if code and reported else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
