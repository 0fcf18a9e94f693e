"""What a run that trains has read, written beside its checkpoints: these are of no use with anything else."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from harness.errors import UsageError
from harness.io.files import NotReadableError, read_bounded, write_json_atomic
from harness.io.hashes import changes
from harness.spec import Frozen

FILE = "trained_on.json"
_MOST_BYTES = 2**24


class TrainedOn(Frozen):
    """What training depends on besides the spec."""

    data: str = Field(description="SHA-256 over prompts, choices and gold of train and validation")
    data_files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each data file read")
    model_files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each model file read")


def check_trained_on(now: TrainedOn, folder: Path, *, resumes: bool) -> None:
    """Raise `UsageError` where the run of `folder` would go on from a checkpoint made of something else.

    Checkpoints of before this file was written are taken as they are.
    """
    before = _read(folder / FILE) if resumes else None
    if before is None:
        return
    found = []
    if before.data != now.data:
        files = changes(before.data_files, now.data_files)
        found.append(f"its training data has changed since{': ' if files else ''}{', '.join(files)}")
    if model := changes(before.model_files, now.model_files):
        found.append(f"its model has changed since: {', '.join(model)}")
    if found:
        raise UsageError(
            f"run {folder.name} is unfinished, and {'; '.join(found)}",
            "Put it back as it was, or start the run anew: --no-resume.",
        )


def write_trained_on(now: TrainedOn, folder: Path) -> None:
    """Note what is read. Raises `StoreError`."""
    write_json_atomic(folder / FILE, now)


def _read(path: Path) -> TrainedOn | None:
    try:
        return TrainedOn.model_validate_json(read_bounded(path, _MOST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, NotReadableError, ValidationError) as error:
        raise UsageError(
            f"{path} cannot be read, so that nobody can tell what the run's checkpoints were made of",
            "Start the run anew: --no-resume.",
        ) from error
