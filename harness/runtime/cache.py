"""What medtune keeps on this machine because making it takes long: where, of what, and how long."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.io.files import NotReadableError, read_bounded, sha256_of
from harness.io.hashes import cache_root, remembered_sha256

UNUSED_DAYS = 30
SUMS = "SHA256SUMS"
_MOST_SUMS_BYTES = 2**20
_PUBLIC = ("hub", "sample", "package")


def may_keep(variable: str, default: Literal["public", "all"], source: str) -> bool:
    """Whether what was made from `source` may be kept, by an environment variable: public, all or none.

    An environment variable and no setting of the spec, because a result does not depend on it.
    Raises `UsageError` for another value.
    """
    asked = os.environ.get(variable) or default
    if asked not in ("public", "all", "none"):
        raise UsageError(
            f"{variable} is '{asked}'",
            "Set it to public (keep what comes from the Hub or a package), all, or none.",
        )
    return asked == "all" or (asked == "public" and source in _PUBLIC)


def private_folder(name: str) -> Path:
    """The cache's folder `name`, there and open to its owner only. Raises `OSError`."""
    folder = cache_root() / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def mark_used(path: Path) -> None:
    """Count from now the days after which `path` is forgotten."""
    with contextlib.suppress(OSError):  # a cache that may only be read serves as well
        os.utime(path)


def forget_unused(folder: Path) -> None:
    """Delete what lies in `folder` and was not used for 30 days, left-overs of killed runs included."""
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may be deleting the same
            if path.lstat().st_mtime >= oldest:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def write_sums(folder: Path) -> None:
    """Write the hashes of a folder's files beside them, as `sha256sum` does, for `is_whole`. Raises `OSError`."""
    (folder / SUMS).write_bytes(_sums(folder, sha256_of))


def is_whole(folder: Path) -> bool:
    """Whether a folder holds the files that it was written with, and no others."""
    try:
        return _sums(folder, remembered_sha256) == read_bounded(folder / SUMS, _MOST_SUMS_BYTES)
    except (OSError, NotReadableError):  # no sums, a pipe in place of a file, no folder at all
        return False


def _sums(folder: Path, sha256: Callable[[Path], str]) -> bytes:
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return "".join(f"{sha256(path)}  {path.name}\n" for path in files).encode()


def remove(path: Path) -> None:
    """Delete what lies at `path`, of whatever kind. Raises `OSError`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
