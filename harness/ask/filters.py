"""Which runs a command is to look at: the options that every run of a strategy must fit."""

from __future__ import annotations

from dataclasses import dataclass

from harness.io.paths import typed_path
from harness.record import RunRecord


@dataclass(frozen=True, slots=True)
class Filters:
    """What the runs of a strategy must have; `None`: anything. A run given by its name is not filtered."""

    task: str | None = None
    model: str | None = None
    data: str | None = None
    scoring: str | None = None
    shots: int | None = None
    limit: int | None = None
    seeds: tuple[int, ...] = ()

    def admits(self, record: RunRecord) -> bool:
        spec = record.spec
        wanted = (
            (self.task, {spec.task.name}),
            (self.model, _spellings(spec.model.name, self.model)),
            (self.data, _spellings(spec.task.source, self.data)),
            (self.scoring, {spec.task.scoring}),
            (self.shots, {spec.task.shots}),
            (self.limit, {spec.task.limit}),
        )
        return all(asked is None or asked in found for asked, found in wanted) and (
            not self.seeds or spec.seed in self.seeds
        )

    def __str__(self) -> str:
        names = ("task", "model", "data", "scoring", "shots", "limit")
        told = [f"--{name} {getattr(self, name)}" for name in names if getattr(self, name) is not None]
        told += [f"--seed {','.join(map(str, self.seeds))}"] if self.seeds else []
        return " ".join(told)


def _spellings(stored: str, asked: str | None) -> set[str]:
    """A folder is stored as an absolute path and may be asked for as it is typed."""
    if asked is None or stored == asked:
        return {stored}
    folder = typed_path(asked, "folder")
    return {stored, asked} if folder.is_dir() and str(folder.resolve()) == stored else {stored}
