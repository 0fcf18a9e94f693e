"""A task and strategies for tests of the command line: given with --plugin, so no real one is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from harness.contracts import PARTS, DataSource, Example, Metric, Scoring, Splits, Strategy, Task
from harness.errors import DataError, UsageError


class StubTask(Task):
    name = "stub-task"
    title = "Stub"
    summary = "for tests"
    source = "none"
    metrics = (Metric("accuracy", chance=0.5),)
    class_names = ("A", "B")
    validation_n: ClassVar[int] = 200

    def load(self, source: DataSource) -> Splits:
        files = {}
        if source.path is not None:
            file = source.path / "test.jsonl"
            if not file.exists():
                raise DataError(f"{file}: missing", "Give a folder with test.jsonl.")
        example = (Example("1", "q", ("a", "b"), 0),)
        validation = tuple(Example(f"v{i}", "q", ("a", "b"), 0) for i in range(self.validation_n))
        return Splits(example, validation, example, "Stub", source.kind, None, False, files=files)

    def files(self, source: DataSource, parts: object = PARTS) -> dict[str, Path]:
        return {"test.jsonl": source.path / "test.jsonl"} if source.path else {}

    def prompt(self, example: Example, scoring: Scoring) -> str:
        return example.question

    def choices(self, example: Example, scoring: Scoring) -> tuple[str, ...]:
        return example.options


class OtherTask(StubTask):
    name = "stub-other"
    title = "Other stub"


class FewValidation(StubTask):
    name = "stub-few-validation"
    validation_n: ClassVar[int] = 199


class Tune(Strategy):
    name = "stub-tune"
    summary = "for tests"
    source = "none"
    default_learning_rate: ClassVar[float | None] = 1e-3

    r: int = Field(8, ge=1, description="rank")
    scale: float = Field(1.0, gt=0, description="scale")
    config: dict[str, Any] = Field(default_factory=lambda: {"a": 1, "b": {"c": 2}}, description="anything")

    def adapt(self, model: Any) -> Any:
        return model


class Rule(Tune):
    name = "stub-rule"

    def learning_rate_default(self) -> float:
        return self.r / 1000


class NoRate(Tune):
    name = "stub-norate"
    default_learning_rate: ClassVar[float | None] = None


class Deep(Strategy):
    name = "stub-deep"
    summary = "for tests"
    source = "none"
    default_learning_rate: ClassVar[float | None] = 1e-3
    default_engine: ClassVar[Literal["plain", "deepspeed"]] = "deepspeed"

    def adapt(self, model: Any) -> Any:
        return model


class Zero(Strategy):
    name = "stub-zero"
    summary = "for tests"
    source = "none"
    trains: ClassVar[bool] = False

    def adapt(self, model: Any) -> Any:
        return model


class Few(Zero):
    name = "stub-few"
    default_shots: ClassVar[int] = 3


class Needs(Tune):
    name = "stub-needs"
    packages: ClassVar[tuple[str, ...]] = ("no_such_package_for_medtune",)


class Picky(Tune):
    name = "stub-picky"
    sure: bool = Field(True, description="anything but true is refused")

    @field_validator("sure")
    @classmethod
    def _check(cls, value: bool) -> bool:
        if not value:
            raise UsageError("stub-picky: not sure", "Be sure.")
        return value
