"""Where a run folder is read that anybody may have written: what is wrong with it is said of it alone.

The one place: what is read is bounded in size, and whatever reading raises becomes a `StoreError` that
names the folder, so that a caller with many runs names it and goes on. No list of what may go wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import HarnessError, StoreError, first_line
from harness.io.files import NotReadableError, read_bounded, store_error
from harness.io.json_files import loads_bounded

MOST_JSON_BYTES = 2**22
"""Of a record, spec or tuning: they have kilobytes."""
MOST_DIGITS = 18
"""Of a whole number: more than any count, and what a 64-bit number holds."""
MOST_DEPTH = 50
SAID = 200
REMEDY = "Run it again with --force, or move its folder away."


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever is raised while `path`, a run's folder or a file in it, is read comes out as a `StoreError`."""
    try:
        yield
    except NotReadableError as error:
        raise StoreError(error.message, error.remedy) from error
    except HarnessError:
        raise
    except OSError as error:
        raise store_error(error, Path(str(error.filename or path)), "read") from error
    except Exception as error:
        said = str(error).partition("\n")[0][:SAID]
        raise StoreError(f"{path} cannot be read: {type(error).__name__}: {said}", REMEDY) from error


def read_json(path: Path, limit: int = MOST_JSON_BYTES) -> tuple[str, Any]:
    """The text of a JSON file, and its value. To be called within `reading`.

    Raises `FileNotFoundError`, and `StoreError` for what is no JSON or not bounded as it must be.
    """
    remedy = f"Remove {path} or run it again with --force."
    try:
        text = read_bounded(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not text", remedy) from error
    try:
        return text, loads_bounded(text, max_depth=MOST_DEPTH, max_digits=MOST_DIGITS)
    except ValueError as error:
        raise StoreError(f"{path} is broken or cut off ({error})", remedy) from error


def is_there(path: Path) -> bool:
    """Whether anything has this name, also what cannot be read: reading it then says why not."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def misfit(error: ValidationError) -> str:
    """What is wrong with stored values in one line: the first of it, and how much more there is."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "content"
    more = f" and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{where}: {first_line(first['msg'])}{more}"
