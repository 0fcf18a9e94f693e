"""What medtune keeps on this machine because making it takes long: where, of what, and how long."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Literal

from harness.errors import StoreError, UsageError
from harness.files import write_json_atomic

UNUSED_DAYS = 30
_PUBLIC = ("hub", "sample", "package")


def cache_root() -> Path:
    """Where medtune keeps what it made once: $MEDTUNE_CACHE, else ~/.cache/medtune."""
    given = os.environ.get("MEDTUNE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "medtune"


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


def remembered_sha256(path: Path) -> str:
    """A file's SHA-256, remembered by its size and time of change: hashing 140 GB takes minutes."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()
    memo = cache_root() / "sha256" / f"{key[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):  # not remembered: nothing but time is lost
        return str(json.loads(memo.read_text())["sha256"])
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    with contextlib.suppress(OSError, StoreError):  # a home that cannot be written to costs time only
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(memo, {"sha256": sha256})
    return sha256


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the weight files' names and hashes.

    In the Hub's cache the name of the blob is its hash already.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        blob = path.resolve().name
        own = blob if path.is_symlink() and len(blob) == 64 else remembered_sha256(path)
        digest.update(f"{path.name}:{own}\n".encode())
    return digest.hexdigest()
