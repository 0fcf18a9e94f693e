"""Checkpoints of a run that trains: what is in them, and which one can be gone on from.

The weights in a checkpoint are those that are trained, by name, whatever the strategy: that is all
that changes, and unlike a method's own format it is always read back as it was written (PEFT folds
some adapters when it saves them, and asks the Hub about the base model). DeepSpeed writes its own.

checkpoint-N/  what Trainer or DeepSpeed writes: weights, optimiser, schedule, random states
               progress.json  steps.jsonl (as it was at step N)
               complete: written last, the SHA-256 of each of the files above
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.errors import HarnessError, UsageError, first_line
from harness.io.files import (
    NotReadableError,
    open_regular,
    read_bounded,
    sha256_of,
    sync_folder,
    write_json_atomic,
)
from harness.io.json_files import loads_bounded
from harness.store.leftovers import COMPLETE, all_checkpoints, delete_checkpoint, step_of, whole_checkpoints

STEPS = "steps.jsonl"
_PROGRESS = "progress.json"
_WEIGHTS = "trained.safetensors"
_MAX_BYTES = 50_000_000
"""Of progress.json and of the list of hashes, which are a few kilobytes."""
_ANEW = "Start it anew with --no-resume."


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training was at a checkpoint."""

    measured: dict[str, Any]
    """what the tries that led to it measured (callbacks.Throughput)"""
    peaks: dict[str, int | None]
    """memory peaks of training so far (meter.Peaks)"""
    finished: bool
    """whether it was training's last step"""
    best: str | None
    """with early stopping: the name of the checkpoint with the lowest validation loss so far"""
    processes: int
    """how many processes trained together: each has a random state of its own in the checkpoint"""


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint all of whose files are as they were written."""

    path: Path
    progress: Progress


def complete(checkpoint: Path, progress: Progress, steps_file: Path) -> None:
    """Finish a checkpoint whose other files are written: on the disk when this returns, not before."""
    shutil.copyfile(steps_file, checkpoint / STEPS)
    write_json_atomic(checkpoint / _PROGRESS, dataclasses.asdict(progress))
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMPLETE)
    digests = {str(path.relative_to(checkpoint)): sha256_of(path) for path in files}
    sync_folder(checkpoint)
    write_json_atomic(checkpoint / COMPLETE, digests)
    sync_folder(checkpoint.parent, contents=False)


def make_room(coming: Path) -> None:
    """Before the checkpoint `coming` is written: delete all beside it but the newest whole one, and the best
    one that names.

    So there are never more than two (and a best one), and a damaged newest one has one before it. Of
    `coming` itself another process may have written its part already.
    """
    folder = coming.parent
    whole = whole_checkpoints(folder)
    try:
        keep = {coming.name, *((whole[-1].name, _progress(whole[-1]).best) if whole else ())}
    except _DamagedError:  # the ones before it may be needed yet
        return
    _delete_others(folder, keep)


def usable(folder: Path) -> tuple[Found | None, list[str]]:
    """The newest checkpoint that is as it was written, and one line for each newer one that is not.

    Deletes nothing: the processes of a run look at the same time.
    """
    passed_over = []
    for checkpoint in reversed(whole_checkpoints(folder)):
        try:
            _check(checkpoint)
            progress = _progress(checkpoint)
            if progress.measured.get("steps") != step_of(checkpoint):
                raise _DamagedError(f"it is of step {progress.measured.get('steps')}")
            _check_processes(checkpoint, progress.processes)
            if progress.best not in (None, checkpoint.name):
                _check(folder / str(progress.best))
        except _DamagedError as error:
            passed_over.append(f"{checkpoint.name} is damaged ({error})")
            continue
        return Found(checkpoint, progress), passed_over
    return None, passed_over


def refuse_other_processes(found: Found, processes: int) -> None:
    """Raise `UsageError` where another number of processes wrote it: what follows would be another run."""
    written = found.progress.processes
    if written != processes:
        raise UsageError(
            f"this run was begun with {written} processes and cannot go on with {processes}",
            f"Give --processes {written}, or start it anew with --no-resume.",
        )


def keep_only(found: Found | None, folder: Path) -> None:
    """Delete the checkpoints that a run which goes on from `found` makes again."""
    _delete_others(folder, {found.path.name, found.progress.best} if found else set())


def _delete_others(folder: Path, keep: set[str | None]) -> None:
    for checkpoint in all_checkpoints(folder):
        if checkpoint.name not in keep:
            delete_checkpoint(checkpoint)


class _DamagedError(Exception):
    """Says what is wrong with a checkpoint."""


def _check(checkpoint: Path) -> None:
    """Raise `_DamagedError` unless each file is there with the content it was written with."""
    digests = _read_json(checkpoint / COMPLETE)
    if not digests:
        raise _DamagedError(f"{checkpoint.name}/{COMPLETE} names no files")
    for name, digest in digests.items():
        path = checkpoint / name
        try:
            if sha256_of(path) != digest:
                raise _DamagedError(f"the content of {checkpoint.name}/{name} changed")
        except FileNotFoundError as error:
            raise _DamagedError(f"{checkpoint.name}/{name} is missing") from error
        except (OSError, NotReadableError) as error:
            raise _DamagedError(
                f"{checkpoint.name}/{name} cannot be read: {first_line(str(error))}"
            ) from error


def _check_processes(checkpoint: Path, processes: int) -> None:
    """Raise `_DamagedError` unless each of several processes left its random state: the library goes on
    without, to another result.
    """
    for rank in range(processes if processes > 1 else 0):
        if not (checkpoint / f"rng_state_{rank}.pth").is_file():
            raise _DamagedError(f"process {rank} left no random state")


def _progress(checkpoint: Path) -> Progress:
    content = _read_json(checkpoint / _PROGRESS)
    try:
        return Progress(**content)
    except TypeError as error:  # written by another version of medtune
        raise _DamagedError(f"{checkpoint.name}/{_PROGRESS} does not fit this medtune") from error


def _read_json(path: Path) -> dict[str, Any]:
    name = f"{path.parent.name}/{path.name}"
    try:
        content = loads_bounded(read_bounded(path, _MAX_BYTES).decode())
    except FileNotFoundError as error:
        raise _DamagedError(f"{name} is missing") from error
    except (OSError, NotReadableError) as error:
        raise _DamagedError(f"{name} cannot be read: {first_line(str(error))}") from error
    except ValueError as error:
        raise _DamagedError(f"{name} is broken or cut off") from error
    if not isinstance(content, dict):
        raise _DamagedError(f"{name} is broken")
    return content


def stored_steps(found: Found) -> bytes:
    """steps.jsonl as it was at the checkpoint."""
    with open_regular(found.path / STEPS) as file:
        return file.read()


def save_trained(model: nn.Module, checkpoint: Path) -> None:
    """Write the trained weights of `model`."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in _trained(model).items()}
    save_file(weights, checkpoint / _WEIGHTS)


def load_trained(model: nn.Module, checkpoint: Path) -> None:
    """Put the weights written by `save_trained` back. Raises `HarnessError` when they are of another model."""
    stored, own = load_file(checkpoint / _WEIGHTS), _trained(model)
    if stored.keys() != own.keys():
        different = sorted(stored.keys() ^ own.keys())
        raise HarnessError(f"{checkpoint} is of another model: {', '.join(different[:3])} ...", _ANEW)
    with torch.no_grad():
        for name, weight in own.items():
            if stored[name].shape != weight.shape:
                raise HarnessError(f"{checkpoint} is of another model: the shape of {name} differs", _ANEW)
            weight.copy_(stored[name])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
