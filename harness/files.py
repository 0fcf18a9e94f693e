"""Writing files so that a reader finds the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from harness.errors import StoreError

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


def make_folder(path: Path) -> None:
    """Create `path` and its parents where they are not there yet. Raises `StoreError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store_error(error, path, "create the folder") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
