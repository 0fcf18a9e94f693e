"""The process that warm runs are forked from: it imports the libraries once and computes nothing.

It is asked over a socket for one run at a time (harness.launch.warm), forks, and tells the fork's
process id and then its exit code. A fork is safe while there is one thread and no CUDA context;
where it would not be, the run is started afresh in the same process instead.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch

from harness.errors import EXIT_OK
from harness.io.channel import Channel
from harness.io.tie import PARENT, PIPE, Tie
from harness.runtime import execute
from harness.runtime.device import WARM
from harness.runtime.events import Events
from harness.runtime.run import TRAINING


def main(descriptor: int, pipe: int | None) -> int:
    """Serve until the launcher closes the socket. In a fork: execute the run and return its exit code.

    `pipe` is what tells a fork that the launcher is gone (harness.io.tie).
    """
    own = os.getpid()
    with contextlib.closing(Channel(socket.socket(fileno=descriptor))) as channel:
        if torch.cuda.device_count() == 0:  # PEFT imports bitsandbytes, and that makes a CUDA context
            importlib.import_module(TRAINING)
        gc.collect()
        gc.freeze()  # so that collecting in a fork does not copy all that was imported
        for asked, lock in _requests(channel):
            child = os.fork()
            if child == 0:
                _settle(Path(asked["log"]), lock)
                folder = Path(asked["folder"])
                break
            os.close(lock)  # or the run would stay locked after its end
            _follow(child, channel)
        else:
            return EXIT_OK
    if threading.active_count() > 1 or torch.cuda._is_in_bad_fork():
        _start_afresh(folder, pipe, own)
    # The death of this process is a crash, which the run must not take for being interrupted by the user.
    Tie(pipe, own, on_parents_death=signal.SIGKILL).watch()
    return execute.main(folder)


def _requests(channel: Channel) -> Iterator[tuple[dict[str, str], int]]:
    """The folder and log of each run asked for, and the descriptor of its lock."""
    while (received := channel.receive()) is not None:
        message, descriptors = received
        yield message, descriptors[0]


def _follow(child: int, channel: Channel) -> None:
    """Until the fork ends. Where the launcher dies, it is asked to stop as the run of a launcher is."""
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    # Here and in the fork: whoever is told of the process may signal its group at once.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(child, child)
    _tell(channel, pid=child)
    status = os.waitpid(child, 0)[1]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _tell(channel, code=os.waitstatus_to_exitcode(status))


def _tell(channel: Channel, **what: int) -> None:
    with contextlib.suppress(ConnectionError):  # the launcher is gone
        channel.send(what)


def _settle(log: Path, lock: int) -> None:
    """Make a fork what the launcher would have started: its group, output, lock and environment."""
    os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.close(output)
    os.set_inheritable(lock, True)
    os.environ[WARM] = "1"


def _start_afresh(folder: Path, pipe: int | None, parent: int) -> NoReturn:
    del os.environ[WARM]
    os.environ[PARENT] = str(parent)
    if pipe is not None:
        os.environ[PIPE] = str(pipe)
    text = "the libraries use the GPU or threads once they are imported: this run imports them itself"
    Events(folder / "events.jsonl").notice(text)
    os.execv(sys.executable, [sys.executable, "-m", "harness", "exec", str(folder)])  # noqa: S606
