"""One process to a run: a lock that lives as long as any process that holds its file open."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UsageError
from harness.files import store_error


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock at `path`; yields its file descriptor, which a child may inherit.

    The lock is dropped when the last process that has this descriptor open ends, so that a child
    keeps it when its parent is killed. Raises `UsageError` where another process holds it.
    """
    descriptor = _acquire(path)
    try:
        write_holders(descriptor, os.getpid())
        yield descriptor
    finally:
        # Closed and not unlocked: unlocking would take the lock from the child too.
        os.close(descriptor)


def write_holders(descriptor: int, *pids: int) -> None:
    """Note in the lock file which processes hold it, for the one that is refused."""
    text = " ".join(map(str, pids)).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text + b"\n", 0)


def _acquire(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise store_error(error, path, "open the lock") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError as error:
            held_by = _holder(descriptor)
            os.close(descriptor)
            raise UsageError(
                f"run {path.parent.name} is being run by another process{held_by}",
                "Wait until it ends, or stop that process.",
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise store_error(error, path, "lock") from error
        # Its folder was moved or removed between opening and locking: lock the new file.
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _holder(descriptor: int) -> str:
    """` (pid N)`: of the processes noted in the lock file the first that still lives."""
    pids = [int(word) for word in os.pread(descriptor, 200, 0).split() if word.isdigit()]
    alive = [pid for pid in pids if _lives(pid)]
    return f" (pid {(alive or pids)[0]})" if pids else ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
