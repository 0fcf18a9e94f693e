"""One process to a run: a lock that lives as long as any process that holds its file open."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import StoreError, UsageError
from harness.escape import plain
from harness.io.files import store_error

_ON = "on:"
_MAX_DIGITS = 9
"""Of a process id."""


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
    """Note in the lock file which processes hold it, and on which machine, for the one that is refused."""
    text = f"{' '.join(map(str, pids))} {_ON}{socket.gethostname()}\n".encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text, 0)


def _acquire(path: Path) -> int:
    while True:
        descriptor = _open(path)
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


def _open(path: Path) -> int:
    """The lock file, made where there is none. It is written to: nothing but a file of its own will do.

    Raises `StoreError` for a link (what it points to would be overwritten), a pipe, a device and the like.
    """
    remedy = f"Remove {path}."
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        if path.is_symlink():
            raise StoreError(f"{path} is a link, and no lock", remedy) from error
        if path.exists() and not path.is_file():
            raise StoreError(f"{path} is no file, and no lock", remedy) from error
        raise store_error(error, path, "open the lock") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    kind = "has another name too (a hard link)" if stat.S_ISREG(status.st_mode) else "is no file"
    raise StoreError(f"{path} {kind}, and no lock", remedy)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _holder(descriptor: int) -> str:
    """` (pid N)`: of the processes noted in the lock file the first that still lives; on another machine,
    where that cannot be asked, the first with the machine's name. Nothing where none is noted.
    """
    words = os.pread(descriptor, 400, 0).decode(errors="replace").split()
    pids = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS]
    host = next((word.removeprefix(_ON) for word in words if word.startswith(_ON)), None)
    if not pids:
        return ""
    if host is not None and host != socket.gethostname():
        return f" (pid {pids[0]} on {plain(host)})"
    alive = [pid for pid in pids if _lives(pid)]
    return f" (pid {alive[0]})" if alive else ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
