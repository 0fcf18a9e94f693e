"""What a run keeps in its folder only until it has ended well: its checkpoints, and an earlier try's record.

checkpoints/checkpoint-N/complete is written last into a checkpoint and deleted first: one without it was
cut off, or is being deleted, and is never gone on from.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harness.errors import StoreError
from harness.io.files import store_error

CHECKPOINTS = "checkpoints"
COMPLETE = "complete"
PREVIOUS = "record.previous.json"

_NAME = re.compile(r"checkpoint-(\d+)", re.ASCII)


def step_of(checkpoint: Path) -> int | None:
    """The step in a checkpoint's name; `None` for a folder that is none."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def all_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` by their step, half-written ones included."""
    found = {
        path: step
        for path in folder.glob("checkpoint-*")
        if (step := step_of(path)) is not None and path.is_dir() and not path.is_symlink()
    }
    return sorted(found, key=lambda path: (found[path], path.name))


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` that were written to their end, by their step."""
    return [path for path in all_checkpoints(folder) if (path / COMPLETE).exists()]


def last_checkpoint(run: Path) -> int | None:
    """The step of the newest checkpoint in a run's folder that was written to its end."""
    whole = whole_checkpoints(run / CHECKPOINTS)
    return step_of(whole[-1]) if whole else None


def delete_checkpoint(checkpoint: Path) -> None:
    """Delete one checkpoint. Its mark goes first: killed in the middle, it must not pass for a whole one.

    Raises `StoreError`.
    """
    try:
        (checkpoint / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(checkpoint)
    except FileNotFoundError:
        return
    except OSError as error:
        raise store_error(error, checkpoint, "delete") from error


def delete_checkpoints(run: Path) -> None:
    """Delete a run's checkpoints, newest last. Raises `StoreError`."""
    for checkpoint in all_checkpoints(run / CHECKPOINTS):
        delete_checkpoint(checkpoint)
    try:
        shutil.rmtree(run / CHECKPOINTS)
    except FileNotFoundError:
        return
    except OSError as error:
        raise store_error(error, run / CHECKPOINTS, "delete") from error


def tidy(run: Path) -> str | None:
    """Delete what a run that ended well no longer needs. Called when its record is stored, never before.

    Returns what to tell where something cannot be deleted: the result stands all the same.
    """
    try:
        _tidy(run)
    except StoreError as error:
        return f"left behind: {error.message}"
    return None


def _tidy(run: Path) -> None:
    delete_checkpoints(run)
    try:
        if (run / PREVIOUS).exists():  # asked first: a read-only file system refuses also what is not there
            (run / PREVIOUS).unlink()
    except OSError as error:
        raise store_error(error, run / PREVIOUS, "delete") from error
