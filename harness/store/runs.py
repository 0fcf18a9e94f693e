"""Run folders: what has been run, what is unfinished, and what may be used again.

ROOT/RUN_ID/  spec.json (written first)  record.json (written last)  events.jsonl  steps.jsonl
              predictions.parquet  log.txt  lock  adapter/  checkpoints/checkpoint-N/complete
ROOT/.replaced/RUN_ID-TIME/  what --force took the place of, until the new run ended well
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from harness.errors import StoreError
from harness.escape import plain
from harness.io.files import make_folder, store_error, write_json_atomic
from harness.io.lock import locked
from harness.record import SCHEMA_VERSION, RunRecord
from harness.spec import Frozen, RunSpec
from harness.store.boundary import is_there, misfit, read_json, reading
from harness.store.leftovers import last_checkpoint

__all__ = ["DEFAULT_ROOT", "State", "Store", "differences", "last_checkpoint", "write_json_atomic"]

DEFAULT_ROOT = Path("results/runs")
REPLACED = ".replaced"
FILES = ("spec.json", "record.json", "events.jsonl", "steps.jsonl", "predictions.parquet", "log.txt")
State = Literal["absent", "unfinished", "ok", "failed", "interrupted"]
StoredT = TypeVar("StoredT", bound=Frozen)

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class Store:
    """The run folders under `root`. Reading creates nothing; nothing unknown is ever deleted."""

    def __init__(self, root: Path = DEFAULT_ROOT) -> None:
        self.root = root
        if root.exists() and not root.is_dir():
            raise StoreError(f"results folder {root} is a file", "Give a folder: --results DIR.")

    def folder(self, run_id: str) -> Path:
        """Where a run is kept. Raises `StoreError` for a name that is not one plain path component."""
        if not _SAFE_NAME.fullmatch(run_id):
            raise StoreError(f"'{run_id}' is not the name of a run", "See: python -m harness list runs")
        return self.root / run_id

    def lock(self, run_id: str) -> AbstractContextManager[int]:
        """Hold a run's lock; its folder is made where it is not there yet. See `locked`."""
        folder = self.folder(run_id)
        make_folder(folder)
        return locked(folder / "lock")

    def prepare(self, spec: RunSpec) -> Path:
        """The folder of `spec`, with its spec.json in it. Raises `StoreError` where another spec is there."""
        folder = self.folder(spec.run_id)
        make_folder(folder)
        _check_files(folder)
        if is_there(folder / "spec.json"):
            self.check_same(spec, self.spec(spec.run_id))
        else:
            write_json_atomic(folder / "spec.json", spec)
        return folder

    def check_same(self, asked: RunSpec, stored: RunSpec) -> None:
        """Raise `StoreError` naming every value in which a stored spec differs from the one asked for."""
        found = differences(stored, asked)
        if found:
            lines = "\n".join(
                f"  {key}: stored {old!r}, asked for {new!r}" for key, (old, new) in found.items()
            )
            raise StoreError(
                f"{self.folder(asked.run_id)} holds a run of other settings:\n{lines}",
                "Use --force to run it again in its place, or another --results folder.",
            )

    def spec(self, run_id: str) -> RunSpec:
        """The stored spec. Raises `StoreError` where there is none that can be read."""
        return _read(self.folder(run_id) / "spec.json", RunSpec)

    def as_stored(self, specs: Sequence[RunSpec]) -> list[RunSpec]:
        """Each spec, or the same run as it is stored under the name that an earlier medtune gave it."""
        names: dict[str, list[str]] = {}
        for run_id in self.run_ids():
            names.setdefault(run_id.rpartition("-")[0], []).append(run_id)
        return [self._as_stored(spec, names.get(spec.run_id.rpartition("-")[0], ())) for spec in specs]

    def _as_stored(self, spec: RunSpec, names: Sequence[str]) -> RunSpec:
        for run_id in names if spec.run_id not in names else ():
            with contextlib.suppress(StoreError):  # of what cannot be read `records` tells
                stored = self.spec(run_id)
                if stored.run_id == run_id and not differences(stored, spec):
                    return stored
        return spec

    def record(self, run_id: str) -> RunRecord:
        """The stored record. Raises `StoreError` where there is none that can be read."""
        path = self.folder(run_id) / "record.json"
        record = _read(path, RunRecord)
        if record.run_id != run_id:
            raise StoreError(f"{path} is the record of {record.run_id}", "Rename its folder to that.")
        return record

    def state(self, run_id: str) -> State:
        """How far a run is. Raises `StoreError` for a record that cannot be read."""
        folder = self.folder(run_id)
        if is_there(folder / "record.json"):
            return self.record(run_id).status
        return "unfinished" if is_there(folder / "spec.json") else "absent"

    def run_ids(self) -> list[str]:
        """The names of all folders that hold a spec or a record."""
        return sorted(
            path.name
            for path in self._entries()
            if _SAFE_NAME.fullmatch(path.name)
            and (is_there(path / "spec.json") or is_there(path / "record.json"))
        )

    def records(self) -> tuple[list[RunRecord], list[str]]:
        """All records that can be read, and one line for everything that could not."""
        records, problems = [], []
        known = set(self.run_ids())
        for path in self._entries():
            if path.name not in known:
                if not path.name.startswith("."):
                    problems.append(plain(f"{path}: not a run, passed over"))
                continue
            try:
                if is_there(path / "record.json"):
                    records.append(self.record(path.name))
                else:
                    self.spec(path.name)
            except StoreError as error:
                problems.append(plain(error.message))
        return records, problems

    def find(self, text: str) -> list[str]:
        """The runs that `text` may mean: a full name, the start of one, or of the hash at its end."""
        names = self.run_ids()
        if text in names:
            return [text]
        return [
            name
            for name in names
            if text and (name.startswith(text) or name.rpartition("-")[2].startswith(text))
        ]

    def set_aside(self, run_id: str) -> Path | None:
        """Move a run's folder to .replaced and return its new place, or `None` where there is none.

        Held under the run's lock, so that a run in progress is never moved.
        """
        folder = self.folder(run_id)
        if not folder.exists():
            return None
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        target = self.root / REPLACED / f"{run_id}-{stamp}"
        make_folder(target.parent)
        with self.lock(run_id):
            try:
                return folder.rename(target)
            except OSError as error:
                raise store_error(error, folder, "move") from error

    def put_back(self, run_id: str, set_aside: Path) -> None:
        """Undo `set_aside`, where nothing has taken the run's place."""
        if not self.folder(run_id).exists():
            set_aside.rename(self.folder(run_id))

    def drop_replaced(self, run_id: str) -> None:
        """Delete what earlier `--force` runs of `run_id` took the place of."""
        for path in (self.root / REPLACED).glob(f"{run_id}-*Z"):
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.root / REPLACED).rmdir()  # only when nothing else is kept there

    def _entries(self) -> Iterator[Path]:
        try:
            yield from sorted(self.root.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise store_error(error, self.root, "read") from error


def _check_files(folder: Path) -> None:
    """Raise `StoreError` where a file of a run that will be written to is a pipe, a device or a link to one."""
    for name in FILES:
        path = folder / name
        if is_there(path) and not path.is_file():
            raise StoreError(f"{path} is no file, or cannot be read", f"Remove {path}.")


def differences(stored: RunSpec, asked: RunSpec) -> dict[str, tuple[Any, Any]]:
    """Every value that differs, by its dotted name. Where a plugin file lies is no difference, and neither is
    a setting that one side was described without and the other has at its default.
    """
    old, new = (_flat(_described(spec, other)) for spec, other in ((stored, asked), (asked, stored)))
    keys = [key for key in dict.fromkeys([*old, *new]) if not re.fullmatch(r"plugins\.\d+\.path", key)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _described(spec: RunSpec, other: RunSpec) -> dict[str, Any]:
    own = spec.model_dump(mode="json")
    del own["strategy"]["at_default"]
    usual = set(spec.strategy.at_default or ()) - other.strategy.settings.keys()
    own["strategy"]["settings"] = {k: v for k, v in spec.strategy.settings.items() if k not in usual}
    return own


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if not items:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _read(path: Path, model: type[StoredT]) -> StoredT:
    """Read one of the store's JSON files. Raises `StoreError` that names the file and what to do."""
    remedy = f"Remove {path} or run it again with --force."
    with reading(path):
        try:
            text, value = read_json(path)
        except FileNotFoundError as error:
            raise StoreError(f"there is no {path}", "See: python -m harness list runs") from error
        version = value.get("schema_version", SCHEMA_VERSION) if isinstance(value, dict) else None
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} has schema version {version!r}, this medtune reads {SCHEMA_VERSION}",
                "Read it with the medtune that wrote it, or run it again with --force.",
            )
        try:
            return model.model_validate_json(text)
        except ValidationError as error:
            raise StoreError(f"{path} does not fit this medtune: {misfit(error)}", remedy) from error
