"""A run ends with the launcher that started it: no process computes on, or holds a GPU, for one that is gone.

Outside, the launcher holds one end of a pipe that nobody writes to; each run's process has the other end,
which is at its end once the launcher is gone, however that came about. It is watched from before the
libraries are imported, which takes longest. A process that is started by one of the run's own (torchrun
passes no pipe on to its workers) looks whether its parent is still there. Linux tells it at once besides.

Only the standard library here, and little of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PIPE = "HARNESS_LAUNCHER_PIPE"
PARENT = "HARNESS_PARENT_PID"
_PROC = Path("/proc")
LOOK_SECONDS = 1.0
GRACE_SECONDS = 5.0
"""What a run has to write its record once its launcher is gone."""


_ONE_AT_A_TIME = threading.Lock()
"""Runs of a grid are started by several threads; all have the one pipe."""


@functools.cache
def _made() -> tuple[int, int]:
    return os.pipe()


def _pipe() -> tuple[int, int]:
    with _ONE_AT_A_TIME:
        return _made()


def launcher_pipe() -> int:
    """The end that runs watch. The other stays open in this process, and in none that it starts."""
    return _pipe()[0]


def let_go() -> None:
    """In a fork of the launcher that executes nothing else first: the end that is the launcher's is closed."""
    os.close(_pipe()[1])


def tied() -> dict[str, str]:
    """What the environment of a process adds that is to end with this one; it inherits `launcher_pipe`."""
    return {PIPE: str(launcher_pipe())}


@dataclass(frozen=True, slots=True)
class Tie:
    """What a process ends with: `pipe` at its end, or another parent than `parent`; either may be missing."""

    pipe: int | None
    parent: int | None
    on_parents_death: signal.Signals = signal.SIGTERM

    def watch(self) -> None:
        """Have this process asked to stop when its launcher is gone, and killed where it does not."""
        if self.pipe is None and self.parent is None:
            return  # started by hand
        end_with_parent(self.on_parents_death)
        if self._parent_is_gone():  # before it could be asked for
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=self._watch, daemon=True, name="launcher").start()

    def _watch(self) -> None:
        while True:
            if self._launcher_is_gone():
                number = signal.SIGTERM
                break
            if self._parent_is_gone():
                number = self.on_parents_death
                break
        os.kill(os.getpid(), number)
        time.sleep(GRACE_SECONDS)
        kill_tree(os.getpid())

    def _launcher_is_gone(self) -> bool:
        """Waits a little for it."""
        if self.pipe is None:
            time.sleep(LOOK_SECONDS)
            return False
        return bool(select.select([self.pipe], [], [], LOOK_SECONDS)[0])

    def _parent_is_gone(self) -> bool:
        return self.parent is not None and os.getppid() != self.parent


def take_tie() -> Tie:
    """The tie that this process was started with, out of its environment: it is none of its children's."""
    pipe, parent = (os.environ.pop(name, "") for name in (PIPE, PARENT))
    return Tie(int(pipe) if pipe.isdecimal() else None, int(parent) if parent.isdecimal() else None)


def end_with_parent(number: signal.Signals) -> None:
    """Have Linux send signal `number` when the parent dies; elsewhere that is only seen by looking."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(number))


def kill_tree(pid: int) -> None:
    """Kill a process and all below it. torchrun's workers are in sessions of their own."""
    for member in [*_descendants(pid), pid]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(member, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    if not (_PROC / "self").exists():  # not Linux
        import psutil

        try:
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
    children: dict[int, list[int]] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # "PID (name) STATE PARENT ...": the name may hold spaces and brackets.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
