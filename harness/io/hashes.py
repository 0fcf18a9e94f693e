"""SHA-256 of files, remembered in the cache folder: hashing 140 GB of weights takes minutes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from harness.errors import StoreError, UsageError
from harness.io.files import NotReadableError, open_regular, read_bounded, write_json_atomic
from harness.io.json_files import loads_bounded

SETTLED_SECONDS = 3.0
"""A file changed less long ago is not remembered: file systems count time in steps of up to 2 s, and
another change within the same step would not show."""
_MEMO_BYTES = 4096
_SHA256 = re.compile("[0-9a-f]{64}")


def cache_root() -> Path:
    """Where medtune keeps what it made once: $MEDTUNE_CACHE, else ~/.cache/medtune."""
    given = os.environ.get("MEDTUNE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "medtune"


def remembered_sha256(path: Path) -> str:
    """A regular file's SHA-256. Read anew when anything that the system says of it has changed: size, times
    (that of the last change among them, which no program can set back), or which file it is.

    Raises what `open_regular` does.
    """
    with open_regular(path) as stream:
        before = os.fstat(stream.fileno())
        memo = cache_root() / "sha256" / f"{_key(path, before)[:32]}.json"
        if (known := _recall(memo)) is not None:
            return known
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        after = os.fstat(stream.fileno())
    settled = time.time() - max(after.st_mtime, after.st_ctime) > SETTLED_SECONDS
    if settled and _key(path, before) == _key(path, after):
        with contextlib.suppress(OSError, StoreError):  # a home that cannot be written to costs time only
            memo.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(memo, {"sha256": sha256})
    return sha256


def _key(path: Path, stat: os.stat_result) -> str:
    facts = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return hashlib.sha256(f"{path.resolve()}:{':'.join(map(str, facts))}".encode()).hexdigest()


def _recall(memo: Path) -> str | None:
    """What is remembered there; None also where it is damaged, which costs nothing but time."""
    try:
        value = loads_bounded(read_bounded(memo, _MEMO_BYTES).decode())
    except (OSError, ValueError, NotReadableError):
        return None
    sha256 = value.get("sha256") if isinstance(value, dict) else None
    return sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None


def hashes(files: Mapping[str, Path]) -> dict[str, str]:
    """The SHA-256 of each file, by the same names. Raises `UsageError` for one that cannot be read."""
    found = {}
    for name, path in files.items():
        try:
            found[name] = file_sha256(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(
                f"{path}: {error.strerror or error}", "Make it readable, or put it back."
            ) from error
    return found


def file_sha256(path: Path) -> str:
    """`remembered_sha256`, but in the Hub's cache the name of a large file's blob is its hash already."""
    if path.is_symlink():
        blob = path.resolve()
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
            return blob.name
    return remembered_sha256(path)


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Each name whose hash differs, and how: "dev.jsonl is new"."""
    return [
        f"{name} is {'new' if name not in before else 'gone' if name not in now else 'changed'}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
