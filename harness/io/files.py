"""Files written so that a reader finds the old one or the new one, and read without waiting or filling memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

from harness.errors import StoreError, UsageError

_REASONS = {
    errno.ENOSPC: ("no space left on the device", "Free some space there, or give another --results folder."),
    errno.EDQUOT: ("your disk quota is used up", "Free some space there, or give another --results folder."),
    errno.EACCES: ("permission denied", "Make it yours to write, or give another --results folder."),
    errno.EPERM: ("not permitted", "Make it yours to write, or give another --results folder."),
    errno.EROFS: ("the file system is read-only", "Give another --results folder."),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "Give another --results folder."),
    errno.EEXIST: ("a file of this name is in the way", "Move it, or give another --results folder."),
    errno.ENOLCK: ("this file system cannot lock files", "Give a --results folder on a local disk."),
}

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class NotReadableError(UsageError):
    """A path that is no file of a size that can be read; a caller may say it as an error of its own kind."""


def store_error(error: OSError, path: Path, doing: str) -> StoreError:
    """An `OSError` on a results file, in words and with a remedy."""
    default = (error.strerror or str(error), "Check the --results folder.")
    reason, remedy = _REASONS.get(error.errno or 0, default)
    return StoreError(f"cannot {doing} {path}: {reason}", remedy)


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` to `path` by way of a new file beside it. Raises `StoreError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent, contents=False)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise store_error(error, path, "write") from error


def write_json_atomic(path: Path, value: Any) -> None:
    """Write a pydantic model, or plain data without NaN, as JSON. Raises `StoreError`."""
    if hasattr(value, "model_dump_json"):
        write_text_atomic(path, value.model_dump_json(indent=1) + "\n")
    else:
        write_text_atomic(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def sync_folder(folder: Path, *, contents: bool = True) -> None:
    """Have the system write a folder's entries to the disk, and with `contents` all that is below it: what
    is only in memory is gone, or reads as zeros, after a power cut. Raises `StoreError`.
    """
    inner = [path for path in folder.rglob("*") if path.is_file() or path.is_dir()] if contents else []
    for path in [*inner, folder]:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno == errno.EINVAL:  # this file system does not do that for folders
                continue
            raise store_error(error, path, "write") from error


def make_folder(path: Path) -> None:
    """Create `path` and its parents where they are not there yet. Raises `StoreError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store_error(error, path, "create the folder") from error


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes. Never waits, and never reads from anything but a regular file.

    Raises `NotReadableError` for a folder, pipe, device or socket, links in a circle and a name that no
    file can have; `OSError` for what else the system says (not there, no permission).
    """
    try:
        _check_regular(path, path.stat().st_mode)
        # Not blocking: it may have become a pipe since, and opening one waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:  # a NUL in the name
        raise NotReadableError(f"{str(path)!r}: {error}", "Give the path of a file.") from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
            raise
        reason = (
            "links point at each other in a circle" if error.errno == errno.ELOOP else "the name is too long"
        )
        raise NotReadableError(
            f"{path}: {reason}", "Put the file itself there, or give another path."
        ) from error
    file = os.fdopen(descriptor, "rb")
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
    except NotReadableError:
        file.close()
        raise
    return file


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")
        raise NotReadableError(f"{path}: is {kind}, expected a file", "Put a regular file there.")


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises what `open_regular` does, and
    `NotReadableError` for a larger file, of which no more than that is read.
    """
    with open_regular(path) as file:
        # Not asked of the system alone: some files (those in /proc) say that they have 0 bytes.
        content = b"" if os.fstat(file.fileno()).st_size > limit else file.read(limit + 1)
        size = max(os.fstat(file.fileno()).st_size, len(content))
    if size > limit:
        raise NotReadableError(
            f"{path}: has {size:,} bytes, more than the {limit:,} that are read", "Is it the right file?"
        )
    return content


def sha256_of(path: Path) -> str:
    """The SHA-256 of a regular file's content, in hex. Raises what `open_regular` does."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
