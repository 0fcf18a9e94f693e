"""`run --warm`: the runs of a grid are forked from one process that has imported the libraries.

A run keeps a process of its own, and with it its memory, seeds, environment, signals and end:
nothing of one run is in the next. Only the imports are shared (harness.runtime.warm).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from harness.io.channel import Channel
from harness.io.files import store_error
from harness.io.tie import kill_tree, launcher_pipe, tied

WAIT_SECONDS = 0.02
END_SECONDS = 5.0


class WarmProcess:
    """Starts runs one after another; its process is made for the first one, and again if it dies."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        # Asking CUDA whether there is a GPU would make it unusable in a fork; asking NVML does not.
        self._environment = {**os.environ, **environment, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    def __enter__(self) -> WarmProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def start(self, folder: Path, log: Path, lock: int) -> WarmRun:
        """Execute the run of `folder` in a fork, which inherits the lock and writes to `log`."""
        if self._process is None or self._process.poll() is not None:
            self._begin(log)
        process, channel = self._process, self._channel
        if process is None or channel is None:
            raise RuntimeError("a warm process was not begun")
        with contextlib.suppress(ConnectionError):  # it died just now: the first look at the run says so
            channel.send({"folder": str(folder), "log": str(log)}, lock)
        return WarmRun(process, channel)

    def _begin(self, log: Path) -> None:
        self._end()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel = Channel(ours)
        with theirs:
            try:
                with log.open("ab") as output:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "harness", "warm", str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        pass_fds=(theirs.fileno(), launcher_pipe()),
                        env={**self._environment, **tied()},
                        process_group=0,
                    )
            except OSError as error:
                raise store_error(error, log, "start the run or write") from error

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()  # which tells it that no more runs come
        if self._process is not None:
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                kill_tree(self._process.pid)
                self._process.wait()
        self._process = self._channel = None


class WarmRun:
    """A run's process, as `subprocess.Popen` would show it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.pid = process.pid  # until it has forked: to stop the run is to stop the importing then
        self._process = process
        self._channel = channel
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code (negative: a signal), or `None` while the run goes on."""
        while self._code is None:
            try:
                received = self._channel.receive(wait=False)
            except BlockingIOError:
                return None
            if received is None:
                self._code = self._orphaned()
                break
            told, _ = received
            self.pid = told.get("pid", self.pid)
            self._code = told.get("code")
        return self._code

    def _orphaned(self) -> int:
        """The warm process itself is gone, and takes a run that it had forked with it."""
        own = self._process.wait()
        if self.pid == self._process.pid:
            return own or 1  # ended without having forked
        kill_tree(self.pid)
        return -signal.SIGKILL

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(WAIT_SECONDS)
        return code
