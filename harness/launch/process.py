"""A run's process from outside: started, listened to, and stopped when it must be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Protocol

from harness.io.files import store_error
from harness.io.tie import kill_tree, launcher_pipe, tied

Event = dict[str, Any]
OnEvent = Callable[[Event], None]

POLL_SECONDS = 0.1


class Child(Protocol):
    """A run's process. `poll` gives its exit code (negative: a signal), or `None` while it runs."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


# What a run has to write its record after being asked to stop, and to end after being told to.
GRACE_SECONDS = 15.0
TERMINATE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run's process ended: its exit code (negative: a signal), and what was seen of it."""

    code: int
    stopped: Literal["interrupted", "timeout"] | None
    phase: str
    refused: Event | None
    seconds: float


class Follower:
    """Reads the events appended to a file after this object was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def read(self) -> list[Event]:
        """The events since the last call. A line without its end is left for the next one."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := _event(line)) is not None]


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "event" in event else None


class StopRequests:
    """Counts Ctrl-C, SIGTERM and SIGHUP while it is entered, in place of what they usually do."""

    def __init__(self) -> None:
        self.count = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                # Ignored on purpose, as under nohup, stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def start(
    command: Sequence[str], log: Path, lock: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a run's process. It inherits the lock, so that its run stays locked when this one is killed."""
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock, launcher_pipe()),
                env={**os.environ, **environment, **tied()},
                # A group of its own: a terminal's Ctrl-C reaches this process only, which hands it
                # on exactly once; a second one would cut the writing of the record short.
                process_group=0,
            )
    except OSError as error:
        raise store_error(error, log, "start the run or write") from error


def watch(
    child: Child,
    follower: Follower,
    on_event: OnEvent,
    timeout_seconds: float | None,
    requests: StopRequests | None = None,
) -> Ending:
    """Hand on the child's events until it ends; stop it when asked to, or when its time is up.

    `requests` are those of a grid that watches several children, each in a thread, where no thread
    but the main one is told of signals.
    """
    phase, refused = "start", None
    started = time.monotonic()
    stopper = _Stopper(child, timeout_seconds)
    with contextlib.nullcontext(requests) if requests else StopRequests() as stop:
        try:
            while True:
                code = child.poll()  # before reading: what it wrote last is then read too
                for event in follower.read():
                    phase = str(event.get("name", phase)) if event["event"] == "phase" else phase
                    refused = event if event["event"] == "refused" else refused
                    on_event(event)
                if code is not None:
                    break
                stopper.check(stop.count)
                time.sleep(POLL_SECONDS)
        finally:
            if child.poll() is None:  # this process itself failed: leave nothing running
                kill_tree(child.pid)
                child.wait()
    return Ending(code, stopper.reason, phase, refused, time.monotonic() - started)


class _Stopper:
    """Asks a child to stop, then tells it to, then ends it."""

    def __init__(self, child: Child, timeout_seconds: float | None) -> None:
        self.reason: Literal["interrupted", "timeout"] | None = None
        self._child = child
        self._started = time.monotonic()
        self._timeout = timeout_seconds
        self._asked_at = 0.0
        self._told = False

    def check(self, requests: int) -> None:
        now = time.monotonic()
        if self.reason is None:
            timed_out = self._timeout is not None and now - self._started > self._timeout
            if requests or timed_out:
                self.reason = "interrupted" if requests else "timeout"
                self._asked_at = now
                _signal(self._child.pid, _stop_signal())
        elif requests > 1 or now - self._asked_at > GRACE_SECONDS + TERMINATE_SECONDS:
            kill_tree(self._child.pid)
        elif now - self._asked_at > GRACE_SECONDS and not self._told:
            self._told = True
            _signal(self._child.pid, signal.SIGTERM)


def _stop_signal() -> signal.Signals:
    """What asks a run to stop. A background shell has its children ignore Ctrl-C, and so theirs."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return signal.SIGTERM if ignored else signal.SIGINT


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
