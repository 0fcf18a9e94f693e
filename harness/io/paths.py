"""Paths that a user types: what no path can be is said in one line."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import UsageError

LONGEST_PART = 255
LONGEST = 4095
"""Bytes, of one name and of a whole path, that Linux and macOS take."""
SHOWN = 60


def typed_path(text: str, what: str) -> Path:
    """`text` as a path, `~` written out. Raises `UsageError`, which calls it `what`, for what can be none."""
    if problem := path_problem(text):
        raise UsageError(f"{what} {cut(text)!r}: {problem}", "Give another path.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise UsageError(f"{what} {cut(text)}: there is no such user", "Write the path out.") from error


def path_problem(text: str) -> str:
    """Why `text` can be no path; empty where it can."""
    if not text:
        return "it is empty"
    if "\0" in text:
        return "a path holds no NUL"
    length = len(os.fsencode(text.encode("utf-8", "surrogateescape")))
    if length > LONGEST or any(
        len(part.encode("utf-8", "replace")) > LONGEST_PART for part in text.split("/")
    ):
        return f"a name in it is longer than {LONGEST_PART} bytes, or all of it than {LONGEST}"
    return ""


def cut(text: str) -> str:
    """`text` as shown in an error: short, however long it is."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
