"""A run's process ends with its launcher, in each of the ways in which it can be told; no torch is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stubs import ROOT

from harness.io.tie import PARENT, PIPE, take_tie

CHILD = """
import os, signal, sys, time
import harness.io.tie as tie
tie.GRACE_SECONDS = 0.5
tie.LOOK_SECONDS = 0.1
{before}
tie.take_tie().watch()
print("watching", os.getpid(), flush=True)
time.sleep(600)
"""
LAUNCHER = """
import os, sys, time
from pathlib import Path
import harness.launch.process as process
log, lock = Path(sys.argv[1]), os.open(sys.argv[2], os.O_CREAT | os.O_RDWR)
process.start([sys.executable, "-c", sys.argv[3]], log, lock, {})
time.sleep(600)
"""
WITHOUT_LINUX = "tie.end_with_parent = lambda number: None"
DEAF = f"{WITHOUT_LINUX}; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
# As torchrun's agent does: the worker has no pipe, and looks at its parent.
THROUGH_ANOTHER = f"""
import os, subprocess, sys, time
import harness.io.tie as tie
{{before}}
tie.take_tie().watch()
os.environ[tie.PARENT] = str(os.getpid())
subprocess.Popen([sys.executable, "-c", {CHILD!r}.format(before={WITHOUT_LINUX!r})], start_new_session=True)
time.sleep(600)
"""


def lives(pid: int) -> bool:
    """Whether it runs; one that ended and was not collected yet does not."""
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(status.stdout.strip()) and not status.stdout.strip().startswith("Z")


def wait_for(found, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := found():
            return value
        time.sleep(0.05)
    pytest.fail("it did not come")


@pytest.mark.parametrize(
    "child",
    [
        CHILD.format(before=""),
        CHILD.format(before=WITHOUT_LINUX),
        CHILD.format(before=DEAF),
        THROUGH_ANOTHER.format(before=WITHOUT_LINUX),
    ],
    ids=["told by Linux", "told by the pipe", "deaf to the request", "another process between"],
)
def test_no_process_outlives_a_killed_launcher(child: str, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    command = [sys.executable, "-c", LAUNCHER, str(log), str(tmp_path / "lock"), child]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as launcher:
        try:
            text = wait_for(lambda: log.exists() and (words := log.read_text().split()) and words)
            pid = int(text[1])
            assert lives(pid)
        finally:
            launcher.send_signal(signal.SIGKILL)
            launcher.wait()
    try:
        wait_for(lambda: not lives(pid))
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


def test_the_tie_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that a run starts is not tied to the run's launcher by a number that means something else."""
    monkeypatch.setenv(PIPE, "7")
    monkeypatch.setenv(PARENT, "12")
    tie = take_tie()
    assert (tie.pipe, tie.parent) == (7, 12)
    assert PIPE not in os.environ
    assert PARENT not in os.environ


def test_a_run_started_by_hand_is_tied_to_nothing() -> None:
    code = "import threading; from harness.io.tie import take_tie; take_tie().watch(); print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1\n", done.stderr
